// The heatmap of an image beside what is salient in it; or of two images, what makes them alike.
const { table, paint, peak, colour, emit, on } = window.ais;
const find = (selector) => element.querySelector(selector);
const most = 720; // pixels of a pane's longer side
const amber = [[255, 176, 0], [255, 176, 0]]; // what is salient is shown by strength alone
let data = null;
let images = [];
let hidden = false;

function become(state, sentence = "") { // an error is shown beside what is there
  find(".busy").hidden = state !== "busy";
  find(".sorry").hidden = !sentence;
  find(".sorry p").textContent = sentence;
  if (state === "empty") data = null;
  if (sentence) emit("heatmaps-kept");
  find(".shown").hidden = !data;
  find(".empty").hidden = !!data;
}
function draw(canvas, image, side, values, anchors) {
  const k = Math.min(1, most / Math.max(side.width, side.height));
  [canvas.width, canvas.height] = [side.width, side.height].map((size) => Math.max(1, Math.round(size * k)));
  const context = canvas.getContext("2d");
  if (anchors === amber && !hidden) context.filter = "grayscale(1) brightness(0.6)";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  if (hidden) return;
  const layer = document.createElement("canvas");
  [layer.width, layer.height] = [canvas.width, canvas.height];
  const pixels = new ImageData(layer.width, layer.height);
  const heat = { values, h: side.h, w: side.w, box: side.box };
  const colours = table(anchors, { sign: "both", threshold: 0, opacity: 0.75 });
  paint(new Uint32Array(pixels.data.buffer), layer.width, layer.height, { x: 0, y: 0, k: canvas.width / side.width }, heat, peak(values), colours, true);
  layer.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
}
function pane(side, values, anchors, label) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  caption.textContent = label;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${side.name}: ${label}`);
  draw(canvas, images[data.sides.indexOf(side)], side, values, anchors);
  figure.append(canvas, caption);
  return figure;
}
function render() {
  const panes = data.sides.map((side) => pane(side, side.grid, data.colors, side.label));
  if (data.saliency) panes.push(pane(data.sides[0], data.saliency, amber, "Saliency"));
  find(".panes").replaceChildren(...panes);
  find(".hide-heatmap").setAttribute("aria-pressed", hidden);
}
const opened = (address) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = reject;
  image.src = address;
});
async function load() {
  const value = props.value;
  if (!value || value === data) return;
  if (value.error) return become("error", value.error);
  let fresh;
  try {
    fresh = await Promise.all(value.sides.map(({ image }) => opened(image.url)));
  } catch {
    return become("error", "The picture could not be displayed. Choose it again.");
  }
  if (value.run !== props.value?.run) return; // a newer one is on its way
  [data, images] = [value, fresh];
  find("h2").textContent = data.title;
  find(".lead").textContent = data.lead;
  find(".meaning").textContent = data.meaning;
  [find(".lowers").textContent, find(".raises").textContent] = data.ends;
  const stops = Array.from({ length: 41 }, (_, i) => `rgb(${colour(i / 20 - 1, data.colors).join(" ")}) ${i * 2.5}%`);
  find(".colours").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  render();
  become("ready");
  emit("heatmaps-shown");
  if (matchMedia("(max-width: 900px)").matches) element.scrollIntoView({ block: "nearest", behavior: "smooth" });
}
find(".hide-heatmap").addEventListener("click", () => { hidden = !hidden; render(); });
on("heatmaps-asked", () => become("busy"));
on("stimuli-shown", () => become("empty")); // others
on("ended", ({ request, failure }) => { if (request === "stimuli.selected" && failure) become("error", failure); });
find(".dismiss").addEventListener("click", () => become(data ? "ready" : "empty"));
element.ais = { get data() { return data; } };
watch("value", load);
load();
