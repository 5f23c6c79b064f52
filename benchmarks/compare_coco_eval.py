"""Does faster-coco-eval compute what pycocotools computes, and how much faster? Random datasets, every table compared.

    python benchmarks/compare_coco_eval.py
    python benchmarks/compare_coco_eval.py --seeds 10 11 12 --caps 100 300
    git show 0d7ef1d:keras_maskrcnn/evaluation.py > old.py && python benchmarks/compare_coco_eval.py --own-loop old.py

Each dataset has crowds, stated areas, equal scores, doubled objects, polygons and run lengths of both kinds, empty
masks, boxes without width, one image without objects, one without detections, one with hundreds of nuclei-like
objects, a class without objects and a class without detections. Precision, recall and score tables of COCOeval are
compared entry by entry. `--own-loop` adds the class `_OverlapCOCOeval` of a file: this package's former matching loop.
"""

import argparse
import ast
import contextlib
import copy
import io
import pathlib
import time

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 480
CLASSES = (1, 3, 8, 21, 90)
WITHOUT_OBJECTS, WITHOUT_DETECTIONS = 21, 90
TABLES = ("precision", "recall", "scores")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10))
    parser.add_argument("--caps", type=int, nargs="+", default=[100, 1000], help="highest number of detections")
    parser.add_argument("--own-loop", type=pathlib.Path, help="a file with the class _OverlapCOCOeval")
    args = parser.parse_args()
    kinds = {"pycocotools": (COCO, COCOeval), "faster-coco-eval": (FasterCOCO, COCOeval_faster)}
    if args.own_loop:
        kinds["own loop"] = (COCO, own_loop(args.own_loop))
    for cap in args.caps:
        for iou_type in ("bbox", "segm"):
            compare(kinds, args.seeds, iou_type, cap)


def compare(kinds, seeds, iou_type, cap):
    """Print each evaluator's time over all datasets and its largest distance from pycocotools' tables."""
    seconds = dict.fromkeys(kinds, 0.0)
    distance = dict.fromkeys(kinds, 0.0)
    for seed in seeds:
        truth, found = random_dataset(seed)
        tables = {}
        for name, classes in kinds.items():
            tables[name], spent = evaluate(*classes, truth, found, iou_type, cap)
            seconds[name] += spent
            apart = (np.abs(tables[name][table] - tables["pycocotools"][table]).max() for table in TABLES)
            distance[name] = max(distance[name], *map(float, apart))
    for name in kinds:
        factor = seconds["pycocotools"] / seconds[name]
        print(
            f"{iou_type} cap {cap:5}  {name:17} {seconds[name]:8.2f} s for {len(seeds)} datasets, {factor:6.1f}x; "
            f"largest distance {distance[name]:.1e}",
            flush=True,
        )


def evaluate(coco_class, evaluation_class, truth, found, iou_type, cap):
    """COCOeval's tables, and the seconds from lists of annotations to tables."""
    truth, found = copy.deepcopy((truth, found))  # evaluators write into annotations
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth["annotations"], as_annotations(found, iou_type)):
            side = coco_class()
            side.dataset = {**truth, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = evaluation_class(*sides, iou_type)
        evaluation.params.maxDets = sorted({1, 10, cap})
        evaluation.evaluate()
        evaluation.accumulate()
    return {table: np.asarray(evaluation.eval[table]) for table in TABLES}, time.perf_counter() - started


def as_annotations(found, iou_type):
    return [
        {
            **detection,
            "id": i,
            "iscrowd": 0,
            "area": detection["bbox"][2] * detection["bbox"][3]
            if iou_type == "bbox"
            else float(rle.area(detection["segmentation"])),
        }
        for i, detection in enumerate(found, start=1)
    ]


def own_loop(path):
    """The class `_OverlapCOCOeval` of a file, without the file's imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_OverlapCOCOeval"]
    names = {"COCOeval": COCOeval, "np": np}
    exec(compile(ast.Module(nodes, []), path, "exec"), names)
    return names["_OverlapCOCOeval"]


# Random datasets ---------------------------------------------------------------------------------------------------


def random_dataset(seed, num_images=12):
    """Ground truth (dict in COCO's format) and detections (list of COCO results)."""
    rng = np.random.default_rng(seed)
    annotations, found = [], []
    for image_id in range(100, 100 + num_images):
        dense = image_id == 100
        objects = random_objects(rng, 400 if dense else int(rng.integers(1, 25)), dense)
        if image_id != 101:
            annotations += [
                annotation_of(rng, *one, image_id, len(annotations) + 1 + i) for i, one in enumerate(objects)
            ]
        if image_id != 102:
            found += random_detections(rng, objects, image_id, 4 if dense else 2)
    truth = {
        "images": [{"id": 100 + i, "height": SIDE, "width": SIDE} for i in range(num_images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in CLASSES],
        "annotations": annotations,
    }
    return truth, found


def random_objects(rng, count, dense):
    """List of (box (x1, y1, x2, y2), category id), about one in ten of them twice."""
    sides = rng.uniform(8, 24, (count, 2)) if dense else np.exp(rng.uniform(np.log(6), np.log(240), (count, 2)))
    corners = rng.uniform(0, SIDE - 6, (count, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sides, SIDE)], axis=1)
    allowed = [k for k in CLASSES if k != WITHOUT_OBJECTS]
    kinds = np.full(count, 1) if dense else rng.choice(allowed, count)
    objects = list(zip(boxes, map(int, kinds)))
    return objects + [one for one in objects if rng.random() < 0.1]


def annotation_of(rng, box, category, image_id, number):
    code = ellipse(box)
    form = rng.choice(["compressed", "counts", "polygon"])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": xywh(box),
        "area": float(rle.area(code)) * rng.uniform(0.7, 1.1),  # stated areas need not be the mask's
        "iscrowd": int(rng.random() < 0.12),
        "segmentation": code if form == "compressed" else counts(code) if form == "counts" else polygon(box),
    }


def random_detections(rng, objects, image_id, copies):
    """Near every object some detections; a few of other classes, a few without extent."""
    found = []
    for box, category in objects:
        for _ in range(copies):
            side = np.tile(box[2:] - box[:2], 2)
            moved = np.clip(box + rng.normal(size=4) * side * rng.choice([0.0, 0.03, 0.15]), 0, SIDE)
            moved[2:] = np.maximum(moved[2:], moved[:2] + (0 if rng.random() < 0.02 else 1))
            kind = category if rng.random() < 0.85 else int(rng.choice(CLASSES))
            if kind != WITHOUT_DETECTIONS:
                found.append(
                    {
                        "image_id": image_id,
                        "category_id": kind,
                        "bbox": xywh(moved),
                        "score": round(float(rng.random()), 2),  # many scores are equal
                        "segmentation": ellipse(moved),
                    }
                )
    return found


def ellipse(box):
    """Compressed run lengths of the ellipse in a box; empty where no pixel centre lies inside."""
    y, x = np.ogrid[:SIDE, :SIDE]
    x1, y1, x2, y2 = box
    radii = max(x2 - x1, 1e-3) / 2, max(y2 - y1, 1e-3) / 2
    inside = ((x + 0.5 - (x1 + x2) / 2) / radii[0]) ** 2 + ((y + 0.5 - (y1 + y2) / 2) / radii[1]) ** 2 <= 1
    return rle.encode(np.asfortranarray(inside.astype(np.uint8)))


def counts(code):
    """Run lengths as a list of numbers, as COCO stores crowds."""
    flat = rle.decode(code).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": [SIDE, SIDE], "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def polygon(box):
    """A list of one polygon with twelve corners, on the ellipse in a box."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    (x1, y1, x2, y2), ring = box, np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [((ring + 1) / 2 * [x2 - x1, y2 - y1] + [x1, y1]).ravel().tolist()]


def xywh(box):
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


if __name__ == "__main__":
    main()
