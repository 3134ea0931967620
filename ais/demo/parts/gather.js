// What to compare: the cohort that comes with the page or a visitor's own, and with which network.
const { tell, hear, sentences } = window.ais;
const find = (selector) => element.querySelector(selector);
const limit = 100; // MB, as `launch` has it
let kept = null; // what made the map on the screen
const chosen = { cohort: "shapes", backbone: props.value.backbone };
let pictures = []; // files
let matrix = null;
let sent = false; // the server has them
let asked = false;

const here = () => document.body.dataset.aisTab === "similarity";
const carried = (path, file) => ({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
const isMatrix = (file) => /\.(npy|mat|csv|tsv|txt|xlsx)$/i.test(file.name);

function show() {
  for (const button of find(".group").children) button.setAttribute("aria-pressed", button.value === chosen.cohort);
  const own = chosen.cohort === "own";
  find(".own").hidden = !own;
  find(".note").hidden = own;
  const names = pictures.map(({ name }) => name).sort((a, b) => (a < b ? -1 : 1));
  find(".said-pictures").textContent = names.length ? `${names.length}: ${names[0]}${names.length > 1 ? ` to ${names.at(-1)}` : ""}` : `up to ${props.most}`;
  find(".said-matrix").textContent = matrix?.name ?? ".npy, .mat, .csv, .tsv, .txt or .xlsx";
  find(".go").disabled = !names.length || !matrix;
  find(".own .hint").textContent = "The matrix holds how dissimilar people find each two pictures: n × n numbers, or one such matrix for each person. Where the file names its rows, they are put into order; else they are in the order of the file names, as text: 10.png comes before 2.png.";
}
function send(files) {
  asked = true;
  props.value = { ...chosen, ...files };
  trigger("gathered");
}
function compare() { // with what the server has already
  if (chosen.cohort === "own" && !sent) return;
  tell("comparing", { sentence: "Preparing the network" });
  send({});
}
async function submit() {
  if (pictures.length > props.most) return tell("incomparable", { sentence: `These are ${pictures.length} pictures. Choose up to ${props.most}.` });
  const large = [...pictures, matrix].find(({ size }) => size > limit * 1e6);
  if (large) return tell("incomparable", { sentence: `${large.name}: ${sentences.large}` });
  find(".go").disabled = true;
  try {
    const files = [];
    for (const [index, file] of pictures.entries()) {
      tell("comparing", { sentence: `Uploading picture ${index + 1} of ${pictures.length}` });
      files.push(carried((await upload(file)).path, file));
    }
    const values = carried((await upload(matrix)).path, matrix);
    tell("comparing", { sentence: "Reading the matrix" });
    sent = true;
    send({ pictures: files, matrix: values });
  } catch (error) {
    console.error(error);
    tell("incomparable", { sentence: sentences.uploadFailed });
  }
  show();
}
function take(files) {
  const matrices = files.filter(isMatrix);
  const others = files.filter((file) => !isMatrix(file));
  if (matrices.length) matrix = matrices[0];
  if (others.length) pictures = others;
  sent = false;
  show();
}

find(".group").addEventListener("click", ({ target }) => {
  if (!target.value) return;
  chosen.cohort = target.value;
  show();
  compare();
});
find("select").append(...props.backbones.map((name) => new Option(name, name)));
find("select").value = chosen.backbone;
find("select").addEventListener("change", ({ target }) => { chosen.backbone = target.value; compare(); });
for (const name of ["pictures", "matrix"]) {
  find(`.choose-${name}`).addEventListener("click", () => find(`.${name}`).click());
  find(`.${name}`).addEventListener("change", ({ target }) => {
    const files = [...target.files];
    if (name === "matrix" && files.length) matrix = files[0];
    if (name === "pictures" && files.length) pictures = files;
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
  chosen.cohort = "own";
  take([...event.dataTransfer.files]);
});
hear("looked", () => { kept = { ...chosen }; });
hear("kept-map", () => { // the controls say what is shown; the form with the files stays open, to be put right
  if (kept) Object.assign(chosen, chosen.cohort === "own" ? { backbone: kept.backbone } : kept);
  find("select").value = chosen.backbone;
  show();
});
hear("tab", () => { if (here() && !asked) compare(); });
show();
if (here()) compare();
