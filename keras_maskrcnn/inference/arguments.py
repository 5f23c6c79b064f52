"""What the arguments of a predictor must keep to. Imports no framework: who starts processes checks them before."""

import numpy as np

from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.inference.tiling import tile_grid

USUAL_SCORE = 0.5  # of what people look at, where a model was not tuned


def check_arguments(lowest, score_threshold=None, tile=None, overlap=0.2, nms_threshold=None):
    """Check the arguments of `Predictor`.

    Args:
        lowest: float, score of a model's worst detections: its config's `lowest_score`.
        score_threshold, tile, overlap, nms_threshold: as for Predictor.

    Raises:
        ValueError: one of them is invalid.
    """
    if score_threshold is not None and not lowest <= score_threshold <= 1:
        raise ValueError(
            f"{argument('score_threshold')} must lie between the model's own, {lowest}, and 1. "
            f"Received: {score_threshold}. For more detections build the model with a lower threshold: "
            "dataclasses.replace(config, score_threshold=...)."
        )
    if nms_threshold is not None and not 0 <= nms_threshold <= 1:
        raise ValueError(f"nms_threshold must be in 0..1. Received: {nms_threshold}. Leave it out for the model's.")
    if tile is not None:
        tile_grid(tile, tile, tile, overlap)


def thresholds_of(config, score_threshold=None):
    """The least score of a detection of each class.

    Args:
        config: MaskRCNNConfig. score_threshold: float for all classes, or None for the config's.

    Returns:
        float64 (K,).
    """
    lowest = config.lowest_score if score_threshold is None else score_threshold
    if score_threshold is None and config.class_thresholds is not None:
        lowest = np.maximum(lowest, config.class_thresholds)
    return np.broadcast_to(np.asarray(lowest, np.float64), config.num_classes)
