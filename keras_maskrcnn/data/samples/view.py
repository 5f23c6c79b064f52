"""One affine map from image pixels to network pixels, for the image, the boxes and the masks.

Resizing, cropping, flipping and turning compose into one `View`, and nothing is resampled until the
end: then the image once, and each mask once, straight to its final size. So an image and its masks
cannot be moved apart, and a crop of a large image costs as much as the crop. Called by
`data.sample` and `data.seen`.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from keras_maskrcnn.geometry import native

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_SYMMETRIES = {  # (transposed, rows flipped, columns flipped)
    (False, False, False): None,
    (False, False, True): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, True, False): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, False, True): Image.Transpose.ROTATE_270,
    (True, True, False): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}
FILL = 114  # beyond an RGB image: ImageNet's mean as a gray, near what padding is after normalisation
_REACH = 2  # image pixels that bilinear sampling may look beyond the point it is asked for, and one to spare


@dataclasses.dataclass(frozen=True)
class View:
    """A rectangle of an image, seen through scales, flips and turns.

    A point (u, v) of the image is the point `x = a u + b v + c`, `y = d u + e v + f` of the view,
    with `matrix = ((a, b, c), (d, e, f))`. Without a free turn the view never reaches beyond the
    image.

    Args:
        height, width: int, view pixels.
        matrix: ((a, b, c), (d, e, f)), from image pixels to view pixels.
    """

    height: int
    width: int
    matrix: tuple = IDENTITY

    @property
    def transposed(self):
        """Whether image columns run along the rows of the view."""
        return self.matrix[0][0] == 0 == self.matrix[1][1]

    @property
    def axis_aligned(self):
        """Whether boxes of the image are boxes of the view: no free turn."""
        return self.transposed or self.matrix[0][1] == 0 == self.matrix[1][0]

    @property
    def scale(self):
        """(x, y) of an axis-aligned view: view pixels per image pixel, negative where it is flipped."""
        return tuple(row[int(self.transposed) ^ axis] for axis, row in enumerate(self.matrix))

    @property
    def offset(self):
        """(x, y), view pixels: where the image's corner (0, 0) lies."""
        return tuple(row[2] for row in self.matrix)

    @property
    def zoom(self):
        """View pixels per image pixel, the mean over both directions."""
        (a, b, _), (d, e, _) = self.matrix
        return math.sqrt(abs(a * e - b * d))

    def resized(self, height, width):
        """The same region shown at another size (network pixels)."""
        return self._moved(((width / self.width, 0, 0), (0, height / self.height, 0)), height, width)

    def flipped_horizontally(self):
        """Left and right exchanged."""
        return self._moved(((-1, 0, self.width), (0, 1, 0)), self.height, self.width)

    def flipped_vertically(self):
        """Top and bottom exchanged."""
        return self._moved(((1, 0, 0), (0, -1, self.height)), self.height, self.width)

    def turned(self):
        """A quarter turn counter-clockwise, as `np.rot90`."""
        return self._moved(((0, 1, 0), (-1, 0, self.width)), self.width, self.height)

    def rotated(self, degrees):
        """Any turn counter-clockwise about the middle. The frame stays: corners leave it or show `FILL`."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        x, y = self.width / 2, self.height / 2
        rows = ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))
        return self._moved(rows, self.height, self.width)

    def cropped(self, x, y, height, width):
        """The rectangle of this view that begins at (x, y), whole view pixels inside the view."""
        if min(x, y) < 0 or y + height > self.height or x + width > self.width:
            raise ValueError(
                f"A crop must lie inside the view of {self.height} x {self.width} pixels. "
                f"Received x={x}, y={y}, height={height}, width={width}. Shrink or move it."
            )
        return self._moved(((1, 0, -x), (0, 1, -y)), height, width)

    def from_image(self, boxes):
        """Extents of boxes of the image in view pixels, not clipped. float (n, [x1, y1, x2, y2])."""
        return _extents(boxes, np.array(self.matrix))

    def to_image(self, boxes):
        """Extents of boxes of the view in image pixels; inverts `from_image` of an axis-aligned view."""
        return _extents(boxes, self.inverse())

    def box_to_image(self, box):
        """`to_image` of one box: four floats in, four out, without what numpy costs for so few."""
        (a, b, c), (d, e, f) = self.matrix
        scale = a * e - b * d
        low, high = [], []
        for p, q, r in ((e, -b, b * f - e * c), (-d, a, d * c - a * f)):
            u, v = (p / scale * box[0], p / scale * box[2]), (q / scale * box[1], q / scale * box[3])
            low.append(min(u) + min(v) + r / scale)
            high.append(max(u) + max(v) + r / scale)
        return low + high

    def inverse(self):
        """float64 (2, 3): the matrix from view pixels to image pixels."""
        (a, b, c), (d, e, f) = self.matrix
        return np.array([[e, -b, b * f - e * c], [-d, a, d * c - a * f]]) / (a * e - b * d)

    def orient(self, array):
        """Flip and transpose the first two axes of an array cut from the image like an axis-aligned view."""
        if self.transposed:
            array = array.swapaxes(0, 1)
        return array[:: -1 if self.scale[1] < 0 else 1, :: -1 if self.scale[0] < 0 else 1]

    def pixels(self, image, fill=FILL, recolor=None):
        """What the view shows of the image: bilinear at half-pixel centres, not antialiased.

        The same rule as `resizing.resize_bilinear`, so training and prediction see the same pixels
        (to the rounding of whole numbers). Of a memory map only the part that is shown is read.

        Args:
            image: (H, W, C), image pixels, uint8, uint16 or float32.
            fill: one value, or one a channel: what a free turn shows beyond the image.
            recolor: effects.Recolor of the result, or None: along with resizing it costs less.

        Returns:
            (height, width, C), view pixels, of the image's dtype.
        """
        pixels = self._enlarged(image, recolor)
        if pixels is not None:
            return pixels
        pixels = self._sampled(image) if self.axis_aligned else self._turned_pixels(image, fill)
        return pixels if recolor is None else recolor(pixels)

    def _box_in(self, image):
        """What the view shows of the image: float64 [x1, y1, x2, y2], clipped to it."""
        height, width = image.shape[:2]
        return np.clip(self.to_image([[0, 0, self.width, self.height]])[0], 0, (width, height, width, height))

    def _enlarged(self, image, recolor):
        """`pixels` by native code, which gives those of `_sampled`: of enlarged RGB in memory. Else None."""
        upright = self.axis_aligned and not self.transposed
        if not upright or not _is_rgb(image) or isinstance(image, np.memmap):
            return None
        scale = np.array(self.scale)
        if (np.abs(scale) < 1).any() or (np.abs(scale) == 1).all():
            return None
        matrix = None if recolor is None else recolor.matrix
        return native.enlarge_rgb(image, self._box_in(image), (self.width, self.height), scale < 0, matrix)

    def _sampled(self, image):
        """`pixels` of an axis-aligned view, by Pillow."""
        box = self._box_in(image)
        scale = np.abs(self.scale[::-1] if self.transposed else self.scale)
        size = (self.height, self.width) if self.transposed else (self.width, self.height)
        if (scale == 1).all() and (box == np.rint(box)).all():
            x1, y1, x2, y2 = box.astype(int)
            return self.orient(np.asarray(image[y1:y2, x1:x2]))
        image, box = _around(image, box)
        enlarge = (scale >= 1).all()
        return by_planes(image, lambda plane: self._oriented(_resample(plane, box, size, enlarge)))

    def _oriented(self, image):
        """`orient` for a PIL image, where it is several times faster than in strides of three bytes."""
        operation = _SYMMETRIES[self.transposed, self.scale[1] < 0, self.scale[0] < 0]
        return image if operation is None else image.transpose(operation)

    def _turned_pixels(self, image, fill):
        """`pixels` of a view that is freely turned."""
        fill = np.broadcast_to(fill, image.shape[2:])
        size, matrix = (self.width, self.height), self.inverse()
        corners = matrix @ [[0, self.width, 0, self.width], [0, 0, self.height, self.height], [1, 1, 1, 1]]
        box = np.concatenate([corners.min(1), corners.max(1)])
        part, moved = _around(image, np.clip(box, 0, image.shape[1::-1] * 2))
        matrix[:, 2] += (moved - np.clip(box, 0, image.shape[1::-1] * 2))[:2]
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        # A plane beyond the first is told from the others by its fill alone.
        fills = iter([tuple(fill.tolist())] if _is_rgb(image) else fill.tolist())
        return by_planes(
            part, lambda plane: plane.transform(size, affine, tuple(matrix.ravel()), bilinear, fillcolor=next(fills))
        )

    def _moved(self, rows, height, width):
        """This view seen through one more map, `rows` from its pixels to those of the new view."""
        return View(height, width, as_tuples(compose(rows, self.matrix)))


def compose(second, first):
    """The affine map `second` after `first`: float64 (2, 3) of two maps ((a, b, c), (d, e, f))."""
    second, first = np.array(second, np.float64), np.array(first, np.float64)
    both = second[:, :2] @ first
    both[:, 2] += second[:, 2]
    return both


def as_tuples(matrix):
    """An affine map float (2, 3) as a tuple of tuples of float, for frozen dataclasses."""
    return tuple(map(tuple, np.asarray(matrix).tolist()))


def by_planes(pixels, act):
    """What `act`, from PIL image to PIL image, makes of pixels of any channels and dtype.

    RGB of 8 bits goes through it in one piece, other channels one by one: uint8 in Pillow's mode "L", wider dtypes in
    its mode "F", whose float32 holds every uint16.

    Args:
        pixels: (h, w, C), uint8, uint16 or float32.
        act: function; sizes may change, modes not.

    Returns:
        (h', w', C) of the same dtype; whole numbers are rounded.
    """
    if _is_rgb(pixels):
        return np.asarray(act(Image.fromarray(np.ascontiguousarray(pixels))))
    dtype = np.uint8 if pixels.dtype == np.uint8 else np.float32
    planes = [
        np.asarray(act(Image.fromarray(plane))) for plane in np.ascontiguousarray(np.moveaxis(pixels, 2, 0), dtype)
    ]
    return as_dtype_of(np.stack(planes, axis=2), pixels)


def as_dtype_of(values, pixels):
    """Computed values in the dtype of the pixels they came from; whole numbers are rounded and clipped."""
    if values.dtype == pixels.dtype or pixels.dtype.kind == "f":
        return values.astype(pixels.dtype, copy=False)
    limits = np.iinfo(pixels.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(pixels.dtype)


def _is_rgb(pixels):
    return pixels.shape[2] == 3 and pixels.dtype == np.uint8


def _around(image, box):
    """The part of an image that bilinear sampling inside a box reads, and the box in it: so large images stay unread.

    RGB in memory goes to Pillow as a whole, which copies it fast.
    """
    if _is_rgb(image) and not isinstance(image, np.memmap):
        return image, box
    low = np.maximum(np.floor(box[:2]).astype(int) - _REACH, 0)
    high = np.minimum(np.ceil(box[2:]).astype(int) + _REACH, image.shape[1::-1])
    return image[low[1] : high[1], low[0] : high[0]], box - np.tile(low, 2)


def _resample(source, box, size, enlarge):
    """The region `box` of a PIL image at `size` = (width, height)."""
    if enlarge:
        # Pillow's resize antialiases when it shrinks only; enlarging it is the plain bilinear rule,
        # two to three times faster than `transform` (4 against 15 ms for 1024 x 768).
        return source.resize(size, Image.Resampling.BILINEAR, box=tuple(box))
    return source.transform(size, Image.Transform.EXTENT, tuple(box), Image.Resampling.BILINEAR)


def _extents(boxes, matrix):
    """Boxes around boxes (n, [x1, y1, x2, y2]) that an affine map (2, 3) has moved."""
    ends = np.asarray(boxes, np.float64).reshape(-1, 2, 1, 2) * matrix[:, :2]
    low, high = ends.min(1).sum(-1), ends.max(1).sum(-1)
    return np.concatenate([low + matrix[:, 2], high + matrix[:, 2]], axis=1)
