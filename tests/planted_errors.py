"""Errors of known kinds in perfect detections of any COCO ground truth: real masks, real neighbours."""

import numpy as np
from perturbed import shifted
from pycocotools import mask as rle

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")


def plant_errors(truth, count, seed):
    """Perfect detections of all objects, of which some were spoilt.

    An object is spoilt if it is the only one of its class in its image: so an error of its class is about it alone.
    Wrong classes are some that the image lacks. Wrong places overlap the object by 0.15 to 0.45, and others by less
    than 0.45.

    Args:
        truth: COCO dictionary. count: int, errors of each kind. seed: int.

    Returns:
        (list of COCO results, list of as many kinds, "" for right ones; ids of the annotations that are missed; those
        of objects whose only detection has neither their class nor their place).
    """
    rng = np.random.default_rng(seed)
    images = {image["id"]: _Image(image, truth) for image in truth["images"]}
    objects = [(image, place) for image in images.values() for place in range(len(image.objects))]
    alone = [(image, place) for image, place in objects if image.alone(place)]
    wanted = {kind: count for kind in KINDS}
    found, kinds, missed, both = [], [], [], []
    spoilt = {}
    for number in rng.permutation(len(alone)):
        image, place = alone[number]
        for kind in (kind for kind in rng.permutation(list(wanted)).tolist() if wanted[kind]):
            made = _spoil(image, place, kind, rng)
            if made is not None:
                spoilt[id(image), place] = kind, made
                wanted[kind] -= 1
                break
    assert not any(wanted.values()), f"too few objects: {wanted} are left"
    for image, place in objects:
        kind, made = spoilt.get((id(image), place), ("", []))
        annotation = image.objects[place]
        if kind not in ("class", "localisation", "both", "missed"):
            found.append(image.detection(place, rng.uniform(0.7, 1.0)))
            kinds.append("")
        found += made
        kinds += [kind] * len(made)
        missed += [annotation["id"]] if kind == "missed" else []
        both += [annotation["id"]] if kind == "both" else []
    return found, kinds, missed, both


class _Image:
    """The objects of an image that are no crowd, and their masks."""

    def __init__(self, image, truth):
        self.id, self.size = image["id"], (image["height"], image["width"])
        own = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        self.crowds = [one for one in own if one.get("iscrowd")]
        self.objects = [one for one in own if not one.get("iscrowd")]
        self.codes = [rle.merge(rle.frPyObjects(one["segmentation"], *self.size)) for one in self.objects]
        self.boxes = np.array([one["bbox"] for one in self.objects])
        self.others = sorted({one["id"] for one in truth["categories"]} - {one["category_id"] for one in own})

    def alone(self, place):
        """Whether the object is the only one of its class, overlaps others little, and is large enough."""
        label = self.objects[place]["category_id"]
        count = sum(one["category_id"] == label for one in (*self.objects, *self.crowds))
        if count > 1 or rle.area(self.codes[place]) < 100:
            return False
        return max(np.delete(ious, place).max(initial=0) for ious in self.ious(self.codes[place])) < 0.3

    def ious(self, code):
        """The IoUs of masks and of boxes with all objects; boxes must agree, for errors are counted by both."""
        none = [0] * len(self.codes)
        masks, boxes = rle.iou([code], self.codes, none), rle.iou(rle.toBbox(code)[None], self.boxes, none)
        return masks[0], boxes[0]

    def detection(self, place, score, category=None, code=None):
        code, own = self.codes[place] if code is None else code, self.objects[place]
        box = own["bbox"] if code is self.codes[place] else rle.toBbox(code).tolist()
        segmentation = {"size": list(self.size), "counts": code["counts"].decode()}
        label = own["category_id"] if category is None else category
        return {
            "image_id": self.id, "category_id": label, "score": float(score), "bbox": box, "segmentation": segmentation
        }  # fmt: skip


def _spoil(image, place, kind, rng):
    """What is found in place of an object, or beside it: a list of results, or None if it cannot be made there."""
    score, other = rng.uniform(0.3, 0.6), int(rng.choice(image.others))
    if kind == "missed":
        return []
    if kind == "class":
        return [image.detection(place, score, other)]
    if kind == "duplicate":
        return [image.detection(place, score)]
    if kind == "background":
        code = _nowhere(image, rng)
        return None if code is None else [image.detection(place, score, code=code)]
    code = _beside(image, place, rng)
    return None if code is None else [image.detection(place, score, other if kind == "both" else None, code)]


def _beside(image, place, rng):
    """The mask moved so that it overlaps the object by 0.15 to 0.45; None if no try does."""
    mask = rle.decode(image.codes[place])
    ys, xs = np.nonzero(mask)
    sides = np.ptp(xs) + 1, np.ptp(ys) + 1
    for _ in range(20):
        angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
        moved = shifted(mask, int(np.cos(angle) * share * sides[0]), int(np.sin(angle) * share * sides[1]))
        code = rle.encode(np.asfortranarray(moved))
        if all(0.15 < ious[place] < 0.45 and ious.max() < 0.45 for ious in image.ious(code)):
            return code
    return None


def _nowhere(image, rng):
    """A rectangle that overlaps nothing by more than 0.05; None if no try finds one."""
    height, width = image.size
    for _ in range(20):
        box = [rng.integers(width * 3 // 4), rng.integers(height * 3 // 4), width // 8, height // 8]
        code = rle.frPyObjects(np.array([box], np.float64), height, width)[0]
        if max(ious.max() for ious in image.ious(code)) <= 0.05:
            return code
    return None
