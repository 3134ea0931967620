// Hands a head that has just been fetched, or the reason why not, to the choices.
const { emit, on } = window.ais;
watch("value", () => { if (props.value) emit("arrived", props.value); });
on("ended", ({ request, failure }) => { if (request === "choices.added" && failure) emit("arrived", { reason: failure }); });
