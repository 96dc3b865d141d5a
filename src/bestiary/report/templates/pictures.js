// Opens pictures larger; the page can be read without this script.
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img"), words = dialog.querySelector(".words"), place = dialog.querySelector(".place");
const copy = dialog.querySelector("[data-copy]");
let current = null;
const show = (button) => {
  current = button;
  const small = button.querySelector("img"), caption = button.closest("figure").querySelector("figcaption");
  large.src = small.src;
  large.alt = small.alt;
  words.textContent = caption.innerText;
  place.textContent = caption.querySelector(".name").title;
  copy.textContent = "Copy path";
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
  button.addEventListener("click", () => { show(button); dialog.showModal(); });
}
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

// Folded parts would be missing in print.
addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
