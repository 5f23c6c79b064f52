"""From the image frame to the network frame: size, resampling and padding.

In: an image (H, W, C) in image pixels. Out: network pixels, float32, zero padding at the right and bottom.
Called by Predictor (and so by evaluate_coco) and by the data transforms. Exported models do the same
arithmetic in their graph, so all get the same numbers.
"""

import math

import numpy as np

from keras_maskrcnn.geometry import native

STRIDE = 32  # stride of the coarsest backbone level (C5); canvas sides are multiples of it


def network_size(height, width, config):
    """Size of an image in network pixels: short side `min_size`, long side at most `max_size`.

    Rounds as torchvision's GeneralizedRCNNTransform does (a float64 scale, then floor). With
    `config.image_scale` set, both sides are multiplied by it instead and rounded to nearest.

    Args:
        height, width: int, image pixels, >= 1.
        config: MaskRCNNConfig; `min_size`, `max_size` and `image_scale` are read.

    Returns:
        (height, width), int, network pixels, each >= 1.
    """
    if min(height, width) < 1:
        raise ValueError(
            "An image must have at least one pixel in each direction. "
            f"Received height={height}, width={width}. Check that the file was read completely."
        )
    if config.image_scale is not None:
        return tuple(max(1, math.floor(side * config.image_scale + 0.5)) for side in (height, width))
    scale = min(config.min_size / min(height, width), config.max_size / max(height, width))
    return tuple(max(1, math.floor(side * scale)) for side in (height, width))


def resize_bilinear(image, size, out=None):
    """Resample an image as `tf.image.resize(..., "bilinear", antialias=False)` does, to the last bit.

    Half-pixel centres, float32 throughout, first along x, then along y. An image that already has the
    size is only converted.

    Args:
        image: uint8 or float (H, W, C).
        size: (height, width), int.
        out: float32 (height, width, C), where to write the result, such as a part of a canvas. None: a new array.

    Returns:
        float32 (height, width, C).
    """
    out = np.empty((*size, image.shape[2]), np.float32) if out is None else out
    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        out[...] = image
        return out
    low, high, weight = _taps(height, size[0])
    columns = _taps(width, size[1])
    if native.resize_floats(image, (low, high, weight), columns, out) is not None:
        return out
    # Resample only the source rows that are used, each once along x.
    image = image.astype(np.float32)
    rows, position = np.unique(np.concatenate([low, high]), return_inverse=True)
    along_x = _blend(image[rows], *columns, axis=1)
    out[...] = _blend(along_x, position[: size[0]], position[size[0] :], weight, axis=0)
    return out


def canvas_size(height, width):
    """Smallest canvas (height, width) that fits the image, with sides that are multiples of 32 pixels."""
    return tuple(math.ceil(side / STRIDE) * STRIDE for side in (height, width))


def bucket_size(height, width):
    """Canvas size rounded up to a coarse grid, for backends that compile once per shape (JAX).

    Each side is rounded up to a multiple of a quarter of its largest power of two (at least 32). So all
    sides from 512 to 1024 pixels share four sizes.
    """
    return tuple(math.ceil(side / step) * step for side in (height, width) for step in [_step(side)])


def pad_to_canvas(image, canvas):
    """Place an image in the top-left corner of a zero canvas (canvas height, canvas width, C), same dtype."""
    height, width = image.shape[:2]
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(
            f"The canvas must fit the image. Received canvas (height, width)={tuple(canvas)} for an image "
            f"of {(height, width)}. Enlarge the canvas or lower min_size / max_size."
        )
    padded = np.zeros((*canvas, *image.shape[2:]), image.dtype)
    padded[:height, :width] = image
    return padded


def _step(side):
    """Distance in pixels between the sizes of `bucket_size` near this side."""
    return max(STRIDE, 2 ** (int(side - 1).bit_length() - 1) // 4) if side > 1 else STRIDE


def _taps(source, target):
    """For each target pixel: its two source neighbours, and the weight of the second (half-pixel centres)."""
    scale = np.float32(source) / np.float32(target)
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(centre)
    low = np.maximum(floor, 0).astype(np.int64)
    high = np.minimum(np.ceil(centre), source - 1).astype(np.int64)
    return low, high, centre - floor


def _blend(image, low, high, weight, axis):
    """Linear interpolation `low + (high - low) * weight` between rows (axis 0) or columns (axis 1)."""
    shape = [1] * image.ndim
    shape[axis] = -1
    first = np.take(image, low, axis=axis)
    second = np.take(image, high, axis=axis)
    second -= first
    second *= weight.reshape(shape)
    second += first
    return second
