"""Matterport's weights: where each tensor goes, what is refused, which files are read.

Its numbers are in test_matterport_golden.py.
"""

import dataclasses
import re
import string

import h5py
import numpy as np
import pytest
from matterport_parts import write_h5

import keras_maskrcnn as km
from keras_maskrcnn.weights.limits import WeightFileError
from keras_maskrcnn.weights.loading import read_state
from keras_maskrcnn.weights.matterport_files import is_layer_file
from keras_maskrcnn.weights.zoo import config_for_state

SMALL = {"fpn_channels": 16, "rpn_channels": 24, "box_features": 20, "mask_channels": 12}
EPSILON = 1e-3


def small_config(num_classes=3, **overrides):
    return km.MaskRCNNConfig.matterport("resnet50", num_classes, 64, 128, **(SMALL | overrides))


def at(layer, weight):
    rpn = layer in ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
    return f"{'rpn_model' if rpn else layer}/{layer}/{weight}:0"


def conv_and_norm(layer, conv, norm):
    """Expected values of a convolution with bias and its batch norm: (variable, tensors, function of the tensors)."""
    yield layer.conv.kernel, [at(conv, "kernel")], lambda kernel: kernel
    for name in ("gamma", "beta", "moving_variance"):
        yield getattr(layer.norm, name), [at(norm, name)], lambda array: array
    mean = lambda mean, bias: mean - bias  # noqa: E731
    yield layer.norm.moving_mean, [at(norm, "moving_mean"), at(conv, "bias")], mean


def plain(layer, name):
    for weight in ("kernel", "bias"):
        yield getattr(layer, weight), [at(name, weight)], lambda array: array


def dense_and_norm(layer, conv, norm):
    """A dense layer gives what the convolution and its norm would give."""
    names = [at(norm, name) for name in ("gamma", "moving_variance")]
    more = [at(norm, name) for name in ("beta", "moving_mean")]

    def kernel(kernel, gamma, variance):
        return (kernel * (gamma.astype("float64") / np.sqrt(variance + EPSILON))).reshape(-1, kernel.shape[-1])

    def bias(bias, gamma, variance, beta, mean):
        return (bias - mean) * (gamma.astype("float64") / np.sqrt(variance + EPSILON)) + beta

    yield layer.kernel, [at(conv, "kernel"), *names], kernel
    yield layer.bias, [at(conv, "bias"), *names, *more], bias


def expected(model):
    """(variable, its tensors, function of them) for every weight, by hand."""
    rows = [*conv_and_norm(model.backbone.stem, "conv1", "bn_conv1")]
    for stage, blocks in zip("2345", model.backbone.stages, strict=True):
        for letter, block in zip("abcdef", blocks):
            for part, conv in zip("abc", block.convs):
                place = f"{stage}{letter}_branch2{part}"
                rows += conv_and_norm(conv, f"res{place}", f"bn{place}")
            if block.shortcut is not None:
                rows += conv_and_norm(block.shortcut, f"res{stage}{letter}_branch1", f"bn{stage}{letter}_branch1")
    for level, lateral, output in zip("2345", model.fpn.laterals, model.fpn.outputs, strict=True):
        rows += [*plain(lateral.conv, f"fpn_c{level}p{level}"), *plain(output.conv, f"fpn_p{level}")]
    rows += plain(model.rpn.convs[0].conv, "rpn_conv_shared")
    for weight in ("kernel", "bias"):
        rpn, head, masks = model.rpn, model.box_head, model.branch_heads()["mask"]
        rows.append(
            (getattr(rpn.objectness, weight), [at("rpn_class_raw", weight)], lambda a: a[..., 1::2] - a[..., ::2])
        )
        swapped = [4 * anchor + k for anchor in range(3) for k in (1, 0, 3, 2)]
        rows.append((getattr(rpn.deltas, weight), [at("rpn_bbox_pred", weight)], lambda a, s=swapped: a[..., s]))
        last = lambda a: np.concatenate([a[..., 1:], a[..., :1]], axis=-1)  # noqa: E731
        rows.append((getattr(head.classes, weight), [at("mrcnn_class_logits", weight)], last))
        boxes = [4 * label + k for label in range(1, head.num_classes + 1) for k in (1, 0, 3, 2)]
        rows.append((getattr(head.deltas, weight), [at("mrcnn_bbox_fc", weight)], lambda a, b=boxes: a[..., b]))
        rows.append((getattr(masks.logits, weight), [at("mrcnn_mask", weight)], lambda a: a[..., 1:]))
    for number, fc in enumerate(head.fcs, start=1):
        rows += dense_and_norm(fc, f"mrcnn_class_conv{number}", f"mrcnn_class_bn{number}")
    for number, conv in enumerate(masks.convs, start=1):
        rows += conv_and_norm(conv, f"mrcnn_mask_conv{number}", f"mrcnn_mask_bn{number}")
    return rows + [*plain(masks.deconvs[0], "mrcnn_mask_deconv")]


def shapes(config):
    """The shapes that matterport's own code gives the tensors that are not simply those of the variable."""
    classes = config.num_classes + 1
    found = {at("mrcnn_class_conv1", "kernel"): (7, 7, config.fpn_channels, config.box_features)}
    found[at("mrcnn_class_conv2", "kernel")] = (1, 1, config.box_features, config.box_features)
    for layer, channels, outputs in (
        ("rpn_class_raw", (1, 1, config.rpn_channels), 6),
        ("rpn_bbox_pred", (1, 1, config.rpn_channels), 12),
        ("mrcnn_class_logits", (config.box_features,), classes),
        ("mrcnn_bbox_fc", (config.box_features,), 4 * classes),
        ("mrcnn_mask", (1, 1, config.mask_channels), classes),
    ):
        found |= {at(layer, "kernel"): (*channels, outputs), at(layer, "bias"): (outputs,)}
    return found


def random_state(model):
    rng, state, special = np.random.default_rng(0), {}, shapes(model.config)
    for variable, names, _ in expected(model):
        for name in names:
            if name not in state:
                shape = special.get(name, tuple(variable.shape) if name == names[0] else tuple(variable.shape)[-1:])
                positive = "moving_variance" in name
                state[name] = rng.uniform(0.5, 1, shape) if positive else rng.normal(size=shape) * 0.1
    return {name: array.astype(np.float32) for name, array in state.items()}


def faults(model, state):
    """Sets of the tensors whose variable does not hold what it should."""
    rows = [(variable, names, change(*(state[name] for name in names))) for variable, names, change in expected(model)]
    return [names for variable, names, value in rows if not np.allclose(variable, value, rtol=1e-6, atol=1e-7)]


@pytest.fixture(scope="module")
def pair():
    """A model with one small block a stage, whose tensors are few, and a state dict for it."""
    model = km.MaskRCNN(dataclasses.replace(small_config(), backbone="resnet10"))
    return model, random_state(model)


@pytest.fixture(scope="module")
def whole():
    """A model with the blocks of ResNet-50, and a state dict for it."""
    model = km.MaskRCNN(small_config())
    return model, random_state(model)


def kind_of(name):
    """The same for tensors that differ by the stage and letter of a block, or by a number."""
    kind = re.sub(r"(res|bn)\d[a-z]_", r"\1_", name)
    return kind if "branch" in kind or "class_" in kind else re.sub(r"\d", "#", kind)


def groups(state):
    """One tensor of each kind."""
    return list({kind_of(name): name for name in reversed(list(state))}.values())


@pytest.mark.slow
def test_every_tensor_goes_to_its_place(whole):
    model, state = whole
    receipt = km.load_weights(model, state)
    assert faults(model, state) == [] and receipt.complete and {name for name, _ in receipt.used} == set(state)
    assert receipt.family == "matterport/Mask_RCNN" and receipt.licence.startswith("MIT") and not receipt.notes
    assert len(expected(model)) == len(model.weights)


@pytest.mark.parametrize("weight", ["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"])
def test_a_tensor_of_any_kind_in_another_order_is_noticed(pair, weight):
    model, state = pair
    names = [name for name in groups(state) if name.endswith(f"/{weight}:0")]
    assert len(names) >= 5
    for axis in range(state[names[0]].ndim if weight != "kernel" else 4):
        moved = {name: np.roll(state[name], 1, axis) for name in names if axis < state[name].ndim}
        moved = {name: array for name, array in moved.items() if not np.array_equal(array, state[name])}
        km.load_weights(model, state | moved)
        wrong = faults(model, state)
        assert all(any(name in row for row in wrong) for name in moved)  # each is noticed,
        assert all(set(row) & set(moved) for row in wrong)  # and nothing else
    km.load_weights(model, state)


def test_missing_misshapen_and_unknown_tensors_are_refused_by_name(pair):
    model, state = pair
    km.load_weights(model, state)
    for name in groups(state):
        rest = {key: array for key, array in state.items() if key != name}
        layer = name.split("/")[-2]
        for wrong, problem in (
            (rest, "missing from the source"),
            (state | {name: np.concatenate([state[name], state[name]])}, "another shape"),
            (state | {name.replace(layer, f"{layer}x"): state[name]}, "unknown to the model"),
        ):
            with pytest.raises(ValueError, match=problem) as caught:
                km.load_weights(model, wrong)
            assert layer in str(caught.value)
    with pytest.raises(ValueError, match="unknown to the model:\n  iterations"):  # of no layer
        km.load_weights(model, state | {"iterations": np.zeros(1)})
    assert faults(model, state) == []  # nothing was loaded


def test_files_of_all_kinds_of_keras_2(pair, tmp_path):
    model, state = pair
    anchors = {"anchors/Variable:0": np.zeros((2, 9, 4), np.float32)}
    other = {re.sub(r"^(res\w+)/\w+/", r"\1/\1_1/", name): array for name, array in state.items()}
    for number, (written, options) in enumerate((
        (state, {}),
        (state, {"names_as": str}),
        (state | anchors, {"prefix": "model_weights"}),
        (other, {}),
    )):  # fmt: skip
        path = write_h5(tmp_path / f"{number}.h5", written, **options)
        if number == 2:
            with h5py.File(path, "r+") as file:
                file["optimizer_weights/SGD/iterations:0"] = np.zeros((), np.int64)
                file.create_group("top_level_model_weights")
        assert is_layer_file(path)
        receipt = km.load_weights(model, path)
        assert faults(model, state) == [] and receipt.complete and len(receipt.sha256) == 64
        assert [name for name, _ in receipt.left_over] == (["anchors/anchors/Variable:0"] if number == 2 else [])
    named = tmp_path / "renamed.weights.h5"
    path.rename(named)
    assert km.load_weights(model, named).family == "matterport/Mask_RCNN"
    model.save_weights(tmp_path / "ours.weights.h5")
    assert not is_layer_file(tmp_path / "ours.weights.h5")


def test_damaged_files_are_refused(pair, tmp_path):
    _, state = pair
    path = write_h5(tmp_path / "a.h5", {name: state[name] for name in list(state)[:6]})
    good = path.read_bytes()
    for size in (9, 200, len(good) // 2):
        path.write_bytes(good[:size])
        with pytest.raises(WeightFileError, match="a.h5 was not read"):
            read_state(path)
    state = {
        at("conv1", "kernel"): np.zeros(3),
        "conv1/conv1_2/kernel:0": np.ones(3),
        at("fpn_c5p5", "bias"): np.ones(3),
    }
    with pytest.raises(WeightFileError, match="Received conv1/conv1/kernel:0 twice"):
        read_state(write_h5(path, state))


def test_the_config_of_a_file():
    def config_of(blocks=6, columns=4, **options):
        kernels = [at(f"res4{letter}_branch2a", "kernel") for letter in string.ascii_lowercase[:blocks]]
        state = dict.fromkeys(kernels, np.zeros((1, 1, 8, 8))) | {at("fpn_c5p5", "bias"): np.zeros(16)}
        return config_for_state(state | {at("mrcnn_class_logits", "kernel"): np.zeros((20, columns))}, **options)

    config, notes = config_of(overrides={"max_size": 512})
    assert (config.backbone, config.num_classes, config.min_size, config.max_size) == ("resnet50", 3, 800, 512)
    assert config.canvas == "square" and "IMAGE_MIN_DIM 800 and IMAGE_MAX_DIM 512 are not in the file" in notes[0]
    assert config_of(23, 81)[0].backbone == "resnet101" and config_of(23, 81)[0].class_names[79] == "toothbrush"
    for wrong, received in (
        ({"blocks": 5}, r"5 blocks in stage 4, class scores of shape \(20, 4\), architecture None"),
        ({"columns": 1}, r"6 blocks in stage 4, class scores of shape \(20, 1\)"),
        (
            {"architecture": "resnet50"},
            r"6 blocks .*, architecture resnet50. The first of 8 tensors are \['res4a_branch2a/",
        ),
    ):
        with pytest.raises(ValueError, match=f"two columns or more.*Received {received}.*Name a whole model's file"):
            config_of(**wrong)
    with pytest.raises(ValueError, match='must be "resnet50" or "resnet101".*resnet18'):
        km.MaskRCNNConfig.matterport("resnet18")
    with pytest.raises(ValueError, match="multiple of 64.*max_size=1000"):
        km.MaskRCNNConfig.matterport(max_dim=1000)


def test_a_warm_start_folds_the_norms_and_says_that_numbers_change(pair):
    config = km.MaskRCNNConfig(3, backbone="resnet10", anchor_ratios=(2.0, 1.0, 0.5), **SMALL)
    plain, (_, state) = km.MaskRCNN(config), pair
    receipt = km.load_weights(plain, state)
    assert receipt.complete and "the numbers are not those of matterport's Mask_RCNN" in str(receipt)
    assert "roi_sampling='align' (there 'crop')" in str(receipt)
    conv = plain.branch_heads()["mask"].convs[1].conv
    norm = {name: state[at("mrcnn_mask_bn2", name)] for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + EPSILON)
    np.testing.assert_allclose(conv.kernel, state[at("mrcnn_mask_conv2", "kernel")] * scale, rtol=1e-5)
    bias = (state[at("mrcnn_mask_conv2", "bias")] - norm["moving_mean"]) * scale + norm["beta"]
    np.testing.assert_allclose(conv.bias, bias, rtol=1e-4, atol=1e-6)
