"""Makes the arrays of a `RecordTable`: of records, or of images and objects that readers find in any order.

What no column can hold exactly stays a Python object. Called by `records.py` and the readers.
"""

import array
import dataclasses
import json
import pathlib

import numpy as np

from keras_maskrcnn.data.instances import Instance, MaskWindow, Polygons, Record, RunLengths
from keras_maskrcnn.data.record_table import (
    IMAGE,
    MASK,
    NO_ID,
    NUMBER_ID,
    OBJECT,
    OBJECT_SOURCE,
    ODD,
    PATH_SOURCE,
    POLYGONS,
    RUNS32,
    RUNS64,
    TEXT_ID,
    TEXT_SOURCE,
    WINDOW,
    RecordTable,
    gathered,
    renumbered,
)
from keras_maskrcnn.host.remote_paths import RemotePath

_OPTIONAL = ("area", "stated_box", "attributes", "annotation_id_kind", "id_kind")  # empty if no row has a value
_PATH = type(pathlib.Path())
_LARGEST = 2**62
_IDENTITY = Instance.__dataclass_fields__["frame"].default


def as_table(records):
    """A RecordTable of any iterable of Record; itself if it is one."""
    if isinstance(records, RecordTable):
        return records
    builder = TableBuilder()
    for record in records:
        builder.add(record)
    return builder.table()


class TableBuilder:
    """Makes a RecordTable of records, or of images and objects that are found in any order.

    Attributes:
        columns: dict of array.array, which grow in place; readers of whole columns write into them.
    """

    def __init__(self):
        self.columns = {name: array.array(code) for name, (code, _) in (IMAGE | OBJECT | MASK).items()}
        self.columns["part_first"].append(0)
        self.odd = {"sources": {}, "records": {}, "instances": {}}
        self._counts = array.array("q")

    def __len__(self):
        return len(self.columns["source"])

    def add(self, record):
        """Add a Record with its objects."""
        self.add_image(record.image_id, record.source, record.height, record.width)
        if type(record) is not Record or not _is_plain_image(record):
            self.odd["records"][len(self) - 1] = dataclasses.replace(record, instances=())
        for instance in record.instances:
            self.add_instance(instance)
        self._counts.append(len(record.instances))

    def add_image(self, image_id, source, height, width):
        """Add an image alone; `table` is given the image of each object."""
        columns = self.columns
        self._add_id("id", image_id)
        source = str(source) if type(source) is RemotePath else source
        kind = TEXT_SOURCE if type(source) is str else PATH_SOURCE if type(source) is _PATH else OBJECT_SOURCE
        if kind == OBJECT_SOURCE:
            self.odd["sources"][len(self)] = source
        columns["source"].append(-1 if kind == OBJECT_SOURCE else self.add_text(str(source)))
        columns["source_kind"].append(kind)
        columns["size"].extend([_whole(height), _whole(width)])

    def add_instance(self, instance):
        """Add an object."""
        columns, row = self.columns, len(self.columns["label"])
        kind, first, size = self._add_mask(instance.mask)
        attributes = instance.attributes
        plain = kind != ODD and _is_plain(instance) and (attributes is None or _is_plain_json(attributes))
        if not plain:
            self.odd["instances"][row] = instance
            attributes = None
        for name, value in (("mask_kind", kind), ("mask_first", first), ("mask_size", size)):
            columns[name].append(value)
        columns["label"].append(int(instance.label))
        columns["crowd"].append(bool(instance.crowd))
        columns["box"].extend(np.asarray(instance.box, np.float32).reshape(4).tolist())
        self._add_id("annotation_id", instance.annotation_id)
        columns["area"].append(np.nan if instance.area is None or not plain else instance.area)
        columns["stated_box"].extend([np.nan] * 4 if instance.stated_box is None or not plain else instance.stated_box)
        columns["attributes"].append(-1 if attributes is None else self.add_text(json.dumps(attributes)))

    def add_rows(self, columns, rows):
        """Add objects whose polygons and attributes were added before.

        Args:
            columns: dict of arrays by the names of columns, which is emptied; all ids are numbers, all masks polygons.
            rows: int, those to add.
        """
        zeros = np.zeros(len(columns["label"]), np.uint8)
        columns |= {"annotation_id_kind": zeros + NUMBER_ID, "mask_kind": zeros + POLYGONS}
        for name, (code, _) in OBJECT.items():
            self.columns[name].frombytes(columns.pop(name)[rows].astype(np.dtype(code), copy=False).tobytes())

    def image(self, position):
        """(source, height, width) of an image whose source is text or a path."""
        texts, begin = self.columns["texts"], self.columns["source"][position]
        size = int.from_bytes(texts[begin : begin + 4].tobytes(), "little")
        text = texts[begin + 4 : begin + 4 + size].tobytes().decode("utf-8", "surrogatepass")
        source = pathlib.Path(text) if self.columns["source_kind"][position] == PATH_SOURCE else text
        return source, *self.columns["size"][2 * position : 2 * position + 2]

    def add_text(self, text):
        """Where a text begins in `texts`."""
        data, texts = text.encode("utf-8", "surrogatepass"), self.columns["texts"]
        begin = len(texts)
        texts.frombytes(len(data).to_bytes(4, "little"))
        texts.frombytes(data)
        return begin

    def table(self, positions=None, order=None):
        """The RecordTable. Nothing can be added afterwards.

        Args:
            positions: int (objects,), the image of each object; None: they were added with their records.
            order: int, which objects there are, and in what order: sorted by image; None: all, as they are.
        """
        columns = {}
        for name, (code, width) in (IMAGE | OBJECT | MASK).items():
            rows = np.frombuffer(self.columns.pop(name), np.dtype(code))
            rows = _without_absent(name, rows).reshape((-1, width) if width > 1 else -1)
            columns[name] = gathered(rows, order) if name in OBJECT and order is not None else rows
        if positions is None:
            counts = np.frombuffer(self._counts, np.int64)
        else:
            counts = np.bincount(positions if order is None else positions[order], minlength=len(columns["source"]))
        columns["first"] = np.append(0, np.cumsum(counts))
        if order is not None:
            self.odd["instances"] = renumbered(self.odd["instances"], order)
        for rows in columns.values():
            rows.flags.writeable = False
        return RecordTable(columns, self.odd)

    def _add_id(self, name, value):
        number = type(value) is int and abs(value) < _LARGEST
        kind = NUMBER_ID if number else TEXT_ID if type(value) is str else NO_ID
        self.columns[name].append(value if number else self.add_text(value) if kind == TEXT_ID else 0)
        self.columns[f"{name}_kind"].append(kind)

    def _add_mask(self, mask):
        """(kind, first, size) of a mask that was added; of one that no column holds (ODD, 0, 0)."""
        columns = self.columns
        if type(mask) is Polygons and type(mask.parts) is tuple and all(map(_is_outline, mask.parts)):
            for part in mask.parts:
                columns["coordinates"].frombytes(part.tobytes())
                columns["part_first"].append(len(columns["coordinates"]))
            return POLYGONS, len(columns["part_first"]) - 1 - len(mask.parts), len(mask.parts)
        if type(mask) is RunLengths and _is_array(mask.counts, (np.int32, np.int64), 1):
            kind, name = (RUNS32, "runs32") if mask.counts.dtype == np.int32 else (RUNS64, "runs64")
            columns[name].frombytes(mask.counts.tobytes())
            return kind, len(columns[name]) - len(mask.counts), len(mask.counts)
        if type(mask) is MaskWindow and type(mask.x) is type(mask.y) is int and _is_array(mask.pixels, (np.uint8,), 2):
            columns["window"].extend([len(columns["pixels"]), mask.x, mask.y, *mask.pixels.shape])
            columns["pixels"].frombytes(mask.pixels.tobytes())
            return WINDOW, len(columns["window"]) // 5 - 1, 0
        return ODD, 0, 0


def _without_absent(name, rows):
    """An empty column in the place of one without a value."""
    if name not in _OPTIONAL or not len(rows):
        return rows
    absent = np.isnan(rows) if rows.dtype.kind == "f" else rows == (-1 if name == "attributes" else NUMBER_ID)
    return rows[:0] if absent.all() else rows


def _whole(value):
    return value if type(value) is int and abs(value) < _LARGEST else 0


def _is_id(value):
    return value is None or type(value) is str or type(value) is int and abs(value) < _LARGEST


def _is_plain_image(record):
    return _is_id(record.image_id) and all(
        type(side) is int and side < _LARGEST for side in (record.height, record.width)
    )


def _is_plain(instance):
    """Whether the columns hold exactly an instance's values, apart from its mask and attributes."""
    area, stated = instance.area, instance.stated_box
    return (
        type(instance) is Instance
        and type(instance.label) is int
        and abs(instance.label) < 2**31
        and type(instance.crowd) is bool
        and _is_array(instance.box, (np.float32,), 1)
        and _is_id(instance.annotation_id)
        and (area is None or type(area) is float and area == area)
        and (stated is None or _is_plain_box(stated))
        and instance.frame == _IDENTITY
    )


def _is_plain_box(stated):
    return type(stated) is tuple and len(stated) == 4 and all(type(v) is float and v == v for v in stated)


def _is_array(values, dtypes, axes):
    return type(values) is np.ndarray and values.ndim == axes and values.dtype in dtypes


def _is_outline(part):
    return _is_array(part, (np.float64,), 2) and part.shape[1] == 2


def _is_plain_json(value):
    """Whether JSON gives back exactly this value."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain_json, value.values()))
    if kind is list:
        return all(map(_is_plain_json, value))
    return value is None or kind in (str, int, float, bool)
