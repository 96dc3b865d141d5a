// Opens pictures larger; the page can be read without this script.
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img"), words = dialog.querySelector(".words"), place = dialog.querySelector(".place");
const copy = dialog.querySelector("[data-copy]"), top5 = dialog.querySelector(".top-five");
// Nothing is rounded to 0 or to 100 %.
const inPercent = (fraction) => `${fraction < .001 ? "below 0.1" : fraction > .999 && fraction < 1 ? "above 99.9" : (100 * fraction).toFixed(1)}\u00a0%`;
let current = null;
// The most probable classes of a picture, each with a bar.
const showTop = (item) => {
  const top = item && item.dataset.top ? JSON.parse(item.dataset.top) : [];
  top5.hidden = top.length === 0;
  top5.replaceChildren(...top.flatMap(([label, probability]) => {
    const term = document.createElement("dt"), value = document.createElement("dd"), bar = document.createElement("span");
    term.textContent = label;
    term.classList.toggle("true", label === item.dataset.label);
    bar.classList.toggle("true", label === item.dataset.label);
    bar.style.setProperty("--width", `${100 * probability}%`);
    value.append(bar, inPercent(probability));
    return [term, value];
  }));
};
const show = (button) => {
  current = button;
  const small = button.querySelector("img"), caption = button.closest("figure").querySelector("figcaption");
  large.src = small.src;
  large.alt = small.alt;
  words.textContent = caption.innerText;
  place.textContent = caption.querySelector(".name").title;
  copy.textContent = "Copy path";
  showTop(button.closest("[data-top]"));
};
const go = (steps) => {
  const open = [...document.querySelectorAll(".gallery button")].filter((button) => button.checkVisibility());
  show(open[(open.indexOf(current) + steps + open.length) % open.length]);
};
for (const image of document.querySelectorAll(".gallery img")) {
  const button = document.createElement("button");
  button.type = "button";
  image.replaceWith(button);
  button.append(image);
}
document.addEventListener("click", (event) => {  // of galleries that are filled later, too
  const button = event.target.closest(".gallery button");
  if (button) { show(button); dialog.showModal(); }
});
dialog.addEventListener("click", (event) => { if (event.target === dialog || "close" in event.target.dataset) dialog.close(); });
dialog.addEventListener("close", () => current && current.focus());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
for (const button of dialog.querySelectorAll("[data-go]")) button.addEventListener("click", () => go(Number(button.dataset.go)));
copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(place.textContent);
    copy.textContent = "Copied";
  } catch {  // some browsers do not let a local file use the clipboard
    getSelection().selectAllChildren(place);
    copy.textContent = "Selected: now press Ctrl+C";
  }
});

// A link into a folded part opens it.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let folded = target && target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
};
addEventListener("hashchange", unfold);
unfold();

// Folded parts would be missing in print; the longest stay folded.
addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details:not(.long)")) folded.open = true; });
