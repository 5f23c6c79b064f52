"""Detections made from the truth by rules, so that a detector's errors are there in known ways and in any number."""

import numpy as np
from pycocotools import mask as rle

# What happens to an object: its share of all objects.
SHARES = {
    "kept": 0.4, "moved": 0.12, "far": 0.1, "relabelled": 0.12, "both": 0.08, "dropped": 0.1, "doubled": 0.08
}  # fmt: skip


def mask_of(annotation, size):
    """uint8 (H, W) of polygons or run lengths."""
    code = annotation["segmentation"]
    if isinstance(code, list):
        code = rle.merge(rle.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):
        code = rle.frPyObjects(code, *size)
    return rle.decode(code)


def shifted(mask, dx, dy):
    """The mask moved by whole pixels; what leaves the image is lost."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    ys, xs = np.nonzero(mask)
    ys, xs = ys + dy, xs + dx
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    out[ys[inside], xs[inside]] = 1
    return out


def as_detection(mask, image_id, category_id, score):
    """A COCO result with the box of the mask; None of an empty one."""
    if not mask.any():
        return None
    code = rle.encode(np.asfortranarray(mask))
    box = [float(side) for side in rle.toBbox(code)]
    segmentation = {"size": [int(side) for side in mask.shape], "counts": code["counts"].decode()}
    return {
        "image_id": image_id, "category_id": int(category_id), "score": float(score), "bbox": box,
        "segmentation": segmentation,
    }  # fmt: skip


def perturbed(truth, seed):
    """COCO results for a COCO ground truth: some right, some wrong in each way, with distinct scores.

    Detections have the classes that objects have. Some lie in crowd regions.
    """
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = sorted({a["category_id"] for a in truth["annotations"] if not a.get("iscrowd")})
    found = []

    def add(mask, annotation, category=None, low=0.3):
        category = annotation["category_id"] if category is None else category
        made = as_detection(mask, annotation["image_id"], category, rng.uniform(low, 1.0))
        found.extend([made] if made else [])

    for annotation in truth["annotations"]:
        mask = mask_of(annotation, sizes[annotation["image_id"]])
        what = rng.choice(list(SHARES), p=list(SHARES.values()))
        ys, xs = np.nonzero(mask)
        side = (int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1) if len(xs) else (1, 1)
        other = rng.choice([key for key in categories if key != annotation["category_id"]])
        if annotation.get("iscrowd"):
            add(mask, annotation)
            part = np.zeros_like(mask)
            part[ys[: len(ys) // 3], xs[: len(xs) // 3]] = 1
            add(part, annotation)
        elif what == "moved":
            add(shifted(mask, side[0] // 8, -side[1] // 8), annotation)
        elif what == "far":
            add(shifted(mask, side[0] // 2, side[1] // 4), annotation)
        elif what == "relabelled":
            add(mask, annotation, other)
        elif what == "both":
            add(shifted(mask, side[0] // 2, side[1] // 4), annotation, other)
        elif what != "dropped":
            add(mask, annotation)
        if what == "doubled":
            add(shifted(mask, 1, 0), annotation, low=0.0)
    for image in truth["images"]:
        height, width = sizes[image["id"]]
        y, x = rng.integers(height // 2), rng.integers(width // 2)
        mask = np.zeros((height, width), np.uint8)
        mask[y : y + height // 6, x : x + width // 6] = 1
        add(mask, {"image_id": image["id"], "category_id": rng.choice(categories)}, low=0.0)
    order = rng.permutation(len(found))
    return [found[k] for k in order]
