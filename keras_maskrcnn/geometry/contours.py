"""Outlines of masks: rings of corners along the edges of pixels, simplified as far as the mask allows.

Comes in: a mask. Goes out: rings, in the mask's pixels, with (0, 0) at its upper left corner. Called by `labelling/`.
"""

import itertools

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry import polygons, rle

_TOLERANCES = (1.5, 1.0, 0.7, 0.5, 0.3)  # pixels between an outline and the corners that it leaves out
_ROUNDED = 0.01  # pixels: by how much files round corners
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: [x, y]
KEPT_IOU = 0.985  # of a mask and its simplified outline


def mask_rings(mask):
    """The outlines of a mask, exactly.

    Pixels that touch at a corner alone are apart: an outline never touches itself from inside.

    Args:
        mask: bool (H, W).

    Returns:
        (outer, holes): lists of int (k, [x, y]), corners in order, the first is not repeated.
    """
    following = _edges(mask)
    outer, holes = [], []
    while following:
        ring = _follow(following)
        (outer if _signed_area(ring) > 0 else holes).append(ring)
    return outer, holes


def mask_polygons(mask):
    """The outlines of a mask, exactly, as polygons that are valid for OGC: GeoJSON, QuPath and shapely take them.

    No ring meets itself. A hole may meet its outline, or another hole, at a corner.

    Args:
        mask: bool (H, W).

    Returns:
        List of (outer, holes), one for each part: int (k, [x, y]), and a list of such rings. Pixels that touch at a
        corner alone are two parts.
    """
    from scipy.ndimage import label  # slow to import

    parts, count = label(np.asarray(mask, bool))  # the default joins pixels by their sides
    outlines, holes = [None] * count, [[] for _ in range(count)]
    for ring in itertools.chain(*mask_rings(mask)):
        for simple in _without_meetings(ring):
            x, y = _pixel_beside(simple)
            part = parts[y, x] - 1
            if _signed_area(simple) > 0:
                outlines[part] = simple
            else:
                holes[part].append(simple)
    return list(zip(outlines, holes, strict=True))


def _without_meetings(ring):
    """The rings of a ring that meets itself at corners; each of them does not."""
    rings, path, places = [], [], {}
    for corner in map(tuple, ring.tolist()):
        if corner in places:  # the loop since then is a ring of its own
            start = places[corner]
            rings.append(np.array(path[start:]))
            for left in path[start:]:
                del places[left]
            del path[start:]
        places[corner] = len(path)
        path.append(corner)
    return [*rings, np.array(path)]


def _pixel_beside(ring):
    """The pixel [x, y] of the mask, to the right of a ring's first side."""
    (x, y), end = ring[0], ring[1]
    dx, dy = np.sign(end - ring[0])
    return x - (dx < 0 or dy > 0), y - (dx < 0 or dy < 0)


def _edges(mask):
    """{corner: [directions of the edges that begin there]}; the mask is to the right of each edge."""
    padded = np.pad(np.asarray(mask, bool), 1)
    inner = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    following = {}
    for direction, (neighbour, (dx, dy)) in enumerate(zip(beside, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True)):
        ys, xs = np.nonzero(inner & ~neighbour)
        for corner in zip((xs + dx).tolist(), (ys + dy).tolist(), strict=True):
            following.setdefault(corner, []).append(direction)
    return following


def _follow(following):
    """One ring, whose edges are taken out of the table. Where two edges begin, the right turn stays at its pixel."""
    start = corner = next(iter(following))
    last, ring = None, []
    while corner != start or not ring:
        choices = following[corner]
        turned = choices if last is None else sorted(choices, key=lambda direction: (last + 1 - direction) % 4)
        direction = turned[0]
        choices.remove(direction)
        if not choices:
            del following[corner]
        if direction != last:
            ring.append(corner)
        x, y = _STEPS[direction]
        corner, last = (corner[0] + x, corner[1] + y), direction
    return np.array(ring)


def _signed_area(ring):
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def simplified_rings(mask):
    """The outlines of a mask with fewer corners: the polygons cover it with an IoU of at least `KEPT_IOU`.

    Args:
        mask: bool (H, W), not empty.

    Returns:
        (outer, holes): lists of float64 (k, [x, y]), k >= 3.
    """
    exact = mask_rings(mask)
    # Through the middle of each pixel's edge, a slanting side is a line; along the edges it is a staircase.
    smooth = [[_edge_centres(ring) for ring in rings] for rings in exact]
    for tolerance in _TOLERANCES:
        outer, holes = ([_simplified(ring, tolerance) for ring in rings] for rings in smooth)
        if _count(outer, holes) >= _count(*exact):
            break
        if all(len(ring) >= 3 for ring in outer + holes) and _covers(bridged(outer + holes), mask):
            return outer, holes
    return tuple([ring.astype(np.float64) for ring in rings] for rings in exact)


def _count(outer, holes):
    return sum(map(len, outer + holes))


def _covers(ring, mask):
    """Whether a ring is as good as it must be, also after a file has rounded its corners, which may be halves."""
    return all(_iou(ring + moved, mask) >= KEPT_IOU for moved in (-_ROUNDED, _ROUNDED))


def _edge_centres(ring):
    """The centres of the pixels' edges along a ring of corners: float64 (k, [x, y])."""
    sides = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(sides).sum(axis=1)
    steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 0.5
    return np.repeat(ring, lengths, axis=0) + np.repeat(np.sign(sides), lengths, axis=0) * steps[:, None]


def _simplified(ring, tolerance):
    """The ring with fewer corners (Douglas and Peucker), in two halves between corners that are far apart."""
    from skimage.measure import approximate_polygon  # slow to import

    start = int(((ring - ring.mean(axis=0)) ** 2).sum(axis=1).argmax())
    ring = np.roll(ring, -start, axis=0)
    middle = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    halves = ring[: middle + 1], np.concatenate([ring[middle:], ring[:1]])
    return np.concatenate([approximate_polygon(half, tolerance)[:-1] for half in halves])


def _iou(ring, mask):
    runs = polygons.union_runs([ring], *mask.shape)
    code = coco_mask.frPyObjects({"size": list(mask.shape), "counts": runs.tolist()}, *mask.shape)
    whole = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return float(coco_mask.iou([code], [whole], [0])[0, 0])


def bridged(rings):
    """One ring for several: parts and holes are joined by bridges without width, at the nearest corners.

    Filled by the even-odd rule, as COCO, OpenCV and Pillow do, it covers the parts and leaves out the holes.

    Args:
        rings: list of (k, [x, y]), at least one.

    Returns:
        float64 (k, [x, y]).
    """
    whole = np.asarray(rings[0], np.float64)
    for ring in rings[1:]:
        ring = np.asarray(ring, np.float64)
        distances = ((whole[:, None] - ring[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        whole = np.concatenate([whole[: i + 1], ring[j:], ring[: j + 1], whole[i:]])
    return whole


def window_of_code(code):
    """The part of a run-length code that holds its mask.

    Args:
        code: dict with `size` and `counts`.

    Returns:
        (bool (h, w), x, y): the mask in its box, and the upper left corner of that; None of an empty mask.
    """
    height, runs = int(code["size"][0]), rle.parse_counts(code["counts"])
    box = rle.extent(runs, height)
    if box is None:
        return None
    return rle.decode_window(runs, height, box).astype(bool), int(box[0]), int(box[1])
