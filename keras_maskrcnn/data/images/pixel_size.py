"""How large a pixel of an image file is, in micrometres, as its metadata say.

Read are OME-XML, ImageJ's description, and the resolution of any other TIFF. Called by `measuring/` and `gigapixels/`.
"""

import math
import typing
from xml.etree import ElementTree

from keras_maskrcnn.data.images.forms import Kind
from keras_maskrcnn.data.images.opening import open_source
from keras_maskrcnn.data.images.reading import image_orientation

_MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometers": 1e-3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometers": 1.0,
    "mm": 1e3, "millimeter": 1e3, "millimeters": 1e3,
    "cm": 1e4, "centimeter": 1e4, "centimeters": 1e4,
    "m": 1e6, "meter": 1e6, "meters": 1e6, "in": 25400.0, "inch": 25400.0, "inches": 25400.0,
}  # fmt: skip
_TIFF_UNITS = {2: 25400.0, 3: 10000.0}  # ResolutionUnit: inch, centimetre
_SCREEN_DPI = (72, 96)  # what programs write that do not have a size at all


class PixelSize(typing.NamedTuple):
    """Size of a pixel, micrometres.

    Args:
        x, y: float, width and height.
        origin: str, where the numbers are from, for messages.
    """

    x: float
    y: float
    origin: str = "given"


def read_pixel_size(source):
    """The size of a pixel as an image file says.

    Args:
        source: as for `read_image`; arrays and PIL images have no size.

    Returns:
        PixelSize in the axes of `read_image` (turned as the file's orientation says), or None if the file has none. A
        resolution of 72 or 96 dots per inch without further metadata counts as none: programs write it by default.

    Raises:
        ImageError: no file is there that may be read.
    """
    with open_source(source) as opened:
        if opened.kind != Kind.TIFF:
            return None
        size = _tiff_size(opened)
    if size is not None and image_orientation(source) >= 5:
        return PixelSize(size.y, size.x, size.origin)
    return size


def tiff_pixel_size(tiff):
    """As `read_pixel_size`, not turned, of an open tifffile.TiffFile."""
    for read in (_ome_size, _imagej_size, _resolution_size):
        size = read(tiff)
        if size is not None:
            return size
    return None


def micrometres(number, unit):
    """A length in micrometres; None if the unit is none of length, or the number is not finite and above 0.

    Args:
        number: float or its text. unit: str, such as "nm" or "micron", in any case.
    """
    try:
        length = float(number) * _MICROMETRES[_plain(unit)]
    except (TypeError, ValueError, KeyError):
        return None
    return length if math.isfinite(length) and length > 0 else None


def _plain(unit):
    text = str(unit).strip().replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    return text if text in _MICROMETRES else text.lower()


def _tiff_size(opened):
    import tifffile  # slow to import, and only these files need it

    try:
        with tifffile.TiffFile(opened.content) as tiff:
            return tiff_pixel_size(tiff)
    except Exception:  # every kind, as libraries do on damaged files: reading the pixels tells what is wrong
        return None


def _ome_size(tiff):
    if not tiff.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rsplit("}")[-1] == "Pixels"), None)
    if pixels is None:
        return None
    sides = [
        micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
    ]
    return _both(sides, "OME metadata")


def _imagej_size(tiff):
    metadata = tiff.imagej_metadata
    if not metadata:
        return None
    per_pixel = micrometres(1, metadata.get("unit"))
    if per_pixel is None:
        return None
    return _both([_per_unit(side, per_pixel) for side in _resolution(tiff)], "ImageJ metadata")


def _resolution_size(tiff):
    page = tiff.pages[0]
    unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else None
    resolution = _resolution(tiff)
    if int(unit or 0) not in _TIFF_UNITS or tiff.is_imagej:
        return None
    if int(unit) == 2 and all(side in _SCREEN_DPI for side in resolution):
        return None
    return _both([_per_unit(side, _TIFF_UNITS[int(unit)]) for side in resolution], "TIFF resolution")


def _resolution(tiff):
    """Pixels per unit along x and y; None where a tag is missing or has no value."""
    tags, sides = tiff.pages[0].tags, []
    for name in ("XResolution", "YResolution"):
        value = tags[name].value if name in tags else None
        whole = isinstance(value, tuple) and len(value) == 2 and value[1] != 0
        sides.append(value[0] / value[1] if whole else None)
    return sides


def _per_unit(count, unit):
    return unit / count if count and count > 0 else None


def _both(sides, origin):
    """A PixelSize of two sides. One side alone counts for both."""
    x, y = sides[0] or sides[1], sides[1] or sides[0]
    return None if x is None else PixelSize(x, y, origin)
