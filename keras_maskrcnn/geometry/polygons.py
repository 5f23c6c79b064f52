"""Rasterise polygons by COCO's rule, in bounded time and memory however far outside the image they reach.

pycocotools follows the whole outline in steps of a fifth of a pixel, inside the image or not: one corner at x = 1e8
takes 8 GB, and beyond 4e8 its integers overflow. Outlines of up to `MOST_STEPS` go to pycocotools. For longer ones the
same rule is computed here for the columns of the image alone. The result is the same, pixel by pixel.

COCO's rule: corners are rounded to fifths of pixels. A side is drawn as points (u, v) of whole numbers, one step at a
time in its longer direction. It crosses column c of the image between the points with u = 5c + 2 and u = 5c + 3; from
the row of the upper one on, inside and outside are swapped. Called by `data/records.py` and the readers.
"""

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry import rle

MOST_STEPS = 2**22  # of one outline: 64 MB in pycocotools
FARTHEST = 1e9  # pixels; a corner beyond is damage. Up to here float64 follows a side exactly
MOST_CROSSINGS = 2**23  # of an outline and the columns of its image: seconds
SCALE = 5
_AT_ONCE = 2**18  # crossings


def union_runs(parts, height, width):
    """Run lengths of the union of polygons.

    Args:
        parts: sequence of float (k, [x, y]), k >= 3, image pixels, absolute values up to `FARTHEST`.
        height, width: int, image pixels.

    Returns:
        int64 (runs,), column by column, as from `rle.parse_counts`.
    """
    codes = [_code(part, height, width) for part in parts]
    code = codes[0] if len(codes) == 1 else coco_mask.merge(codes)
    return rle.parse_counts(code["counts"])


def is_long(points, corners=None):
    """Whether pycocotools would take more than `MOST_STEPS` to follow an outline.

    Args:
        points: float (k, [x, y]), image pixels.
        corners: float [x1, y1, x2, y2], the extent, if known: makes the answer cheap for short outlines.
    """
    if corners is not None:
        longest = max(corners[2] - corners[0], corners[3] - corners[1])
        if len(points) * (SCALE * longest + 1) <= MOST_STEPS:
            return False
    sides = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1)
    return bool(SCALE * sides.sum() + len(points) > MOST_STEPS)


def column_runs(points, height, width):
    """Run lengths of one polygon, computed for the columns of the image alone. The same as those of pycocotools.

    Args:
        points: float (k, [x, y]), image pixels. height, width: int, image pixels.

    Returns:
        int64 (runs,).

    Raises:
        ValueError: the outline crosses the columns more than `MOST_CROSSINGS` times.
    """
    corners = np.trunc(SCALE * np.asarray(points, np.float64) + 0.5).astype(np.int64)
    sides = _sides_in_columns(corners, np.roll(corners, -1, axis=0), width)
    ends = np.cumsum(sides[-1])
    if len(ends) and ends[-1] > MOST_CROSSINGS:
        raise ValueError(
            f"An outline may cross the columns of its image {MOST_CROSSINGS} times. Received one of {len(points)} "
            f"points that does so {ends[-1]} times. It is damaged: outline the object again."
        )
    cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _AT_ONCE)[1:])
    blocks = zip(*(np.split(values, np.unique(cuts)) for values in sides), strict=True)
    swaps = _odd(np.concatenate([_odd(_positions(*_crossings(*block), height)) for block in blocks]))
    runs = np.diff(np.concatenate([[0], swaps, [height * width]]))
    return runs[:-1] if len(swaps) and swaps[-1] == height * width else runs


def _code(part, height, width):
    """One polygon as pycocotools' run-length code."""
    longest = part.max() - part.min()  # of x and y together: no shorter than either
    if not is_long(part, (0, 0, longest, longest)):
        return coco_mask.frPyObjects([part.ravel().tolist()], height, width)[0]
    runs = column_runs(part, height, width)
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


def _sides_in_columns(begin, end, width):
    """The sides that cross a column of the image, each from its lower coordinate in its longer direction.

    Args:
        begin, end: int (k, [u, v]), fifths of image pixels.

    Returns:
        (begin, end: int (n, [u, v]), first: int (n,) column, count: int (n,) columns).
    """
    span = np.abs(end - begin)
    longer = np.where(span[:, 0] >= span[:, 1], 0, 1)
    rows = np.arange(len(begin))
    flip = (begin[rows, longer] > end[rows, longer])[:, None]
    begin, end = np.where(flip, end, begin), np.where(flip, begin, end)
    low, high = np.minimum(begin[:, 0], end[:, 0]), np.maximum(begin[:, 0], end[:, 0])
    first = np.maximum(-((2 - low) // SCALE), 0)  # the first column with 5c + 2 >= low
    count = np.minimum((high - 3) // SCALE, width - 1) - first + 1
    crossing = count > 0
    return begin[crossing], end[crossing], first[crossing], count[crossing]


def _crossings(begin, end, first, count):
    """(column, v of the upper point) of each crossing of a side and a column."""
    side = np.repeat(np.arange(len(count)), count)
    column = first[side] + np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count)
    (u, v), (across, down) = begin[side].T, (end - begin)[side].T
    flat = across >= np.abs(down)
    upper = np.empty(len(side), np.int64)
    slope = down[flat] / across[flat]
    right = SCALE * column[flat] + 3 - u[flat]  # steps to the point right of the border
    on_line = [np.trunc(v[flat] + slope * step + 0.5) for step in (right - 1, right)]
    upper[flat] = np.minimum(*on_line)
    steep = ~flat
    upper[steep] = v[steep] + _steps_before(u[steep], across[steep], down[steep], SCALE * column[steep] + 3)
    return column, upper


def _steps_before(u, across, down, right):
    """How many steps a steep side takes to its last point on the side of the border where it begins.

    Args:
        u: int (n,), where it begins. across, down: int (n,), its extent, |across| < down. right: int (n,), the first u
            right of the border.
    """
    slope, rising = across / down, across > 0
    low, high = np.zeros(len(u), np.int64), down.copy()  # the border is crossed after `low`, at `high` at the latest
    for _ in range(int(down.max(initial=1)).bit_length()):
        middle = (low + high) // 2
        crossed = (np.trunc(u + slope * middle + 0.5) >= right) == rising
        low, high = np.where(crossed, low, middle), np.where(crossed, middle, high)
    return low


def _positions(column, upper, height):
    """Positions, column by column, from which on inside and outside are swapped."""
    row = np.ceil(np.clip((upper + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)
    return column * height + row


def _odd(positions):
    """Those that are there an odd number of times, sorted."""
    values, counts = np.unique(positions, return_counts=True)
    return values[counts % 2 == 1]
