"""The pyramid level of a RoI (FPN paper, eq. 1): k = k0 + log2(side / 224), made a whole number.

Programs round differently, which shows where a box lies on the border between two levels. Each rule is a function of
the quotient, float (...,), side of the box / side of a box of level `canonical`, and gives the level, float (...,).
What is added before rounding is added in float32, as the originals do: it decides. Called by `roi_align.py`.
"""

from keras import ops

_SMALLEST = 1e-6 / 224  # far below one pixel: it only keeps the logarithms of empty boxes finite


def _log2(values):
    return ops.log(values) / ops.log(2.0)


def _torchvision(quotients, canonical):
    """Torchvision's `LevelMapper`: a millionth of a level is added before rounding down."""
    return ops.floor(canonical + _log2(ops.maximum(quotients, _SMALLEST)) + 1e-6)


def _detectron2(quotients, canonical):
    """Detectron2's `assign_boxes_to_levels`: the addition is to the quotient."""
    return ops.floor(canonical + _log2(quotients + 1e-8))


def _tensorpack(quotients, canonical):
    """Tensorpack's `fpn_map_rois_to_levels`: as Detectron2's, with a hundred times as much."""
    return ops.floor(canonical + _log2(quotients + 1e-6))


def _mmdetection(quotients, canonical):
    """MMDetection's `map_roi_levels`: the quotient is to the boxes of the finest level, two below."""
    return canonical - 2 + ops.floor(_log2(4 * quotients + 1e-6))


def _matterport(quotients, canonical):
    """Matterport's `PyramidROIAlign`: to the nearest level, halves to even."""
    return canonical + ops.round(_log2(ops.maximum(quotients, _SMALLEST)))


LEVEL_RULES = {
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "matterport": _matterport,
    "tensorpack": _tensorpack,
    "mmdetection": _mmdetection,
}
