// The image under its heatmap. Everything but 'place' and 'save' happens here, without the server.
const { clamp, sample, cellsBetween, sumOf, deviation, peak, colour, shown, table, paint, decimals, signed, emit, on, soFar, sentences } = window.ais;
const find = (selector) => element.querySelector(selector);
const canvas = find("canvas");
const context = canvas.getContext("2d");
const stage = find(".stage");
const layer = document.createElement("canvas");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const settings = { sign: "both", drawing: "smooth", scale: "points", opacity: 0.7, threshold: 0, doubt: false };

let data = null; // the value: image, box, grids, colours
let image = null; // the loaded display copy
let pinnedMap = null; // a single feature map shown instead of the heatmap
let member = ""; // the number of a stack's member whose heatmap is shown instead of the stack's
let cursor = null; // the place being read, image coordinates
let pinned = null; // the place last clicked
let region = null; // two corners of a rectangle whose cells are summed; open while the second one follows the cursor
let before = null; // the place that the feature maps shown are of, in a list, while others are asked for
let view = { zoom: 1, x: 0, y: 0 }; // image coordinate in the middle of the stage
let hidden = false; // the original image, while peeking
let fade = 1; // the heatmap appears gently
let pending = 0;
let doing = ""; // what the page waits for
let stopped = 0; // requests whose answers nobody waits for any more

const css = (name) => getComputedStyle(element).getPropertyValue(name).trim();
const source = () => data.members[member] ?? data; // the stack itself, or a member of it
const map = () => pinnedMap ?? { ...source(), values: source().grids[settings.scale] };
const top_ = () => peak(map().values);
const activation = () => !!pinnedMap && !pinnedMap.unit; // it has one side alone, and the colour of its map
const unit = () => pinnedMap ? pinnedMap.unit || "activation" : data.units[settings.scale];
const shownSettings = () => pinnedMap ? { sign: "both", threshold: 0, opacity: settings.opacity } : settings;
const ends = () => activation() ? [0, 1] : [-1, 1]; // of the colour bar
const variants = () => !pinnedMap && source().variants.length > 1 ? source().variants : null; // in points
const doubtful = () => source().doubtful[settings.scale]; // cells; none where no variants are told apart
const summed = () => region && !pinnedMap && data.summable ? cellsBetween(source(), ...region.corners) : null;
const colourOf = (v) => colour(activation() && pinnedMap.lowers ? -v : v, data.colors);

// Geometry ---------------------------------------------------------------------------------------------------

function fit() {
  return Math.min(stage.clientWidth / data.width, stage.clientHeight / data.height);
}
function project() {
  const k = fit() * view.zoom;
  const room = (size, extent) => Math.max(0, (extent - size / k) / 2);
  view.x = data.width / 2 + clamp(view.x - data.width / 2, -room(stage.clientWidth, data.width), room(stage.clientWidth, data.width));
  view.y = data.height / 2 + clamp(view.y - data.height / 2, -room(stage.clientHeight, data.height), room(stage.clientHeight, data.height));
  return { k, x: view.x - stage.clientWidth / 2 / k, y: view.y - stage.clientHeight / 2 / k };
}
function placeOf(event, nearest = false) { // image coordinates under the pointer; null beside the image, or the nearest ones
  const bounds = canvas.getBoundingClientRect();
  const { k, x, y } = project();
  const at = { x: x + (event.clientX - bounds.left) / k, y: y + (event.clientY - bounds.top) / k };
  if (nearest) return { x: clamp(at.x, 0, data.width), y: clamp(at.y, 0, data.height) };
  return at.x < 0 || at.y < 0 || at.x >= data.width || at.y >= data.height ? null : at;
}
function zoomBy(factor, at) {
  if (!data) return;
  const before = project();
  const zoom = clamp(view.zoom * factor, 1, 40);
  at ??= cursor ?? { x: view.x, y: view.y };
  const ratio = view.zoom / zoom; // the place under the cursor stays where it is
  view = { zoom, x: at.x + (before.x + stage.clientWidth / 2 / before.k - at.x) * ratio, y: at.y + (before.y + stage.clientHeight / 2 / before.k - at.y) * ratio };
  canvas.style.touchAction = zoom > 1 ? "none" : "pan-y";
  draw();
}
function size() { // the stage takes the image's shape, within reason
  const most = clamp(innerHeight * 0.62, 260, 760);
  stage.style.height = (data ? clamp((stage.clientWidth * data.height) / data.width, 210, most) : most) + "px";
  const dense = Math.min(devicePixelRatio || 1, 3);
  canvas.width = Math.round(stage.clientWidth * dense);
  canvas.height = Math.round(stage.clientHeight * dense);
}

// Drawing ----------------------------------------------------------------------------------------------------

function compose(context, shape, lens, plain) { // image, border and map through one lens, in device pixels
  const colours = table(data.colors, { ...shownSettings(), opacity: shownSettings().opacity * fade });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, shape.width, shape.height);
  context.setTransform(lens.k, 0, 0, lens.k, -lens.x * lens.k, -lens.y * lens.k);
  context.imageSmoothingEnabled = lens.k * data.width < image.naturalWidth * 6;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, data.width, data.height);
  if (plain) return;
  border(context, lens);
  context.setTransform(1, 0, 0, 1, 0, 0);
  layer.width = shape.width;
  layer.height = shape.height;
  const heat = layer.getContext("2d");
  const pixels = heat.createImageData(shape.width, shape.height);
  const seen = map();
  paint(new Uint32Array(pixels.data.buffer), shape.width, shape.height, lens, seen, peak(seen.values), colours, settings.drawing === "smooth");
  heat.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
}
function border(context, lens) { // what the network did not see: dimmed and hatched
  const [x0, y0, x1, y1] = data.box;
  if (x0 <= 0.5 && y0 <= 0.5 && x1 >= data.width - 0.5 && y1 >= data.height - 0.5) return;
  context.save();
  context.beginPath();
  context.rect(0, 0, data.width, data.height);
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.clip("evenodd");
  context.fillStyle = "rgb(18 19 24 / 0.55)";
  context.fillRect(0, 0, data.width, data.height);
  context.strokeStyle = "rgb(255 255 255 / 0.22)";
  const dense = canvas.width / stage.clientWidth;
  context.lineWidth = dense / lens.k;
  lines(context, lens, 9, true);
  context.stroke();
  context.restore();
}
function lines(context, lens, step, rising) { // parallel ones over all of the image, `step` device pixels apart
  const dense = canvas.width / stage.clientWidth;
  const apart = (step * dense) / lens.k;
  context.beginPath();
  for (let d = -data.height; d < data.width; d += apart) {
    context.moveTo(d, rising ? data.height : 0);
    context.lineTo(d + data.height, rising ? 0 : data.height);
  }
}
function cellOf([column, row], { box: [x0, y0, x1, y1], w, h }) { // x, y, width, height of a cell on the image
  return [x0 + (column * (x1 - x0)) / w, y0 + (row * (y1 - y0)) / h, (x1 - x0) / w, (y1 - y0) / h];
}
function doubts(context, lens) { // hatched where too few variants agree
  const seen = source();
  if (!settings.doubt || pinnedMap || !doubtful()) return;
  const dense = canvas.width / stage.clientWidth;
  context.save();
  context.setTransform(lens.k, 0, 0, lens.k, -lens.x * lens.k, -lens.y * lens.k);
  context.beginPath();
  doubtful().forEach((yes, i) => yes && context.rect(...cellOf([i % seen.w, Math.floor(i / seen.w)], seen)));
  context.clip();
  lines(context, lens, 11, false);
  for (const [width, style] of [[2.4, "rgb(0 0 0 / 0.4)"], [1, "rgb(255 255 255 / 0.8)"]]) {
    context.lineWidth = (width * dense) / lens.k;
    context.strokeStyle = style;
    context.stroke();
  }
  context.restore();
}
function frame(lens) { // around the cells that are summed
  const cells = summed();
  if (!cells) return;
  const seen = source();
  const [x, y, width, height] = cellOf(cells, seen);
  const dense = canvas.width / stage.clientWidth;
  const [across, down] = [cells[2] - cells[0] + 1, cells[3] - cells[1] + 1];
  for (const [line, style] of [[4, "rgb(0 0 0 / 0.55)"], [2, "#fff"]]) {
    context.lineWidth = line * dense;
    context.strokeStyle = style;
    context.strokeRect((x - lens.x) * lens.k, (y - lens.y) * lens.k, width * across * lens.k, height * down * lens.k);
  }
}
function ring(at, radius, lens) {
  const dense = canvas.width / stage.clientWidth;
  for (const [width, style] of [[3.5, "rgb(0 0 0 / 0.55)"], [1.75, "#fff"]]) {
    context.lineWidth = width * dense;
    context.strokeStyle = style;
    context.beginPath();
    context.arc((at.x - lens.x) * lens.k, (at.y - lens.y) * lens.k, radius * dense, 0, 7);
    context.stroke();
  }
}
function render() {
  pending = 0;
  if (!data || !image || !stage.clientWidth || !canvas.width) return; // the observer of its size draws again
  const dense = canvas.width / stage.clientWidth;
  const lens = project();
  lens.k *= dense;
  compose(context, canvas, lens, hidden);
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (!hidden) doubts(context, lens); // not in `compose`: no file is hatched
  if (!hidden) frame(lens);
  if (pinned && !hidden) ring(pinned, 7, lens);
  if (cursor?.key) ring(cursor, 3, lens);
  read();
}
const draw = () => { pending ||= requestAnimationFrame(render); };
function appear() {
  if (still.matches) return void ((fade = 1), draw());
  const start = performance.now();
  const step = (now) => {
    fade = clamp((now - start) / 450, 0, 1);
    draw();
    if (fade < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

// Reading ----------------------------------------------------------------------------------------------------

function words(at) {
  const pixel = { x: Math.floor(at.x) + 0.5, y: Math.floor(at.y) + 0.5 };
  const value = sample(map(), pixel.x, pixel.y, settings.drawing === "smooth");
  if (Number.isNaN(value)) return { value, text: "not seen by the network", unit: "" };
  const digits = decimals(top_());
  if (activation()) return { value: Math.abs(value), text: Math.abs(value).toFixed(digits), unit: unit() };
  const each = settings.scale === "points" && variants();
  const here = each && each.map((values) => sample({ ...source(), values }, pixel.x, pixel.y, settings.drawing === "smooth"));
  return { value, text: signed(value, digits) + (here ? ` ± ${deviation(here).toFixed(digits)}` : ""), unit: unit() };
}
function total(cells) { // of the cells of a region, always in points, with its own standard deviation
  const seen = source();
  const sum = sumOf(seen, seen.grids.points, cells);
  const each = variants()?.map((values) => sumOf(seen, values, cells));
  const spread = each ? deviation(each) : 0;
  const digits = decimals(Math.max(Math.abs(sum), spread));
  const count = (cells[2] - cells[0] + 1) * (cells[3] - cells[1] + 1);
  return { sum: signed(sum, digits) + (each ? ` ± ${spread.toFixed(digits)}` : ""), unit: data.unitOfSum, of: `${count} of ${seen.w * seen.h} cells` };
}
function read() {
  const cells = data && summed();
  find(".region").hidden = !cells;
  if (cells) {
    const { sum, unit, of } = total(cells);
    find(".region strong").textContent = sum;
    find(".region span").textContent = `${unit} in ${of}`;
  }
  const readout = find(".readout");
  const needle = find(".needle");
  readout.hidden = needle.hidden = !cursor || !data;
  if (readout.hidden) return;
  const { value, text, unit } = words(cursor);
  readout.querySelector("strong").textContent = text;
  readout.querySelector("span").textContent = unit;
  const { k, x, y } = project();
  const left = (cursor.x - x) * k;
  const up = (cursor.y - y) * k;
  readout.style.left = clamp(left, readout.offsetWidth / 2 + 6, stage.clientWidth - readout.offsetWidth / 2 - 6) + "px";
  readout.style.top = (up < 56 ? up + 40 : up - 22) + "px";
  needle.hidden = Number.isNaN(value);
  const [from, to] = ends();
  needle.style.left = (((top_() ? value / top_() : 0) - from) / (to - from)) * 100 + "%";
}
function say() {
  const { text, unit } = words(cursor);
  find(".live").textContent = `${text} ${unit} at ${Math.floor(cursor.x)}, ${Math.floor(cursor.y)}`;
}
function saySum() {
  const { sum, unit, of } = total(summed());
  find(".live").textContent = `${sum} ${unit} in ${of}`;
}
function select(at) { // the region reaches to here
  region.corners[1] = { x: at.x, y: at.y };
  draw();
}
function unselect() {
  region = null;
  draw();
}
function ask(at) { // which feature maps made this place
  before ??= [pinned];
  pinned = { x: at.x, y: at.y };
  draw();
  emit("asked", pinned);
  trigger("place", { x: at.x, y: at.y });
}

// Controls ---------------------------------------------------------------------------------------------------

function controls() {
  for (const group of element.querySelectorAll(".group")) {
    for (const button of group.children) {
      button.setAttribute("aria-pressed", settings[group.dataset.setting] === button.value);
      if (group.dataset.setting === "scale") button.disabled = !!pinnedMap || !data?.grids[button.value];
      if (group.dataset.setting === "sign") button.disabled = !!pinnedMap;
    }
  }
  for (const name of ["opacity", "threshold"]) {
    find("." + name).value = settings[name];
    find(`.${name} + output`).textContent = Math.round(settings[name] * 100) + " %";
    find("." + name).style.setProperty("--at", (settings[name] / find("." + name).max) * 100 + "%");
  }
  find(".threshold").disabled = !!pinnedMap;
  find(".doubt").hidden = !data || !doubtful();
  find(".doubt input").checked = settings.doubt;
  find(".doubt input").disabled = !!pinnedMap;
  find(".doubt small").hidden = !settings.doubt;
  find(".doubt small").textContent = data?.doubt ?? "";
  find(".spread").hidden = !data || !variants();
  find(".spread").textContent = find(".region").title = data && variants() ? data.spread : "";
  find(".whose").hidden = !data?.members.length;
  find(".whose select").value = member;
  find(".whose select").disabled = !!pinnedMap;
  find(".pinned-map").hidden = !pinnedMap;
  find(".pinned-map span").textContent = pinnedMap ? [`Feature map ${pinnedMap.number}`, pinnedMap.network].filter(Boolean).join(" of ") : "";
  if (data) legend();
}
function legend() {
  const top = top_();
  const digits = decimals(top);
  const [from, to] = ends();
  const number = (v) => (activation() ? (v * top).toFixed(digits) : signed(v * top, digits));
  const stops = Array.from({ length: 81 }, (_, i) => {
    const v = from + ((to - from) * i) / 80;
    const kept = shown(v, shownSettings());
    return `rgb(${colourOf(v).join(" ")} / ${kept ? 1 : 0.12}) ${(i / 80) * 100}%`;
  });
  find(".colours").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  find(".ramp ol").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => {
    const tick = document.createElement("li");
    const v = from + (to - from) * share;
    tick.textContent = v ? number(v) : "0";
    tick.style.left = share * 100 + "%";
    return tick;
  }));
  const words = activation() ? ["not active", "most active"] : ["lowers the score", "raises the score"];
  ["lowers", "raises"].forEach((side, i) => {
    const end = find(`.legend > .end-${side}`);
    end.textContent = words[i];
    end.classList.toggle(side, !activation());
  });
  find(".ramp").setAttribute("aria-label", activation() ? `Colour bar of the activation of a feature map, from 0 to ${number(1)}`
    : `Colour bar from ${number(-1)} to ${number(1)} ${unit()}: blue lowers the score, red raises it`);
  find(".ramp").dataset.unit = unit();
}
function change(name, value) {
  settings[name] = value;
  controls();
  draw();
}
element.querySelectorAll(".group").forEach((group) => group.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) change(group.dataset.setting, button.value);
}));
for (const name of ["opacity", "threshold"]) find("." + name).addEventListener("input", (event) => change(name, Number(event.target.value)));
find(".doubt input").addEventListener("change", ({ target }) => change("doubt", target.checked));
find(".region button").addEventListener("click", () => { unselect(); canvas.focus(); });
find(".zoom-in").addEventListener("click", () => zoomBy(1.6, { x: view.x, y: view.y }));
find(".zoom-out").addEventListener("click", () => zoomBy(1 / 1.6, { x: view.x, y: view.y }));
find(".reset").addEventListener("click", () => zoomBy(0));
find(".pinned-map").addEventListener("click", () => emit("map", null));
const peek = (on) => { hidden = on; find(".peek").setAttribute("aria-pressed", on); draw(); };
find(".peek").addEventListener("pointerdown", (event) => { event.target.setPointerCapture?.(event.pointerId); peek(true); });
for (const name of ["pointerup", "pointercancel", "blur"]) find(".peek").addEventListener(name, () => peek(false));
find(".peek").addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && (event.preventDefault(), peek(true)));
find(".peek").addEventListener("keyup", () => peek(false));

// Pointer: hover reads, a click asks, a drag sums a region, or pans what is larger than the stage, where it sums with
// Shift; on touch a tap reads, a long one asks, two fingers pinch ----------------------------------------------

const fingers = new Map();
let press = null;
let pinch = null;
let asking = 0;
const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };
const between = () => { const [a, b] = [...fingers.values()]; return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 }; };
canvas.addEventListener("pointerdown", (event) => {
  if (!data || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
  if (fingers.size === 2) {
    clearTimeout(press?.timer);
    press = null;
    pinch = { from: spread(), zoom: view.zoom };
  } else {
    press = { event, view: { ...view }, moved: false };
    if (event.pointerType === "touch") press.timer = setTimeout(() => {
      const at = placeOf(event);
      if (at && press && !press.moved) { press.moved = true; cursor = at; ask(at); }
    }, 500);
  }
});
canvas.addEventListener("pointermove", (event) => {
  if (!data) return;
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
  if (pinch && fingers.size === 2) return zoomBy((pinch.zoom * spread()) / pinch.from / view.zoom, placeOf(between()) ?? undefined);
  if (press && Math.hypot(event.clientX - press.event.clientX, event.clientY - press.event.clientY) > 5) press.moved = true;
  if (press?.moved && event.pointerType !== "touch" && (view.zoom === 1 || press.event.shiftKey) && data.summable && !pinnedMap) {
    const from = placeOf(press.event);
    if (from && !press.region) region = { corners: [from, from] };
    press.region ||= !!from;
    if (press.region) select(placeOf(event, true));
  } else if (press?.moved && view.zoom > 1) {
    const { k } = project();
    view.x = press.view.x - (event.clientX - press.event.clientX) / k;
    view.y = press.view.y - (event.clientY - press.event.clientY) / k;
    canvas.classList.add("panning");
  }
  if (event.pointerType !== "touch" || !press) cursor = placeOf(event);
  draw();
});
const release = (event) => {
  fingers.delete(event.pointerId);
  if (fingers.size < 2) pinch = null;
  clearTimeout(press?.timer);
  if (press?.region && region) saySum();
  const tapped = press && !press.moved && event.type === "pointerup" ? placeOf(event) : null;
  press = null;
  canvas.classList.remove("panning");
  if (!tapped) return;
  cursor = tapped;
  if (event.pointerType === "touch") return void (say(), draw());
  clearTimeout(asking); // where a double click has a meaning, wait for it
  asking = setTimeout(ask, view.zoom > 1 ? 250 : 0, tapped);
};
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && !cursor?.key) { cursor = null; draw(); } });
canvas.addEventListener("contextmenu", (event) => matchMedia("(pointer: coarse)").matches && event.preventDefault());
canvas.addEventListener("dblclick", () => { if (view.zoom > 1) clearTimeout(asking); zoomBy(0); });
canvas.addEventListener("wheel", (event) => {
  if (!data || (view.zoom === 1 && event.deltaY > 0)) return; // nothing to zoom out of: let the page scroll
  event.preventDefault();
  zoomBy(Math.exp(-clamp(event.deltaY, -120, 120) * (event.ctrlKey ? 0.012 : 0.0025)), placeOf(event) ?? undefined);
}, { passive: false });

// Keyboard ---------------------------------------------------------------------------------------------------

function corner() { // the first of a region, then its last
  if (!cursor || !data.summable || pinnedMap) return;
  if (region?.open) {
    region.open = false;
    saySum();
  } else {
    region = { corners: [cursor, cursor], open: true };
    select(cursor);
  }
}
const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), "0": () => zoomBy(0),
    "[": () => change("opacity", Math.max(0, +(settings.opacity - 0.05).toFixed(2))),
    "]": () => change("opacity", Math.min(1, +(settings.opacity + 0.05).toFixed(2))),
    " ": () => peek(true), Enter: () => cursor && ask(cursor),
    Escape: () => { cursor = null; unselect(); },
    r: () => corner(),
  };
  if (steps[event.key]) {
    const [dx, dy] = steps[event.key];
    const stride = event.shiftKey ? 1 : Math.max(1, Math.max(data.width, data.height) / 40 / view.zoom);
    const at = cursor ?? { x: data.width / 2 - dx * stride, y: data.height / 2 - dy * stride };
    cursor = { key: true, x: clamp(at.x + dx * stride, 0.5, data.width - 0.5), y: clamp(at.y + dy * stride, 0.5, data.height - 0.5) };
    const { k, x, y } = project(); // keep the cursor in sight
    if (cursor.x < x || cursor.x > x + stage.clientWidth / k) view.x = cursor.x;
    if (cursor.y < y || cursor.y > y + stage.clientHeight / k) view.y = cursor.y;
    say();
    if (region?.open) select(cursor);
    draw();
  } else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});
canvas.addEventListener("keyup", (event) => event.key === " " && peek(false));
canvas.addEventListener("blur", () => { hidden = false; if (cursor?.key) cursor = null; draw(); });

// Files ------------------------------------------------------------------------------------------------------

// The image with what its colours mean below it, as `ais.attribution.colors.with_color_bar`; of the sides that are shown.
function withColourBar(whole) {
  const size = clamp(Math.floor(whole.width / 40), 10, 28);
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [whole.width, whole.height + 7 * size];
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(whole, 0, 0);
  const { sign } = shownSettings();
  const [from, to] = activation() || sign === "raises" ? [0, 1] : sign === "lowers" ? [-1, 0] : [-1, 1];
  const width = Math.max(1, sheet.width - 2 * size);
  const top = whole.height + size;
  for (let i = 0; i < width; i++) {
    const v = from + (to - from) * (width > 1 ? i / (width - 1) : 0);
    context.fillStyle = shown(v, shownSettings()) ? `rgb(${colourOf(v).join(" ")})` : "#eee";
    context.fillRect(size + i, top, 1, 2 * size);
  }
  const largest = String(+top_().toPrecision(3));
  const left = from ? `\u2212${largest} lowers` : activation() || sign === "both" ? "0" : `0 ${unit()}`;
  const right = activation() ? largest : to ? `raises +${largest}` : `0 ${unit()}`;
  const middle = activation() ? unit() : sign === "both" ? `0 ${unit()}` : "";
  context.fillStyle = "#000";
  context.font = `${size}px sans-serif`;
  context.textBaseline = "top";
  for (const [text, x, align] of [[left, size, "left"], [middle, sheet.width / 2, "center"], [right, sheet.width - size, "right"]]) {
    context.textAlign = align;
    context.fillText(text, x, top + 2 * size + Math.floor(size / 2), (sheet.width - 2 * size) / 3.1);
  }
  return sheet;
}

find(".files").addEventListener("click", (event) => {
  const kind = event.target.value;
  if (!data || !kind) return;
  if (kind !== "png") return trigger("save", { kind, scale: settings.scale, member: member === "" ? null : Number(member) });
  const whole = document.createElement("canvas"); // the whole image, as now coloured
  whole.width = image.naturalWidth;
  whole.height = image.naturalHeight;
  compose(whole.getContext("2d"), whole, { k: whole.width / data.width, x: 0, y: 0 }, false);
  withColourBar(whole).toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${data.name}-overlay.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
});

// States: empty, busy, ready, error --------------------------------------------------------------------------

const mine = ["picker.picked", "picker.example", "choices.chosen", "overlay.save"]; // the requests that are answered here

function become(state) {
  document.body.dataset.ais = state;
  element.dataset.state = state;
  find(".busy").hidden = state !== "busy";
  find(".stop").hidden = true;
  if (state !== "ready") cursor = null;
}
function notice(sentence) { // beside what is shown, which stays
  find(".problem").hidden = !sentence;
  find(".problem p").textContent = sentence;
  find(".problem .dismiss").hidden = !data;
}
function fail(sentence) {
  doing = "";
  become(data ? "ready" : "error");
  notice(sentence);
  emit("kept");
  if (data) draw();
}
const newest = (value) => value?.run === props.value?.run; // Gradio may give the same one again as another object
function load() {
  const value = props.value;
  if (!value) return;
  if (value.error) return fail(value.error);
  const loaded = new Image();
  loaded.onload = () => {
    if (!newest(value)) return; // a newer one is on its way
    [data, image, pinnedMap, pinned, before, region, member] = [value, loaded, null, null, null, null, ""];
    view = { zoom: 1, x: value.width / 2, y: value.height / 2 };
    doing = "";
    if (!data.grids[settings.scale]) settings.scale = Object.keys(data.grids)[0];
    canvas.setAttribute("aria-label", `Heatmap of ${value.name}: which places lower and which raise the score`);
    const names = data.members.map(({ name, score }, index) => new Option(`${name}: ${score.toFixed(2)}`, index));
    find(".whose select").replaceChildren(new Option("the whole stack", ""), ...names);
    notice("");
    become("ready");
    window.ais.current = { image, data };
    emit("shown", data);
    size();
    controls();
    appear();
  };
  loaded.onerror = () => newest(value) && fail("The picture could not be displayed. Choose it again.");
  loaded.src = value.image.url;
}
on("busy", ({ sentence, fresh }) => {
  if (!data && !fresh) return;
  if (!data) size();
  notice("");
  become("busy");
  find(".busy span").textContent = doing = sentence;
});
on("fail", ({ sentence }) => fail(sentence));
on("progress", ({ request, ...progress }) => {
  if (!doing || stopped || !mine.includes(request)) return;
  find(".busy span").textContent = doing + soFar(progress);
  find(".stop").hidden = progress.share === null; // a slow method is at work
});
on("ended", ({ request, failure }) => {
  if (request === "overlay.place") {
    if (failure) [pinned] = before ?? [null];
    before = null;
    draw();
  }
  if (!mine.includes(request)) return;
  if (stopped && request !== "overlay.save") return void (stopped -= 1);
  if (failure) return request === "overlay.save" ? notice(failure) : fail(failure);
  const waited = doing;
  const { value } = props; // an answer without a value comes from a server that has forgotten this visitor
  setTimeout(() => waited && doing === waited && newest(value) && fail(sentences.expired), 1500);
});
find(".stop").addEventListener("click", () => { // what is shown stays
  stopped += 1;
  doing = "";
  become(data ? "ready" : "empty");
  emit("kept");
  trigger("stop");
  if (!data) return;
  canvas.focus();
  draw();
});
find(".dismiss").addEventListener("click", () => { notice(""); canvas.focus(); });
find(".whose select").addEventListener("change", ({ target }) => { member = target.value; region = null; controls(); draw(); });
on("map", (chosen) => {
  pinnedMap = chosen?.values ? { ...chosen, box: data.box, lowers: chosen.value < 0 } : null;
  controls();
  draw();
});
new ResizeObserver(() => { if (data || element.dataset.state === "busy") { size(); draw(); } }).observe(stage);
element.ais = { settings, words, get data() { return data; }, get cursor() { return cursor; }, get view() { return view; } };
become("empty");
controls();
watch("value", load);
load();
