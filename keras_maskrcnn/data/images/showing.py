"""Images of any channels and dtype -> pictures for people: pages, previews, perceptual hashes."""

import numpy as np

from keras_maskrcnn.data.images.channels import as_channels
from keras_maskrcnn.data.images.dtypes import as_dtype


def as_picture(pixels):
    """What can be seen of an image: uint8 RGB (H, W, 3).

    RGB and gray of 8 bits stay. Of more channels the first three are shown as red, green and blue, of two red and
    green. Other dtypes are stretched, channel by channel: from the 1st to the 99th percentile of some of its pixels to
    0..255.

    Args:
        pixels: (H, W, C), bool or any integer or float dtype. NaN is shown dark.
    """
    pixels = pixels[..., :3]
    if pixels.dtype == bool:
        pixels = as_dtype(pixels, "uint8", "an image")
    if pixels.dtype != np.uint8:
        pixels = np.stack([_stretched(pixels[..., k]) for k in range(pixels.shape[2])], axis=2)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    return np.ascontiguousarray(pixels)


def picture_of(stored):
    """uint8 RGB (H, W, 3) of a `Stored`: as `read_image` makes it where it can be RGB, else as `as_picture` does."""
    if stored.pixels.shape[2] - stored.alpha in (1, 3) and stored.pixels.dtype.kind in "bu":
        return np.ascontiguousarray(as_dtype(as_channels(stored, 3), "uint8", stored.name))
    return as_picture(stored.pixels)


def _stretched(plane):
    """A plane of any dtype as uint8, by its percentiles."""
    few = plane[:: max(1, plane.shape[0] // 256), :: max(1, plane.shape[1] // 256)]
    few = few[np.isfinite(few)] if few.dtype.kind == "f" else few
    low, high = np.percentile(few, (1, 99)) if few.size else (0, 1)
    values = np.clip(np.nan_to_num(plane.astype(np.float64), nan=low), low, high)
    return np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
