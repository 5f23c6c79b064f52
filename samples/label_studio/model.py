"""A machine learning backend for Label Studio: draws a model's predictions into the tasks that are opened.

    KERAS_MASKRCNN_MODEL=run label-studio-ml start samples/label_studio

The README beside this file says how to install and connect it.
"""

import functools
import os
import pathlib
import threading

from label_studio_ml.model import LabelStudioMLBase
from predictions import KINDS, prediction

import keras_maskrcnn as km

_ONE_AT_A_TIME = threading.Lock()


@functools.cache
def open_model():
    """The predictor of KERAS_MASKRCNN_MODEL: a run folder, .keras file or export; opened once."""
    score = os.environ.get("KERAS_MASKRCNN_SCORE")
    return km.Predictor(os.environ["KERAS_MASKRCNN_MODEL"], score_threshold=None if score is None else float(score))


class MaskRCNNBackend(LabelStudioMLBase):
    """Predicts images of projects that label them with brushes or polygons, by the setup's first such labels."""

    def setup(self):
        """Name the model as Label Studio shows it. Called for each project."""
        self.set("model_version", f"keras-maskrcnn {pathlib.Path(os.environ['KERAS_MASKRCNN_MODEL']).name}")

    def predict(self, tasks, context=None, **options):
        """Predictions of tasks.

        Args:
            tasks: list of dict with id and data. context, options: not used.

        Returns:
            List of dict, one a task.
        """
        from_name, to_name, field = self.get_first_tag_occurence(KINDS, "Image")
        control = self.label_interface.get_control(from_name)
        version = str(self.model_version)
        return [
            prediction(self._found(task, field), control.tag, from_name, to_name, list(control.labels), version)
            for task in tasks
        ]

    def _found(self, task, field):
        """FoundInstances of a task's image, which may lie on Label Studio's server."""
        path = self.get_local_path(task["data"][field], task_id=task.get("id"))
        with _ONE_AT_A_TIME:
            return open_model()(path)
