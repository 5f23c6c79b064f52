"""Merges what was found in the tiles of a large image, by mask: one `Piece` for each object.

In: the pieces of one tile after the other. Out: objects, each as soon as no later tile can change it, so that only the
pieces near tiles that are still to come are in memory. Called by `image_predictor.py` and `gigapixels/`.

An object that is no longer than the strip that neighbouring tiles share lies whole in at least one tile. Masks are
compared within that strip:

1. A piece is cut if its mask touches its tile's border. It is dropped if it lies well inside another tile, which shows
   the whole object.
2. Two pieces that are not cut and have the same mask in the strip are one object found twice. The one with the higher
   score stays.
3. Cut pieces that have the same mask in the strip are parts of an object longer than the strip. They are joined.
"""

import dataclasses
import typing

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.groups import connected_groups
from keras_maskrcnn.inference.tiling import Piece, encoded

EDGE = 4  # image pixels: a mask that ends nearer than this to its tile's border is cut; masks often end a bit early
SAME = 0.5  # two pieces whose masks overlap at least this much in the strip are one object


def merge_pieces(pieces, tiles, image_size):
    """Merge the pieces of all tiles by the rules of the module docstring.

    Args:
        pieces: list of Piece.
        tiles: list of Tile, in which the pieces were found.
        image_size: (height, width).

    Returns:
        list of Piece, one per object, highest score first.
    """
    merger, merged = Merger(tiles, image_size), []
    for index in range(len(tiles)):
        merged += merger.add(index, [piece for piece in pieces if piece.tile == index])
    return sorted(merged, key=lambda piece: -piece.score)


class _Open(typing.NamedTuple):
    """A piece that a later tile may change: whether its tile cuts it, and the last tile that it reaches into."""

    piece: Piece
    cut: bool
    last: int


class Merger:
    """Merges pieces tile by tile.

    Args:
        tiles: list of Tile. image_size: (height, width).
    """

    def __init__(self, tiles, image_size):
        self.tiles = tiles
        self._rectangles = np.array([dataclasses.astuple(tile) for tile in tiles]).reshape(-1, 4)
        self._inner = np.array([tile.inner(image_size, EDGE) for tile in tiles]).reshape(-1, 4)
        self._open = {}  # number of a piece, in the order of their coming -> _Open
        self._candidates = []  # (overlap, number, number, whether one of the two is cut)
        self._count = 0

    def add(self, tile, pieces):
        """Take the pieces of the next tile.

        Args:
            tile: int, position of the tile: each once, rising. pieces: list of Piece found in it.

        Returns:
            list of Piece: the objects that are complete now, in an order that depends on the pieces alone.
        """
        before = list(self._open)
        extents = np.array([dataclasses.astuple(self._open[k].piece.extent) for k in before]).reshape(-1, 4)
        for piece in pieces:
            extent = np.array(dataclasses.astuple(piece.extent))
            meeting = np.flatnonzero(_meets(self._rectangles, extent))
            inside = meeting[_contains(self._inner[meeting], extent)]
            cut = tile not in inside
            if not (cut and len(inside)):  # else another tile shows it whole
                self._open[self._count] = _Open(piece, cut, int(meeting[-1]))
                self._compare(self._count, [before[k] for k in np.flatnonzero(_meets(extents, extent))])
                self._count += 1
        return self._complete(tile)

    def _compare(self, number, others):
        """Note those of other tiles that may be the same object."""
        b = self._open[number]
        for other in others:
            a = self._open[other]
            either = a.cut or b.cut
            if a.piece.label != b.piece.label and not either:
                continue
            strip = self.tiles[a.piece.tile].shared(self.tiles[b.piece.tile])
            union, smaller = _agreement(a.piece, b.piece, strip)
            # Parts of one object end at different places, so the smaller part is compared. If their classes differ, the
            # whole masks must agree.
            overlap = smaller if either and a.piece.label == b.piece.label else union
            if overlap >= SAME:
                self._candidates.append((overlap, other, number, either))

    def _complete(self, tile):
        """Take out the objects of which no piece reaches into a later tile. list of Piece."""
        numbers = list(self._open)
        place = {number: k for k, number in enumerate(numbers)}
        merged, taken = [], set()
        for group in connected_groups(len(numbers), [(place[i], place[j]) for _, i, j, _ in self._candidates]):
            group = [numbers[k] for k in group]
            if all(self._open[number].last <= tile for number in group):
                merged += self._merged(group)
                taken |= set(group)
        for number in taken:
            del self._open[number]
        self._candidates = [candidate for candidate in self._candidates if candidate[1] not in taken]
        return merged

    def _merged(self, numbers):
        """The objects of pieces that candidates connect."""
        if len(numbers) == 1:
            return [self._open[numbers[0]].piece]
        place = {number: k for k, number in enumerate(numbers)}
        chosen = self._links([candidate for candidate in self._candidates if candidate[1] in place])
        groups = connected_groups(len(numbers), [(place[i], place[j]) for i, j in chosen])
        members = ([self._open[numbers[k]] for k in group] for group in groups)
        return [_joined([one.piece for one in group], any(one.cut for one in group)) for group in members]

    def _links(self, candidates):
        """Pairs (i, j) of pieces that are one object.

        A piece that is not cut belongs to at most one such piece of another tile: pairs are taken by descending
        overlap.
        """
        links, taken = [], set()
        for _, i, j, either in sorted(candidates, reverse=True):
            ends = {(i, self._open[j].piece.tile), (j, self._open[i].piece.tile)}
            if either or not ends & taken:
                links.append((i, j))
                taken |= ends
        return links


def _meets(rectangles, extent):
    """Which of int (n, [x1, y1, x2, y2]) share pixels with one (4,): bool (n,)."""
    return (rectangles[:, :2] < extent[2:]).all(1) & (rectangles[:, 2:] > extent[:2]).all(1)


def _contains(rectangles, extent):
    """Which of (n, [x1, y1, x2, y2]) contain one (4,): bool (n,)."""
    return (rectangles[:, :2] <= extent[:2]).all(1) & (rectangles[:, 2:] >= extent[2:]).all(1)


def _agreement(a, b, strip):
    """The intersection of two masks in the strip of both tiles: over their union, and over the smaller mask.

    The boxes of the pieces meet, which can only be in the strip.
    """
    parts = [strip.shared(piece.extent) for piece in (a, b)]
    common = parts[0].shared(parts[1])
    both = np.count_nonzero(a.within(common) & b.within(common))
    areas = [np.count_nonzero(piece.within(part)) for piece, part in zip((a, b), parts, strict=True)]
    return both / max(1, sum(areas) - both), both / max(1, min(areas))


def _joined(group, any_cut):
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
    return Piece(largest.tile, box, surest.score, largest.label, x1, y1, encoded(window), surest.values)
