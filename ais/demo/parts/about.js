// What the score is and is not, and the head's model card as plain text.
const { on, belongs } = window.ais;
const show = () => {
  if (!belongs(props.value)) return;
  const { text, card } = props.value || {};
  element.querySelector(".what").textContent = text ?? "";
  element.querySelector("details").hidden = !card;
  element.querySelector("pre").textContent = card ?? "";
};
watch("value", show);
on("shown", show);
show();
