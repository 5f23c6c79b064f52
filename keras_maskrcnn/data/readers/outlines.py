"""Convert outlines from annotation tools to masks of records, and check them.

Rectangles, circles and ellipses become polygons that deviate from the curve by at most 0.05 pixels. Coordinates are
image pixels, x before y, with pixel edges at whole numbers. Called by the readers.
"""

import math

import numpy as np

from keras_maskrcnn.data.limits import OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.records import Polygons, RunLengths
from keras_maskrcnn.geometry import polygons, rle
from keras_maskrcnn.geometry.extents import filled_box

_MAX_SAGITTA = 0.05  # pixels, largest deviation of a polygon from its curve


class DegeneratePart(FaultyAnnotation):
    """A part of an outline encloses no area. Dropped where other parts are left."""


def polygon_mask(parts, height, width, holes=(), note=None):
    """The mask of the area inside polygons.

    Outlines that reach so far that following them takes long are cut to the image: they become run lengths. The pixels
    are the same.

    Args:
        parts: list of coordinate lists, flat x1, y1, x2, y2, ... or (k, [x, y]); the mask is their union.
        height, width: int, image pixels.
        holes: list of the same, cut out of the mask. With holes the mask is stored as run lengths, because COCO
            polygons cannot have holes.
        note: function called with sentences for `fields.Notes.add`. It permits to leave out degenerate parts where
            others are left. None: such a part is a fault.

    Returns:
        (Polygons or RunLengths, box float32 [x1, y1, x2, y2] clipped to the image).

    Raises:
        FaultyAnnotation: the coordinates are not a polygon, or it covers no area of the image.
    """
    outlines = [polygon(parts[0], note)] if len(parts) == 1 else _parts_with_area(parts, note)
    x1, y1, x2, y2 = corners = _extent(outlines)
    box = np.array([max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)], np.float32)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise FaultyAnnotation(
            f"its polygon covers no area of its image of {height} x {width} (height x width). "
            f"Received points from {[x1, y1]} to {[x2, y2]}.",
            "Check that it belongs to this image and that x comes before y.",
        )
    mask = Polygons(tuple(outlines))
    if any(polygons.is_long(points, corners) for points in outlines):
        mask, box = _cut_to_image(mask, height, width, note)
    if not len(holes):
        return mask, box
    return _without_holes(mask, [polygon(hole, note) for hole in holes], height, width)


def polygon(part, note=None):
    """One polygon's corners.

    Args:
        part: flat coordinates x1, y1, x2, y2, ... or (k, [x, y]).
        note: as for `polygon_mask`.

    Returns:
        float64 (k, [x, y]), k >= 3.

    Raises:
        FaultyAnnotation: they are no finite numbers, or beyond `polygons.FARTHEST`.
        DegeneratePart: an odd number of values, or fewer than three points.
    """
    values = _coordinates(part, note)
    if values.ndim == 1 and len(values) % 2:
        raise DegeneratePart(
            f"a polygon must be a flat list x1, y1, x2, y2, ... Received {len(values)} values, which is odd: "
            f"{fields.shown(part)}.",
            "Export the annotations again.",
        )
    points = values.reshape(-1, 2)
    if len(points) < 3:
        raise DegeneratePart(
            f"a polygon needs at least three points. Received {points.tolist()}.",
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
        FaultyAnnotation: an axis is not a positive number, or beyond `polygons.FARTHEST`.
    """
    if not (0 < rx <= polygons.FARTHEST and 0 < ry <= polygons.FARTHEST and np.isfinite([cx, cy, theta]).all()):
        raise FaultyAnnotation(
            f"circles and ellipses need positive radii of at most {polygons.FARTHEST:g} pixels. "
            f"Received {rx} and {ry} around ({cx}, {cy}), angle {theta}.",
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


def _parts_with_area(parts, note):
    """Those of several parts that enclose an area. Raises DegeneratePart if there is none, or without `note`."""
    kept, first = [], None
    for part in parts:
        try:
            points = polygon(part, note)
            if _is_line(points):
                raise DegeneratePart(
                    f"all points of its part lie on a line. Received {fields.shown(points.tolist())}.",
                    "Outline the object again, or remove the part.",
                )
            kept.append(points)
        except DegeneratePart as fault:
            first = fault if first is None else first
    if first is not None and (note is None or not kept):
        raise first
    if first is not None:
        note(
            "left out parts of an outline that are no polygons (fewer than three points, all on a line, or an odd "
            "number of values), and kept the other parts"
        )
    return kept


def _is_line(points):
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is a fault of its own
        offsets = points - points[0]
        farthest = offsets[np.argmax(np.abs(offsets).sum(axis=1))]
        return not (offsets[:, 0] * farthest[1] != offsets[:, 1] * farthest[0]).any()


def _coordinates(part, note):
    """The numbers of a part as a float64 array, flat or (k, 2)."""
    try:
        values = np.asarray(part)
    except ValueError:  # lists of several lengths
        values = np.zeros((), object)
    if values.dtype.kind not in "fiu" and values.ndim in (1, 2) and values.size:
        numbers_of = [fields.number(value, "a coordinate", note=note) for value in values.ravel().tolist()]
        values = np.array(numbers_of, np.float64).reshape(values.shape)
    if values.ndim not in (1, 2) or values.ndim == 2 and values.shape[1] != 2:
        raise FaultyAnnotation(
            "a polygon must be a flat list x1, y1, x2, y2, ..., or one of points [x, y]. "
            f"Received {fields.shown(part)}.",
            "Export the annotations again.",
        )
    check_count(values.size // 2, OUTLINE_POINTS, "points in an outline")
    return values.astype(np.float64, copy=False)


def _extent(outlines):
    """[x1, y1, x2, y2] of all points, floats. Raises FaultyAnnotation if one is not finite or too far away."""
    points = outlines[0] if len(outlines) == 1 else np.concatenate(outlines)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    far = polygons.FARTHEST
    if not (x1 >= -far and y1 >= -far and x2 <= far and y2 <= far):  # false of NaN, too
        bad = points[~(np.abs(points) <= far).all(axis=1)]
        raise FaultyAnnotation(
            f"a polygon's points must be finite and within {far:g} pixels. Received {bad[:3].tolist()}.",
            "Outline the object again, or remove the part.",
        )
    return x1, y1, x2, y2


def _cut_to_image(mask, height, width, note):
    """(RunLengths, box) of polygons that reach far outside their image."""
    try:
        runs = polygons.union_runs(mask.parts, height, width)
    except ValueError as error:
        raise FaultyAnnotation(str(error), "Or remove it.") from None
    if note is not None:
        note("cut off outlines at the border of their image, far outside of which they reach")
    return run_lengths_mask(runs, height)


def run_lengths_mask(runs, height):
    """A mask from run lengths of a whole image.

    Args:
        runs: int (runs,), from `rle.parse_counts`. height: int, image pixels.

    Returns:
        (RunLengths, box float32 [x1, y1, x2, y2]).

    Raises:
        FaultyAnnotation: the mask is empty.
    """
    box = rle.extent(runs, height)
    if box is None:
        raise FaultyAnnotation("its mask is empty.", "Remove the annotation.")
    small = runs.max() <= np.iinfo(np.int32).max
    return RunLengths(runs.astype(np.int32) if small else runs), box.astype(np.float32)


def _without_holes(mask, holes, height, width):
    """(RunLengths, box) of a mask with holes in it."""
    _extent(holes)
    return pixels_mask(_pixels(mask, height, width) & ~_pixels(Polygons(tuple(holes)), height, width))


def _pixels(mask, height, width):
    """A mask as an array of the size of the image. Returns bool (height, width)."""
    window = mask.window(height, width)
    pixels = np.zeros((height, width), bool)
    rows, columns = window.pixels.shape
    pixels[window.y : window.y + rows, window.x : window.x + columns] = window.pixels
    return pixels
