"""Read a PyTorch file without executing it. Supports only what a dictionary of tensors needs.

A `.pth` file is a pickle, and a pickle is a program: `pickles.py` runs it on a machine that cannot import, call or
change anything but the functions here that make a tensor and a dictionary. It reads both file formats: the zip archive
(torch >= 1.6) and the older plain pickles, which torchvision's v1 COCO weights use. torch is not needed.

Checkpoints of mmengine also hold the log of the training, under `message_hub`, as objects of its own class and of
numpy. They become stand-ins without content, and are thrown away with that entry; anywhere else they are refused.
"""

import io
import math
import os
import zipfile

import numpy as np

from keras_maskrcnn.weights.archive import is_archive, open_archive
from keras_maskrcnn.weights.limits import (
    MEBIBYTE,
    MOST_AXES,
    MOST_ENTRIES,
    MOST_NESTING,
    MOST_PICKLE_BYTES,
    MOST_SHARING,
    reading,
)
from keras_maskrcnn.weights.pickles import Name, as_dict, describe, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the plain format, torch/serialization.py
PROTOCOL = 1001

EXPECTED = "a PyTorch file with only tensors, numbers and strings in dictionaries"
REMEDY = (
    "Nothing in it was executed. Copy or download it again if it may be damaged. If you trust it, load it with torch "
    "and save only model.state_dict(), preferably as a .safetensors file."
)

# Storage classes of torch and the dtypes of their numbers. Numpy has no bfloat16.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_KINDS = {Name("torch", name): kind for name, kind in STORAGES.items()}
_LOG = Name("mmengine.logging.history_buffer", "HistoryBuffer")
_LOG_ENTRY = "message_hub"
_NUMPY = {
    Name("numpy", "dtype"),
    Name("_codecs", "encode"),
    *(Name(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}


def read_pth(path):
    """Read the tensors of a PyTorch file.

    Args:
        path: path of a file written by `torch.save`: a dictionary of tensors, possibly nested (a checkpoint).

    Returns:
        dict as saved, with numpy arrays instead of tensors; bfloat16 becomes float32.

    Raises:
        WeightFileError: the file holds anything else, is damaged, or exceeds a limit of `limits.py`. Nothing in it was
            executed.
    """
    with reading(path, EXPECTED, REMEDY):
        size = os.path.getsize(path)
        state, storages = _read_archive(path) if is_archive(path) else _read_plain(path, size)
        if not isinstance(state, dict):
            raise ValueError(f"{describe(state)} and no dictionary")
        state = {key: value for key, value in state.items() if key != _LOG_ENTRY}
        converter = Converter(_Tensor, MOST_SHARING * size + MEBIBYTE, _Storage, _TrainingLog, _NumpyArray)
        return converter.convert(state)


def tensor_to_numpy(value):
    """Convert a torch tensor to a numpy array (bfloat16 to float32). Other values are returned unchanged."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


# The two file formats ----------------------------------------------------------------------------------------------


def _read_archive(path):
    with open_archive(path) as (archive, members):
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("compressed entries, which torch.save does not write")
        folders = {name.split("/", 1)[0] for name in members if name.endswith("/data.pkl")}
        if len(folders) != 1:
            raise ValueError("a zip archive without one data.pkl, such as a TorchScript model")
        folder = folders.pop()
        order = members.get(f"{folder}/byteorder")
        if order is not None and archive.read(order) != b"little":
            raise ValueError("tensors in big-endian order")
        content = members[f"{folder}/data.pkl"]
        if content.file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"a pickle of {content.file_size:,} bytes; at most {MOST_PICKLE_BYTES:,}")
        state, storages = _run_pickle(io.BytesIO(archive.read(content)))
        for storage in storages.values():
            storage.fill(archive.read(members[f"{folder}/data/{storage.key}"]))
        return state, storages


def _read_plain(path, size):
    with open(path, "rb") as file:
        parts = []
        for _ in ("magic", "protocol", "system", "state", "keys"):
            part, found = _run_pickle(file)
            parts.append(part)
            if parts[0] != MAGIC:
                raise ValueError("a pickle that torch.save did not write")
            if len(parts) == 4:
                storages = found
        _, protocol, system, state, keys = parts
        if protocol != PROTOCOL or type(system) is not dict or not system.get("little_endian", True):
            raise ValueError(f"protocol {describe(protocol)}, of which only {PROTOCOL} in little-endian order is read")
        if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
            raise ValueError("a list of storages that are not those of the tensors")
        for key in keys:  # each storage: the count of its numbers, then the numbers
            storages[key].check_count(int.from_bytes(file.read(8), "little"), size)
            storages[key].fill(file.read(storages[key].num_bytes))
        return state, storages


def _run_pickle(file):
    """One pickle: its value, and the storages that it refers to, by key."""
    maker = _Maker()
    names = {*maker.calls, *_KINDS, Name("numpy", "ndarray")}
    parts = (_TrainingLog, _NumpyArray)
    return read_pickle(file, names, maker.calls, maker.load_storage, buildable=parts), maker.storages


# What a pickle may make --------------------------------------------------------------------------------------------


class _Storage:
    """Numbers that several tensors may share. Filled after the pickle has been read."""

    def __init__(self, key, kind, count):
        self.key, self.kind, self.count = key, kind, count
        self.dtype = np.dtype("<u2" if kind == "bfloat16" else kind)
        self.num_bytes = count * self.dtype.itemsize
        self.numbers = None

    def check_count(self, count, size):
        """Check the count that stands before the numbers, and that a file of `size` bytes can hold them."""
        if count != self.count or self.num_bytes > size:
            raise ValueError(f"{count:,} numbers in a storage of {self.count:,}, in a file of {size:,} bytes")

    def fill(self, data):
        if len(data) != self.num_bytes:
            raise ValueError(f"{len(data):,} bytes for {self.count:,} numbers of {self.dtype.itemsize} bytes")
        self.numbers = np.frombuffer(data, self.dtype)
        if self.kind == "bfloat16":
            self.numbers = (self.numbers.astype("<u4") << 16).view("<f4")


class _Tensor:
    """A view into a storage. The first four arguments of torch's `_rebuild_tensor_v2` count."""

    def __init__(self, storage, offset, size, stride, *_):
        if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple:
            raise ValueError("a tensor without a storage, a shape and strides")
        if max(len(size), len(stride)) > MOST_AXES:
            raise ValueError(f"a tensor of {len(size)} axes; at most {MOST_AXES}")
        if len(size) != len(stride) or any(type(each) is not int or each < 0 for each in (offset, *size, *stride)):
            shape, strides = (", ".join(map(describe, each)) for each in (size, stride))
            raise ValueError(f"a tensor of shape ({shape}) with strides ({strides}) at {describe(offset)}")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if self.count > storage.count or (self.count and last >= storage.count):
            shape = ", ".join(map(describe, size))
            raise ValueError(f"a tensor of shape ({shape}) in a storage of {storage.count} numbers")

    @property
    def num_bytes(self):
        """Bytes of a copy."""
        return self.count * self.storage.numbers.itemsize

    def to_numpy(self):
        """A copy in C order."""
        numbers = self.storage.numbers
        if not self.count:
            return np.empty(self.size, numbers.dtype)
        strides = [step * numbers.itemsize for step in self.stride]
        return np.array(np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides), order="C")


class _NumpyArray:
    """A stand-in for an array or a number of numpy, without content."""

    def __init__(self, *_):
        pass

    def set_state(self, state):
        """The content is thrown away."""


class _TrainingLog(_NumpyArray):
    """A stand-in for a `HistoryBuffer` of mmengine, without content."""


def _method_of_log(owner=None, name=None, *_):
    """`getattr`, by which a pickle names the methods of mmengine's class; of anything else it is refused."""
    if owner != _LOG or type(name) is not str:
        raise ValueError(f"a call of getattr of {owner if type(owner) is Name else describe(owner)}")
    return _TrainingLog()


class DictMaker:
    """Makes the ordered dictionaries of one pickle, and counts their entries: pickles share what they nest."""

    def __init__(self):
        self.entries = 0

    def make_dict(self, pairs=()):
        """A dictionary; Python 2 wrote its entries as an argument, a list of lists of two."""
        if type(pairs) not in (list, tuple):
            raise ValueError(f"an ordered dictionary made of {describe(pairs)}")
        self.entries += len(pairs)
        if self.entries > MOST_ENTRIES:
            raise ValueError(f"more than {MOST_ENTRIES:,} entries of dictionaries")
        if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
            raise ValueError("an ordered dictionary that is not made of pairs")
        return as_dict([each for pair in pairs for each in pair])


class _Maker(DictMaker):
    """The functions that one pickle may call, and what they have made."""

    def __init__(self):
        super().__init__()
        self.storages = {}
        self.calls = {
            Name("collections", "OrderedDict"): self.make_dict,
            Name("torch._utils", "_rebuild_tensor_v2"): _Tensor,
            Name("torch._utils", "_rebuild_parameter"): self.take_parameter,
            _LOG: _TrainingLog,
            **dict.fromkeys(_NUMPY, _NumpyArray),
            **{Name(module, "getattr"): _method_of_log for module in ("builtins", "__builtin__")},
        }

    def load_storage(self, reference):
        """The storage of a tensor: ("storage", class, key, device, count); plain files add a sixth entry, None."""
        tag, kind, key, _, count, *view = reference
        if tag != "storage" or type(kind) is not Name or kind not in _KINDS or view not in ([], [None]):
            raise ValueError(f"a reference to {describe(tag)}")
        if type(key) is not str or type(count) is not int or count < 0:
            raise ValueError(f"a storage {describe(key)} of {describe(count)} numbers")
        found = self.storages.setdefault(key, _Storage(key, _KINDS[kind], count))
        if (found.kind, found.count) != (_KINDS[kind], count):
            raise ValueError(f"two different storages {describe(key)}")
        return found

    def take_parameter(self, tensor, *_):
        """A parameter is its tensor."""
        if type(tensor) is not _Tensor:
            raise ValueError("a parameter that is no tensor")
        return tensor


class Converter:
    """Copies dictionaries and lists, with arrays for tensors. What a pickle shares is copied, so it is counted.

    Args:
        kind: class of the tensors, with `num_bytes` and `to_numpy()`. most_bytes: of all of them.
        *parts: classes of what a tensor is made of, and nothing else may hold.
    """

    def __init__(self, kind, most_bytes, *parts):
        self.kind, self.most_bytes, self.parts = kind, most_bytes, (Name, *parts)
        self.entries = self.bytes = 0

    def convert(self, value, depth=0):
        """The value with arrays for its tensors."""
        self.entries += 1
        if self.entries > MOST_ENTRIES:
            raise ValueError(f"more than {MOST_ENTRIES:,} values in dictionaries and lists")
        if depth > MOST_NESTING:
            raise ValueError(f"more than {MOST_NESTING} dictionaries or lists inside each other")
        if type(value) is dict:
            return {key: self.convert(each, depth + 1) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.convert(each, depth + 1) for each in value)
        if type(value) is self.kind:
            return self._array(value)
        if type(value) in self.parts:
            raise ValueError(f"{describe(value)} that belongs to no tensor")
        return value

    def _array(self, tensor):
        self.bytes += tensor.num_bytes
        if self.bytes > self.most_bytes:
            raise ValueError(f"tensors that share storages and take more than {self.most_bytes:,} bytes")
        return tensor.to_numpy()
