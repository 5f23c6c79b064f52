"""COCO's `segmentation` as a mask: polygons or run lengths, in the forms in which tools write them.

The format is a list of polygons [[x1, y1, x2, y2, ...], ...], or run lengths {"size": [height, width], "counts": ...}.
Other brackets are read where they can only mean one thing, with a note. Called by `coco.py`.
"""

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.outlines import polygon_mask, run_lengths_mask, union
from keras_maskrcnn.geometry import rle

_DEPTH = 8  # brackets inside each other
_FORMAT = "`segmentation` must be a list of polygons [[x1, y1, x2, y2, ...], ...], or run lengths"


def read_segmentation(segmentation, height, width, note):
    """The mask of an annotation.

    Args:
        segmentation: what the file holds.
        height, width: int, image pixels.
        note: function called with sentences for `fields.Notes.add`.

    Returns:
        (Polygons or RunLengths, box float32 [x1, y1, x2, y2]).

    Raises:
        FaultyAnnotation: it is missing, empty, damaged or of another size, or may mean several things.
    """
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if segmentation is None or segmentation in ([], "", [[]]):
        raise FaultyAnnotation(
            f"it has no segmentation. Mask R-CNN trains on masks; a box is not enough. Received {segmentation!r}.",
            "Outline the object, or remove the annotation.",
        )
    if not isinstance(segmentation, list):
        raise FaultyAnnotation(
            f"{_FORMAT}. Received {fields.shown(segmentation)}.", "Export the annotations again, as COCO JSON."
        )
    if all(isinstance(part, dict) for part in segmentation):
        note("`segmentation` is a list of run lengths; their union was read")
        return union([_run_lengths(part, height, width)[0] for part in segmentation], height, width)
    return polygon_mask(polygon_parts(segmentation, note), height, width, note=note)


def polygon_parts(segmentation, note):
    """The polygons of a list with any brackets: a list of flat lists or of lists of [x, y].

    Args:
        segmentation: list, not empty. note: as for `read_segmentation`.

    Raises:
        FaultyAnnotation: the brackets may mean several things.
    """
    if all(isinstance(part, list) and len(part) > 2 and not isinstance(part[0], list) for part in segmentation):
        return segmentation
    if _is_flat(segmentation):
        note(f"{_FORMAT}; a flat list of numbers was read as one polygon")
        return [segmentation]
    if _are_points(segmentation):
        note(f"{_FORMAT}; a list of points [x, y] was read as one polygon")
        return [segmentation]
    parts = _inner_parts(segmentation, note)
    if not parts:
        raise FaultyAnnotation(
            f"it has no segmentation. Received {fields.shown(segmentation)}, without numbers.",
            "Outline the object, or remove the annotation.",
        )
    return parts


def _inner_parts(value, note, depth=0):
    """The polygons in a list of lists, whatever its brackets. Empty lists are left out."""
    mixed = [entry for entry in value if not isinstance(entry, list)]
    if mixed or depth > _DEPTH:
        raise FaultyAnnotation(
            f"{_FORMAT}. Received numbers and lists side by side, or too many brackets: {fields.shown(value)}.",
            "Put brackets around the numbers of each polygon, and a pair around all of them.",
        )
    parts = []
    for entry in value:
        if not entry:
            note("left out empty lists in `segmentation`")
        elif _is_flat(entry):
            parts.append(entry)
        elif _are_points(entry):
            note(f"{_FORMAT}; lists of points [x, y] were read as polygons")
            parts.append(entry)
        else:
            note(f"{_FORMAT}; superfluous brackets were left out")
            parts += _inner_parts(entry, note, depth + 1)
    return parts


def _is_flat(value):
    return not any(isinstance(entry, (list, dict)) for entry in value)


def _are_points(value):
    return all(isinstance(entry, list) and len(entry) == 2 and _is_flat(entry) for entry in value)


def _run_lengths(segmentation, height, width):
    size = segmentation.get("size")
    if size != [height, width]:
        swapped = "The sides are swapped: `size` is [height, width]. " if size == [width, height] else ""
        raise FaultyAnnotation(
            f"its mask must have the size of its image, {[height, width]}. Received {fields.shown(size)}.",
            f"{swapped}Encode the mask at the size of the image.",
        )
    counts = segmentation.get("counts")
    if not isinstance(counts, (list, str)) or not counts:
        raise FaultyAnnotation(
            f"its run lengths need `counts`, a list of numbers or the text of pycocotools' `encode`. Received "
            f"{fields.shown(counts)}.",
            "Export the mask again.",
        )
    try:
        runs = rle.parse_counts(counts)
    except ValueError as error:
        raise FaultyAnnotation("its run lengths cannot be read.", str(error)) from None
    if runs.sum() != height * width:
        raise FaultyAnnotation(
            f"its run lengths must sum to {height} x {width}. Received a sum of {runs.sum()}.",
            "Encode the mask at the size of the image.",
        )
    return run_lengths_mask(runs, height)
