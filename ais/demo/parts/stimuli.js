// Stimuli as a map: near images are alike. One image chosen asks for its heatmap, two for what makes them alike.
const { clamp, emit, on, soFar } = window.ais;
const find = (selector) => element.querySelector(selector);
const map = find(".map");
let data = null;
let geometry = "network";
let chosen = []; // one image or two, the first chosen first
let kept = []; // those whose heatmaps are shown
let pairing = false;
let doing = ""; // what the page waits for
let newest = 0; // the number of the request that was made last
let failed = ""; // the run whose problem was shown last

function busy(sentence) {
  doing = sentence;
  find(".busy").hidden = !sentence;
  find(".busy span").textContent = sentence;
}
function fail(sentence) {
  busy("");
  if (sentence) emit("stimuli-kept");
  find(".problem").hidden = !sentence;
  find(".problem p").textContent = sentence;
  if (sentence && matchMedia("(max-width: 900px)").matches) find(".problem").scrollIntoView({ block: "nearest" });
}
function say(text) {
  const hint = !data ? "" : chosen.length === 1 && pairing ? "Now choose another one."
    : chosen.length ? "" : "Choose a picture to see what makes it like or unlike the others.";
  find(".caption").textContent = text || hint;
}
const about = () => chosen.map((index) => data.images[index].name).join(" · ");

function place() {
  for (const button of map.children) {
    const [x, y] = data.places[geometry][button.dataset.index];
    button.style.setProperty("--x", x);
    button.style.setProperty("--y", y);
  }
  for (const button of find(".group").children) {
    button.setAttribute("aria-pressed", button.value === geometry);
    if (button.value === "people") button.textContent = data?.rule ? "Rule" : "Humans";
  }
}
function mark() {
  for (const button of map.children) button.setAttribute("aria-pressed", chosen.includes(Number(button.dataset.index)));
  find(".compare").setAttribute("aria-pressed", pairing);
  find(".compare").disabled = !data;
}
function choose(index, second) {
  if (second && chosen.length && chosen[0] !== index) chosen = [chosen[0], index];
  else chosen = [index];
  mark();
  say(about());
  if (pairing && chosen.length < 2) return say("");
  emit("heatmaps-asked");
  trigger("selected", { one: chosen[0], other: chosen[1] ?? null });
}
function card({ name, thumbnail }, index) {
  const button = document.createElement("button");
  const image = new Image();
  image.src = thumbnail;
  image.alt = "";
  image.draggable = false;
  button.type = "button";
  button.dataset.index = index;
  button.tabIndex = index ? -1 : 0;
  button.setAttribute("aria-label", name);
  button.append(image);
  button.addEventListener("click", (event) => choose(index, event.shiftKey || pairing));
  for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => say(name));
  for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => say(chosen.length > 1 || !pairing ? about() : ""));
  button.addEventListener("focus", () => { for (const other of map.children) other.tabIndex = other === button ? 0 : -1; });
  return button;
}
function load() {
  const value = props.value;
  if (!value) return;
  const late = value.number < newest; // a newer request is on its way, or was refused: what is said is about that one
  if (late && !value.images) return;
  if (value.error) { // the last value of a stream comes twice, the second time perhaps after a newer sentence
    if (value.run === failed) return;
    failed = value.run;
    return fail(value.error);
  }
  if (!late) fail("");
  if (value.busy) return busy(value.busy);
  if (value === data) return;
  data = value;
  chosen = kept = [];
  pairing = false;
  map.style.setProperty("--side", clamp(46 / Math.sqrt(data.images.length), 6, 15) + "%");
  map.replaceChildren(...data.images.map(card));
  find(".numbers").replaceChildren(...data.numbers.map(({ name, value: text, about: meaning }) => {
    const row = document.createElement("div");
    const [term, detail] = ["dt", "dd"].map((tag) => document.createElement(tag));
    [term.textContent, detail.textContent, row.title] = [name, text, meaning];
    row.append(term, detail);
    return row;
  }));
  map.setAttribute("aria-label", `${data.images.length} pictures; near ones are alike`);
  emit("stimuli-shown");
  place();
  mark();
  say("");
}

find(".group").addEventListener("click", ({ target }) => {
  if (!target.value || !data) return;
  geometry = target.value;
  place();
});
find(".compare").addEventListener("click", () => {
  pairing = !pairing;
  if (chosen.length > 1) chosen = chosen.slice(0, 1);
  mark();
  say(pairing && !chosen.length ? "Choose two pictures." : "");
});
map.addEventListener("keydown", (event) => { // to the nearest image in that direction
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way || !data) return;
  event.preventDefault();
  const places = data.places[geometry];
  const from = places[document.activeElement.dataset.index];
  let [best, least] = [null, Infinity];
  places.forEach(([x, y], index) => {
    const ahead = (x - from[0]) * way[0] + (y - from[1]) * way[1];
    const aside = Math.abs((x - from[0]) * way[1]) + Math.abs((y - from[1]) * way[0]);
    const cost = ahead + 2 * aside;
    if (ahead > 1e-6 && aside <= 2 * ahead && cost < least) [best, least] = [index, cost];
  });
  if (best !== null) map.children[best].focus();
});
on("comparing", ({ sentence, number }) => { newest = number; find(".problem").hidden = true; busy(sentence); });
on("comparing-failed", ({ sentence, number }) => { newest = number; fail(sentence); });
on("progress", ({ request, ...progress }) => {
  if (doing && request === "gather.gathered") find(".busy span").textContent = doing + soFar(progress);
});
on("ended", ({ request, failure }) => { if (request === "gather.gathered" && failure) fail(failure); });
on("heatmaps-shown", () => { kept = chosen; });
on("heatmaps-kept", () => { chosen = kept; mark(); say(about()); });
find(".dismiss").addEventListener("click", () => { fail(""); });
element.ais = { get data() { return data; }, get chosen() { return chosen; } };
mark();
watch("value", load);
load();
