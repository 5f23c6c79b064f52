// Finds the instances of images with the exported model, in a worker. Other pages may import it:
//   const detector = await openDetector();
//   const { found } = await detector.find(await readPixels(file));   // readPixels of pixels.js

import { Mistake } from "./mistake.js";
import { asChannels } from "./pixels.js";
import { pasteMask } from "./pasting.js";

/**
 * Load the model.
 *
 * progress: function of a number in 0..1, called while the model loads.
 * Returns a Detector.
 */
export async function openDetector(progress = () => {}) {
  const about = await (await fetched("model.json")).json();
  const content = await loaded("model.onnx", about.model_bytes, progress);
  const detector = new Detector(about);
  await detector.ask({ content, threads: threads() }, [content]);
  return detector;
}

/** The model, from `openDetector`. `model` is its model.json: class names, category ids, lowest score. */
export class Detector {
  constructor(model) {
    this.model = model;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  }

  /**
   * Find the instances of an image.
   *
   * pixels: of `readPixels`.
   * Returns {found, milliseconds}: found is a list, by descending score, of {label, name, score, box, window}: box is
   * [x1, y1, x2, y2] in image pixels, window that of pasting.js, or undefined if the model has no masks.
   */
  async find(pixels) {
    const data = asChannels(pixels, this.model.num_channels);
    const dims = [1, pixels.height, pixels.width, this.model.num_channels];
    const { outputs, milliseconds } = await this.ask({ data, dims }, [data.buffer]);
    return { found: this.instances(outputs, pixels), milliseconds };
  }

  instances(outputs, image) {
    const count = Number(outputs.num_detections.data[0]);
    return Array.from({ length: count }, (_, row) => {
      const box = [...outputs.boxes.data.subarray(row * 4, row * 4 + 4)];
      const label = Number(outputs.labels.data[row]);
      const window = outputs.masks && this.window(outputs.masks, row, box, image);
      return { label, name: this.model.class_names[label], score: outputs.scores.data[row], box, window };
    });
  }

  window(masks, row, box, image) {
    const side = masks.dims[3];
    const mask = masks.data.subarray(row * side * side, (row + 1) * side * side);
    return pasteMask(mask, side, box, image, this.model.mask_pasting);
  }

  // One question at a time: the page waits for each answer.
  ask(question, transfer) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) => (data.error ? reject(new Mistake(data.error)) : resolve(data));
      this.worker.onerror = ({ message }) => reject(new Mistake(`The model stopped (${message}). Load the page again.`));
      this.worker.postMessage(question, transfer);
    });
  }
}

// Threads need a page that is isolated from other origins, see service-worker.js.
function threads() {
  return self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
}

async function fetched(name) {
  const remedy = "Copy the whole exported folder to the server.";
  let response;
  try {
    response = await fetch(new URL(name, import.meta.url));
  } catch (error) {
    throw new Mistake(`${name} could not be loaded (${error.message}). Check the connection to the server.`);
  }
  if (!response.ok) throw new Mistake(`${name} is missing on the server (status ${response.status}). ${remedy}`);
  return response;
}

async function loaded(name, size, progress) {
  const content = new Uint8Array(size);
  let place = 0;
  const reader = (await fetched(name)).body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (place + part.value.length <= size) content.set(part.value, place);
    place += part.value.length;
    progress(Math.min(place / size, 1));
  }
  if (place !== size) throw new Mistake(`${name} has ${place} bytes instead of ${size}. Copy the whole folder again.`);
  return content.buffer;
}
