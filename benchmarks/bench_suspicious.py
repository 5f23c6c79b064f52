"""Faults planted into labels, and how many of them the list of suspicious labels has at its top.

    python benchmarks/bench_suspicious.py --model run --data ../shared/data/nuclei/val
    python benchmarks/bench_suspicious.py --model run --data ../shared/data/nuclei/val --count 8 --seeds 20    # quick
    keras-maskrcnn demo --directory demo && python benchmarks/bench_suspicious.py --model demo/run \
        --data demo/data/val/annotations.json --images demo/data/val/images

A share of the labels (`--share`) gets another class, is removed, or is moved by half its size, a third each. Where
there is one class, such as in nuclei, no label can get another, and the others are halves. The model, which was
trained on other images, detects once; for each seed other faults are planted. A fault is found if one of the first n
suspects is about it, n being the number of faults. With `--cleanlab PYTHON`, the Python of a virtual environment that
has cleanlab, images are ranked by its object detection quality score and by ours (the worst suspect of the image),
and the share of faulty images among the first m is compared, m being their number.
"""

import argparse
import collections
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from pycocotools import mask as rle

SWAPPED, REMOVED, SHIFTED = "swapped", "removed", "shifted"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a .keras file or run folder")
    parser.add_argument("--data", help="annotations or folder of a dataset")
    parser.add_argument("--images", help="folder of the images")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, help="of images, evenly spread; default: all")
    parser.add_argument("--cleanlab", metavar="PYTHON")
    args = parser.parse_args()
    truth, detections = detect(args)
    rows = collections.defaultdict(list)
    for seed in range(args.seeds):
        for name, value in measure(truth, detections, args, seed).items():
            rows[name].append(value)
    print(f"{len(truth['annotations'])} labels in {len(truth['images'])} images, {args.seeds} seeds")
    for name, values in rows.items():
        print(f"{name:50s} {np.mean(values):.3f}  ({min(values):.3f} to {max(values):.3f})")
    return 0


def detect(args):
    """(ground truth, detections) of a model."""
    import keras_maskrcnn as km
    from keras_maskrcnn.data.split import subset
    from keras_maskrcnn.evaluation.coco import detect_dataset
    from keras_maskrcnn.runs.folder import find_model
    from keras_maskrcnn.weights.models import load_model

    model, dataset = load_model(find_model(args.model)), km.open_dataset(args.data, args.images)
    if args.count:
        places = np.unique(np.linspace(0, len(dataset) - 1, args.count).round().astype(int))
        dataset = subset(dataset, places.tolist(), "some images")
    found = detect_dataset(model, dataset, verbose=1)
    return found.truth, found.detections


def measure(truth, detections, args, seed):
    """Dict of recalls by what is counted."""
    from keras_maskrcnn.evaluation import match_detections
    from keras_maskrcnn.evaluation.matching import NONE
    from keras_maskrcnn.evaluation.suspects import find_suspects

    spoilt, faults = plant(truth, args.share, np.random.default_rng(seed))
    matches = match_detections(spoilt, detections)
    suspects = find_suspects(matches, 0)
    found, worst = set(), {}
    for place, suspect in enumerate(suspects):
        image = matches.image[suspect.detection] if suspect.object == NONE else matches.gt_image[suspect.object]
        worst.setdefault(matches.image_ids[image], suspect.suspicion)
        if place >= len(faults):
            continue
        if suspect.object != NONE:
            found.add(spoilt["annotations"][matches.gt_row[suspect.object]]["id"])
        else:
            found |= removed_there(detections[matches.row[suspect.detection]], faults)
    result = {"all, at the length of the list": len(found & set(faults)) / len(faults)}
    for kind in dict.fromkeys(fault["kind"] for fault in faults.values()):
        own = {key for key, fault in faults.items() if fault["kind"] == kind}
        result[f"{kind}, at the length of the whole list"] = len(found & own) / len(own)
    faulty = {fault["label"]["image_id"] for fault in faults.values()}
    scores = {image["id"]: -worst.get(image["id"], 0) for image in truth["images"]}
    result["images with faults, ours"] = at_length(scores, faulty)
    if args.cleanlab:
        result["images with faults, cleanlab"] = at_length(by_cleanlab(args.cleanlab, spoilt, detections), faulty)
    return result


def at_length(scores, faulty):
    """The share of faulty images among those with the lowest scores, of their number."""
    order = sorted(scores, key=scores.get)[: len(faulty)]
    return len(faulty & set(order)) / len(faulty)


def plant(truth, share, rng):
    """(a copy with faults, dict from the id of a label to its fault: kind and label as it was)."""
    spoilt = copy.deepcopy(truth)
    kinds = [REMOVED, SHIFTED] + ([SWAPPED] if len(truth["categories"]) > 1 else [])
    rows = [row for row, entry in enumerate(truth["annotations"]) if not entry.get("iscrowd")]
    chosen = rng.permutation(rows)[: max(len(kinds), round(share * len(rows)))]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    faults, removed = {}, set()
    for number, row in enumerate(chosen):
        kind, label = kinds[number % len(kinds)], truth["annotations"][row]
        faults[label["id"]] = {"kind": kind, "label": label}
        if kind == REMOVED:
            removed.add(row)
        elif kind == SWAPPED:
            others = [one["id"] for one in truth["categories"] if one["id"] != label["category_id"]]
            spoilt["annotations"][row]["category_id"] = int(rng.choice(others))
        else:
            spoilt["annotations"][row] |= moved(label, sizes[label["image_id"]], rng)
    spoilt["annotations"] = [one for row, one in enumerate(spoilt["annotations"]) if row not in removed]
    return spoilt, faults


def moved(label, size, rng):
    """Mask and box moved by half the size of the box, into the image."""
    mask = decode(label, size)
    angle = rng.uniform(0, 2 * np.pi)
    x, y, width, height = label["bbox"]
    step = np.array([np.sin(angle) * height, np.cos(angle) * width]) / 2
    inside = (0 <= y + step[0] <= size[0] - height, 0 <= x + step[1] <= size[1] - width)
    dy, dx = (int(round(s if good else -s)) for s, good in zip(step, inside, strict=True))
    ys, xs = np.nonzero(mask)
    ys, xs = np.clip(ys + dy, 0, size[0] - 1), np.clip(xs + dx, 0, size[1] - 1)
    out = np.zeros_like(mask)
    out[ys, xs] = 1
    code = rle.encode(np.asfortranarray(out))
    return {
        "segmentation": {"size": list(size), "counts": code["counts"].decode()},
        "bbox": [float(side) for side in rle.toBbox(code)],
        "area": int(out.sum()),
    }


def decode(entry, size):
    code = entry["segmentation"]
    if isinstance(code, list):
        code = rle.merge(rle.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):
        code = rle.frPyObjects(code, *size)
    return rle.decode(code)


def removed_there(found, faults):
    """The ids of removed labels whose boxes a detection overlaps by at least 0.5."""
    near = [
        (key, fault["label"]["bbox"])
        for key, fault in faults.items()
        if fault["kind"] == REMOVED and fault["label"]["image_id"] == found["image_id"]
    ]
    if not near:
        return set()
    ious = rle.iou(np.array([found["bbox"]]), np.array([box for _, box in near], np.float64), [0] * len(near))[0]
    return {key for (key, _), iou in zip(near, ious, strict=True) if iou >= 0.5}


# cleanlab ------------------------------------------------------------------------------------------------------


def by_cleanlab(python, truth, detections):
    """Dict from image id to cleanlab's quality score, low for bad labels."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "data.json"
        path.write_text(json.dumps({"truth": slim(truth["annotations"]), "found": slim(detections)} | {
            "images": [image["id"] for image in truth["images"]],
            "categories": [category["id"] for category in truth["categories"]],
        }))  # fmt: skip
        subprocess.run([python, pathlib.Path(__file__).with_name("cleanlab_scores.py"), path], check=True)
        scores = json.loads(path.with_suffix(".out").read_text())
    return dict(zip([image["id"] for image in truth["images"]], scores, strict=True))


def slim(entries):
    keys = ("image_id", "category_id", "bbox", "score")
    return [{key: one[key] for key in keys if key in one} for one in entries]


if __name__ == "__main__":
    sys.exit(main())
