// The page's two tabs. The one chosen stands in the address and on the body; the parts are all there, one half hidden.
const { tell, follow } = window.ais;
const tabs = [...element.querySelectorAll("nav button")];
const about = {
  score: "The score people would give a picture, and where in it that score comes from.",
  similarity: "What makes pictures alike to people, and where in them it lies.",
};
function open(name) {
  document.body.dataset.aisTab = name;
  element.querySelector(".about").textContent = about[name];
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab.value === name);
    tab.tabIndex = tab.value === name ? 0 : -1;
  }
  tell("tab", { name });
}
function choose(tab) {
  open(tab.value);
  follow("tab", tab.value === "score" ? "" : tab.value);
}
element.querySelector("nav").addEventListener("click", (event) => event.target.value && choose(event.target));
element.querySelector("nav").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  next.focus();
  choose(next);
});
open(new URLSearchParams(location.search).get("tab") === "similarity" ? "similarity" : "score");
