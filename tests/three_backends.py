"""A small model, two images and what is found in them: one weights file predicts the same on every backend.

    KERAS_BACKEND=tensorflow python tests/three_backends.py golden    writes the golden files, once
    KERAS_BACKEND=jax python tests/three_backends.py save FILE        writes weights as this backend saves them
    KERAS_BACKEND=torch python tests/three_backends.py find FILE OUT  writes what this backend finds with them

test_three_backends.py compares each backend with the golden files, and starts the other two as processes.
"""

import pathlib
import sys

import keras
import numpy as np
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km

GOLDEN = pathlib.Path(__file__).parent / "golden"
WEIGHTS, FOUND = GOLDEN / "three_backends.weights.h5", GOLDEN / "three_backends.npz"
SIZES = ((150, 210), (200, 120))  # of the images; the model enlarges them


def small_model():
    """A Mask R-CNN of 50,000 numbers: a backbone of four convolutions, batch norm in FPN and heads."""
    images = keras.Input((None, None, 3))
    maps, features = [], images
    for stride in (4, 2, 2, 2):
        features = keras.layers.Conv2D(12, 5, strides=stride, padding="same", activation="relu")(features)
        maps.append(features)
    config = tiny_config(
        image_scale=None, min_size=192, max_size=320, fpn_channels=12, head_norm="batch", box_pool_size=5,
        box_features=24, mask_channels=8, score_threshold=0.2, max_detections=12, test_pre_nms=200, test_post_nms=100,
    )  # fmt: skip
    return km.MaskRCNN(config, backbone=keras.Model(images, maps))


def colour_boxes():
    """Two images of overlapping boxes of colour, uint8."""
    rng = np.random.default_rng(11)
    images = []
    for height, width in SIZES:
        image = np.full((height, width, 3), 128, np.uint8)
        for _ in range(12):
            y, x, rows, columns = rng.integers(0, height), rng.integers(0, width), *rng.integers(20, 90, 2)
            image[y : y + rows, x : x + columns] = rng.integers(0, 256, 3)
        images.append(image)
    return images


def find(model):
    """What the model finds: dict of boxes, scores, labels and masks of each image, by name and number."""
    predictor, found = km.Predictor(model), {}
    for number, image in enumerate(colour_boxes()):
        instances = predictor(image)
        for name in ("boxes", "scores", "labels", "box_masks"):
            found[f"{name}{number}"] = getattr(instances, name)
    return found


def main(task, weights=WEIGHTS, out=FOUND):
    """Run one of the tasks of the module's docstring."""
    model = small_model()
    if task == "find":
        km.load_weights(model, str(weights))
    else:
        scatter_weights(model, seed=5)
        model.save_weights(weights)
    if task != "save":
        np.savez_compressed(out, **find(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
