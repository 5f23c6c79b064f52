"""A function for CVAT's command line, which annotates a task from your own machine, without nuclio.

    cvat-cli task auto-annotate TASK_ID --function-file samples/cvat/auto_annotation.py -p model=str:run

The README beside this file says how to log in.
"""

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk.masks import encode_mask

import keras_maskrcnn as km
from keras_maskrcnn.labelling.drafts import DraftObject


class Function:
    """CVAT's interface of a detection function.

    Args:
        predictor: Predictor.
    """

    def __init__(self, predictor):
        self.predictor = predictor

    @property
    def spec(self):
        """The classes, which CVAT joins with the task's labels by name."""
        names = self.predictor.config.class_names
        return cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, label, type="mask") for label, name in enumerate(names)]
        )

    def detect(self, context, image):
        """The objects of an image.

        Args:
            context: CVAT's, with `conf_threshold` and `conv_mask_to_poly`. image: PIL.Image.Image.

        Returns:
            List of LabeledShapeRequest: masks, or polygons where they are asked for.
        """
        found, least = self.predictor(image), context.conf_threshold or 0.0
        shape = polygon if context.conv_mask_to_poly else mask
        return [
            shape(int(label), window, found.image_size)
            for window, label, score in zip(found.mask_windows, found.labels, found.scores, strict=True)
            if score >= least and window[0].any()
        ]


def mask(label, window, image_size):
    """A mask. `window`: (bool (h, w), x, y). `image_size`: (height, width)."""
    pixels, x, y = window
    height, width = pixels.shape
    whole = np.zeros(image_size, bool)
    whole[y : y + height, x : x + width] = pixels
    return cvataa.mask(label, encode_mask(whole, [x, y, x + width, y + height]))


def polygon(label, window, image_size):
    """One polygon, parts and holes joined by lines without width. Arguments as of `mask`."""
    return cvataa.polygon(label, DraftObject("", 0.0, *window).outline.ravel().tolist())


def create(model, score=None):
    """What `-p` gives parameters to: the path of the model, and perhaps a threshold of scores."""
    return Function(km.Predictor(model, score_threshold=score))
