// The routes, from the server's own OpenAPI description; nothing comes from elsewhere.
const made = (kind, content = "", name = "") => {
  const element = document.createElement(kind);
  element.textContent = content;
  element.className = name;
  return element;
};
for (const code of document.querySelectorAll("pre code")) code.textContent = code.textContent.replaceAll("HERE", location.origin);
const named = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : schema.type || "");
const rows = (pairs) => {
  const list = made("dl", "", "facts");
  for (const [term, meaning] of pairs) list.append(made("dt", term), made("dd", meaning));
  return list;
};
const show = (path, method, route, into) => {
  into.append(made("h2", route.summary || path));
  const line = made("p");
  line.append(made("code", `${method.toUpperCase()} ${path}`));
  into.append(line);
  if (route.description) into.append(made("p", route.description));
  const takes = Object.keys(route.requestBody?.content ?? {});
  const asked = (route.parameters ?? []).map((one) => [one.name, `${one.in}, ${named(one.schema)}. ${one.description ?? ""}`]);
  if (takes.length) asked.push(["body", takes.join(", ")]);
  if (asked.length) into.append(rows(asked));
  into.append(rows(Object.entries(route.responses).map(([code, answer]) => [code, answer.description])));
};
const load = async () => {
  const description = await (await fetch("/openapi.json")).json();
  document.querySelector("#about").textContent = description.info.description;
  const into = document.querySelector("#routes");
  for (const [path, methods] of Object.entries(description.paths))
    for (const [method, route] of Object.entries(methods)) show(path, method, route, into);
};
load();
