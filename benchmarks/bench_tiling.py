"""A large image in tiles compared with the same objects in small images: recall, precision, duplicates, memory.

    python benchmarks/bench_tiling.py --model demo/run/best.keras

The model is that of `keras-maskrcnn demo`. 400 shapes of the size it was trained on lie across the borders of the tiles
of a 6000x6000 image. "small": each shape in a 96x96 cut-out around it. "tiled": `Predictor(model, tile=1024,
overlap=0.2)` on the whole image. A detection is correct if its label and mask (IoU >= 0.5) are; a duplicate is another
detection of the same class on the pixels of a shape. (After minutes of training, some shapes are found as two classes.)
"""

import argparse
import resource
import time

import keras
import numpy as np

import keras_maskrcnn as km
from keras_maskrcnn.data.shapes import draw_shapes
from keras_maskrcnn.inference.tiling import tile_grid

SIDE, TILE, OVERLAP, NUM_SHAPES, CROP = 6000, 1024, 0.2, 400, 96
SCORE = 0.5
NOISE = 12  # of 255, as in the shapes that the model was trained on


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a .keras file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    km.keep_freed_memory()  # as the command line does
    model = keras.saving.load_model(args.model, compile=False)
    image, shapes = draw_scene(np.random.default_rng(args.seed))
    report("small", *score_small(km.Predictor(model, SCORE), image, shapes))
    before, started = peak_megabytes(), time.perf_counter()
    found = km.Predictor(model, SCORE, TILE, OVERLAP)(image)
    seconds = time.perf_counter() - started
    report("tiled", *match(found, shapes))
    masks = sum(len(piece.code["counts"]) for piece in found.pieces)
    print(f"{len(tile_grid(SIDE, SIDE, TILE, OVERLAP))} tiles in {seconds:.0f} s")
    print(f"peak resident memory {peak_megabytes():.0f} MB, before the first tile {before:.0f} MB")
    print(f"of it the image {image.nbytes / 1e6:.0f} MB, all masks {masks / 1e3:.0f} kB")


def draw_scene(rng):
    """(uint8 (SIDE, SIDE, 3), list of (label, bool window, x, y)); every shape lies across a border of tiles."""
    background = rng.uniform(0, 255, 3)
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    for row in image:
        row[:] = np.clip(background + rng.normal(0, NOISE, row.shape), 0, 255)
    borders = sorted({v for t in tile_grid(SIDE, SIDE, TILE, OVERLAP) for v in (t.x1, t.x2) if 0 < v < SIDE})
    shapes, middles = [], np.full((1, 2), -SIDE)
    while len(shapes) < NUM_SHAPES:
        middle = rng.uniform(CROP, SIDE - CROP, 2)
        middle[rng.integers(2)] = rng.choice(borders) + rng.uniform(-8, 8)
        if np.abs(middles - middle).max(1).min() < 1.1 * CROP:  # no shape in the cut-out of another
            continue
        middles = np.concatenate([middles, [middle]])
        shapes.append(draw_one(image, background, middle, rng))
    return image, shapes


def draw_one(image, background, middle, rng):
    """Draw a shape of the demo's kind around a place: (label, bool window, x, y)."""
    _, (label, *_), (mask, *_) = draw_shapes((CROP, CROP), 1, rng)
    window = mask[np.ix_(mask.any(1), mask.any(0))]
    color = rng.uniform(0, 255, 3)
    while np.abs(color - background).max() <= 80:
        color = rng.uniform(0, 255, 3)
    x, y = (int(m) - side // 2 for m, side in zip(middle, window.shape[::-1], strict=True))
    pixels = color + rng.normal(0, NOISE, (window.sum(), 3))
    image[y : y + window.shape[0], x : x + window.shape[1]][window] = np.clip(pixels, 0, 255).astype(np.uint8)
    return label, window, x, y


def score_small(predictor, image, shapes):
    """(right, found, duplicates) over cut-outs of one shape each."""
    counts = np.zeros(3, int)
    for label, window, x, y in shapes:
        left, top = x + window.shape[1] // 2 - CROP // 2, y + window.shape[0] // 2 - CROP // 2
        found = predictor(image[top : top + CROP, left : left + CROP])
        counts += match(found, [(label, window, x - left, y - top)])
    return counts


def match(found, shapes):
    """(correct, found, duplicates): each shape takes the correct detection with the highest score."""
    owner = np.full(found.image_size, -1, np.int16)
    for k, (_, window, x, y) in enumerate(shapes):
        owner[y : y + window.shape[0], x : x + window.shape[1]][window] = k
    right, touched, duplicates = set(), set(), 0
    for label, (window, x, y) in zip(found.labels, found.mask_windows, strict=True):
        below = owner[y : y + window.shape[0], x : x + window.shape[1]][window]
        on = np.bincount(below[below >= 0], minlength=1)
        k, common = int(on.argmax()), int(on.max())
        if not common:
            continue
        duplicates += (k, label) in touched
        touched.add((k, label))
        union = window.sum() + shapes[k][1].sum() - common
        if label == shapes[k][0] and common >= 0.5 * union:
            right.add(k)
    return np.array([len(right), len(found), duplicates])


def report(name, right, found, duplicates):
    print(
        f"{name}: {right} of {NUM_SHAPES} shapes right in {found} detections, recall {right / NUM_SHAPES:.4f}, "
        f"precision {right / max(1, found):.4f}, {duplicates} duplicates"
    )


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
