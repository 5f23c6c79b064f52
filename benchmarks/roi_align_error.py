"""Largest errors of RoIAlign's two paths against float64 sums in numpy, on the cases of bench_roi_align.py.

python benchmarks/roi_align_error.py
"""

import numpy as np
from bench_roi_align import CASES, STRIDES, make_inputs, ours


def taps(start, length, bins, ratio, cells):
    """(bins, cells) float64: weights of the cells in each bin's average, along one axis."""
    size = max(length, 1.0) / bins
    weights = np.zeros((bins, cells))
    for number in range(bins):
        for point in range(ratio):
            place = start + (number + (point + 0.5) / ratio) * size
            if not -1 <= place <= cells:
                continue
            place = min(max(place, 0.0), cells - 1.0)
            low = min(int(place), cells - 1)
            weights[number, low] += (low + 1 - place) / ratio
            if low + 1 < cells:
                weights[number, low + 1] += (place - low) / ratio
    return weights


def reference(case):
    """Crops (R, h, w, C), or gradients of the maps, in float64."""
    maps, boxes, levels, upstream = make_inputs(case)
    size, crops, gradients = case["size"], np.zeros(upstream.shape), [np.zeros(m.shape) for m in maps]
    for row, (box, level) in enumerate(zip(boxes.astype(float), levels, strict=True)):
        x1, y1, x2, y2 = box / STRIDES[level]
        height, width = maps[level].shape[1:3]
        down, across = taps(y1, y2 - y1, size, 2, height), taps(x1, x2 - x1, size, 2, width)
        ys, xs = np.flatnonzero(down.any(axis=0)), np.flatnonzero(across.any(axis=0))
        window = np.s_[0, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        down, across = down[:, ys[0] : ys[-1] + 1], across[:, xs[0] : xs[-1] + 1]
        if case["kind"] == "forward":
            rows = np.tensordot(down, maps[level][window].astype(float), 1)
            crops[row] = np.tensordot(rows, across, ([1], [1])).transpose(0, 2, 1)
        else:
            columns = np.tensordot(upstream[row].astype(float), across, ([1], [0])).transpose(0, 2, 1)
            gradients[level][window] += np.tensordot(down.T, columns, 1)
    return [crops] if case["kind"] == "forward" else gradients


def main():
    """Print a line a case."""
    print(f"{'case':44} {'largest error':>14} {'largest value':>14}")
    for name, case in CASES.items():
        answers = ours(case)()
        answers = answers if isinstance(answers, (list, tuple)) else [answers]
        expected = reference(case)
        error = max(np.abs(np.asarray(a) - e).max() for a, e in zip(answers, expected, strict=True))
        print(f"{name:44} {error:14.1e} {max(np.abs(e).max() for e in expected):14.1f}", flush=True)


if __name__ == "__main__":
    main()
