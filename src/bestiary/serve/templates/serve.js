// Pictures in, answers out. Every picture is sent as it is: what is scored is what ships.
const one = (selector, inside = document) => inside.querySelector(selector);
const SHOWN_SHARES = 3, AT_ONCE = 4, TRIES = 6, FORM_BYTES = 2000;
const waiting = [];
let running = 0, model = null, token = "";

const percent = (share) => share > 0.995 ? "over 99 %" : share < 0.005 ? "under 1 %" : `${Math.round(share * 100)} %`;
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
const say = (text) => { one("#said").textContent = text; };

// ---- The server ------------------------------------------------------------------------------------------------
const ask = async (path, options = {}) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) askForToken();
  return answer;
};

// What the server would refuse is not sent; what it cannot read it tells in an answer (`each`): a refusal is a line on the console.
const unfit = (file) => {
  if (file.type && !file.type.startsWith("image/")) return "That is not a picture.";
  const most = model ? model.max_bytes - FORM_BYTES : Infinity;
  return file.size > most ? `That is too large: at most ${Math.floor(most / 1e6)} MB are taken.` : "";
};

const predict = async (file, heatmap) => {
  if (unfit(file)) throw new Error(unfit(file));
  for (let attempt = 1; ; attempt += 1) {
    const form = new FormData();
    form.append("picture", file, file.name || "pasted");
    let answer;
    try {
      answer = await ask(`/predict?each=true${heatmap ? "&heatmap=true" : ""}`, { method: "POST", body: form });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.status === 503 && attempt < TRIES) {
      await pause(Number(answer.headers.get("Retry-After")) || 1);
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error || `The server answered ${answer.status}.`);
    const [found] = told.predictions;
    if (found.error) throw new Error(found.error);
    return found;
  }
};

const askForToken = () => {
  const refused = token !== "";
  token = "";
  sessionStorage.removeItem("token");
  one("#wrong").textContent = refused ? "That is not the token." : "";
  one("#key").hidden = false;
  one("#token").focus();
};

const meet = async () => {
  if (!token && "token" in document.body.dataset) {
    askForToken();
    return;
  }
  const answer = await ask("/model").catch(() => null);
  if (!answer || !answer.ok) return;
  model = await answer.json();
  one("#key").hidden = true;
  one("#wrong").textContent = "";
  if (token) sessionStorage.setItem("token", token);
  one("#model").textContent = model.name;
  const few = model.classes.slice(0, 30), more = model.classes.length - few.length;
  one("#knows").textContent = `It knows ${few.join(", ")}${more > 0 ? ` and ${more} more` : ""}. Other things are “not sure”.`;
};

// ---- Cards -----------------------------------------------------------------------------------------------------
const add = (files) => {
  const first = one("#cards").firstChild;
  for (const file of files) {
    const card = one("#card").content.cloneNode(true).firstElementChild;
    const image = one("img", card);
    image.src = URL.createObjectURL(file);
    image.alt = `Your picture ${file.name || ""}`.trim();
    image.onerror = () => {
      const words = document.createElement("p");
      words.className = "unseen";
      words.textContent = "Your browser cannot show this kind of file.";
      image.replaceWith(words);
    };
    one(".name", card).textContent = file.name || "pasted picture";
    one(".remove", card).onclick = () => remove(card);
    one(".remove", card).ariaLabel = `Remove ${file.name || "pasted picture"}`;
    one(".again", card).onclick = () => { begin(card, file); };
    one("#cards").insertBefore(card, first);
    begin(card, file);
  }
  count();
};

const begin = (card, file) => {
  card.classList.remove("failed");
  one(".again", card).hidden = true;
  one(".label", card).innerHTML = '<span class="wait">Looking…</span>';
  waiting.push({ card, file });
  next();
};

const next = async () => {
  if (running >= AT_ONCE || !waiting.length) return;
  const { card, file } = waiting.shift();
  if (!card.isConnected) { next(); return; }
  running += 1;
  try {
    show(card, file, await predict(file, false));
  } catch (error) {
    fail(card, file, error.message);
  } finally {
    running -= 1;
    next();
  }
};

const text = (kind, content, name = "") => {
  const made = document.createElement(kind);
  made.textContent = content;
  made.className = name;
  return made;
};

const show = (card, file, answer) => {
  const label = one(".label", card), note = one(".note", card);
  if (answer.unknown) {
    card.classList.add("unsure");
    label.replaceChildren(text("span", "Not sure"));
    note.hidden = false;
    note.replaceChildren("This is like none of the classes it has learned. The nearest is ", text("strong", answer.label), ".");
    say(`${file.name}: not sure. The nearest is ${answer.label}.`);
  } else {
    label.replaceChildren(text("span", answer.label, "of"), text("span", percent(answer.probability), "sure"));
    say(`${file.name}: ${answer.label}, ${percent(answer.probability)}`);
  }
  const shares = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  one(".shares", card).replaceChildren(...shares.map(share));
  const hide = (hidden) => [...one(".shares", card).children].slice(SHOWN_SHARES).forEach((line) => { line.hidden = hidden; });
  const all = one(".all", card);
  if (shares.length > SHOWN_SHARES) {
    all.hidden = false;
    const fold = (folded) => {
      hide(folded);
      all.ariaExpanded = String(!folded);
      all.textContent = folded ? `All ${shares.length}` : "Fewer";
    };
    all.onclick = () => fold(all.ariaExpanded === "true");
    fold(true);
  }
  const why = one(".why", card);
  why.hidden = false;
  why.onclick = () => explain(card, file, answer);
};

const share = ([name, value]) => {
  const line = document.createElement("li"), track = text("span", "", "track"), bar = document.createElement("i");
  track.ariaHidden = "true";
  track.append(bar);
  line.append(text("span", name, "of"), track, text("span", percent(value), "number"));
  requestAnimationFrame(() => requestAnimationFrame(() => { bar.style.width = `${100 * value}%`; }));
  return line;
};

const fail = (card, file, message) => {
  card.classList.add("failed");
  one(".label", card).textContent = "No answer";
  one(".note", card).hidden = false;
  one(".note", card).textContent = message;
  one(".again", card).hidden = unfit(file) !== "";
  say(`${file.name}: no answer. ${message}`);
};

const remove = (card) => {
  const beside = card.nextElementSibling || card.previousElementSibling;
  const image = one("img", card);
  if (image) URL.revokeObjectURL(image.src);
  card.remove();
  count();
  (beside ? one(".remove", beside) : one("#choose")).focus();
};

const count = () => {
  const cards = one("#cards").children.length;
  document.body.classList.toggle("has-answers", cards > 0);
  one("#bar").hidden = cards === 0;
  one("#count").textContent = cards === 1 ? "1 picture" : `${cards} pictures`;
};

// ---- Why: the evidence over the picture ------------------------------------------------------------------------
const explain = async (card, file, answer) => {
  const why = one(".why", card), canvas = one("canvas", card);
  const turnOn = why.ariaPressed !== "true";
  if (turnOn && !card.evidence) {
    why.disabled = true;
    try {
      card.evidence = (await predict(file, true)).heatmap;
      draw(canvas, card.evidence, one("img", card));
    } catch (error) {
      say(error.message);
      one(".legend", card).hidden = false;
      one(".legend", card).textContent = error.message;
      return;
    } finally {
      why.disabled = false;
    }
  }
  why.ariaPressed = String(turnOn);
  why.textContent = turnOn ? "Hide why" : "Show why";
  canvas.hidden = !turnOn;
  one(".picture", card).classList.toggle("lit", turnOn);
  const legend = one(".legend", card);
  legend.hidden = !turnOn;
  legend.textContent = `Bright: what speaks for ${answer.label}.`;
  why.focus();
};

const draw = (canvas, grid, image) => {
  const rows = grid.length, columns = grid[0].length, top = Math.max(1e-12, ...grid.flat());
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  grid.flat().forEach((value, place) => {
    const weight = Math.max(0, value) / top;
    pixels.data.set([255, Math.round(205 - 105 * weight), 40, Math.round(225 * weight ** 1.2)], 4 * place);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const scale = 40;
  [canvas.width, canvas.height] = [columns * scale, rows * scale];
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  Object.assign(canvas.style, placed(image));
};

// The model sees the whole picture (squash), its middle (crop), or all of it with bars (letterbox).
const placed = (image) => {
  const width = image && image.naturalWidth || 1, height = image && image.naturalHeight || 1;
  const side = model && model.fit === "crop" ? Math.min(width, height) : Math.max(width, height);
  const [wide, high] = model && model.fit !== "squash" ? [side / width, side / height] : [1, 1];
  const share = (part) => `${100 * part}%`;
  return { width: share(wide), height: share(high), left: share((1 - wide) / 2), top: share((1 - high) / 2) };
};

// ---- Ways in ---------------------------------------------------------------------------------------------------
for (const [button, input] of [["#choose", "#files"], ["#photograph", "#camera"]]) {
  one(button).onclick = () => one(input).click();
  one(input).onchange = (event) => { add(event.target.files); event.target.value = ""; };
}
one("#photograph").hidden = !navigator.maxTouchPoints;
one("#clear").onclick = () => { [...one("#cards").children].forEach(remove); };
addEventListener("paste", (event) => add(event.clipboardData.files));
let depth = 0;
const over = (change) => { depth = Math.max(0, depth + change); document.body.classList.toggle("over", depth > 0); };
addEventListener("dragenter", () => over(1));
addEventListener("dragleave", () => over(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); over(-depth); add(event.dataTransfer.files); });
one("#key").onsubmit = (event) => {
  event.preventDefault();
  token = one("#token").value.trim();
  meet();
};

token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token") || "";
if (location.hash) history.replaceState(null, "", location.pathname);
meet();
