// The score on its scale, over the ratings it was learned from.
const { on, belongs, ticks } = window.ais;
const find = (selector) => element.querySelector(selector);

// Outline of the ratings' distribution from its 101 quantiles, on a 100 x 34 field.
function outline(quantiles, low, high, bins = 48) {
  const rank = (v) => {
    const above = quantiles.findIndex((q) => q > v);
    if (above <= 0) return above ? 100 : 0;
    return above - 1 + (v - quantiles[above - 1]) / (quantiles[above] - quantiles[above - 1]);
  };
  const width = (high - low) / bins;
  const raw = Array.from({ length: bins }, (_, i) => rank(low + (i + 1) * width) - rank(low + i * width));
  const kernel = [1, 4, 7, 4, 1];
  const smooth = raw.map((_, i) => kernel.reduce((sum, k, j) => sum + k * (raw[i + j - 2] ?? 0), 0));
  const most = Math.max(...smooth);
  const points = smooth.map((v, i) => `${((i + 0.5) / bins) * 100} ${33 - (v / most) * 32}`);
  return `M0 34 L${points.join(" L")} L100 34 Z`;
}
// How the members of a stack make its score: each one's times its weight, and a constant.
function sum(terms) {
  find("details").hidden = !terms;
  if (!terms) return;
  const row = (...texts) => {
    const line = document.createElement("tr");
    line.append(...texts.map((text, i) => Object.assign(document.createElement(i ? "td" : "th"), { textContent: text })));
    return line;
  };
  find("tbody").replaceChildren(...terms.members.map(({ name, score, weight, contribution }) => row(name, score, weight, contribution)),
    row("constant", "", "", terms.constant));
  find("tfoot").replaceChildren(row("score", "", "", terms.score));
  find("details p").textContent = terms.meaning;
}
// What the score is made of: that of a typical picture, and what this picture's places add to it.
function parts(terms) {
  find(".parts").hidden = !terms;
  if (!terms) return;
  const term = (number, words, side = "") => {
    const [whole, value] = ["span", "b"].map((tag) => document.createElement(tag));
    Object.assign(value, { textContent: number, className: side });
    whole.append(value, words);
    return whole;
  };
  const total = term(terms.score, "");
  total.prepend("= ");
  find(".parts p").replaceChildren(term(terms.typical, " (a typical picture)"), " ",
    term(terms.places, " (the places of this one)", terms.lowers ? "lowers" : "raises"), " ", total);
  find(".parts small").textContent = terms.meaning;
}
function show() {
  const value = props.value;
  element.classList.toggle("waiting", !value);
  const [low, high] = value ? value.range : [1, 7];
  const at = (v) => Math.min(100, Math.max(0, ((v - low) / (high - low)) * 100));
  const round = (v) => v.toFixed(2);
  find(".number strong").textContent = value ? round(value.score) : "–";
  find(".number span").textContent = value ? `of ${low} to ${high}` : "";
  find(".target").textContent = value ? value.target : "Score";
  find(".percentile").textContent = value ? value.percentile : "The score will appear here, on the scale that people used.";
  find(".interval").textContent = value ? `${round(value.low)} to ${round(value.high)}: ${value.meaning}` : "";
  find(".made").textContent = value ? value.made : "";
  find(".ratings").setAttribute("d", value?.quantiles ? outline(value.quantiles, low, high) : "");
  sum(value?.sum);
  parts(value?.parts);
  find(".scale").setAttribute("aria-label", value
    ? `${round(value.score)} on a scale from ${low} to ${high}, interval ${round(value.low)} to ${round(value.high)}`
    : `Scale from ${low} to ${high}, without a score yet`);
  if (value) {
    find(".marker").style.left = at(value.score) + "%";
    find(".band").style.left = at(value.low) + "%";
    find(".band").style.width = at(value.high) - at(value.low) + "%";
  }
  find("ol").replaceChildren(...ticks(low, high).map(({ share, text }) => {
    const tick = Object.assign(document.createElement("li"), { textContent: text });
    tick.style.left = share * 100 + "%";
    return tick;
  }));
}
const update = () => belongs(props.value) && show();
watch("value", update);
on("shown", update);
update();
