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

    Rounds by `config.size_rule`. With `config.image_scale` set, both sides are multiplied by it instead and rounded to
    nearest.

    Args:
        height, width: int, image pixels, >= 1.
        config: MaskRCNNConfig; `min_size`, `max_size`, `image_scale` and `size_rule` are read.

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
    return SIZE_RULES[getattr(config, "size_rule", "floor")](height, width, config.min_size, config.max_size)


def _floor_sides(height, width, min_size, max_size):
    """Torchvision's GeneralizedRCNNTransform: a float64 scale, then floor."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return tuple(max(1, math.floor(side * scale)) for side in (height, width))


def _round_sides(height, width, min_size, max_size):
    """Detectron2's ResizeShortestEdge: the short side, then the long one, each rounded to nearest at the end."""
    scale = min_size / min(height, width)
    sides = [min_size if side == min(height, width) else scale * side for side in (height, width)]
    if max(sides) > max_size:
        scale = max_size / max(sides)
        sides = [side * scale for side in sides]
    return tuple(max(1, int(side + 0.5)) for side in sides)


def _square_sides(height, width, min_size, max_size):
    """Matterport's `resize_image` in mode "square": enlarge to `min_size`, never shrink to it; at most `max_size`."""
    scale = max(1, min_size / min(height, width))
    if round(max(height, width) * scale) > max_size:
        scale = max_size / max(height, width)
    return tuple(max(1, round(side * scale)) for side in (height, width))


SIZE_RULES = {"floor": _floor_sides, "round": _round_sides, "square": _square_sides}  # of the config's size_rule


def resize_image(image, size, rule="bilinear", out=None):
    """Resample an image as the config's `resize` says.

    Args, returns: as `resize_bilinear`; other rules than "bilinear" take uint8 and give whole numbers.
    """
    if rule == "bilinear":
        return resize_bilinear(image, size, out)
    out = np.empty((*size, image.shape[2]), np.float32) if out is None else out
    out[...] = image if image.shape[:2] == tuple(size) else _RESIZES[rule](image, size)
    return out


def _resize_by_pillow(image, size):
    """Detectron2's ResizeTransform: bilinear with antialiasing, each channel rounded to 8 bits."""
    from PIL import Image

    channels = [Image.fromarray(np.ascontiguousarray(image[..., k])) for k in range(image.shape[2])]
    resized = [channel.resize((size[1], size[0]), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1)


def _resize_by_skimage(image, size):
    """Matterport's `resize`: linear, mixed with zeros at the border, within the range of the image, cut to 8 bits."""
    from skimage.transform import resize

    options = {"order": 1, "mode": "constant", "cval": 0, "clip": True, "preserve_range": True}
    return resize(image, (*size, image.shape[2]), anti_aliasing=False, **options).astype(np.uint8)


def _resize_by_opencv(image, size):
    """OpenCV's `resize` by INTER_LINEAR (`imgproc/src/resize.cpp`): no antialiasing, weights of 11 bits, whole numbers.

    What is cut off and what is rounded is as there, to the last bit.
    """
    (left, right, across), (top, bottom, down) = (
        _opencv_taps(image.shape[1], size[1]),
        _opencv_taps(image.shape[0], size[0]),
    )
    outside = (left < 0) | (right >= image.shape[1])  # beyond the outer columns, but not the rows, one weight is 1
    across[:, outside] = [[1 << _OPENCV_BITS], [0]]
    left, right = (np.clip(columns, 0, image.shape[1] - 1) for columns in (left, right))
    pair = np.clip(np.concatenate([top, bottom]), 0, image.shape[0] - 1)
    rows, place = np.unique(pair, return_inverse=True)
    image = image[rows].astype(np.int32)
    along_x = (image[:, left] * across[0][:, None] + image[:, right] * across[1][:, None]) >> 4
    upper, lower = along_x[place[: size[0]]], along_x[place[size[0] :]]
    upper *= down[0][:, None, None]
    lower *= down[1][:, None, None]
    return (((upper >> 16) + (lower >> 16) + 2) >> 2).astype(np.uint8)


def _opencv_taps(source, target):
    """For each target pixel: its two source neighbours, which may lie outside, and their weights, int32 (2, target)."""
    centre = ((np.arange(target) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    low = np.floor(centre)
    second = centre - low
    weights = np.rint(np.stack([np.float32(1) - second, second]) * np.float32(1 << _OPENCV_BITS)).astype(np.int32)
    low = low.astype(np.int64)
    return low, low + 1, weights


_OPENCV_BITS = 11  # INTER_RESIZE_COEF_BITS
_RESIZES = {"pillow": _resize_by_pillow, "skimage": _resize_by_skimage, "opencv": _resize_by_opencv}


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
