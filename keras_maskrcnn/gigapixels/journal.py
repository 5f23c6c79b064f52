"""The record of finished tiles, from which a killed run goes on: lines of JSON, each appended and synced.

    {"settings": ...}                         the first line: what the run was started with
    {"tile": 3, "pieces": [...]}              what was found in a tile, before it is merged
    {"done": 3, "state": ...}                 the results of tiles up to this one are in the output files, up to here

A line that a kill cut off is dropped. Called by `engine.py`.
"""

import json
import os

import numpy as np

from keras_maskrcnn.inference.tiling import Piece


class Journal:
    """The record of one image (a context manager).

    Args:
        path: the file, made if it is missing.
        settings: dict, as JSON holds it: what must be the same for a run to go on.

    Attributes:
        tiles: number of tiles that are recorded. done: number of those whose results are written. state: of the last.

    Raises:
        ValueError: the record is of other settings.
    """

    def __init__(self, path, settings):
        self.path = path
        self.tiles, self.done, self.state = 0, 0, None
        complete = 0
        if path.exists():
            complete = self._read(settings)
        self._file = open(path, "r+b" if complete else "wb")
        self._file.truncate(complete)
        self._file.seek(complete)
        if not complete:
            self._write({"settings": settings})

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def add_tile(self, index, pieces):
        """Record the pieces that were found in a tile."""
        self._write({"tile": index, "pieces": [_plain(piece) for piece in pieces]})
        self.tiles = index + 1

    def add_done(self, index, state):
        """Record that the results of all tiles up to this one are on the disk. `state`: as JSON holds it."""
        self._write({"done": index, "state": state})
        self.done, self.state = index + 1, state

    def pieces(self):
        """Yield (tile, list of Piece) of each tile that was recorded before this run."""
        for entry in _entries(self.path):
            if "tile" in entry:
                yield entry["tile"], [_piece(entry["tile"], plain) for plain in entry["pieces"]]

    def _read(self, settings):
        """Take in a record; returns the length of its complete lines in bytes."""
        complete = 0
        for entry in _entries(self.path):
            complete = entry["end"]
            if "settings" in entry:
                _check_settings(entry["settings"], settings, self.path)
            elif "tile" in entry:
                self.tiles = entry["tile"] + 1
            else:
                self.done, self.state = entry["done"] + 1, entry["state"]
        return complete

    def _write(self, entry):
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _entries(path):
    """The complete lines of a record, each with `end`: the position after it, bytes."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield json.loads(line) | {"end": end}


def _check_settings(recorded, settings, path):
    changed = [name for name in {**recorded, **settings} if recorded.get(name) != settings.get(name)]
    if changed:
        name = changed[0]
        raise ValueError(
            f"A run goes on with the settings that it began with. Received {name}={settings.get(name)!r} for "
            f"{path.parent}, which has {name}={recorded.get(name)!r}. Choose another output, or remove that folder."
        )


def _plain(piece):
    box = [float(side) for side in piece.box]
    return [box, piece.score, piece.label, piece.x, piece.y, *piece.code["size"], piece.code["counts"].decode("ascii")]


def _piece(tile, plain):
    box, score, label, x, y, height, width, counts = plain
    code = {"size": [height, width], "counts": counts.encode("ascii")}
    return Piece(tile, np.array(box), score, label, x, y, code, {})
