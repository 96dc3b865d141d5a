// Sends each picture as it is, and shows its prediction.
const find = (selector, parent = document) => parent.querySelector(selector);
const VISIBLE_CLASSES = 3, CONCURRENT_REQUESTS = 4, MAX_TRIES = 6, FORM_BYTES = 2000;
const queue = [];
let running = 0, model = null, token = "";

const percent = (fraction) => fraction > 0.995 ? "over 99 %" : fraction < 0.005 ? "under 1 %" : `${Math.round(fraction * 100)} %`;
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const announce = (text) => { find("#status").textContent = text; };

// ---- The server ------------------------------------------------------------------------------------------------
const request = async (path, options = {}) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) askForToken();
  return response;
};

// Files that the server would reject are not sent. `each=true` gives an unreadable file an error in a response with
// status 200: browsers log every other status on the console.
const rejectReason = (file) => {
  if (file.type && !file.type.startsWith("image/")) return "This file is not a picture.";
  const maxBytes = model ? model.max_bytes - FORM_BYTES : Infinity;
  return file.size > maxBytes ? `The file is too large: at most ${Math.floor(maxBytes / 1e6)} MB.` : "";
};

const predict = async (file, heatmap) => {
  if (rejectReason(file)) throw new Error(rejectReason(file));
  for (let attempt = 1; ; attempt += 1) {
    const form = new FormData();
    form.append("picture", file, file.name || "pasted");
    let response;
    try {
      response = await request(`/predict?each=true${heatmap ? "&heatmap=true" : ""}`, { method: "POST", body: form });
    } catch {
      throw new Error("The server does not respond. Is it still running?");
    }
    if (response.status === 503 && attempt < MAX_TRIES) {
      await sleep(Number(response.headers.get("Retry-After")) || 1);
      continue;
    }
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(body.error || `The server responded with status ${response.status}.`);
    const [prediction] = body.predictions;
    if (prediction.error) throw new Error(prediction.error);
    return prediction;
  }
};

const askForToken = () => {
  find("#token-error").textContent = token === "" ? "" : "Wrong token.";
  token = "";
  sessionStorage.removeItem("token");
  find("#login").hidden = false;
  find("#token").focus();
};

const loadModel = async () => {
  if (!token && "token" in document.documentElement.dataset) {
    askForToken();
    return;
  }
  const response = await request("/model").catch(() => null);
  if (!response || !response.ok) return;
  model = await response.json();
  find("#login").hidden = true;
  find("#token-error").textContent = "";
  if (token) sessionStorage.setItem("token", token);
  find("#model").textContent = model.name;
  find("#calibration").textContent = model.calibration;
  const first = model.classes.slice(0, 30), more = model.classes.length - first.length;
  find("#classes").textContent = `Classes: ${first.join(", ")}${more > 0 ? ` and ${more} more` : ""}. Anything else should be “unknown”, but may get one of these labels.`;
};

// ---- Cards -----------------------------------------------------------------------------------------------------
const add = (files) => {
  const first = find("#cards").firstChild;
  for (const file of files) {
    const card = find("#card").content.cloneNode(true).firstElementChild, name = file.name || "pasted picture";
    const image = find("img", card);
    image.src = URL.createObjectURL(file);
    image.alt = `Your picture ${file.name || ""}`.trim();
    image.onerror = () => { image.replaceWith(make("p", "This browser cannot display this file type.", "no-preview")); };
    find(".name", card).textContent = name;
    find(".remove", card).onclick = () => remove(card);
    find(".remove", card).ariaLabel = `Remove ${name}`;
    find(".again", card).onclick = () => { enqueue(card, file); };
    find("#cards").insertBefore(card, first);
    enqueue(card, file);
  }
  count();
};

const enqueue = (card, file) => {
  card.classList.remove("failed");
  find(".again", card).hidden = true;
  find(".label", card).replaceChildren(make("span", "Classifying…", "wait"));
  queue.push({ card, file });
  startNext();
};

const startNext = async () => {
  if (running >= CONCURRENT_REQUESTS || !queue.length) return;
  const { card, file } = queue.shift();
  if (!card.isConnected) { startNext(); return; }
  running += 1;
  try {
    show(card, file, await predict(file, false));
  } catch (error) {
    showError(card, file, error.message);
  } finally {
    running -= 1;
    startNext();
  }
};

const make = (tag, content, className = "") => {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
};

const show = (card, file, prediction) => {
  const label = find(".label", card), note = find(".note", card);
  if (prediction.unknown) {
    card.classList.add("unknown");
    label.replaceChildren(make("span", "Unknown"));
    note.hidden = false;
    const why = prediction.reason === "below threshold" ? "Less probable than the threshold of its class." : "Unlike every class of the model.";
    note.replaceChildren(`${why} The nearest class is `, make("strong", prediction.label), ".");
    announce(`${file.name}: unknown. The nearest class is ${prediction.label}.`);
  } else {
    const confidence = percent(prediction.probability);
    label.replaceChildren(make("span", prediction.label, "class-name"), make("span", confidence, "confidence"));
    announce(`${file.name}: ${prediction.label}, ${confidence}`);
  }
  const ranked = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  if (!prediction.unknown && ranked[0][1] > prediction.probability) {
    note.hidden = false;
    note.replaceChildren("Chosen by the costs of mistakes. The most probable class is ", make("strong", ranked[0][0]), ".");
  }
  const rows = ranked.map(probabilityRow);
  find(".probabilities", card).replaceChildren(...rows);
  const all = find(".all", card);
  if (rows.length > VISIBLE_CLASSES) {
    all.hidden = false;
    const setExpanded = (expanded) => {
      for (const row of rows.slice(VISIBLE_CLASSES)) row.hidden = !expanded;
      all.ariaExpanded = String(expanded);
      all.textContent = expanded ? "Show fewer" : `Show all ${rows.length}`;
    };
    all.onclick = () => setExpanded(all.ariaExpanded !== "true");
    setExpanded(false);
  }
  const why = find(".why", card);
  const legend = find(".legend", card);
  if (model && model.no_heatmap) {  // an exact one is not possible: none is drawn
    legend.hidden = false;
    legend.textContent = model.no_heatmap;
    return;
  }
  why.hidden = false;
  why.onclick = () => toggleHeatmap(card, file, prediction);
};

const probabilityRow = ([name, probability]) => {
  const row = make("li", ""), track = make("span", "", "track"), bar = make("i", "");
  track.ariaHidden = "true";
  track.append(bar);
  row.append(make("span", name, "class-name"), track, make("span", percent(probability), "number"));
  requestAnimationFrame(() => requestAnimationFrame(() => { bar.style.width = `${100 * probability}%`; }));
  return row;
};

const showError = (card, file, message) => {
  card.classList.add("failed");
  find(".label", card).textContent = "No prediction";
  find(".note", card).hidden = false;
  find(".note", card).textContent = message;
  find(".again", card).hidden = rejectReason(file) !== "";
  announce(`${file.name}: no prediction. ${message}`);
};

const remove = (card) => {
  const neighbour = card.nextElementSibling || card.previousElementSibling;
  const image = find("img", card);
  if (image) URL.revokeObjectURL(image.src);
  card.remove();
  count();
  (neighbour ? find(".remove", neighbour) : find("#choose")).focus();
};

const count = () => {
  const cards = find("#cards").children.length;
  document.body.classList.toggle("has-cards", cards > 0);
  find("#bar").hidden = cards === 0;
  find("#count").textContent = cards === 1 ? "1 picture" : `${cards} pictures`;
};

// ---- The heatmap over the picture ------------------------------------------------------------------------------
const toggleHeatmap = async (card, file, prediction) => {
  const why = find(".why", card), canvas = find("canvas", card), legend = find(".legend", card);
  const turnOn = why.ariaPressed !== "true";
  if (turnOn && !card.heatmap) {
    why.disabled = true;
    try {
      card.heatmap = (await predict(file, true)).heatmap;
      draw(canvas, card.heatmap, find("img", card));
    } catch (error) {
      announce(error.message);
      legend.hidden = false;
      legend.textContent = error.message;
      return;
    } finally {
      why.disabled = false;
    }
  }
  why.ariaPressed = String(turnOn);
  why.textContent = turnOn ? "Hide heatmap" : "Show heatmap";
  canvas.hidden = !turnOn;
  find(".picture", card).classList.toggle("dimmed", turnOn);
  legend.hidden = !turnOn;
  legend.textContent = `Bright areas: evidence for ${prediction.label}.`;
  why.focus();
};

const draw = (canvas, grid, image) => {
  const rows = grid.length, columns = grid[0].length, highest = Math.max(1e-12, ...grid.flat());
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  grid.flat().forEach((value, index) => {
    const weight = Math.max(0, value) / highest;
    pixels.data.set([255, Math.round(205 - 105 * weight), 40, Math.round(225 * weight ** 1.2)], 4 * index);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const scale = 40;
  [canvas.width, canvas.height] = [columns * scale, rows * scale];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  Object.assign(canvas.style, heatmapPosition(image));
};

// The model's input is the whole picture (squash), its centre (crop), or all of it with bars (letterbox).
const heatmapPosition = (image) => {
  const width = image && image.naturalWidth || 1, height = image && image.naturalHeight || 1;
  const side = model && model.fit === "crop" ? Math.min(width, height) : Math.max(width, height);
  const [x, y] = model && model.fit !== "squash" ? [side / width, side / height] : [1, 1];
  const css = (fraction) => `${100 * fraction}%`;
  return { width: css(x), height: css(y), left: css((1 - x) / 2), top: css((1 - y) / 2) };
};

// ---- Inputs: buttons, paste, drag and drop ---------------------------------------------------------------------
for (const [button, input] of [["#choose", "#files"], ["#photograph", "#camera"]]) {
  find(button).onclick = () => find(input).click();
  find(input).onchange = (event) => { add(event.target.files); event.target.value = ""; };
}
find("#photograph").hidden = !navigator.maxTouchPoints;
find("#clear").onclick = () => { [...find("#cards").children].forEach(remove); };
addEventListener("paste", (event) => add(event.clipboardData.files));
let dragDepth = 0;
const drag = (change) => {
  dragDepth = Math.max(0, dragDepth + change);
  document.body.classList.toggle("over", dragDepth > 0);
};
addEventListener("dragenter", () => drag(1));
addEventListener("dragleave", () => drag(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); drag(-dragDepth); add(event.dataTransfer.files); });
find("#login").onsubmit = (event) => {
  event.preventDefault();
  token = find("#token").value.trim();
  loadModel();
};

token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token") || "";
if (location.hash) history.replaceState(null, "", location.pathname);
loadModel();
