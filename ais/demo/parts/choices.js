// Which head scores the image, and which method explains the score. What heads say of themselves is only ever text.
const { emit, on, follow, sentences } = window.ais;
const find = (selector) => element.querySelector(selector);
const initial = props.value.head;
const methodNamed = (name) => props.methods.find((method) => method.name === name);
let entries = props.entries; // everybody's
const own = []; // added on this page
let asked = { method: props.value.method, baseline: "" }; // by the visitor; another is shown where the head cannot give it
let wanted = new URLSearchParams(location.search).get("head"); // by the address, until it is settled
let adding = false;

const listed = () => [...entries, ...own.filter(({ head }) => !entries.some((entry) => entry.head === head))];
const coming = ({ head, reason }) => !head && !reason;
const there = (name) => listed().find(({ asked, head }) => head && [asked, head].includes(name));

// What a method is drawn against, of what the head can give; a method that has no baseline needs none.
const given = (head, { baselines }) => baselines.filter(({ name }) => !(there(head)?.lacks ?? []).includes(name));
const can = (head, method) => !method.baselines.length || given(head, method).length > 0;
function settled(head) { // the visitor's choice, or the first that this head can give
  const method = can(head, methodNamed(asked.method)) ? methodNamed(asked.method) : props.methods.find((one) => can(head, one));
  const baselines = given(head, method).map(({ name }) => name);
  return { head, method: method.name, baseline: baselines.includes(asked.baseline) ? asked.baseline : baselines[0] ?? "" };
}
function choose({ head, ...change }) {
  asked = { ...asked, ...change };
  props.value = settled(head ?? props.value.head);
  show();
  address();
  emit("busy", { sentence: methodNamed(props.value.method).wait });
  trigger("chosen");
}
const address = () => follow("head", props.value.head === initial ? "" : props.value.head);
let kept = null; // what made the result on the screen, and what had been asked for
on("shown", ({ choice }) => { kept = { choice, asked }; });
on("kept", () => { // the controls say what is shown, whatever was asked for
  if (!kept) return;
  props.value = { ...props.value, ...kept.choice };
  asked = kept.asked;
  show();
  address();
});
function chooseHead(head) {
  wanted = null;
  if (head === props.value.head) show();
  else choose({ head });
}

// Heads ------------------------------------------------------------------------------------------------------

function options() {
  const groups = [
    ["With AIS", entries.filter(({ head, address, local }) => head && !address && !local)],
    ["In folders of this page", entries.filter(({ head, local }) => head && local)],
    ["From the Hub", entries.filter(({ head, address }) => head && address)],
    ["Added here", listed().filter((entry) => own.includes(entry))],
  ].filter(([, members]) => members.length);
  const filled = groups.map(([label, members]) => {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...members.map(({ title, head }) => new Option(title, head)));
    return group;
  });
  find("select").replaceChildren(...(filled.length > 1 ? filled : [...filled[0].children]));
}
function waiting() { // those that are on their way, and those that failed
  const away = entries.filter(({ head }) => !head);
  const lost = away.filter(({ reason }) => reason).length;
  const count = (n, end) => n && `${n} ${n === 1 ? "head" : "heads"} ${end}`;
  find(".coming").hidden = !away.length;
  find(".coming").open ||= lost === 1;
  find(".coming summary").textContent = [count(away.length - lost, "loading"), count(lost, "unavailable")].filter(Boolean).join(", ");
  find(".coming summary").classList.toggle("busy", away.length > lost);
  find(".coming ul").replaceChildren(...away.map(({ asked, reason }) => {
    const item = document.createElement("li");
    item.textContent = !reason || reason.includes(asked) ? reason || asked : `${asked}: ${reason}`;
    item.classList.toggle("failed", !!reason);
    if (!reason) return item;
    const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    again.addEventListener("click", async () => { again.disabled = true; await ask("retry_head", asked); await poll(); again.disabled = false; });
    item.append(" ", again);
    return item;
  }));
}
function show() {
  const { head, method, baseline } = props.value;
  const entry = there(head);
  find("select").value = head;
  find("select").disabled = find("select").options.length < 2;
  find(".facts span").textContent = entry?.facts ?? "";
  find(".plcc").hidden = !entry?.facts.startsWith("PLCC");
  find(".facts").title = entry?.about ?? "";
  find(".facts a").hidden = !entry?.address;
  if (entry?.address) find(".facts a").href = entry.address;
  find(".notice").textContent = entry?.notice ?? "";
  find(".notice").hidden = !entry?.notice;
  for (const input of element.querySelectorAll(".methods input")) {
    input.checked = input.value === method;
    input.disabled = !can(head, methodNamed(input.value));
  }
  const shown = methodNamed(method);
  find(".more").open ||= shown.slow;
  find(".about").textContent = shown.about;
  const lost = props.methods.filter((one) => !can(head, one)).map(({ title }) => title);
  find(".why").textContent = lost.length ? `${props.lacking} ${lost.join(" and ")} cannot be drawn for it${method === asked.method ? "." : `, so ${shown.title} is shown.`}` : "";
  find(".why").hidden = !lost.length;
  against(shown, head, baseline);
}
function against({ baselines }, head, chosen) { // what an ablated map becomes, where there is a choice
  const possible = given(head, { baselines });
  const buttons = possible.map(({ name, title, about }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", value: name, textContent: title, title: about });
    button.setAttribute("aria-pressed", name === chosen);
    return button;
  });
  const focused = find(".against .group").contains(document.activeElement);
  find(".against").hidden = possible.length < 2;
  find(".against .group").replaceChildren(...buttons);
  find(".against .about").textContent = baselines.find(({ name }) => name === chosen)?.about ?? "";
  if (focused) find(".against [aria-pressed=true]")?.focus();
}
function list() {
  options();
  waiting();
  show();
}
find("select").addEventListener("change", (event) => chooseHead(event.target.value));

// The server's list grows while heads are on their way
let asking = 0;
async function ask(name, argument = {}) {
  try {
    return await server[name](argument);
  } catch (error) {
    console.warn(error);
    if (name === "retry_head") emit("fail", { sentence: sentences.unreachable });
  }
}
async function poll() {
  clearTimeout(asking);
  const answer = await ask("current_heads");
  if (answer && JSON.stringify(answer) !== JSON.stringify(entries)) {
    entries = answer;
    list();
  }
  settle();
  clearTimeout(asking);
  if (!answer || entries.some(coming)) asking = setTimeout(poll, answer ? 1500 : 10000);
}
function settle() { // the head that the address names: one of the list, or else one to add
  if (!wanted) return;
  const found = there(wanted);
  if (found) chooseHead(found.head);
  else if (!entries.some(coming)) add(wanted);
}

// A head that is not on the list
function say(sentence, wrong = false) {
  find(".said").textContent = sentence;
  find(".said").hidden = !sentence;
  find(".said").classList.toggle("failed", wrong);
  find(".add").classList.toggle("busy", adding);
  find(".add button").disabled = adding;
}
function add(asked) {
  wanted = null;
  adding = true;
  find(".add input").value = asked;
  say(`Fetching ${asked}`);
  emit("adding");
  trigger("added", { asked });
}
find(".add").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = find(".add input").value.trim();
  if (asked && !adding) add(asked);
});
on("arrived", (entry) => {
  adding = false;
  say(entry.reason ?? "", true);
  if (entry.reason) return;
  find(".add input").value = "";
  if (!there(entry.head)) own.push(entry);
  list();
  chooseHead(entry.head);
});

// Methods ----------------------------------------------------------------------------------------------------

for (const { name, title, slow } of props.methods) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "ais-method", value: name });
  const text = document.createElement("span");
  text.textContent = text.title = title;
  label.append(input, text);
  input.addEventListener("change", () => choose({ method: name }));
  find(slow ? ".more .methods" : ".methods").append(label);
}
find(".more").hidden = !props.methods.some(({ slow }) => slow);
find(".against .group").addEventListener("click", ({ target }) => {
  if (target.value && target.value !== props.value.baseline) choose({ baseline: target.value });
});
watch("value", show);
props.value = settled(initial);
list();
if (entries.some(coming)) poll();
else settle();
