"""Open an HDF5 file that somebody else wrote.

HDF5 can do more than hold arrays: datasets may keep their numbers in other files (external storage, virtual datasets),
links may lead to other files or around in circles, and a dataset may state any size. Weights need none of it, and what
is not needed is refused before anything is read. Called by `keras_files.py` and `models.py`.
"""

import contextlib
import math
import os
import re

import h5py
import numpy as np

from keras_maskrcnn.weights.limits import MOST_ENTRIES, MOST_NESTING, inflated_limit
from keras_maskrcnn.weights.values import check_numbers

# Keras numbers the variables of a layer. That of batch norm's layers are gamma, beta, moving mean, moving variance.
_VARIANCE = re.compile(r"(^|/)norm/vars/3$")


@contextlib.contextmanager
def open_h5(path):
    """Open a file for reading, if it holds nothing but arrays in groups, of sizes that the file allows.

    Args:
        path: the file.

    Yields:
        h5py.File.

    Raises:
        ValueError, OSError, RuntimeError: it holds something else, is no HDF5 file, or is damaged.
    """
    with h5py.File(path, "r") as file:
        shapes = _check(file)
        limit, total = inflated_limit(os.path.getsize(path)), sum(map(_num_bytes, shapes))
        if total > limit:
            raise ValueError(f"datasets that state {total:,} bytes, in a file that allows {limit:,}")
        yield file


def array_shapes(file):
    """Dict of the names of all datasets to their shapes, in the file's order."""
    found = {}

    def visit(key, node):
        if isinstance(node, h5py.Dataset):
            found[key] = node.shape

    file.visititems(visit)
    return found


def read_array(file, key, source):
    """The numbers of one dataset, checked to be finite.

    Args:
        file: from `open_h5`. key: name of the dataset. source: name of the file for messages.
    """
    return check_numbers(source, key, file[key][...], bool(_VARIANCE.search(key)))


def _check(file):
    """Check every link, not following the soft and external ones. Returns all datasets."""
    datasets, count = [], 0

    def visit(key, link):
        nonlocal count
        count += 1
        if count > MOST_ENTRIES or key.count("/") > 4 * MOST_NESTING:
            return f"more than {MOST_ENTRIES:,} objects, or groups nested too deeply"
        if not isinstance(link, h5py.HardLink):
            return f"{key[:80]}, a {type(link).__name__}; weights are in the file itself"
        node = file[key]
        if isinstance(node, h5py.Dataset):
            datasets.append(node)
            return _fault(key, node)
        return None if isinstance(node, h5py.Group) else f"{key[:80]}, a {type(node).__name__}"

    fault = file.visititems_links(visit)  # stops at the first result; an exception would not pass HDF5 unchanged
    if fault is not None:
        raise ValueError(fault)
    return datasets


def _fault(key, dataset):
    if dataset.external or dataset.is_virtual:
        return f"{key[:80]}, whose numbers are in other files"
    if dataset.shape is None or dataset.dtype.kind not in "fiub":
        return f"{key[:80]}, which holds {dataset.dtype} and no array of numbers"
    return None


def _num_bytes(dataset):
    return math.prod(dataset.shape) * np.dtype(dataset.dtype).itemsize
