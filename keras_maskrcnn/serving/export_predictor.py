"""Predict with an export that takes images of any size: image in, FoundInstances out.

The base class of what runs an export, one per runtime: `saved_model_predictor.py`, `onnx_predictor.py`.
"""

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.inference.predictor import FoundInstances
from keras_maskrcnn.inference.streaming import Streaming


class ExportPredictor(Streaming):
    """Finds the instances of images with an export. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone. A subclass sets
    `config`, and defines `_detect(images)`: images (B, H, W, C) of one size -> dict of the export's outputs, numpy.

    Args:
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold.
        nms_threshold: float in 0..1, or None for the model's threshold.

    Raises:
        ValueError: a threshold is invalid.
    """

    def __init__(self, score_threshold=None, nms_threshold=None):
        self.options = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
        for name, value in self.options.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1. Received: {value}. Leave it out to use the model's value.")

    def __call__(self, image):
        """Detect.

        Args:
            image: as for `Predictor`: path, PIL image, encoded bytes, or an array (H, W, C).

        Returns:
            FoundInstances, by descending score.
        """
        image = self._read(image)
        batch = self._new_batch([image.shape[:2]])
        batch.fill(0, image)
        batch.run()
        return batch.found(0, image)

    def _read(self, source):
        return read_image(source, self.config.num_channels, self.config.image_dtype)

    def _group(self, size):
        return size, size

    def _new_batch(self, sizes, batch_size=1, alone=True):
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
