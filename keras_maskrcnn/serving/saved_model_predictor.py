"""Predict with a SavedModel: image in, FoundInstances out, through the SavedModel's signatures.

Called by `keras-maskrcnn predict --saved-model`, and by users who have an export but no `.keras` file.
"""

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.inference.predictor import FoundInstances
from keras_maskrcnn.serving.assets import read_config
from keras_maskrcnn.serving.saved_model import find_version


class SavedModelPredictor:
    """Finds the instances of one image with an export. Same interface as `Predictor`.

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
        import tensorflow as tf

        image = read_image(image, self.config.num_channels, self.config.image_dtype)
        options = {
            name: tf.constant([-1.0 if value is None else value], tf.float32) for name, value in self.options.items()
        }
        options["max_detections"] = tf.constant([-1])
        outputs = self._signature(images=tf.constant(image[None], self._input_dtype), **options)
        return found_instances({name: value.numpy()[0] for name, value in outputs.items()}, self.config)


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
