"""Loading and exporting weights: names, layouts, receipts, and what is said when they do not fit."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import ops
from tiny import scatter_weights, tiny_config
from torchvision_golden import VERSIONS, state_spec

import keras_maskrcnn as km
from keras_maskrcnn.weights import published, read_state
from keras_maskrcnn.weights.coco import COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from keras_maskrcnn.weights.convert import convert_file
from keras_maskrcnn.weights.keras_files import write_backbone
from keras_maskrcnn.weights.limits import WeightFileError
from keras_maskrcnn.weights.torchvision import COUNTER, current_names, read_architecture, tensor_table

SMALLEST = {"backbone": "resnet10"}  # torchvision has no such, Keras' files hold any
HEADS = ("box_head/classes", "box_head/deltas", "mask_head/logits")


@functools.cache
def built(seed, **overrides):
    """A model for each seed and architecture: making its weights takes longer than most tests."""
    torchvision_has_it = {"backbone": "resnet18"}
    return km.MaskRCNN(tiny_config(**torchvision_has_it | overrides))


@functools.cache
def first_values(seed, **overrides):
    """The weights of such a model when it is new, as arrays: drawing them takes longer than most tests, too."""
    return [ops.convert_to_numpy(weight) for weight in scatter_weights(built(seed, **overrides), seed).weights]


def tiny_model(seed=0, **overrides):
    """The same model for the same arguments, with its first weights."""
    model = built(seed, **overrides)
    for weight, value in zip(model.weights, first_values(seed, **overrides), strict=True):
        weight.assign(value)
    return model


def values_of(model):
    """Copies of the weights by name."""
    return {weight.path.split("/", 1)[-1]: np.array(ops.convert_to_numpy(weight)) for weight in model.weights}


def overwrite(model):
    """Give all weights another value than they have: a source must bring each of them back."""
    for weight in model.weights:
        weight.assign(ops.full(weight.shape, 7, weight.dtype))


def assert_equal_weights(a, b):
    """Compare two models, or two dicts from `values_of`."""
    ours, theirs = (each if isinstance(each, dict) else values_of(each) for each in (a, b))
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        if "seed" not in name:
            assert value.shape == theirs[name].shape and np.array_equal(value, theirs[name]), name


# Torchvision's names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_exported_names_and_shapes_are_torchvisions(version):
    model = getattr(km, VERSIONS[version])(90)
    expected = [(name, tuple(shape)) for name, shape, _, _ in state_spec(version)[0]]
    exported = km.torchvision_state_dict(model)
    assert [(name, array.shape) for name, array in exported.items()] == expected
    assert {str(array.dtype) for name, array in exported.items() if name.endswith(COUNTER)} == {"int64"}


def narrow_model(version):
    """Torchvision's model with all of its tensors, narrower: their full shapes are compared above."""
    heads = {"fpn_channels": 32, "box_features": 64, "mask_channels": 32}
    return getattr(km, VERSIONS[version])(90, **heads)


def random_like(array, rng):
    """Numbers in 0.5..1.5, which a variance may be; counters as they are."""
    return rng.random(array.shape, array.dtype) + array.dtype.type(0.5) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip_through_torchvision_is_exact(version):
    """Theirs to ours to theirs: all but the background rows of boxes and masks, which nothing reads."""
    model, rng = narrow_model(version), np.random.default_rng(0)
    state = {name: random_like(array, rng) for name, array in km.torchvision_state_dict(model).items()}
    receipt = km.load_weights(model, state)
    assert receipt.complete and len(receipt.used) == len([name for name in state if COUNTER not in name])
    exported, expected = km.torchvision_state_dict(model), values_of(model)
    for name, array in state.items():
        background = 4 if "roi_heads.box_predictor.bbox_pred" in name else 1 if "mask_fcn_logits" in name else 0
        found = np.atleast_1d(exported[name])
        np.testing.assert_array_equal(found[background:], np.atleast_1d(array)[background:], err_msg=name)
        assert not found[:background].any()
    overwrite(model)
    km.load_weights(model, exported)
    assert_equal_weights(values_of(model), expected)


@pytest.mark.parametrize(
    "overrides",
    [
        {"backbone": "resnet34", "norm": "batch"},
        {"backbone": "resnet18", "norm": "group", "head_norm": "group", "mask_channels": 32},
        {"backbone": "resnet18", "head_norm": "batch", "box_convs": 2, "box_fcs": 2, "rpn_convs": 3, "num_classes": 1},
    ],
)
def test_round_trip_of_other_architectures(overrides):
    model = scatter_weights(built(0, **overrides))
    state, expected = km.torchvision_state_dict(model), values_of(model)
    overwrite(model)
    km.load_weights(model, state)
    assert_equal_weights(values_of(model), expected)


def test_background_comes_first_in_torchvision_and_last_here():
    model = tiny_model()
    state = km.torchvision_state_dict(model)
    classes = values_of(model)["box_head/classes/bias"]
    np.testing.assert_array_equal(state["roi_heads.box_predictor.cls_score.bias"], [classes[3], *classes[:3]])
    deltas = values_of(model)["box_head/deltas/bias"]
    np.testing.assert_array_equal(state["roi_heads.box_predictor.bbox_pred.bias"], [0] * 4 + list(deltas))


def test_names_of_old_versions():
    """The published COCO weights of v1 were written before torchvision 0.12."""
    state = km.torchvision_state_dict(tiny_model())
    old = {}
    for name, array in state.items():
        if COUNTER in name:
            continue
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = name.replace("roi_heads.mask_head.0.0.", "roi_heads.mask_head.mask_fcn1.")
        for level in range(4):
            for kind in ("inner", "layer"):
                name = name.replace(f"fpn.{kind}_blocks.{level}.0.", f"fpn.{kind}_blocks.{level}.")
        old[f"module.{name}"] = array
    assert not set(old) & set(state)
    model = tiny_model(seed=1)
    assert km.load_weights(model, {"model": old, "epoch": 3}).complete
    assert_equal_weights(model, tiny_model())


def test_classifier_goes_into_the_backbone(tmp_path):
    model, source = tiny_model(seed=1), tiny_model()
    prefix = "backbone.body."
    state = {n.removeprefix(prefix): a for n, a in km.torchvision_state_dict(source).items() if n.startswith(prefix)}
    state |= {"fc.weight": np.zeros((1000, 512), "float32"), "fc.bias": np.zeros(1000, "float32")}
    before, wanted = values_of(model), values_of(source)
    receipt = km.load_weights(model, state)
    assert [name for name, _ in receipt.left_over if COUNTER not in name] == ["fc.weight", "fc.bias"]
    assert not receipt.complete and all(not name.startswith(prefix) for name, _ in receipt.missing)
    for name, value in values_of(model).items():
        expected = wanted if name.startswith("backbone/") else before
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

    # The same as a file of Keras, of the backbone alone.
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(state, tmp_path / "resnet18.safetensors")
    target, narrow = tmp_path / "backbone.weights.h5", {"fpn_channels": 8, "box_features": 8, "mask_channels": 8}
    converted = convert_file(tmp_path / "resnet18.safetensors", target, **narrow)
    assert {name for name, _ in converted.left_over if COUNTER not in name} == {"fc.weight", "fc.bias"}
    overwrite(model)
    assert len(km.load_weights(model, target).used) == 20 * 5
    found = values_of(model)
    assert_equal_weights(*({n: a for n, a in each.items() if n.startswith("backbone/")} for each in (found, wanted)))
    with pytest.raises(ValueError, match="resnet18.safetensors is a classifier.*Received: a.keras. Name a .weights.h5"):
        convert_file(tmp_path / "resnet18.safetensors", tmp_path / "a.keras")
    for options, given in (
        ({"architecture": "R_50"}, 'architecture="R_50"'),
        ({"warm_start": True}, "warm_start=True"),
    ):
        with pytest.raises(
            ValueError, match=f"Only weights of other.*Received {given} for weights of torchvision. Leave"
        ):
            convert_file(tmp_path / "resnet18.safetensors", tmp_path / "a.weights.h5", **options)


def test_rows_of_cocos_real_categories():
    """91 rows into a model of the 80 categories: label k has the row of its category id."""
    labels = {"class_names": COCO_CLASS_NAMES, "category_ids": COCO_CATEGORY_IDS}
    source = tiny_model(num_classes=90)
    model = tiny_model(seed=1, num_classes=80, **labels)
    assert km.load_weights(model, km.torchvision_state_dict(source)).complete
    ours, theirs = values_of(model), values_of(source)
    rows = np.array(COCO_CATEGORY_IDS) - 1
    np.testing.assert_array_equal(ours["box_head/classes/kernel"][:, :80], theirs["box_head/classes/kernel"][:, rows])
    np.testing.assert_array_equal(ours["box_head/classes/bias"][80], theirs["box_head/classes/bias"][90])
    deltas = theirs["box_head/deltas/kernel"].reshape(-1, 90, 4)[:, rows].reshape(-1, 320)
    np.testing.assert_array_equal(ours["box_head/deltas/kernel"], deltas)
    np.testing.assert_array_equal(ours["mask_head/logits/bias"], theirs["mask_head/logits/bias"][rows])
    assert COCO_CLASS_NAMES[rows.tolist().index(17)] == "dog"  # category 18


def test_architecture_is_read_off_the_names():
    for overrides in (
        {"backbone": "resnet34"},
        {"backbone": "resnet50", "head_norm": "batch", "rpn_convs": 2, "box_convs": 4, "box_fcs": 1},
    ):
        config = tiny_config(**overrides)
        state = current_names(km.torchvision_state_dict(km.MaskRCNN(config)))
        found = read_architecture(state)
        assert found == {name: getattr(config, name) for name in found} and len(found) == 11
    for part, missing in (
        ("roi_heads.mask", "every branch"),
        ("roi_heads.box_predictor", r"\['roi_heads.box_predictor.cls_score.weight'\]"),
    ):
        rest = {name: array for name, array in state.items() if not name.startswith(part)}
        with pytest.raises(ValueError, match=f"must have the tensors.*Missing: {missing}. Use a detector with masks"):
            read_architecture(rest)
    with pytest.raises(ValueError, match="ResNet classifier"):
        read_architecture({"features.0.weight": np.zeros(3)})


# What does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["torchvision", "keras"])
def faulty(request, tmp_path):
    """A model, and a function that loads a damaged source: keep(names) -> dict of names to arrays."""
    options = SMALLEST if request.param == "keras" else {}
    model, source = tiny_model(seed=1, **options), tiny_model(**options)

    if request.param == "torchvision":

        def load(change, **options):
            return km.load_weights(model, change(km.torchvision_state_dict(source)), **options)
    else:
        import h5py

        def load(change, **options):
            path = tmp_path / "faulty.weights.h5"
            source.save_weights(path)
            with h5py.File(path, "r+") as file:
                found = {}
                file.visititems(lambda key, node: found.update({key: node[...]}) if hasattr(node, "dtype") else None)
                changed = change(dict(found))
                for key in set(found) - set(changed):
                    del file[key]
                for key, value in changed.items():
                    if key in file and file[key].shape != value.shape:
                        del file[key]
                    if key not in file:
                        file[key] = value
            return km.load_weights(model, path, **options)

    return model, load


def a_kernel(state):
    """Some tensor of four axes in the middle."""
    return [name for name, array in state.items() if array.ndim == 4][5]


def without_one(state):
    del state[a_kernel(state)]
    return state


def with_wrong_shape(state):
    name = a_kernel(state)
    return state | {name: state[name][..., :1, :]}


def with_unknown(state):
    return state | {"backbone_2/extra": np.zeros((2, 3), "float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_one, "1 tensors of the model are missing"),
        (with_wrong_shape, "1 tensors have another shape"),
        (with_unknown, r"1 tensors of the source are unknown to the model:\n  backbone_2/extra \(2, 3\)"),
    ],
)
def test_three_faults_three_errors(faulty, change, message):
    model, load = faulty
    before = values_of(model)
    with pytest.raises(ValueError, match=message):
        load(change)
    after = values_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before), "a refused load changed the model"
    receipt = load(change, skip_mismatch=True)
    assert len(receipt.skipped) == 1 and model.weights_receipt is receipt
    assert receipt.skipped[0].split(":")[0] in ("missing", "shape", "unknown")
    assert len(receipt.missing) == (0 if change is with_unknown else 1)


def test_all_faults_are_named_at_once(faulty):
    _, load = faulty
    with pytest.raises(ValueError) as error:
        load(lambda state: with_unknown(with_wrong_shape(state)))
    assert "another shape" in str(error.value) and "unknown" in str(error.value)
    assert "skip_mismatch=True" in str(error.value) and "heads=False" in str(error.value)


def test_other_classes_load_without_heads():
    model = tiny_model(seed=2, num_classes=7)
    source = tiny_model()
    with pytest.raises(ValueError, match="another shape"):
        km.load_weights(model, km.torchvision_state_dict(source))
    receipt = km.load_weights(model, km.torchvision_state_dict(source), heads=False)
    assert len(receipt.missing) == 6 and not receipt.skipped
    assert "roi_heads.box_predictor.cls_score.weight" in str(receipt)
    ours, theirs = values_of(model), values_of(source)
    for name in ours:
        if "seed" not in name:
            assert name.startswith(HEADS) or np.array_equal(ours[name], theirs[name]), name


def test_keras_files_with_and_without_heads(tmp_path):
    source = tiny_model(**SMALLEST)
    source.compile("adam")  # its state is in the file, and is no weight
    for name in ("model.keras", "model.weights.h5"):
        path = tmp_path / name
        source.save(path) if name.endswith(".keras") else source.save_weights(path)
        same = tiny_model(seed=1, **SMALLEST)
        receipt = km.load_weights(same, path)
        assert receipt.complete and not receipt.left_over
        assert_equal_weights(same, source)
        other = tiny_model(seed=2, num_classes=7, **SMALLEST)
        receipt = km.load_weights(other, path, heads=False)
        assert len(receipt.missing) == len(receipt.left_over) == 6
        ours, theirs = values_of(other), values_of(source)
        for name in ours:
            if "seed" not in name:
                assert name.startswith(HEADS) or np.array_equal(ours[name], theirs[name]), name


def test_a_file_of_a_backbone_alone(tmp_path):
    model, source = tiny_model(seed=1), tiny_model()
    write_backbone(source, tmp_path / "resnet18.weights.h5")
    before, wanted = values_of(model), values_of(source)
    receipt = km.load_weights(model, tmp_path / "resnet18.weights.h5")
    assert not receipt.left_over and len(receipt.used) == 20 * 5
    for name, value in values_of(model).items():
        expected = wanted if name.startswith("backbone/") else before
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy")
    model, source = tiny_model(seed=1), tiny_model()
    safetensors.save_file(km.torchvision_state_dict(source), tmp_path / "model.safetensors")
    receipt = km.load_weights(model, tmp_path / "model.safetensors")
    assert receipt.complete and not receipt.notes
    assert_equal_weights(model, source)
    monkeypatch.setitem(published.COCO_FILES, "this", "model.safetensors")  # a published file says what it lacks
    monkeypatch.setitem(published.NORM_EPSILONS, "model.safetensors", 0.0)
    (note,) = km.load_weights(model, tmp_path / "model.safetensors").notes
    assert note == "these weights were published for norm_epsilon=0.0; this model has 1e-05"


def test_files_of_other_kinds(tmp_path):
    model = tiny_model()
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match="Weights are read from .weights.h5"):
        km.load_weights(model, tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match="There is nothing"):
        km.load_weights(model, tmp_path / "missing.pth")
    with pytest.raises(FileNotFoundError, match="a folder"):
        km.load_weights(model, tmp_path)
    with pytest.raises(FileNotFoundError, match="missing.npz"):  # not as a damaged file
        read_state(tmp_path / "missing.npz")
    (tmp_path / "page.weights.h5").write_text("<html>404")
    with pytest.raises(WeightFileError, match="page.weights.h5 was not read. Expected a file that Keras saved, whole"):
        km.load_weights(model, tmp_path / "page.weights.h5")
    with pytest.raises(
        ValueError, match=r"path of a file, .* or a state dict.*Received: a list. .*model.state_dict\(\)"
    ):
        km.load_weights(model, [np.zeros(3)])


def test_what_torchvision_has_no_names_for():
    with pytest.raises(ValueError, match="one deconvolution"):
        km.torchvision_state_dict(tiny_model(mask_size=56))
    inputs = keras.Input((None, None, 3))
    maps = [keras.layers.Conv2D(8, 1, strides=s)(inputs) for s in (4, 8, 16, 32)]
    model = km.MaskRCNN(tiny_config(), backbone=keras.Model(inputs, maps))
    with pytest.raises(ValueError, match="exist only for the ResNets|exist for the ResNets"):
        tensor_table(model)


def test_receipt_says_what_happened():
    receipt = km.load_weights(tiny_model(num_classes=7), km.torchvision_state_dict(tiny_model()), heads=False)
    text = str(receipt)
    numbers = sum(int(np.prod(shape)) for _, shape in receipt.used)
    assert f"{len(receipt.used)} tensors used ({numbers:,} numbers)" in text
    assert "unchanged: roi_heads.mask_predictor.mask_fcn_logits.bias (8,)" in text


# The parts that weights bring with them -------------------------------------------------------------------------------


def test_frozen_parts_of_the_backbone(tmp_path):
    model = tiny_model(trainable_layers=3, norm="batch", **SMALLEST)
    trained = {weight.path.split("/", 1)[-1] for weight in model.trainable_weights}
    assert not [name for name in trained if name.startswith(("backbone/stem", "backbone/stage1"))]
    assert [name for name in trained if name.startswith("backbone/stage2")]
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras", compile=False)
    assert {weight.path.split("/", 1)[-1] for weight in loaded.trainable_weights} == trained
    assert not [
        w for w in tiny_model(trainable_layers=0, norm="batch", **SMALLEST).trainable_weights if "backbone/" in w.path
    ]
    with pytest.raises(ValueError, match="0..5"):
        tiny_config(trainable_layers=6)


def test_norm_epsilon_reaches_every_norm_of_the_backbone():
    model = tiny_model(norm_epsilon=0.0)
    norms = [layer for layer in model._flatten_layers() if type(layer).__name__ == "FrozenBatchNorm"]
    assert len(norms) == 20 and {norm.epsilon for norm in norms} == {0.0}
    config = json.loads(json.dumps(model.get_config()["config"]))
    assert km.MaskRCNNConfig.from_dict(config).norm_epsilon == 0.0
