"""Masks of 28 and 56 cells beside PointRend's: how exact their outlines are after equal training time on shapes.

    python benchmarks/bench_masks.py --minutes 3                # eleven minutes in all
    python benchmarks/bench_masks.py --minutes 0.3 --val 6      # only: does it run

Three models with the same trunk, the same first weights and the same images are trained for `--minutes` each, the time
to compile the first step included. Reported for each: steps, AP of masks and AP of boundaries (`coco_metrics`; the
smaller of mask IoU and boundary IoU), and the mean IoU of masks and of boundaries (Cheng et al., CVPR 2021: strips
inside the outline) over all objects, each with the detection of its class that covers it best; 0 where there is none.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import keras
import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_erosion

import keras_maskrcnn as km
from keras_maskrcnn.branches import PointRendMask
from keras_maskrcnn.cli.demo import LEARNING_RATE, shapes_config
from keras_maskrcnn.evaluation.coco import detect_dataset
from keras_maskrcnn.evaluation.figures import coco_metrics
from keras_maskrcnn.runs.callbacks import TimeBudget

STRIP = 0.02  # width of a boundary over the image's diagonal
WIDTHS = (9, 7, 13, 7, 10, 14)  # of the table's columns behind the steps
MODELS = {
    "mask 28": {},
    "mask 56": {"mask_size": 56},
    "PointRend": {"branches": (PointRendMask(coarse_features=256, channels=64),)},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="training time of each model")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--train", type=int, default=1000, help="images")
    parser.add_argument("--val", type=int, default=60, help="images")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MODELS)
    args = parser.parse_args()
    km.keep_freed_memory()
    columns = ("steps", "segm AP", "AP75", "boundary AP", "AP75", "mask IoU", "boundary IoU")
    print(" " * 10 + "".join(f"{name:>{width}}" for name, width in zip(columns, (7, *WIDTHS))))
    with tempfile.TemporaryDirectory() as folder:
        train, val = (
            km.CocoDataset(km.data.generate_shapes(pathlib.Path(folder) / name, count, args.image_size, seed, 3))
            for name, count, seed in (("train", args.train, 1), ("val", args.val, 2))
        )
        for name in [args.only] if args.only else MODELS:
            report(name, *trained(train, MODELS[name], args), val)


def trained(train, fields, args):
    """(model, steps) after `--minutes` of training."""
    keras.utils.set_random_seed(args.seed)
    config = dataclasses.replace(shapes_config(), gt_mask_size=112, max_detections=20, **fields)
    model = km.MaskRCNN(config, seed=args.seed)
    augmentation = [km.data.RandomFlip(horizontal=True, vertical=True), km.data.RandomRotate90()]
    loader = km.DataLoader(train, config, args.batch, shuffle=True, seed=args.seed, augmentation=augmentation)
    model.compile(keras.optimizers.AdamW(LEARNING_RATE, weight_decay=1e-4, beta_2=0.99, global_clipnorm=5.0))
    budget = TimeBudget(args.minutes, warmup_steps=30)
    model.fit(loader, epochs=10**6, verbose=0, callbacks=[budget])
    return model, budget.step


def report(name, model, steps, val):
    """Measure a model on the validation images, and print a line."""
    started = time.perf_counter()
    found = detect_dataset(model, val)
    figures = coco_metrics(found.truth, found.detections, iou_types=("segm", "boundary"))
    ious = np.array(list(overlaps(found.truth, found.detections)))
    numbers = [figures[key] for key in ("segm_AP", "segm_AP75", "boundary_AP", "boundary_AP75")]
    cells = "".join(f"{number:>{width}.3f}" for number, width in zip((*numbers, *ious.mean(0)), WIDTHS))
    print(f"{name:10}{steps:>7}{cells}   ({time.perf_counter() - started:.0f} s to measure)", flush=True)


def overlaps(truth, detections):
    """(IoU of masks, IoU of boundaries) of each object with the best detection of its class."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found = {}
    for one in detections:
        found.setdefault((one["image_id"], one["category_id"]), []).append(coco_mask.decode(one["segmentation"]) > 0)
    for annotation in truth["annotations"]:
        height, width = sizes[annotation["image_id"]]
        mask = decoded(annotation["segmentation"], height, width)
        others = found.get((annotation["image_id"], annotation["category_id"]), ())
        best = max(others, key=lambda other: iou(mask, other), default=np.zeros_like(mask))
        steps = max(1, round(STRIP * (height**2 + width**2) ** 0.5))
        yield iou(mask, best), iou(strip(mask, steps), strip(best, steps))


def decoded(segmentation, height, width):
    """Bool (height, width) of COCO's polygons or run lengths."""
    codes = segmentation
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        codes = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(codes) if isinstance(codes, list) else codes) > 0


def strip(mask, steps):
    """The pixels of a mask within some pixels of its outline."""
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=steps)


def iou(one, other):
    return (one & other).sum() / max(1, (one | other).sum())


if __name__ == "__main__":
    main()
