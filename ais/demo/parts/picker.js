// Ways in for an image: drop, choose, paste, camera, example. The bytes go to the server as they are.
const { emit, on, sentences } = window.ais;
const find = (selector) => element.querySelector(selector);
const limit = 100; // MB, as `launch` has it
const hidden = () => document.body.dataset.aisTab !== "score"; // then images that come by themselves are not for here
let stream = null;
let shown = ""; // the name of the image that is shown, while another one's stands there

on("shown", () => { shown = find(".name").textContent; });
on("kept", () => { find(".name").textContent = shown; });
const busy = (name, sentence) => {
  find(".name").textContent = name;
  emit("busy", { sentence, fresh: true });
};
async function take(file) {
  if (!file) return;
  if (file.size > limit * 1e6) return emit("fail", { sentence: sentences.large });
  busy(file.name, "Uploading the picture");
  try {
    const { path } = await upload(file);
    busy(file.name, "Looking at the picture");
    props.value = { path, orig_name: file.name, meta: { _type: "gradio.FileData" } };
    trigger("picked");
  } catch (error) {
    console.error(error);
    emit("fail", { sentence: sentences.uploadFailed });
  }
}
const first = (list) => [...(list ?? [])].find((file) => file.type.startsWith("image/")) ?? list?.[0];

find(".file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
find(".choose").addEventListener("click", () => find(".file").click());
document.addEventListener("paste", (event) => {
  const file = first(event.clipboardData?.files);
  if (file && !hidden()) { event.preventDefault(); take(file); }
});
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => { if (carriesFiles(event)) { event.preventDefault(); document.body.classList.add("ais-drag"); } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("ais-drag"); });
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event) || hidden()) return;
  event.preventDefault();
  document.body.classList.remove("ais-drag");
  take(first(event.dataTransfer.files));
});

// Camera
find(".camera").hidden = !navigator.mediaDevices?.getUserMedia;
function close() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  find(".webcam").hidden = true;
}
find(".camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, facingMode: "environment" } });
  } catch {
    return emit("fail", { sentence: "The camera could not be used. Allow it in the browser, or choose a file." });
  }
  find("video").srcObject = stream;
  find(".webcam").hidden = false;
  find(".shoot").focus();
});
find(".cancel").addEventListener("click", close);
find(".webcam").addEventListener("keydown", (event) => event.key === "Escape" && close());
find(".shoot").addEventListener("click", () => {
  const video = find("video");
  const frame = document.createElement("canvas");
  [frame.width, frame.height] = [video.videoWidth, video.videoHeight];
  frame.getContext("2d").drawImage(video, 0, 0);
  close();
  frame.toBlob((blob) => take(new File([blob], "camera.png", { type: "image/png" })), "image/png");
});

// Examples: their thumbnails come with the page, the images themselves stay on the server
for (const [index, { title, thumbnail }] of props.examples.entries()) {
  const button = document.createElement("button");
  const image = new Image();
  image.src = thumbnail;
  image.alt = title;
  button.type = "button";
  button.title = title;
  button.append(image);
  button.setAttribute("aria-label", title);
  button.addEventListener("click", () => { busy(title, "Looking at the picture"); trigger("example", { index }); });
  find(".examples").append(button);
}
