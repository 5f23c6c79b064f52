"""Files of weights from a table {"tensors": {name: {"shape", "dtype", "fill"}}}, however odd the table is."""

import io
import json
import random
import struct
import zipfile

import numpy as np

from .mutations import change_bytes

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage", "float16": "HalfStorage"}


def _tensors(spec):
    """[(name, shape, dtype, fill)], whatever the table holds."""
    table = spec.get("tensors") if isinstance(spec, dict) else spec
    for name, about in table.items() if isinstance(table, dict) else ():
        about = about if isinstance(about, dict) else {"shape": about}
        yield name, about.get("shape"), about.get("dtype"), about.get("fill")


def _values(shape, dtype, fill):
    """The bytes of a tensor, as far as the shape is one; else of four numbers."""
    good = isinstance(shape, list) and all(type(n) is int and 0 <= n < 100 for n in shape) and len(shape) < 9
    count = int(np.prod([float(n) for n in shape])) if good else 4
    try:
        with np.errstate(all="ignore"):
            return np.full(min(count, 20000), fill).astype(dtype if dtype in _STORAGES else "float32").tobytes()
    except (TypeError, ValueError, OverflowError):
        return b"\x00" * 4 * min(count, 20000)


# PyTorch --------------------------------------------------------------------------------------------------------


def pth_bytes(spec, rng):
    """A zip archive as torch.save writes it."""
    entries, members = [], {}
    for number, (name, shape, dtype, fill) in enumerate(_tensors(spec)):
        data = _values(shape, dtype, fill)
        kind = _STORAGES.get(dtype if isinstance(dtype, str) else "", "FloatStorage")
        size = {"DoubleStorage": 8, "LongStorage": 8, "HalfStorage": 2}.get(kind, 4)
        key = "0" if rng is not None and rng.random() < 0.03 else str(number)
        members[f"archive/data/{number}"] = data
        entries.append(_emit(name) + _tensor(kind, key, len(data) // size, shape, rng))
    body = b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(entries) + b"u."
    if rng is not None and rng.random() < 0.25:
        body = change_bytes(body, rng)
    file = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng is not None and rng.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", "little")
        for name, data in members.items():
            if rng is None or rng.random() > 0.02:
                archive.writestr(name, data if rng is None or rng.random() > 0.05 else change_bytes(data, rng))
    return _damaged(file.getvalue(), rng)


def _tensor(kind, key, count, shape, rng):
    odd = rng is not None and rng.random() < 0.15
    stride = _strides(shape)
    if odd:
        stride = rng.choice(([0] * len(stride), [-1] * len(stride), [2**31] * len(stride), stride[:-1], ["x"], [2**70]))
        count = rng.choice((count, count + 1, 0, 2**40, -1))
    storage = b"(" + _emit("storage") + f"ctorch\n{kind}\n".encode() + _emit(key) + _emit("cpu") + _emit(count) + b"tQ"
    offset = _emit(rng.choice((0, 1, -1, 2**40, 2**64)) if odd else 0)
    sides = _as_tuple(shape) + _as_tuple(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + sides + b"\x89ccollections\nOrderedDict\n)RtR"


def _strides(shape):
    if not (isinstance(shape, list) and all(type(n) is int for n in shape)):
        return [1]
    strides, step = [], 1
    for side in reversed(shape):
        strides.insert(0, step)
        step *= side
    return strides


def _as_tuple(value):
    return b"(" + b"".join(map(_emit, value)) + b"t" if isinstance(value, list) else _emit(value)


def _emit(value):
    """The pickle of a JSON value, protocol 2."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)[:255]
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, list):
        return b"](" + b"".join(map(_emit, value)) + b"e"
    return b"}(" + b"".join(_emit(key) + _emit(each) for key, each in value.items()) + b"u"


# safetensors ----------------------------------------------------------------------------------------------------


def safetensors_bytes(spec, rng):
    """A header of JSON, and the numbers."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, shape, dtype, fill in _tensors(spec):
        data = _values(shape, dtype, fill)
        kind = {"float32": "F32", "float64": "F64", "int64": "I64", "float16": "F16"}.get(str(dtype), str(dtype))
        offsets = [len(body), len(body) + len(data)]
        if rng is not None and rng.random() < 0.1:
            offsets = rng.choice(([0, 0], [offsets[1], offsets[0]], [0, 2**40], [-1, 4], ["0", 4]))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    length = len(text) if rng is None or rng.random() > 0.05 else rng.choice((0, 1, 2**20, 2**63, len(text) - 1))
    return _damaged(struct.pack("<Q", length) + text + body, rng)


# HDF5 -----------------------------------------------------------------------------------------------------------


def h5_bytes(spec, rng):
    """An HDF5 file as Keras writes it."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        for name, shape, dtype, fill in _tensors(spec):
            try:
                data = np.frombuffer(_values(shape, dtype, fill), dtype if dtype in _STORAGES else "float32")
                archive[name] = data.reshape(shape)
            except (ValueError, TypeError, OSError, RuntimeError, KeyError, NameError, OverflowError):
                _odd_dataset(archive, name, shape, rng or random.Random(0))
    return _damaged(file.getvalue(), rng)


def _odd_dataset(archive, name, shape, rng):
    """A dataset of text, without data, or of a huge shape that takes no space."""
    import h5py

    name = str(name).replace("\x00", "") or "x"
    kind = rng.randrange(3)
    try:
        if kind == 0:
            archive[name] = "text"
        elif kind == 1:
            archive[name] = h5py.Empty("f4")
        else:
            sides = tuple(n for n in shape if type(n) is int and 0 < n) if isinstance(shape, list) else (10**9,)
            archive.create_dataset(name, sides, "f4")
    except (ValueError, TypeError, OSError, RuntimeError, KeyError, OverflowError):
        return  # a name or a shape that HDF5 has no place for


def _damaged(data, rng):
    if rng is None or rng.random() > 0.3:
        return data
    for _ in range(rng.randrange(1, 4)):
        data = change_bytes(data, rng)
    return data
