"""One row of numbers for each found object: what it is, its size, shape and place, and its brightness by channel.

Comes in: instances, and the image that they were found in. Goes out: columns, or rows for a file. Called by users, by
`gigapixels/` and by the command line. docs/measurements.md describes every column.
"""

import os

import numpy as np

from keras_maskrcnn.data.images.pixel_size import PixelSize, read_pixel_size
from keras_maskrcnn.data.images.reading import stored_image
from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.host.addresses import is_address
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.measuring.shapes import LENGTHS, scaled_shape, shape_of

NAMES = ("image", "object", "class", "score", "touches_border")
_SIZES = [("area_px", "area_um2"), *((f"{name}_px", f"{name}_um") for name in LENGTHS)]
SHAPE = (
    *(pixels for pixels, _ in _SIZES), *(lengths for _, lengths in _SIZES), "eccentricity", "orientation",
    "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um", "pixel_width_um", "pixel_height_um",
)  # fmt: skip
STATISTICS = ("mean", "min", "max")  # each with the number of the channel


def measure(found, image, pixel_size=None):
    """Measure each object that was found in an image, on its own mask: objects may overlap.

    Args:
        found: FoundInstances, or anything with `mask_windows`, `labels`, `scores`, `class_names` and `image_size`.
        image: the image, as for `read_image`. Its stored values are measured, all channels but transparency: 16 bits
            stay 16 bits.
        pixel_size: micrometres, a number or (width, height). None: what the image file's metadata say.

    Returns:
        dict of columns to arrays with one value an object, in the order of `found`, ready for `pandas.DataFrame`.
        docs/measurements.md has the columns. In micrometres where the size of a pixel is known, else NaN.

    Raises:
        ValueError: the image has another size, the instances have no masks, or the pixel size is no size.
    """
    rows = measured_rows(found, image, pixel_size)
    names = list(NAMES + SHAPE) if not rows else list(rows[0])
    return {name: _column([row[name] for row in rows]) for name in names}


def measured_rows(found, image, pixel_size=None):
    """As `measure`, a list of dicts; numbers that there are not, such as micrometres, are None."""
    size = checked_pixel_size(pixel_size) or _pixel_size_of(image)
    stored = stored_image(image)
    pixels = stored.pixels[..., :-1] if stored.alpha else stored.pixels
    if pixels.shape[:2] != tuple(found.image_size):
        raise ValueError(
            f"measure needs the image that the objects were found in, {found.image_size} (height, width). "
            f"Received {stored.name} of {pixels.shape[:2]}. Give the same file."
        )
    name = str(image) if _is_path(image) else ""
    rows = []
    columns = (_windows(found), found.labels, found.scores)
    for number, (place, label, score) in enumerate(zip(*columns, strict=True), start=1):
        row = dict(zip(NAMES, (name, number, found.class_names[int(label)], float(score), None), strict=True))
        window, x, y = place
        crop = pixels[y : y + window.shape[0], x : x + window.shape[1]]
        rows.append(row | measured_mask(window, x, y, found.image_size, crop, size))
    return rows


def measured_mask(window, x, y, image_size, pixels, pixel_size):
    """The numbers of one object.

    Args:
        window: bool (h, w), its mask. x, y: int, the upper left pixel of the window in the image.
        image_size: (height, width). pixels: (h, w, C), the image under the window. pixel_size: PixelSize or None.

    Returns:
        dict of `touches_border`, SHAPE, and STATISTICS by channel. Of an empty mask all but the area are None.
    """
    channels = [f"{name}_{channel}" for channel in range(pixels.shape[2]) for name in STATISTICS]
    row = dict.fromkeys(("touches_border", *SHAPE, *channels))
    box = filled_box(window)
    if pixel_size is not None:
        row |= {"pixel_width_um": pixel_size.x, "pixel_height_um": pixel_size.y}
    if box is None:
        return row | {"touches_border": False, "area_px": 0.0, "area_um2": None if pixel_size is None else 0.0}
    left, top, right, bottom = box
    mask, values = window[top:bottom, left:right], pixels[top:bottom, left:right]
    edges = x + left <= 0, y + top <= 0, x + right >= image_size[1], y + bottom >= image_size[0]
    row["touches_border"] = any(edges)
    row |= _shape_columns(mask, x + left, y + top, pixel_size)
    inside = values[mask]
    for name, found in zip(STATISTICS, (inside.mean(0, dtype=np.float64), inside.min(0), inside.max(0)), strict=True):
        row |= {f"{name}_{channel}": float(value) for channel, value in enumerate(found)}
    return row


def checked_pixel_size(size):
    """A PixelSize of a number, a pair or a PixelSize; None stays None.

    Raises:
        ValueError: it is none of these, or not finite and above 0.
    """
    if size is None or isinstance(size, PixelSize):
        return size
    sides = np.atleast_1d(np.asarray(size, object)).ravel().tolist()
    try:
        sides = [float(side) for side in sides]
        if len(sides) not in (1, 2) or not all(0 < side < float("inf") for side in sides):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{argument('pixel_size')} must be micrometres above 0: one number, or width and height. "
            f"Received: {size!r}. A pixel of a microscope with a 40x lens has about 0.25."
        ) from None
    return PixelSize(sides[0], sides[-1])


def _shape_columns(mask, x, y, pixel_size):
    shape = shape_of(mask)
    rows, columns = np.nonzero(mask)
    place = x + float(columns.mean()) + 0.5, y + float(rows.mean()) + 0.5
    out = {"area_px": shape["area"], "centroid_x_px": place[0], "centroid_y_px": place[1]}
    out |= {f"{name}_px": shape[name] for name in LENGTHS}
    if pixel_size is not None:
        square = pixel_size.x == pixel_size.y
        shape = scaled_shape(shape, pixel_size.x) if square else shape_of(mask, (pixel_size.y, pixel_size.x))
        out |= {"area_um2": shape["area"]} | {f"{name}_um": shape[name] for name in LENGTHS}
        out |= {"centroid_x_um": place[0] * pixel_size.x, "centroid_y_um": place[1] * pixel_size.y}
    return out | {"eccentricity": shape["eccentricity"], "orientation": shape["orientation"]}


def _windows(found):
    try:
        return found.mask_windows
    except AttributeError:
        raise ValueError(
            "measure needs masks. Received what a model without a mask branch found. Use a model with masks."
        ) from None


def _pixel_size_of(image):
    return read_pixel_size(image) if _is_path(image) or isinstance(image, bytes) else None


def _is_path(image):
    return isinstance(image, (str, os.PathLike)) or is_address(image)


def _column(values):
    if any(isinstance(value, str) for value in values):
        return np.array(values, object)
    if all(isinstance(value, (bool, int)) for value in values):
        return np.array(values, bool if values and isinstance(values[0], bool) else np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)
