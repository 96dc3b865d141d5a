// Lists the routes of the server's own OpenAPI description; nothing is loaded from other sites.
const make = (tag, content = "", className = "") => {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
};
for (const code of document.querySelectorAll("pre code")) code.textContent = code.textContent.replaceAll("HERE", location.origin);
const typeName = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : schema.type || "");
const makeList = (pairs) => {
  const list = make("dl", "", "facts");
  for (const [term, meaning] of pairs) list.append(make("dt", term), make("dd", meaning));
  return list;
};
const showRoute = (path, method, route, parent) => {
  parent.append(make("h2", route.summary || path));
  const line = make("p");
  line.append(make("code", `${method.toUpperCase()} ${path}`));
  parent.append(line);
  if (route.description) parent.append(make("p", route.description));
  const contentTypes = Object.keys(route.requestBody?.content ?? {});
  const inputs = (route.parameters ?? []).map((parameter) =>
    [parameter.name, `${parameter.in}, ${typeName(parameter.schema)}. ${parameter.description ?? ""}`]);
  if (contentTypes.length) inputs.push(["body", contentTypes.join(", ")]);
  if (inputs.length) parent.append(makeList(inputs));
  parent.append(makeList(Object.entries(route.responses).map(([code, response]) => [code, response.description])));
};
const load = async () => {
  const description = await (await fetch("/openapi.json")).json();
  document.querySelector("#about").textContent = description.info.description;
  const parent = document.querySelector("#routes");
  for (const [path, methods] of Object.entries(description.paths))
    for (const [method, route] of Object.entries(methods)) showRoute(path, method, route, parent);
};
load();
