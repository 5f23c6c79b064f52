"""Tensorpack's models with group norm and with a cascade: configs, the rules of their stages in numpy, files, training.

Where each tensor goes is in test_family_tensors.py, what tensorpack's other models have in test_tensorpack.py.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorpack_numpy as program
from backend_tools import to_numpy
from family_parts import faults, small_tensorpack
from test_tensorpack import deep
from tiny import in_place_of, random_batch

import keras_maskrcnn as km
from keras_maskrcnn.network.layers import ConvNorm
from keras_maskrcnn.weights import detectron2, mmdetection, torchvision
from keras_maskrcnn.weights.models import load_model
from keras_maskrcnn.weights.tensorpack import read_config

BOTH = "COCO-MaskRCNN-R50FPN4xGNCasAug"
SIZE = (90, 120)
RNG = np.random.default_rng(0)


def lively(state):
    """A state dict whose tensors keep the size of features, and whose biases and norms matter."""
    rng = np.random.default_rng(1)
    found = {}
    for name, array in state.items():
        spread = np.sqrt(1 / np.prod(array.shape[:-1])) if array.ndim > 1 else 0.3
        found[name] = rng.normal(size=array.shape) * spread
        if name.endswith(("gamma", "variance/EMA")):
            found[name] = rng.uniform(0.5, 1.5, array.shape)
    return {name: array.astype(np.float32) for name, array in found.items()}


@pytest.fixture(scope="module")
def parts():
    """(model, rows, state dict) with group norm and a cascade; the model holds the tensors."""
    sizes = {
        "roi_samples": 32,
        "rpn_samples": 10**6,
        "rpn_positive_fraction": 1.0,
        "train_pre_nms": 60,
        "train_post_nms": 60,
        "gt_mask_size": 14,
    }
    model, rows, state = small_tensorpack(BOTH, trainable_layers=5, **sizes)
    state = lively(state)
    km.load_weights(model, state)
    return model, rows, state


def first(array):
    """Channels last -> channels first, float64."""
    return np.moveaxis(to_numpy(array).astype(np.float64), -1, 1)


# Configs -------------------------------------------------------------------------------------------------------


def test_the_configs():
    """The README's table of models, and config.py."""
    names = ("R50FPN2xGN", "R50FPN1xCas", "R50FPN4xGNCasAug", "R101FPN3xCasAug", "R101FPN9xGNCasAugScratch")
    for name in names:
        config = km.MaskRCNNConfig.tensorpack(f"COCO-MaskRCNN-{name}", 80)
        grouped, cascade = "GN" in name, "Cas" in name
        assert config.backbone == ("resnet101" if "R101" in name else "resnet50")
        assert (config.norm, config.head_norm) == (("group", "group") if grouped else ("frozen_batch", None))
        assert config.head_norm_place == ("after_relu" if grouped else "before_relu") and config.fpn_norm is None
        assert (config.box_convs, config.box_fcs, config.mask_convs) == ((4, 1, 4) if grouped else (0, 2, 4))
        assert config.score_threshold == (1e-4 if name == "R101FPN3xCasAug" else 0.05)
        assert config.trainable_layers == (5 if "Scratch" in name else 3)
        ious = (0.5, 0.6, 0.7) if cascade else (0.5,)
        assert config.box_stages == tuple(zip(ious, program.STAGE_WEIGHTS))
        assert config.norm_epsilon == config.head_norm_epsilon == 1e-5 and config.category_ids[-1] == 90
        assert config.max_box_growth == 1333 / 16 and config.resize == "opencv"
        assert km.MaskRCNNConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"Received: 'COCO-MaskRCNN-R50C41x'. Models without a pyramid \(C4\)"):
        km.MaskRCNNConfig.tensorpack("COCO-MaskRCNN-R50C41x")


def test_a_norm_behind_relu_is_group_norm():
    with pytest.raises(ValueError, match="takes group norm, or none. Received: head_norm='batch', fpn_norm=None"):
        km.MaskRCNNConfig(1, head_norm="batch", head_norm_place="after_relu")
    with pytest.raises(ValueError, match="Received: head_norm=None, fpn_norm='frozen_batch'"):
        km.MaskRCNNConfig(1, fpn_norm="frozen_batch", head_norm_place="after_relu")
    with pytest.raises(ValueError, match=r"head_norm_place must be one of \('before_relu', 'after_relu'\)"):
        km.MaskRCNNConfig(1, head_norm="group", head_norm_place="last")


# The rules of the stages ---------------------------------------------------------------------------------------


def test_the_place_of_the_norm():
    """Xconv1fc_head: GroupNorm('gn', Conv2D(activation=relu)); the usual order is the default and has no bias."""
    maps = RNG.normal(size=(2, 5, 6, 8)).astype(np.float32)
    for place in ("before_relu", "after_relu"):
        layer = ConvNorm(64, 3, norm="group", norm_place=place)
        layer.build((None, None, None, 8))
        weights = {"conv/W": layer.conv.kernel, "gn/gamma": layer.norm.gamma, "gn/beta": layer.norm.beta}
        weights |= {"conv/b": layer.conv.bias} if place == "after_relu" else {}
        assert len(layer.weights) == len(weights)
        state = {name: RNG.normal(size=tuple(weight.shape)).astype(np.float32) for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.assign(state[name])
        found = program.conv(state, "conv", first(maps))
        if place == "after_relu":
            expected = program.group_norm(state, "gn", program.relu(found))
            assert expected.min() < -1  # nothing is cut off behind the norm
        else:
            expected = program.relu(program.group_norm(state, "gn", found))
        np.testing.assert_allclose(first(layer(maps)), expected, atol=1e-4)
        again = ConvNorm.from_config(layer.get_config())
        assert again.norm_place == place and again.conv.use_bias == (place == "after_relu")


@pytest.mark.slow_on_jax
def test_the_trunk_has_its_norm_before_relu(parts):
    """resnet_fpn_backbone: `nonlin` is the norm, then ReLU; the image is BGR, convolutions have no bias."""
    model, _, state = parts
    image = RNG.normal(size=(1, 16, 24, 3)).astype(np.float32)
    found = program.conv(state, "conv0", first(image[..., ::-1]), strides=2)
    expected = program.relu(program.group_norm(state, "conv0/gn", found))
    np.testing.assert_allclose(first(model.backbone.stem(image)), expected, atol=1e-4)


@pytest.mark.slow_on_jax
def test_the_pyramid(parts):
    model, _, state = parts
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    maps = [RNG.normal(size=(2, *size, 64 * 2**level)).astype(np.float32) for level, size in enumerate(sizes)]
    found, expected = model.fpn(maps), program.pyramid(state, [first(each) for each in maps])
    for ours, theirs in zip(found[:4], expected, strict=True):
        np.testing.assert_allclose(first(ours), theirs, atol=2e-4)
    np.testing.assert_allclose(first(found[4]), expected[3][:, :, ::2, ::2], atol=2e-4)


@pytest.mark.slow_on_jax
def test_the_stages_of_the_cascade(parts):
    """Each stage crops the boxes of the one before; scores are the mean of three softmaxes, boxes the third's."""
    model, _, state = parts
    maps = [RNG.normal(size=(1, 24 >> level, 32 >> level, 64)).astype(np.float32) for level in range(4)]
    corner, side = RNG.uniform(0, 60, (20, 2)), RNG.uniform(5, 60, (20, 2))
    boxes = np.clip(np.concatenate([corner, corner + side], axis=1), 0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)
    crop = lambda boxes: first(to_numpy(model.box_align(maps, boxes[None].astype(np.float32)))[0])  # noqa: E731
    scores, final = program.cascade(state, crop, boxes, SIZE, model.config.max_size)

    features = {"roi_maps": maps, "image_sizes": np.array([SIZE], np.int32)}
    proposals = {"boxes": boxes[None], "valid": np.ones((1, 20), bool)}
    found = {name: to_numpy(value)[0] for name, value in model.classify(features, proposals).items()}
    powers = np.exp(found["class_logits"])
    np.testing.assert_allclose(powers / powers.sum(1, keepdims=True), np.roll(scores, -1, axis=1), atol=1e-5)
    deltas = found["deltas"][:, 0] / np.array(program.STAGE_WEIGHTS[2])
    moved = np.clip(program.decoded(deltas, found["proposals"], model.config.max_size), 0, [SIZE[1], SIZE[0]] * 2)
    np.testing.assert_allclose(moved, final, atol=1e-3)
    assert np.abs(final - boxes).max() > 3 and scores.std(axis=0).max() > 0.01  # the stages do something
    assert model.config.box_stages[2] == (0.7, program.STAGE_WEIGHTS[2])


@pytest.mark.slow_on_jax
def test_the_mask_head(parts):
    model, _, state = parts
    pooled, labels = RNG.normal(size=(6, 14, 14, 64)).astype(np.float32), np.arange(6) % 3
    found = to_numpy(model.branch_heads()["mask"](pooled[None], labels[None]))[0]
    expected = program.mask_logits(state, first(pooled))[np.arange(6), labels]
    np.testing.assert_allclose(found, expected, atol=1e-4)


# Files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, depth",
    [
        ("COCO-MaskRCNN-R50FPN2xGN", 6), ("COCO-MaskRCNN-R50FPN1xCas", 6), (BOTH, 6),
        ("COCO-MaskRCNN-R101FPN3xCasAug", 23), ("COCO-MaskRCNN-R101FPN9xGNCasAugScratch", 23),
    ],
)  # fmt: skip
def test_the_config_follows_from_the_tensors(name, depth):
    state = deep(tensors(name), (3, 4, depth, 3))
    config, notes = read_config(state, "mine.npz", None, {"min_size": 640})
    wanted = km.MaskRCNNConfig.tensorpack(name, 3, min_size=640)
    sizes = {"fpn_channels": 64, "box_features": 24, "mask_channels": 64}
    assert config == km.MaskRCNNConfig.from_dict({**wanted.to_dict(), **sizes})
    assert f"those of tensorpack's {name}" in notes[0]
    assert read_config(state, "mine.npz", name)[0].min_size == 800
    with pytest.raises(ValueError, match=f'as {name}. Received architecture="COCO-MaskRCNN-R101FPN1x"'):
        read_config(state, "mine.npz", "COCO-MaskRCNN-R101FPN1x")


def tensors(name):
    """The tensors of heads that a config is read from, without their numbers."""
    grouped, stages = "GN" in name, 3 if "Cas" in name else 1
    shapes = {
        "conv0/gn/gamma": (64,), "fpn/gn_c2/gamma": (64,), "maskrcnn/gn0/gamma": (64,)
    } if grouped else {}  # fmt: skip
    shapes |= {"fpn/lateral_1x1_c2/W": (1, 1, 256, 64), "fpn/posthoc_3x3_p2/W": (3, 3, 64, 64)}
    shapes |= {"rpn/conv0/W": (3, 3, 64, 64), "maskrcnn/deconv/W": (2, 2, 64, 64)}
    shapes |= {f"maskrcnn/fcn{index}/W": (3, 3, 64, 64) for index in range(4)}
    for number in range(1, stages + 1):
        scope = f"cascade_rcnn_stage{number}" if stages > 1 else "fastrcnn"
        head = f"{scope}/head" if stages > 1 else scope
        shapes |= {f"{scope}/outputs/class/W": (24, 4)}
        if grouped:
            shapes |= {f"{head}/conv{index}/W": (3, 3, 64, 64) for index in range(4)} | {f"{head}/fc/W": (3136, 24)}
        else:
            shapes |= {f"{head}/fc6/W": (3136, 24), f"{head}/fc7/W": (24, 24)}
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


def test_models_like_those_of_the_zoo():
    """Any of pyramid, heads and trunk may have group norm; the receipt names the nearest of the zoo."""
    grouped = tensors("COCO-MaskRCNN-R50FPN2xGN")
    config, notes = read_config(deep(grouped, (3, 4, 23, 3)), "mine.npz")
    assert (config.backbone, config.head_norm) == ("resnet101", "group") and "R50FPN2xGN" in notes[0]
    heads = {key: array for key, array in grouped.items() if key not in ("conv0/gn/gamma", "fpn/gn_c2/gamma")}
    config, _ = read_config(deep(heads), "mine.npz")
    assert (config.norm, config.head_norm, config.fpn_norm) == ("frozen_batch", "group", "none")
    pyramid = {key: array for key, array in grouped.items() if key != "maskrcnn/gn0/gamma"}
    config, _ = read_config(deep(pyramid), "mine.npz")
    assert (config.norm, config.head_norm, config.fpn_norm) == ("group", None, "group")
    assert (config.box_convs, config.box_fcs, config.head_norm_place) == (4, 1, "after_relu")
    plain = dataclasses.replace(config, norm="batch")  # the pyramid's statistics are of the whole canvas, too
    assert plain.norms_canvas and not dataclasses.replace(plain, fpn_norm=None).norms_canvas
    stages = tensors("COCO-MaskRCNN-R50FPN1xCas")
    for name, words in {
        "cascade_rcnn_stage3/head/fc7/W": "is missing", "cascade_rcnn_stage2/outputs/class/W": r"\(24, 9\)"
    }.items():  # fmt: skip
        broken = {**stages, name: np.zeros((24, 9), np.float32)} if "outputs" in name else dict(stages)
        broken if "outputs" in name else broken.pop(name)
        with pytest.raises(ValueError, match=f"belong together. Received {name} {words}"):
            read_config(deep(broken), "mine.npz")


@pytest.mark.slow_on_jax
def test_another_order_of_the_norm_and_other_programs_tables_are_refused(parts):
    model, _, state = parts
    for family in (mmdetection, detectron2, torchvision):
        with pytest.raises(ValueError, match="cascade_ious=|head_norm_place='after_relu'"):
            family.FAMILY.table(model)
    with pytest.raises(ValueError, match=r"MMDetection's weights fit.*box_convs=4.*cascade_ious=\(0.5, 0.6, 0.7\)"):
        km.load_weights(model, {"rpn_head.rpn_conv.weight": np.zeros(3, np.float32)})
    with in_place_of(model, dataclasses.replace(model.config, head_norm_place="before_relu")):
        with pytest.raises(ValueError, match="group norm behind ReLU or none.*Received head_norm_place='before_relu'"):
            km.load_weights(model, state)
    for change, words in {"box_fcs": 2, "rpn_convs": 2}.items():
        with in_place_of(model, dataclasses.replace(model.config, **{change: words})):
            with pytest.raises(ValueError, match=f"Tensorpack's weights fit.*Received {change}={words}"):
                km.load_weights(model, state)


# Training ------------------------------------------------------------------------------------------------------


@pytest.mark.slow_on_jax
def test_a_training_step_moves_every_weight_and_the_model_is_saved(parts, tmp_path):
    model, rows, state = parts
    batch = random_batch([SIZE], (96, 128))
    # With small deltas some boxes are still on objects in the third stage.
    km.load_weights(model, {name: array * (0.02 if "outputs/box" in name else 1) for name, array in state.items()})
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=keras.backend.backend() != "jax")
    before = {weight.path: to_numpy(weight).copy() for weight in model.trainable_weights}
    assert len(before) == len(rows)  # all of them: FREEZE_AT=0 is trainable_layers=5
    losses = model.train_on_batch(batch, return_dict=True)
    assert all(np.isfinite(value) for value in losses.values()) and losses["stage3_box_loss"] > 0
    stuck = [weight.path for weight in model.trainable_weights if (before[weight.path] == to_numpy(weight)).all()]
    assert stuck == []
    km.load_weights(model, state)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.config == model.config and faults(rows, state) == []
    folded = km.optimize_for_inference(model)  # group norm stays
    for mine, *others in zip(model.weights, again.weights, folded.weights, strict=True):
        for other in others:
            np.testing.assert_array_equal(to_numpy(other), to_numpy(mine), err_msg=mine.path)
