"""From an image to its instances, in the pixels of that image; `stream` does it for many.

In: a path, PIL image or array. Out: `FoundInstances` with boxes, scores, labels and masks in image pixels. Called by
users, by `evaluation/` and by the command line. Masks stay 28x28 in the frame of their box until full ones are
requested.
"""

import copy
import functools

import keras
import numpy as np

from keras_maskrcnn import backend
from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.geometry.resizing import (
    bucket_size,
    canvas_size,
    network_size,
    resize_image,
)
from keras_maskrcnn.host.caches import compiled_folder
from keras_maskrcnn.inference.arguments import check_arguments
from keras_maskrcnn.inference.frames import boxes_in_image, moved_values
from keras_maskrcnn.inference.streaming import Streaming
from keras_maskrcnn.inference.tiling import merge_pieces, pieces_of, tile_grid


class Predictor(Streaming):
    """Finds the instances of images with a trained model: of one by a call, of many with `stream`.

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
        check_arguments(model.config.score_threshold, score_threshold, tile, overlap)
        backend.keep_compiled(compiled_folder())
        self.model = model
        self.config = model.config
        self.score_threshold = model.config.score_threshold if score_threshold is None else score_threshold
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
        image = self._read(image)
        batch = self._new_batch([image.shape[:2]], 1, alone=True)
        batch.fill(0, image)
        batch.run()
        return batch.found(0, image)

    def _is_tiled(self, shape):
        return self.tile is not None and max(shape[:2]) > self.tile

    # Streaming -------------------------------------------------------------------------------------------------

    def _read(self, source):
        return read_image(source, self.config.num_channels, self.config.image_dtype)

    def _group(self, size):
        if self._is_tiled(size):
            return None
        size = network_size(*size, self.config)
        canvas = self.canvas(*size)
        return bucket_size(*size) if self._canvas_is_free() else canvas, canvas

    def _new_batch(self, sizes, batch_size, alone):
        if self._is_tiled(sizes[0]):
            return TileBatch(self, batch_size)
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
        own = config.mask_padding and "group" not in (config.norm, config.head_norm)
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
        boxes = boxes_in_image(out["boxes"], size, (height, width), config.canvas)
        kept = out["valid"].astype(bool) & (out["scores"] >= self.predictor.score_threshold)
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


class TileBatch:
    """One image that is cut into tiles, which go through the model in batches.

    Args:
        predictor: Predictor. batch_size: int, tiles that the model sees at once.
    """

    def __init__(self, predictor, batch_size):
        self.predictor = predictor
        self.batch_size = batch_size
        self.image = None
        self.pieces = []

    def fill(self, row, image):
        """Keep the image (H, W, C); a memory-mapped one is read tile by tile."""
        del row
        self.image = image

    def run(self):
        """Detect in all tiles."""
        whole = copy.copy(self.predictor)
        whole.tile = None
        tiles = self._tiles(self.image)
        crops = [functools.partial(tile.cut, self.image) for tile in tiles]
        cut_up = lambda index, _, found: pieces_of(found, index, tiles[index])  # noqa: E731
        for answer in whole.stream(crops, cut_up, self.batch_size, [tile.size for tile in tiles]):
            if answer.error is not None:
                raise answer.error
            self.pieces += answer.result
        self.image = None

    def found(self, row, image):
        """TiledInstances of the image."""
        del row
        size = image.shape[:2]
        return TiledInstances(merge_pieces(self.pieces, self._tiles(image), size), size, self.predictor.config)

    def _tiles(self, image):
        return tile_grid(*image.shape[:2], self.predictor.tile, self.predictor.overlap)


def _compiles_each_shape():
    return keras.backend.backend() == "jax"


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
