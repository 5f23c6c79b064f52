"""Images that are too large for the network are cut into overlapping tiles.

In: the size of an image, and what was found in a tile. Out: `Tile`s, and `Piece`s in the pixels of the whole image,
with masks as run lengths, which `merging.py` makes one of. Called by `image_predictor.py` and `gigapixels/`.
"""

import dataclasses
import math

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.inference.frames import moved_values


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of the image, int image pixels, x2 and y2 exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size(self):
        """(height, width)."""
        return self.y2 - self.y1, self.x2 - self.x1

    def cut(self, image):
        """The tile's pixels, (h, w, C), of an image (H, W, C): a copy, or the image if it has no other pixels."""
        return np.ascontiguousarray(image[self.y1 : self.y2, self.x1 : self.x2])

    def shared(self, other):
        """The rectangle that two tiles share. Its area is zero or negative if they do not overlap."""
        return Tile(max(self.x1, other.x1), max(self.y1, other.y1), min(self.x2, other.x2), min(self.y2, other.y2))

    def inner(self, image_size, margin):
        """(x1, y1, x2, y2) less a margin on each side that is not a border of the image."""
        height, width = image_size
        return (
            self.x1 + margin * (self.x1 > 0),
            self.y1 + margin * (self.y1 > 0),
            self.x2 - margin * (self.x2 < width),
            self.y2 - margin * (self.y2 < height),
        )


@dataclasses.dataclass(frozen=True)
class Piece:
    """One found instance, or the part of it that a tile shows.

    Args:
        tile: int, position in the list of tiles.
        box: float (4,) [x1, y1, x2, y2], image pixels.
        score: float.
        label: int, 0..K-1.
        x, y: int, image pixels: top left corner of the mask's window.
        code: the mask in that window as pycocotools' run lengths.
        values: dict of the branches' keys to this instance's values, image pixels.
    """

    tile: int
    box: np.ndarray
    score: float
    label: int
    x: int
    y: int
    code: dict
    values: dict

    @property
    def window(self):
        """The decoded mask, bool (h, w)."""
        return coco_mask.decode(self.code).astype(bool)

    @property
    def extent(self):
        """The rectangle of the mask's window, as a Tile."""
        height, width = self.code["size"]
        return Tile(self.x, self.y, self.x + width, self.y + height)

    def within(self, rectangle):
        """The mask inside a rectangle that lies in the window, bool (h, w)."""
        r = rectangle
        return self.window[r.y1 - self.y : r.y2 - self.y, r.x1 - self.x : r.x2 - self.x]


def tile_grid(height, width, tile, overlap):
    """Cover an image with evenly spread tiles of equal size: list of Tile, row by row.

    Args:
        height, width: int, image pixels.
        tile: int, pixels of a tile's side; the image's own side if that is shorter.
        overlap: the smallest share of a side that two neighbours have in common, 0 <= overlap < 1.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise ValueError(
            "Tiles need a side of at least 1 pixel and an overlap of at least 0 and below 1 (a share of the side). "
            f"Received tile={tile}, overlap={overlap}. tile=1024, overlap=0.2 suits most images."
        )
    rows, columns = (_starts(side, tile, overlap) for side in (height, width))
    return [Tile(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def check_masks(config):
    """Check that a model finds masks, by which the pieces of one object in several tiles are joined.

    Args:
        config: MaskRCNNConfig, or what an export says of itself.

    Raises:
        ValueError: no branch finds masks.
    """
    if not any("mask_windows" in branch.views() for branch in config.branches):
        names = ", ".join(branch.name for branch in config.branches) or "none"
        raise ValueError(
            "Tiles are joined by masks, and this model has no branch of masks. Received the branches: "
            f"{names}. Leave {argument('tile')} out, and reduce images that are too large."
        )


def pieces_of(found, index, tile):
    """The instances of one tile, in the pixels of the whole image.

    Args:
        found: FoundInstances of the tile's pixels. index: int, of the tile. tile: Tile.

    Returns:
        list of Piece; instances without a mask pixel are left out.
    """
    pieces = []
    windows = found.mask_windows
    kept = {key for branch in found.config.branches if branch.survives_tiling for key in branch.found(found.config)}
    values = {key: array for key, array in found.values.items() if key in kept}
    values = moved_values(values, found.config, offset=((tile.x1, tile.y1),))
    rows = [{key: array[i] for key, array in values.items()} for i in range(len(found.boxes))]
    columns = (found.boxes, found.scores, found.labels, windows, rows)
    for box, score, label, (window, x, y), own in zip(*columns, strict=True):
        filled = filled_box(window)
        if filled is None:
            continue
        left, top, right, bottom = filled
        part = window[top:bottom, left:right]
        place = int(tile.x1 + x + left), int(tile.y1 + y + top)
        moved = np.asarray(box, np.float64) + (tile.x1, tile.y1, tile.x1, tile.y1)
        pieces.append(Piece(index, moved, float(score), int(label), *place, encoded(part), own))
    return pieces


def _starts(side, tile, overlap):
    if side <= tile:
        return [0]
    shared = min(math.ceil(tile * overlap), tile - 1)
    count = math.ceil((side - shared) / (tile - shared))
    return np.linspace(0, side - tile, count).round().astype(int).tolist()


def encoded(window):
    """A mask, bool (h, w), as pycocotools' run lengths."""
    return coco_mask.encode(np.asfortranarray(window, np.uint8))
