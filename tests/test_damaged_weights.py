"""Weight files that are damaged or forged: each gives one error with the file's name, in little time and memory."""

import collections
import io
import json
import pathlib
import pickle
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from test_pth import Call, Storage, archive, fake_torch  # noqa: F401 (a fixture)
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.weights import limits, models
from keras_maskrcnn.weights.convert import convert_file
from keras_maskrcnn.weights.h5_files import array_shapes, read_array
from keras_maskrcnn.weights.keras_files import open_weights
from keras_maskrcnn.weights.limits import WeightFileError, reading
from keras_maskrcnn.weights.loading import read_state
from keras_maskrcnn.weights.pth import MAGIC, PROTOCOL, read_pth
from keras_maskrcnn.weights.zoo import config_for_state

safetensors = pytest.importorskip("safetensors.numpy")
GOLDEN = pathlib.Path(__file__).parent / "golden"


# Files cut and with other bytes --------------------------------------------------------------------------------------


def write_h5(path):
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for k in range(6):
            file[f"backbone/stage{k}/norm/vars/3"] = rng.random(8).astype("float32")
            file[f"backbone/stage{k}/conv/vars/0"] = rng.random((3, 3, 2, 4)).astype("float32")
    return path


def write_keras(path):
    weights = write_h5(path.with_name("inner.weights.h5"))
    with zipfile.ZipFile(path, "w") as file:
        file.write(weights, "model.weights.h5")
    return path


def read_h5(path):
    with open_weights(path) as file, limits.reading(path, "arrays", ""):
        return {key: read_array(file, key, path) for key in array_shapes(file)}


def read_flat(path):
    state = read_pth(path)["model"]
    return {name: array for name, array in state.items()}


FORMATS = {
    "zip.pth": (lambda path: shutil.copy(GOLDEN / "checkpoint_zip.pth", path), read_flat),
    "plain.pth": (lambda path: shutil.copy(GOLDEN / "checkpoint_plain.pth", path), read_flat),
    "a.weights.h5": (write_h5, read_h5),
    "a.keras": (write_keras, read_h5),
    "a.safetensors": (
        lambda path: safetensors.save_file({f"layer{k}": np.full((4, 3), k, "float32") for k in range(9)}, path),
        read_state,
    ),
}
HAS_CHECKSUMS = ("zip.pth", "a.keras")


@pytest.mark.parametrize("name", FORMATS)
def test_cut_files_and_other_bytes(tmp_path, name):
    write, read = FORMATS[name]
    path, rng = tmp_path / name, np.random.default_rng(15)
    write(path)
    good, expected = path.read_bytes(), read(path)
    damaged = [good[:place] for place in rng.integers(0, len(good), 30)]
    for _ in range(80):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            found = read(path)
        except WeightFileError as error:
            assert str(path) in str(error), error
            refused += 1
        except KeyError as error:  # of the key "model" in read_flat: the pickle is not under a checksum
            assert name == "plain.pth" and error.args == ("model",)
        else:
            if name in HAS_CHECKSUMS:
                assert list(found) == list(expected)
                for key, array in expected.items():
                    np.testing.assert_array_equal(found[key], array)
    assert refused >= 30


# Numbers that are no weights ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and its `.keras` file."""
    model = scatter_weights(km.MaskRCNN(tiny_config(backbone="resnet18")))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return model, path


def write_pth(path, state, rebuild):
    """A `.pth` file of arrays, as torch.save writes it."""
    content, storages = {}, {}
    for key, (name, array) in enumerate(state.items()):
        kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = Storage(str(key), array.size, kind)
        content[name] = Call(rebuild, storage, 0, array.shape, strides, False, {})
        storages[str(key)] = array.tobytes()
    return archive(path, content, storages)


def write_weights(model, path, rebuild):
    if path.suffix == ".pth":
        return write_pth(path, km.torchvision_state_dict(model), rebuild)
    if path.suffix == ".safetensors":
        safetensors.save_file(km.torchvision_state_dict(model), path)
    else:
        (model.save if path.suffix == ".keras" else model.save_weights)(path)
    return path


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.keras", "a.weights.h5"])
def test_numbers_that_are_not_finite_are_refused_and_named(tmp_path, fake_torch, saved, name, value):  # noqa: F811
    model, _ = saved
    layer = model.box_head.fcs[1]
    before = keras.ops.convert_to_numpy(layer.kernel)
    wrong = before.copy()
    wrong[3, 5] = value
    layer.kernel.assign(wrong)
    try:
        path = write_weights(model, tmp_path / name, fake_torch)
    finally:
        layer.kernel.assign(before)
    tensor = "roi_heads.box_head.fc7.weight" if name.endswith(("pth", "safetensors")) else "box_head/"
    with pytest.raises(WeightFileError, match=f"finite.*{tensor}.*{name}.*1 of"):
        km.load_weights(model, path)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.kernel), before)
    if name == "a.keras":
        with pytest.raises(WeightFileError, match=f"finite.*{tensor}.*{name}"):
            models.load_model(path)


@pytest.mark.parametrize(
    ("array", "found"),
    [(np.full(64, 1e300), "too large"), (np.full(64, -1, "float32"), "variance"), (np.full(64, "x"), "<U1")],
)
def test_numbers_that_no_variance_has(saved, array, found):
    model, _ = saved
    state = km.torchvision_state_dict(model) | {"backbone.body.bn1.running_var": array}
    with pytest.raises(ValueError, match=f"bn1.running_var.*{found}|{found}.*bn1.running_var"):
        km.load_weights(model, state)


def test_a_state_dict_of_other_things(saved):
    model, _ = saved
    for state, found in (
        ({"a": [[1.0]]}, "'a' with a list"),
        ({1: np.zeros(2)}, "1 with a ndarray"),
        ({"module.a": np.zeros(2), "a": np.zeros(2)}, "a twice"),
    ):
        with pytest.raises(ValueError, match=found):
            km.load_weights(model, state)


# Forged .pth files -------------------------------------------------------------------------------------------------

BOMB = b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (k - 1, k - 1, k) for k in range(1, 61)) + b"h\x3c"  # 2**60 lists
TUPLES = b")q\x000" + b"".join(b"h%ch%c\x86q%c0" % (k - 1, k - 1, k) for k in range(1, 61)) + b"h\x3c"
DICTS = b"}q\x000" + b"".join(b"}(K\x01h%cK\x02h%cuq%c0" % (k - 1, k - 1, k) for k in range(1, 61)) + b"h\x3c"
KEY = b"X\x01\x00\x00\x00a"
WIDE = b"(" + b"N" * 1000 + b"lq\x00" + b"h\x00" * 100  # one list of a thousand values, a hundred times
COPIES = b"](" + b"](K\x01K\x02e" * 5000 + b"eq\x000](" + b"ccollections\nOrderedDict\n(h\x00tR" * 5000 + b"e"


def forge(path, code):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + code)
    return path


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (b"ctorch._utils\n_rebuild_parameter\n}(" + KEY + b"K\x01ub.", "change a name"),
        (b"ctorch._utils\n_rebuild_tensor_v2\nN}(" + KEY + b"K\x01u\x86b.", "change a name"),  # slots
        (b"ccollections\nOrderedDict\n}(" + KEY + b"K\x01ub.", "change a name"),
        (b"ccollections\nOrderedDict\n" + KEY + b"K\x01s.", "sets entries of a name"),
        (b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R.", "a parameter that is no tensor"),
        (b"ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.", "without a storage"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "made of 1"),
        (b"}" + KEY + BOMB + b"s.", "inside each other|values in dictionaries"),
        (b"}" + KEY + TUPLES + b"s.", "inside each other|values in dictionaries"),
        (b"}" + KEY + DICTS + b"s.", "inside each other|values in dictionaries"),
        (b"}q\x00" + KEY + b"h\x00s.", "inside each other"),  # a dictionary in itself
        (b"}" + TUPLES + b"K\x01s.", "a tuple for a key"),
        (TUPLES + b"q\x640(hdhdhdhdhdtQ.", "a reference to a tuple"),
        (COPIES + b".", "entries of dictionaries"),
        (b"N0" * 600_000 + b"N.", "instructions"),
        (b"R.", "empty stack"),
        (b"t.", "marks"),
        (b"\x8a\xff.", "was not read"),
        (b"h\x05.", "was not read"),
        (b"I" + b"9" * 100_000 + b"\n.", "line of more"),
        (b"N.", "no dictionary"),
        (b"cos\nsystem\n.", "os.system"),
        (b"NK\x01a.", "a pickle that appends to None"),
        (b"K\x01K\x02\x93.", "a name that is not made of strings"),
        (b"ccollections\nOrderedDict\n]R.", "a call of collections.OrderedDict with a list instead of arguments"),
        (b"(" + KEY + b"d.", "a dictionary with a key and no value"),
        (b"ccollections\nOrderedDict\n(](K\x01K\x02K\x03\x87etR.", "dictionary that is not made of pairs"),
        (b"}" + KEY + b"(" + WIDE + b"ls.", "more than 100,000 values in dictionaries and lists"),
    ],
)
def test_forged_pickles(tmp_path, code, found):
    path = forge(tmp_path / "forged.pth", code)
    with pytest.raises(WeightFileError, match=found) as raised:
        read_pth(path)
    assert str(path) in str(raised.value) and len(str(raised.value)) < 3000


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"byteorder": b"big", "data.pkl": b"\x80\x02}."}, "tensors in big-endian order"),
        ({"data.pkl": b"\x80\x02}" + b"N0" * 500 + b"."}, "a pickle of 1,004 bytes; at most 1,000"),
    ],
)
def test_members_of_archives_that_are_not_read(tmp_path, monkeypatch, members, found):
    monkeypatch.setattr("keras_maskrcnn.weights.pth.MOST_PICKLE_BYTES", 1000)
    path = tmp_path / "members.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"archive/{name}", data)
    with pytest.raises(WeightFileError, match=f"members.pth was not read.*Found: {found}. Nothing in it was executed"):
        read_pth(path)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([{"a": 1}], "a pickle that torch.save did not write"),  # of pickle.dump, under another name
        ([MAGIC, 1002, {"little_endian": True}, {}, []], "protocol 1002, of which only 1001 in little-endian order"),
        ([MAGIC, PROTOCOL, {"little_endian": False}, {}, []], "protocol 1001, of which only 1001 in little-endian"),
        ([MAGIC, PROTOCOL, {"little_endian": True}, {}, ["0"]], "storages that are not those of the tensors"),
    ],
)
def test_plain_files_that_are_not_read(tmp_path, parts, found):
    path = tmp_path / "plain.pth"
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(WeightFileError, match=f"plain.pth was not read. Expected a PyTorch file.*Found: .*{found}"):
        read_pth(path)


def test_attributes_of_a_dictionary_are_passed_over(tmp_path):
    """torch sets `_metadata` of a state dict in this way. Nothing else gets attributes."""
    code = b"ccollections\nOrderedDict\n)R}(X\x05\x00\x00\x00itemsK\x01ub."
    before = set(vars(collections.OrderedDict))
    assert read_pth(forge(tmp_path / "metadata.pth", code)) == {}
    assert set(vars(collections.OrderedDict)) == before


@pytest.mark.parametrize(
    ("storage", "tensor", "found"),
    [
        (("0", 2**62), (0, (4,), (1,)), "16 bytes for 4,611,686,018,427,387,904"),
        (("0", -4), (0, (4,), (1,)), "-4 numbers"),
        (("../0", 4), (0, (4,), (1,)), "was not read"),
        (("0", 4), (0, (4,) * 9, (0,) * 9), "9 axes"),
        (("0", 4), (2**63, (1,), (1,)), "storage of 4 numbers"),
        (("0", 4), (0, (2, 2), (2**62, 1)), "storage of 4 numbers"),
        (("0", 4), (0, (True,), (1,)), "strides"),
    ],
)
def test_forged_tensors(tmp_path, fake_torch, storage, tensor, found):  # noqa: F811
    content = {"a": Call(fake_torch, Storage(*storage), *tensor, False, {})}
    with pytest.raises(WeightFileError, match=found):
        read_pth(archive(tmp_path / "tensor.pth", content, {"0": bytes(16)}))


def test_two_storages_under_one_key(tmp_path, fake_torch):  # noqa: F811
    views = {
        name: Call(fake_torch, Storage("0", count), 0, (4,), (1,), False, {}) for name, count in (("a", 4), ("b", 5))
    }
    with pytest.raises(WeightFileError, match="two different storages '0'"):
        read_pth(archive(tmp_path / "two.pth", views, {"0": bytes(16)}))


def test_tensors_that_share_storages_are_counted(tmp_path, fake_torch):  # noqa: F811
    content = {str(k): Call(fake_torch, Storage("0", 10**5), 0, (10**5,), (1,), False, {}) for k in range(50)}
    with pytest.raises(WeightFileError, match="share storages"):
        read_pth(archive(tmp_path / "shared.pth", content, {"0": bytes(4 * 10**5)}))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a/data.pkl", "a/data.pkl"], "two members"),
        (["a/data.pkl", "b/data.pkl"], "one data.pkl"),
        (["a/data.pkl", "a/../../x"], "outside"),
        (["a/data.pkl", "/etc/x"], "outside"),
        (["a/data.pkl", "C:x"], "outside"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_archives(tmp_path, names, found):
    path = tmp_path / "names.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"\x80\x02}.")
    with pytest.raises(WeightFileError, match=found):
        read_pth(path)


def test_archives_that_grow_or_overlap(tmp_path, monkeypatch):
    path = tmp_path / "grows.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.weights.h5", bytes(100 << 20))
    with pytest.raises(WeightFileError, match="grows to 104,857,600"):
        read_h5(path)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("a/data.pkl", bytes(3000))
        first = file.infolist()[0]
        for k in range(20):  # twenty names for the bytes of one
            copy = zipfile.ZipInfo(f"a/data/{k}")
            copy.file_size, copy.compress_size, copy.CRC = first.file_size, first.compress_size, first.CRC
            copy.header_offset = first.header_offset
            file.filelist.append(copy)
    overlapping = tmp_path / "overlapping.pth"
    overlapping.write_bytes(data.getvalue())
    with pytest.raises(WeightFileError, match="overlap"):
        read_pth(overlapping)
    monkeypatch.setattr("keras_maskrcnn.weights.archive.MOST_DIRECTORY_BYTES", 1000)
    with pytest.raises(WeightFileError, match="directory has"):
        read_pth(overlapping)


def test_a_long_directory_outside_the_file(tmp_path):
    """The place of the 64-bit record of a directory is a number in the file."""
    path = forge(tmp_path / "long.pth", b"}.")
    data = path.read_bytes()
    locator = b"PK\x06\x07" + bytes(4) + (1 << 40).to_bytes(8, "little") + (1).to_bytes(4, "little")
    path.write_bytes(data[:-22] + locator + data[-22:])
    with pytest.raises(WeightFileError, match="long.pth was not read"):
        read_pth(path)


# Forged .h5 files ----------------------------------------------------------------------------------------------------


def soft_loop(file, folder):
    file["backbone/loop"] = h5py.SoftLink("/backbone/loop")


def external_link(file, folder):
    file["backbone/link"] = h5py.ExternalLink(str(folder / "other.h5"), "/secret")


def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(16))
    file.create_dataset("backbone/outside", (4,), "float32", external=[(str(folder / "secret"), 0, 16)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4,))
    file.create_virtual_dataset("backbone/virtual", layout)


def huge(file, folder):
    file.create_dataset("backbone/huge", (1 << 40,), "float32", chunks=(1 << 10,), compression="gzip")


def strings(file, folder):
    file["backbone/text"] = ["a", "b"]


def nested(file, folder):
    file["/".join("a" * 66)] = np.zeros(2, "float32")


@pytest.mark.parametrize(
    ("forgery", "found"),
    [
        (nested, "more than 100,000 objects, or groups nested too deeply"),
        (soft_loop, "loop, a SoftLink"),
        (external_link, "link, a ExternalLink"),
        (external_storage, "outside, whose numbers are in other files"),
        (virtual, "virtual, whose numbers are in other files"),
        (huge, "state 4,398,046,5"),
        (strings, "text, which holds object"),
    ],
)
def test_forged_h5_files(tmp_path, saved, forgery, found):
    path = write_h5(tmp_path / "forged.weights.h5")
    with h5py.File(path, "r+") as file:
        forgery(file, tmp_path)
    with pytest.raises(WeightFileError, match=found) as raised:
        km.load_weights(saved[0], path, skip_mismatch=True)
    assert "forged.weights.h5" in str(raised.value)


# Forged .safetensors and .keras files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "length", "found"),
    [
        ({}, 1 << 40, "header of 1,099,511,627,776"),
        ({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, None, "was not read"),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            None,
            "was not read",
        ),
        ({"a": {"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}}, None, "was not read"),
    ],
)
def test_forged_safetensors(tmp_path, header, length, found):
    path, text = tmp_path / "forged.safetensors", json.dumps(header).encode()
    path.write_bytes((length or len(text)).to_bytes(8, "little") + text + bytes(8))
    if b"F8_E5M2" in text:
        try:
            state = read_state(path)
        except WeightFileError:
            return
        assert state["a"].shape == (8,)  # newer versions of the package read it
        return
    with pytest.raises(WeightFileError, match=found):
        read_state(path)


def with_config(source, path, change):
    """A copy of a `.keras` file with another config.json."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data.decode()).encode() if name == "config.json" else data)
    return path


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text.replace('"fpn_channels": 32', '"fpn_channels": 100000000'), "fpn_channels=100000000"),
        (lambda text: text.replace('"mask_convs": 1', '"mask_convs": 1000000'), "mask_convs=1000000"),
        (lambda text: text[: len(text) // 2], "was not read"),
        (lambda text: "[" * 10**5, "was not read"),
        (lambda text: "[]", "was not read"),
        (lambda text: text + " " * (1 << 24), "config.json of 16,.* bytes; at most 16,777,216"),
        (lambda text: text.replace('keras_maskrcnn>MaskRCNN"', 'keras_maskrcnn>Nothing"'), "was not read"),
    ],
)
def test_forged_configs(tmp_path, saved, change, found):
    path = with_config(saved[1], tmp_path / "forged.keras", change)
    with pytest.raises(WeightFileError, match=found) as raised:
        models.load_model(path)
    assert "forged.keras" in str(raised.value)


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_archives_without_a_part_of_a_model(tmp_path, name):
    path, weights = tmp_path / "part.keras", write_h5(tmp_path / "inner.weights.h5").read_bytes()
    members = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": weights}
    with zipfile.ZipFile(path, "w") as file:
        for each in members.keys() - {name}:
            file.writestr(each, members[each])
    with pytest.raises(WeightFileError, match=f"part.keras was not read.*Found: an archive without {name}. Copy"):
        models.load_model(path)


@pytest.mark.parametrize(
    "slip", [AttributeError("'Conv2D' object has no attribute '_kernel'"), KeyError("a"), TypeError()]
)
def test_a_slip_of_a_library_is_told_in_words_of_the_file(slip):
    with pytest.raises(WeightFileError) as raised, reading("a.keras", "a model", "Save it again."):
        raise slip
    assert str(raised.value) == (
        "a.keras was not read. Expected a model. Found: parts that do not belong together. Save it again."
    )


def test_layers_that_keras_cannot_load_are_named(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1, name="c1")])
    model.save(tmp_path / "whole.keras")
    change = lambda text: text.replace('"use_bias": true', '"use_bias": false')  # noqa: E731
    cut = with_config(tmp_path / "whole.keras", tmp_path / "cut.keras", change)
    with pytest.raises(
        WeightFileError, match="Found: 1 layers whose arrays are missing or do not fit; one is Conv2D name=c1.*"
    ):
        models.load_model(cut)


def test_a_model_with_a_lambda_layer_is_refused_and_nothing_runs(tmp_path):
    marker, place = tmp_path / "executed", str(tmp_path / "executed")
    layer = keras.layers.Lambda(lambda x: (open(place, "w").close(), x)[1])  # noqa: SIM115
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save(tmp_path / "lambda.keras")
    marker.unlink(missing_ok=True)
    with pytest.raises(WeightFileError, match="lambda.keras was not read"):
        models.load_model(tmp_path / "lambda.keras")
    assert not marker.exists()


def test_another_model_is_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(WeightFileError, match="a Sequential, which is no Mask R-CNN"):
        models.load_model(tmp_path / "other.keras")


def test_a_good_file_loads(saved):
    model, path = saved
    again = models.load_model(path)
    for ours, theirs in zip(model.weights, again.weights):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


def test_a_small_file_cannot_describe_a_large_model(tmp_path, saved):
    state = km.torchvision_state_dict(saved[0])
    for name, shape, found in (
        ("roi_heads.box_predictor.cls_score.weight", (4,), r"roi_heads.box_predictor.cls_score.weight \(4,\)"),
        ("backbone.fpn.layer_blocks.1.0.weight", (32, 32), r"backbone.fpn.layer_blocks.1.0.weight \(32, 32\)"),
        ("roi_heads.mask_predictor.conv5_mask.weight", None, "no roi_heads.mask_predictor.conv5_mask.weight"),
    ):
        changed = state | {name: None if shape is None else np.zeros(shape, "float32")}
        with pytest.raises(ValueError, match=f"sizes that belong together.*Received {found}. The file is damaged"):
            config_for_state({key: array for key, array in changed.items() if array is not None})
    state["backbone.fpn.inner_blocks.0.0.weight"] = np.zeros((300_000, 1, 1, 1), "float32")
    safetensors.save_file(state, tmp_path / "large.safetensors")
    with pytest.raises(ValueError, match="large.safetensors.*sizes that belong together"):
        convert_file(tmp_path / "large.safetensors", tmp_path / "large.keras")
