"""The arrays that a branch adds to a batch or to a detection."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Field:
    """An array of one row per object: (B, N, *shape) in a batch, (B, D, *shape) among detections.

    Args:
        shape: tuple of int, the axes behind the rows.
        dtype: "float32", "int32", "uint8" or "bool".
        about: str, meaning of the values with their unit or frame; shown in error messages.
        axes: names of the axes for messages, such as ("[x1, y1, x2, y2]",); empty shows their lengths.
        optional: whether a batch may leave the array out.
        free: whether arrays of other lengths, but as many axes, are good as well.
    """

    shape: tuple
    dtype: str
    about: str = ""
    axes: tuple = ()
    optional: bool = False
    free: bool = False

    @property
    def kinds(self):
        """The numpy kinds (`dtype.kind`) that an array of this field may have."""
        return {"float32": "f", "int32": "iu", "uint8": "ub", "bool": "b"}[self.dtype]

    def empty(self, *rows):
        """Zeros (*rows, *shape)."""
        return np.zeros((*rows, *self.shape), self.dtype)

    def fits(self, array):
        """Whether an array (B, N, ...) has this field's shape."""
        behind = array.shape[2:]
        return array.ndim == 2 + len(self.shape) and (self.free or behind == self.shape)

    def describe(self, rows="B, N"):
        """The shape as text, such as "(B, N, [x1, y1, x2, y2])"."""
        return f"({', '.join([rows, *map(str, self.axes or self.shape)])})"


def first_true(flags):
    """(row, column) of the first True in a (B, N) array, or (None, None)."""
    found = np.argwhere(flags)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else (None, None)
