"""A quick look at a whole table of COCO results, which numpy takes column by column.

`tables.py` checks entry by entry, so that it can name the first faulty one; half a million entries take it a minute.
Nearly all tables are right and hold plain numbers, texts and lists, as `json.load` and `to_coco` make them. This module
recognises those. It accepts no table that `tables.py` refuses, and says nothing about what it does not accept.
"""

import itertools

import numpy as np

from keras_maskrcnn.geometry import rle

FARTHEST = 1e6  # pixels: coordinates beyond it are of no image
_AT_ONCE = 1_000  # entries


def detections_are_right(detections, sizes, iou_types):
    """Whether each entry of a table of results is plainly right. False means: not known.

    Args:
        detections: what should be a list of COCO results.
        sizes: dict from image id to (height, width), of the images of the ground truth.
        iou_types: what is compared; results with keypoints are never accepted.
    """
    if type(detections) is not list or "keypoints" in iou_types:
        return False
    parts = (detections[start : start + _AT_ONCE] for start in range(0, len(detections), _AT_ONCE))
    return all(_are_right(part, sizes, "segm" in iou_types) for part in parts)


def _are_right(entries, sizes, with_masks):
    if _types(entries) != {dict}:
        return False
    try:
        images, categories, scores, boxes = (
            [entry[name] for entry in entries] for name in ("image_id", "category_id", "score", "bbox")
        )
        codes = [entry["segmentation"] for entry in entries] if with_masks else None
    except KeyError:
        return False
    return (
        _types(images) <= {int, str}
        and set(images) <= sizes.keys()
        and _types(categories) == {int}
        and _are_numbers(categories)
        and _are_numbers(scores)
        and _are_boxes(boxes)
        and (codes is None or _are_codes(codes, [sizes[image] for image in images]))
    )


def _types(values):
    return set(map(type, values))


def _are_numbers(values, least=-np.inf, most=np.inf):
    """Whether all are finite int or float of this range."""
    if not _types(values) <= {int, float}:
        return False
    try:
        values = np.array(values, np.float64)
    except OverflowError:
        return False
    return bool((np.isfinite(values) & (values >= least) & (values <= most)).all())


def _are_boxes(boxes):
    """Whether all are lists [x, y, width, height]."""
    if _types(boxes) != {list} or set(map(len, boxes)) != {4}:
        return False
    corners = itertools.chain.from_iterable(box[:2] for box in boxes)
    sides = itertools.chain.from_iterable(box[2:] for box in boxes)
    return _are_numbers(list(corners), -FARTHEST, FARTHEST) and _are_numbers(list(sides), 0, FARTHEST)


def _are_codes(codes, sizes):
    """Whether all are compressed run lengths of their images' sizes."""
    if _types(codes) != {dict} or not all(code.keys() >= {"size", "counts"} for code in codes):
        return False
    given = [code["size"] for code in codes]
    if not _types(given) <= {list, tuple} or _types(itertools.chain.from_iterable(given)) != {int}:
        return False
    if any(tuple(one) != size for one, size in zip(given, sizes, strict=True)):
        return False
    try:
        totals, _ = rle.totals_and_areas([code["counts"] for code in codes])
    except ValueError:
        return False
    return bool((totals == [height * width for height, width in sizes]).all())
