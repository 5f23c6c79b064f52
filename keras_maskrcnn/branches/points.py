"""Points of RoIs and of their masks: where they lie, which of them are the least certain. For pointrend_head.py.

Pure functions. Shapes: R RoIs, K classes, P points. Points are [x, y] in 0..1 of their RoI.
"""

import numpy as np
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.bilinear import fading_weights


def in_boxes(points, boxes):
    """Points in 0..1 of their boxes, (B, R, P, [x, y]) and (B, R, 4), in the boxes' own pixels: (B, R, P, [x, y])."""
    boxes = ops.cast(boxes, "float32")[:, :, None]
    return boxes[..., :2] + points * (boxes[..., 2:] - boxes[..., :2])


def grid_points(size):
    """The centres of size x size cells, row by row: float32 numpy (size * size, [x, y])."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def cell_centres(cells, size):
    """The centres of cells, int32 row * size + column: float32 (..., [x, y])."""
    row = cells // size
    pair = ops.stack([cells - row * size, row], axis=-1)
    return (ops.cast(pair, "float32") + 0.5) / size


def square_weights(points, size):
    """The weight of each cell of a square at points (..., P, [x, y]): float32 (..., P, size * size)."""
    columns, rows = (fading_weights(points[..., axis] * size - 0.5, size) for axis in (0, 1))
    weights = rows[..., :, None] * columns[..., None, :]
    return ops.reshape(weights, (*backend.shape(weights)[:-2], size * size))


def own_masks(logits, labels, size):
    """The mask of each RoI's own class: float32 (B, R, K, size * size), int (B, R) -> (B, R, size, size)."""
    batch, rois, classes, cells = backend.shape(logits)
    rows = ops.reshape(ops.cast(labels, "int32"), (-1, 1))
    own = backend.gather_each(ops.reshape(logits, (-1, classes, cells)), rows)
    return ops.reshape(own, (batch, rois, size, size))


def least_certain(logits, count):
    """The cells whose logits are nearest to 0: float32 (..., cells) -> int32 (..., count)."""
    _, cells = ops.top_k(-ops.abs(logits), count)
    return ops.cast(cells, "int32")


def uncertain_points(logits, noise, candidates, count):
    """Points for training: most where masks are uncertain, the rest anywhere (section 3.2).

    Args:
        logits: float32 (B, Q, c, c), of the true class. Not differentiated.
        noise: float32 (B, Q, N, [x, y]), uniform in 0..1.
        candidates: int. Of so many points, the first, those whose logits, bilinear at the point, are nearest to 0 are
            taken. The others are all taken.
        count: int, how many of the first.

    Returns:
        float32 (B, Q, count + N - candidates, [x, y]).
    """
    batch, rois = backend.shape(noise)[:2]
    size = logits.shape[-1]
    first = noise[:, :, :candidates]
    cells = ops.reshape(ops.stop_gradient(logits), (batch, rois, size * size, 1))
    at_points = ops.matmul(square_weights(first, size), cells)[..., 0]
    chosen = ops.reshape(least_certain(at_points, count), (-1, count))
    uncertain = backend.gather_each(ops.reshape(first, (-1, candidates, 2)), chosen)
    return ops.concatenate([ops.reshape(uncertain, (batch, rois, count, 2)), noise[:, :, candidates:]], axis=2)
