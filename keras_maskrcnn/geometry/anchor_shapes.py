"""The anchors of one cell: boxes of given sizes and ratios around the origin (Faster R-CNN section 3.1.1), in numpy.

Called by `model.py`, which lays them over the pyramid with `network/anchors.py`, and by the recall figures of
`check-data`.
"""

import numpy as np


def cell_anchors(size, ratios, rounded=True):
    """Anchors around the origin.

    Args:
        size: square root of the anchors' area, network pixels.
        ratios: height over width, A of them.
        rounded: whether corners are whole pixels, half to even, as in torchvision; other programs do not round.

    Returns:
        numpy float32 (A, [x1, y1, x2, y2]).
    """
    heights = size * np.sqrt(np.asarray(ratios, "float32"))
    widths = size / np.sqrt(np.asarray(ratios, "float32"))
    anchors = np.stack([-widths, -heights, widths, heights], axis=1) / 2
    return (np.round(anchors) if rounded else anchors).astype("float32")
