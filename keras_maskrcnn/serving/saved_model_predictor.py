"""Predict with a SavedModel: image in, FoundInstances out, through the SavedModel's signatures.

Called by `keras-maskrcnn predict --saved-model`, and by users who have an export but no `.keras` file.
"""

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.inference.predictor import FoundInstances
from keras_maskrcnn.inference.streaming import Streaming
from keras_maskrcnn.serving.assets import read_config
from keras_maskrcnn.serving.saved_model import find_version


class SavedModelPredictor(Streaming):
    """Finds the instances of images with an export. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone.

    Args:
        path: folder of a SavedModel, or of its versions (the highest is used).
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold.
        nms_threshold: float in 0..1, or None for the model's threshold.

    Raises:
        ValueError: the path is not an export of this package.
    """

    def __init__(self, path, score_threshold=None, nms_threshold=None):
        import tensorflow as tf  # a SavedModel runs on TensorFlow, on any Keras backend

        self.options = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
        for name, value in self.options.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1. Received: {value}. Leave it out to use the model's value.")
        folder = find_version(path)
        self.config = read_config(folder)
        self._saved_model = tf.saved_model.load(
            str(folder)
        )  # keep a reference: its functions do not keep their variables alive
        self._signature = self._saved_model.signatures["serve_images_options"]
        self._input_dtype = self._signature.structured_input_signature[1]["images"].dtype

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

    # Streaming -------------------------------------------------------------------------------------------------

    def _read(self, source):
        return read_image(source, self.config.num_channels, self.config.image_dtype)

    def _group(self, size):
        return size, size

    def _new_batch(self, sizes, batch_size=1, alone=True):
        del batch_size, alone
        return ExportBatch(self, sizes)

    def _default_batch_size(self):
        return 1

    def _detect(self, images):
        """The signature's outputs, numpy, of images of one size, (B, H, W, C)."""
        import tensorflow as tf

        options = {
            name: tf.fill([len(images)], tf.constant(-1.0 if value is None else value, tf.float32))
            for name, value in self.options.items()
        }
        options["max_detections"] = tf.fill([len(images)], -1)
        outputs = self._signature(images=tf.constant(images, self._input_dtype), **options)
        return {name: value.numpy() for name, value in outputs.items()}


class ExportBatch:
    """Images of one size, and what an export finds in them.

    Args:
        predictor: SavedModelPredictor. sizes: list of (height, width), image pixels, all the same.
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
        del image
        return found_instances({name: values[row] for name, values in self.outputs.items()}, self.predictor.config)


def found_instances(row, config):
    """Convert the row of one image in a response with `masks` to FoundInstances.

    Args:
        row: dict of arrays without the batch axis: boxes, scores, labels, valid, image_sizes and the
            branches' keys, such as masks.
        config: MaskRCNNConfig, from the export's `assets/config.json` (`read_config`).

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
