"""Predict with a LiteRT file of `export_litert`, in the LiteRT interpreter.

Called by `open_predictor` and by users who have an export but no `.keras` file.
"""

import pathlib

import numpy as np

from keras_maskrcnn.serving.converting import need
from keras_maskrcnn.serving.export_predictor import ExportPredictor, drop_low_scores
from keras_maskrcnn.serving.litert import read_litert_config


class LitertPredictor(ExportPredictor):
    """Finds the instances of images of one size with a .tflite file. Same interface as `Predictor`.

    Args:
        path: .tflite file that this package wrote.
        score_threshold: float in 0..1; detections score more than this. Those that the model drops stay dropped. None
            means the model's threshold.
        tile, overlap: as for `Predictor`.

    Raises:
        ValueError: the file was not written by this package, or an argument is invalid.
        ImportError: the interpreter is not installed.

    `image_size` is the (height, width) of its images. Of another size they are refused.
    """

    def __init__(self, path, score_threshold=None, tile=None, overlap=0.2):
        super().__init__(read_litert_config(path), score_threshold, None, tile, overlap)
        runtime = need("ai_edge_litert.interpreter", "litert")
        self._interpreter = runtime.Interpreter(str(pathlib.Path(path)))  # its runner does not keep it alive
        details = self._interpreter.get_input_details()[0]
        self.image_size = tuple(int(side) for side in details["shape"][1:3])
        self._input_dtype = details["dtype"]
        self._signature = self._interpreter.get_signature_runner("serving_default")
        self._run = drop_low_scores(self._interpret, score_threshold)

    def _detect(self, images):
        return self._run(images)

    def _interpret(self, images):
        if images.shape[1:3] != self.image_size:
            raise ValueError(
                "A LiteRT file takes images of one size, this one {} x {} pixels (height x width). Received: {} x {}. "
                "Resize them, or export with another --image-size.".format(*self.image_size, *images.shape[1:3])
            )
        answers = [self._signature(images=image[None].astype(self._input_dtype)) for image in images]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
