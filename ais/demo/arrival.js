// Hands a head that has just been fetched, or the reason why not, to the choices.
const { tell, hear, unanswered } = window.ais;
let awaited = false;
const answer = (offer) => { awaited = false; tell("arrived", offer); };
hear("adding", () => { awaited = true; });
watch("value", () => { if (props.value) answer(props.value); });
unanswered(element, () => {
  if (awaited) answer({ reason: "The server gave no answer. It may be busy: try again in a moment." });
});
