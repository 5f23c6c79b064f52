"""Anchors: the reference boxes that the RPN moves and scales (Faster R-CNN section 3.1.1; FPN section 4.1).

In: the anchors of one cell (`geometry/anchor_shapes.py`). Out: those of a whole level in network pixels, in the order
(row, column, ratio) of the RPN's outputs. Called by `model.py`.
"""

import numpy as np
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
    y = ops.reshape(ops.cast(ops.arange(rows), "float32") * ops.cast(spacing[0], "float32"), (-1, 1, 1, 1))
    x = ops.reshape(ops.cast(ops.arange(columns), "float32") * ops.cast(spacing[1], "float32"), (1, -1, 1, 1))
    along_x, along_y = (ops.convert_to_tensor(np.array(sides, "float32")) for sides in ([1, 0, 1, 0], [0, 1, 0, 1]))
    return ops.reshape(x * along_x + y * along_y + ops.convert_to_tensor(cells), (-1, 4))
