"""Predict with a SavedModel, through its signatures.

Called by `keras-maskrcnn predict --saved-model`, and by users who have an export but no `.keras` file.
"""

from keras_maskrcnn.serving.assets import read_config
from keras_maskrcnn.serving.export_predictor import ExportPredictor
from keras_maskrcnn.serving.saved_model import find_version


class SavedModelPredictor(ExportPredictor):
    """Finds the instances of images with a SavedModel. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone.

    Args:
        path: folder of a SavedModel, or of its versions (the highest is used).
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold.
        nms_threshold: float in 0..1, or None for the model's threshold.
        tile, overlap: as for `Predictor`.

    Raises:
        ValueError: the path is not an export of this package, or a threshold is invalid.
    """

    def __init__(self, path, score_threshold=None, nms_threshold=None, tile=None, overlap=0.2):
        import tensorflow as tf  # a SavedModel runs on TensorFlow, on any Keras backend

        folder = find_version(path)
        super().__init__(read_config(folder), score_threshold, nms_threshold, tile, overlap)
        self._saved_model = tf.saved_model.load(str(folder))  # its functions do not keep their variables alive
        self._signature = self._saved_model.signatures["serve_images_options"]
        self._input_dtype = self._signature.structured_input_signature[1]["images"].dtype

    def _detect(self, images):
        import tensorflow as tf

        options = {
            name: tf.fill([len(images)], tf.constant(-1.0 if value is None else value, tf.float32))
            for name, value in self.options.items()
        }
        options["max_detections"] = tf.fill([len(images)], -1)
        outputs = self._signature(images=tf.constant(images, self._input_dtype), **options)
        return {name: value.numpy() for name, value in outputs.items()}
