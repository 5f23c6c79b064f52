"""From one picture to its instances: numpy in the user's own pixels on both sides of the network.

Comes in: a path, PIL image or array. Goes out: `FoundInstances` with boxes, scores, labels and masks in image
pixels. Called by users, by `evaluation.py` and by the command line. The network's 28x28 masks travel; full
masks are pasted only when asked for.
"""

import functools

import keras
import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.geometry import pasting, rle
from keras_maskrcnn.geometry.resizing import (
    bucket_size,
    canvas_size,
    network_size,
    pad_to_canvas,
    resize_bilinear,
)
from keras_maskrcnn.inference.tiling import find_in_tiles, tile_grid


class Predictor:
    """Finds the instances of one image with a trained model.

    Args:
        model: MaskRCNN, or anything with `.config` and `.predict_on_batch(batch)`.
        score_threshold: float in 0..1, detections below it are dropped. None means the config's. It can't lie
            below the config's: those detections never leave the model.
        tile: int, image pixels: larger images are cut into overlapping squares of this side, which are
            resized as images of their size are and merged by their masks (`tiling.py`). None takes every image
            whole. With `image_scale` in the config all scales stay; else `tile=config.min_size` keeps them.
        overlap: share of a tile's side in common with the next one. Best not smaller than the objects.
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
            tile_grid(tile, tile, tile, overlap)  # raises where they cannot be
        self.model = model
        self.config = model.config
        self.score_threshold = score_threshold
        self.tile = tile
        self.overlap = overlap

    def __call__(self, image):
        """Detect, and bring boxes back to image pixels.

        Args:
            image: path, PIL image, encoded bytes, or an array (H, W, C) of the model's channels and dtype, uint8
                RGB unless its config says otherwise (`data.images` has the rules). EXIF rotation is applied to
                all but arrays.

        Returns:
            FoundInstances, by falling score; TiledInstances of an image larger than `tile`.
        """
        image = read_image(image, self.config.num_channels, self.config.image_dtype)
        if self.tile is None or max(image.shape[:2]) <= self.tile:
            return self._find(image)
        pieces = find_in_tiles(image, self._find, self.tile, self.overlap)
        return TiledInstances(pieces, image.shape[:2], self.config)

    def _find(self, image):
        """Detect in the whole of an image (H, W, C) of the model's channels and dtype."""
        height, width = image.shape[:2]
        size = network_size(height, width, self.config)
        # TensorFlow takes any size through one graph; JAX compiles once per canvas. A coarse grid of canvases keeps
        # that bearable, where the canvas does not show in the answer.
        coarse = keras.backend.backend() == "jax" and self.config.mask_padding
        canvas = (bucket_size if coarse else canvas_size)(*size)
        batch = {
            "images": pad_to_canvas(resize_bilinear(image, size), canvas)[None],
            "image_sizes": np.array([size], np.int32),
        }
        out = {key: np.asarray(value)[0] for key, value in self.model.predict_on_batch(batch).items()}
        kept = out["valid"].astype(bool) & (out["scores"] >= self.score_threshold)
        return FoundInstances(
            boxes=_to_image_frame(out["boxes"][kept], size, (height, width)),
            scores=out["scores"][kept],
            labels=out["labels"][kept],
            box_masks=out["masks"][kept],
            image_size=(height, width),
            config=self.config,
        )


class FoundInstances:
    """The instances of one image, by falling score, in image pixels.

    Args:
        boxes: float32 (n, [x1, y1, x2, y2]), image pixels, inside the image.
        scores: float32 (n,).
        labels: int (n,), 0..K-1.
        box_masks: float32 (n, M, M), probabilities in the frame of the box.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig; `class_names`, `category_ids` and `mask_pasting` are read.
    """

    def __init__(self, boxes, scores, labels, box_masks, image_size, config):
        self.boxes = boxes
        self.scores = scores
        self.labels = labels
        self.box_masks = box_masks
        self.image_size = image_size
        self.class_names = config.class_names
        self.category_ids = config.category_ids
        self.mask_pasting = config.mask_pasting

    def __len__(self):
        return len(self.boxes)

    def __repr__(self):
        return f"FoundInstances({len(self)} in {self.image_size[1]}x{self.image_size[0]} pixels)"

    @functools.cached_property
    def mask_windows(self):
        """List of n windows (bool (h, w), x0, y0): each mask cut to where it can be, image pixels.

        This is the form to use for many instances or big images: it needs no (n, H, W) stack.
        """
        return pasting.paste_mask_windows(self.box_masks, self.boxes, self.image_size, pasting=self.mask_pasting)

    @functools.cached_property
    def masks(self):
        """Bool (n, H, W): every mask pasted into the image; made at the first access."""
        stack = np.zeros((len(self), *self.image_size), bool)
        for plane, (window, x0, y0) in zip(stack, self.mask_windows, strict=True):
            plane[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] = window
        return stack

    def to_coco(self, image_id, category_ids=None):
        """The instances as COCO results, ready for `json.dump` and for pycocotools.

        Args:
            image_id: id of the image in its dataset.
            category_ids: K dataset ids of labels 0..K-1; None means the config's.

        Returns:
            List of n dicts: image_id, category_id, bbox [x, y, width, height], score, segmentation (RLE).
        """
        category_ids = self.category_ids if category_ids is None else category_ids
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        return [
            {
                "image_id": image_id,
                "category_id": int(category_ids[label]),
                "bbox": [*map(float, box[:2]), *map(float, size)],
                "score": float(score),
                "segmentation": self._run_lengths(window, x0, y0),
            }
            for box, size, score, label, (window, x0, y0) in zip(
                self.boxes, sizes, self.scores, self.labels, self.mask_windows, strict=True
            )
        ]

    def _run_lengths(self, window, x0, y0):
        runs = rle.encode_window(window, x0, y0, *self.image_size)
        code = {"size": list(self.image_size), "counts": runs.tolist()}
        code = coco_mask.frPyObjects(code, *self.image_size)
        return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


class TiledInstances(FoundInstances):
    """The instances of a large image, by falling score, in image pixels; masks are kept as run lengths.

    `mask_windows` and `to_coco` are the forms to use; `masks` would be n times the size of the image.

    Args:
        pieces: list of `tiling.Piece`, by falling score.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig, as for FoundInstances.
    """

    def __init__(self, pieces, image_size, config):
        boxes = np.array([piece.box for piece in pieces], np.float32).reshape(-1, 4)
        scores = np.array([piece.score for piece in pieces], np.float32)
        labels = np.array([piece.label for piece in pieces], np.int32)
        super().__init__(boxes, scores, labels, None, image_size, config)
        self.pieces = pieces

    @property
    def mask_windows(self):
        """List of n windows (bool (h, w), x0, y0), image pixels; decoded at each access."""
        return [(piece.window, piece.x, piece.y) for piece in self.pieces]


def _to_image_frame(boxes, network, image):
    """Boxes (n, [x1, y1, x2, y2]) from network to image pixels, clipped; sizes are (height, width)."""
    factors = np.array([image[1] / network[1], image[0] / network[0]] * 2, np.float32)
    limits = np.array([image[1], image[0]] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * factors, 0, limits)
