"""How long counting AP takes, and how much memory: random ground truth and detections of COCO's size, box and mask.

    python benchmarks/count_coco.py
    python benchmarks/count_coco.py --images 1000 --detections 300
    python benchmarks/count_coco.py --stock          # pycocotools on the same tables

80 classes and about seven objects an image, ellipses as compressed run lengths, one object in fifty a crowd region.
Prints the seconds of each phase, and the peak memory of the process after it.
"""

import argparse
import contextlib
import io
import resource
import time

import numpy as np
from compare_coco_eval import xywh
from pycocotools import mask as rle

HEIGHT, WIDTH = 480, 640
CLASSES = 80
BASES, VARIANTS = 1500, 12  # different objects, and detections near each


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of an image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stock", action="store_true", help="pycocotools instead")
    args = parser.parse_args()
    truth, found = tables(args.images, args.detections, args.seed)
    print(f"{len(truth['annotations'])} objects, {len(found)} detections; tables: {megabytes():.0f} MB", flush=True)
    began, worked = time.perf_counter(), time.process_time()
    figures = stock(truth, found) if args.stock else ours(truth, found)
    spent = f"{time.perf_counter() - began:.1f} s, {time.process_time() - worked:.1f} s of a processor"
    print(f"all: {spent}; peak of the process: {megabytes():.0f} MB")
    print({name: round(value, 6) for name, value in figures.items()})


def ours(truth, found):
    """`coco_metrics`, with the seconds of its phases on the screen."""
    from keras_maskrcnn.evaluation import figures

    for name in ("check_tables", "_evaluate", "_figures"):
        if hasattr(figures, name):
            setattr(figures, name, timed(name, getattr(figures, name)))
    metrics = figures.coco_metrics(truth, found)
    return {name: metrics[name] for name in ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "segm_AR100")}


def timed(name, function):
    def run(*args):
        began = time.perf_counter()
        result = function(*args)
        print(f"  {name:20} {time.perf_counter() - began:6.1f} s, peak {megabytes():.0f} MB", flush=True)
        return result

    return run


def stock(truth, found):
    """The figures that pycocotools itself gives."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    figures = {}
    for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
        index = COCO()
        with contextlib.redirect_stdout(io.StringIO()):
            index.dataset = truth
            index.createIndex()
            wanted = [{k: one[k] for k in ("image_id", "category_id", "score", key)} for one in found]
            evaluation = COCOeval(index, index.loadRes(wanted), kind)
            evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
        figures |= {f"{kind}_AP": evaluation.stats[0], f"{kind}_AP50": evaluation.stats[1]}
    return figures | {"segm_AR100": evaluation.stats[8]}


def tables(num_images, num_detections, seed):
    """Ground truth (dict in COCO's format) and detections (list of COCO results)."""
    rng = np.random.default_rng(seed)
    objects, near = shapes(rng)
    annotations, found = [], []
    for image_id in range(1, num_images + 1):
        chosen = rng.integers(0, BASES, rng.poisson(7))
        labels = rng.integers(1, CLASSES + 1, len(chosen))
        annotations += [annotation(objects[k], int(label), image_id, rng) for k, label in zip(chosen, labels)]
        for number in range(num_detections):
            hit = len(chosen) and number < 4 * len(chosen)
            which = number % len(chosen) if hit else 0
            base, label = (chosen[which], labels[which]) if hit else (rng.integers(BASES), rng.integers(1, CLASSES + 1))
            found.append(detection(near[base][rng.integers(VARIANTS)], int(label), image_id, float(rng.random())))
    for number, one in enumerate(annotations, start=1):
        one["id"] = number
    images = [{"id": k, "height": HEIGHT, "width": WIDTH} for k in range(1, num_images + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, found


def shapes(rng):
    """List of (box, code) of objects, and for each a list of (box, code) near it."""
    sides = np.exp(rng.uniform(np.log(10), np.log(300), (BASES, 2)))
    corners = rng.uniform(0, [WIDTH - 12, HEIGHT - 12], (BASES, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sides, [WIDTH, HEIGHT])], axis=1)
    near = []
    for box in boxes:
        distance = np.tile(box[2:] - box[:2], 2) * rng.choice([0.02, 0.1], (VARIANTS, 1))
        moved = box + rng.normal(size=(VARIANTS, 4)) * distance
        moved = np.clip(moved, 0, [WIDTH - 2, HEIGHT - 2, WIDTH, HEIGHT])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        near.append([(one, ellipse(one)) for one in moved])
    return [(box, ellipse(box)) for box in boxes], near


def ellipse(box):
    """Compressed run lengths of the ellipse in a box, through a polygon of 24 corners."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = (np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1) / 2 * (box[2:] - box[:2]) + box[:2]
    return rle.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0]["counts"]


def coded(counts):
    """A code of its own, as if no other had the same text."""
    return {"size": [HEIGHT, WIDTH], "counts": counts.decode("ascii")}


def annotation(shape, label, image_id, rng):
    box, counts = shape
    code, crowd = coded(counts), int(rng.random() < 0.02)
    fields = {"bbox": xywh(box), "area": float(rle.area(code)), "iscrowd": crowd, "segmentation": code}
    return {"image_id": image_id, "category_id": label} | fields


def detection(shape, label, image_id, score):
    box, counts = shape
    return {
        "image_id": image_id,
        "category_id": label,
        "bbox": xywh(box),
        "score": score,
        "segmentation": coded(counts),
    }


def megabytes():
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
