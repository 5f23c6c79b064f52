"""CPU milliseconds to paste and encode the masks of 100 detections, one call beside a window for each.

    OPENBLAS_NUM_THREADS=1 python benchmarks/bench_codes.py

An image of 640x480, boxes of three sizes, masks with smooth outlines. No model and no framework. "windows" is how masks
were encoded before there was native code, and how they are without it.
"""

import pathlib
import sys
import time

import numpy as np
from scipy import ndimage

SIZE, COUNT, RUNS = (480, 640), 100, 12


def main():
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    import keras_maskrcnn_launcher

    keras_maskrcnn_launcher.register_package()
    from keras_maskrcnn.geometry.codes import paste_codes, window_code
    from keras_maskrcnn.geometry.pasting import paste_mask_windows

    for side in (40, 100, 300):
        masks, boxes = detections(side)
        ways = {
            "windows": lambda m=masks, b=boxes: [window_code(*w, SIZE) for w in paste_mask_windows(m, b, SIZE)],
            "one call": lambda m=masks, b=boxes: paste_codes(m, b, SIZE),
        }
        assert ways["windows"]() == ways["one call"]()
        print(f"boxes of {side:3} pixels", *(f"{name} {cpu_ms(way):6.1f} ms" for name, way in ways.items()), sep=", ")


def detections(side):
    rng = np.random.default_rng(side)
    masks = ndimage.gaussian_filter(rng.normal(0, 1, (COUNT, 28, 28)), (0, 2, 2))
    masks = (1 / (1 + np.exp(-30 * masks))).astype(np.float32)
    centres, sides = rng.uniform(0, SIZE[::-1], (COUNT, 2)), side * rng.uniform(0.6, 1.4, (COUNT, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return masks, np.clip(boxes, 0, SIZE[::-1] * 2).astype(np.float32)


def cpu_ms(act):
    times = []
    for _ in range(RUNS):
        began = time.process_time_ns()
        act()
        times.append((time.process_time_ns() - began) / 1e6)
    return float(np.median(times))


if __name__ == "__main__":
    main()
