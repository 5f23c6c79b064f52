"""A picture too large for memory with many discs: recall, precision, memory and time of `predict_large`, killed once.

    python benchmarks/bench_gigapixel.py                         # 40,000 x 40,000 pixels, 10,000 discs
    python benchmarks/bench_gigapixel.py --side 10000 --discs 625

What finds the discs is a threshold and connected parts, not a model: measured are reading, merging and writing. The
picture and the results (about 1 GB) go into --folder, a new one that is removed, unless it is given.
"""

import argparse
import csv
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types

import numpy as np
from scipy import ndimage

import keras_maskrcnn_launcher

TILE, OVERLAP, CHUNK = 2048, 0.1, 1024
RADIUS = (20, 60)  # pixels, smallest and largest
CONFIG = types.SimpleNamespace(class_names=("disc",), branches=())


class DiscFinder:
    """Finds connected parts brighter than the ground. Kills its process before tile `death`."""

    config = CONFIG

    def __init__(self, death):
        self.calls, self.death = 0, death

    def predict(self, pixels):
        """The discs in an array (h, w, C)."""
        if self.calls == self.death:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        parts, _ = ndimage.label(pixels[..., 0] > 50)
        found = types.SimpleNamespace(boxes=[], scores=[], labels=[], mask_windows=[], values={}, config=CONFIG)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            window = parts[rows, columns] == number
            found.boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            found.scores.append(float(pixels[rows, columns, 0][window].max()) / 255)
            found.labels.append(0)
            found.mask_windows.append((window, columns.start, rows.start))
        return found


def place_discs(side, count):
    """Discs, int (n, [x, y, radius]), one in each cell of a grid, so that none touch; n is the next square number."""
    rng = np.random.default_rng(0)
    cells = int(count**0.5)
    step = side // cells
    radius = rng.integers(*RADIUS, cells * cells, endpoint=True)
    corners = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2) * step
    room = step - 2 * radius - 4
    return np.column_stack(
        [corners + radius[:, None] + 2 + (rng.random((len(radius), 2)) * room[:, None]), radius]
    ).astype(int)


def draw(path, side, discs):
    """Write the picture, chunk by chunk."""
    import zarr

    array = zarr.create_array(path, shape=(side, side), chunks=(CHUNK, CHUNK), dtype="uint8")
    for top in range(0, side, CHUNK):
        rows = discs[(discs[:, 1] + discs[:, 2] >= top) & (discs[:, 1] - discs[:, 2] < top + CHUNK)]
        for left in range(0, side, CHUNK):
            y, x = np.ogrid[top : min(top + CHUNK, side), left : min(left + CHUNK, side)]
            block = ((x // 7 + y // 5) % 40).astype(np.uint8)
            for cx, cy, radius in rows[(rows[:, 0] + rows[:, 2] >= left) & (rows[:, 0] - rows[:, 2] < left + CHUNK)]:
                block[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = 100 + (cx + cy) % 150
            array[top : top + CHUNK, left : left + CHUNK] = block


def run(folder, death):
    """One process of the run. (exit status, CPU seconds, largest memory in GB)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run([sys.executable, __file__, "--child", str(death), "--folder", str(folder)]).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return code, round(seconds, 1), round(after.ru_maxrss / 2**20, 2)


def judge(folder, side, discs):
    """Recall and precision of the table (centre within a pixel, area within 2 %); whether the other files agree."""
    import zarr

    rows = list(csv.DictReader((folder / "out" / "objects.csv").open(encoding="utf-8")))
    features = json.loads((folder / "out" / "objects.geojson").read_text(encoding="utf-8"))["features"]
    found = np.array([[float(row[key]) for key in ("centroid_x_px", "centroid_y_px", "area_px")] for row in rows])
    step = side // int(len(discs) ** 0.5)
    cells = (found[:, 1] // step * int(len(discs) ** 0.5) + found[:, 0] // step).astype(int)
    nearest = discs[np.minimum(cells, len(discs) - 1)]
    right = (abs(found[:, :2] - nearest[:, :2] - 0.5) < 1).all(1)
    right &= abs(found[:, 2] / (np.pi * nearest[:, 2] ** 2) - 1) < 0.02
    labels = zarr.open_array(folder / "out" / "labels.zarr", mode="r")
    counts = np.zeros(len(rows) + 1, np.int64)
    for top in range(0, side, 2048):
        counts += np.bincount(labels[top : top + 2048].ravel(), minlength=len(rows) + 1)
    return {
        "objects": len(rows),
        "recall": len(set(cells[right].tolist())) / len(discs),
        "precision": len(set(cells[right].tolist())) / max(1, len(rows)),
        "features": len(features),
        "label image agrees": bool((counts[1:] == found[:, 2]).all()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--discs", type=int, default=10_000)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        keras_maskrcnn_launcher.register_package()
        from keras_maskrcnn.gigapixels import predict_large

        predict_large(DiscFinder(args.child), args.folder / "discs.zarr", args.folder / "out", TILE, OVERLAP)
        return
    folder = args.folder or pathlib.Path(tempfile.mkdtemp(prefix="gigapixel-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        discs = place_discs(args.side, args.discs)
        started = time.monotonic()
        draw(folder / "discs.zarr", args.side, discs)
        print(f"drawn: {args.side} x {args.side}, {len(discs)} discs, {time.monotonic() - started:.0f} s")
        tiles = (args.side // (TILE - int(TILE * OVERLAP)) + 1) ** 2
        for name, death in (("killed half way", tiles // 2), ("resumed", -1)):
            started = time.monotonic()
            code, seconds, memory = run(folder, death)
            print(f"{name}: exit {code}, {time.monotonic() - started:.0f} s, CPU {seconds} s, memory {memory} GB")
            assert code == (-signal.SIGKILL if death >= 0 else 0)
        result = judge(folder, args.side, discs)
        print(json.dumps(result))
        assert min(result["recall"], result["precision"]) >= 0.99 and memory < 2 and result["label image agrees"]
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
