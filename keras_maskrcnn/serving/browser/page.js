// The page: takes an image, shows what the model finds, saves it. Other modules do the work.

import { asDataset } from "./coco.js";
import { openDetector } from "./detector.js";
import { colorOf, draw, pictureOf, stencilOf } from "./drawing.js";
import { Mistake } from "./mistake.js";
import { isKept, prepareOffline } from "./offline.js";
import { readPixels } from "./pixels.js";

const FIRST_SCORE = 0.5;
const LISTED = 20; // class names
const part = (id) => document.getElementById(id);
const shown = { image: null, found: [], detector: null, stream: null, busy: false, next: null };

// Start -------------------------------------------------------------------------------------------------------------

async function start() {
  say("Loading the runtime");
  await prepareOffline();
  say("Loading the model");
  shown.detector = await openDetector((share) => (part("progress").value = share));
  const { model } = shown.detector;
  part("about").textContent = `${classes(model.class_names)}. ${part("about").textContent}`;
  prepareSlider(model.score_threshold);
  part("progress").hidden = true;
  for (const id of ["file", "camera"]) part(id).disabled = false;
  say(`Ready. Choose an image.${(await isKept()) ? " The page now works without a network." : ""}`);
}

function classes(names) {
  const more = names.length > LISTED ? `, and ${names.length - LISTED} more` : "";
  return `${names.length} ${names.length === 1 ? "class" : "classes"}: ${names.slice(0, LISTED).join(", ")}${more}`;
}

function prepareSlider(lowest) {
  const slider = part("score");
  slider.min = lowest;
  slider.value = Math.max(FIRST_SCORE, lowest);
  slider.addEventListener("input", show);
}

// One image ---------------------------------------------------------------------------------------------------------

/** Show what is in an image: at once, or after the one that is in work; of those that wait only the last. */
async function look(source, name) {
  if (shown.busy) {
    shown.next = [source, name];
    return;
  }
  shown.busy = true;
  try {
    await answer(source, name);
  } finally {
    shown.busy = false;
    const next = shown.next;
    shown.next = null;
    if (next) await look(...next);
  }
}

async function answer(source, name) {
  say(`Looking at ${name}`);
  const pixels = await readPixels(source);
  const { found, milliseconds } = await shown.detector.find(pixels);
  keep(pixels, found, name);
  say(`${name}: ${pixels.width} × ${pixels.height} pixels, answered in ${(milliseconds / 1000).toFixed(2)} s.`);
  document.dispatchEvent(new CustomEvent("found", { detail: { name, found, milliseconds } }));
}

function keep(pixels, found, name) {
  const { width, height } = pixels;
  shown.image = { name, width, height, picture: pictureOf(pixels) };
  shown.found = found.map((one, index) => {
    const color = colorOf(index);
    const caption = `${one.name} ${one.score.toFixed(2)}`;
    return { ...one, color, caption, stencil: stencilOf(one.window, color) };
  });
  part("result").hidden = false;
  show();
}

function chosen() {
  const lowest = Number(part("score").value);
  return shown.found.filter((one) => one.score >= lowest);
}

function show() {
  const found = chosen();
  const lowest = Number(part("score").value).toFixed(2);
  part("score-value").textContent = lowest;
  part("count").textContent = `${found.length} found with a score of at least ${lowest}`;
  part("canvas").setAttribute("aria-label", `${shown.image.name}: ${counted(found)}`);
  draw(part("canvas"), shown.image.picture, found, { width: part("stage").clientWidth, height: 0.8 * innerHeight });
  part("rows").replaceChildren(...found.map(row));
}

function counted(found) {
  const counts = new Map();
  for (const { name } of found) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} × ${name}`).join(", ") || "nothing found";
}

function row({ name, score, box, color }) {
  const line = document.createElement("tr");
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = color;
  const [x1, y1, x2, y2] = box.map(Math.round);
  const numbers = [score.toFixed(3), `${x1}, ${y1}`, `${x2 - x1} × ${y2 - y1}`];
  line.append(cell([swatch, name]), ...numbers.map((text) => cell([text], "number")));
  return line;
}

function cell(content, className = "") {
  const made = Object.assign(document.createElement("td"), { className });
  made.append(...content);
  return made;
}

function save() {
  const text = JSON.stringify(asDataset(shown.image, chosen(), shown.detector.model));
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const stem = shown.image.name.replace(/\.[^.]*$/, "");
  Object.assign(document.createElement("a"), { href: address, download: `${stem}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// Camera ------------------------------------------------------------------------------------------------------------

async function toggleCamera() {
  if (shown.stream) return closeCamera();
  if (!navigator.mediaDevices) throw new Mistake("Browsers give the camera to pages on https:// and localhost only.");
  try {
    shown.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Mistake(`The camera could not be opened (${error.message}). Connect one, and allow this page to use it.`);
  }
  part("video").srcObject = shown.stream;
  await part("video").play();
  showCamera(true);
}

function closeCamera() {
  for (const track of shown.stream.getTracks()) track.stop();
  shown.stream = null;
  part("video").srcObject = null;
  showCamera(false);
}

function showCamera(open) {
  part("viewfinder").hidden = !open;
  part("camera").textContent = open ? "Close the camera" : "Use the camera";
  part("camera").setAttribute("aria-expanded", String(open));
}

// Words and events --------------------------------------------------------------------------------------------------

function say(text) {
  part("status").textContent = text;
}

function complain(error) {
  say("");
  part("error").hidden = false;
  part("error").textContent = error instanceof Mistake ? error.message : `The page failed: ${error.message ?? error}`;
  if (!shown.detector) part("progress").hidden = true;
}

/** An event listener that shows errors to the user. */
function told(work) {
  return async (event) => {
    part("error").hidden = true;
    try {
      await work(event);
    } catch (error) {
      complain(error);
    }
  };
}

function connect() {
  part("file").addEventListener("change", told(chooseFile));
  part("camera").addEventListener("click", told(toggleCamera));
  part("take").addEventListener("click", told(() => look(part("video"), "camera.png")));
  part("save").addEventListener("click", told(save));
  window.addEventListener("resize", () => shown.image && show());
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => part("drop").classList.remove("over"));
  document.addEventListener("drop", told(dropped));
}

async function chooseFile({ target }) {
  const file = target.files[0];
  if (file) await look(file, file.name);
}

async function dropped(event) {
  event.preventDefault();
  part("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (!shown.detector) throw new Mistake("The model is not loaded yet. Wait a moment, and drop the image again.");
  if (!file) throw new Mistake("Drop an image file. What was dropped is no file.");
  await look(file, file.name);
}

connect();
if (part("error").hidden) told(start)(); // else check.js has found why the page cannot work here
