"""What the arguments of a predictor must keep to. Imports no framework: who starts processes checks them before."""

from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.inference.tiling import tile_grid


def check_arguments(lowest, score_threshold=None, tile=None, overlap=0.2):
    """Check the arguments of `Predictor`.

    Args:
        lowest: float, score of a model's worst detections: its config's `score_threshold`.
        score_threshold, tile, overlap: as for Predictor.

    Raises:
        ValueError: one of them is invalid.
    """
    if score_threshold is not None and not lowest <= score_threshold <= 1:
        raise ValueError(
            f"{argument('score_threshold')} must lie between the model's own, {lowest}, and 1. "
            f"Received: {score_threshold}. For more detections build the model with a lower threshold: "
            "dataclasses.replace(config, score_threshold=...)."
        )
    if tile is not None:
        tile_grid(tile, tile, tile, overlap)
