"""Read a `.npz` file: an archive of numpy's arrays, as tensorpack's model zoo has them. Nothing in it is executed.

`archive.py` checks the archive. Here each array's header is read by numpy, and must describe exactly the bytes that the
archive holds for it; pickled objects are refused. Called by `loading.py`.
"""

import math

import numpy as np

from keras_maskrcnn.weights.archive import open_archive
from keras_maskrcnn.weights.limits import MOST_AXES, MOST_ENTRIES, reading

EXPECTED = "a .npz file of arrays of numbers, as numpy.savez writes it, whole"
REMEDY = "Nothing in it was executed. Copy or download it again if it may be damaged."
_SUFFIX = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NUMBERS = "fiub"


def read_npz(path):
    """Read the arrays of a file.

    Args:
        path: the file.

    Returns:
        dict of names to numpy arrays, in the file's order.

    Raises:
        WeightFileError: the file holds anything else, is damaged, or exceeds a limit of `limits.py`.
    """
    with reading(path, EXPECTED, REMEDY), open_archive(path) as (archive, members):
        if len(members) > MOST_ENTRIES:
            raise ValueError(f"an archive of {len(members):,} members; at most {MOST_ENTRIES:,}")
        foreign = [name for name in members if not name.endswith(_SUFFIX)]
        if foreign:
            raise ValueError(f"an archive with {foreign[0]!r:.80}, which is no array")
        return {name.removesuffix(_SUFFIX): _read_array(archive, info) for name, info in members.items()}


def _read_array(archive, info):
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{info.filename:.80} in version {version} of numpy's format")
        shape, fortran, dtype = _HEADERS[version](file)
        if dtype.hasobject or dtype.kind not in _NUMBERS or len(shape) > MOST_AXES:
            raise ValueError(f"{info.filename:.80}, which holds {dtype} of shape {shape} and no array of numbers")
        data = file.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data):,} bytes for {info.filename:.80} of shape {shape} and dtype {dtype}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype.newbyteorder("="), order="C")
