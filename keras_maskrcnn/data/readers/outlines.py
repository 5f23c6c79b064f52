"""Convert outlines from annotation tools to masks of records, and check them.

Rectangles, circles and ellipses become polygons that deviate from the curve by at most 0.05 pixels. Coordinates are
image pixels, x before y, with pixel edges at whole numbers. Called by the readers.
"""

import math

import numpy as np

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.records import Polygons, RunLengths
from keras_maskrcnn.geometry import rle
from keras_maskrcnn.geometry.extents import filled_box

_MAX_SAGITTA = 0.05  # pixels, largest deviation of a polygon from its curve


def polygon_mask(parts, height, width, holes=()):
    """The mask of the area inside polygons.

    Args:
        parts: list of coordinate lists, flat x1, y1, x2, y2, ... or (k, [x, y]); the mask is their union.
        height, width: int, image pixels.
        holes: list of the same, cut out of the mask. With holes the mask is stored as run lengths, because COCO
            polygons cannot have holes.

    Returns:
        (Polygons or RunLengths, box float32 [x1, y1, x2, y2] clipped to the image).

    Raises:
        FaultyAnnotation: the coordinates are not a polygon, or it covers no area of the image.
    """
    mask = Polygons(tuple(polygon(part) for part in parts))
    box = mask.box(height, width)
    if (box[2:] <= box[:2]).any():
        points = np.concatenate(mask.parts)
        raise FaultyAnnotation(
            f"its polygon covers no area of its image of {height} x {width} (height x width). "
            f"Received points from {points.min(0).tolist()} to {points.max(0).tolist()}.",
            "Check that it belongs to this image and that x comes before y.",
        )
    if not holes:
        return mask, box
    return _without_holes(mask, Polygons(tuple(polygon(hole) for hole in holes)), height, width)


def polygon(part):
    """One polygon's corners. Returns float64 (k, [x, y]), k >= 3. Raises FaultyAnnotation."""
    try:
        points = np.asarray(part, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise FaultyAnnotation(
            f"a polygon must be a flat list x1, y1, x2, y2, ... Received {str(part)[:60]}.",
            "Export the annotations again.",
        ) from None
    if len(points) < 3 or not np.isfinite(points).all():
        raise FaultyAnnotation(
            f"a polygon needs at least three finite points. Received {points.tolist()[:3]}.",
            "Outline the object again, or remove the part.",
        )
    return points


def rectangle(x1, y1, x2, y2):
    """The four corners of a rectangle, given two opposite corners. float64 (4, [x, y])."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def ellipse(cx, cy, rx, ry, theta=0.0):
    """An ellipse as a polygon with its corners on the curve.

    Args:
        cx, cy: centre.
        rx, ry: half axes; both must be positive.
        theta: rotation in radians, from x towards y (clockwise on screen, because y points down).

    Returns:
        float64 (k, [x, y]).

    Raises:
        FaultyAnnotation: an axis is not a positive number.
    """
    if not (rx > 0 and ry > 0 and np.isfinite([cx, cy, rx, ry, theta]).all()):
        raise FaultyAnnotation(
            f"circles and ellipses need positive radii. Received {rx} and {ry} around ({cx}, {cy}), angle {theta}.",
            "Draw it again, or remove it.",
        )
    count = max(16, math.ceil(math.pi / math.acos(max(0.0, 1 - _MAX_SAGITTA / max(rx, ry)))))
    angles = np.arange(count) * (2 * math.pi / count)
    x, y = rx * np.cos(angles), ry * np.sin(angles)
    cos, sin = math.cos(theta), math.sin(theta)
    return np.stack([cx + x * cos - y * sin, cy + x * sin + y * cos], axis=1)


def circle(cx, cy, radius):
    """A circle as a polygon, see `ellipse`."""
    return ellipse(cx, cy, radius, radius)


def numbers(*values):
    """The values as floats. Raises FaultyAnnotation if one is missing or no finite number."""
    try:
        return [fields.number(value, "a coordinate") for value in values]
    except FaultyAnnotation:
        raise FaultyAnnotation(
            f"coordinates must be numbers that are finite. Received {list(values)!r:.200}.",
            "Draw the shape again, or remove it.",
        ) from None


def union(masks, height, width):
    """Merge several masks into one. Polygons stay polygons; other masks become run lengths.

    Args:
        masks: list of Polygons, RunLengths or MaskWindow; not empty.
        height, width: int, image pixels.

    Returns:
        (mask, box float32 [x1, y1, x2, y2]).
    """
    if all(isinstance(mask, Polygons) for mask in masks):
        joined = Polygons(tuple(part for mask in masks for part in mask.parts))
        return joined, joined.box(height, width)
    pixels = np.zeros((height, width), bool)
    for mask in masks:
        pixels |= _pixels(mask, height, width)
    return pixels_mask(pixels)


def pixels_mask(pixels):
    """A mask from its pixels.

    Args:
        pixels: bool (H, W), image pixels.

    Returns:
        (RunLengths, box float32 [x1, y1, x2, y2]).

    Raises:
        FaultyAnnotation: the mask is empty.
    """
    box = filled_box(pixels)
    if box is None:
        raise FaultyAnnotation("its mask is empty.", "Remove the annotation.")
    x1, y1, x2, y2 = box
    runs = rle.encode_window(pixels[y1:y2, x1:x2], x1, y1, *pixels.shape)
    return RunLengths(runs.astype(np.int32)), np.array(box, np.float32)


def _without_holes(mask, holes, height, width):
    """(RunLengths, box) of a mask with holes in it."""
    return pixels_mask(_pixels(mask, height, width) & ~_pixels(holes, height, width))


def _pixels(mask, height, width):
    """A mask as an array of the size of the image. Returns bool (height, width)."""
    window = mask.window(height, width)
    pixels = np.zeros((height, width), bool)
    rows, columns = window.pixels.shape
    pixels[window.y : window.y + rows, window.x : window.x + columns] = window.pixels
    return pixels
