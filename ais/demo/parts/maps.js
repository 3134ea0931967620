// The feature maps that made a place, as small images; one can be laid over the large image instead of the heatmap.
const { emit, on, colour, peak, sample, signed, decimals } = window.ais;
const find = (selector) => element.querySelector(selector);
const coarse = matchMedia("(pointer: coarse)").matches;
let shown = null;
let title = ""; // of what is shown

function note(text, failure = "") {
  find(".note").textContent = text;
  find(".failed").textContent = failure;
  find(".failed").hidden = !failure;
}
function invite() {
  find(".strip").replaceChildren();
  find(".sides").hidden = true;
  shown = null;
  title = `${coarse ? "Touch and hold" : "Click"} a place in the picture to see which feature maps made it.`;
  note(title);
}
const fail = (sentence) => note(title, sentence); // the maps shown before stay

const tints = () => [-0.8, 0.8].map((v) => colour(v, window.ais.current.data.colors)); // of what lowers, of what raises
function thumbnail({ values, h, w, value, unit }) {
  const { image, data } = window.ais.current;
  const canvas = document.createElement("canvas");
  const ratio = data.width / data.height;
  canvas.width = Math.round(168 * Math.min(1, Math.max(ratio, 0.4)));
  canvas.height = Math.round(168 * Math.min(1, 1 / Math.min(ratio, 2.5)));
  const context = canvas.getContext("2d");
  context.filter = "grayscale(1) brightness(0.8)";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  const map = { values, h, w, box: data.box };
  const most = peak(values);
  const tint = tints();
  const layer = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let j = 0, p = 0; j < canvas.height; j++) {
    for (let i = 0; i < canvas.width; i++, p += 4) {
      const v = sample(map, ((i + 0.5) / canvas.width) * data.width, ((j + 0.5) / canvas.height) * data.height);
      const a = most > 0 && (unit || v > 0) ? Math.min(1, Math.abs(v) / most) * 0.8 : 0;
      tint[Number((unit ? v : value) >= 0)].forEach((c, k) => { layer.data[p + k] += (c - layer.data[p + k]) * a; });
    }
  }
  context.putImageData(layer, 0, 0);
  return canvas;
}
function mark() {
  for (const button of find(".strip").children) button.setAttribute("aria-pressed", Number(button.dataset.index) === shown);
}
function card(item, digits) {
  const button = document.createElement("button");
  const [value, name, total] = ["strong", "span", "small"].map((tag) => document.createElement(tag));
  const [here, whole] = [signed(item.value, digits.here), signed(item.importance, digits.whole)];
  value.textContent = here;
  value.className = item.value < 0 ? "lowers" : "raises";
  name.textContent = [`map ${item.number}`, item.network].filter(Boolean).join(" of ");
  total.textContent = `${whole} in all`;
  button.type = "button";
  button.dataset.index = item.index;
  button.title = `${here} points at this place, ${whole} in the whole picture. Show the map on the picture.`;
  button.append(thumbnail(item), value, name, total);
  button.addEventListener("click", () => {
    const sign = item.value < 0 ? -1 : 1;
    const values = item.unit ? item.values : item.values.map((v) => sign * Math.max(v, 0));
    emit("map", shown === item.index ? null : { ...item, values });
  });
  return button;
}
function load() {
  const value = props.value;
  if (!value) return invite();
  if (value.error) return fail(value.error);
  const most = (key) => Math.max(...value.items.map((item) => Math.abs(item[key])));
  const digits = { here: decimals(most("value")), whole: decimals(most("importance")) };
  emit("map", null);
  find(".strip").replaceChildren(...value.items.map((item) => card(item, digits)));
  title = value.title;
  note(title);
  find(".sides").hidden = !value.items.some(({ unit }) => unit);
  tints().reverse().forEach((tint, i) => { element.querySelectorAll(".sides i")[i].style.background = `rgb(${tint.join(" ")})`; });
}
on("asked", () => { note("Looking at this place…"); });
on("ended", ({ request, failure }) => { if (request === "overlay.place" && failure) fail(failure); });
on("map", (chosen) => { shown = chosen?.index ?? null; mark(); });
on("shown", invite);
watch("value", load);
load();
