// An image file -> its pixels, exactly as the Python package reads them: EXIF orientation applied, colours not managed,
// alpha dropped and the stored colours kept.

import { Mistake } from "./mistake.js";

const OPTIONS = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
const PNG = [0x89, 0x50, 0x4e, 0x47];
const PNG_DEPTH = 24; // where a PNG has its bits per channel

/**
 * Read an image.
 *
 * source: Blob of a file, or a video element.
 * Returns {data: Uint8ClampedArray of height x width x 4 with alpha 255, width, height}.
 */
export async function readPixels(source) {
  if (source instanceof Blob) await refuseDeepPng(source);
  const bitmap = await decoded(source);
  try {
    return opaque(storedPixels(bitmap));
  } finally {
    bitmap.close();
  }
}

/** The channels of a model out of those of `readPixels`: Uint8Array of height x width x channels. */
export function asChannels(pixels, channels) {
  const count = pixels.width * pixels.height;
  const chosen = new Uint8Array(count * channels);
  for (let pixel = 0; pixel < count; pixel++) {
    for (let channel = 0; channel < channels; channel++) {
      chosen[pixel * channels + channel] = pixels.data[pixel * 4 + channel];
    }
  }
  if (channels === 1) refuseColours(pixels.data);
  return chosen;
}

async function decoded(source) {
  try {
    return await createImageBitmap(source, OPTIONS);
  } catch (error) {
    throw new Mistake(
      `This browser cannot read ${source.name ?? "the picture"} as an image (${error.message}). ` +
        "Choose a JPEG, PNG, WebP, GIF or BMP file that other programs can open.",
    );
  }
}

// Browsers keep the upper 8 bits; the Python package scales by the range. So the results would differ.
async function refuseDeepPng(file) {
  const head = new Uint8Array(await file.slice(0, PNG_DEPTH + 1).arrayBuffer());
  if (PNG.every((byte, place) => head[place] === byte) && head[PNG_DEPTH] === 16) {
    throw new Mistake(`${file.name ?? "The PNG"} has 16 bits per channel. Save it with 8 bits.`);
  }
}

function refuseColours(data) {
  for (let place = 0; place < data.length; place += 4) {
    if (data[place] !== data[place + 1] || data[place] !== data[place + 2]) {
      throw new Mistake("The model takes gray images, and this one is in colours. Save it as a gray image.");
    }
  }
}

function storedPixels(bitmap) {
  const { width, height } = bitmap;
  const context = canvasOf(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Mistake(`This browser cannot draw ${width} x ${height} pixels. Choose a smaller image.`);
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  return isOpaque(pixels.data) ? pixels : { data: transparentPixels(bitmap), width, height };
}

function isOpaque(data) {
  for (let place = 3; place < data.length; place += 4) {
    if (data[place] !== 255) return false;
  }
  return true;
}

// A 2D canvas multiplies colours by alpha and rounds; WebGL keeps them.
function transparentPixels(bitmap) {
  const { width, height } = bitmap;
  const gl = canvasOf(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Mistake("This browser cannot read the colours of a transparent image. Save it without transparency.");
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return new Uint8ClampedArray(data.buffer);
}

function opaque(pixels) {
  for (let place = 3; place < pixels.data.length; place += 4) pixels.data[place] = 255;
  return pixels;
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
