"""All records of a dataset in a few numpy arrays: a sequence of `Record` whose arrays are views.

In: records, one at a time (`TableBuilder`), or whole columns (`read_coco` in `readers/`). Out: a `RecordTable`. A
dataset of 118,000 images and 825,000 polygons takes its coordinates and about 100 bytes an object; as Python objects it
takes six times as much. The arrays are contiguous and read-only, so that processes share them: through memory-mapped
files (`readers/annotation_cache.py`), or as buffers of pickle's protocol 5.

What no column can hold exactly stays a Python object: sources that are functions or arrays, instances with masks or
values of other types. The names and types of the columns are in `_IMAGE`, `_OBJECT` and `_MASK`.
"""

import array
import collections.abc
import dataclasses
import json
import operator
import pathlib

import numpy as np

from keras_maskrcnn.data.instances import Instance, MaskWindow, Polygons, Record, RunLengths

# Column -> (array's type code, values in a row). `*_kind` says what the column of the name without it holds.
_IMAGE = {"id": ("q", 1), "id_kind": ("B", 1), "source": ("q", 1), "source_kind": ("B", 1), "size": ("q", 2)}
_OBJECT = {
    "label": ("i", 1),
    "crowd": ("B", 1),
    "box": ("f", 4),
    "annotation_id": ("q", 1),
    "annotation_id_kind": ("B", 1),
    "area": ("d", 1),  # NaN: none
    "stated_box": ("d", 4),  # NaN: none
    "attributes": ("q", 1),  # where their JSON begins in `texts`; -1: none
    "mask_kind": ("B", 1),
    "mask_first": ("q", 1),  # in `part_first`, `runs32`, `runs64` or `window`
    "mask_size": ("q", 1),
}
_MASK = {
    "part_first": ("q", 1),  # where each part of a polygon begins in `coordinates`, and the end of the last one
    "coordinates": ("d", 1),
    "runs32": ("i", 1),
    "runs64": ("q", 1),
    "window": ("q", 5),  # where its pixels begin in `pixels`, x, y, height, width
    "pixels": ("B", 1),
    "texts": ("B", 1),  # each after its length in 4 bytes
}
COLUMNS = _IMAGE | _OBJECT | _MASK | {"first": ("q", 1)}
_OPTIONAL = ("area", "stated_box", "attributes", "annotation_id_kind", "id_kind")  # empty if no row has a value
_NUMBER, _TEXT, _NONE = 0, 1, 2  # kinds of ids
_OBJECT_SOURCE, _TEXT_SOURCE, _PATH_SOURCE = 0, 1, 2
POLYGONS, RUNS32, RUNS64, WINDOW, ODD = 0, 1, 2, 3, 4  # kinds of masks
_PATH = type(pathlib.Path())
_LARGEST = 2**62
_IDENTITY = Instance.__dataclass_fields__["frame"].default


class RecordTable(collections.abc.Sequence):
    """A sequence of Record, read from arrays when one is asked for.

    Args:
        columns: dict of arrays by the names of this module's columns, and `first`, int64 (images + 1): the first
            object of each image, and the number of objects.
        odd: dict of "sources", "records" (by image) and "instances" (by object): {row: object} of what no column holds.

    Attributes:
        columns, odd: as given.
    """

    def __init__(self, columns, odd=None):
        self.columns = columns
        self.odd = {"sources": {}, "records": {}, "instances": {}} if odd is None else odd

    @classmethod
    def of(cls, records):
        """A table of any iterable of Record; itself if it is one."""
        if isinstance(records, RecordTable):
            return records
        builder = TableBuilder()
        for record in records:
            builder.add(record)
        return builder.table()

    def __len__(self):
        return len(self.columns["source"])

    def __getitem__(self, index):
        """The Record at a position; of a slice the table of these."""
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        position = range(len(self))[operator.index(index)]
        begin, end = self.columns["first"][position : position + 2].tolist()
        image_id = self._id("id", position)
        height, width = self.columns["size"][position].tolist()
        instances = tuple(self._instances(begin, end)) if end > begin else ()
        odd = self.odd["records"].get(position)
        if odd is not None:
            return dataclasses.replace(odd, instances=instances)
        return Record(image_id, self.source(position), height, width, instances)

    # Columns -----------------------------------------------------------------------------------------------

    @property
    def counts(self):
        """int64 (images,): objects of each image."""
        return np.diff(self.columns["first"])

    @property
    def positions(self):
        """int64 (objects,): the image of each object."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def labels(self):
        """int32 (objects,)."""
        return self.columns["label"]

    def used_labels(self):
        """The labels that objects have: a list of int, rising."""
        return np.unique(self.labels).tolist()

    @property
    def crowd(self):
        """Which objects are crowd regions: bool (objects,)."""
        return self.columns["crowd"].view(bool)

    @property
    def boxes(self):
        """float32 (objects, [x1, y1, x2, y2]), image pixels."""
        return self.columns["box"]

    @property
    def image_ids(self):
        """List of the images' ids."""
        if not len(self.columns["id_kind"]) and not self.odd["records"]:
            return self.columns["id"].tolist()
        return [self._image_id(position) for position in range(len(self))]

    @property
    def image_sizes(self):
        """List of (height, width), image pixels."""
        odd, sizes = self.odd["records"], list(map(tuple, self.columns["size"].tolist()))
        for position, record in odd.items():
            sizes[position] = (record.height, record.width)
        return sizes

    def source(self, position):
        """`Record.source` of an image."""
        odd = self.odd["records"].get(position)
        if odd is not None:
            return odd.source
        kind = self.columns["source_kind"][position]
        if kind == _OBJECT_SOURCE:
            return self.odd["sources"][position]
        text = self._text(self.columns["source"][position])
        return pathlib.Path(text) if kind == _PATH_SOURCE else text

    def files(self):
        """For each image the path of its file as text, or None if it is stored elsewhere. Yields str or None."""
        kinds, odd = self.columns["source_kind"].tolist(), self.odd["records"]
        for position, (kind, begin) in enumerate(zip(kinds, self.columns["source"].tolist(), strict=True)):
            if position in odd:
                source = odd[position].source
                yield str(source) if isinstance(source, (str, pathlib.Path)) else None
            else:
                yield None if kind == _OBJECT_SOURCE else self._text(begin)

    def labels_by_image(self, crowds=False):
        """For each image the list of its objects' labels; those of crowd regions only if asked for."""
        chosen = np.ones(len(self.labels), bool) if crowds else ~self.crowd
        labels, ends = self.labels[chosen].tolist(), np.cumsum(np.append(0, chosen))[self.columns["first"]].tolist()
        return [labels[begin:end] for begin, end in zip(ends[:-1], ends[1:], strict=True)]

    def outline_corners(self):
        """float64 (objects, [x1, y1, x2, y2]): the extent of polygons, not clipped; NaN for other masks."""
        corners = np.full((len(self.labels), 4), np.nan)
        rows = np.flatnonzero((self.columns["mask_kind"] == POLYGONS) & (self.columns["mask_size"] > 0))
        for some in np.array_split(rows, 1 + len(rows) // _ROWS_AT_ONCE):
            if len(some):
                first, size = self.columns["mask_first"][some], self.columns["mask_size"][some]
                begin, end = self.columns["part_first"][first], self.columns["part_first"][first + size]
                corners[some] = extents(self.columns["coordinates"], begin, end)
        return corners

    # Other tables ------------------------------------------------------------------------------------------

    def take(self, positions):
        """The table of some images, which shares the masks. `positions`: iterable of int."""
        positions = np.array(list(positions), np.int64)
        counts = self.counts[positions]
        first = np.append(0, np.cumsum(counts))
        rows = np.repeat(self.columns["first"][positions] - first[:-1], counts) + np.arange(first[-1])
        columns = self.columns | {name: _rows(self.columns[name], positions) for name in _IMAGE}
        columns |= {name: _rows(self.columns[name], rows) for name in _OBJECT} | {"first": first}
        odd = {name: _renumbered(self.odd[name], positions) for name in ("sources", "records")}
        return RecordTable(columns, odd | {"instances": _renumbered(self.odd["instances"], rows)})

    def with_labels(self, label_of):
        """The table with other labels. `label_of`: dict from each label that objects have to the new one."""
        new = np.zeros(1 + max(label_of, default=-1), np.int32)
        for label, other in label_of.items():
            new[label] = 0 if other is None else other  # no object has it
        instances = self.odd["instances"]
        odd = {row: dataclasses.replace(found, label=label_of[found.label]) for row, found in instances.items()}
        labels = new[self.labels] if len(new) else self.labels
        return RecordTable(self.columns | {"label": labels}, self.odd | {"instances": odd})

    # Reading -----------------------------------------------------------------------------------------------

    def _image_id(self, position):
        odd = self.odd["records"].get(position)
        return self._id("id", position) if odd is None else odd.image_id

    def _id(self, name, row):
        kinds = self.columns[f"{name}_kind"]
        kind = kinds[row] if len(kinds) else _NUMBER
        value = int(self.columns[name][row])
        return None if kind == _NONE else self._text(value) if kind == _TEXT else value

    def _text(self, begin):
        texts = self.columns["texts"]
        size = int.from_bytes(texts[begin : begin + 4].tobytes(), "little")
        return texts[begin + 4 : begin + 4 + size].tobytes().decode("utf-8", "surrogatepass")

    def _instances(self, begin, end):
        """The Instances of some rows."""
        columns, odd = self.columns, self.odd["instances"]
        names = ("label", "crowd", "mask_kind", "mask_first", "mask_size", "annotation_id")
        rows = zip(*(columns[name][begin:end].tolist() for name in names), strict=True)
        for row, (label, crowd, kind, first, size, annotation_id) in enumerate(rows, start=begin):
            if row in odd:
                yield odd[row]
                continue
            area = float(columns["area"][row]) if len(columns["area"]) else np.nan
            stated = columns["stated_box"][row].tolist() if len(columns["stated_box"]) else (np.nan,)
            text = int(columns["attributes"][row]) if len(columns["attributes"]) else -1
            yield Instance(
                label,
                columns["box"][row],
                self._mask(kind, first, size),
                bool(crowd),
                self._id("annotation_id", row) if len(columns["annotation_id_kind"]) else annotation_id,
                None if area != area else area,
                None if stated[0] != stated[0] else tuple(stated),
                None if text < 0 else json.loads(self._text(text)),
            )

    def _mask(self, kind, first, size):
        columns = self.columns
        if kind == POLYGONS:
            ends = columns["part_first"][first : first + size + 1].tolist()
            coordinates = columns["coordinates"]
            return Polygons(tuple(coordinates[a:b].reshape(-1, 2) for a, b in zip(ends[:-1], ends[1:], strict=True)))
        if kind == WINDOW:
            begin, x, y, height, width = columns["window"][first].tolist()
            return MaskWindow(columns["pixels"][begin : begin + height * width].reshape(height, width), x, y)
        return RunLengths(columns["runs32" if kind == RUNS32 else "runs64"][first : first + size])


_ROWS_AT_ONCE = 2**16


class TableBuilder:
    """Makes a RecordTable of records, or of images and objects that are found in any order.

    Attributes:
        columns: dict of array.array, which grow in place; readers of whole columns write into them.
    """

    def __init__(self):
        self.columns = {name: array.array(code) for name, (code, _) in (_IMAGE | _OBJECT | _MASK).items()}
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
        kind = _TEXT_SOURCE if type(source) is str else _PATH_SOURCE if type(source) is _PATH else _OBJECT_SOURCE
        if kind == _OBJECT_SOURCE:
            self.odd["sources"][len(self)] = source
        columns["source"].append(-1 if kind == _OBJECT_SOURCE else self.add_text(str(source)))
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
        columns |= {"annotation_id_kind": zeros + _NUMBER, "mask_kind": zeros + POLYGONS}
        for name, (code, _) in _OBJECT.items():
            self.columns[name].frombytes(columns.pop(name)[rows].astype(np.dtype(code), copy=False).tobytes())

    def image(self, position):
        """(source, height, width) of an image whose source is text or a path."""
        texts, begin = self.columns["texts"], self.columns["source"][position]
        size = int.from_bytes(texts[begin : begin + 4].tobytes(), "little")
        text = texts[begin + 4 : begin + 4 + size].tobytes().decode("utf-8", "surrogatepass")
        source = pathlib.Path(text) if self.columns["source_kind"][position] == _PATH_SOURCE else text
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
        for name, (code, width) in (_IMAGE | _OBJECT | _MASK).items():
            rows = np.frombuffer(self.columns.pop(name), np.dtype(code))
            rows = _without_absent(name, rows).reshape((-1, width) if width > 1 else -1)
            columns[name] = _rows(rows, order) if name in _OBJECT and order is not None else rows
        if positions is None:
            counts = np.frombuffer(self._counts, np.int64)
        else:
            counts = np.bincount(positions if order is None else positions[order], minlength=len(columns["source"]))
        columns["first"] = np.append(0, np.cumsum(counts))
        if order is not None:
            self.odd["instances"] = _renumbered(self.odd["instances"], order)
        for rows in columns.values():
            rows.flags.writeable = False
        return RecordTable(columns, self.odd)

    def _add_id(self, name, value):
        number = type(value) is int and abs(value) < _LARGEST
        kind = _NUMBER if number else _TEXT if type(value) is str else _NONE
        self.columns[name].append(value if number else self.add_text(value) if kind == _TEXT else 0)
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


def extents(coordinates, begin, end):
    """The extent of runs of points.

    Args:
        coordinates: float64, x and y in turns. begin, end: int (n,), of each run, which has at least a point.

    Returns:
        float64 (n, [x1, y1, x2, y2]). NaN spreads.
    """
    sizes = end - begin
    starts = np.cumsum(sizes) - sizes
    if (begin[1:] == end[:-1]).all():
        points = coordinates[begin[0] : end[-1]]
    else:
        points = coordinates[np.repeat(begin - starts, sizes) + np.arange(sizes.sum())]
    points, starts = points.reshape(-1, 2), starts // 2
    edges = [edge.reduceat(points[:, axis], starts) for edge in (np.minimum, np.maximum) for axis in (0, 1)]
    return np.stack(edges, axis=1)


def _rows(column, rows):
    return column[rows] if len(column) else column


def _renumbered(odd, rows):
    """{new row: object} for those of the rows that have one."""
    return {new: odd[row] for new, row in enumerate(rows.tolist()) if row in odd} if odd else {}


def _without_absent(name, rows):
    """An empty column in the place of one without a value."""
    if name not in _OPTIONAL or not len(rows):
        return rows
    absent = np.isnan(rows) if rows.dtype.kind == "f" else rows == (-1 if name == "attributes" else _NUMBER)
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
