"""A Mask R-CNN that converts in seconds and the comparison of what came out with it; for test_onnx and test_litert."""

import keras
import numpy as np
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli


def small_model(**overrides):
    """Five strided convolutions as the backbone; resizes, and finds nothing in some images and all rows in others."""
    inputs = features = keras.Input((None, None, 3))
    maps = []
    for filters in (8, 8, 12, 16, 24):
        features = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu")(features)
        maps.append(features)
    values = {"image_scale": None, "min_size": 96, "max_size": 150, "score_threshold": 0.37}
    config = tiny_config(**(values | overrides))
    model = scatter_weights(km.MaskRCNN(config, backbone=keras.Model(inputs, maps[1:])))
    model.run_eagerly = True  # answers a dozen images before a graph of it is traced
    return model


def export_by_command(model, target, *options):
    """`keras-maskrcnn export` of the saved model; returns the target."""
    source = target.with_suffix(".keras")
    model.save(source)
    assert cli.main(["export", str(source), str(target), *options]) == cli.SUCCESS
    source.unlink()
    return target


def noise(height, width, seed=0):
    """One image, uint8 (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(answer, row, found, boxes=2e-3, scores=2e-5, masks=1e-4):
    """Compare a row of a converted model's outputs with what Predictor finds, row by row, padding included."""
    count = len(found)
    assert answer["num_detections"][row] == count and answer["valid"][row].tolist() == [True] * count + [False] * (
        len(answer["valid"][row]) - count
    )
    np.testing.assert_allclose(answer["boxes"][row, :count], found.boxes, atol=boxes)
    np.testing.assert_allclose(answer["scores"][row, :count], found.scores, atol=scores)
    np.testing.assert_array_equal(answer["labels"][row, :count], found.labels)
    np.testing.assert_allclose(answer["masks"][row, :count], found.box_masks, atol=masks)
    for name in ("boxes", "scores", "labels", "masks"):
        assert not answer[name][row, count:].any()
