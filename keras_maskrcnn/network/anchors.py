"""Anchors: the reference boxes that the RPN moves and scales (Faster R-CNN section 3.1.1; FPN section 4.1).

In: the anchors of one cell (`geometry/anchor_shapes.py`). Out: those of a whole level in network pixels, in the order
(row, column, ratio) of the RPN's outputs. Called by `model.py`.
"""

from keras import ops


def level_anchors(rows, columns, spacing, cells):
    """All anchors of one pyramid level. The anchors of a cell are centred on the pixel (column, row) * spacing.

    Args:
        rows, columns: size of the level's map, ints or scalar tensors.
        spacing: (y, x), network pixels between neighbouring cells: ints or scalar tensors.
        cells: float (A, [x1, y1, x2, y2]) from `cell_anchors`.

    Returns:
        float32 (rows * columns * A, [x1, y1, x2, y2]), network pixels. Not clipped to the image.
    """
    y = ops.cast(ops.arange(rows), "float32")[:, None, None, None] * ops.cast(spacing[0], "float32")
    x = ops.cast(ops.arange(columns), "float32")[None, :, None, None] * ops.cast(spacing[1], "float32")
    cells = ops.convert_to_tensor(cells)[None, None]
    x = x + ops.zeros_like(y)
    y = y + ops.zeros_like(x)
    return ops.reshape(ops.concatenate([x, y, x, y], axis=-1) + cells, (-1, 4))
