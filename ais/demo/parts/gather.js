// What to compare: the stimuli that come with the page or a visitor's own, and with which network.
const { emit, on, sentences } = window.ais;
const find = (selector) => element.querySelector(selector);
const limit = 100; // MB, as `launch` has it
let kept = null; // what made the map on the screen
const chosen = { stimuli: "shapes", backbone: props.value.backbone };
let images = []; // files
let matrix = null;
let sent = false; // the server has them
let asked = false;
let number = 0; // of the newest request: what comes for an older one does not hide what is said of it

const here = () => document.body.dataset.aisTab === "similarity";
const carried = (path, file) => ({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
const isMatrix = (file) => /\.(npy|mat|csv|tsv|txt|xlsx)$/i.test(file.name);

function show() {
  for (const button of find(".group").children) button.setAttribute("aria-pressed", button.value === chosen.stimuli);
  const own = chosen.stimuli === "own";
  find(".own").hidden = !own;
  find(".note").hidden = own;
  const names = images.map(({ name }) => name).sort((a, b) => (a < b ? -1 : 1));
  find(".said-images").textContent = names.length ? `${names.length}: ${names[0]}${names.length > 1 ? ` to ${names.at(-1)}` : ""}` : `up to ${props.most}`;
  find(".said-matrix").textContent = matrix?.name ?? ".npy, .mat, .csv, .tsv, .txt or .xlsx";
  find(".go").disabled = !names.length || !matrix;
  find(".own .hint").textContent = "The matrix holds how dissimilar people find each two pictures: n × n numbers, or one such matrix for each person. Where the file names its rows, they are put into order; else they are in the order of the file names, as text: 10.png comes before 2.png.";
}
function send(files) {
  asked = true;
  props.value = { ...chosen, ...files, number };
  trigger("gathered");
}
function compare() { // with what the server has already
  if (chosen.stimuli === "own" && !sent) return;
  number += 1;
  emit("comparing", { sentence: "Preparing the network", number });
  send({});
}
async function submit() {
  number += 1;
  if (images.length > props.most) return emit("comparing-failed", { sentence: `These are ${images.length} pictures. Choose up to ${props.most}.`, number });
  const large = [...images, matrix].find(({ size }) => size > limit * 1e6);
  if (large) return emit("comparing-failed", { sentence: `${large.name}: ${sentences.large}`, number });
  find(".go").disabled = true;
  try {
    const files = [];
    for (const [index, file] of images.entries()) {
      emit("comparing", { sentence: `Uploading picture ${index + 1} of ${images.length}`, number });
      files.push(carried((await upload(file)).path, file));
    }
    const values = carried((await upload(matrix)).path, matrix);
    emit("comparing", { sentence: "Reading the matrix", number });
    sent = true;
    send({ images: files, matrix: values });
  } catch (error) {
    console.error(error);
    emit("comparing-failed", { sentence: sentences.uploadFailed, number });
  }
  show();
}
function take(files) {
  const matrices = files.filter(isMatrix);
  const others = files.filter((file) => !isMatrix(file));
  if (matrices.length) matrix = matrices[0];
  if (others.length) images = others;
  sent = false;
  show();
}

find(".group").addEventListener("click", ({ target }) => {
  if (!target.value) return;
  chosen.stimuli = target.value;
  show();
  compare();
});
find("select").append(...props.backbones.map((name) => new Option(name, name)));
find("select").value = chosen.backbone;
find("select").addEventListener("change", ({ target }) => { chosen.backbone = target.value; compare(); });
for (const name of ["images", "matrix"]) {
  find(`.choose-${name}`).addEventListener("click", () => find(`.${name}`).click());
  find(`.${name}`).addEventListener("change", ({ target }) => {
    const files = [...target.files];
    if (name === "matrix" && files.length) matrix = files[0];
    if (name === "images" && files.length) images = files;
    sent = false;
    target.value = "";
    show();
  });
}
find(".own").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
document.addEventListener("drop", (event) => {
  if (!here() || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.remove("ais-drag");
  chosen.stimuli = "own";
  take([...event.dataTransfer.files]);
});
on("stimuli-shown", () => { kept = { ...chosen }; });
on("stimuli-kept", () => { // the controls say what is shown; the form with the files stays open, to be put right
  if (kept) Object.assign(chosen, chosen.stimuli === "own" ? { backbone: kept.backbone } : kept);
  find("select").value = chosen.backbone;
  show();
});
on("tab", () => { if (here() && !asked) compare(); });
show();
if (here()) compare();
