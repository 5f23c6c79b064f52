"""The reader of PyTorch files: files that torch wrote, and forged ones that must not run."""

import io
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from keras_maskrcnn.weights.pth import MAGIC, PROTOCOL, read_pth

GOLDEN = pathlib.Path(__file__).parent / "golden"  # checkpoint_*.pth: torch 2.15, values as below

EXPECTED = {
    "kernel": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "view": np.arange(24, dtype="float32").reshape(4, 6).T[1:3],
    "parameter": np.array([0.5, -0.25], "float32"),
    "half": np.array([1.5, -2.0], "float16"),
    "bfloat16": np.array([1.0, -3.140625, 1.000255553e30], "float32"),
    "counter": np.array(7, "int64"),
    "double": np.array([[1e-300, 2.0]]),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), "float32"),
}


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_files_of_torch(form):
    checkpoint = read_pth(GOLDEN / f"checkpoint_{form}.pth")
    assert (checkpoint["epoch"], checkpoint["lr"]) == (3, 0.02) and checkpoint["note"].startswith("made by torch")
    assert list(checkpoint["model"]) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        array = checkpoint["model"][name]
        assert array.dtype == expected.dtype and array.shape == expected.shape, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


# Forged files ------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of a function, as torch.load without weights_only would make it."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def stand_in(module, name):
    """A class that pickles by this global name."""
    holder = sys.modules.setdefault(module, types.ModuleType(module))
    if not hasattr(holder, name):
        setattr(holder, name, type(name, (), {"__module__": module}))
    return getattr(holder, name)


class TensorPickler(pickle.Pickler):
    """Writes ("storage", ...) tuples wrapped in Storage as torch's references."""

    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


class Storage:
    def __init__(self, key, count, kind="FloatStorage", tag="storage"):
        self.reference = (tag, stand_in("torch", kind), key, "cpu", count)


@pytest.fixture
def fake_torch(monkeypatch):
    """Modules by whose names pickles are written; they are gone before anything reads."""
    before = set(sys.modules)
    rebuild = stand_in("torch._utils", "_rebuild_tensor_v2")
    yield rebuild
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "torch":
            del sys.modules[name]


def archive(path, content, storages, compression=zipfile.ZIP_STORED):
    """A zip file as torch.save writes it."""
    buffer = io.BytesIO()
    TensorPickler(buffer, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", buffer.getvalue())
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


def test_a_call_of_os_system_is_refused_and_nothing_runs(tmp_path):
    import os

    marker = tmp_path / "executed"
    bomb = {"weight": Call(os.system, f"touch {marker}")}
    files = [archive(tmp_path / "zip.pth", bomb, {}), tmp_path / "plain.pth", tmp_path / "bare.pth"]
    system = {"little_endian": True}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, system, bomb, [])]
    files[1].write_bytes(b"".join(parts))
    files[2].write_bytes(pickle.dumps(bomb))  # STACK_GLOBAL instead of GLOBAL
    for path in files:
        with pytest.raises(ValueError, match="system.*[Nn]othing in it was executed"):
            read_pth(path)
    assert not marker.exists()
    # The same bytes do run where nobody looks first, so the check above means something.
    pickle.loads(pickle.dumps(bomb))
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"a": {1, 2}}, "__builtin__.set"),
        ({"a": complex(1, 2)}, "__builtin__.complex"),
        ({"a": Call(eval, "1")}, "eval"),
        ({"a": np.zeros(2)}, "numpy"),
        ({"a": pathlib.PurePosixPath("x")}, "pathlib"),
    ],
)
def test_other_names_are_refused(tmp_path, content, found):
    with pytest.raises(ValueError, match=found):
        read_pth(archive(tmp_path / "other.pth", content, {}))


@pytest.mark.parametrize("code", [b"\x80\x02}(ios\nsystem\n.", b"\x80\x02(cos\nsystem\no.", b"\x80\x04\x82\x01."])
def test_other_instructions_are_refused(tmp_path, code):
    """INST, OBJ, EXT1: ways to name and call without GLOBAL and REDUCE."""
    path = tmp_path / "code.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", code)
    with pytest.raises(ValueError, match="(instruction|name)"):
        read_pth(path)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        ((1, (4,), (1,)), "storage of 4 numbers"),  # one number too far
        ((0, (2, 3), (3, 1)), "storage of 4 numbers"),
        ((0, (10**6, 10**6), (0, 0)), "storage of 4 numbers"),  # no end of memory for 4 numbers
        ((-1, (2,), (1,)), "strides"),
        ((0, (2,), (-1,)), "strides"),
        ((0, (2, 2), (1,)), "strides"),
        ((0, ("2",), (1,)), "strides"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, fake_torch, tensor, found):
    offset, size, stride = tensor
    content = {"a": Call(fake_torch, Storage("0", 4), offset, size, stride, False, {})}
    with pytest.raises(ValueError, match=found):
        read_pth(archive(tmp_path / "bounds.pth", content, {"0": bytes(16)}))


def test_a_forged_tensor_that_fits_is_read(tmp_path, fake_torch):
    """The forger above writes what torch would: within bounds it is a good file."""
    data = struct.pack("<4f", 1, 2, 3, 4)
    content = {"a": Call(fake_torch, Storage("0", 4), 0, (2, 2), (1, 2), False, {})}
    state = read_pth(archive(tmp_path / "good.pth", content, {"0": data}))
    np.testing.assert_array_equal(state["a"], [[1, 3], [2, 4]])


@pytest.mark.parametrize("data", [bytes(12), bytes(20), None])
def test_damaged_storages_are_refused(tmp_path, fake_torch, data):
    content = {"a": Call(fake_torch, Storage("0", 4), 0, (4,), (1,), False, {})}
    storages = {} if data is None else {"0": data}
    with pytest.raises(ValueError, match="was not read"):
        read_pth(archive(tmp_path / "short.pth", content, storages))


def test_compressed_archives_and_other_files_are_refused(tmp_path, fake_torch):
    content = {"a": Call(fake_torch, Storage("0", 4), 0, (4,), (1,), False, {})}
    packed = archive(tmp_path / "packed.pth", content, {"0": bytes(16)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_pth(packed)
    text = tmp_path / "text.pth"
    text.write_text("<html>404</html>")
    with pytest.raises(ValueError, match="was not read"):
        read_pth(text)
    for form in ("zip", "plain"):
        whole = (GOLDEN / f"checkpoint_{form}.pth").read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 3):
            cut = tmp_path / "cut.pth"
            cut.write_bytes(whole[:length])
            with pytest.raises(ValueError, match="was not read"):
                read_pth(cut)


def test_what_was_made_cannot_be_changed_afterwards(tmp_path, fake_torch):
    """BUILD sets attributes: of a tensor it could move the bounds after they were looked at."""

    class Changed(Call):
        def __reduce__(self):
            return self.function, self.args, {"size": (10**9,)}

    content = {"a": Changed(fake_torch, Storage("0", 4), 0, (4,), (1,), False, {})}
    with pytest.raises(ValueError, match="change a tensor"):
        read_pth(archive(tmp_path / "changed.pth", content, {"0": bytes(16)}))
