"""Finds the objects of an image of any size, tile by tile, and writes them while it goes on.

Comes in: a path and a predictor. Goes out: the files of `outputs.py`. `sources.py` reads, `inference/merging.py` merges
by the rules of `Predictor(tile=...)`, `journal.py` records. Called by users and by the command line.

Each tile goes this way: its pixels are read; what is found in them is recorded; the objects that no later tile can
change are measured and written; this is recorded. So a run that is killed at any moment goes on from there: nothing is
predicted twice but the tiles that were in work, and nothing is lost or written twice.
"""

import copy
import functools
import pathlib
import typing

import numpy as np

from keras_maskrcnn.data.images.dtypes import as_uint8
from keras_maskrcnn.gigapixels.journal import Journal
from keras_maskrcnn.gigapixels.outputs import Outputs
from keras_maskrcnn.gigapixels.sources import open_large
from keras_maskrcnn.host.locks import locked_folder
from keras_maskrcnn.inference.merging import Merger
from keras_maskrcnn.inference.tiling import check_masks, pieces_of, tile_grid
from keras_maskrcnn.measuring.measurements import checked_pixel_size

TILES = "tiles.jsonl"


class LargeResult(typing.NamedTuple):
    """What `predict_large` has written: `objects`, their number; `tiles`; `folder`, pathlib.Path of the files."""

    objects: int
    tiles: int
    folder: pathlib.Path


def predict_large(
    predictor,
    source,
    output,
    tile=1024,
    overlap=0.2,
    batch_size=None,
    pixel_size=None,
    identity=None,
    progress=None,
):
    """Find the objects of a large image; write objects.csv, objects.geojson and labels.zarr.

    Only tiles in work and pieces near tiles that are still to come are in memory. A call that was killed goes on when
    it is made again, with the same arguments; one that was finished returns at once.

    Args:
        predictor: Predictor or another ImagePredictor. Or any object with `config.class_names` and
            `predict(pixels (h, w, C))`, which returns instances with `boxes`, `scores`, `labels`, `mask_windows`,
            `values` and `config`, as FoundInstances have them.
        source: path of a zarr folder, an OME-TIFF or other TIFF, or a slide.
        output: folder for the files, made if it is missing.
        tile, overlap: side of a tile, image pixels, and the share of it in common with the next: at least the size of
            the objects.
        batch_size: tiles that the model sees at once, as for `stream`.
        pixel_size: micrometres, a number or (width, height). None: what the image's metadata say.
        identity: None, or what tells the model from others, as JSON holds it; a run goes on with the same alone.
        progress: None, or a function of (finished tiles, all tiles).

    Returns:
        LargeResult.

    Raises:
        ValueError: an argument is invalid, the model finds no masks, the image cannot be read in parts, or the folder
            holds another run.
        ImportError: zarr is not installed.
        InUse: another process writes there.
    """
    _check_zarr()
    if hasattr(predictor, "stream"):
        check_masks(predictor.config)
    size = checked_pixel_size(pixel_size)
    folder = pathlib.Path(output)
    with open_large(source) as image, locked_folder(folder):
        tiles = tile_grid(*image.size, tile, overlap)
        size = size or image.pixel_size
        settings = {"image": str(source), "size": list(image.size), "tile": tile, "overlap": overlap, "model": identity}
        settings |= {"pixel_size": None if size is None else [size.x, size.y]}
        with Journal(folder / TILES, settings) as journal:
            if journal.done == len(tiles):
                return LargeResult(journal.state["objects"], len(tiles), folder)
            names = [str(name) for name in predictor.config.class_names]
            with Outputs(folder, image, names, size, journal.state) as outputs:
                _run(predictor, image, tiles, journal, outputs, batch_size, progress)
                return LargeResult(outputs.state()["objects"], len(tiles), folder)


def _run(predictor, image, tiles, journal, outputs, batch_size, progress):
    """Go over the tiles that are recorded, then over the others."""
    merger = Merger(tiles, image.size)
    for index, pieces in journal.pieces():
        objects = merger.add(index, pieces)
        if index < journal.done:
            outputs.skip(objects)
        else:
            outputs.write(objects)
            journal.add_done(index, outputs.state())
    for index, pieces in _predicted(predictor, image, tiles, journal.tiles, batch_size):
        journal.add_tile(index, pieces)
        outputs.write(merger.add(index, pieces))
        journal.add_done(index, outputs.state())
        if progress is not None:
            progress(index + 1, len(tiles))


def _predicted(predictor, image, tiles, start, batch_size):
    """Yield (index, list of Piece) of each tile from `start` on, in order."""
    read = functools.partial(_tile_pixels, image, _top(predictor, image) if start < len(tiles) else None)
    left = tiles[start:]
    if not hasattr(predictor, "stream"):
        for index, tile in enumerate(left, start=start):
            yield index, pieces_of(predictor.predict(read(tile)), index, tile)
        return
    whole = copy.copy(predictor)
    whole.tile = None
    crops = [functools.partial(read, tile) for tile in left]
    cut_up = lambda index, _, found: pieces_of(found, start + index, left[index])  # noqa: E731
    for answer in whole.stream(crops, cut_up, batch_size, [tile.size for tile in left]):
        if answer.error is not None:
            raise answer.error
        yield start + answer.index, answer.result


def _tile_pixels(image, top, tile):
    pixels = image.read(tile.x1, tile.y1, tile.x2, tile.y2)
    return pixels if top is None else as_uint8(pixels, image.name, top)


def _top(predictor, image):
    """The highest value of an image that has to become 8 bits, so that all tiles are scaled alike; else None."""
    wanted = getattr(predictor.config, "image_dtype", None)
    return image.maximum() if wanted == "uint8" and image.dtype not in (np.uint8, np.bool_) else None


def _check_zarr():
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Large images need zarr, also to write labels.zarr. Received: it is not installed. "
            "Install it: pip install 'keras-maskrcnn[wsi]'."
        ) from error
