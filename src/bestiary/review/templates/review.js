// The review page: one doubtful picture after another, one key for each decision. The server saves every decision at once.
const byId = (id) => document.getElementById(id);
const PRELOADED = 3, CACHED = 60, POLL_SECONDS = 10, SEARCH_SECONDS = 1;
const DONE = { keep: "Kept", drop: "Dropped", relabel: "Relabelled", both: "Shows two classes" };
let token = "", overview = null, queue = [], position = -1, decisions = {}, writes = Promise.resolve();
const pending = new Map();  // decisions of this page that the server has not confirmed yet
const skipped = new Set(), actions = [], pictures = new Map(), requests = new Map(), predictions = new Map();

const make = (tag, options = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
};
const announce = (text) => { byId("status").textContent = text; };
const percent = (fraction) => fraction > 0.995 ? "> 99 %" : fraction < 0.005 ? "< 1 %" : `${Math.round(fraction * 100)} %`;
const plural = (n, singular, many) => `${n.toLocaleString("en")} ${n === 1 ? singular : many}`;

// Each tab undoes its own decisions, also after a reload; a duplicated tab gets an identifier of its own.
const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
const tab = (isReload && sessionStorage.getItem("review-tab")) || String(Math.random());
sessionStorage.setItem("review-tab", tab);

// ---- The server ------------------------------------------------------------------------------------------------
const request = async (path, body) => {
  const headers = { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) };
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not respond. Is `bestiary review` still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Error("Open this page with the address that `bestiary review` printed: it contains the token.");
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error || `The server responded with status ${response.status}.`);
};
const get = async (path) => (await request(path)).json();
const showError = (text) => {
  byId("error").hidden = !text;
  byId("error").textContent = text;
};

// Returns a picture as an object URL, or null and the reason. The cache is bounded: the oldest are removed first.
const loadPicture = (row, size) => {
  const key = `${row}/${size}`;
  if (!pictures.has(key)) {
    const loading = request(`/picture/${key}`)
      .then(async (response) => ({ url: URL.createObjectURL(await response.blob()) }))
      .catch((error) => ({ url: null, reason: error.message }));
    pictures.set(key, loading);
    if (pictures.size > CACHED * (size === "small" ? 8 : 1)) evict(pictures.keys().next().value);
  }
  return pictures.get(key);
};
const evict = (key) => {
  pictures.get(key).then(({ url }) => url && URL.revokeObjectURL(url));
  pictures.delete(key);
};
const loadPrediction = (row) => {
  if (!requests.has(row)) {
    const loading = get(`/opinion/${row}`);
    requests.set(row, loading);
    loading.then((prediction) => {
      predictions.set(row, prediction);
      if (!prediction.neighbours) requests.delete(row);
    }, () => requests.delete(row));
  }
  return requests.get(row);
};

// ---- The queue and the progress --------------------------------------------------------------------------------
const isOpen = (item) => !(item.row in decisions);
const hasCheck = (item, check) => check === "" || item.reasons.some((reason) => reason.check === check);
const current = () => queue[position];

const filterQueue = () => {
  const check = byId("check").value;
  queue = overview.items.filter((item) => hasCheck(item, check));
  goTo(queue.findIndex((item) => isOpen(item) && !skipped.has(item.row)));
};
const next = (from) => {
  for (let step = 1; step <= queue.length; step += 1) {
    const index = (from + step) % queue.length;
    if (isOpen(queue[index]) && !skipped.has(queue[index].row)) return index;
  }
  return -1;
};
const showProgress = () => {
  const done = queue.filter((item) => !isOpen(item)).length;
  byId("count").textContent = `${done.toLocaleString("en")} of ${queue.length.toLocaleString("en")} decided`;
  byId("bar").style.width = `${100 * done / Math.max(queue.length, 1)}%`;
  for (const option of byId("check").options) {
    const left = overview.items.filter((item) => hasCheck(item, option.value) && isOpen(item)).length;
    option.textContent = `${option.dataset.title} (${left ? `${left} left` : "done"})`;
  }
};

// ---- One item --------------------------------------------------------------------------------------------------
const goTo = (index) => {
  position = index;
  const atEnd = position < 0;
  byId("item").hidden = atEnd;
  byId("end").hidden = !atEnd;
  byId("actions").hidden = atEnd && !actions.length;
  for (const button of byId("actions").children) button.hidden = atEnd && button.dataset.action !== "undo";
  showProgress();
  if (atEnd) showEnd();
  else showItem(current());
};

const showItem = async (item) => {
  byId("label").textContent = [item.label, ...conflictingLabels(item)].join(" and ");
  byId("suggestion").hidden = !item.suggested || item.suggested === item.label;
  byId("suggested").textContent = `${item.suggested}?`;
  byId("name").textContent = item.name;
  byId("split").textContent = item.split ? { train: "training picture", val: "validation picture", test: "test picture" }[item.split] : "";
  byId("note").value = "";
  byId("reasons").replaceChildren(...item.reasons.map((reason) => make("li", {},
    make("span", { className: "badge", textContent: checks().get(reason.check).one }), reason.message.replaceAll(" %", "\u00a0%"))));
  byId("remedy").textContent = checks().get(item.reasons[0].check).remedy;
  byId("duplicates").hidden = !(item.alike.length || item.copies.length);
  byId("near-duplicates").replaceChildren(...item.alike.map((row) => makeThumbnail(row, item)));
  byId("copies").hidden = !item.copies.length;
  byId("copies").textContent = `The same file is in ${plural(item.copies.length, "other place", "other places")} (` +
    `${item.copies.map((row) => `${row.name}, labelled ${row.label}`).join("; ")}). A decision applies to all of them.`;
  document.querySelector(".side").scrollTop = 0;
  scrollTo(0, 0);
  showDecision(item);
  showPrediction(item);
  const { url, reason } = await loadPicture(item.row, "large");
  if (current() !== item) return;
  byId("missing").hidden = url !== null;
  byId("missing").textContent = reason || "";
  const image = make("img", { id: "large", alt: `Labelled ${item.label}`, hidden: !url });
  if (url) {
    image.src = url;
    await image.decode().catch(() => {});
    if (current() !== item) return;
    if (image.naturalWidth < 500 && image.naturalHeight < 500) image.dataset.small = "";
  }
  byId("large").replaceWith(image);
  image.dataset.row = item.row;
  preload();
};

const preload = () => {
  for (let index = next(position), left = PRELOADED; index >= 0 && left > 0; index = next(index), left -= 1) {
    loadPicture(queue[index].row, "large");
    loadPrediction(queue[index].row).then(({ neighbours }) => (neighbours || []).forEach((row) => loadPicture(row.row, "small")), () => {});
  }
};

// Other labels of the same file: one of them may be the correct label of all copies.
const conflictingLabels = (item) => [...new Set(item.copies.map((row) => row.label))].filter((label) => label !== item.label);
const checks = () => new Map(overview.checks.map((check) => [check.check, check]));
const makeThumbnail = (row, item) => {
  const image = make("img", { alt: "", title: row.name });
  loadPicture(row.row, "small").then(({ url }) => {
    if (url) image.src = url;
    else image.replaceWith(make("span", { className: "gone", textContent: "cannot be shown" }));
  });
  return make("li", {}, image, make("span", { className: row.label === item.label ? "" : "other", textContent: row.label }));
};

const showDecision = (item) => {
  const decision = decisions[item.row];
  byId("decision").hidden = !decision;
  if (decision) {
    const reviewer = decision.by && decision.by !== overview.reviewer ? ` by ${decision.by}` : "";
    const note = decision.note.includes(":") ? `: “${decision.note.slice(decision.note.indexOf(":") + 1).trim()}”` : "";
    byId("decision").textContent = `${DONE[decision.action]}${describeLabel(decision.action, decision.label)}${reviewer}${note}.`;
  }
  for (const button of byId("actions").children) button.classList.toggle("chosen", decision?.action === button.dataset.action);
};

const showPrediction = async (item) => {
  byId("probabilities").replaceChildren();
  byId("neighbours").replaceChildren();
  byId("searching").hidden = true;
  byId("trained").hidden = true;
  let prediction;
  try {
    prediction = await loadPrediction(item.row);
  } catch (error) {
    if (current() === item) showError(error.message);
    return;
  }
  if (current() !== item) return;
  byId("trained").hidden = !prediction.learned;
  const rows = prediction.shares.map(([label, probability]) => {
    const bar = make("i");
    bar.style.width = `${Math.max(100 * probability, 0.5)}%`;
    return make("li", { className: label === item.label ? "own" : "" }, make("span", { className: "class-name", textContent: label }),
      make("span", { className: "track" }, bar), make("span", { className: "value", textContent: percent(probability) }));
  });
  if (prediction.unknown && !prediction.error) rows.unshift(make("li", { textContent: "Unknown; otherwise:" }));
  byId("probabilities").replaceChildren(...rows);
  showNeighbours(item, prediction);
};

const showNeighbours = (item, { neighbours, why_not: reason }) => {
  byId("searching").hidden = neighbours !== null && !reason;
  byId("searching").textContent = reason ?? "Searching…";
  if (neighbours) byId("neighbours").replaceChildren(...neighbours.map((row) => makeThumbnail(row, item)));
  else setTimeout(async () => {
    const prediction = current() === item ? await loadPrediction(item.row).catch(() => null) : null;
    if (prediction && current() === item) showNeighbours(item, prediction);
  }, SEARCH_SECONDS * 1000);
};

// ---- Decisions -------------------------------------------------------------------------------------------------
// The page shows the next item at once; writes keep their order. If a write fails, the page returns to its item.
const decide = (action, label = "", isNew = false) => {
  const item = current(), body = { row: item.row, action, label, note: byId("note").value, tab, is_new: isNew };
  actions.push({ item, kind: action });
  skipped.delete(item.row);
  pending.set(item.row, { action, label, note: "", by: overview.reviewer, body });
  setDecisions(decisions);
  flash(action);
  const index = next(position);
  announce(`${DONE[action]}${describeLabel(action, label)}. ${index < 0 ? "That was the last." : `Next: labelled ${queue[index].label}.`}`);
  goTo(index);
  writes = writes.then(async () => {
    const response = await (await request("/decide", body)).json();
    confirmWrite(item.row, body);
    setDecisions(response.decisions);
    showError("");
  }).catch((error) => {
    confirmWrite(item.row, body);
    delete decisions[item.row];
    actions.splice(actions.findLastIndex((action) => action.item === item), 1);
    showError(`This decision was not saved. ${error.message}`);
    goTo(Math.max(queue.indexOf(item), 0));
  });
};
const describeLabel = (action, label) => !label ? "" : action === "both" ? `: also ${label}` : ` as ${label}`;
const both = () => decide("both", current().suggested === current().label ? "" : current().suggested ?? "");

// The same decision for every undecided picture of one check with the label and the suggestion of this one.
const bulkCheck = () => byId("check").value || current().reasons[0].check;
const bulkItems = () => overview.items.filter((item) => isOpen(item) && hasCheck(item, bulkCheck())
  && item.label === current().label && item.suggested === current().suggested);
const bulk = () => {
  const item = current(), count = bulkItems().length, check = checks().get(bulkCheck());
  const suggested = item.suggested && item.suggested !== item.label ? item.suggested : "";
  byId("bulk-text").textContent = `${plural(count, "undecided picture", "undecided pictures")} of “${check.many}” labelled ${item.label}` +
    `${suggested ? `, perhaps ${suggested}` : ""}.${count > 1 ? " You have not looked at all of them." : ""}`;
  const button = document.querySelector('[data-bulk="relabel"]');
  button.hidden = !suggested;
  button.textContent = `Relabel all as ${suggested}`;
  byId("bulk").showModal();
};
const decideAll = (action) => {
  byId("bulk").close();
  if (!action) return;
  const items = bulkItems(), label = action === "relabel" ? current().suggested : "";
  const body = { rows: items.map(({ row }) => row), action, label, note: byId("note").value, tab };
  actions.push({ item: current(), kind: "bulk" });
  writes = writes.then(async () => {
    setDecisions((await (await request("/decide-all", body)).json()).decisions);
    showError("");
    announce(`${DONE[action]}${describeLabel(action, label)}: ${plural(items.length, "picture", "pictures")}.`);
    goTo(next(position));
  }).catch((error) => {
    actions.splice(actions.findLastIndex(({ kind }) => kind === "bulk"), 1);
    showError(`These decisions were not saved. ${error.message}`);
  });
};
for (const button of document.querySelectorAll("[data-bulk]")) button.addEventListener("click", () => decideAll(button.dataset.bulk));
const confirmWrite = (row, body) => { if (pending.get(row)?.body === body) pending.delete(row); };
const setDecisions = (saved) => {
  decisions = { ...saved, ...Object.fromEntries(pending) };
  showProgress();
  if (current()) showDecision(current());
};
const skip = () => {
  actions.push({ item: current(), kind: "skip" });
  skipped.add(current().row);
  flash("skip");
  goTo(next(position));
};
const undo = () => {
  const last = actions.pop();
  flash("undo");
  if (last?.kind === "skip") {
    skipped.delete(last.item.row);
    returnTo(last.item);
    return;
  }
  writes = writes.then(async () => {
    const response = await (await request("/undo", { tab })).json();
    setDecisions(response.decisions);
    const item = overview.items.find(({ row }) => row === response.row);
    if (item) returnTo(item);
    announce(item ? "Undone." : "Nothing to undo.");
  }).catch((error) => showError(`Undo failed. ${error.message}`));
};
const returnTo = (item) => {
  if (!queue.includes(item)) {
    byId("check").value = "";
    queue = overview.items;
  }
  goTo(queue.indexOf(item));
};
const previous = () => { if (queue.length) goTo(position < 0 ? queue.length - 1 : (position + queue.length - 1) % queue.length); };
const flash = (action) => {
  const button = document.querySelector(`[data-action="${action}"]`);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 140);
};

// ---- Relabelling -----------------------------------------------------------------------------------------------
// Order of the labels: suggested, those of the duplicates, those the model predicts, then the others by name.
let likely = [];
const matchingLabels = () => {
  const text = byId("search").value.trim().toLowerCase(), item = current();
  const matches = overview.labels.filter((label) => label.toLowerCase().includes(text) && (label !== item.label || conflictingLabels(item).length));
  const rank = (label) => (likely.includes(label) ? likely.indexOf(label) : Infinity) + (label.toLowerCase().startsWith(text) ? 0 : 1e6);
  return matches.sort((left, right) => (rank(left) < rank(right) ? -1 : rank(left) > rank(right) ? 1 : 0));
};
const showOptions = () => {
  const item = current();
  const text = byId("search").value.trim().normalize("NFC"), matches = matchingLabels();
  const isNew = text && !overview.labels.includes(text);
  byId("options").replaceChildren(...[...matches, ...(isNew ? [text] : [])].map((label, index) => make("li", { id: `option-${index}`, role: "option", ariaSelected: "false" },
    make("span", { className: "class-name", textContent: label }), ...(index === matches.length ? [make("span", { className: "badge new", textContent: "new label" })]
      : label === item.suggested ? [make("span", { className: "badge", textContent: "suggested" })] : []))));
  selectOption(0);
};
const selectOption = (index) => {
  const options = [...byId("options").children];
  options.forEach((option, i) => { option.ariaSelected = String(i === index); });
  if (options[index]) options[index].scrollIntoView({ block: "nearest" });
  byId("search").setAttribute("aria-activedescendant", options[index]?.id ?? "");
};
const selectedIndex = () => [...byId("options").children].findIndex((option) => option.ariaSelected === "true");
const applyOption = (index) => {
  const option = byId("options").children[index];
  if (!option) return;
  const label = option.querySelector(".class-name").textContent;
  const isNew = option.querySelector(".new") !== null;
  if (isNew) overview.labels.push(label);
  byId("labels").close();
  decide("relabel", label, isNew);
};
const relabel = () => {
  const item = current(), predicted = predictions.get(item.row)?.shares ?? [];
  likely = [item.suggested, ...[...item.copies, ...item.alike].map((row) => row.label), ...predicted.map(([label]) => label)];
  byId("search").value = "";
  showOptions();
  byId("labels").showModal();
  byId("search").focus();
};
byId("search").addEventListener("input", showOptions);
byId("search").addEventListener("keydown", (event) => {
  const count = byId("options").children.length, step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && count) selectOption((selectedIndex() + step + count) % count);
  if (event.key === "Enter") applyOption(selectedIndex());
  if (step || event.key === "Enter") event.preventDefault();
});
byId("options").addEventListener("click", (event) => applyOption([...byId("options").children].indexOf(event.target.closest("li"))));

// ---- The end of the queue --------------------------------------------------------------------------------------
const showEnd = () => {
  const left = queue.filter(isOpen).length, decided = (action) => queue.filter((item) => decisions[item.row]?.action === action).length;
  const open = overview.items.filter(isOpen).length;
  byId("title-end").textContent = !overview.items.length ? "There is nothing to review." : left ? "End of the list." : open ? "This check is complete." : "All pictures are reviewed.";
  byId("tally").textContent = !overview.items.length ? "The audit found no doubtful labels, no duplicates and no outliers, and the model makes no confident mistakes."
    : `${decided("keep")} kept, ${decided("relabel")} relabelled, ${decided("drop")} dropped${decided("both") ? `, ${decided("both")} with two classes` : ""}${left ? `, ${left} undecided` : ""}.`;
  byId("again").hidden = !open;
  byId("again").textContent = left ? `Review the ${left} undecided` : `Continue with the other ${open}`;
  byId("next").hidden = !Object.keys(decisions).length;
  byId("end").focus({ preventScroll: true });
};
byId("again").addEventListener("click", () => {
  skipped.clear();
  if (!queue.some(isOpen)) byId("check").value = "";
  filterQueue();
});
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
  const text = byId(button.dataset.of);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
});

// ---- Keys and buttons ------------------------------------------------------------------------------------------
const ACTIONS = { keep: () => decide("keep"), drop: () => decide("drop"), relabel, both, bulk, skip, undo };
const KEYS = { k: "keep", d: "drop", r: "relabel", b: "both", a: "bulk", s: "skip", ArrowRight: "skip", u: "undo" };
const act = (action) => { if (overview && (action === "undo" || current())) ACTIONS[action](); };
for (const button of byId("actions").children) button.addEventListener("click", () => act(button.dataset.action));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  // A dialog that has just closed keeps the focus until the next frame: a key pressed that soon is for the page.
  if (event.target.matches("input, select") && !event.target.closest("dialog")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "note")) event.target.blur();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in KEYS) act(KEYS[key]);
  else if (key === "ArrowLeft") previous();
  else if (key === "n" && current()) byId("note").focus();
  else if (key === "?") byId("keys").showModal();
  else return;
  event.preventDefault();
});
byId("check").addEventListener("change", () => { filterQueue(); byId("check").blur(); });
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("close").addEventListener("click", () => byId("keys").close());
for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// Polls for decisions of other reviewers.
const refresh = () => {
  if (!overview || document.hidden) return;
  writes = writes.then(async () => {
    setDecisions((await get("/decisions")).decisions);
  }).catch(() => {});
};
setInterval(refresh, POLL_SECONDS * 1000);
addEventListener("visibilitychange", refresh);

const start = async () => {
  token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("review-token") ?? "";
  try {
    overview = await get("/overview");
  } catch (error) {
    showError(error.message);
    return;
  }
  sessionStorage.setItem("review-token", token);
  history.replaceState(null, "", location.pathname);  // removes the token: the screen may be shared
  decisions = overview.decisions;
  byId("run").textContent = overview.run;
  byId("file").textContent = overview.file;
  byId("missing-files").textContent = overview.missing;
  byId("missing-files").hidden = !overview.missing;
  document.title = `Review of ${overview.run} · bestiary`;
  for (const [index, id] of ["train", "compare"].entries()) {
    const parts = overview.commands[index].split(/ (?=--)/);  // lines break only before an option
    byId(id).replaceChildren(...parts.flatMap((part) => [make("span", { textContent: part }), " "]).slice(0, -1));
  }
  const makeOption = (value, title) => {
    const option = make("option", { value });
    option.dataset.title = title[0].toUpperCase() + title.slice(1);
    return option;
  };
  byId("check").replaceChildren(makeOption("", "everything"), ...overview.checks.map((check) => makeOption(check.check, check.many)));
  filterQueue();
};
start();
