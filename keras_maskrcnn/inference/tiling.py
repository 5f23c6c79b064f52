"""Finds instances in images that are too large for the network: in overlapping tiles, whose results are merged by mask.

In: what was found in the tiles of a large image. Out: merged `Piece`s in image pixels, with masks as run lengths.
Called by `predictor.TileBatch`. An object that is no longer than the strip that neighbouring tiles share lies whole in
at least one tile. Masks are compared within that strip:

1. A piece is cut if its mask touches its tile's border. It is dropped if it lies well inside another tile, which shows
   the whole object.
2. Two pieces that are not cut and have the same mask in the strip are one object found twice. The one with the higher
   score stays.
3. Cut pieces that have the same mask in the strip are parts of an object longer than the strip. They are joined.
"""

import dataclasses
import math

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.geometry.groups import connected_groups
from keras_maskrcnn.inference.frames import moved_values

EDGE = 4  # image pixels: a mask that ends nearer than this to its tile's border is cut; masks often end a bit early
SAME = 0.5  # two pieces whose masks overlap at least this much in the strip are one object


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
    rows = [{key: array[i] for key, array in values.items()} for i in range(len(found))]
    columns = (found.boxes, found.scores, found.labels, windows, rows)
    for box, score, label, (window, x, y), own in zip(*columns, strict=True):
        filled = filled_box(window)
        if filled is None:
            continue
        left, top, right, bottom = filled
        part = window[top:bottom, left:right]
        place = int(tile.x1 + x + left), int(tile.y1 + y + top)
        moved = np.asarray(box, np.float64) + (tile.x1, tile.y1, tile.x1, tile.y1)
        pieces.append(Piece(index, moved, float(score), int(label), *place, _encode(part), own))
    return pieces


def merge_pieces(pieces, tiles, image_size):
    """Merge the pieces of all tiles by the rules of the module docstring.

    Args:
        pieces: list of Piece.
        tiles: list of Tile, in which the pieces were found.
        image_size: (height, width).

    Returns:
        list of Piece, one per object, highest score first.
    """
    cut = [not _inside(piece.extent, tiles[piece.tile].inner(image_size, EDGE)) for piece in pieces]
    kept = [k for k, piece in enumerate(pieces) if not (cut[k] and _better_seen(piece, tiles, image_size))]
    pieces, cut = [pieces[k] for k in kept], [cut[k] for k in kept]
    groups = connected_groups(len(pieces), _links(pieces, cut, tiles))
    merged = [_merged([pieces[k] for k in group], any(cut[k] for k in group)) for group in groups]
    return sorted(merged, key=lambda piece: -piece.score)


def _starts(side, tile, overlap):
    if side <= tile:
        return [0]
    shared = min(math.ceil(tile * overlap), tile - 1)
    count = math.ceil((side - shared) / (tile - shared))
    return np.linspace(0, side - tile, count).round().astype(int).tolist()


def _encode(window):
    return coco_mask.encode(np.asfortranarray(window, np.uint8))


def _inside(extent, limits):
    x1, y1, x2, y2 = limits
    return extent.x1 >= x1 and extent.y1 >= y1 and extent.x2 <= x2 and extent.y2 <= y2


def _better_seen(piece, tiles, image_size):
    return any(_inside(piece.extent, tile.inner(image_size, EDGE)) for k, tile in enumerate(tiles) if k != piece.tile)


def _links(pieces, cut, tiles):
    """Pairs (i, j) of pieces that are one object.

    A piece that is not cut belongs to at most one such piece of another tile: pairs are taken by descending overlap.
    """
    candidates = []
    for i, j in _meeting(pieces):
        a, b = pieces[i], pieces[j]
        either = cut[i] or cut[j]
        if a.label != b.label and not either:
            continue
        union, smaller = _agreement(a, b, tiles[a.tile].shared(tiles[b.tile]))
        # Parts of one object end at different places, so the smaller part is compared. If their classes differ, the
        # whole masks must agree.
        overlap = smaller if either and a.label == b.label else union
        if overlap >= SAME:
            candidates.append((overlap, i, j, either))
    links, taken = [], set()
    for _, i, j, either in sorted(candidates, reverse=True):
        ends = {(i, pieces[j].tile), (j, pieces[i].tile)}
        if either or not ends & taken:
            links.append((i, j))
            taken |= ends
    return links


def _meeting(pieces):
    """Pairs i < j of pieces of different tiles whose windows overlap."""
    extents = np.array([dataclasses.astuple(piece.extent) for piece in pieces]).reshape(-1, 4)
    owners = np.array([piece.tile for piece in pieces], int)
    for i in range(len(pieces)):
        low = np.maximum(extents[i, :2], extents[i + 1 :, :2])
        high = np.minimum(extents[i, 2:], extents[i + 1 :, 2:])
        meets = (high > low).all(1) & (owners[i + 1 :] != owners[i])
        for j in np.flatnonzero(meets) + i + 1:
            yield i, int(j)


def _agreement(a, b, strip):
    """The intersection of two masks in the strip of both tiles: over their union, and over the smaller mask."""
    parts = [strip.shared(piece.extent) for piece in (a, b)]
    common = parts[0].shared(parts[1])
    if common.x2 <= common.x1 or common.y2 <= common.y1:
        return 0.0, 0.0
    both = np.count_nonzero(a.within(common) & b.within(common))
    areas = [np.count_nonzero(piece.within(part)) for piece, part in zip((a, b), parts, strict=True)]
    return both / max(1, sum(areas) - both), both / max(1, min(areas))


def _merged(group, any_cut):
    """Make one piece of a group: the union of its masks if any is cut, else the piece with the highest score."""
    surest = max(group, key=lambda piece: piece.score)
    if len(group) == 1 or not any_cut:
        return surest
    extents = np.array([dataclasses.astuple(piece.extent) for piece in group])
    x1, y1, x2, y2 = (int(v) for v in (*extents[:, :2].min(0), *extents[:, 2:].max(0)))
    window = np.zeros((y2 - y1, x2 - x1), bool)
    for piece in group:
        e = piece.extent
        window[e.y1 - y1 : e.y2 - y1, e.x1 - x1 : e.x2 - x1] |= piece.window
    largest = max(group, key=lambda piece: coco_mask.area(piece.code))
    boxes = np.stack([piece.box for piece in group])
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    return Piece(largest.tile, box, surest.score, largest.label, x1, y1, _encode(window), surest.values)
