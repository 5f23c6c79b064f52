"""A picture of discs in a zarr folder, and what finds them without a model. Run as a script, it is killed on the way.

python disc_finder.py IMAGE OUTPUT TILE_OF_DEATH MOMENT
"""

import os
import signal
import sys
import types

import numpy as np
from scipy import ndimage

CONFIG = types.SimpleNamespace(class_names=("dim", "bright"), branches=())


class DiscFinder:
    """Finds what is brighter than the ground, each connected part; bright ones are class 1. Counts its calls."""

    config = CONFIG

    def __init__(self, before=lambda call: None):
        self.calls, self.before = 0, before

    def predict(self, pixels):
        self.before(self.calls)
        self.calls += 1
        parts, _ = ndimage.label(pixels[..., 0] > 50)
        found = types.SimpleNamespace(boxes=[], scores=[], labels=[], mask_windows=[], values={}, config=CONFIG)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            window = parts[rows, columns] == number
            level = int(np.median(pixels[rows, columns, 0][window]))
            found.boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            found.scores.append(level / 255)
            found.labels.append(int(level > 150))
            found.mask_windows.append((window, columns.start, rows.start))
        return found


def disc_picture(side, radius, step, seed=0, long=False):
    """uint8 (side, side): discs that do not touch, on ground of noise below 40; and int32 (side, side), their numbers.

    With `long` a bar crosses the picture: longer than any tile.
    """
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 40, (side, side), np.uint8)
    truth = np.zeros((side, side), np.int32)
    rows, columns = np.ogrid[:side, :side]
    number = 0
    for y in range(step // 2, side, step):
        for x in range(step // 2, side, step):
            number += 1
            size = rng.integers(radius // 2, radius + 1)
            cx, cy = (int(c + rng.integers(-step // 2 + radius, step // 2 - radius + 1)) for c in (x, y))
            y1, x1 = max(0, cy - size), max(0, cx - size)
            mask = (rows[y1 : cy + size + 1] - cy) ** 2 + (columns[:, x1 : cx + size + 1] - cx) ** 2 <= size**2
            place = slice(y1, cy + size + 1), slice(x1, cx + size + 1)
            picture[place][mask] = rng.integers(60, 256)
            truth[place][mask] = number
    if long:
        bar = slice(side // 2, side // 2 + 7), slice(None)
        truth[bar], picture[bar] = 0, 20
        inner = slice(side // 2 + 2, side // 2 + 5), slice(10, side - 10)
        truth[inner], picture[inner] = number + 1, 255
    return picture, truth


def main(image, output, tile_of_death, moment):
    """Predict until a tile, and die there as of `kill -9`: before it is predicted, or while its results are written."""
    from keras_maskrcnn.gigapixels import outputs, predict_large

    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if moment == "predicting":
        predict_large(DiscFinder(lambda call: call == int(tile_of_death) and die()), image, output, tile=350)
    append, count = outputs.Outputs._append, [0]

    def half(self, rows, features):
        count[0] += 1
        if count[0] == int(tile_of_death):
            self._csv.seek(self._ends[outputs.CSV])
            self._csv.write(rows.encode()[: len(rows) // 2])
            self._csv.flush()
            die()
        append(self, rows, features)

    outputs.Outputs._append = half
    predict_large(DiscFinder(), image, output, tile=350)


if __name__ == "__main__":
    import keras_maskrcnn_launcher

    keras_maskrcnn_launcher.register_package()
    main(*sys.argv[1:])
