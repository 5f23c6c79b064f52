"""Pictures of errors: a part of an image around a detection or a missed object, with the outlines of both.

Comes in: an image, masks or boxes in image pixels. Goes out: a JPEG of bounded size. Called by `errors_page.py`.
Objects have a solid outline in blue, detections a dashed one in orange: they differ in more than colour.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from keras_maskrcnn.data.images.showing import as_picture

SIDE = 320  # pixels of a picture's longer side
_MOST_BYTES = 48_000  # of a JPEG
_QUALITIES = (82, 65, 45, 25, 10)  # the first that is small enough
_LEAST_PART = 48  # image pixels of the part's sides: smaller ones show nothing of the surroundings
_MARGIN = 0.35  # of the longer side of what is shown, on each side
_MOST_ENLARGED = 6
_OBJECT, _DETECTION, _DARK = (0, 190, 255), (255, 150, 0), (20, 20, 20)
_DASH = 5  # pixels of a dash


def part_around(boxes, size):
    """The part of an image to show: int (x1, y1, x2, y2), around boxes and inside the image.

    Args:
        boxes: list of [x, y, width, height] in image pixels, at least one.
        size: (height, width) of the image.
    """
    boxes = np.asarray(boxes, np.float64)
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    limits = np.array([size[1], size[0]], np.float64)
    low, high = np.clip(low, 0, limits - 1), np.clip(high, 1, limits)
    margin = max(_MARGIN * (high - low).max(), (_LEAST_PART - (high - low).max()) / 2)
    low, high = np.floor(np.maximum(low - margin, 0)), np.ceil(np.minimum(high + margin, limits))
    return tuple(int(value) for value in (*low, *high))


def draw_part(image, part, objects, detection=None, target=None):
    """Draw one error.

    Args:
        image: (H, W, C) of any dtype.
        part: (x1, y1, x2, y2), what is shown.
        objects: list of bool (y2 - y1, x2 - x1), the masks of labelled objects inside the part.
        detection: such a mask, or None. target: position of the object that the error is about, which gets a
            thicker outline; or None.

    Returns:
        bytes of a JPEG whose longer side is at most `SIDE` pixels.
    """
    x1, y1, x2, y2 = part
    scale = min(SIDE / max(x2 - x1, y2 - y1), _MOST_ENLARGED)
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    canvas = np.array(Image.fromarray(as_picture(image)[y1:y2, x1:x2]).resize(size, Image.Resampling.BICUBIC))
    for position, mask in enumerate(objects):
        _trace(canvas, mask, _OBJECT, 3 if position == target else 1)
    if detection is not None:
        _trace(canvas, detection, _DETECTION, 3, dashed=True)
    return _as_jpeg(canvas)


def _trace(canvas, mask, color, width, dashed=False):
    """Draw the outline of a mask in place, inside it, with a thin dark line outside."""
    height, across = canvas.shape[:2]
    mask = np.asarray(Image.fromarray(mask).resize((across, height), Image.Resampling.NEAREST), bool)
    if not mask.any():
        return
    ring = np.ones((3, 3), bool)
    inside = mask & ~ndimage.binary_erosion(mask, ring, width)
    outside = ndimage.binary_dilation(mask, ring) & ~mask
    canvas[outside] = _DARK
    if dashed:  # what lies below shows in the gaps, such as the outline of an object with the same mask
        ys, xs = np.ogrid[:height, :across]
        inside &= (xs + ys) // _DASH % 2 == 0
    canvas[inside] = color


def _as_jpeg(pixels):
    for quality in _QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= _MOST_BYTES:
            break
    return file.getvalue()
