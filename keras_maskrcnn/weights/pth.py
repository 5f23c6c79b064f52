"""Read a PyTorch file without executing it. Supports only what a dictionary of tensors needs.

A `.pth` file is a pickle, and a pickle is a program. Two checks make it safe: every opcode is compared with an allow
list before anything runs, and names resolve to placeholders in this module, never to an import. It reads both file
formats: the zip archive (torch >= 1.6) and the older plain pickles, which torchvision's v1 COCO weights use.

If torch is installed, `torch.load(weights_only=True)` reads the file instead, with the same restrictions.
"""

import collections
import io
import math
import pickle
import pickletools
import zipfile

import numpy as np

from keras_maskrcnn.backend import torch_files

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the plain format, torch/serialization.py
PROTOCOL = 1001

# Exceptions of pickle, pickletools, zipfile and the checks below for forged or damaged files.
_DAMAGE = (ValueError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, TypeError, AttributeError)

# Opcodes in pickles of tensors, numbers, strings and containers of them.
ALLOWED_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
    """.split()
)


def read_pth(path):
    """Read the tensors of a PyTorch file.

    Args:
        path: path of a file written by `torch.save`: a dictionary of tensors, possibly nested (a checkpoint).

    Returns:
        dict as saved, with numpy arrays instead of tensors; bfloat16 becomes float32.

    Raises:
        ValueError: the file holds anything else, or is damaged. Nothing in it was executed.
    """
    if not torch_files.has_torch():
        return read_pth_without_torch(path)
    try:
        return _to_numpy(torch_files.load_tensors(path))
    except ValueError as error:
        raise _refusal(path, error) from error


def _to_numpy(value):
    if isinstance(value, dict):
        return {key: _to_numpy(each) for key, each in value.items()}
    return tensor_to_numpy(value)


def tensor_to_numpy(value):
    """Convert a torch tensor to a numpy array (bfloat16 to float32). Other values are returned unchanged."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def read_pth_without_torch(path):
    """`read_pth` with the reader of this module, even if torch is installed."""
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with open(path, "rb") as file:
            return _read_plain(file)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        raise _refusal(path, error) from error
    except ValueError as error:  # from pickletools, and from the checks below
        raise _refusal(path, error) from error


def _refusal(path, error):
    return ValueError(
        f"{path} was not read. Expected a PyTorch file with only tensors, numbers and strings in dictionaries. "
        f"Found: {error}. Nothing in it was executed. If you trust it, load it with torch and save only "
        "model.state_dict(), preferably as a .safetensors file."
    )


# The two file formats ----------------------------------------------------------------------------------------------


def _read_archive(path):
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise ValueError("a zip archive without data.pkl, such as a TorchScript model")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise ValueError("compressed entries, which torch.save does not write")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ValueError("tensors in big-endian order")

        def fill(storage):
            storage.fill(archive.read(entries[f"data/{storage.key}"]))

        state, _, storages = _unpickle(archive.read(entries["data.pkl"]))
        return _finish(state, storages.values(), fill)


def _read_plain(file):
    data, parts = memoryview(file.read()), {}
    for name in ("magic", "protocol", "system", "state", "keys"):
        parts[name], length, storages = _unpickle(data)
        data = data[length:]
        if name == "magic" and parts[name] != MAGIC:
            raise ValueError("a pickle that torch.save did not write")
        if name == "state":
            named = storages
    if parts["protocol"] != PROTOCOL or not parts["system"].get("little_endian", True):
        raise ValueError(f"protocol {parts['protocol']}, system {parts['system']}")
    contents = {}
    for key in parts["keys"]:  # each storage: the count of its numbers, then the numbers
        end = 8 + int.from_bytes(data[:8], "little") * named[key].dtype.itemsize
        contents[key], data = data[8:end], data[end:]
    return _finish(parts["state"], named.values(), lambda storage: storage.fill(contents[storage.key]))


def _finish(state, storages, fill):
    for storage in storages:
        fill(storage)
    return _arrays(state)


def _arrays(value):
    if isinstance(value, dict):
        return {key: _arrays(each) for key, each in value.items()}
    return value.to_numpy() if isinstance(value, _Tensor) else value


# The pickle --------------------------------------------------------------------------------------------------------


def _unpickle(data):
    """The pickle at the start of `data`: its value, its length in bytes, and the storages it refers to, by key."""
    length = _check_opcodes(io.BytesIO(data))
    reader = _Reader(io.BytesIO(data[:length]), encoding="utf-8")
    return reader.load(), length, reader.storages


def _check_opcodes(file):
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name not in ALLOWED_OPCODES:
            raise ValueError(f"the pickle instruction {opcode.name} at byte {position}")
        if opcode.name == "GLOBAL":
            _stand_in(*argument.split(" ", 1))
    return position + 1


def _stand_in(module, name):
    if (module, name) not in _STAND_INS:
        raise ValueError(f"the name {module}.{name}, which no tensor needs")
    return _STAND_INS[module, name]


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing and collects the storages that tensors refer to."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.storages = {}

    def find_class(self, module, name):
        """The placeholder for a name. Raises for names that are not allowed."""
        return _stand_in(module, name)

    def persistent_load(self, reference):
        """The storage of a tensor: ("storage", type, key, device, count); plain files add a sixth entry, None."""
        tag, kind, key, _, count, *view = reference
        if tag != "storage" or not isinstance(kind, _Kind) or view not in ([], [None]):
            raise ValueError(f"a reference to {tag!r}")
        return self.storages.setdefault(key, _Storage(key, str(kind), count))


class _Fixed:
    """Base of objects that a pickle may create but not change afterwards."""

    def __setstate__(self, state):
        raise ValueError(f"an instruction to change a {type(self).__name__.strip('_').lower()}")


class _Kind(_Fixed, str):
    """Placeholder for a storage class of torch: the dtype of its numbers."""


class _Storage(_Fixed):
    """Numbers that several tensors may share. Filled after the pickle has been read."""

    def __init__(self, key, kind, count):
        self.key, self.kind, self.count = key, kind, count
        self.dtype = np.dtype("<u2" if kind == "bfloat16" else kind)
        self.numbers = None

    def fill(self, data):
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes for {self.count} numbers of {self.dtype.itemsize} bytes")
        self.numbers = np.frombuffer(data, self.dtype)
        if self.kind == "bfloat16":
            self.numbers = (self.numbers.astype("<u4") << 16).view("<f4")


class _Tensor(_Fixed):
    """A view into a storage."""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def to_numpy(self):
        """A copy in C order, after a bounds check."""
        numbers, sides = self.storage.numbers, (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(not isinstance(each, int) or each < 0 for each in sides):
            raise ValueError(f"a tensor of shape {self.size} with strides {self.stride} at {self.offset}")
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if count > numbers.size or (count and last >= numbers.size):
            raise ValueError(f"a tensor of shape {self.size} in a storage of {numbers.size} numbers")
        if not count:
            return np.empty(self.size, numbers.dtype)
        strides = [step * numbers.itemsize for step in self.stride]
        return np.array(np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides), order="C")


_STAND_INS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "FloatStorage"): _Kind("<f4"),
    ("torch", "DoubleStorage"): _Kind("<f8"),
    ("torch", "HalfStorage"): _Kind("<f2"),
    ("torch", "BFloat16Storage"): _Kind("bfloat16"),
    ("torch", "LongStorage"): _Kind("<i8"),
    ("torch", "IntStorage"): _Kind("<i4"),
    ("torch", "ShortStorage"): _Kind("<i2"),
    ("torch", "CharStorage"): _Kind("<i1"),
    ("torch", "ByteStorage"): _Kind("<u1"),
    ("torch", "BoolStorage"): _Kind("|b1"),
}
