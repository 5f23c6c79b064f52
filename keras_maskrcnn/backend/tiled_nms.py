"""Exact greedy NMS with fixed shapes in `keras.ops`: a part of `generic.py`, the reference.

In: boxes and scores of a batch. Out: indices of the kept boxes, and flags, of fixed number.
Called through `backend`, by the proposals, the detections and `km.ops`.
"""

import numpy as np
from keras import ops

from keras_maskrcnn.geometry.boxes import split_sides

# Boxes per step. With this size two images of 2000 boxes take 5 ms on JAX (2 cores).
NMS_TILE = 256


def non_max_suppression(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """Greedy non-maximum suppression, exact, with fixed shapes.

    Boxes are processed in tiles by descending score. First, kept boxes of earlier tiles suppress boxes
    of the tile. Then suppression inside the tile is repeated until nothing changes. This gives the
    greedy result, because each iteration settles at least one more box.

    Args:
        boxes: float32 (B, N, [x1, y1, x2, y2]); N must be known when the graph is built.
        scores: float32 (B, N).
        iou_threshold: suppress above it; a number or float (B,).
        max_outputs: D, an int (on TensorFlow also a scalar tensor).
        classes: int (B, N) or None: boxes of different classes do not suppress each other.
        valid: bool (B, N) or None: rows that are False are never kept and suppress nothing.

    Returns:
        indices: int32 (B, D) by descending score, equal scores by lower index; 0 where not kept.
        keep: bool (B, D).
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    if valid is not None:
        scores = ops.where(valid, scores, -np.inf)
    boxes, scores, classes = _pad_to_tiles(boxes, scores, classes)
    order = ops.cast(ops.argsort(-scores, axis=1), "int32")
    sides = list(split_sides(ops.take_along_axis(boxes, order[..., None], axis=1)))
    if classes is not None:
        classes = ops.take_along_axis(classes, order, axis=1)
    candidate = ops.cast(ops.take_along_axis(scores, order, axis=1) > -np.inf, "float32")
    tile = min(NMS_TILE, order.shape[1])
    kept = _keep_tile_by_tile(sides, classes, candidate, iou_threshold, tile)
    return _first_kept(order, kept, max_outputs)


def non_max_suppression_by_level(boxes, scores, sizes, iou_threshold, max_outputs, valid):
    """NMS of each level of a pyramid by itself, and the best of what all levels keep.

    The levels stand side by side in the batch: one NMS instead of one for each level.

    Args:
        boxes: float32 (B, N, [x1, y1, x2, y2]), level after level. scores: float32 (B, N).
        sizes: ints, the number of boxes of each level; their sum is N.
        iou_threshold, max_outputs: as in `non_max_suppression`; the threshold is a number.
        valid: bool (B, N).

    Returns:
        As `non_max_suppression`.
    """
    most = max(sizes)
    starts = np.cumsum([0, *sizes[:-1]])

    def side_by_side(rows):
        levels = [rows[:, start : start + size] for start, size in zip(starts, sizes, strict=True)]
        beyond = [[0, 0]] * (len(rows.shape) - 2)
        levels = [ops.pad(level, [[0, 0], [0, most - level.shape[1]], *beyond]) for level in levels]
        return ops.reshape(ops.stack(levels, axis=1), (-1, most, *rows.shape[2:]))

    own = [side_by_side(rows) for rows in (boxes, scores, ops.cast(valid, "int32"))]
    indices, keep = non_max_suppression(own[0], own[1], iou_threshold, most, None, own[2] > 0)
    best = ops.where(keep, ops.take_along_axis(own[1], indices, axis=1), -np.inf)
    # Back from (B * levels, most) to (B, levels * most), and to the places in the arrays of all levels.
    best = ops.reshape(best, (-1, most * len(sizes)))
    places = ops.reshape(indices, (-1, len(sizes), most)) + starts[None, :, None].astype("int32")
    best, order = ops.top_k(best, min(max_outputs, most * len(sizes)))
    keep = best > -np.inf
    places = ops.take_along_axis(ops.reshape(places, (-1, most * len(sizes))), order, axis=1)
    return ops.where(keep, places, 0), keep


def _pad_to_tiles(boxes, scores, classes):
    """Add rows that are never kept, to get a whole number of tiles and at least one row."""
    num_boxes = scores.shape[1]
    tile = min(NMS_TILE, max(num_boxes, 1))
    missing = -num_boxes % tile if num_boxes else 1
    if missing:
        boxes = ops.pad(boxes, [[0, 0], [0, missing], [0, 0]])
        scores = ops.pad(scores, [[0, 0], [0, missing]], constant_values=-np.inf)
        if classes is not None:
            classes = ops.pad(classes, [[0, 0], [0, missing]])
    return boxes, scores, classes


def _keep_tile_by_tile(sides, classes, candidate, iou_threshold, tile):
    """Greedy suppression of boxes that are in score order.

    Args:
        sides: x1, y1, x2, y2, each float32 (B, N), N a multiple of `tile`. Four arrays: the last
            axis of a (B, N, 4) table is too short for vector instructions.
        classes: int (B, N) or None.
        candidate: float32 (B, N), 1 or 0; 0 is never kept.
        iou_threshold: suppress above it.
        tile: boxes per step.

    Returns:
        float32 (B, N), 1 or 0.
    """
    later = ops.convert_to_tensor(np.triu(np.ones((tile, tile), "float32"), 1))

    def cut(rows, first):
        return ops.slice(rows, (0, first), (ops.shape(rows)[0], tile))

    def unsuppressed(alive, kept, hits):
        # Sums of ones are exact in float32: below one half means that no kept box suppresses it.
        return alive * ops.cast(ops.matmul(kept[:, None, :], hits)[:, 0, :] < 0.5, "float32")

    def keep_tile(number, kept):
        """Add the kept boxes of one tile; no later box is kept yet."""
        first = number * tile
        own, own_classes = [cut(side, first) for side in sides], None if classes is None else cut(classes, first)
        before = _suppresses(sides, own, classes, own_classes, iou_threshold)
        inside = _suppresses(own, own, own_classes, own_classes, iou_threshold) * later
        alive = unsuppressed(cut(candidate, first), kept, before)

        def changed(now, last):
            return ops.any(now != last)

        def settle(now, last):
            return unsuppressed(alive, now, inside), now

        start = (unsuppressed(alive, alive, inside), alive)
        return ops.slice_update(kept, (0, first), ops.while_loop(changed, settle, start)[0])

    # A loop, not one piece of program for each tile: 4096 boxes compile in 1.4 s instead of 8.
    return ops.fori_loop(0, candidate.shape[1] // tile, keep_tile, ops.zeros_like(candidate))


def _suppresses(rows, columns, row_classes, column_classes, iou_threshold):
    """Whether two boxes of a class have IoU > threshold, with torchvision's arithmetic.

    Args:
        rows: four sides, each float32 (B, R). columns: four sides, each float32 (B, C).
        row_classes: int (B, R) or None. column_classes: int (B, C) or None.
        iou_threshold: a number or float (B,).

    Returns:
        float32 (B, R, C), 1 or 0.
    """
    x1, y1, x2, y2 = ([a[:, :, None], b[:, None, :]] for a, b in zip(rows, columns, strict=True))
    width, height = ops.minimum(*x2) - ops.maximum(*x1), ops.minimum(*y2) - ops.maximum(*y1)
    shared = ops.relu(width) * ops.relu(height)
    areas = [(x2[k] - x1[k]) * (y2[k] - y1[k]) for k in (0, 1)]
    union = areas[0] + areas[1] - shared
    iou = shared / ops.where(union > 0, union, 1.0)
    hit = ops.logical_and(union > 0, iou > ops.reshape(iou_threshold, (-1, 1, 1)))
    if row_classes is not None:
        hit = ops.logical_and(hit, row_classes[:, :, None] == column_classes[:, None, :])
    return ops.cast(hit, "float32")


def _first_kept(order, kept, max_outputs):
    """The first `max_outputs` kept boxes in score order, with a fixed shape."""
    num_boxes = order.shape[1]
    missing = max(max_outputs - num_boxes, 0)
    place = ops.arange(num_boxes, dtype="int32")
    # Kept boxes keep their positions; the others are moved to the end.
    place = ops.where(kept > 0.5, place, place + num_boxes)
    place = ops.sort(place, axis=1)[:, :max_outputs]
    keep = place < num_boxes
    indices = ops.take_along_axis(order, ops.where(keep, place, 0), axis=1)
    indices = ops.where(keep, indices, 0)
    padding = [[0, 0], [0, missing]]
    return ops.pad(indices, padding), ops.pad(keep, padding)
