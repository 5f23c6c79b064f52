"""Checks of the objects in one image, in addition to the checks of the readers.

In: a Record. Out: a list of Finding. All coordinates are image pixels.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.data.coco_output import is_file
from keras_maskrcnn.data.records import Polygons

ERROR, WARNING, NOTE = "error", "warning", "note"
TWICE_IOU = 0.9  # IoU above which two masks count as one object annotated twice
_BOX_IOU = 0.5  # IoU below which a stated box does not belong to its mask
_AREA_RATIO = 2  # between a stated area and the mask's, besides what the border's pixels explain
_BEYOND = 1.5  # pixels: annotation tools let outlines exceed the image by this much


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that the user should know.

    Args:
        severity: "error" (left out of training, or stops it), "warning" (probably a mistake) or "note".
        kind: str, short; findings of the same kind are shown together.
        where: str, the file and annotation.
        message: str, the problem and the remedy.
        image: position of the image in the dataset, or None.
    """

    severity: str
    kind: str
    where: str
    message: str
    image: int | None = None


def examine_objects(record, position, names):
    """Check the objects of one image.

    Args:
        record: Record.
        position: int, position of the image in its dataset.
        names: class names by label.

    Returns:
        (list of Finding, areas: int (n,), pixels of each mask).
    """
    size = (record.height, record.width)
    windows = [instance.mask.window(*size) for instance in record.instances]
    areas = np.array([int(window.pixels.sum()) for window in windows], np.int64)
    findings = []
    for instance, area in zip(record.instances, areas, strict=True):
        where = f"annotation {instance.annotation_id} of {name_of(record)}"
        found = [] if area else [_no_pixel(instance)]
        if isinstance(instance.mask, Polygons):
            found += _outline_findings(instance.mask, size)
        found += _box_findings(instance)
        found = found or _area_findings(instance, area)  # an outline that is in doubt already explains its area
        findings += [Finding(severity, kind, where, message, position) for severity, kind, message in found]
    for first, second, overlap in _twice(record.instances, windows, areas):
        a, b = record.instances[first], record.instances[second]
        where = f"annotations {a.annotation_id} and {b.annotation_id} of {name_of(record)}"
        if a.label == b.label:
            kind, message = "annotated twice", f"both are {names[a.label]!r} and share {overlap:.0%}. Remove one."
        else:
            kind = "one object, two classes"
            message = (
                f"they are {names[a.label]!r} and {names[b.label]!r} and share {overlap:.0%}. Keep the correct one."
            )
        findings.append(Finding(WARNING, kind, where, message, position))
    return findings, areas


def doubtful_objects(records):
    """Objects for which `examine_objects` may find something, by their boxes: int, rows of a RecordTable.

    Those with outlines that leave the image, stated boxes that do not fit, stated areas far above the box's, boxes
    thinner than a pixel, and boxes that another object of the image has, too. What only masks show is not found.
    """
    boxes, positions, columns = records.boxes.astype(float), records.positions, records.columns
    wide, high = _sides(boxes)
    doubtful = np.minimum(wide, high) < 1
    height, width = columns["size"][positions].T
    x1, y1, x2, y2 = records.outline_corners().T
    doubtful |= (np.minimum(x1, y1) < -_BEYOND) | (x2 > width + _BEYOND) | (y2 > height + _BEYOND)  # false of NaN
    if len(columns["stated_box"]):
        x, y, w, h = columns["stated_box"].T
        doubtful |= _paired_iou(np.stack([x, y, x + w, y + h], axis=1), boxes) < _BOX_IOU
    if len(columns["area"]):
        doubtful |= columns["area"] > _AREA_RATIO * (wide * high) + (wide + high)
    doubtful[_repeated(boxes, positions)] = True
    return np.flatnonzero(doubtful)


def _repeated(boxes, positions):
    """Rows whose box another row of the same image has, too, without the first of each such group: int.

    Args:
        boxes: float (n, 4). positions: int (n,), rising.
    """
    key = boxes @ (1.0, 2**0.5, 3**0.5, 5**0.5)  # equal boxes have equal keys, and few others have
    order = np.argsort(key, kind="stable")
    near = (key[order[1:]] == key[order[:-1]]) & (positions[order[1:]] == positions[order[:-1]])
    rows = np.union1d(order[1:][near], order[:-1][near])
    boxes, positions = boxes[rows], positions[rows]
    order = np.lexsort((*boxes.T, positions))
    twice = (boxes[order[1:]] == boxes[order[:-1]]).all(axis=1) & (positions[order[1:]] == positions[order[:-1]])
    return rows[order[1:][twice]]


def _sides(boxes):
    """(widths, heights) of boxes, float (n, [x1, y1, x2, y2])."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def _paired_iou(first, second):
    """IoU of the boxes in each row. float (n, [x1, y1, x2, y2]) twice -> (n,); NaN spreads."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = np.maximum(high[:, 0] - low[:, 0], 0) * np.maximum(high[:, 1] - low[:, 1], 0)
    areas = [wide * high for wide, high in map(_sides, (first, second))]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def name_of(record):
    """Name of an image in messages."""
    return str(record.source) if is_file(record) else f"image {record.image_id}"


def crosses_itself(points):
    """The first crossing of two non-adjacent sides of a polygon, or None.

    Sides that only touch or overlap do not count: tools write such outlines for shapes with holes.

    Args:
        points: float (k, [x, y]).

    Returns:
        (i, j): numbers of the two sides; side i starts at point i.
    """
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]  # a repeated point is not a side
    if len(points) < 4:
        return None
    begin, end = points, np.roll(points, -1, axis=0)
    i, j = _sides_that_may_meet(np.minimum(begin, end), np.maximum(begin, end))
    apart = (side(begin[i], end[i], begin[j]) * side(begin[i], end[i], end[j]) < 0) & (
        side(begin[j], end[j], begin[i]) * side(begin[j], end[j], end[i]) < 0
    )
    return min(zip(i[apart].tolist(), j[apart].tolist(), strict=True), default=None)


def _sides_that_may_meet(low, high):
    """Pairs i < j of sides whose bounding boxes overlap. Sorts by x first, to be fast for thousands of points.

    Args:
        low, high: float (k, [x, y]), corners of the bounding box of each side.
    """
    order = np.argsort(low[:, 0], kind="stable")
    later = np.searchsorted(low[order, 0], high[order, 0]) - np.arange(len(order)) - 1
    later = np.maximum(later, 0)  # sides that start, in x, before this one ends
    first = np.repeat(np.arange(len(order)), later)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    i, j = order[first], order[second]
    near = (low[i, 1] < high[j, 1]) & (low[j, 1] < high[i, 1])
    return np.minimum(i, j)[near], np.maximum(i, j)[near]


def side(begin, end, point):
    """Signed area: its sign tells on which side of the line from `begin` to `end` a point is. float (n,)."""
    return np.sign(
        (end[:, 0] - begin[:, 0]) * (point[:, 1] - begin[:, 1])
        - (end[:, 1] - begin[:, 1]) * (point[:, 0] - begin[:, 0])
    )


def box_areas(record):
    """Pixels of the objects' boxes: int (n,). Instead of the areas of masks that cannot be made."""
    boxes = np.array([instance.box for instance in record.instances], float).reshape(-1, 4)
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.int64)


def _no_pixel(instance):
    x1, y1, x2, y2 = instance.box.tolist()
    message = f"no pixel is inside its outline of {x2 - x1:.2f} x {y2 - y1:.2f} pixels. Outline it again or remove it."
    return ERROR, "zero area", message


def _outline_findings(mask, size):
    """(severity, kind, message) of an outline that leaves the image or crosses itself."""
    found = []
    points = np.concatenate(mask.parts)
    beyond = max(*(-points.min(0)), *(points.max(0) - size[::-1]))
    if beyond > _BEYOND:
        text = f"it exceeds the image of {size[0]} x {size[1]} (height x width) by {beyond:.1f} pixels "
        found.append(
            (WARNING, "partly outside the image", f"{text}and is cut off there. Check that it belongs to this image.")
        )
    for part in mask.parts:
        crossing = crosses_itself(part)
        if crossing is not None:
            x, y = part[crossing[0]]
            text = f"its outline crosses itself: sides {crossing[0]} and {crossing[1]} of {len(part)}, near "
            found.append((WARNING, "outline crosses itself", f"{text}({x:.0f}, {y:.0f}). Draw it again."))
            break
    return found + _nested_findings(mask.parts)


def _nested_findings(parts):
    """Finding about a part inside another part, which tools write for a hole."""
    if len(parts) < 2:
        return []
    low, high = (np.array([edge(part, axis=0) for part in parts]) for edge in (np.min, np.max))
    inside = (low[:, None] >= low[None]).all(-1) & (high[:, None] <= high[None]).all(-1)
    for inner, outer in zip(*np.nonzero(inside & ~np.eye(len(parts), dtype=bool)), strict=True):
        if points_inside(parts[inner], parts[outer]).all():
            message = (
                f"its part {inner + 1} of {len(parts)} lies inside part {outer + 1}, where it changes nothing. "
                "Polygons in COCO's format have no holes: store a mask with a hole as run lengths, or remove the part."
            )
            return [(WARNING, "part inside a part", message)]
    return []


def points_inside(points, polygon):
    """Whether points are inside a polygon, by the number of its sides that a line from each point to the left crosses.

    Args:
        points: float (n, [x, y]). polygon: float (k, [x, y]).

    Returns:
        bool (n,).
    """
    begin, end = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[:, None, 0], points[:, None, 1]
    spans = (begin[:, 1] <= y) != (end[:, 1] <= y)
    with np.errstate(divide="ignore", invalid="ignore"):  # level sides span nothing
        at = begin[:, 0] + (y - begin[:, 1]) / (end[:, 1] - begin[:, 1]) * (end[:, 0] - begin[:, 0])
    return (spans & (at < x)).sum(axis=1) % 2 == 1


def _box_findings(instance):
    """Finding about a stated box that does not fit its mask, or None."""
    if instance.stated_box is None:
        return []
    x, y, width, height = instance.stated_box
    overlap = box_iou(np.array([[x, y, x + width, y + height]]), instance.box[None].astype(float))[0, 0]
    if overlap >= _BOX_IOU:
        return []
    given = [round(value, 1) for value in instance.stated_box]
    message = f"`bbox` {given} and its mask's box {instance.box.tolist()} [x1, y1, x2, y2] share {overlap:.0%}. "
    return [(WARNING, "bbox does not fit the mask", f"{message}Training uses the mask. Check both.")]


def _area_findings(instance, pixels):
    """Finding about a stated area that is far from the mask's: COCO's figures by size depend on it."""
    if instance.area is None:
        return []
    x1, y1, x2, y2 = instance.box.tolist()
    border = x2 - x1 + y2 - y1  # outline and pixels differ by about half a pixel along the border
    if pixels / _AREA_RATIO - border <= instance.area <= pixels * _AREA_RATIO + border:
        return []
    message = (
        f"`area` is {instance.area:g}, its mask has {pixels} pixels. COCO's figures for small, medium and large "
        "objects use `area`. Correct it, or leave it out: then the mask's is used."
    )
    return [(WARNING, "area does not fit the mask", message)]


def box_iou(first, second):
    """IoU of boxes with boxes. float (n, [x1, y1, x2, y2]) and (m, 4) -> (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def _twice(instances, windows, areas):
    """(i, j, IoU) of objects with nearly identical masks; crowd regions do not count."""
    if len(instances) < 2:
        return []
    boxes = np.stack([instance.box for instance in instances]).astype(float)
    i, j = np.nonzero(np.triu(box_iou(boxes, boxes) > TWICE_IOU * 0.9, 1))
    pairs = [(int(a), int(b)) for a, b in zip(i, j, strict=True) if not (instances[a].crowd or instances[b].crowd)]
    found = [(a, b, _mask_iou(windows[a], windows[b], areas[a] + areas[b])) for a, b in pairs]
    return [entry for entry in found if entry[2] > TWICE_IOU]


def _mask_iou(first, second, total):
    x, y = max(first.x, second.x), max(first.y, second.y)
    parts = [window.pixels[max(y - window.y, 0) :, max(x - window.x, 0) :] for window in (first, second)]
    rows, columns = (min(part.shape[axis] for part in parts) for axis in (0, 1))
    shared = int((parts[0][:rows, :columns] & parts[1][:rows, :columns]).sum())
    return shared / max(total - shared, 1)
