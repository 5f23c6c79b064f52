"""The results of a large image, written while it goes on: a table, outlines, and a label image in zarr.

    objects.csv       a row an object, the columns of docs/measurements.md
    objects.geojson   QuPath's detections; complete JSON after each tile
    labels.zarr       uint32 (H, W): the number of each pixel's object, that of the table; the surest where they overlap

Called by `engine.py`.
"""

import collections
import contextlib
import csv
import dataclasses
import io
import os

import numpy as np

from keras_maskrcnn.labelling.analysis_files import COLLECTION_END, COLLECTION_START, class_colors, feature
from keras_maskrcnn.measuring.measurements import NAMES, SHAPE, STATISTICS, measured_mask
from keras_maskrcnn.measuring.table_files import csv_cells

CSV, GEOJSON, LABELS = "objects.csv", "objects.geojson", "labels.zarr"
_CHUNK = 512  # pixels of a side, of the label image
_AT_ONCE = 2**23  # pixels that are read at once to measure several objects


class Outputs:
    """Writes the objects of a large image (a context manager).

    Args:
        folder: Path. image: LargeImage. class_names: list of str. pixel_size: PixelSize or None.
        state: what `state` returned when the last tile was finished, or None for a new run. What was written after
            that is dropped, and comes again.
    """

    def __init__(self, folder, image, class_names, pixel_size, state=None):
        self.folder, self.image, self.pixel_size = folder, image, pixel_size
        self.class_names, self.colors = class_names, class_colors(class_names)
        self.scores = [np.inf]  # by number; 0 is no object
        channels = [f"{name}_{channel}" for channel in range(image.channels) for name in STATISTICS]
        self.columns = [*NAMES, *SHAPE, *channels]
        self._state = state

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            mode = "wb" if self._state is None else "r+b"
            self._csv, self._geojson = (stack.enter_context(open(self.folder / name, mode)) for name in (CSV, GEOJSON))
            self._labels = _open_labels(self.folder / LABELS, self.image.size, new=self._state is None)
            if self._state is None:
                self._ends = {CSV: 0, GEOJSON: 0}
                self._append(",".join(self.columns) + "\n", COLLECTION_START)
            else:
                self._ends = {name: self._state[name] for name in (CSV, GEOJSON)}
                self._append("", "")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def state(self):
        """How far the files are written, as JSON holds it."""
        return self._ends | {"objects": len(self.scores) - 1}

    def skip(self, pieces):
        """Count objects that are in the files already."""
        self.scores += [piece.score for piece in pieces]

    def write(self, pieces):
        """Append objects, in order: all of them are on the disk when it returns."""
        if not pieces:
            return
        first = len(self.scores)
        self.scores += [piece.score for piece in pieces]
        rows, features = io.StringIO(), []
        writer = csv.writer(rows, lineterminator="\n")
        windows, read = [piece.window for piece in pieces], self._reader([piece.extent for piece in pieces])
        for number, (piece, window) in enumerate(zip(pieces, windows, strict=True), start=first):
            name = self.class_names[piece.label]
            row = {"image": self.image.name, "object": number, "class": name, "score": piece.score}
            row |= measured_mask(window, piece.x, piece.y, self.image.size, read(piece.extent), self.pixel_size)
            writer.writerow(csv_cells(row, self.columns))
            numbers = {"score": round(piece.score, 4), "object": number}
            features.append(feature(window, piece.x, piece.y, name, self.colors[name], numbers))
        self._paint(first, pieces, windows)
        self._append(rows.getvalue(), ",\n" * (first > 1) + ",\n".join(features))

    def _reader(self, extents):
        """A function from one of these rectangles (Tile) to its pixels. Those close together are read at once."""
        corners = np.array([dataclasses.astuple(extent) for extent in extents])
        x1, y1, x2, y2 = (*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist())
        if (x2 - x1) * (y2 - y1) > _AT_ONCE:
            return lambda one: self.image.read(one.x1, one.y1, one.x2, one.y2)
        pixels = self.image.read(x1, y1, x2, y2)
        return lambda one: pixels[one.y1 - y1 : one.y2 - y1, one.x1 - x1 : one.x2 - x1]

    def _append(self, rows, features):
        """Write text at the ends; GeoJSON is closed again after it."""
        for file, name, text, closing in (
            (self._csv, CSV, rows, ""), (self._geojson, GEOJSON, features, COLLECTION_END)
        ):  # fmt: skip
            file.seek(self._ends[name])
            self._ends[name] += file.write(text.encode())
            file.write(closing.encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    def _paint(self, first, pieces, windows):
        """Write the numbers of objects into the label image: each block of it is read and written once."""
        blocks = collections.defaultdict(list)
        for number, (piece, window) in enumerate(zip(pieces, windows, strict=True), start=first):
            extent = piece.extent
            for top in range(extent.y1 // _CHUNK * _CHUNK, extent.y2, _CHUNK):
                for left in range(extent.x1 // _CHUNK * _CHUNK, extent.x2, _CHUNK):
                    blocks[top, left].append((number, piece, window))
        scores = np.array(self.scores)
        for (top, left), members in blocks.items():
            place = slice(top, top + _CHUNK), slice(left, left + _CHUNK)
            block = self._labels[place]
            for number, piece, window in members:
                _paint(block, top, left, number, piece, window, scores)
            self._labels[place] = block


def _paint(block, top, left, number, piece, window, scores):
    """Write the number of an object into a block of the label image, where none is surer.

    Args:
        block: uint32 (h, w), written. top, left: int, its place. scores: (n,), by number, of the objects so far.
    """
    extent = piece.extent
    y1, x1, y2, x2 = max(extent.y1, top), max(extent.x1, left), extent.y2, extent.x2
    mask = window[y1 - extent.y1 : top + len(block) - extent.y1, x1 - extent.x1 : left + block.shape[1] - extent.x1]
    under = block[y1 - top : y2 - top, x1 - left : x2 - left]
    known = under < len(scores)  # others are of a killed run, and come again
    other = scores[np.where(known, under, 0)]
    free = (under == 0) | ~known | (other < piece.score) | ((other == piece.score) & (under > number))
    under[mask & free] = number


def _open_labels(path, size, new):
    import zarr

    if not new:
        return zarr.open_array(path, mode="r+")
    sizes = {"shape": size, "chunks": (_CHUNK, _CHUNK), "dtype": "uint32", "fill_value": 0}
    return zarr.create_array(
        path, **sizes, overwrite=True, dimension_names=("y", "x"), config={"write_empty_chunks": False}
    )
