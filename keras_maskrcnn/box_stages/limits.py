"""The numbers of a config and of one call that choose the detections, in the words of `network/detections.py`.

Called by `model.py`.
"""

import numpy as np
from keras import ops


def detection_limits(config, options=None):
    """The config's numbers in the words of `select_detections`: dict of arguments.

    Args:
        config: MaskRCNNConfig.
        options: as for `MaskRCNN.call`. A `score_threshold` that is NaN or negative, and such an `nms_threshold`, stand
            for the config's. A given `score_threshold` replaces the config's and, for all classes, `class_thresholds`.
            A calibrated model keeps the config's `score_threshold`, which is of scores before calibration, and
            compares the given one with calibrated scores.
    """
    options = options or {}
    return {
        **_score_limits(config, options.get("score_threshold")),
        "nms_threshold": _given_or(options.get("nms_threshold"), config.nms_threshold),
        "calibration": config.calibration,
        "class_agnostic_nms": config.class_agnostic_nms,
        "max_detections": config.max_detections,
        "image_limits": options.get("max_detections"),
        "candidates": config.detection_candidates,
        "box_weights": config.box_stages[-1][1],
        "min_box_size": config.min_box_size,
        "max_log_scale": config.max_log_scale,
    }


def _score_limits(config, given):
    """The `score_threshold` and `class_thresholds` of `detection_limits`; given: None, or float (B,)."""
    lowest, by_class = config.score_threshold, config.class_thresholds
    if config.calibration is None:
        lowest = _given_or(given, lowest)
    if given is not None and config.tuned:
        by_class = _given_or(ops.reshape(given, (-1, 1)), [by_class or (0.0,) * config.num_classes])
    return {"score_threshold": lowest, "class_thresholds": by_class}


def _given_or(given, own):
    """Numbers that a user gave, where they are neither NaN nor negative, else the model's; given: None or floats."""
    if given is None:
        return own
    given = ops.cast(given, "float32")
    return ops.where(given >= 0, given, np.asarray(own, np.float32))
