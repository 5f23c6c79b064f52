"""Propose a config from the data: input size, anchors, limits, schedule. For `train --config` and `--auto`.

Each rule uses a measured property of the dataset:

* Input size: at most a quarter of the objects should be smaller than the smallest default anchor, 32 network pixels.
  Use one scale for all images if their sizes differ by more than a factor of 1.5 (10th to 90th percentile) and object
  sizes vary less in image pixels than after resizing all images to the same short side (microscopy). Otherwise use
  the smallest usual short side that reaches the goal. Sides below 320 are only for images that are no larger.
* Anchors: five sizes, each twice the one before. The first is the largest size with a recall within 0.5 % of the best.
* Limits: the largest number of objects in an image, and 25 % more detections, rounded up to tens; at least COCO's 100
  detections.
* Pixels: 8-bit RGB keeps ImageNet's normalisation, which pre-trained weights expect. Other images get the mean and
  standard deviation of each channel, and the dtype that can hold their values.
* Batch: 4 images, or 2 above 800 network pixels; never more than there are.
* Schedule: 20 000 images seen, in 12 to 100 epochs. The learning rate depends on the initial weights, not on the data;
  `train` chooses it.
"""

import math

import numpy as np

from keras_maskrcnn.checkup.anchor_recall import best_overlaps, network_boxes
from keras_maskrcnn.checkup.pixels import by_kind, main_kind
from keras_maskrcnn.config import MaskRCNNConfig

SMALLEST = 32  # network pixels: a quarter of the objects may be smaller
SHORT_SIDES = (320, 480, 640, 800, 1024)  # candidates for min_size
_SMALL_SIDES = (128, 192, 256)  # for images that are no larger
_LONG_OVER_SHORT = 1333 / 800  # the paper's
_FIRST_ANCHORS = (32, 16, 8, 4)
_RECALL_TOLERANCE = 0.005
_SCALES = (0.25, 4.0)  # range of image_scale
_LARGE = 1344  # network pixels: above it, training uses crops
_CROP = 512
_MEASURED = 200_000  # objects on which anchors are compared; evenly spread
_IMAGES_SEEN, _EPOCHS = 20_000, (12, 100)


def propose(inspection):
    """Options of `keras-maskrcnn train` for a dataset.

    Args:
        inspection: Inspection.

    Returns:
        dict: min_size and max_size or image_scale, crop, anchor_sizes, max_instances, max_detections, batch_size,
        epochs; for images that are not 8-bit RGB also pixel_mean, pixel_std and image_dtype.
    """
    sizes = np.array(inspection.dataset.image_sizes, np.int64).reshape(-1, 2)
    objects = ~inspection.crowd
    boxes, positions = inspection.boxes[objects], inspection.positions[objects]
    options = _input_size(boxes, positions, sizes)
    network = config_of(options)
    if len(boxes):
        options["anchor_sizes"] = _anchors(boxes, positions, sizes, network)
    longest = int(_network_sizes(sizes, network).max())
    if longest > _LARGE:
        options["crop"] = _CROP
    most = inspection.dataset.max_instances
    options["max_instances"] = max(20, _tens(most))
    options["max_detections"] = max(100, _tens(1.25 * most))
    batch_size = 4 if min(longest, options.get("crop", longest)) <= 800 else 2
    options["batch_size"] = min(batch_size, len(sizes))  # a larger batch than the dataset would never be full
    options["epochs"] = int(np.clip(math.ceil(_IMAGES_SEEN / len(sizes)), *_EPOCHS))
    return options | _normalisation(main_kind(by_kind(inspection.pixels)))


def config_of(options):
    """A MaskRCNNConfig with a proposal's input size and anchors, for functions that need only these."""
    names = ("min_size", "max_size", "image_scale", "anchor_sizes")
    fields = {name: options[name] for name in names if name in options}
    fields["anchor_sizes"] = tuple(fields.get("anchor_sizes", MaskRCNNConfig.anchor_sizes))
    return MaskRCNNConfig(num_classes=1, **fields)


def _normalisation(pixels):
    """pixel_mean, pixel_std and image_dtype for a kind of image (Pixels); {} for None."""
    if pixels is None:
        return {}
    std = np.where(pixels.std > 0, pixels.std, 1.0)
    return {
        "pixel_mean": [float(f"{value:.6g}") for value in pixels.mean],
        "pixel_std": [float(f"{value:.6g}") for value in std],
        "image_dtype": pixels.image_dtype,
    }


def _input_size(boxes, positions, sizes):
    """min_size and max_size, or image_scale."""
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    short = sizes.min(axis=1).astype(float)
    if not len(sides):
        return _short_side(800)
    relative = sides / short[positions]
    low, high = np.percentile(short, (10, 90))
    if high > 1.5 * low and np.log(sides).std() < np.log(relative).std():
        scale = np.clip(SMALLEST / np.percentile(sides, 25), *_SCALES)
        return {"image_scale": float(max(0.25, round(scale * 4) / 4))}
    tried = [side for side in _SMALL_SIDES if side >= np.median(short)] + list(SHORT_SIDES)
    enough = [side for side in tried if np.percentile(relative, 25) * side >= SMALLEST]
    most = 4 * np.median(short)  # larger upscaling adds no information
    allowed = [side for side in enough or tried[-1:] if side <= most]
    return _short_side(allowed[0] if allowed else max([side for side in tried if side <= most], default=tried[0]))


def _short_side(side):
    return {"min_size": int(side), "max_size": round(side * _LONG_OVER_SHORT)}


def _anchors(boxes, positions, sizes, network):
    step = -(-len(boxes) // _MEASURED)
    boxes, positions = boxes[::step], positions[::step]
    boxes, network_sizes = network_boxes(boxes, positions, sizes, network)
    recalls = {}
    for first in _FIRST_ANCHORS:
        anchors = [first * 2**level for level in range(5)]
        overlaps = best_overlaps(boxes, positions, network_sizes, anchors, network.anchor_ratios)
        recalls[first] = (overlaps >= 0.5).mean()
    best = max(recalls.values())
    first = next(first for first in _FIRST_ANCHORS if recalls[first] >= best - _RECALL_TOLERANCE)
    return [first * 2**level for level in range(5)]


def _network_sizes(sizes, config):
    return network_boxes(np.zeros((0, 4)), np.zeros(0, int), sizes, config)[1]


def _tens(number):
    return int(math.ceil(number / 10) * 10)
