// Hands a head that has just been fetched, or the reason why not, to the choices.
const { tell, hear } = window.ais;
watch("value", () => { if (props.value) tell("arrived", props.value); });
hear("ended", ({ request, failure }) => { if (request === "choices.added" && failure) tell("arrived", { reason: failure }); });
