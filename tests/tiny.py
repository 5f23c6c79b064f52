"""The smallest Mask R-CNN that has every part, and batches for it; used by several test files."""

import contextlib

import keras
import numpy as np

import keras_maskrcnn as km


def tiny_config(**overrides):
    """ResNet-10 with narrow heads; proposals and detections by the dozen."""
    values = {
        "num_classes": 3,
        "backbone": "resnet10",
        "norm": "frozen_batch",
        "image_scale": 1.0,
        "fpn_channels": 32,
        "anchor_sizes": (16, 32, 64, 128, 256),
        "train_pre_nms": 60,
        "train_post_nms": 60,
        "test_pre_nms": 60,
        "test_post_nms": 40,
        "rpn_samples": 64,
        "roi_samples": 32,
        "box_features": 32,
        "mask_convs": 1,
        "mask_channels": 16,
        "gt_mask_size": 14,
        "score_threshold": 0.0,
        "max_detections": 10,
        "max_instances": 6,
    }
    return km.MaskRCNNConfig(**(values | overrides))


def plain_backbone():
    """Five strided convolutions: half of a ResNet-10's operators, where the backbone is not what is tested."""
    inputs = features = keras.Input((None, None, 3))
    maps = []
    for filters in (8, 8, 12, 16, 24):
        features = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu")(features)
        maps.append(features)
    return keras.Model(inputs, maps[1:])


def sample_everything(**overrides):
    """A tiny config in which chance has no part: all anchors and proposals enter the losses."""
    values = {"rpn_samples": 10**6, "rpn_positive_fraction": 1.0}
    values |= {"roi_samples": 10**4, "roi_positive_fraction": 1.0, "mask_samples": None}
    return tiny_config(**(values | overrides))


def scatter_weights(model, seed=0):
    """Give all weights values that matter: heads start near zero, biases at zero, which would hide mistakes."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = weight.path.split("/")[-1], tuple(weight.shape)
        if name == "seed_generator_state":
            continue
        if name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.0, shape)
        elif len(shape) > 1:
            values = rng.normal(size=shape) * np.sqrt(1.0 / np.prod(shape[:-1]))
        else:
            values = rng.normal(size=shape) * 0.1
        weight.assign(values.astype("float32"))
    return model


@contextlib.contextmanager
def in_place_of(model, config):
    """The model with another config of the same weights, which its eager steps read."""
    own, model.config = model.config, config
    yield
    model.config = own


def random_batch(sizes, canvas, num_objects=3, rows=6, seed=0, num_classes=3, mask_size=14):
    """A batch of noise images of the given (height, width) sizes with box-shaped objects; rows of padding beyond."""
    batch = {
        "images": np.zeros((len(sizes), *canvas, 3), np.uint8),
        "image_sizes": np.array(sizes, np.int32),
        "gt_boxes": np.zeros((len(sizes), rows, 4), np.float32),
        "gt_labels": np.zeros((len(sizes), rows), np.int32),
        "gt_masks": np.zeros((len(sizes), rows, mask_size, mask_size), np.uint8),
        "gt_valid": np.zeros((len(sizes), rows), bool),
        "gt_crowd": np.zeros((len(sizes), rows), bool),
    }
    for i, (height, width) in enumerate(sizes):
        rng = np.random.default_rng([seed, height, width])  # an image is the same in whatever batch
        batch["images"][i, :height, :width] = rng.integers(0, 256, (height, width, 3))
        for j in range(num_objects):
            side = rng.uniform(20, 45, 2)
            corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - side)
            batch["gt_boxes"][i, j] = [*corner, *(corner + side)]
            batch["gt_labels"][i, j] = rng.integers(num_classes)
            batch["gt_masks"][i, j] = rng.integers(0, 2, (mask_size, mask_size))
            batch["gt_valid"][i, j] = True
    return batch


def images_only(batch):
    """The part of a batch that a model detects on."""
    return {key: batch[key] for key in ("images", "image_sizes")}
