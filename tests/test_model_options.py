"""The model's options: precision, norms, heads, a foreign backbone, NMS across classes; learning; saving."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from backend_tools import graph_optimiser, losses_and_gradients
from keras import ops
from tiny import images_only, plain_backbone, random_batch, sample_everything, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.branches.keypoint_head import KeypointHead
from keras_maskrcnn.branches.mask_head import MaskHead
from keras_maskrcnn.branches.pointrend_head import PointRendHead
from keras_maskrcnn.inputs import count_images
from keras_maskrcnn.network import layers
from keras_maskrcnn.network.backbones import resnet
from keras_maskrcnn.network.box_head import BoxHead, CascadeHead
from keras_maskrcnn.network.fpn import FeaturePyramid
from keras_maskrcnn.network.rpn import RPNHead

SMALL = (80, 100)


def found(model, batch):
    return model.predict_on_batch(images_only(batch))


@pytest.mark.tensorflow  # compiling takes the time on JAX; the code is the same
def test_mixed_precision_keeps_boxes_and_losses_in_float32():
    batch = random_batch([(960, 64)], (960, 64), num_objects=1)
    exact = scatter_weights(km.MaskRCNN(sample_everything()))
    mixed = scatter_weights(km.MaskRCNN(sample_everything(), dtype="mixed_bfloat16"))
    for model in (exact, mixed):
        model.compile(keras.optimizers.SGD(0.0))
    answers = mixed.predict_on_batch(images_only(batch))
    assert keras.backend.standardize_dtype(answers["boxes"].dtype) == "float32"
    # bfloat16 boxes would be multiples of 4 pixels beyond 512.
    far = answers["boxes"][..., 3]
    assert np.abs(far / 4 - np.round(far / 4)).max() > 0.01
    losses = [model.test_on_batch(batch, return_dict=True) for model in (mixed, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1, abs=0.02)
    assert mixed.fpn.laterals[0].conv.compute_dtype == "bfloat16"


@pytest.mark.slow  # test_overfit.py learns more images, to a stated AP
@pytest.mark.compiled
@pytest.mark.tensorflow
def test_training_learns_one_image_by_heart():
    config = tiny_config(norm="batch", rpn_samples=128, roi_samples=64, score_threshold=0.3, mask_channels=32)
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.Adam(2e-3))
    batch = random_batch([(96, 96)], (96, 96), num_objects=2)
    batch["gt_masks"][0, :, :, :7], batch["gt_masks"][0, :, :, 7:] = 1, 0  # left halves
    first = model.train_on_batch(batch, return_dict=True)["loss"]
    model.reset_metrics()
    for _ in range(60):
        model.train_on_batch(batch)
    model.reset_metrics()
    last = model.train_on_batch(batch, return_dict=True)["loss"]
    assert last < 0.25 * first


OPTIONS = {
    "group56max": {
        "norm": "group",
        "head_norm": "group",
        "mask_size": 56,
        "roi_aggregation": "max",
        "roi_aligned": True,
        "mask_channels": 32,
    },
    "v2like": {
        "norm": "batch",
        "head_norm": "batch",
        "box_convs": 1,
        "box_fcs": 1,
        "rpn_convs": 2,
        "num_classes": 1,
    },
    "resnet50": {
        "backbone": "resnet50",
        "norm": "batch",
        "class_agnostic_nms": True,
        "anchor_ratios": (1.0,),
    },
}
# On JAX the whole of v1, with ResNet-50, runs in test_torchvision_v1.py, and test_model.py trains v2's heads; compiling
# takes the time.
ONCE = pytest.mark.tensorflow
MARKS = {"group56max": pytest.mark.slow_on_jax}


@pytest.mark.parametrize(
    "options",
    [pytest.param(options, id=name, marks=MARKS.get(name, ONCE)) for name, options in OPTIONS.items()],
)
def test_options_train_and_detect(options):
    config = tiny_config(**options)
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.SGD(1e-3))
    batch = random_batch([SMALL], (96, 128), num_classes=config.num_classes)
    losses = model.train_on_batch(batch, return_dict=True)
    assert 1 < losses["loss"] < 20
    answers = found(model, batch)
    assert answers["masks"].shape == (1, 10, config.mask_size, config.mask_size)
    assert (np.diff(answers["scores"][0]) <= 0).all()
    assert answers["labels"].max() < config.num_classes
    limit = np.array([100, 80, 100, 80])
    assert (answers["boxes"] >= 0).all() and (answers["boxes"] <= limit).all()


@ONCE
def test_gradients_of_v2s_heads_are_those_of_stock_operators():
    if not backend.operators().startswith("native"):
        pytest.skip("no native library: was there a compiler?")
    model = scatter_weights(km.MaskRCNN(sample_everything(**OPTIONS["v2like"])))
    batch = random_batch([(96, 128), SMALL], (96, 128), num_classes=1)
    losses, gradients = losses_and_gradients(model, batch, model.trainable_weights)
    with backend.stock_operators():
        expected, others = losses_and_gradients(model, batch, model.trainable_weights)
    assert losses == pytest.approx(expected, rel=1e-5) and min(losses.values()) > 1e-4
    for weight, ours, theirs in zip(model.trainable_weights, gradients, others, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=weight.path)
        assert np.abs(theirs).max() > 0


@ONCE
def test_class_agnostic_nms_leaves_no_overlap_between_classes():
    kept = {}
    for agnostic in (False, True):
        config = tiny_config(class_agnostic_nms=agnostic, max_detections=60)
        boxes = found(scatter_weights(km.MaskRCNN(config)), random_batch([SMALL], (96, 128)))
        boxes = boxes["boxes"][0][boxes["valid"][0]]
        iou = ops.convert_to_numpy(km.ops.pairwise_iou(boxes, boxes)) - np.eye(len(boxes))
        kept[agnostic] = iou.max()
    assert kept[True] <= 0.5 < kept[False]


@ONCE  # on JAX test_backbones.py
def test_a_keras_model_serves_as_backbone():
    inputs = keras.Input((None, None, 3))
    maps, features = [], inputs
    for strides, filters in ((4, 8), (2, 12), (2, 16), (2, 20)):
        features = keras.layers.Conv2D(filters, strides, strides, activation="relu")(features)
        maps.append(features)
    backbone = keras.Model(inputs, maps)
    model = km.MaskRCNN(tiny_config(), backbone=backbone)
    model.compile(keras.optimizers.SGD(1e-3))
    batch = random_batch([SMALL], (96, 128))
    assert 1 < model.train_on_batch(batch, return_dict=True)["loss"] < 20
    copy = km.MaskRCNN.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_allclose(found(copy, batch)["boxes"], found(model, batch)["boxes"], atol=1e-5)


NORM = {"norm": "group", "norm_epsilon": 1e-3, "norm_place": "after_relu"}
BRANCH_HEAD = {"max_rois": 5, "roi_align": {"sampling_ratio": 3}}
LAYERS = {  # every argument, with another value than its default
    layers.FrozenBatchNorm: {"scale": 0.5, "epsilon": 1e-3},
    resnet.ResidualBlock: {
        "width": 8, "strides": 2, "bottleneck": True, "norm": "batch", "branch_scale": 0.5, "norm_epsilon": 1e-3,
        "stride_in_1x1": True, "groups": (2, 16),
    },
    resnet.ResNet: {
        "depth": "resnet18", "norm": "batch", "norm_epsilon": 1e-3, "stride_in_1x1": True, "stem_pool": "end"
    },
    FeaturePyramid: {"channels": 8, **NORM},
    RPNHead: {"channels": 8, "num_anchors": 2, "num_convs": 2, "filters": 6},
    BoxHead: {
        "num_classes": 3, "channels": 8, "pool_size": 5, "num_convs": 1, "num_fcs": 1, "features": 16,
        "class_agnostic": True, **NORM,
    },
    CascadeHead: {"num_stages": 2, "head": {"num_classes": 3, "channels": 8}},
    MaskHead: {
        "num_classes": 3, "channels_in": 8, "channels": 12, "pool_size": 7, "mask_size": 56, "num_convs": 1,
        "target_rule": {"rounding": 1}, **NORM, **BRANCH_HEAD,
    },
    KeypointHead: {
        "num_keypoints": 5, "channels_in": 8, "channels": 12, "num_convs": 1, "score": "probability",
        "loss_normalizer": 9.0, "pool_size": 7, **BRANCH_HEAD,
    },
    PointRendHead: {
        "num_classes": 3, "channels_in": 8, "coarse_size": 4, "coarse_features": 16, "coarse_fcs": 1, "channels": 12,
        "num_fcs": 2, "steps": 3, "step_points": 40, "train_points": 16, "oversampling": 2, "importance": 0.5,
        "pool_size": 6, "fading": True, "target_rule": {"rounding": 1}, "max_rois": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_a_layer_is_made_again_from_its_config_with_every_argument(kind):
    options = LAYERS[kind]
    parameters = inspect.signature(kind).parameters.values()
    assert {each.name for each in parameters if each.kind != each.VAR_KEYWORD} <= set(options)
    assert all(each.default != options[each.name] for each in parameters if each.name in options)
    layer = kind(**options, name="one", dtype="mixed_bfloat16")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is kind and (again.name, again.dtype_policy.name) == ("one", "mixed_bfloat16")
    assert {name: getattr(again, name) for name in options} == options


@ONCE
def test_what_is_no_config_is_refused_and_a_second_build_changes_nothing():
    with pytest.raises(ValueError, match=r"takes a MaskRCNNConfig. Received: dict. Write MaskRCNN\(MaskRCNNConfig"):
        km.MaskRCNN({"num_classes": 3})
    model = km.MaskRCNN(tiny_config(), backbone=plain_backbone())
    before = [(weight, ops.convert_to_numpy(weight)) for weight in model.weights]
    model.build((None, 64, 64, 3))
    for (weight, values), now in zip(before, model.weights, strict=True):
        assert now is weight
        np.testing.assert_array_equal(ops.convert_to_numpy(now), values)
    assert model.trainable_weights
    model.trainable = False
    assert not km.MaskRCNN.from_config(model.get_config()).trainable_weights


def test_images_count_where_no_size_says_that_a_row_is_empty():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    assert float(count_images({"images": images})) == 3
    assert float(count_images({"images": images, "image_sizes": np.array([[8, 8], [0, 0], [4, 8]])})) == 2


@pytest.mark.slow  # test_new_branch.py and test_compatibility.py load files in new processes, to 1e-5
@pytest.mark.compiled
def test_saved_and_loaded_in_a_fresh_process_bit_for_bit(tmp_path):
    model = scatter_weights(km.MaskRCNN(tiny_config(class_names=("a", "b", "c"), category_ids=(3, 7, 9))))
    batch = images_only(random_batch([SMALL], (96, 128)))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    np.savez(tmp_path / "question.npz", **batch)
    code = """
import sys, keras, numpy as np
import keras_maskrcnn as km
folder = sys.argv[1]
batch = dict(np.load(folder + "/question.npz"))
whole = keras.saving.load_model(folder + "/model.keras")
assert whole.config.class_names == ("a", "b", "c") and whole.config.category_ids == (3, 7, 9)
weights = km.MaskRCNN(whole.config, seed=5)
weights.load_weights(folder + "/model.weights.h5")
for name, model in (("whole", whole), ("weights", weights)):
    np.savez(folder + f"/{name}.npz", **model.predict_on_batch(batch))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300)
    with graph_optimiser(True):  # as in the new process
        expected = model.predict_on_batch(batch)
    for name in ("whole", "weights"):
        answer = np.load(tmp_path / f"{name}.npz")
        for key, value in expected.items():
            np.testing.assert_array_equal(answer[key], value, err_msg=f"{name} {key}")
