"""From an image to its instances, in the pixels of that image; `stream` does it for many.

In: a path, PIL image or array. Out: `FoundInstances` with boxes, scores, labels and masks in image pixels. Called by
users, by `evaluation/` and by the command line. Masks stay 28x28 in the frame of their box until full ones are
requested.
"""

import keras
import numpy as np

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.resizing import (
    bucket_size,
    canvas_size,
    network_size,
    resize_image,
)
from keras_maskrcnn.host.caches import compiled_folder
from keras_maskrcnn.inference.arguments import check_arguments, thresholds_of
from keras_maskrcnn.inference.found import FoundInstances
from keras_maskrcnn.inference.frames import boxes_in_image, moved_values
from keras_maskrcnn.inference.image_predictor import ImagePredictor
from keras_maskrcnn.inference.opening import is_path, open_path


class Predictor(ImagePredictor):
    """Finds the instances of images with a trained model: of one by a call, of many with `stream`.

    Of a path it makes what `keras_maskrcnn.scale.models.open_predictor` returns, with its options (`device`, ...): for
    a `.keras` file or run folder a Predictor, for an export (.onnx file, folder of OpenVINO, SavedModel) a predictor
    that runs it, with the same interface.

    Args:
        model: MaskRCNN, or anything with `.config` and `.predict_on_batch(batch)`; or a path.
        score_threshold: float in 0..1, detections of all classes below it are dropped. None means the config's, which
            after `tune` are those of each class. It cannot be lower than the config's `lowest_score`, because the
            model does not return those detections.
        tile: int, image pixels: larger images are cut into overlapping squares of this side. Each is resized like
            an image of its size; detections are merged by their masks (`tiling.py`). None never cuts. With
            `image_scale` in the config all scales stay; else `tile=config.min_size` keeps them.
        overlap: share of a tile's side in common with the next tile. Should not be smaller than the objects.
        nms_threshold: float in 0..1, or None for the config's.
    """

    def __new__(cls, model=None, *arguments, **options):
        """Open a path. Without a model when a predictor is copied."""
        if is_path(model) and cls is Predictor:
            return open_path(model, *arguments, **options)
        return super().__new__(cls)

    def __init__(self, model, score_threshold=None, tile=None, overlap=0.2, nms_threshold=None, **options):
        if is_path(model) and hasattr(self, "config"):
            return  # opened by `__new__`
        if options or not hasattr(model, "config"):
            raise TypeError(
                f"{type(self).__name__} takes a MaskRCNN, and options of an export only with its path. Received: "
                f"{model!r} and {options}. km.Predictor(PATH) opens files."
            )
        check_arguments(model.config.lowest_score, score_threshold, tile, overlap, nms_threshold)
        backend.keep_compiled(compiled_folder())
        super().__init__(model.config, tile, overlap)
        self.model = model
        thresholds = thresholds_of(model.config, score_threshold)
        self.thresholds, self.score_threshold = thresholds.astype(np.float32), float(thresholds.min())
        # What the model must be told: it has the thresholds of classes inside.
        given = {"score_threshold": score_threshold if model.config.tuned else None, "nms_threshold": nms_threshold}
        self.options = {name: value for name, value in given.items() if value is not None}

    # Streaming -------------------------------------------------------------------------------------------------

    def _whole_group(self, size):
        size = network_size(*size, self.config)
        canvas = self.canvas(*size)
        return bucket_size(*size) if self._canvas_is_free() else canvas, canvas

    def _whole_batch(self, sizes, batch_size, alone):
        full = _compiles_each_shape() and not alone  # a program is of one number of images
        return NetworkBatch(self, sizes, batch_size if full else len(sizes))

    def canvas(self, height, width):
        """Canvas (height, width) of an image of this size alone, network pixels.

        TensorFlow handles any size with one graph; JAX compiles once per canvas. A coarse grid of canvases limits that,
        if predictions do not depend on the canvas.
        """
        coarse = _compiles_each_shape() and self.config.mask_padding
        return (bucket_size if coarse else canvas_size)(height, width)

    def _canvas_is_free(self):
        """Whether an image has the same answer on any canvas: group norm's statistics are of a whole canvas."""
        config, backbone = self.config, getattr(self.model, "backbone", None)
        own = config.mask_padding and not config.norms_canvas
        return own and getattr(backbone, "masks_padding", False)


class NetworkBatch:
    """Images of several sizes on one canvas, and what the model finds in them.

    Args:
        predictor: Predictor.
        sizes: list of (height, width), image pixels.
        rows: int, images of the batch: those beyond `sizes` stay empty. None: as many as sizes.
    """

    def __init__(self, predictor, sizes, rows=None):
        config = predictor.config
        largest = np.max([network_size(*size, config) for size in sizes], axis=0)
        canvas, rows = predictor.canvas(*(int(side) for side in largest)), rows or len(sizes)
        self.predictor = predictor
        self.outputs = None
        # A row that nothing is written into is a black image of one pixel: that costs least.
        self.inputs = {
            "images": np.zeros((rows, *canvas, config.num_channels), np.float32),
            "image_sizes": np.ones((rows, 2), np.int32),
            **{name: np.full(rows, value, np.float32) for name, value in predictor.options.items()},
        }

    def fill(self, row, image):
        """Write an image (H, W, C) into a row: resized, at the top left."""
        height, width = network_size(*image.shape[:2], self.predictor.config)
        place = self.inputs["images"][row, :height, :width]
        resize_image(image, (height, width), self.predictor.config.resize, out=place)
        self.inputs["image_sizes"][row] = height, width

    def run(self):
        """Detect; afterwards the images are dropped."""
        found = self.predictor.model.predict_on_batch(self.inputs)
        sizes = self.inputs["image_sizes"]
        self.outputs = {key: np.asarray(value) for key, value in found.items()} | {"image_sizes": sizes}
        self.inputs = None

    def found(self, row, image):
        """FoundInstances of a row, in the pixels of its image."""
        config, (height, width) = self.predictor.config, image.shape[:2]
        out = {key: values[row] for key, values in self.outputs.items()}
        size = tuple(int(side) for side in out.pop("image_sizes"))
        boxes = boxes_in_image(out["boxes"], size, (height, width), config.canvas, config.box_scaling)
        kept = out["valid"].astype(bool) & (out["scores"] >= self.predictor.thresholds[out["labels"]])
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # Detectron2 and matterport leave out what has no area
        rows = {key: values[kept] for key, values in out.items()}
        scale = np.array([[width / size[1], height / size[0]]], np.float32)
        return FoundInstances(
            boxes=boxes[kept],
            scores=rows["scores"],
            labels=rows["labels"],
            values=moved_values(rows, config, scale),
            image_size=(height, width),
            config=config,
        )


def _compiles_each_shape():
    return keras.backend.backend() == "jax"
