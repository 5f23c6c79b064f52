"""Detections beside the objects of their images: who matches whom at one IoU, and the best overlaps of all others.

Comes in: ground truth and detections in COCO's formats. Goes out: `Matches`, columns of numbers. Called by the modules
that explain average precision (`errors.py`, `curves.py`, `confusion.py`), so that all of them count the same. The
rules are pycocotools': detections of an image and a class are taken by descending score, each matches the free object
of its class with the highest IoU, and what matches none but lies in a crowd region of its class is left out.
"""

import dataclasses

import numpy as np
from pycocotools import mask as rle

from keras_maskrcnn.evaluation.figures import distinct_names
from keras_maskrcnn.evaluation.tables import check_tables
from keras_maskrcnn.geometry.rle import parse_counts

NONE = -1  # in columns of positions: no detection, no object


@dataclasses.dataclass(frozen=True)
class Matches:
    """Columns of D detections and G objects. Detections are by image, and in it by descending score.

    Args:
        iou_type: "bbox" or "segm". iou: float, the least IoU of a match.
        image_ids: list, by ascending id. The columns hold positions in it.
        names: dict from category id to class name, with its id where two classes have the same name.
        row, image, category: int (D,): position in the given detections; position in `image_ids`; category id.
        score: float64 (D,).
        object: int (D,), the object that the detection matches, a position in the columns of objects, or NONE.
        ignored: bool (D,): it matches nothing, but lies in a crowd region of its class: neither right nor wrong.
        own, other: int (D,), the object of the same class, and of another one, with the highest IoU; NONE if no object
            of that kind touches it.
        own_iou, other_iou: float64 (D,), 0 for NONE.
        gt_row, gt_image, gt_category: int (G,), as `row`, of the annotations that are no crowd regions.
        gt_detection: int (G,), the detection that matches, or NONE.
    """

    iou_type: str
    iou: float
    image_ids: list
    names: dict
    row: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    object: np.ndarray
    ignored: np.ndarray
    own: np.ndarray
    other: np.ndarray
    own_iou: np.ndarray
    other_iou: np.ndarray
    gt_row: np.ndarray
    gt_image: np.ndarray
    gt_category: np.ndarray
    gt_detection: np.ndarray

    @property
    def right(self):
        """Bool (D,): the detection matches an object."""
        return self.object != NONE

    @property
    def num_objects(self):
        """Dict from category id to the number of its objects, of the classes that have any, by ascending id."""
        keys, counts = np.unique(self.gt_category, return_counts=True)
        return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def match_detections(ground_truth, detections, iou_type="segm", iou=0.5, max_detections=100):
    """Match detections with the objects of their images.

    Args:
        ground_truth, detections, max_detections: as in `coco_metrics`.
        iou_type: "bbox" or "segm". iou: float, above 0 and at most 1: the least IoU of a match.

    Returns:
        Matches.

    Raises:
        ValueError: another `iou_type`, an IoU or a cap out of range, and entries that cannot be counted (`tables.py`).
    """
    _check_arguments(iou_type, iou, max_detections)
    check_tables(ground_truth, detections, (iou_type,))
    image_ids = sorted((image["id"] for image in ground_truth["images"]), key=lambda key: (isinstance(key, str), key))
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    truth, found = _by_image(ground_truth["annotations"], sizes), _by_image(detections, sizes)
    parts, first, gt_first = [_match_image(0, [], [], None, iou_type, iou, 1)], 0, 0  # so that there is one
    for position, image_id in enumerate(image_ids):
        pairs = truth[image_id], found[image_id]
        part = _match_image(position, *pairs, sizes[image_id], iou_type, iou, max_detections)
        parts.append(_moved(part, first, gt_first))
        first, gt_first = first + len(part["row"]), gt_first + len(part["gt_row"])
    ids = sorted({int(category["id"]) for category in ground_truth["categories"]})
    names = dict(zip(ids, distinct_names(ground_truth["categories"]), strict=True))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Matches(iou_type, iou, image_ids, names, **columns)


def _check_arguments(iou_type, iou, max_detections):
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f'iou_type must be "bbox" or "segm". Received: {iou_type!r}. Choose what is compared.')
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be above 0 and at most 1. Received: {iou}. Leave it out for 0.5.")
    if max_detections < 1:
        raise ValueError(
            f"max_detections must be at least 1. Received: {max_detections}. Leave it out for COCO's own cap, 100."
        )


def _by_image(entries, sizes):
    """Dict from image id to [(position, entry)]; entries of images that are not listed are left out."""
    groups = {image_id: [] for image_id in sizes}
    for position, entry in enumerate(entries):
        if entry["image_id"] in groups:
            groups[entry["image_id"]].append((position, entry))
    return groups


def _moved(part, first, gt_first):
    """The columns with positions that count from these: those of the whole dataset."""
    starts = {"object": gt_first, "own": gt_first, "other": gt_first, "gt_detection": first}
    return part | {name: np.where(part[name] == NONE, NONE, part[name] + start) for name, start in starts.items()}


def _match_image(position, truth, found, size, iou_type, least, cap):
    """Dict of the columns of one image; truth, found: [(row, entry)]. Positions count inside the image."""
    found = _counted(found, cap)
    crowds = [entry for _, entry in truth if entry.get("iscrowd")]
    truth = [(row, entry) for row, entry in truth if not entry.get("iscrowd")]
    category, gt_category = _categories(found), _categories(truth)
    shapes = [_shape(entry, iou_type, size) for _, entry in found]
    ious = _ious(shapes, [_shape(entry, iou_type, size) for _, entry in truth])
    same = category[:, None] == gt_category[None, :]
    matched, taken = _assign(np.where(same, ious, 0.0), least)
    ignored = (matched == NONE) & _in_crowd(shapes, category, crowds, iou_type, size, least)
    own, own_iou = _best(np.where(same, ious, 0.0))
    other, other_iou = _best(np.where(same, 0.0, ious))
    return {
        "row": np.array([row for row, _ in found], np.int64),
        "image": np.full(len(found), position, np.int64),
        "category": category,
        "score": np.array([entry["score"] for _, entry in found], np.float64),
        "object": matched,
        "ignored": ignored,
        "own": own,
        "other": other,
        "own_iou": own_iou,
        "other_iou": other_iou,
        "gt_row": np.array([row for row, _ in truth], np.int64),
        "gt_image": np.full(len(truth), position, np.int64),
        "gt_category": gt_category,
        "gt_detection": taken,
    }


def _in_crowd(shapes, category, crowds, iou_type, size, least):
    """Bool (D,): the detection lies in a crowd region of its class, by at least this share."""
    shares = _ious(shapes, [_shape(entry, iou_type, size) for entry in crowds], crowd=True)
    of_class = np.array([int(entry["category_id"]) for entry in crowds], np.int64)
    return ((shares >= least) & (category[:, None] == of_class[None, :])).any(axis=1)


def _counted(found, cap):
    """The highest-scoring detections of each class, by descending score; equal ones stay in the order given."""
    counts, kept = {}, []
    for row, entry in sorted(found, key=lambda pair: -pair[1]["score"]):
        key = int(entry["category_id"])
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= cap:
            kept.append((row, entry))
    return kept


def _categories(pairs):
    return np.array([int(entry["category_id"]) for _, entry in pairs], np.int64)


def _shape(entry, iou_type, size):
    """What pycocotools compares: a box, or compressed run lengths."""
    if iou_type == "bbox":
        return [float(side) for side in entry["bbox"]]
    code = entry["segmentation"]
    if isinstance(code, list):
        return rle.merge(rle.frPyObjects(code, *size))
    if isinstance(code["counts"], list):  # of whole floats, perhaps
        return rle.frPyObjects({"size": list(size), "counts": parse_counts(code["counts"]).tolist()}, *size)
    return code


def _ious(shapes, others, crowd=False):
    """float64 (D, G). With crowd, the share of each shape inside each of the others."""
    if not shapes or not others:
        return np.zeros((len(shapes), len(others)))
    if not isinstance(shapes[0], dict):
        shapes, others = np.array(shapes, np.float64), np.array(others, np.float64)
    return np.asarray(rle.iou(shapes, others, [crowd] * len(others)))


def _assign(ious, least):
    """Match detections, in order, with the free object of the highest IoU.

    Returns:
        (int (D,), the object of each detection; int (G,), the detection of each object), or NONE.
    """
    matched, taken = np.full(ious.shape[0], NONE), np.full(ious.shape[1], NONE)
    for detection in np.flatnonzero((ious >= least).any(axis=1)):
        free = np.where(taken == NONE, ious[detection], 0.0)
        best = int(free.argmax())
        if free[best] >= least:
            matched[detection], taken[best] = best, detection
    return matched, taken


def _best(ious):
    """(int (D,), float64 (D,)): the object with the highest IoU, NONE where it is 0, and that IoU."""
    if not ious.shape[1]:
        return np.full(len(ious), NONE), np.zeros(len(ious))
    best = ious.argmax(axis=1)
    values = ious[np.arange(len(ious)), best]
    return np.where(values > 0, best, NONE), values
