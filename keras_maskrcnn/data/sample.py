"""One image with its objects on the way into a batch: source pixels, records, and the View of them.

Transforms replace the view; `network_image` and `network_instances` then make pixels, boxes and
masks in network pixels, once. Called by `data.loader`; transforms (`data.transforms`) act on it.
"""

import dataclasses

import numpy as np
from PIL import Image

from keras_maskrcnn.data.geometry import View

MIN_SIDE = 1.0  # network pixels: objects whose visible part is thinner are dropped


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image, its objects, and how they are looked at.

    Args:
        image: uint8 (H, W, 3), image pixels.
        instances: tuple of Instance, image pixels.
        view: View, from image pixels to network pixels.
        color: float (3, [r, g, b, 1]) that makes new colours of old ones, or None.
    """

    image: np.ndarray
    instances: tuple
    view: View
    color: np.ndarray | None = None

    @classmethod
    def whole(cls, image, instances):
        """The image as it is."""
        return cls(image, tuple(instances), View(*image.shape[:2]))

    def decoded(self):
        """The same with all masks decoded, and the bytes that image and masks take."""
        size = self.image.shape[:2]
        instances = tuple(
            dataclasses.replace(instance, mask=instance.mask.window(*size)) for instance in self.instances
        )
        masks = sum(instance.mask.pixels.nbytes for instance in instances)
        return dataclasses.replace(self, instances=instances), self.image.nbytes + masks

    @property
    def size(self):
        """(height, width) in network pixels."""
        return self.view.height, self.view.width

    def seen(self, view):
        """The same image and objects through another view."""
        return dataclasses.replace(self, view=view)

    def recolored(self, matrix):
        """The same with colours `matrix @ [r, g, b, 1]` of those so far, clipped at the end."""
        matrix = np.asarray(matrix, np.float64)
        if self.color is not None:
            matrix = matrix @ np.concatenate([self.color, [[0, 0, 0, 1]]])
        return dataclasses.replace(self, color=matrix)

    def network_image(self):
        """uint8 (height, width, 3), network pixels."""
        pixels = self.view.pixels(self.image)
        if self.color is None:
            return pixels
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.convert("RGB", tuple(self.color.ravel().tolist())))

    def network_instances(self, max_instances, mask_size, rng):
        """The objects that the view shows, in network pixels.

        Boxes of objects cut by the view's border are recomputed from the pixels that are left. An
        object is dropped if what is left of it is thinner than one pixel or has no mask pixel. If
        more than `max_instances` remain, crowd regions are kept and the rest is a random choice:
        keeping the largest would teach that small ones are background.

        Args:
            max_instances: int, most rows returned.
            mask_size: M, mask cells a side.
            rng: numpy Generator, for that choice.

        Returns:
            NetworkInstances.
        """
        boxes, windows, chosen = self._visible()
        num_cut = max(0, len(chosen) - max_instances)
        if num_cut:
            crowd = np.array([self.instances[i].crowd for i in chosen])
            order = np.lexsort((rng.random(len(chosen)), ~crowd))
            keep = np.sort(order[:max_instances])
            boxes, chosen = boxes[keep], [chosen[k] for k in keep]
            windows = [windows[k] for k in keep]
        masks = np.zeros((len(chosen), mask_size, mask_size), np.uint8)
        source_boxes = self.view.to_image(boxes)
        for row, window in enumerate(windows):
            masks[row] = self.view.orient(resample_mask(window, source_boxes[row], mask_size))
        return NetworkInstances(
            boxes=boxes.astype(np.float32),
            labels=np.array([self.instances[i].label for i in chosen], np.int32),
            masks=masks,
            crowd=np.array([self.instances[i].crowd for i in chosen], bool),
            num_cut=num_cut,
        )

    def _visible(self):
        """Boxes (n, 4) in network pixels, masks and positions of the objects that are visible."""
        if not self.instances:
            return np.zeros((0, 4)), [], []
        whole = self.view.from_image(np.stack([instance.box for instance in self.instances]))
        limits = np.array((self.view.width, self.view.height) * 2, np.float64)
        clipped = np.clip(whole, 0, limits)
        large = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE).all(-1)
        cut = (np.abs(clipped - whole) > 1e-6).any(-1)
        boxes, windows, chosen = [], [], []
        for i in np.flatnonzero(large):
            window = self.instances[i].mask.window(*self.image.shape[:2])
            box = self._shrunk(window, clipped[i]) if cut[i] else clipped[i]
            if box is not None and window.pixels.any():
                boxes.append(box)
                windows.append(window)
                chosen.append(int(i))
        return np.array(boxes, np.float64).reshape(-1, 4), windows, chosen

    def _shrunk(self, window, box):
        """The part of `box` (network pixels) that mask pixels fill, or None if degenerate."""
        visible = self.view.to_image(box[None])[0] - (window.x, window.y, window.x, window.y)
        height, width = window.pixels.shape
        x1, y1 = np.maximum(np.floor(visible[:2] + 1e-6), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(visible[2:] - 1e-6), (width, height)).astype(int)
        part = window.pixels[y1:y2, x1:x2]
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if len(rows) == 0:
            return None
        left, top = window.x + x1, window.y + y1
        filled = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        filled = self.view.from_image([filled])[0]
        shrunk = np.concatenate([np.maximum(box[:2], filled[:2]), np.minimum(box[2:], filled[2:])])
        return shrunk if (shrunk[2:] - shrunk[:2] >= MIN_SIDE).all() else None


@dataclasses.dataclass(frozen=True)
class NetworkInstances:
    """Objects of one image in network pixels, ready for `batch.fill_row`.

    Args:
        boxes: float32 (n, [x1, y1, x2, y2]).
        labels: int32 (n,).
        masks: uint8 0/1 (n, M, M), in the frame of each box.
        crowd: bool (n,).
        num_cut: int, objects left out because there was no row for them.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    crowd: np.ndarray
    num_cut: int


def resample_mask(window, box, size):
    """A mask in the frame of a box, antialiased and cut at one half.

    Bilinear over the source pixels with nothing outside the window, wide enough to average when it
    shrinks. At source pixel centres the result is the source mask, so pasting it back changes
    nothing there.

    Args:
        window: MaskWindow, image pixels.
        box: float [x1, y1, x2, y2], image pixels, x1 < x2 and y1 < y2.
        size: M, cells a side.

    Returns:
        uint8 0/1 (M, M). Never empty if the window has a pixel in the box: then at least the cell
        with the largest coverage is set.
    """
    height, width = window.pixels.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    np.multiply(window.pixels, 255, out=padded[1:-1, 1:-1])
    origin = np.array((window.x - 1, window.y - 1) * 2, np.float64)
    box = np.clip(np.asarray(box) - origin, 0, (width + 2, height + 2) * 2)
    shape = (size, size)
    coverage = Image.fromarray(padded).resize(shape, Image.Resampling.BILINEAR, box=tuple(box))
    coverage = np.asarray(coverage)
    mask = (coverage >= 128).astype(np.uint8)
    if not mask.any():
        mask[_fullest_cell(padded, box, size)] = 1
    return mask


def _fullest_cell(pixels, box, size):
    """(row, column) of the cell with most pixels; 8-bit coverage would round small ones to zero."""
    rows, columns = np.nonzero(pixels)
    places = (np.stack([rows, columns]) + 0.5 - box[1::-1, None]) / (box[3:1:-1] - box[1::-1])[:, None]
    cells = np.clip(places * size, 0, size - 1).astype(int)
    counts = np.bincount(cells[0] * size + cells[1], minlength=1)
    return divmod(int(counts.argmax()), size)
