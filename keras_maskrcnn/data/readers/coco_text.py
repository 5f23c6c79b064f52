"""COCO's annotations from text to arrays: most entries need no Python object for each number.

In: a part of the list as text. Out: rows of entries with plain numbers, and the other entries as dictionaries. Called
by `json_stream.py` on behalf of `coco_content.py`; `coco_polygons.py` adds the rows to its columns.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.data.limits import OUTLINE_POINTS
from keras_maskrcnn.geometry import native


@dataclasses.dataclass(frozen=True)
class Scanned:
    """The entries in a part of the list, of which most were read from the text without a Python object for each number.

    Args:
        rows, floats, sizes, coordinates: as from `native.scan_annotations`; all rows are ordinary.
        others: list of (position, entry) of the others.
        count: int, all entries.
    """

    rows: np.ndarray
    floats: np.ndarray
    sizes: np.ndarray
    coordinates: np.ndarray
    others: list
    count: int

    def __len__(self):
        return self.count


def scan(text, loads):
    """The entries in a part of the list.

    Args:
        text: str, dictionaries with commas between them. loads: function from JSON to a value; it raises a ValueError.

    Returns:
        Scanned; or None, if the text is something else or there is no native library.
    """
    data = text.encode()
    found = native.scan_annotations(data, 2 * OUTLINE_POINTS)
    if found is None:
        return None
    *arrays, others, count = found
    return Scanned(*arrays, [(number, loads(data[begin:end])) for number, begin, end in others.tolist()], count)
