// Tables of classes: sorted by their column heads, filtered by text. Rows that were folded away join the others.
const sortRows = (table, head, direction) => {
  const body = table.tBodies[0], column = head.cellIndex, sign = direction === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column], value = cell.dataset.value;
    return [value === undefined ? cell.textContent.trim() : value === "" ? NaN : Number(value), row];
  });
  keyed.sort(([a], [b]) => {
    if (typeof a === "string") return sign * a.localeCompare(b, undefined, { numeric: true });
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);  // without a value: last in both directions
    return sign * (a - b);
  });
  body.append(...keyed.map(([, row]) => row));
  for (const other of head.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === head ? direction : "none");
};
for (const explorer of document.querySelectorAll("[data-explore]")) {
  const [table, ...folded] = explorer.querySelectorAll("table");
  for (const other of folded) table.tBodies[0].append(...other.tBodies[0].rows);
  for (const part of explorer.querySelectorAll("details")) part.remove();
  const rows = [...table.tBodies[0].rows], region = table.closest(".scroll"), order = explorer.querySelector("[data-order]");
  region.classList.toggle("tall", rows.length > 30);
  region.setAttribute("aria-label", region.getAttribute("aria-label").replace("the first classes", "all classes"));
  for (const head of table.tHead.rows[0].cells) {
    if (head.querySelector(".hidden-visually")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", head.dataset.sorted ?? "none");
    button.addEventListener("click", () => {
      // Names begin with a, scores with the weakest, numbers of pictures with the largest.
      const first = head.classList.contains("number") ? "descending" : "ascending", now = head.getAttribute("aria-sort");
      const direction = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      sortRows(table, head, direction);
      if (order) order.textContent = `Sorted by ${button.textContent}, ${direction}.`;
    });
  }
  const filter = explorer.querySelector(".filter"), field = filter.querySelector("input"), status = filter.querySelector("[role=status]");
  filter.hidden = false;
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    status.textContent = wanted === "" ? "" : `${left} of ${rows.length} classes`;
  });
}

// A cell of the confusion matrix shows its pictures: copies of those that are in this page.
const cell = document.querySelector("#cell");
if (cell) {
  const labels = JSON.parse(cell.dataset.labels), counts = new Map(), totals = labels.map(() => 0);
  for (const [row, column, n] of JSON.parse(cell.dataset.cells)) {
    counts.set(`${row} ${column}`, n);
    totals[row] += n;
  }
  const choice = cell.querySelector("select"), status = cell.querySelector("[role=status]"), gallery = cell.querySelector(".gallery");
  const describe = (row, column, n) => `${labels[row]} predicted as ${labels[column]}: ${n.toLocaleString("en")} of ${totals[row].toLocaleString("en")}`;
  choice.append(new Option("choose", ""));
  for (const [name, wanted] of [["Mistakes", false], ["Correct predictions", true]]) {
    const group = document.createElement("optgroup");
    group.label = name;
    const own = [...counts].map(([key, n]) => [...key.split(" ").map(Number), n]).filter(([row, column]) => (row === column) === wanted);
    if (!wanted) own.sort((a, b) => b[2] - a[2]);
    for (const [row, column, n] of own) group.append(new Option(describe(row, column, n), `${row} ${column}`));
    if (own.length) choice.append(group);
  }
  const cells = new Map();  // the buttons of the matrix, by row and column
  const showCell = (key) => {
    const n = counts.get(key);
    for (const [other, button] of cells) button.toggleAttribute("aria-current", other === key);
    gallery.replaceChildren();
    status.textContent = "";
    choice.value = key;
    if (n === undefined) return;
    const [row, column] = key.split(" ").map(Number), found = new Map();
    for (const item of document.querySelectorAll(".gallery > li[data-row]")) {
      const isOwn = item.dataset.label === labels[row] && item.dataset.predicted === labels[column];
      // Of a picture that is in several galleries, the largest.
      const size = item.querySelector("img")?.naturalWidth ?? 0, before = found.get(item.dataset.row);
      if (isOwn && (!before || before[0] <= size)) found.set(item.dataset.row, [size, item]);
    }
    if (frame) markSquare(row, column);
    const items = [...found.values()].map(([, item]) => item.cloneNode(true));
    for (const item of items) item.hidden = false;
    gallery.append(...items);
    const rest = n - items.length;
    const more = rest > 0 ? ` ${items.length || "None"} of ${n.toLocaleString("en")} pictures ${items.length === 1 ? "is" : "are"} in this page; predictions.parquet names all of them.` : "";
    status.textContent = `${describe(row, column, n)} (${inPercent(n / totals[row])}).${more}`;
  };
  const frame = document.querySelector("#heatmap .frame");
  // Marks the chosen square of the heatmap.
  const mark = frame && frame.cloneNode();
  const markSquare = (row, column) => {
    const [x, y, side] = ["x", "y", "width"].map((name) => Number(frame.getAttribute(name))), width = side / labels.length;
    for (const [name, value] of [["x", x + column * width - 2], ["y", y + row * width - 2], ["width", width + 4], ["height", width + 4]]) mark.setAttribute(name, value);
    mark.setAttribute("class", "chosen");
    frame.parentElement.append(mark);
  };
  const choose = (key) => { showCell(key); cell.scrollIntoView({ block: "nearest" }); };
  choice.addEventListener("change", () => showCell(choice.value));
  for (const item of document.querySelectorAll("[data-cell]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "show-cell";
    button.textContent = "show";
    button.setAttribute("aria-label", `show the pictures: ${item.textContent}`);
    button.addEventListener("click", () => choose(item.dataset.cell));
    item.append(" ", button);
  }
  cell.hidden = false;

  const matrix = document.querySelector(".matrix");
  if (matrix) {
    for (const line of matrix.tBodies[0].rows) [...line.cells].slice(1).forEach((place, column) => {
      const row = line.dataset.row;
      if (!counts.has(`${row} ${column}`)) return;
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;  // one stop for Tab, then arrow keys
      button.append(...place.childNodes);
      button.setAttribute("aria-label", place.title);
      place.append(button);
      button.addEventListener("click", () => choose(`${row} ${column}`));
      cells.set(`${row} ${column}`, button);
    });
    const enter = (key) => {
      for (const [other, button] of cells) button.tabIndex = other === key ? 0 : -1;
      return cells.get(key);
    };
    enter([...cells.keys()].find((key) => key.split(" ")[0] !== key.split(" ")[1]) ?? cells.keys().next().value);
    matrix.addEventListener("focusin", (event) => { for (const [key, button] of cells) if (button === event.target) enter(key); });
    matrix.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const from = [...cells].find(([, button]) => button === event.target);
      if (!step || !from) return;
      event.preventDefault();
      let [row, column] = from[0].split(" ").map(Number);
      do { row += step[0]; column += step[1]; } while (labels[row] !== undefined && labels[column] !== undefined && !cells.has(`${row} ${column}`));
      if (cells.has(`${row} ${column}`)) enter(`${row} ${column}`).focus();
    });
  }

  const heatmap = document.querySelector("#heatmap");
  if (heatmap) {
    const readout = heatmap.querySelector(".readout");
    const locate = (event) => {
      const box = frame.getBoundingClientRect();
      const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((at) => Math.floor(at * labels.length));
      return labels[row] !== undefined && labels[column] !== undefined ? [row, column] : null;
    };
    readout.hidden = false;
    readout.textContent = "\u00a0";
    heatmap.querySelector("svg").addEventListener("pointermove", (event) => {
      const at = locate(event);
      readout.textContent = at ? describe(...at, counts.get(at.join(" ")) ?? 0) : "\u00a0";
    });
    heatmap.querySelector("svg").addEventListener("click", (event) => {
      const at = locate(event);
      if (at && counts.has(at.join(" "))) choose(at.join(" "));
    });
  }
}

// The gallery of mistakes: of one class only, and with heatmaps.
const byClass = document.querySelector("#class-filter");
if (byClass) {
  const filter = byClass.closest(".filter"), status = filter.querySelector("[role=status]");
  const items = [...document.querySelectorAll("#mistakes ~ .gallery > li")];
  filter.hidden = false;
  byClass.addEventListener("change", () => {
    const wanted = byClass.value;
    for (const item of items) item.hidden = wanted !== "" && item.dataset.label !== wanted && item.dataset.predicted !== wanted;
    status.textContent = `${items.filter((item) => !item.hidden).length} pictures`;
  });
  const evidence = document.querySelector("#evidence");
  if (evidence) evidence.addEventListener("click", () => {
    const shown = evidence.getAttribute("aria-pressed") === "true";
    evidence.setAttribute("aria-pressed", String(!shown));
    for (const image of document.querySelectorAll("img[data-evidence]")) [image.src, image.dataset.evidence] = [image.dataset.evidence, image.src];
  });
}

// Another threshold: how many test pictures are answered, and how many of the answers are right.
const threshold = document.querySelector("#threshold");
if (threshold) {
  const measure = threshold.querySelector("select"), slider = threshold.querySelector("input"), status = threshold.querySelector("[role=status]");
  const own = threshold.querySelector(".own"), plot = document.querySelector("#coverage-plot");
  const [left, right, bottom, top, lowest] = JSON.parse(plot.dataset.axes);
  const dot = document.createElementNS(plot.querySelector("svg").namespaceURI, "circle");
  dot.setAttribute("class", "ring-other");
  dot.setAttribute("r", "7");
  plot.querySelector("svg").append(dot);
  const total = Math.max(...[...measure.options].map((option) => JSON.parse(option.dataset.points)[0][1]));
  let points = [];
  const interval = (n, of) => {
    const z = 1.959964, p = n / of, middle = (p + z * z / (2 * of)) / (1 + z * z / of);
    const half = z / (1 + z * z / of) * Math.sqrt(p * (1 - p) / of + z * z / (4 * of * of));
    return `${(100 * Math.max(0, middle - half)).toFixed(1)} to ${(100 * Math.min(1, middle + half)).toFixed(1)}`;
  };
  const update = () => {
    const [at, answered, correct] = points[slider.value], coverage = answered / total, accuracy = correct / answered;
    const isOwn = slider.value === measure.selectedOptions[0].dataset.own;
    const words = `Threshold ${at.toFixed(3)}${isOwn ? " (this model)" : ""}: ${inPercent(coverage)} answered (${answered.toLocaleString("en")} of ${total.toLocaleString("en")}), ${inPercent(accuracy)} of the answers right (${interval(correct, answered)}).`;
    status.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    dot.setAttribute("cx", left + coverage * (right - left));
    dot.setAttribute("cy", bottom + (Math.max(accuracy, lowest) - lowest) / (1 - lowest) * (top - bottom));
  };
  const choose = () => {
    const option = measure.selectedOptions[0];
    points = JSON.parse(option.dataset.points);
    slider.max = points.length - 1;
    slider.value = option.dataset.own ?? 0;
    own.hidden = option.dataset.own === undefined;
    own.style.setProperty("--at", (option.dataset.own ?? 0) / Math.max(1, points.length - 1));
    update();
  };
  measure.addEventListener("change", choose);
  slider.addEventListener("input", update);
  own.addEventListener("click", () => { slider.value = measure.selectedOptions[0].dataset.own; update(); });
  threshold.hidden = false;
  choose();
}
