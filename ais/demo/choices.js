// Which head scores the picture, and which method explains the score.
const { tell } = window.ais;
const find = (selector) => element.querySelector(selector);
const choose = (change) => {
  props.value = { ...props.value, ...change };
  show();
  tell("busy", { sentence: props.methods.find((method) => method.name === props.value.method).wait });
  trigger("chosen");
};
function show() {
  find("select").value = props.value.head;
  for (const input of element.querySelectorAll("input")) input.checked = input.value === props.value.method;
  find(".about").textContent = props.methods.find((method) => method.name === props.value.method)?.about ?? "";
}
for (const { name, title } of props.heads) find("select").add(new Option(title, name));
find("select").disabled = props.heads.length < 2;
find("select").addEventListener("change", (event) => choose({ head: event.target.value }));
for (const { name, title } of props.methods) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "ais-method", value: name });
  const text = document.createElement("span");
  text.textContent = title;
  label.append(input, text);
  input.addEventListener("change", () => choose({ method: name }));
  find(".methods").append(label);
}
watch("value", show);
show();
