"""Check COCO's tables before they are counted: ground truth and detections that any tool may have written.

The code that counts is compiled, and gives figures of what it is given: a score that is NaN has a rank, and run lengths
that are too short are read beyond their end. Called by `figures.py`.
"""

import numpy as np

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.evaluation.columns import FARTHEST, detections_are_right
from keras_maskrcnn.geometry import rle

PERSON_KEYPOINTS = 17  # COCO measured a tolerance for each
_MOST_PIXELS = 2**31  # of an image; run lengths count in 32 bits
COMPARED = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # IoU type -> field


def check_tables(ground_truth, detections, iou_types, keypoints=None):
    """Raise an error that names the first entry that cannot be counted.

    Args:
        ground_truth: dict with images, annotations, categories. detections: list of COCO results.
        iou_types: what is compared, keys of `COMPARED`.
        keypoints: how many an object has; None: those of a person.

    Raises:
        ValueError: a table is missing, or an entry lacks a field or has a wrong one.
    """
    unknown = [iou_type for iou_type in iou_types if iou_type not in COMPARED]
    if unknown:
        raise ValueError(
            f'iou_types must be among "bbox", "segm" and "keypoints". Received: {unknown[0]!r}. Leave it out.'
        )
    if not isinstance(ground_truth, dict):
        raise ValueError(
            "ground_truth must be a dictionary with images, annotations and categories. "
            f"Received {fields.shown(ground_truth)}. Read a COCO instances file."
        )
    sizes = _each(ground_truth.get("images"), "ground_truth, images", lambda entry: _image(entry, iou_types))
    _each(ground_truth.get("categories"), "ground_truth, categories", _category)
    sizes, keypoints = dict(sizes), keypoints or PERSON_KEYPOINTS
    _each(
        ground_truth.get("annotations"),
        "ground_truth, annotations",
        lambda entry: _truth(entry, sizes, iou_types, keypoints),
    )
    if not detections_are_right(detections, sizes, iou_types):
        _each(detections, "detections", lambda entry: _detection(entry, sizes, iou_types, keypoints))


def _each(table, name, check):
    """[check(entry)] of a table, with the entry's place in errors; what two entries may not share is theirs alone."""
    if not isinstance(table, (list, tuple)):
        raise ValueError(f"{name} must be a list. Received {fields.shown(table)}. Read a COCO file, and its results.")
    found, seen = [], set()
    for number, entry in enumerate(table):
        try:
            if not isinstance(entry, dict):
                raise FaultyAnnotation(f"it must be a dictionary. Received {fields.shown(entry)}.", "Export it again.")
            made = check(entry)
            if made is not None and made[0] in seen:
                raise FaultyAnnotation(f"ids must be unique. Received {made[0]!r} twice.", "Renumber one of them.")
        except FaultyAnnotation as fault:
            raise ValueError(f"{name}[{number}]: {' '.join(fault.args)}") from None
        if made is not None:
            seen.add(made[0])
            found.append(made)
    return found


def _image(entry, iou_types):
    """(id, (height, width) or None)."""
    size = None
    if "segm" in iou_types or "height" in entry or "width" in entry:
        size = tuple(_number(entry.get(side), f"`{side}`", 1, whole=True) for side in ("height", "width"))
        if size[0] * size[1] > _MOST_PIXELS:
            raise FaultyAnnotation(f"an image has at most 2^31 pixels. Received {size[0]} x {size[1]}.", "Correct it.")
    return _image_id(entry.get("id")), size


def _image_id(value):
    return fields.identifier(int(value) if isinstance(value, np.integer) else value, "the image's id")


def _number(value, name, least=None, most=None, whole=False):
    """`fields.number`, but text is none: the entries are counted as they are."""
    if isinstance(value, str):
        raise FaultyAnnotation(f"{name} must be a number. Received {fields.shown(value)}.", f"Correct {name}.")
    return fields.number(value.item() if isinstance(value, np.generic) else value, name, least, most, whole)


def _is_whole(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _items(value):
    """A list, tuple or array of one axis as a list; None of anything else."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else None


def _category(entry):
    fields.class_name(entry.get("name"), "a category")
    return _number(entry.get("id"), "the category's `id`", whole=True), None


def _truth(entry, sizes, iou_types, keypoints):
    image = _image_id(entry.get("image_id"))
    _common(entry, iou_types, keypoints)
    _number(entry.get("area"), "`area`", 0)
    if entry.get("iscrowd") not in (None, 0, 1):
        raise FaultyAnnotation(f"`iscrowd` must be 0 or 1. Received {fields.shown(entry['iscrowd'])}.", "Correct it.")
    if "segm" in iou_types and image in sizes:
        _truth_mask(entry.get("segmentation"), sizes[image])
    if "keypoints" in iou_types:
        _number(entry.get("num_keypoints"), "`num_keypoints`", 0, keypoints, whole=True)


def _detection(entry, sizes, iou_types, keypoints):
    image = _image_id(entry.get("image_id"))
    if image not in sizes:
        raise FaultyAnnotation(
            "every detection must be of an image that the ground truth lists. "
            f"Received one of image {fields.shown(image)}; the ground truth has {len(sizes)} images.",
            "Are these the detections of another dataset?",
        )
    _common(entry, iou_types, keypoints)
    _number(entry.get("score"), "`score`")
    if "segm" in iou_types:
        _run_lengths(entry["segmentation"], sizes[image], (str, bytes))


def _common(entry, iou_types, keypoints):
    """What annotations and detections have alike."""
    for iou_type in iou_types:
        if COMPARED[iou_type] not in entry:
            raise FaultyAnnotation(
                f'it needs "{COMPARED[iou_type]}" where iou_types has "{iou_type}". '
                f"Received one with the keys {fields.shown(sorted(map(str, entry)))}.",
                f'Leave "{iou_type}" out of iou_types for a model without it.',
            )
    _number(entry.get("category_id"), "`category_id`", whole=True)
    box = entry.get("bbox")
    if box is not None or "bbox" in iou_types:
        numbers = _items(box)
        if numbers is None or len(numbers) != 4:
            raise FaultyAnnotation(
                f"`bbox` must be [x, y, width, height]. Received {fields.shown(box)}.", "Correct `bbox`."
            )
        for value, least in zip(numbers, (-FARTHEST, -FARTHEST, 0, 0)):
            _number(value, "each number of `bbox`", least, FARTHEST)
    if "keypoints" in iou_types:
        _keypoints(entry["keypoints"], keypoints)


def _keypoints(points, wanted):
    numbers = _items(points)
    if numbers is None or len(numbers) != 3 * wanted:
        received = fields.shown(points) if numbers is None else f"{len(numbers)} numbers"
        raise FaultyAnnotation(
            f"`keypoints` must be [x, y, visibility] for each of {wanted} keypoints: COCO has tolerances for those of "
            f"a person. Received {received}.",
            'For other objects give keypoint_sigmas, or leave "keypoints" out of iou_types.',
        )
    for value in numbers:
        _number(value, "each number of `keypoints`", -FARTHEST, FARTHEST)


def _truth_mask(segmentation, size):
    """Run lengths of the image's size, or polygons that can be drawn; they may be thin or lie outside."""
    if isinstance(segmentation, dict):
        _run_lengths(segmentation, size, (str, bytes, list))
        return
    parts = segmentation if isinstance(segmentation, list) else []
    if not parts or not all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in parts):
        raise FaultyAnnotation(
            "`segmentation` must be run lengths or a list of polygons [[x1, y1, x2, y2, ...], ...]. "
            f"Received {fields.shown(segmentation)}.",
            "CocoDataset reads other brackets; its `to_coco` gives these.",
        )
    for part in parts:
        for value in part:
            _number(value, "each coordinate", -FARTHEST, FARTHEST)


def _run_lengths(code, size, kinds):
    """A code of run lengths of an image of this size; `counts` is of one of these types."""
    given = code.get("size") if isinstance(code, dict) else None
    right = isinstance(given, (list, tuple)) and tuple(given) == size and all(_is_whole(side) for side in given)
    if not right or not isinstance(code.get("counts"), kinds):
        raise FaultyAnnotation(
            f"its mask must be run lengths of its image's size, {list(size)} (height, width), "
            f"{'compressed' if list not in kinds else 'as text or a list'}. Received {fields.shown(code)}.",
            "Encode it with pycocotools at the size of the image.",
        )
    try:
        total = int(rle.parse_counts(code["counts"]).sum())
    except ValueError as error:
        raise FaultyAnnotation("its run lengths cannot be read.", str(error)) from None
    if total != size[0] * size[1]:
        raise FaultyAnnotation(
            f"its run lengths must sum to {size[0]} x {size[1]}. Received a sum of {total}.",
            "Encode it at the size of the image.",
        )
