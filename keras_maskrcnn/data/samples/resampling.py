"""Masks moved to where they are needed: into the frame of a box, or into the pixels of a view.

Called by `data.seen`. One mask at a time, never larger than its object.
"""

import numpy as np
from PIL import Image

from keras_maskrcnn.data.records import MaskWindow


def render_mask(window, view):
    """A mask in view pixels, cut by the view's border: a pixel is set where it is covered by half.

    Bilinear as the image is, but averaged first where it shrinks by two or more, so that thin
    objects do not fall between the points that are read.

    Args:
        window: MaskWindow, image pixels.
        view: View, of any kind.

    Returns:
        MaskWindow, view pixels; without pixels where the view shows none.
    """
    height, width = window.pixels.shape
    box = view.from_image([[window.x, window.y, window.x + width, window.y + height]])[0]
    x1, y1 = (int(v) for v in np.maximum(np.floor(box[:2]), 0))
    x2, y2 = (int(v) for v in np.minimum(np.ceil(box[2:]), (view.width, view.height)))
    if x2 <= x1 or y2 <= y1 or not window.pixels.size:
        return MaskWindow(np.zeros((0, 0), np.uint8), 0, 0)
    margin = max(1, int(1 / view.zoom))
    source = Image.fromarray(np.pad(window.pixels * np.uint8(255), margin)).reduce(margin)
    matrix = view.inverse()  # from the pixels of the result, by way of the image's, to those of `source`
    matrix[:, 2] += matrix[:, :2] @ (x1, y1) - (window.x - margin, window.y - margin)
    coefficients = tuple((matrix / margin).ravel())
    size, affine = (x2 - x1, y2 - y1), Image.Transform.AFFINE
    coverage = np.asarray(source.transform(size, affine, coefficients, Image.Resampling.BILINEAR))
    return MaskWindow((coverage >= 128).view(np.uint8), x1, y1)


def resample_mask(window, box, size):
    """A mask in the frame of a box, antialiased and cut at one half.

    Bilinear over the source pixels with nothing outside the window, wide enough to average when it
    shrinks. At source pixel centres the result is the source mask, so pasting it back changes
    nothing there.

    Args:
        window: MaskWindow, image pixels.
        box: float [x1, y1, x2, y2], image pixels, x1 < x2 and y1 < y2.
        size: M, cells per side.

    Returns:
        uint8 0/1 (M, M). Never empty if the window has a pixel in the box: then at least the cell
        with the largest coverage is set.
    """
    height, width = window.pixels.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    np.multiply(window.pixels, 255, out=padded[1:-1, 1:-1])
    origin, limits = (window.x - 1, window.y - 1) * 2, (width + 2.0, height + 2.0) * 2
    box = tuple(min(max(edge - start, 0.0), limit) for edge, start, limit in zip(box, origin, limits))
    # frombuffer and tobytes: half the time of fromarray and asarray, which count for so small an image.
    source = Image.frombuffer("L", (width + 2, height + 2), padded, "raw", "L", 0, 1)
    coverage = source.resize((size, size), Image.Resampling.BILINEAR, box=box).tobytes()
    mask = (np.frombuffer(coverage, np.uint8).reshape(size, size) >= 128).view(np.uint8)
    if not mask.any():
        mask[_fullest_cell(padded, np.array(box), size)] = 1
    return mask


def _fullest_cell(pixels, box, size):
    """(row, column) of the cell with most pixels; 8-bit coverage would round small ones to zero."""
    rows, columns = np.nonzero(pixels)
    places = (np.stack([rows, columns]) + 0.5 - box[1::-1, None]) / (box[3:1:-1] - box[1::-1])[:, None]
    cells = np.clip(places * size, 0, size - 1).astype(int)
    counts = np.bincount(cells[0] * size + cells[1], minlength=1)
    return divmod(int(counts.argmax()), size)
