"""Read a pickle of numpy arrays without executing it: Detectron2's `.pkl`, a dictionary with the arrays under "model".

`pickles.py` runs the pickle. What it may call makes an array, a dtype, a number of a dtype, bytes or a dictionary, each
with checked arguments; numpy's own functions are never called by it. Pickles of Python 2 and 3, of numpy 1 and 2, and
of protocols 0 to 5 are read.
"""

import math
import os

import numpy as np

from keras_maskrcnn.weights.limits import MEBIBYTE, MOST_AXES, MOST_SHARING, reading
from keras_maskrcnn.weights.pickles import Name, describe, read_pickle
from keras_maskrcnn.weights.pth import Converter, DictMaker

EXPECTED = "a pickle with only numpy arrays, numbers and strings in dictionaries"
REMEDY = "Nothing in it was executed. Copy or download it again if it may be damaged."
_KINDS = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())
_ORDERS = ("<", "=", "|", ">")
_NDARRAY = Name("numpy", "ndarray")


def read_pkl(path):
    """Read the arrays of a pickle.

    Args:
        path: path of a file that `pickle.dump` wrote.

    Returns:
        dict as saved, with numpy arrays.

    Raises:
        WeightFileError: the file holds anything else, is damaged, or exceeds a limit of `limits.py`. Nothing in it was
            executed.
    """
    with reading(path, EXPECTED, REMEDY), open(path, "rb") as file:
        size = os.path.getsize(path)
        calls = _calls()
        state = read_pickle(file, {*calls, _NDARRAY}, calls, _no_storage, size, (_Array, _DType))
        if not isinstance(state, dict):
            raise ValueError(f"{describe(state)} and no dictionary")
        return Converter(_Array, MOST_SHARING * size + MEBIBYTE, _DType).convert(state)


def _calls():
    calls = {
        Name("numpy", "dtype"): _DType,
        Name("_codecs", "encode"): _encode,
        Name("collections", "OrderedDict"): DictMaker().make_dict,
    }
    for builtins in ("builtins", "__builtin__"):  # how protocols 0 to 2 write b""
        calls[Name(builtins, "bytes")] = _empty_bytes
    for core in ("numpy.core", "numpy._core"):
        calls[Name(f"{core}.multiarray", "_reconstruct")] = _reconstruct
        calls[Name(f"{core}.multiarray", "scalar")] = _scalar
        calls[Name(f"{core}.numeric", "_frombuffer")] = _from_buffer
    return calls


def _no_storage(reference):
    raise ValueError(f"a reference to {describe(reference)}")


class _DType:
    """A dtype of numbers. `numpy.dtype` is called with its kind and size; what follows states its byte order."""

    def __init__(self, kind, *_):
        if type(kind) is not str or kind not in _KINDS:
            raise ValueError(f"the dtype {describe(kind)}, which holds no numbers of weights")
        self.dtype = np.dtype(kind)

    def set_state(self, state):
        """The second entry is the byte order; fields and subarrays, the next three, are refused."""
        plain = type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None)
        if not plain or type(state[1]) is not str or state[1] not in _ORDERS:
            raise ValueError("a dtype that is not one of plain numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array: shape, dtype and bytes."""

    def __init__(self):
        self.size, self.dtype, self.data, self.order = (0,), np.dtype("f4"), b"", "C"

    def set_state(self, state):
        """What numpy gives `ndarray.__setstate__`: version, shape, dtype, whether in Fortran's order, bytes."""
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("an array without shape, dtype and bytes")
        _, shape, dtype, fortran, data = state
        self.fill(shape, dtype, data, "F" if fortran is True else "C")

    def fill(self, shape, dtype, data, order):
        """Check what belongs together: as many bytes as shape and dtype say."""
        if type(dtype) is not _DType or type(shape) is not tuple or len(shape) > MOST_AXES:
            raise ValueError("an array without a dtype and a shape of few axes")
        if any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"an array of shape ({', '.join(map(describe, shape))})")
        data = _as_bytes(data)
        if len(data) != math.prod(shape) * dtype.dtype.itemsize:
            raise ValueError(f"{len(data):,} bytes for an array of shape {shape} and dtype {dtype.dtype}")
        self.size, self.dtype, self.data, self.order = shape, dtype.dtype, data, order

    @property
    def num_bytes(self):
        """Bytes of the array."""
        return len(self.data)

    def to_numpy(self):
        """A copy in C order and in this machine's byte order."""
        array = np.frombuffer(self.data, self.dtype).reshape(self.size, order=self.order)
        return np.array(array, self.dtype.newbyteorder("="), order="C")


def _reconstruct(kind, *_):
    if kind != _NDARRAY:
        raise ValueError(f"an array of the class {kind if type(kind) is Name else describe(kind)}")
    return _Array()


def _from_buffer(data, dtype, shape, order, *_):
    array = _Array()
    array.fill(shape, dtype, data, "F" if order == "F" else "C")
    return array


def _scalar(dtype, data):
    array = _Array()
    array.fill((), dtype, data, "C")
    return array.to_numpy()[()].item()


def _encode(text, encoding="latin1"):
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes made of {describe(text)} by {describe(encoding)}")
    return text.encode("latin-1")


def _empty_bytes(*arguments):
    if arguments:
        raise ValueError(f"bytes made of {describe(arguments[0])}")
    return b""


def _as_bytes(data):
    """The bytes of an array; Python 2's were strings, which are read as latin-1."""
    if type(data) is str:
        return data.encode("latin-1")
    if type(data) not in (bytes, bytearray):
        raise ValueError(f"the numbers of an array in {describe(data)}")
    return bytes(data)
