// The page's tabs. The one chosen stands in the address and on the body; all are there, one is shown.
const { emit, follow } = window.ais;
const names = props.tabs.map(({ name }) => name);
const tabs = props.tabs.map(({ name, label }) => {
  const tab = Object.assign(document.createElement("button"), { type: "button", value: name, textContent: label });
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", `ais-tab-${name}`);
  return tab;
});
element.querySelector("nav").append(...tabs);
function open(name) {
  document.body.dataset.aisTab = name;
  element.querySelector(".about").textContent = props.tabs[names.indexOf(name)].about;
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab.value === name);
    tab.tabIndex = tab.value === name ? 0 : -1;
  }
  emit("tab", { name });
}
function choose(tab) {
  open(tab.value);
  follow("tab", tab.value === names[0] ? "" : tab.value);
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
const asked = new URLSearchParams(location.search).get("tab");
open(names.includes(asked) ? asked : names[0]);
