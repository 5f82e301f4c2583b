// The page: pass chosen, dropped, pasted or drawn images to the model and show its prediction.

import { best, Classifier } from "./classifier.js";
import { openPad } from "./drawing.js";
import { drawFalls, drawPixels, LEAST_CHANGE } from "./pictures.js";
import { canvasIsTrue, decode, fitToSquare, fromCanvas } from "./pixels.js";
import { occlusionSaliency } from "./saliency.js";

const TOP = 5;
const IDLE_MS = 150; // without a new image, before latency and the occlusion map are computed
const element = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

let asked = 0; // number of images so far: results of an older one are discarded

async function start() {
  const facts = await (await fetched("demo.json")).json();
  const model = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  const classifier = await Classifier.open(facts, model);
  showFacts(facts);
  element("altered").hidden = canvasIsTrue();
  element("main").hidden = false;
  acceptFiles(classifier);
  const dark = await showSamples(classifier);
  element("drawing").hidden = !facts.drawings;
  if (facts.drawings) acceptDrawing(classifier, dark);
  document.documentElement.dataset.ready = "yes";
}

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

function showFacts({ variant, precision, drawings, bytes, classes, image_size: size, channels, resize, runtime }) {
  const mode = channels === 1 ? "grayscale" : "RGB";
  element("facts").textContent = `Runs model.onnx (${precision}, ${variant}, ${Math.round(bytes / 1000).toLocaleString("en")} kB): ` +
    `${classes.length} classes, ${mode} input of ${size} × ${size} pixels, ONNX Runtime Web ${runtime.version}.`;
  element("about-precision").hidden = precision !== "INT8";
  element("also-draw").hidden = !drawings;
  element("seen-caption").textContent = `Model input: ${size} × ${size} pixels`;
  element("about-resize").textContent = {
    crop: "Images that are not square are cropped to the largest central square.",
    pad: "Images that are not square are padded to a square with the median color of their border.",
    stretch: "Images that are not square are stretched to a square.",
  }[resize];
}

// ---- input

function acceptFiles(classifier) {
  const drop = element("drop");
  element("file").addEventListener("change", (event) => {
    if (event.target.files[0]) askFile(classifier, event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) askFile(classifier, event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files[0]) askFile(classifier, event.clipboardData.files[0]);
  });
}

async function askFile(classifier, file) {
  try {
    const { channels, image_size: size, resize } = classifier.facts;
    const image = await decode(file, channels);
    const source = `${file.name}: ${image.width} × ${image.height} pixels`;
    await ask(classifier, fitToSquare(image, size, resize), source);
  } catch (error) {
    showProblem(`${file.name}: not an image that this browser can decode (${error.message}).`);
  }
}

function acceptDrawing(classifier, dark) {
  const { channels, image_size: size, resize } = classifier.facts;
  let waiting = null;
  const elements = Object.fromEntries(["brush", "ink", "paper", "clear"].map((id) => [id, element(id)]));
  openPad({ canvas: element("pad"), ...elements }, { stroke: Math.max(0.05, 1.25 / size), dark }, (context) => {
    waiting ??= setTimeout(() => {
      waiting = null;
      ask(classifier, fitToSquare(fromCanvas(context, channels), size, resize), "your drawing");
    }, 60);
  });
}

// Show the test images as buttons and classify them. Return whether they have a dark background.
async function showSamples(classifier) {
  const { samples, classes, channels } = classifier.facts;
  element("samples-section").hidden = !samples.length;
  const images = await Promise.all(samples.map(async ({ file }) => decode(await (await fetched(file)).blob(), channels)));
  const buttons = samples.map((sample, index) => {
    const button = element("samples").appendChild(document.createElement("button"));
    const canvas = button.appendChild(document.createElement("canvas"));
    drawPixels(canvas, images[index]);
    button.type = "button";
    const source = `Test image ${sample.index}, label “${classes[sample.label]}”`;
    button.title = source;
    button.setAttribute("aria-label", source);
    button.addEventListener("click", () => {
      ask(classifier, images[index], source, sample.label);
      button.setAttribute("aria-pressed", "true");
    });
    return button;
  });
  const answers = await classifier.runAll(images, pause);
  const wrong = samples.flatMap(({ label }, index) => (best(answers[index].logits, 1)[0] === label ? [] : [index]));
  for (const index of wrong) {
    buttons[index].classList.add("wrong");
    buttons[index].setAttribute("aria-label", `${buttons[index].getAttribute("aria-label")}; misclassified`);
  }
  element("score").textContent = `${samples.length - wrong.length} of these ${samples.length} are classified correctly` +
    (wrong.length ? "; the others have a red frame." : ".");
  if (buttons.length) buttons[0].click();
  return images.length > 0 && mean(images.map((image) => mean(image.data.subarray(0, image.width * channels)))) < 100;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// ---- prediction

async function ask(classifier, image, source, label = null) {
  const own = ++asked;
  const { classes } = classifier.facts;
  for (const button of document.querySelectorAll("#samples button")) button.setAttribute("aria-pressed", "false");
  const stale = () => own !== asked;
  try {
    const { logits, probabilities } = await classifier.run(image);
    if (stale()) return;
    const first = best(logits, 1)[0];
    showProblem("");
    element("source").textContent = source;
    element("verdict").textContent = `${classes[first]}, ${percent(probabilities[first])}`;
    element("verdict").dataset.result = label === null ? "" : first === label ? "correct" : "wrong";
    showTop(classes, probabilities, logits);
    drawPixels(element("seen"), image);
    element("seen").setAttribute("aria-label", `Model input: ${source}`);
    drawFalls(element("saliency"), image, new Float32Array(image.width * image.height));
    element("saliency").setAttribute("aria-label", "Occlusion map: not computed yet");
    element("saliency-words").textContent = "";
    outline(null);
    await pause(IDLE_MS);
    if (stale()) return;
    const { ms, runs } = await classifier.time(image);
    if (stale()) return;
    element("time").textContent = `${ms < 1 ? ms.toPrecision(2) : ms.toPrecision(3)}\u00a0ms latency in this browser: ` +
      `mean of ${runs} ${runs === 1 ? "run" : "runs"}, batch size 1, 1 thread.`;
    await explain(classifier, image, first, probabilities[first], stale);
  } catch (error) {
    if (!stale()) showProblem(`The model failed: ${error.message}.`);
  }
}

function showTop(classes, probabilities, logits) {
  const rows = best(logits, Math.min(TOP, classes.length)).map((index) => {
    const row = document.createElement("li");
    for (const [name, text] of [["name", classes[index]], ["bar", ""], ["share", percent(probabilities[index])]]) {
      const part = row.appendChild(document.createElement("span"));
      part.className = name;
      part.textContent = text;
    }
    row.querySelector(".bar").style.setProperty("--share", probabilities[index]);
    return row;
  });
  element("top").replaceChildren(...rows);
}

async function explain(classifier, image, target, probability, stale) {
  const between = async () => {
    await pause();
    if (stale()) throw new Stale();
  };
  try {
    const { falls, largest, runs } = await occlusionSaliency(classifier, image, target, probability, between);
    if (stale()) return;
    const name = classifier.facts.classes[target];
    drawFalls(element("saliency"), image, falls);
    const matters = largest.fall >= LEAST_CHANGE;
    outline(matters ? largest : null, image.width);
    const words = matters
      ? `Hiding the outlined ${largest.right - largest.left} × ${largest.bottom - largest.top} pixels lowers “${name}” from ${percent(probability)} to ` +
        `${percent(probability - largest.fall)}, the largest drop of ${runs} positions.`
      : `No square a fifth of the image wide lowers “${name}” by ${100 * LEAST_CHANGE} percentage points (${runs} positions).`;
    element("saliency-words").textContent = words;
    element("saliency").setAttribute("aria-label", `Occlusion map. ${words}`);
  } catch (error) {
    if (!(error instanceof Stale)) throw error;
  }
}

// Outline the square of the largest drop on the occlusion map.
function outline(square, size) {
  const box = element("outline");
  box.hidden = !square;
  if (!square) return;
  const { top, left, bottom, right } = square;
  for (const [side, value] of Object.entries({ top, left, width: right - left, height: bottom - top })) {
    box.style.setProperty(side, `${(100 * value) / size}%`);
  }
}

class Stale extends Error {}

const { showProblem, unsupported } = window; // from support.js
if (!unsupported) start().catch((error) => showProblem(`The demo could not be started: ${error.message}.`));
