"""Torchvision's own numbers (tests/golden/maskrcnn_*.npz), and models with the weights that made them."""

import dataclasses
import json
import pathlib
import zlib

import numpy as np

import keras_maskrcnn as km
from keras_maskrcnn.geometry.resizing import network_size, resize_bilinear

GOLDEN = pathlib.Path(__file__).parent / "golden"
VERSIONS = {"v1": "maskrcnn_resnet50_fpn", "v2": "maskrcnn_resnet50_fpn_v2"}
LEVELS = ("0", "1", "2", "3", "pool")  # torchvision's keys of P2..P6


def state_spec(version):
    """Rows [name, shape, rule, scale] of torchvision's state dict, in its order, and the seed."""
    spec = json.loads((GOLDEN / f"{VERSIONS[version]}_state.json").read_text())
    return spec["tensors"], spec["seed"]


def golden_state(version):
    """The state dict that the golden numbers were made with: each tensor is a function of its name."""
    tensors, seed = state_spec(version)
    return {name: make_tensor(seed, name, shape, rule, scale) for name, shape, rule, scale in tensors}


def make_tensor(seed, name, shape, rule, scale):
    """One tensor by the rules of shared/golden/README.md."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if rule == "zero_int":
        return np.zeros(shape, np.int64)
    if rule == "uniform_half_to_three_halves":
        return ((0.5 + rng.random(shape)) * scale).astype(np.float32)
    spread = {"normal": 1.0, "he_normal": np.sqrt(2 / np.prod(shape[1:]))}[rule]
    return (rng.standard_normal(shape) * spread * scale).astype(np.float32)


def golden_numbers(version):
    """What torchvision computed."""
    return np.load(GOLDEN / f"{VERSIONS[version]}.npz")


def golden_model(version, **overrides):
    """Our twin: 90 classes, 256 x 320 pixels, score threshold 0.02, torchvision's weights."""
    model = getattr(km, VERSIONS[version])(90, min_size=256, max_size=320, score_threshold=0.02, **overrides)
    km.load_weights(model, golden_state(version))
    return model


def both_images(numbers, config):
    """The batch of both images as the model takes it: canvas float32, image_sizes."""
    images = [numbers["image0"], numbers["image1"]]
    sizes = [network_size(*image.shape[:2], config) for image in images]
    canvas = np.zeros((2, *numbers["batched_shape"][2:], 3), np.float32)
    for place, image, (height, width) in zip(canvas, images, sizes):
        place[:height, :width] = resize_bilinear(image, (height, width))
    return {"images": canvas, "image_sizes": np.array(sizes, np.int32)}


def ground_truth(numbers, batch):
    """The golden ground truth as full-size masks, resized as torchvision does (nearest, floor)."""
    height, width = batch["images"].shape[1:3]
    rows = max(len(numbers[f"gt{i}_boxes"]) for i in range(2))
    truth = {
        "gt_boxes": np.zeros((2, rows, 4), np.float32),
        "gt_labels": np.zeros((2, rows), np.int32),
        "gt_valid": np.zeros((2, rows), bool),
        "gt_masks": np.zeros((2, rows, height, width), np.uint8),
        "gt_mask_boxes": np.tile(np.array([0, 0, width, height], np.float32), (2, rows, 1)),
    }
    for i, (network_height, network_width) in enumerate(batch["image_sizes"]):
        source_height, source_width = numbers[f"image{i}"].shape[:2]
        count = len(numbers[f"gt{i}_boxes"])
        factors = np.array([network_width / source_width, network_height / source_height] * 2, np.float32)
        truth["gt_boxes"][i, :count] = numbers[f"gt{i}_boxes"] * factors
        truth["gt_labels"][i, :count] = numbers[f"gt{i}_labels"] - 1
        truth["gt_valid"][i, :count] = True
        masks = unpack(numbers[f"gt{i}_masks_packed"], source_width)
        y = np.arange(network_height) * source_height // network_height
        x = np.arange(network_width) * source_width // network_width
        # Beyond the image its border repeats: what RoIAlign reads there.
        beyond = [(0, 0), (0, height - network_height), (0, width - network_width)]
        truth["gt_masks"][i, :count] = np.pad(masks[:, y][:, :, x], beyond, mode="edge")
    return truth


def unpack(packed, width):
    """Bits along the last axis to 0/1."""
    return np.unpackbits(packed, axis=-1)[..., :width]


def sample_all(config):
    """The config with every anchor and proposal in the losses, as in the golden ones.

    100 masks an image hold all positive RoIs of the golden images; JAX would compute 2000 otherwise, most of them not
    positive.
    """
    everything = {"rpn_samples": 10**7, "rpn_positive_fraction": 1.0, "roi_samples": 10**7, "mask_samples": 100}
    return dataclasses.replace(config, roi_positive_fraction=1.0, **everything)
