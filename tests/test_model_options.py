"""The model's options: precision, norms, heads, a foreign backbone, NMS across classes; learning; saving."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from backend_tools import losses_and_gradients
from keras import ops
from tiny import images_only, random_batch, sample_everything, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import backend

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
    expected = model.predict_on_batch(batch)
    for name in ("whole", "weights"):
        answer = np.load(tmp_path / f"{name}.npz")
        for key, value in expected.items():
            np.testing.assert_array_equal(answer[key], value, err_msg=f"{name} {key}")
