// One doubtful picture after another; a key for each decision. Everything is written by the server, at once.
const one = (name) => document.getElementById(name);
const AHEAD = 3, KEPT = 60, POLL_SECONDS = 10, SEEK_SECONDS = 1;
const DONE = { keep: "Kept", drop: "Dropped", relabel: "Relabelled" };
let token = "", all = null, shown = [], at = -1, decisions = {}, posting = Promise.resolve();
const pending = new Map();  // decided here and not yet known to be written
const skipped = new Set(), acts = [], pictures = new Map(), opinions = new Map(), told = new Map();

const make = (name, options = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), options);
  made.append(...inside);
  return made;
};
const say = (text) => { one("said").textContent = text; };
const percent = (share) => share > 0.995 ? "> 99 %" : share < 0.005 ? "< 1 %" : `${Math.round(share * 100)} %`;
const counted = (n, single, many) => `${n.toLocaleString("en")} ${n === 1 ? single : many}`;

// Each tab takes back its own decisions, also after it was loaded again; a copy of a tab is another one.
const loadedAgain = performance.getEntriesByType("navigation")[0]?.type === "reload";
const tab = (loadedAgain && sessionStorage.getItem("review-tab")) || String(Math.random());
sessionStorage.setItem("review-tab", tab);

// ---- The server ------------------------------------------------------------------------------------------------
const ask = async (path, body) => {
  const headers = { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Is `bestiary review` still running?");
  }
  if (!answer.ok) {
    const words = await answer.json().catch(() => ({}));
    if (answer.status === 401) throw new Error("Open this page by the address that `bestiary review` printed: it holds the key.");
    throw new Error(words.error || `The server answered ${answer.status}.`);
  }
  return answer;
};
const get = async (path) => (await ask(path)).json();
const trouble = (text) => {
  one("trouble").hidden = !text;
  one("trouble").textContent = text;
};

// The picture as a local address, or null and the reason; kept for a while, the oldest go first.
const picture = (row, size) => {
  const key = `${row}/${size}`;
  if (!pictures.has(key)) {
    const loading = ask(`/picture/${key}`)
      .then(async (answer) => ({ url: URL.createObjectURL(await answer.blob()) }))
      .catch((error) => ({ url: null, why: error.message }));
    pictures.set(key, loading);
    if (pictures.size > KEPT * (size === "small" ? 8 : 1)) drop(pictures.keys().next().value);
  }
  return pictures.get(key);
};
const drop = (key) => {
  pictures.get(key).then(({ url }) => url && URL.revokeObjectURL(url));
  pictures.delete(key);
};
const opinion = (row) => {
  if (!opinions.has(row)) {
    const asked = get(`/opinion/${row}`);
    opinions.set(row, asked);
    asked.then((answer) => {
      told.set(row, answer);
      if (!answer.neighbours) opinions.delete(row);
    }, () => opinions.delete(row));
  }
  return opinions.get(row);
};

// ---- Which items, and how far ----------------------------------------------------------------------------------
const isOpen = (item) => !(item.row in decisions);
const has = (item, check) => check === "" || item.reasons.some((reason) => reason.check === check);
const current = () => shown[at];

const choose = () => {
  const check = one("which").value;
  shown = all.items.filter((item) => has(item, check));
  go(shown.findIndex((item) => isOpen(item) && !skipped.has(item.row)));
};
const next = (from) => {
  for (let step = 1; step <= shown.length; step += 1) {
    const place = (from + step) % shown.length;
    if (isOpen(shown[place]) && !skipped.has(shown[place].row)) return place;
  }
  return -1;
};
const count = () => {
  const done = shown.filter((item) => !isOpen(item)).length;
  one("count").textContent = `${done.toLocaleString("en")} of ${shown.length.toLocaleString("en")} decided`;
  one("bar").style.width = `${100 * done / Math.max(shown.length, 1)}%`;
  for (const option of one("which").options) {
    const left = all.items.filter((item) => has(item, option.value) && isOpen(item)).length;
    option.textContent = `${option.dataset.title} (${left ? `${left} left` : "done"})`;
  }
};

// ---- Showing one -----------------------------------------------------------------------------------------------
const go = (place) => {
  at = place;
  document.body.classList.remove("waiting");
  const ended = at < 0;
  one("item").hidden = ended;
  one("end").hidden = !ended;
  one("acts").hidden = ended && !acts.length;
  for (const button of one("acts").children) button.hidden = ended && button.dataset.act !== "undo";
  count();
  if (ended) end();
  else show(current());
};

const show = async (item) => {
  one("label").textContent = [item.label, ...conflicting(item)].join(" and ");
  one("perhaps").hidden = !item.suggested || item.suggested === item.label;
  one("suggested").textContent = `${item.suggested}?`;
  one("name").textContent = item.name;
  one("part").textContent = item.split ? { train: "training picture", val: "validation picture", test: "test picture" }[item.split] : "";
  one("note").value = "";
  one("reasons").replaceChildren(...item.reasons.map((reason) => make("li", {},
    make("span", { className: "badge", textContent: titles().get(reason.check).one }), reason.message)));
  one("remedy").textContent = titles().get(item.reasons[0].check).remedy;
  one("relatives").hidden = !(item.alike.length || item.copies.length);
  one("alike").replaceChildren(...item.alike.map((row) => small(row, item)));
  one("copies").hidden = !item.copies.length;
  one("copies").textContent = `The same file lies in ${counted(item.copies.length, "other place", "other places")} as well (` +
    `${item.copies.map((row) => `${row.name}, labelled ${row.label}`).join("; ")}). A decision holds for all of them.`;
  document.querySelector(".side").scrollTop = 0;
  scrollTo(0, 0);
  decided(item);
  think(item);
  const large = await picture(item.row, "large");
  if (current() !== item) return;
  one("gone").hidden = large.url !== null;
  one("gone").textContent = large.why || "";
  const image = make("img", { id: "large", alt: `Labelled ${item.label}`, hidden: !large.url });
  if (large.url) {
    image.src = large.url;
    await image.decode().catch(() => {});
    if (current() !== item) return;
    if (image.naturalWidth < 500 && image.naturalHeight < 500) image.dataset.small = "";
  }
  one("large").replaceWith(image);
  image.dataset.row = item.row;
  for (let place = at, left = AHEAD; left > 0; left -= 1) {
    place = next(place);
    if (place < 0) break;
    picture(shown[place].row, "large");
    opinion(shown[place].row).then((answer) => (answer.neighbours || []).forEach((row) => picture(row.row, "small")), () => {});
  }
};

// The same file under several labels: then its own label may be the one to give to all of its copies.
const conflicting = (item) => [...new Set(item.copies.map((row) => row.label))].filter((label) => label !== item.label);
const titles = () => new Map(all.checks.map((check) => [check.check, check]));
const small = (row, item) => {
  const image = make("img", { alt: "", title: row.name });
  picture(row.row, "small").then(({ url }) => {
    if (url) image.src = url;
    else image.replaceWith(make("span", { className: "gone", textContent: "cannot be shown" }));
  });
  return make("li", {}, image, make("span", { className: row.label === item.label ? "" : "other", textContent: row.label }));
};

const decided = (item) => {
  const made = decisions[item.row];
  one("done").hidden = !made;
  if (made) {
    const who = made.by && made.by !== all.reviewer ? ` by ${made.by}` : "";
    const words = made.note.includes(":") ? `: “${made.note.slice(made.note.indexOf(":") + 1).trim()}”` : "";
    one("done").textContent = `${DONE[made.action]}${made.label ? ` as ${made.label}` : ""}${who}${words}.`;
  }
  for (const button of one("acts").children) button.classList.toggle("chosen", made?.action === button.dataset.act);
};

const think = async (item) => {
  one("shares").replaceChildren();
  one("near").replaceChildren();
  one("seeking").hidden = true;
  one("learned").hidden = true;
  let answer;
  try {
    answer = await opinion(item.row);
  } catch (error) {
    if (current() === item) trouble(error.message);
    return;
  }
  if (current() !== item) return;
  one("learned").hidden = !answer.learned;
  const bars = answer.shares.map(([label, share]) => {
    const bar = make("i");
    bar.style.width = `${Math.max(100 * share, 0.5)}%`;
    return make("li", { className: label === item.label ? "own" : "" }, make("span", { className: "of", textContent: label }),
      make("span", { className: "track" }, bar), make("span", { className: "share", textContent: percent(share) }));
  });
  if (answer.unknown && !answer.error) bars.unshift(make("li", { className: "whole", textContent: "None of these; else:" }));
  one("shares").replaceChildren(...bars);
  neighbours(item, answer);
};

const neighbours = (item, { neighbours: near, why_not: why }) => {
  one("seeking").hidden = near !== null && !why;
  one("seeking").textContent = why ?? "Looking for them…";
  if (near) one("near").replaceChildren(...near.map((row) => small(row, item)));
  else setTimeout(async () => {
    const answer = current() === item ? await opinion(item.row).catch(() => null) : null;
    if (answer && current() === item) neighbours(item, answer);
  }, SEEK_SECONDS * 1000);
};

// ---- Deciding --------------------------------------------------------------------------------------------------
// The page goes on at once; what is sent keeps its order. What could not be written comes back to be decided again.
const decide = (action, label = "") => {
  const item = current(), body = { row: item.row, action, label, note: one("note").value, tab };
  acts.push({ item, kind: action });
  skipped.delete(item.row);
  pending.set(item.row, { action, label, note: "", by: all.reviewer, ticket: body });
  hear(decisions);
  flash(action);
  const place = next(at);
  say(`${DONE[action]}${label ? ` as ${label}` : ""}. ${place < 0 ? "That was the last." : `Next: labelled ${shown[place].label}.`}`);
  go(place);
  posting = posting.then(async () => {
    const answer = await (await ask("/decide", body)).json();
    settle(item.row, body);
    hear(answer.decisions);
    trouble("");
  }).catch((error) => {
    settle(item.row, body);
    delete decisions[item.row];
    acts.splice(acts.findLastIndex((act) => act.item === item), 1);
    trouble(`This decision was not written. ${error.message}`);
    go(Math.max(shown.indexOf(item), 0));
  });
};
const settle = (row, ticket) => { if (pending.get(row)?.ticket === ticket) pending.delete(row); };
const hear = (written) => {
  decisions = { ...written, ...Object.fromEntries(pending) };
  count();
  if (current()) decided(current());
};
const skip = () => {
  acts.push({ item: current(), kind: "skip" });
  skipped.add(current().row);
  flash("skip");
  go(next(at));
};
const undo = () => {
  const last = acts.pop();
  flash("undo");
  if (last?.kind === "skip") {
    skipped.delete(last.item.row);
    back(last.item);
    return;
  }
  posting = posting.then(async () => {
    const answer = await (await ask("/undo", { tab })).json();
    hear(answer.decisions);
    const item = all.items.find((known) => known.row === answer.row);
    if (item) back(item);
    say(item ? "Taken back." : "There is nothing to take back.");
  }).catch((error) => trouble(`Nothing was taken back. ${error.message}`));
};
const back = (item) => {
  if (!shown.includes(item)) {
    one("which").value = "";
    shown = all.items;
  }
  go(shown.indexOf(item));
};
const before = () => { if (shown.length) go(at < 0 ? shown.length - 1 : (at + shown.length - 1) % shown.length); };
const flash = (act) => {
  const button = document.querySelector(`[data-act="${act}"]`);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 140);
};

// ---- Relabelling -----------------------------------------------------------------------------------------------
// What was suggested, what its duplicates are called, what the model takes it for, then the others by name.
let likely = [];
const offered = () => {
  const words = one("wanted").value.trim().toLowerCase(), item = current();
  const fits = all.labels.filter((label) => label.toLowerCase().includes(words) && (label !== item.label || conflicting(item).length));
  const rank = (label) => (likely.includes(label) ? likely.indexOf(label) : Infinity) + (label.toLowerCase().startsWith(words) ? 0 : 1e6);
  return fits.sort((left, right) => (rank(left) < rank(right) ? -1 : rank(left) > rank(right) ? 1 : 0));
};
const offer = () => {
  const item = current();
  one("options").replaceChildren(...offered().map((label, place) => make("li", { id: `option-${place}`, role: "option", ariaSelected: "false" },
    make("span", { className: "of", textContent: label }), ...(label === item.suggested ? [make("span", { className: "badge", textContent: "suggested" })] : []))));
  pick(0);
};
const pick = (place) => {
  const options = [...one("options").children];
  options.forEach((option, at) => { option.ariaSelected = String(at === place); });
  if (options[place]) options[place].scrollIntoView({ block: "nearest" });
  one("wanted").setAttribute("aria-activedescendant", options[place]?.id ?? "");
};
const picked = () => [...one("options").children].findIndex((option) => option.ariaSelected === "true");
const take = (place) => {
  const option = one("options").children[place];
  if (!option) return;
  const label = option.querySelector(".of").textContent;
  one("labels").close();
  decide("relabel", label);
};
const relabel = () => {
  const item = current(), shares = told.get(item.row)?.shares ?? [];
  likely = [item.suggested, ...[...item.copies, ...item.alike].map((row) => row.label), ...shares.map(([label]) => label)];
  one("wanted").value = "";
  offer();
  one("labels").showModal();
  one("wanted").focus();
};
one("wanted").addEventListener("input", offer);
one("wanted").addEventListener("keydown", (event) => {
  const places = one("options").children.length, step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && places) pick((picked() + step + places) % places);
  if (event.key === "Enter") take(picked());
  if (step || event.key === "Enter") event.preventDefault();
});
one("options").addEventListener("click", (event) => take([...one("options").children].indexOf(event.target.closest("li"))));

// ---- The end ---------------------------------------------------------------------------------------------------
const end = () => {
  const left = shown.filter(isOpen).length, made = (action) => shown.filter((item) => decisions[item.row]?.action === action).length;
  one("title-end").textContent = !all.items.length ? "There is nothing to review." : left ? "That is all for now." : "All of it is decided.";
  one("tally").textContent = !all.items.length ? "The audit found no doubtful label, no duplicates and no outliers, and the model makes no sure mistakes."
    : `${made("keep")} kept, ${made("relabel")} relabelled, ${made("drop")} dropped${left ? `, ${left} left for later` : ""}.`;
  const elsewhere = all.items.filter(isOpen).length;
  one("again").hidden = !elsewhere;
  one("again").textContent = left ? `Go through the ${left} that are left` : `Go on with the ${elsewhere} for other reasons`;
  one("next").hidden = !Object.keys(decisions).length;
  one("end").focus({ preventScroll: true });
};
one("again").addEventListener("click", () => {
  skipped.clear();
  if (!shown.some(isOpen)) one("which").value = "";
  choose();
});
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
  const text = one(button.dataset.of);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
});

// ---- Keys and buttons ------------------------------------------------------------------------------------------
const ACT = { keep: () => decide("keep"), drop: () => decide("drop"), relabel, skip, undo };
const KEYS = { k: "keep", d: "drop", r: "relabel", s: "skip", ArrowRight: "skip", u: "undo" };
const act = (name) => { if (all && (name === "undo" || current())) ACT[name](); };
for (const button of one("acts").children) button.addEventListener("click", () => act(button.dataset.act));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  // A dialog that has just closed keeps the focus until the next frame: a key pressed that soon is for the page.
  if (event.target.matches("input, select") && !event.target.closest("dialog")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "note")) event.target.blur();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in KEYS) act(KEYS[key]);
  else if (key === "ArrowLeft") before();
  else if (key === "n" && current()) one("note").focus();
  else if (key === "?") one("keys").showModal();
  else return;
  event.preventDefault();
});
one("which").addEventListener("change", () => { choose(); one("which").blur(); });
one("help").addEventListener("click", () => one("keys").showModal());
one("close").addEventListener("click", () => one("keys").close());
for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// Another reviewer may decide meanwhile.
const refresh = () => {
  if (!all || document.hidden) return;
  posting = posting.then(async () => {
    hear((await get("/decisions")).decisions);
  }).catch(() => {});
};
setInterval(refresh, POLL_SECONDS * 1000);
addEventListener("visibilitychange", refresh);

const start = async () => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  token = given ?? sessionStorage.getItem("review-token") ?? "";
  try {
    all = await get("/overview");
  } catch (error) {
    trouble(error.message);
    return;
  }
  sessionStorage.setItem("review-token", token);
  history.replaceState(null, "", location.pathname);  // the key does not stay where a screen is shared
  decisions = all.decisions;
  one("run").textContent = all.run;
  one("file").textContent = all.file;
  document.title = `Review of ${all.run} · bestiary`;
  for (const [place, name] of ["train", "compare"].entries()) {
    const parts = all.commands[place].split(/ (?=--)/);  // a line ends before an option, never within its name
    one(name).replaceChildren(...parts.flatMap((part) => [make("span", { textContent: part }), " "]).slice(0, -1));
  }
  const option = (value, title) => {
    const made = make("option", { value });
    made.dataset.title = title[0].toUpperCase() + title.slice(1);
    return made;
  };
  one("which").replaceChildren(option("", "everything"), ...all.checks.map((check) => option(check.check, check.many)));
  choose();
};
start();
