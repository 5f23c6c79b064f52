"""The box of a mask's pixels."""

import numpy as np


def filled_box(pixels):
    """Extent of the pixels that are set.

    Args:
        pixels: (h, w), bool or numbers; non-zero is set.

    Returns:
        int (x1, y1, x2, y2), x2 and y2 exclusive; None if no pixel is set.
    """
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
