// Hands a head that has just been fetched, or the reason why not, to the choices.
const { tell, hear } = window.ais;
let awaited = false;
const answer = (offer) => { awaited = false; tell("arrived", offer); };
hear("adding", () => { awaited = true; });
watch("value", () => { if (props.value) answer(props.value); });
// Gradio marks this part as pending while its event runs; when that ends without a value, there is no answer.
new MutationObserver(([{ target }]) => !target.classList.contains("pending") && setTimeout(() => {
  if (awaited && !target.classList.contains("pending")) {
    answer({ reason: "The server gave no answer. It may be busy: try again in a moment." });
  }
}, 300)).observe(element.closest(".html-container"), { attributeFilter: ["class"] });
