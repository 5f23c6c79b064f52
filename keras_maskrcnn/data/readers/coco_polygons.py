"""COCO annotations as nearly all are, in columns: numbers as ids, polygons of plain numbers, a box and an area.

In: the entries of `annotations`, some thousand at a time. Out: columns, and the numbers of all other entries, which
`coco.py` reads one at a time, with its notes and faults. An annotation is ordinary if what it gives is the same either
way. The rules are those of `coco.py`, `segmentations.py` and `outlines.py`; here they are tests on whole columns. What
`geometry/native/annotations.c` makes a row is ordinary by the rules of `_take`.
"""

import array
import json
import math

import numpy as np

from keras_maskrcnn.data.limits import OUTLINE_POINTS
from keras_maskrcnn.data.readers.coco_text import Scanned
from keras_maskrcnn.data.record_table import extents
from keras_maskrcnn.geometry import polygons

# Of an annotation; what else it holds becomes `Instance.attributes`.
FIELDS = frozenset(("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"))
_EXACT = 2**53  # whole numbers below it are exact as float64
_KEYS = 2**62
_NO_BOX = [math.nan] * 4
_COLUMNS = {
    "number": "q",  # position in the file
    "annotation_id": "q",
    "image_id": "q",
    "category_id": "q",
    "crowd": "B",
    "area": "d",
    "stated_box": "d",
    "attributes": "q",
    "mask_first": "q",
    "mask_size": "q",
    "corners": "d",
    "doubtful": "B",  # whether the outline needs the checks of `outlines.py`
}


class OrdinaryAnnotations:
    """Columns of ordinary annotations, which grow in place.

    Args:
        builder: TableBuilder, given coordinates and attributes.

    Attributes:
        count: int, all entries so far.
    """

    def __init__(self, builder):
        self._builder = builder
        self._columns = {name: array.array(code) for name, code in _COLUMNS.items()}
        self._category_ids = {}
        self._other_ids = []
        self.count = 0

    @property
    def category_ids(self):
        """The different category ids of all entries, as they are written: a list."""
        return list(self._category_ids)

    def add(self, entries):
        """Add the next entries of the file: a list, or Scanned."""
        row, part = len(self._columns["number"]), len(self._builder.columns["part_first"]) - 1
        if isinstance(entries, Scanned):
            self._add_scanned(entries)
            numbered = entries.others
        else:
            numbered = enumerate(entries)
        for number, entry in numbered:
            if type(entry) is not dict:
                continue
            category = entry.get("category_id")
            if isinstance(category, (int, float, str)):
                self._category_ids.setdefault(category)
            if not self._take(self.count + number, entry):
                self._other_ids.append(_canonical(entry.get("id")))
        self.count += len(entries)
        if len(self._columns["number"]) > row:
            self._measure(row, part)

    def columns(self):
        """Dict of arrays by the names of `_COLUMNS`; four values are a row. Nothing can be added afterwards."""
        found = {name: np.frombuffer(self._columns.pop(name), np.dtype(code)) for name, code in _COLUMNS.items()}
        return found | {name: found[name].reshape(-1, 4) for name in ("stated_box", "corners")}

    def ids_may_recur(self, columns):
        """Whether an id may be there twice, among all entries. `columns`: as from `columns`."""
        others = [key for key in self._other_ids if key is not None]
        numbers = [key for key in others if type(key) is int]
        keys = np.append(columns["annotation_id"], np.array(numbers, np.int64))
        keys.sort()  # np.unique takes five times as long
        return len(set(others)) < len(others) or bool((keys[1:] == keys[:-1]).any())

    def _add_scanned(self, scanned):
        """Add the rows of a Scanned, all of which are ordinary."""
        columns, builder = self._columns, self._builder.columns
        rows, (area, box) = scanned.rows, (scanned.floats[:, 0], scanned.floats[:, 1:])
        key, image, category, crowd, counts, position = rows.T
        self._category_ids |= dict.fromkeys(np.unique(category).tolist())
        part, begin = len(builder["part_first"]) - 1, len(builder["coordinates"])
        builder["coordinates"].frombytes(scanned.coordinates.tobytes())
        builder["part_first"].frombytes((begin + np.cumsum(scanned.sizes)).tobytes())
        found = {
            "number": self.count + position,
            "annotation_id": key,
            "image_id": image,
            "category_id": category,
            "crowd": crowd.astype(np.uint8),
            "area": area,
            "stated_box": box,
            "attributes": np.full(len(rows), -1),
            "mask_first": part + np.cumsum(counts) - counts,
            "mask_size": counts,
        }
        for name, values in found.items():
            columns[name].frombytes(values.tobytes())

    def _take(self, number, entry):
        """Add an entry if it is ordinary. Returns whether it is."""
        get, columns, builder = entry.get, self._columns, self._builder.columns
        key, image, category, parts = get("id"), get("image_id"), get("category_id"), get("segmentation")
        if not (type(key) is type(image) is type(category) is int) or max(abs(key), abs(image), abs(category)) > _KEYS:
            return False
        crowd, area, box = get("iscrowd"), _area(get("area")), get("bbox")
        box = _NO_BOX if box is None else box
        plain_crowd = crowd is None or type(crowd) is int and 0 <= crowd <= 1
        if not plain_crowd or area is None or not _is_box(box) or not _are_outlines(parts):
            return False
        attributes = -1
        if not entry.keys() <= FIELDS:
            text = _attributes(entry)
            if text is None:
                return False
            attributes = self._builder.add_text(text)
        coordinates, first = builder["coordinates"], builder["part_first"]
        begin, count = len(coordinates), len(columns["stated_box"])
        try:
            for part in parts:
                coordinates.fromlist(part)
            columns["stated_box"].fromlist(box)
        except (TypeError, OverflowError):
            del coordinates[begin:], columns["stated_box"][count:]
            return False
        columns["number"].append(number)
        columns["annotation_id"].append(key)
        columns["image_id"].append(image)
        columns["category_id"].append(category)
        columns["crowd"].append(crowd or 0)
        columns["area"].append(area)
        columns["attributes"].append(attributes)
        columns["mask_first"].append(len(first) - 1)
        columns["mask_size"].append(len(parts))
        for part in parts:
            begin += len(part)
            first.append(begin)
        return True

    def _measure(self, row, part):
        """Fill in `corners` and `doubtful` of the rows and parts from these on."""
        counts = np.array(self._columns["mask_size"][row:])
        ends = np.array(self._builder.columns["part_first"][part:])
        coordinates = np.array(self._builder.columns["coordinates"][ends[0] :])
        ends -= ends[0]
        first = np.cumsum(counts) - counts
        corners = extents(coordinates, ends[first], ends[first + counts])
        longest = np.maximum(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        points = np.maximum.reduceat(np.diff(ends), first) // 2
        with np.errstate(invalid="ignore"):
            near = (np.abs(corners) <= polygons.FARTHEST).all(axis=1)  # false of NaN, too
            short = points * (polygons.SCALE * longest + 1) <= polygons.MOST_STEPS
        doubtful = ~(near & short)
        several = np.flatnonzero(counts > 1)
        if len(several):
            chosen = np.repeat(counts > 1, counts)
            lines = are_lines(coordinates, ends[:-1][chosen], ends[1:][chosen])
            starts = np.cumsum(counts[several]) - counts[several]
            doubtful[several] |= np.logical_or.reduceat(lines, starts)
        self._columns["corners"].frombytes(corners.tobytes())
        self._columns["doubtful"].frombytes(doubtful.tobytes())


def are_lines(coordinates, begin, end):
    """Whether all points of an outline lie on a line, for several: as `outlines._is_line`, to the bit.

    Args:
        coordinates: float64, x and y in turns. begin, end: int (n,), of each outline in them.

    Returns:
        bool (n,).
    """
    sizes = (end - begin) // 2
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(sizes)), sizes)
    points = coordinates.reshape(-1, 2)[np.repeat(begin // 2 - starts, sizes) + np.arange(len(owner))]
    with np.errstate(invalid="ignore", over="ignore"):
        offsets = points - points[starts][owner]
        distance = np.abs(offsets).sum(axis=1)
        at = np.flatnonzero(distance == np.maximum.reduceat(distance, starts)[owner])
        farthest = np.zeros(len(sizes), np.int64)
        farthest[owner[at][::-1]] = at[::-1]  # the first of equals
        to = offsets[farthest][owner]
        return ~np.logical_or.reduceat(offsets[:, 0] * to[:, 1] != offsets[:, 1] * to[:, 0], starts)


def rows_in_images(columns, image_keys, sizes, labels):
    """The rows of ordinary annotations that lie in their image and have a known category.

    Args:
        columns: dict, as from `OrdinaryAnnotations.columns`.
        image_keys: dict from image id to the image's position, or to None if it has a fault.
        sizes: int (images, [height, width]).
        labels: dict from category id to label.

    Returns:
        (good: bool (n,), lost: bool (n,), their image has a fault; dict of `position`, `label`, `box` (n, 4), without
        meaning in rows that are not good).
    """
    position = _looked_up(columns["image_id"], image_keys)
    label = _looked_up(columns["category_id"], labels)
    lost = position == _LOST
    size = np.vstack([sizes, [[1, 1]]])[np.maximum(position, -1)]  # -1: the last row
    height, width = size.T
    x1, y1, x2, y2 = columns["corners"].T
    box = np.empty((len(position), 4), np.float32)
    for column, low in enumerate((x1, y1)):
        box[:, column] = np.where(low < 0, 0.0, low)
    for column, (high, side) in enumerate(((x2, width), (y2, height)), start=2):
        box[:, column] = np.where(side < high, side, high)
    inside = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    good = inside & (position >= 0) & (label >= 0) & (columns["doubtful"] == 0) & _overlap(columns, height, width)
    return good, lost, {"position": position, "label": label, "box": box}


_UNKNOWN, _LOST = -1, -2


def _looked_up(keys, values):
    """int64 (n,): the value of each key; `_UNKNOWN`, or `_LOST` where it is None."""
    different, where = np.unique(keys, return_inverse=True)
    found = [values.get(key, _UNKNOWN) for key in different.tolist()]
    return np.array([_LOST if value is None else value for value in found], np.int64)[where]


def _overlap(columns, height, width):
    """Whether there is no stated box, or one that overlaps its image, as `coco._stated_box` has it."""
    x, y, w, h = columns["stated_box"].T
    with np.errstate(invalid="ignore", over="ignore"):
        shared = (x < width) & (y < height) & (x + w > 0) & (y + h > 0) & (x > -np.inf) & (y > -np.inf)
        return np.isnan(columns["stated_box"]).all(axis=1) | shared & (0 < w) & (w < np.inf) & (0 < h) & (h < np.inf)


def _canonical(key):
    """An id so that those which may mean the same are equal: an int, or text. None if it is no id."""
    try:
        number = None if isinstance(key, bool) else int(key)
    except (TypeError, ValueError, OverflowError):
        return key if isinstance(key, str) else None
    return number if number is None or abs(number) < _KEYS else str(number)


def _area(value):
    """`area` as float, NaN if there is none; None if it is not ordinary."""
    if value is None:
        return math.nan
    if type(value) is float:
        return value if 0 < value < math.inf else None
    return float(value) if type(value) is int and 0 < value < _EXACT else None


def _is_box(box):
    return box is _NO_BOX or (
        type(box) is list and len(box) == 4 and box[0] == box[0] and all(type(value) in (float, int) for value in box)
    )


def _are_outlines(parts):
    """Whether a `segmentation` is a list of flat lists of at least three points; their values are not looked at."""
    if type(parts) is not list or not parts:
        return False
    for part in parts:
        if type(part) is not list or not 6 <= len(part) <= 2 * OUTLINE_POINTS or len(part) % 2:
            return False
        if type(part[0]) not in (float, int):
            return False
    return True


def _attributes(entry):
    """The JSON of all other fields; None if they need a note or a check."""
    if "score" in entry:
        return None
    try:
        text = json.dumps({key: value for key, value in entry.items() if key not in FIELDS}, allow_nan=False)
        return None if "e+" in text else text  # perhaps a whole number that orjson made a float
    except (ValueError, RecursionError):  # NaN or infinity
        return None
