// What the components share: pure functions of the heatmap (sampling, colour, words) and of scales, and how components
// hear of each other and of the address. No state.
window.ais ??= (() => {
  const clamp = (v, lo, hi) => Math.min(Math.max(v, lo), hi);

  // Where image coordinate `p` falls on an axis of n cells over [start, stop]: two cells and a weight.
  // Half-pixel centres and clamped edges, the formula of `Placement.upsample`; null where not seen.
  function locate(p, start, stop, n, smooth) {
    if (p < start || p > stop) return null;
    const t = ((p - start) / (stop - start)) * n;
    if (!smooth) {
      const cell = clamp(Math.floor(t), 0, n - 1);
      return [cell, cell, 0];
    }
    const u = clamp(t - 0.5, 0, n - 1);
    const low = Math.floor(u);
    return [low, Math.min(low + 1, n - 1), u - low];
  }

  // The map's value at an image coordinate (pixel centres are at .5); NaN where not seen.
  function sample(map, x, y, smooth = true) {
    const [x0, y0, x1, y1] = map.box;
    const column = locate(x, x0, x1, map.w, smooth);
    const row = locate(y, y0, y1, map.h, smooth);
    if (!column || !row) return NaN;
    const across = (r) => {
      const left = map.values[r * map.w + column[0]];
      return left + (map.values[r * map.w + column[1]] - left) * column[2];
    };
    const top = across(row[0]);
    return top + (across(row[1]) - top) * row[2];
  }

  // The cells of the rectangle with these two image coordinates in it, [left, top, right, bottom], ends included.
  function cellsBetween(map, one, other) {
    const [x0, y0, x1, y1] = map.box;
    const cell = (p, start, stop, n) => locate(clamp(p, start, stop), start, stop, n, false)[0];
    const across = [one.x, other.x].map((x) => cell(x, x0, x1, map.w)).sort((a, b) => a - b);
    const down = [one.y, other.y].map((y) => cell(y, y0, y1, map.h)).sort((a, b) => a - b);
    return [across[0], down[0], across[1], down[1]];
  }

  // The sum of a grid's cells in such a rectangle.
  function sumOf({ w }, values, [left, top, right, bottom]) {
    let sum = 0;
    for (let row = top; row <= bottom; row++) for (let column = left; column <= right; column++) sum += values[row * w + column];
    return sum;
  }

  // The standard deviation, as `Explanation.spread`: of all the values that there are.
  function deviation(values) {
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
  }

  const peak = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

  // Colour of v in [-1, 1] between the anchors, [r, g, b].
  function colour(v, anchors) {
    const t = (clamp(v, -1, 1) + 1) / 2 * (anchors.length - 1);
    const low = Math.min(Math.floor(t), anchors.length - 2);
    return anchors[low].map((a, i) => Math.round(a + (anchors[low + 1][i] - a) * (t - low)));
  }

  // How opaque the colour of v is, before the opacity slider: clear near zero, as `ais.attribution.colors.overlay`.
  const strength = (v) => Math.min(1, Math.abs(v)) ** 0.75;

  const shown = (v, { sign, threshold }) =>
    !(Math.abs(v) < threshold) && !(sign === "raises" && v < 0) && !(sign === "lowers" && v > 0);

  // All settings in one table: entry i is the packed RGBA of v = 2 i / (size - 1) - 1.
  function table(anchors, settings, size = 4097) {
    const bytes = new Uint8ClampedArray(size * 4);
    for (let i = 0; i < size; i++) {
      const v = (2 * i) / (size - 1) - 1;
      if (!shown(v, settings)) continue;
      bytes.set(colour(v, anchors), i * 4);
      bytes[i * 4 + 3] = 255 * settings.opacity * strength(v);
    }
    return new Uint32Array(bytes.buffer);
  }

  // Paints the map as seen through `view`: the pixel (i, j) shows the place view.x + (i + .5) / view.k, likewise y.
  function paint(pixels, width, height, view, map, top, colours, smooth) {
    const [x0, y0, x1, y1] = map.box;
    const last = colours.length - 1;
    const columns = Array.from({ length: width }, (_, i) =>
      locate(view.x + (i + 0.5) / view.k, x0, x1, map.w, smooth));
    const from = columns.findIndex(Boolean);
    const to = columns.findLastIndex(Boolean);
    const left = Int32Array.from(columns, (c) => (c ? c[0] : 0));
    const right = Int32Array.from(columns, (c) => (c ? c[1] : 0));
    const weight = Float64Array.from(columns, (c) => (c ? c[2] : 0));
    const line = new Float64Array(map.w);
    const gain = top > 0 ? last / (2 * top) : 0;
    pixels.fill(0);
    for (let j = 0; j < height && from >= 0; j++) {
      const row = locate(view.y + (j + 0.5) / view.k, y0, y1, map.h, smooth);
      if (!row) continue;
      for (let c = 0; c < map.w; c++) {
        const a = map.values[row[0] * map.w + c];
        const b = map.values[row[1] * map.w + c];
        line[c] = (a + (b - a) * row[2]) * gain + last / 2 + 0.5;
      }
      for (let i = from, p = j * width + from; i <= to; i++, p++) {
        const a = line[left[i]];
        pixels[p] = colours[(a + (line[right[i]] - a) * weight[i]) | 0];
      }
    }
  }

  // Decimals that show three digits of the largest value.
  const decimals = (top) => (top > 0 ? clamp(2 - Math.floor(Math.log10(top)), 0, 8) : 2);
  function signed(v, digits) {
    const text = Math.abs(v).toFixed(digits);
    return Number(text) === 0 ? text : (v < 0 ? "\u2212" : "+") + text;
  }

  // The ticks of a scale from low to high: where each stands, as a share of the scale, and what it says. The ends are
  // labelled as they are. Between them are round numbers, counted from the low end where that leads to the high one.
  function ticks(low, high, room = 46) { // characters on the line
    const span = high - low;
    const tick = (v) => ({ share: (v - low) / span, text: String(v).replace(/^-/, "\u2212") });
    const [first, last] = [tick(low), tick(high)];
    const beside = ({ share, text }) => // neither label of the ends is touched
      share * room - text.length / 2 > first.text.length + 0.5 && (1 - share) * room - text.length / 2 > last.text.length + 0.5;
    const whole = (v) => Math.abs(v - Math.round(v)) < 1e-6;
    const magnitude = Math.floor(Math.log10(span));
    const steps = [-2, -1, 0].flatMap((k) => [1, 2, 2.5, 5].map((digit) => Number(`${digit}e${magnitude + k}`)));
    const scales = steps.filter((step) => span / step > 2 && span / step < 10.5).map((step) => {
      const count = span / step;
      const even = whole(count) && whole((2 * low) / step);
      const start = even ? low : Math.ceil(low / step) * step;
      const values = Array.from({ length: Math.ceil(count) + 1 }, (_, i) => Number((start + i * step).toPrecision(12)));
      const between = values.filter((v) => v > low + step * 0.49 && v < high - step * 0.49).map(tick);
      const inner = between.filter(beside);
      const full = inner.some(({ text }) => text.length + 0.5 > (step / span) * room);
      return { inner, cost: full ? Infinity : Math.abs(count - 5) + (even ? 0 : 10) + 5 * (between.length - inner.length) };
    });
    return [first, ...scales.reduce((best, one) => (one.cost < best.cost ? one : best)).inner, last];
  }

  const emit = (name, detail) => document.dispatchEvent(new CustomEvent("ais:" + name, { detail }));
  const on = (name, callback) => document.addEventListener("ais:" + name, (event) => callback(event.detail ?? {}));

  // Keep a choice in the page's address, so that it leads back here; "" takes it out.
  function follow(name, value) {
    const address = new URL(location.href);
    address.searchParams.delete(name);
    if (value) {
      const text = encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("%40", "@");
      address.search = [address.search.slice(1), `${name}=${text}`].filter(Boolean).join("&");
    }
    history.replaceState(history.state, "", address);
    if (window.parent !== window) window.parent.postMessage({ queryString: address.search }, "https://huggingface.co"); // a Space's frame
  }

  // How far a request is, behind what it is doing; nothing where nothing is known.
  function soFar({ before, share, left }) {
    if (before > 0) return `: ${before} ${before === 1 ? "request" : "requests"} before yours`;
    return share === null ? "" : `: ${[`${Math.round(share * 100)} %`, left].filter(Boolean).join(", ")}`;
  }

  // Whether a component's value belongs to the image that is shown: one whose image failed is never half shown.
  const belongs = (value) => !value?.run || value.run === window.ais.current?.data.run;

  return { clamp, locate, sample, cellsBetween, sumOf, deviation, peak, colour, strength, shown, table, paint, decimals, signed, ticks, emit, on, follow, soFar, belongs };
})();
