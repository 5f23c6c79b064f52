"""From one image to its instances, in the pixels of that image.

In: a path, PIL image or array. Out: `FoundInstances` with boxes, scores, labels and masks in image pixels. Called by
users, by `evaluation/` and by the command line. Masks stay 28x28 in the frame of their box until full ones are
requested.
"""

import keras
import numpy as np

from keras_maskrcnn import backend
from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.geometry.resizing import (
    bucket_size,
    canvas_size,
    network_size,
    pad_to_canvas,
    resize_bilinear,
)
from keras_maskrcnn.host.caches import compiled_folder
from keras_maskrcnn.inference.frames import boxes_in_image, moved_values
from keras_maskrcnn.inference.tiling import find_in_tiles, tile_grid


class Predictor:
    """Finds the instances of one image with a trained model.

    Args:
        model: MaskRCNN, or anything with `.config` and `.predict_on_batch(batch)`.
        score_threshold: float in 0..1, detections below it are dropped. None means the config's. It cannot be lower
            than the config's, because the model does not return those detections.
        tile: int, image pixels: larger images are cut into overlapping squares of this side. Each is resized like
            an image of its size; detections are merged by their masks (`tiling.py`). None never cuts. With
            `image_scale` in the config all scales stay; else `tile=config.min_size` keeps them.
        overlap: share of a tile's side in common with the next tile. Should not be smaller than the objects.
    """

    def __init__(self, model, score_threshold=None, tile=None, overlap=0.2):
        lowest = model.config.score_threshold
        if score_threshold is None:
            score_threshold = lowest
        if not lowest <= score_threshold <= 1:
            raise ValueError(
                f"score_threshold must lie between the model's own, {lowest}, and 1. "
                f"Received: {score_threshold}. For more detections build the model with a lower threshold: "
                "dataclasses.replace(config, score_threshold=...)."
            )
        if tile is not None:
            tile_grid(tile, tile, tile, overlap)  # raises if they are invalid
        backend.keep_compiled(compiled_folder())
        self.model = model
        self.config = model.config
        self.score_threshold = score_threshold
        self.tile = tile
        self.overlap = overlap

    def __call__(self, image):
        """Detect, and bring boxes back to image pixels.

        Args:
            image: path, PIL image, encoded bytes, or an array (H, W, C) of the model's channels and dtype, uint8
                RGB by default (docs/images.md has the rules). EXIF rotation is applied, except to arrays.

        Returns:
            FoundInstances, by descending score; TiledInstances of an image larger than `tile`.
        """
        image = read_image(image, self.config.num_channels, self.config.image_dtype)
        if self.tile is None or max(image.shape[:2]) <= self.tile:
            return self._find(image)
        pieces = find_in_tiles(image, self._find, self.tile, self.overlap)
        return TiledInstances(pieces, image.shape[:2], self.config)

    def _find(self, image):
        """Detect in one piece, an image (H, W, C) of the model's channels and dtype."""
        height, width = image.shape[:2]
        size = network_size(height, width, self.config)
        # TensorFlow handles any size with one graph; JAX compiles once per canvas. A coarse grid of canvases limits
        # that, if predictions do not depend on the canvas.
        coarse = keras.backend.backend() == "jax" and self.config.mask_padding
        canvas = (bucket_size if coarse else canvas_size)(*size)
        batch = {
            "images": pad_to_canvas(resize_bilinear(image, size), canvas)[None],
            "image_sizes": np.array([size], np.int32),
        }
        out = {key: np.asarray(value)[0] for key, value in self.model.predict_on_batch(batch).items()}
        kept = out["valid"].astype(bool) & (out["scores"] >= self.score_threshold)
        rows = {key: values[kept] for key, values in out.items()}
        scale = np.array([[width / size[1], height / size[0]]], np.float32)
        return FoundInstances(
            boxes=boxes_in_image(rows["boxes"], scale, (height, width)),
            scores=rows["scores"],
            labels=rows["labels"],
            values=moved_values(rows, self.config, scale),
            image_size=(height, width),
            config=self.config,
        )


class FoundInstances:
    """The instances of one image, by descending score, in image pixels.

    Each array that a branch finds is an attribute under its key, and so is each view of the branch. The mask branch
    gives

        box_masks     float32 (n, M, M), probabilities in the frame of the box
        mask_windows  list of n (bool (h, w), x0, y0): each mask in the smallest window that contains it; use this for
                      many instances or large images
        masks         bool (n, H, W), pasted on first access

    Args:
        boxes: float32 (n, [x1, y1, x2, y2]), image pixels, inside the image.
        scores: float32 (n,).
        labels: int (n,), 0..K-1.
        values: dict of the branches' keys to arrays (n, ...), image pixels.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig; `class_names`, `category_ids`, `branches` and their options are read.
    """

    def __init__(self, boxes, scores, labels, values, image_size, config):
        self.boxes = boxes
        self.scores = scores
        self.labels = labels
        self.values = values
        self.image_size = image_size
        self.config = config
        self.class_names = config.class_names
        self.category_ids = config.category_ids

    def __len__(self):
        return len(self.boxes)

    def __repr__(self):
        return f"FoundInstances({len(self)} in {self.image_size[1]}x{self.image_size[0]} pixels)"

    def __getattr__(self, name):
        # Only called for names that are not attributes yet: a view of a branch, computed once, or a branch's values.
        if name.startswith("_") or "values" not in self.__dict__:
            raise AttributeError(name)
        views = {key: view for branch in self.config.branches for key, view in branch.views().items()}
        if name in views:
            self.__dict__[name] = views[name](self)
            return self.__dict__[name]
        if name in self.values:
            return self.values[name]
        raise AttributeError(
            f"FoundInstances has boxes, scores, labels and what the model's branches find: "
            f"{sorted({*views, *self.values})}. Received: {name!r}."
        )

    def to_coco(self, image_id, category_ids=None):
        """The instances as COCO results, ready for `json.dump` and for pycocotools.

        Args:
            image_id: id of the image in its dataset.
            category_ids: K dataset ids of labels 0..K-1; None means the config's.

        Returns:
            List of n dicts: image_id, category_id, bbox [x, y, width, height], score, and what the branches add, such
            as segmentation (RLE).
        """
        category_ids = self.category_ids if category_ids is None else category_ids
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        results = [
            {
                "image_id": image_id,
                "category_id": int(category_ids[label]),
                "bbox": [*map(float, box[:2]), *map(float, size)],
                "score": float(score),
            }
            for box, size, score, label in zip(self.boxes, sizes, self.scores, self.labels, strict=True)
        ]
        for branch in self.config.branches:
            for result, extra in zip(results, branch.coco_results(self), strict=True):
                result.update(extra)
        return results


class TiledInstances(FoundInstances):
    """The instances of a large image, by descending score, in image pixels; masks are kept as run lengths.

    `mask_windows` and `to_coco` are the forms to use; `masks` needs n times the size of the image.

    Args:
        pieces: list of `tiling.Piece`, by descending score.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig, as for FoundInstances.
    """

    def __init__(self, pieces, image_size, config):
        boxes = np.array([piece.box for piece in pieces], np.float32).reshape(-1, 4)
        scores = np.array([piece.score for piece in pieces], np.float32)
        labels = np.array([piece.label for piece in pieces], np.int32)
        keys = pieces[0].values if pieces else {}
        values = {key: np.stack([piece.values[key] for piece in pieces]) for key in keys}
        super().__init__(boxes, scores, labels, values, image_size, config)
        self.pieces = pieces

    @property
    def mask_windows(self):
        """List of n windows (bool (h, w), x0, y0), image pixels; decoded at each access."""
        return [(piece.window, piece.x, piece.y) for piece in self.pieces]
