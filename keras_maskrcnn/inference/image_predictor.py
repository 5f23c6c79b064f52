"""What predictors have in common: a call for one image, `stream` for many, and tiles of large ones.

The base class of `Predictor` and of what runs an export (`serving/`).
"""

import copy
import functools

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.inference.found import TiledInstances
from keras_maskrcnn.inference.merging import Merger
from keras_maskrcnn.inference.streaming import Streaming
from keras_maskrcnn.inference.tiling import check_masks, pieces_of, tile_grid


class ImagePredictor(Streaming):
    """Finds the instances of images: of one by a call, of many with `stream`.

    A subclass defines

        _whole_group(size)                        `_group` of `Streaming`, for an image that is not cut
        _whole_batch(sizes, batch_size, alone)    `_new_batch` of `Streaming`, for images that are not cut

    Args:
        config: MaskRCNNConfig.
        tile: int, image pixels: larger images are cut into overlapping squares of this side. None never cuts.
        overlap: share of a tile's side in common with the next tile.
    """

    def __init__(self, config, tile=None, overlap=0.2):
        if tile is not None:
            check_masks(config)
        self.config = config
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
        return None if self._is_tiled(size) else self._whole_group(size)

    def _new_batch(self, sizes, batch_size, alone):
        if self._is_tiled(sizes[0]):
            return TileBatch(self, batch_size)
        return self._whole_batch(sizes, batch_size, alone)


class TileBatch:
    """One image that is cut into tiles, which go through the model in batches.

    Args:
        predictor: ImagePredictor. batch_size: int, tiles that the model sees at once.
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
        size = self.image.shape[:2]
        tiles = tile_grid(*size, self.predictor.tile, self.predictor.overlap)
        merger = Merger(tiles, size)
        crops = [functools.partial(tile.cut, self.image) for tile in tiles]
        cut_up = lambda index, _, found: pieces_of(found, index, tiles[index])  # noqa: E731
        for answer in whole.stream(crops, cut_up, self.batch_size, [tile.size for tile in tiles]):
            if answer.error is not None:
                raise answer.error
            self.pieces += merger.add(answer.index, answer.result)
        self.image = None

    def found(self, row, image):
        """TiledInstances of the image."""
        del row
        pieces = sorted(self.pieces, key=lambda piece: -piece.score)
        return TiledInstances(pieces, image.shape[:2], self.predictor.config)
