// What was found, as a COCO dataset: images, categories, and annotations with scores and compressed run lengths.

/**
 * A COCO dataset of one image.
 *
 * image: {name, width, height}. found: list of {label, score, box, window}. model: model.json.
 */
export function asDataset(image, found, model) {
  const entry = { id: 1, file_name: image.name, width: image.width, height: image.height };
  const annotations = found.map((one, index) => annotation(one, index + 1, image, model));
  const categories = model.class_names.map((name, label) => ({ id: model.category_ids[label], name }));
  return { info: { description: `found by ${model.package}` }, images: [entry], annotations, categories };
}

function annotation(one, id, image, model) {
  const [x1, y1, x2, y2] = one.box;
  const plain = { id, image_id: 1, category_id: model.category_ids[one.label], score: one.score, iscrowd: 0 };
  const size = [x2 - x1, y2 - y1];
  if (!one.window) return { ...plain, bbox: [x1, y1, ...size], area: size[0] * size[1] };
  const segmentation = { size: [image.height, image.width], counts: compressed(runLengths(one.window, image)) };
  return { ...plain, bbox: [x1, y1, ...size], area: one.window.data.reduce((sum, bit) => sum + bit, 0), segmentation };
}

/** Run lengths of a window in its image, column by column, the first of zeros. */
export function runLengths(window, image) {
  const runs = [];
  let [begun, value] = [0, 0];
  const change = (place, next) => {
    if (next === value) return;
    runs.push(place - begun);
    [begun, value] = [place, next];
  };
  for (let x = 0; x < window.width; x++) {
    const top = (window.x0 + x) * image.height + window.y0;
    for (let y = 0; y < window.height; y++) change(top + y, window.data[y * window.width + x]);
    const reachesOn = window.height === image.height && x + 1 < window.width; // to the next column of the window
    if (!reachesOn) change(top + window.height, 0);
  }
  const end = image.width * image.height;
  if (begun < end || !runs.length) runs.push(end - begun);
  return runs;
}

/** COCO's text of run lengths: six bits a character; from the fourth run on, the difference to the last but one. */
export function compressed(runs) {
  return runs.map((run, index) => packed(index > 2 ? run - runs[index - 2] : run)).join("");
}

function packed(number) {
  let text = "";
  for (let more = true; more; ) {
    const bits = number & 31;
    number >>= 5;
    more = number !== (bits & 16 ? -1 : 0);
    text += String.fromCharCode(48 + bits + (more ? 32 : 0));
  }
  return text;
}
