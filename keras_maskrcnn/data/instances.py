"""The objects of an image, before its pixels are read: a `Record` of `Instance`s with masks.

Masks stay polygons or run lengths until a loader needs one. Then only the pixels inside the object's box are computed,
never an (H, W, N) stack. All coordinates are image pixels. `data/readers/` creates records, `record_table.py` stores
them; `data/samples/` converts them to network pixels.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.geometry import polygons, rle


@dataclasses.dataclass(frozen=True)
class MaskWindow:
    """The pixels of one mask inside a window of its image.

    Args:
        pixels: uint8 0/1 (h, w).
        x, y: int, image pixels: top-left corner of the window.
    """

    pixels: np.ndarray
    x: int
    y: int

    def window(self, height, width):
        """Returns itself: the mask is already decoded."""
        del height, width
        return self

    def segmentation(self, height, width):
        """COCO's uncompressed run-length code, {"size", "counts"}."""
        runs = rle.encode_window(self.pixels, self.x, self.y, height, width)
        return {"size": [height, width], "counts": runs.tolist()}


@dataclasses.dataclass(frozen=True)
class Polygons:
    """A mask as the union of polygons, rasterised by COCO's rule when needed.

    Args:
        parts: tuple of float64 (k, [x, y]), k >= 3, image pixels; may extend beyond the image.
    """

    parts: tuple

    def box(self, height, width):
        """Extent of the polygons, clipped to the image. float32 [x1, y1, x2, y2]."""
        points = np.concatenate(self.parts)
        corners = np.concatenate([points.min(0), points.max(0)])
        return np.clip(corners, 0, (width, height, width, height)).astype(np.float32)

    def window(self, height, width):
        """Rasterise, through run lengths of the whole image. Returns MaskWindow; very thin polygons may be empty."""
        return RunLengths(polygons.union_runs(self.parts, height, width)).window(height, width)

    def segmentation(self, height, width):
        """COCO's list of flat coordinate lists."""
        del height, width
        return [part.ravel().tolist() for part in self.parts]


@dataclasses.dataclass(frozen=True)
class RunLengths:
    """A mask as COCO run lengths of the whole image, column by column.

    Args:
        counts: int (runs,), from `rle.parse_counts`.
    """

    counts: np.ndarray

    def window(self, height, width):
        """Decode the smallest window that contains the mask. Returns MaskWindow."""
        del width
        box = rle.extent(self.counts, height)
        if box is None:
            return MaskWindow(np.zeros((0, 0), np.uint8), 0, 0)
        return MaskWindow(rle.decode_window(self.counts, height, box), int(box[0]), int(box[1]))

    def segmentation(self, height, width):
        """COCO's uncompressed run-length code, {"size", "counts"}."""
        return {"size": [height, width], "counts": self.counts.tolist()}


@dataclasses.dataclass(frozen=True)
class Instance:
    """One annotated object, in image pixels.

    Args:
        label: int, 0..K-1.
        box: float32 [x1, y1, x2, y2], the extent of the mask.
        mask: MaskWindow, Polygons or RunLengths.
        crowd: whether the annotation is a crowd region (COCO's `iscrowd`), not a single object.
        annotation_id: the dataset's id, for messages.
        area: mask area in square pixels as given by the dataset, or None.
        stated_box: [x, y, width, height] as given by the dataset, or None.
        attributes: dict of all other fields of the annotation, unchanged, for branches; or None.
        frame: ((a, b, c), (d, e, f)): the affine map from the pixels of the attributes to those of box and mask. The
            identity unless the object was moved or pasted.
    """

    label: int
    box: np.ndarray
    mask: object
    crowd: bool = False
    annotation_id: int | str | None = None
    area: float | None = None
    stated_box: tuple | None = None
    attributes: dict | None = None
    frame: tuple = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and its objects.

    Args:
        image_id: the dataset's id.
        source: path of the file, any other input of `read_image`, or a function that returns one
            of these (for images inside other files).
        height, width: int, image pixels after EXIF rotation.
        instances: tuple of Instance.
    """

    image_id: int | str
    source: object
    height: int
    width: int
    instances: tuple = ()
