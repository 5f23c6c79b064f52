"""Polygons as people write them into a cell of a table: numbers, JSON, or WKT. Called by the reader of tables.

Text is split and converted, in time linear in its length.
"""

import json
import math

from keras_maskrcnn.data.limits import OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, shown

_SEPARATORS = str.maketrans(",;", "  ")
_PYTHON_TUPLES = str.maketrans("()", "[]")


def outline_mask(outline, height, width):
    """The mask of the polygons in a cell.

    Args:
        outline: text of a cell, or a list of points (x, y), numbers or text.
        height, width: int, image pixels.

    Returns:
        (mask, box), as `outlines.polygon_mask`.

    Raises:
        FaultyAnnotation: the cell holds no polygon, or one without area.
    """
    if not isinstance(outline, str):
        return outlines.polygon_mask([_numbers(value for point in outline for value in point)], height, width)
    if outline.lstrip().upper().startswith(("POLYGON", "MULTIPOLYGON")):
        return _wkt_mask(outline, height, width)
    return outlines.polygon_mask(_parts(outline), height, width)


def _numbers(values):
    """Words as floats. Raises FaultyAnnotation if one is no finite number, ValueError if there are too many."""
    values = list(values)
    check_count(len(values), 2 * OUTLINE_POINTS, "numbers in an outline")
    together = "".join(values)
    try:
        found = list(map(float, values))
    except ValueError:
        return outlines.numbers(*values)  # names the word
    plain = together.isascii() and "_" not in together and all(map(math.isfinite, found))
    return found if plain else outlines.numbers(*values)


def _parts(text):
    """Lists of coordinates from plain numbers or JSON (tuples of Python included)."""
    words = text.translate(_SEPARATORS).split()
    if not any(sign in text for sign in "[({"):
        if words and all(word[-1].isdigit() or word[-1] == "." for word in words):
            return [_numbers(words)]
        raise _no_polygon(text)
    content = _json(text)
    depth = _depth(content)
    if depth == 0 or depth > 3:
        raise _no_polygon(text)
    flat_parts = depth == 2 and all(len(part) > 2 for part in content if isinstance(part, list))
    return content if depth == 3 or flat_parts else [content]  # [x, y, ...] and [[x, y], ...] are one polygon


def _json(text):
    try:
        return json.loads(text.translate(_PYTHON_TUPLES))
    except (ValueError, RecursionError, OverflowError):
        raise _no_polygon(text) from None


def _no_polygon(text):
    return FaultyAnnotation(
        f"a polygon must be numbers x1 y1 x2 y2 ..., a JSON list or WKT. Received {shown(text)}.", "Correct the cell."
    )


def _depth(content):
    """How many lists are around the first number; 0 if there is none, or more than three."""
    depth = 0
    while isinstance(content, list) and content and depth < 4:
        content, depth = content[0], depth + 1
    return 0 if isinstance(content, list) else depth


def _wkt_mask(text, height, width):
    """POLYGON ((outline), (hole), ...) or MULTIPOLYGON (((outline), ...), ...); a third coordinate is ignored."""
    masks = []
    for outline, *holes in _wkt_polygons(text):
        masks.append(outlines.polygon_mask([outline], height, width, holes))
    if not masks:
        raise FaultyAnnotation(f"a WKT polygon must have points. Received {shown(text)}.", "Correct the cell.")
    return masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)


def _wkt_polygons(text):
    """Lists of rings, one for each polygon: a ring is text between innermost parentheses, a polygon those around it.

    Raises:
        FaultyAnnotation: parentheses do not match, or a ring is not one.
    """
    open_at, polygons, rings, depth = None, [], [], 0
    for at, sign in _parentheses(text):
        depth += 1 if sign == "(" else -1
        if sign == "(":
            open_at = at
        elif open_at is not None:
            rings.append(_ring(text[open_at + 1 : at]))
            open_at = None
        elif rings:
            polygons.append(rings)
            rings = []
        if not 0 <= depth <= 3:
            break
    if depth or rings:
        raise FaultyAnnotation(f"the parentheses of WKT must match. Received {shown(text)}.", "Correct the cell.")
    return polygons


def _parentheses(text):
    return ((at, sign) for at, sign in enumerate(text) if sign in "()")


def _ring(text):
    points = [_numbers(point.split()[:2]) for point in text.split(",")]
    if any(len(point) != 2 for point in points):
        raise FaultyAnnotation(f"a point of WKT must be x and y. Received {shown(text)}.", "Correct the cell.")
    return points[:-1] if len(points) > 3 and points[0] == points[-1] else points  # WKT repeats the first point
