"""What came out of a door: accepted, clear, unclear or wrong.

Clear is an error of the package's own: `ValueError` or a class of it, raised by the package and not by a library below,
which says what was received and where. Wrong is an accepted input whose values break a rule that every dataset, image
or figure keeps, or that differ from what another implementation reads.
"""

import json
import math
import pathlib
import re
import traceback

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

OUTCOMES = ("accepted", "clear", "unclear", "hang", "crash", "memory", "wrong")
_PACKAGE = "keras_maskrcnn"
_HERE = str(pathlib.Path(__file__).parent)
# Texts of Python and its libraries, which explain nothing about a file.
_RAW = re.compile(
    r"could not convert|invalid literal|object is not |has no attribute|out of (range|bounds)|unsupported operand|"
    r"unhashable|cannot reshape|inhomogeneous|not subscriptable|to unpack|must be real number|setting an array|"
    r"cannot convert float|not supported between|Traceback|unexpected keyword|positional argument"
)
_SAID = re.compile(r"[Rr]eceived|Found: |Looked |does not exist|There is |do not fit this model")


class Wrong(Exception):
    """An input was accepted, and what came of it breaks a rule."""


def need(good, text):
    """Raise Wrong unless `good`."""
    if not good:
        raise Wrong(text)


# Errors ---------------------------------------------------------------------------------------------------------


def outcome_of(error, mentions):
    """(outcome, reason) of an exception that a door raised.

    Args:
        error: the exception.
        mentions: texts of which a clear message holds one, such as the names of the files; () accepts any.
    """
    if isinstance(error, Wrong):
        return "wrong", str(error)
    if isinstance(error, SystemExit):  # argparse, whose message the door checks
        return ("clear", "") if error.code == 2 else ("unclear", f"exit status {error.code}")
    if not isinstance(error, (ValueError, FileNotFoundError, ImportError)) or _is_foreign(error):
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"
    return clear_text(str(error), mentions)


def clear_text(text, mentions):
    """(outcome, reason) of a message: "clear", or "unclear" with what it lacks."""
    if not _SAID.search(text):
        return "unclear", f"says nothing about what was received: {text[:300]}"
    for line in text.split("\n"):
        if _RAW.search(line) and not _SAID.search(line[: _RAW.search(line).start()]):
            return "unclear", f"a library's text: {line[:300]}"
    if mentions and not any(each and each in text for each in mentions):
        return "unclear", f"names no file: {text[:300]}"
    return "clear", ""


def _is_foreign(error):
    """Whether a library raised it, or a class of one: of our errors the innermost frame is the package's."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and (_PACKAGE in frames[-1].filename)
    own = type(error) in (ValueError, FileNotFoundError, ImportError) or type(error).__module__.startswith(_PACKAGE)
    return not (inside and own)


def place_of(error):
    """The innermost line of the package on the way to an exception: "file.py:12 function"."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if _PACKAGE in f.filename and _HERE not in f.filename
    ]
    if not frames:
        return "outside the package"
    last = frames[-1]
    return f"{last.filename.rsplit(_PACKAGE + '/', 1)[-1]}:{last.lineno} {last.name}"


# Datasets -------------------------------------------------------------------------------------------------------


def check_dataset(dataset):
    """The rules that every dataset keeps. Raises Wrong."""
    names = dataset.class_names
    need(names and len(set(names)) == len(names), f"class names {names}")
    for name in names:
        need(isinstance(name, str) and name.strip() and len(name.splitlines()) == 1, f"class name {name!r}")
    need(len(dataset.category_ids) == len(names), f"{len(dataset.category_ids)} ids for {len(names)} classes")
    need(len(set(map(str, dataset.category_ids))) == len(names), f"category ids {dataset.category_ids}")
    need(len({str(key) for key in dataset.image_ids}) == len(dataset), "image ids are not unique")
    for record in dataset.records:
        _check_record(record, len(names))
    need(dataset.max_instances == max(len(r.instances) for r in dataset.records), "max_instances")


def _check_record(record, num_classes):
    height, width = record.height, record.width
    need(type(height) is int and type(width) is int and min(height, width) > 0, f"size {height!r} x {width!r}")
    for instance in record.instances:
        where = f"object {instance.annotation_id!r}"
        need(isinstance(instance.label, (int, np.integer)) and 0 <= instance.label < num_classes, f"label of {where}")
        x1, y1, x2, y2 = (float(value) for value in instance.box)
        need(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height, f"box {instance.box} of {where}, {height} x {width}")
        area = instance.area
        need(area is None or math.isfinite(area) and area > 0, f"area {area!r} of {where}")
        need(isinstance(instance.crowd, (bool, np.bool_)), f"crowd {instance.crowd!r} of {where}")
        _check_mask(instance, height, width, where)


def _check_mask(instance, height, width, where):
    window = instance.mask.window(height, width)
    rows, columns = window.pixels.shape
    inside = window.x >= 0 and window.y >= 0 and window.y + rows <= height and window.x + columns <= width
    need(inside, f"mask of {where} leaves the image")
    found = np.argwhere(window.pixels)
    if not len(found):
        return  # very thin polygons
    (top, left), (bottom, right) = found.min(0) + (window.y, window.x), found.max(0) + (window.y + 1, window.x + 1)
    x1, y1, x2, y2 = instance.box
    fits = left >= x1 - 1.01 and top >= y1 - 1.01 and right <= x2 + 1.01 and bottom <= y2 + 1.01
    need(fits, f"mask of {where} leaves its box {instance.box}: {left, top, right, bottom}")


def full_masks(record):
    """bool (H, W) of each object of a record."""
    found = []
    for instance in record.instances:
        window = instance.mask.window(record.height, record.width)
        mask = np.zeros((record.height, record.width), bool)
        rows, columns = window.pixels.shape
        mask[window.y : window.y + rows, window.x : window.x + columns] = window.pixels
        found.append(mask)
    return found


def check_same(first, second):
    """Two datasets hold the same objects: classes, sizes, labels and pixels, in the same order. Raises Wrong."""
    need(first.class_names == second.class_names, f"classes {first.class_names} and {second.class_names}")
    need(first.image_sizes == second.image_sizes, f"sizes {first.image_sizes} and {second.image_sizes}")
    for one, two in zip(first.records, second.records, strict=True):
        labels = [[(i.label, i.crowd) for i in record.instances] for record in (one, two)]
        need(labels[0] == labels[1], f"labels {labels[0]} and {labels[1]} of image {one.image_id}")
        for a, b in zip(full_masks(one), full_masks(two), strict=True):
            need((a == b).all(), f"{(a != b).sum()} pixels of a mask of image {one.image_id} differ")


def check_coco(dataset, path):
    """The masks of a dataset are those that pycocotools makes of the JSON's segmentations. Raises Wrong."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return
    given = {}
    for entry in content["annotations"] if isinstance(content["annotations"], list) else ():
        if isinstance(entry, dict):
            given.setdefault(str(entry.get("id")), []).append(entry)
    for record in dataset.records:
        for instance, mask in zip(record.instances, full_masks(record)):
            entries = given.get(str(instance.annotation_id), [])
            expected = _by_pycocotools(entries[0], record.height, record.width) if len(entries) == 1 else None
            if expected is not None:
                different = int((expected != mask).sum())
                need(different == 0, f"{different} pixels of annotation {instance.annotation_id} are not pycocotools'")
                need(
                    bool(float(entries[0].get("iscrowd") or 0)) == instance.crowd, f"crowd of {instance.annotation_id}"
                )


def _by_pycocotools(entry, height, width):
    """bool (height, width), or None where the segmentation is none that pycocotools is safe to read."""
    shape = entry.get("segmentation")
    if isinstance(shape, dict):
        runs, size = shape.get("counts"), shape.get("size")
        if size != [height, width] or not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
            return None
        if sum(runs) != height * width:
            return None
        return coco_mask.decode(coco_mask.frPyObjects(shape, height, width)).astype(bool)
    plain = (
        isinstance(shape, list)
        and shape
        and all(
            isinstance(part, list)
            and len(part) >= 6
            and len(part) % 2 == 0
            and all(type(v) in (int, float) and -3 * side <= v <= 3 * side for v in part)
            for side in [max(height, width)]
            for part in shape
        )
    )
    if not plain or any(len({tuple(part[k : k + 2]) for k in range(0, len(part), 2)}) < 3 for part in shape):
        return None
    codes = coco_mask.frPyObjects(shape, height, width)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


# Images ---------------------------------------------------------------------------------------------------------


def check_image(pixels, size, source=None):
    """An image that was read has the size of its header, and Pillow's pixels where these are plain. Raises Wrong."""
    need(isinstance(pixels, np.ndarray) and pixels.ndim == 3, f"{type(pixels)} {getattr(pixels, 'shape', '')}")
    need(pixels.dtype == np.uint8 and pixels.shape[2] == 3, f"{pixels.shape} {pixels.dtype}")
    need(size is None or pixels.shape[:2] == tuple(size), f"{pixels.shape}, and {size} by the header")
    expected = None if source is None else _by_pillow(source)
    if expected is not None:
        need(expected.shape == pixels.shape, f"{pixels.shape}, and {expected.shape} by Pillow")
        different = int((expected != pixels).sum())
        need(different == 0, f"{different} values are not Pillow's")


def _by_pillow(source):
    try:
        with Image.open(source) as image:
            plain = image.mode in ("L", "RGB") and not image.getexif() and "transparency" not in image.info
            if not plain or getattr(image, "n_frames", 1) != 1 or image.format == "TIFF":
                return None
            return np.asarray(image.convert("RGB"))
    except Exception:  # the judge's second opinion: whatever Pillow says of a damaged file, there is none then
        return None
