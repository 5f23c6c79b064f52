// Draws an image with masks, boxes, names and scores on a canvas.

const GOLDEN_RATIO = 0.618034; // successive hues stay far apart, as in the Python package's pictures
const LIGHTNESS = [52, 62, 44];
const OPACITY = 0.45;
const MOST_ZOOM = 4;
const CAPTIONED = 20; // of more instances the captions would hide each other

/** The colour of the index-th instance, CSS. */
export function colorOf(index) {
  const hue = ((0.02 + index * GOLDEN_RATIO) % 1) * 360;
  return `hsl(${hue.toFixed(1)} 90% ${LIGHTNESS[index % 3]}%)`;
}

/** A picture for `draw`, of the pixels that the model sees. */
export function pictureOf(pixels) {
  const canvas = canvasOf(pixels.width, pixels.height);
  canvas.getContext("2d").putImageData(new ImageData(pixels.data, pixels.width, pixels.height), 0, 0);
  return canvas;
}

/** A stencil of a mask's window in a colour, made once: the slider draws it again and again. */
export function stencilOf(window, color) {
  if (!window?.data.length) return null;
  const canvas = canvasOf(window.width, window.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(window.width, window.height);
  window.data.forEach((bit, place) => (image.data[place * 4 + 3] = bit * 255));
  context.putImageData(image, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = color;
  context.fillRect(0, 0, window.width, window.height);
  return canvas;
}

/**
 * Draw an image and what was found in it, the surest on top, as large as there is room.
 *
 * found: list of {box, window, stencil, color, caption}, the surest first. room: {width, height}, pixels of the page.
 */
export function draw(canvas, picture, found, room) {
  const zoom = Math.min(room.width / picture.width, room.height / picture.height, MOST_ZOOM);
  const context = sized(canvas, picture, zoom);
  context.imageSmoothingEnabled = zoom < 2;
  context.drawImage(picture, 0, 0);
  const backwards = [...found].reverse();
  context.globalAlpha = OPACITY;
  for (const { stencil, window } of backwards) if (stencil) context.drawImage(stencil, window.x0, window.y0);
  context.globalAlpha = 1;
  for (const one of backwards) drawBox(context, one, zoom);
  for (const one of backwards.length > CAPTIONED ? [] : backwards) drawCaption(context, one, zoom, picture.width);
}

// A context in pixels of the image, with as many pixels as the screen has there.
function sized(canvas, picture, zoom) {
  const density = self.devicePixelRatio;
  canvas.width = Math.max(1, Math.round(picture.width * zoom * density));
  canvas.height = Math.max(1, Math.round(picture.height * zoom * density));
  canvas.style.width = `${canvas.width / density}px`;
  const context = canvas.getContext("2d");
  context.scale(zoom * density, zoom * density);
  return context;
}

function drawBox(context, { box, color }, zoom) {
  context.lineWidth = 2 / zoom;
  context.strokeStyle = color;
  context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
}

function drawCaption(context, { box, caption }, zoom, right) {
  const size = 13 / zoom;
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const width = context.measureText(caption).width + size / 2;
  const x = Math.max(0, Math.min(box[0], right - width));
  const y = Math.max(0, box[1] - size * 1.3);
  context.fillStyle = "rgb(0 0 0 / 75%)";
  context.fillRect(x, y, width, size * 1.3);
  context.fillStyle = "#fff";
  context.fillText(caption, x + size / 4, y + size * 0.15);
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
