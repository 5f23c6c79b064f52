"""Scores of the network -> probabilities, by the piecewise-linear tables of a config: one for each class.

A table is a list of points (score, probability) from a score of 0 to one of 1, both ascending. Called by
`detections.py`. `evaluation/calibration.py` makes tables, and reads them on the host.
"""

import numpy as np
from keras import ops


def calibrate(scores, tables):
    """Read the probability of each score in the table of its class.

    A sum of terms that all rise with the score: rounding keeps the order, and exports need no operator but clip.

    Args:
        scores: float (..., K), from 0 to 1.
        tables: K tables: sequences of (score, probability), see above.

    Returns:
        float (..., K).
    """
    starts, widths, rises, first = _segments(tables)
    shares = ops.clip((scores[..., None] - starts) / widths, 0.0, 1.0)
    return first + ops.sum(shares * rises, axis=-1)


def _segments(tables):
    """Starts, widths and rises (K, M) of the segments, and the first probabilities (K,): float32 numpy arrays.

    Shorter tables are padded with segments that do not rise.
    """
    most = max(len(table) for table in tables) - 1
    starts, widths, rises = np.zeros((3, len(tables), most), np.float32)
    widths[:] = 1
    for row, table in enumerate(tables):
        points = np.asarray(table, np.float64)
        used = slice(0, len(points) - 1)
        starts[row, used] = points[:-1, 0]
        widths[row, used], rises[row, used] = np.diff(points, axis=0).T
    return starts, widths, rises, np.array([table[0][1] for table in tables], np.float32)
