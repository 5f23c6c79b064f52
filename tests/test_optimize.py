"""Folding: the same answers without batch norm."""

import keras
import numpy as np
import pytest
from tiny import images_only, random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km


def answers_of(model, batch):
    return model.predict_on_batch(images_only(batch))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(  # on JAX test_backbones.py folds a model
            {"norm": "frozen_batch", "norm_epsilon": 0.01}, id="frozen", marks=pytest.mark.slow_on_jax
        ),
        pytest.param(
            {"norm": "batch", "head_norm": "batch", "box_convs": 1, "box_fcs": 1},
            id="v2like",
            marks=pytest.mark.tensorflow,
        ),
        pytest.param(
            {"norm": "group", "head_norm": "group", "mask_channels": 32}, id="group", marks=pytest.mark.tensorflow
        ),
    ],
)
def test_folded_model_gives_the_same_answers(options):
    model = scatter_weights(km.MaskRCNN(tiny_config(**options)))
    batch = random_batch([(96, 128), (80, 100)], (96, 128))
    folded = km.optimize_for_inference(model)
    names = [weight.path for weight in folded.weights]
    assert options["norm"] == "group" or not [n for n in names if "moving_" in n or "gamma" in n]
    expected, found = answers_of(model, batch), answers_of(folded, batch)
    assert expected["valid"].all() and np.ptp(expected["boxes"]) > 50
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=2e-3)
    # A box that moved by 1e-4 pixels crops other features.
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["masks"], expected["masks"], atol=1e-4)


@pytest.mark.slow_on_jax  # where folding is what XLA does; the answers are compared above
def test_features_agree_to_1e_5_and_the_model_is_left_alone():
    model = scatter_weights(km.MaskRCNN(tiny_config(norm="batch", head_norm="batch")))
    before = [np.array(weight) for weight in model.weights]
    folded = km.optimize_for_inference(model)
    images = random_batch([(64, 96)], (64, 96))["images"]
    sizes = np.array([[64, 96]], "int32")
    for ours, theirs in zip(*(each.extract_features(images, sizes)["pyramid"] for each in (folded, model))):
        ours, theirs = keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert all(np.array_equal(a, np.array(b)) for a, b in zip(before, model.weights))


@pytest.mark.tensorflow
def test_bfloat16_is_close_and_its_boxes_are_float32():
    model = scatter_weights(km.MaskRCNN(tiny_config()))
    batch = random_batch([(96, 128)], (96, 128))
    folded = km.optimize_for_inference(model, dtype="bfloat16")
    assert folded.fpn.laterals[0].conv.compute_dtype == "bfloat16"
    found, expected = answers_of(folded, batch), answers_of(model, batch)
    assert found["boxes"].dtype == np.float32
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=0.05)


@pytest.mark.tensorflow
def test_a_custom_backbone_is_copied(tmp_path):
    inputs = keras.Input((None, None, 3))
    maps = [keras.layers.Conv2D(8, 1, strides=s)(inputs) for s in (4, 8, 16, 32)]
    model = scatter_weights(km.MaskRCNN(tiny_config(head_norm="batch"), backbone=keras.Model(inputs, maps)))
    batch = random_batch([(96, 128)], (96, 128))
    folded = km.optimize_for_inference(model)
    np.testing.assert_allclose(answers_of(folded, batch)["boxes"], answers_of(model, batch)["boxes"], atol=2e-3)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras", compile=False)
    np.testing.assert_array_equal(answers_of(loaded, batch)["boxes"], answers_of(folded, batch)["boxes"])


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        km.optimize_for_inference(km.MaskRCNN(tiny_config()), dtype="int8")
