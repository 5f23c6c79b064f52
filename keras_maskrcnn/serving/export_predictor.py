"""Predict with an export that takes images of any size: image in, FoundInstances out.

The base class of what runs an export, one per runtime: `saved_model_predictor.py`, `onnx_predictor.py`.
"""

import numpy as np

from keras_maskrcnn.inference.arguments import check_arguments
from keras_maskrcnn.inference.found import FoundInstances
from keras_maskrcnn.inference.image_predictor import ImagePredictor


class ExportPredictor(ImagePredictor):
    """Finds the instances of images with an export. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone. A subclass defines
    `_detect(images)`: images (B, H, W, C) of one size -> dict of the export's outputs, numpy.

    Args:
        config: MaskRCNNConfig, from the export.
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold, or those of
            its classes.
        nms_threshold: float in 0..1, or None for the model's threshold.
        tile, overlap: as for `Predictor`.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(self, config, score_threshold=None, nms_threshold=None, tile=None, overlap=0.2):
        check_arguments(0, score_threshold, tile, overlap, nms_threshold)
        super().__init__(config, tile, overlap)
        self.options = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}

    def _whole_group(self, size):
        return size, size

    def _whole_batch(self, sizes, batch_size, alone):
        del batch_size, alone
        return ExportBatch(self, sizes)

    def _default_batch_size(self):
        return 1


class ExportBatch:
    """Images of one size, and what an export finds in them.

    Args:
        predictor: ExportPredictor. sizes: list of (height, width), image pixels, all the same.
    """

    def __init__(self, predictor, sizes):
        config = predictor.config
        self.predictor = predictor
        self.images = np.zeros((len(sizes), *sizes[0], config.num_channels), config.image_dtype)
        self.outputs = None

    def fill(self, row, image):
        """Put an image (H, W, C) into a row."""
        self.images[row] = image

    def run(self):
        """Detect; afterwards the images are dropped."""
        self.outputs = self.predictor._detect(self.images)
        self.images = None

    def found(self, row, image):
        """FoundInstances of a row."""
        found = {name: values[row] for name, values in self.outputs.items()}
        return found_instances({"image_sizes": image.shape[:2], **found}, self.predictor.config)


def drop_low_scores(run, score_threshold):
    """The function `run` of images, with detections of low scores not valid. Outputs stay where they are.

    NMS and the limit of detections take the best first, so this is what a graph with the threshold finds.
    """
    if score_threshold is None:
        return run

    def detect(images):
        found = run(images)
        return found | {"valid": found["valid"] & (found["scores"] > np.float32(score_threshold))}

    return detect


def found_instances(row, config):
    """Convert the row of one image in a response with `masks` to FoundInstances.

    Args:
        row: dict of arrays without the batch axis: boxes, scores, labels, valid, image_sizes and the
            branches' keys, such as masks.
        config: MaskRCNNConfig, from the export.

    Returns:
        FoundInstances.
    """
    valid = np.asarray(row["valid"], bool)
    keys = [key for branch in config.branches for key in branch.found(config)]
    return FoundInstances(
        boxes=np.asarray(row["boxes"], np.float32)[valid],
        scores=np.asarray(row["scores"], np.float32)[valid],
        labels=np.asarray(row["labels"])[valid],
        values={key: np.asarray(row[key])[valid] for key in keys},
        image_size=tuple(int(side) for side in row["image_sizes"]),
        config=config,
    )
