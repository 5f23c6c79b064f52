// A mask in the frame of its box -> a window of the image, by the rules of the Python package (geometry/pasting.py).

const THRESHOLD = 0.5;
const RULES = {
  subpixel: [subpixelAxis, (value) => value > THRESHOLD],
  torchvision: [torchvisionAxis, (value) => value > THRESHOLD],
  detectron2: [subpixelAxis, (value) => value >= THRESHOLD],
  matterport: [subpixelAxis, (value, low, high) => Math.min(Math.max(value, low), high) >= THRESHOLD],
};

/**
 * Paste a mask.
 *
 * mask: Float32Array of side x side, probabilities in the frame of the box.
 * box: [x1, y1, x2, y2], image pixels. image: {width, height}. pasting: a key of RULES.
 * Returns {data: Uint8Array of height x width, 0 or 1; x0, y0, width, height}: a window inside the image.
 */
export function pasteMask(mask, side, box, image, pasting) {
  const [axis, decide] = RULES[pasting];
  const rows = axis(box[1], box[3], side, image.height);
  const columns = axis(box[0], box[2], side, image.width);
  const [width, height] = [columns.points.length, rows.points.length];
  const cells = bordered(mask, side);
  const [low, high] = range(mask);
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      data[y * width + x] = decide(sampled(cells, side + 3, rows.points[y], columns.points[x]), low, high) ? 1 : 0;
    }
  }
  return { data, x0: columns.first, y0: rows.first, width, height };
}

// Pixels of an axis with their centres in [low, high), and where they lie among the cells' centres.
function subpixelAxis(low, high, cells, extent) {
  const [first, last] = within(Math.ceil(low - 0.5), Math.ceil(high - 0.5), extent);
  if (!(high > low)) return { first, points: [] };
  const point = (pixel) => ((pixel + 0.5 - low) / (high - low)) * cells - 0.5;
  return { first, points: listed(first, last, point) };
}

// With one empty cell around, and the box grown to match and rounded; in float32, as the Python package rounds it.
function torchvisionAxis(low, high, cells, extent) {
  const f = Math.fround;
  const half = f(f(f(f(high) - f(low)) * 0.5) * f((cells + 2) / cells));
  const middle = f(f(f(high) + f(low)) * 0.5);
  const [start, end] = [Math.trunc(f(middle - half)), Math.trunc(f(middle + half))];
  const size = Math.max(end - start + 1, 1);
  const [first, last] = within(start, end + 1, extent);
  const grown = (pixel) => (pixel - start + 0.5) * ((cells + 2) / size) - 0.5;
  const point = (pixel) => Math.min(Math.max(grown(pixel), 0), cells + 1) - 1;
  return { first, points: listed(first, last, point) };
}

function within(start, end, extent) {
  const first = Math.min(Math.max(start, 0), extent);
  return [first, Math.max(Math.min(end, extent), first)];
}

function listed(first, last, point) {
  return Float64Array.from({ length: last - first }, (_, index) => point(first + index));
}

// One cell of zeros before, two after: points lie in [-1, side].
function bordered(mask, side) {
  const stride = side + 3;
  const cells = new Float32Array(stride * stride);
  for (let row = 0; row < side; row++) cells.set(mask.subarray(row * side, (row + 1) * side), (row + 1) * stride + 1);
  return cells;
}

function sampled(cells, stride, y, x) {
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [down, right] = [y - top, x - left];
  const at = (top + 1) * stride + left + 1;
  const upper = cells[at] * (1 - right) + cells[at + 1] * right;
  const lower = cells[at + stride] * (1 - right) + cells[at + stride + 1] * right;
  return upper * (1 - down) + lower * down;
}

function range(mask) {
  return [mask.reduce((one, other) => Math.min(one, other)), mask.reduce((one, other) => Math.max(one, other))];
}
