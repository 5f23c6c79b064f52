"""Size and shape of one mask, in any unit: scikit-image's `regionprops`.

Comes in: a mask and the size of its pixels. Goes out: numbers by name. Called by `measurements.py`.
"""

import math
import warnings

import numpy as np

LENGTHS = ("perimeter", "major_axis", "minor_axis", "equivalent_diameter", "feret_diameter")
_PROPERTIES = {
    "area": "area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "equivalent_diameter": "equivalent_diameter_area",
    "feret_diameter": "feret_diameter_max",
    "eccentricity": "eccentricity",
    "orientation": "orientation",
}


def shape_of(mask, spacing=(1.0, 1.0)):
    """Size and shape of a mask. All its parts count as one object, and its holes are not part of it.

    Args:
        mask: bool (h, w), not empty.
        spacing: (height, width) of a pixel, any unit.

    Returns:
        dict of float:
            area                  square units.
            perimeter             units, with the borders of holes. Square pixels: scikit-image's `perimeter`; others:
                                  `crofton_perimeter`, because scikit-image has none for them.
            major_axis,           units: the ellipse with the same second moments.
            minor_axis
            equivalent_diameter   units: the disc with the same area.
            feret_diameter        units: the largest distance between two points of the outline.
            eccentricity          0 of a disc, towards 1 the longer the ellipse.
            orientation           radians from -pi/2 to pi/2: from the y axis (downwards) to the major axis,
                                  counter-clockwise.
    """
    from skimage.measure import perimeter, regionprops  # slow to import

    mask = np.asarray(mask, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of masks that are lines: they have no convex hull with an area
        (region,) = regionprops(mask.astype(np.uint8), spacing=spacing)
        values = {name: float(getattr(region, theirs)) for name, theirs in _PROPERTIES.items()}
    square = math.isclose(*spacing)
    values["perimeter"] = spacing[0] * float(perimeter(mask)) if square else crofton_perimeter(mask, spacing)
    return values


def scaled_shape(shape, side):
    """A shape in pixels as `shape_of` returns it, with square pixels of this side."""
    scaled = dict(shape, area=shape["area"] * side**2)
    return scaled | {name: shape[name] * side for name in LENGTHS}


def crofton_perimeter(mask, spacing=(1.0, 1.0)):
    """Perimeter by Crofton's formula in four directions: what lines of a grid cross, for pixels of any sides.

    A convex shape's mean width is its perimeter divided by pi. Its width across a direction is the number of lines
    that cross it times the distance between these lines. With square pixels this is scikit-image's
    `perimeter_crofton` with four directions.

    Args:
        mask: bool (h, w). spacing: (height, width) of a pixel.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    height, width = spacing
    angle = math.atan2(height, width)  # of a pixel's diagonal
    between = height * width / math.hypot(height, width)  # diagonal lines
    rows = np.count_nonzero(padded[:, 1:] & ~padded[:, :-1]) * height * angle / math.pi
    columns = np.count_nonzero(padded[1:] & ~padded[:-1]) * width * (0.5 - angle / math.pi)
    falling = np.count_nonzero(padded[1:, 1:] & ~padded[:-1, :-1])
    rising = np.count_nonzero(padded[1:, :-1] & ~padded[:-1, 1:])
    return math.pi * (rows + columns + (falling + rising) * between / 4)
