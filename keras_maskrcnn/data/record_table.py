"""All records of a dataset in a few numpy arrays: a sequence of `Record` whose arrays are views.

`table_builder.py` and `readers/coco.py` make the arrays. A dataset of 118,000 images and 825,000 polygons takes its
coordinates and about 100 bytes an object. The arrays are contiguous and read-only, so that processes share them:
through memory-mapped files (`readers/annotation_cache.py`), or as buffers of pickle's protocol 5.

What no column can hold exactly stays a Python object: sources that are functions or arrays, instances with masks or
values of other types. The names and types of the columns are in `IMAGE`, `OBJECT` and `MASK`.
"""

import collections.abc
import dataclasses
import json
import operator
import pathlib

import numpy as np

from keras_maskrcnn.data.instances import Instance, MaskWindow, Polygons, Record, RunLengths

# Column -> (array's type code, values in a row). `*_kind` says what the column of the name without it holds.
IMAGE = {"id": ("q", 1), "id_kind": ("B", 1), "source": ("q", 1), "source_kind": ("B", 1), "size": ("q", 2)}
OBJECT = {
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
MASK = {
    "part_first": ("q", 1),  # where each part of a polygon begins in `coordinates`, and the end of the last one
    "coordinates": ("d", 1),
    "runs32": ("i", 1),
    "runs64": ("q", 1),
    "window": ("q", 5),  # where its pixels begin in `pixels`, x, y, height, width
    "pixels": ("B", 1),
    "texts": ("B", 1),  # each after its length in 4 bytes
}
COLUMNS = IMAGE | OBJECT | MASK | {"first": ("q", 1)}
NUMBER_ID, TEXT_ID, NO_ID = 0, 1, 2  # kinds of ids
OBJECT_SOURCE, TEXT_SOURCE, PATH_SOURCE = 0, 1, 2
POLYGONS, RUNS32, RUNS64, WINDOW, ODD = 0, 1, 2, 3, 4  # kinds of masks


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
        return Record(image_id, self._source(position), height, width, instances)

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

    def _source(self, position):
        """`Record.source` of an image that is not odd."""
        kind = self.columns["source_kind"][position]
        if kind == OBJECT_SOURCE:
            return self.odd["sources"][position]
        text = self._text(self.columns["source"][position])
        return pathlib.Path(text) if kind == PATH_SOURCE else text

    def files(self):
        """For each image the path of its file as text, or None if it is stored elsewhere. Yields str or None."""
        known = self.columns["source_kind"] != OBJECT_SOURCE
        texts, odd = self._texts(self.columns["source"][known]), self.odd["records"]
        for position, is_known in enumerate(known.tolist()):
            text = next(texts) if is_known else None
            source = odd[position].source if position in odd else text
            yield str(source) if isinstance(source, (str, pathlib.Path)) else None

    def labels_by_image(self, crowds=False):
        """For each image the list of its objects' labels; those of crowd regions only if asked for."""
        chosen = np.ones(len(self.labels), bool) if crowds else ~self.crowd
        labels, ends = self.labels[chosen].tolist(), np.cumsum(np.append(0, chosen))[self.columns["first"]].tolist()
        return [labels[begin:end] for begin, end in zip(ends[:-1], ends[1:], strict=True)]

    def outline_corners(self):
        """float64 (objects, [x1, y1, x2, y2]): the extent of polygons, not clipped; NaN for other masks."""
        columns, corners = self.columns, np.full((len(self.labels), 4), np.nan)
        rows = np.flatnonzero((columns["mask_kind"] == POLYGONS) & (columns["mask_size"] > 0))
        part = np.argsort(columns["mask_first"][rows], kind="stable")  # in the order of the coordinates, read once
        for some in np.array_split(rows[part], 1 + len(rows) // _ROWS_AT_ONCE):
            if len(some):
                first, size = columns["mask_first"][some], columns["mask_size"][some]
                begin, end = columns["part_first"][first], columns["part_first"][first + size]
                corners[some] = extents(columns["coordinates"], begin, end)
        return corners

    # Other tables ------------------------------------------------------------------------------------------

    def take(self, positions):
        """The table of some images, which shares the masks. `positions`: iterable of int."""
        positions = np.array(list(positions), np.int64)
        counts = self.counts[positions]
        first = np.append(0, np.cumsum(counts))
        rows = np.repeat(self.columns["first"][positions] - first[:-1], counts) + np.arange(first[-1])
        columns = self.columns | {name: gathered(self.columns[name], positions) for name in IMAGE}
        columns |= {name: gathered(self.columns[name], rows) for name in OBJECT} | {"first": first}
        odd = {name: renumbered(self.odd[name], positions) for name in ("sources", "records")}
        return RecordTable(columns, odd | {"instances": renumbered(self.odd["instances"], rows)})

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
        kind = kinds[row] if len(kinds) else NUMBER_ID
        value = int(self.columns[name][row])
        return None if kind == NO_ID else self._text(value) if kind == TEXT_ID else value

    def _text(self, begin):
        texts = self.columns["texts"]
        size = int.from_bytes(texts[begin : begin + 4].tobytes(), "little")
        return texts[begin + 4 : begin + 4 + size].tobytes().decode("utf-8", "surrogatepass")

    def _texts(self, begins):
        """As `_text`, of many, in a third of the time. Yields str."""
        data = memoryview(self.columns["texts"])
        sizes = self.columns["texts"][begins[:, None] + np.arange(4)].view("<u4").reshape(-1).tolist()
        for begin, size in zip((begins + 4).tolist(), sizes, strict=True):
            yield str(data[begin : begin + size], "utf-8", "surrogatepass")

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


def gathered(column, rows):
    """Rows of a column; of one that is left empty, because no row has a value, the same."""
    return column[rows] if len(column) else column


def renumbered(odd, rows):
    """{new row: object} for those of the rows that have one."""
    return {new: odd[row] for new, row in enumerate(rows.tolist()) if row in odd} if odd else {}
