"""Large images that are read in parts: zarr, OME-TIFF, pyramidal TIFF, and what OpenSlide reads.

Comes in: a path. Goes out: a `LargeImage`, whose parts are numpy arrays in image pixels of the highest resolution.
Called by `engine.py`; the command line asks `is_large`.
"""

import contextlib
import math
import pathlib

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError
from keras_maskrcnn.data.images.pixel_size import PixelSize, micrometres, tiff_pixel_size
from keras_maskrcnn.host.addresses import as_path, is_address

TIFF_ENDINGS = (".tif", ".tiff", ".btf")
SLIDE_ENDINGS = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide")
LARGE_PIXELS = 2**26  # a TIFF of more is read tile by tile
LARGEST_BLOCK = 2**30  # bytes of a block that is decoded as a whole
_BLOCK_SIDE = 4096  # pixels: what is read at once to find the highest value
_REASON_LENGTH = 200  # of a library's message
_LOOKED_AT = 2**20  # bytes: smaller TIFF files are not opened to see how large they are
_PLAIN = ("MINISBLACK", "RGB", "YCBCR")  # photometric interpretations whose decoded numbers are the image's


def is_large(path):
    """Whether an image is one for `predict_large`: zarr, a slide, or a TIFF of more than `LARGE_PIXELS`."""
    if is_address(path):
        return False
    path = pathlib.Path(path)
    if path.is_dir():
        return is_zarr(path)
    if path.suffix.lower() in SLIDE_ENDINGS:
        return True
    return path.suffix.lower() in TIFF_ENDINGS and path.is_file() and _is_large_tiff(path)


def is_zarr(path):
    """Whether a folder is a zarr array or group, of version 2 or 3."""
    return any((pathlib.Path(path) / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


class LargeImage:
    """An image that is read in parts.

    Args:
        name: str, for messages. array: of zarr, a memory map, or `_Slide`; its axes are `axes`.
        axes: str, letters of the axes, such as "YXC". Y and X are there once; of the others at most C is longer than 1.
        pixel_size: PixelSize or None. alpha: whether the last channel is transparency.
    """

    def __init__(self, name, array, axes, pixel_size=None, alpha=False):
        self.name = name
        self.pixel_size = pixel_size
        self._array, self._axes, self._alpha = array, axes, alpha
        self.size = tuple(int(array.shape[axes.index(axis)]) for axis in "YX")
        self.channels = (int(array.shape[axes.index("C")]) if "C" in axes else 1) - alpha
        self.dtype = np.dtype(array.dtype)

    def read(self, x1, y1, x2, y2):
        """The pixels of a rectangle inside the image: (h, w, C), without transparency. Raises ImageError of damage."""
        place = {"Y": slice(y1, y2), "X": slice(x1, x2), "C": slice(None)}
        with _named_faults(self.name):
            part = np.asarray(self._array[tuple(place.get(axis, 0) for axis in self._axes)])
        left = [axis for axis in self._axes if axis in place]
        part = part if "C" in left else part[..., None]
        part = np.moveaxis(part, [[*left, "C"].index(axis) for axis in "YXC"], [0, 1, 2])
        return np.ascontiguousarray(part[..., : self.channels])

    def maximum(self):
        """The highest value in the image, all of which is read, a block at a time."""
        (height, width), side = self.size, _BLOCK_SIDE
        corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
        return max(self.read(x, y, min(x + side, width), min(y + side, height)).max().item() for x, y in corners)


@contextlib.contextmanager
def open_large(source):
    """Open an image to be read in parts. A context manager.

    Args:
        source: path of a zarr folder (an array, or OME-Zarr), a TIFF, or a slide.

    Yields:
        LargeImage of the highest resolution.

    Raises:
        ImageError: it is none of these, or its numbers are not the pixels of one image.
        ImportError: zarr or openslide is not installed.
    """
    path = as_path(source)
    if is_address(path) or not path.exists():
        raise ImageError(
            f"A large image must be on this machine. Received {source}, which is not. Copy it here, or check its name."
        )
    with contextlib.ExitStack() as stack:
        with _named_faults(path):
            image = _opener(path)(path, stack)
            _check_kind(image)
        yield image


def _opener(path):
    """The function that opens a path: from (path, ExitStack, which closes it) to a LargeImage."""
    if path.is_dir():
        return _open_zarr
    if path.suffix.lower() in SLIDE_ENDINGS:
        return _open_slide
    if path.suffix.lower() in TIFF_ENDINGS:
        return _open_tiff
    raise ImageError(
        f"An image that is read in parts must be zarr, TIFF or one of {', '.join(SLIDE_ENDINGS)}. "
        f"Received {path}. Leave out --gigapixel, or convert it to OME-TIFF."
    )


def _check_kind(image):
    if image.dtype.kind not in "buif" or not all(image.size):
        raise ImageError(
            f"An image holds numbers, in at least one row and column. Received {image.name} of {image.dtype}, "
            f"{image.size} (height, width). Save one image in it."
        )


@contextlib.contextmanager
def _named_faults(name):
    """Whatever a library raises inside becomes an ImageError that names the image."""
    try:
        yield
    except (ImageError, ImportError, MemoryError):
        raise
    except Exception as error:  # every kind: libraries raise what their formats and the damage lead to
        reason = f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
        hint = "Install imagecodecs (pip install 'keras-maskrcnn[tiff]')." if "imagecodecs" in reason else None
        raise ImageError(
            f"A large image must be complete, and of a format that zarr, tifffile or OpenSlide reads. Received {name}: "
            f"{reason.rstrip('.')}. {hint or 'Copy or export it again.'}"
        ) from error


def _zarr(path):
    try:
        import zarr
    except ImportError as error:
        raise ImportError(
            f"Reading {path} in parts needs zarr. Received: it is not installed. "
            "Install it: pip install 'keras-maskrcnn[wsi]'."
        ) from error
    return zarr


def _openslide(path):
    try:
        import openslide
    except (ImportError, OSError) as error:  # OSError: the library is missing
        raise ImportError(
            f"Reading {path} needs OpenSlide. Received: {error}. Install it: pip install 'keras-maskrcnn[wsi]'."
        ) from error
    return openslide


# Zarr ------------------------------------------------------------------------------------------------------


def _open_zarr(path, stack):
    del stack  # nothing is left open
    node = _zarr(path).open(path, mode="r")
    if hasattr(node, "shape"):
        return _checked(LargeImage(str(path), node, _axes_of_array(node, path)))
    scales = node.attrs.get("ome", node.attrs).get("multiscales")
    if not scales:
        names = [name for name, _ in node.arrays()]
        if len(names) != 1:
            raise ImageError(
                "A zarr group must be OME-Zarr (multiscales), or hold one array. "
                f"Received {path} with the arrays {names[:5]}. Name the folder of one of them."
            )
        return _checked(LargeImage(str(path), node[names[0]], _axes_of_array(node[names[0]], path)))
    first = scales[0]["datasets"][0]
    array = node[first["path"]]
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scales[0].get("axes", ())]
    letters = "".join(axis["name"].upper()[:1] for axis in axes) or "TCZYX"[-array.ndim :]
    _check_axes(letters, array.shape, path)
    size = _ome_size(axes, first.get("coordinateTransformations", ()))
    return _checked(LargeImage(str(path), array, letters, size))


def _axes_of_array(array, path):
    """The axes by their names, or by their order: of three the shorter of the first and the last is the channels."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if names and all(names):
        letters = "".join(str(name).upper()[:1] for name in names)
    elif array.ndim == 3:
        letters = "CYX" if array.shape[0] < array.shape[2] else "YXC"
    else:
        letters = "TCZYX"[-array.ndim :]
    _check_axes(letters, array.shape, path)
    return letters


def _ome_size(axes, transformations):
    scale = next((one["scale"] for one in transformations if one.get("type") == "scale"), None)
    if scale is None:
        return None
    sides = {axis["name"]: micrometres(step, axis.get("unit")) for axis, step in zip(axes, scale, strict=False)}
    found = sides.get("x"), sides.get("y")
    return None if None in found else PixelSize(*found, "OME-Zarr metadata")


def _checked(image):
    """The image, if a block of it fits into memory."""
    array = image._array
    block = math.prod(array.chunks) * array.dtype.itemsize
    if block > LARGEST_BLOCK:
        raise ImageError(
            f"An image that is read in parts must have blocks of at most {LARGEST_BLOCK} bytes. Received {image.name} "
            f"with blocks of {array.chunks}, {block} bytes. Save it in tiles, such as 1024 x 1024."
        )
    return image


def _check_axes(letters, shape, path):
    """Raise ImageError unless Y and X are there, and of the others at most C is longer than 1."""
    others = [side for axis, side in zip(letters, shape, strict=False) if axis not in "YXC" and side > 1]
    once = all(letters.count(axis) == 1 for axis in "YX") and letters.count("C") <= 1
    if len(letters) != len(shape) or not once or others:
        raise ImageError(
            "A large image must be one picture: rows, columns and at most one more axis, its channels. "
            f"Received {path} of shape {tuple(shape)} with the axes {letters}. Save one plane and one point in time."
        )


# TIFF ------------------------------------------------------------------------------------------------------


def _is_large_tiff(path):
    import tifffile

    if path.stat().st_size < _LOOKED_AT:
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            return page.imagelength * page.imagewidth > LARGE_PIXELS
    except Exception:  # every kind, as tifffile raises on damaged files: reading the pixels tells what is wrong
        return False


def _open_tiff(path, stack):
    """The image of a TIFF at its highest resolution."""
    import tifffile

    tiff = stack.enter_context(tifffile.TiffFile(path))
    series, page = tiff.series[0], tiff.series[0].keyframe
    axes = _tiff_axes(series)
    _check_axes(axes, series.shape, path)
    photometric = getattr(page.photometric, "name", "")
    orientation = page.tags["Orientation"].value if "Orientation" in page.tags else 1
    if photometric not in _PLAIN or orientation != 1:
        raise ImageError(
            "A TIFF that is read in parts must hold gray or RGB, not turned. "
            f"Received {path}: {photometric}, orientation {orientation}. Export it as OME-TIFF."
        )
    alpha = [int(sample) for sample in page.extrasamples] in ([1], [2])  # associated or not
    if series.dataoffset is not None:  # plain numbers in one piece
        return LargeImage(str(path), tifffile.memmap(path, mode="r"), axes, tiff_pixel_size(tiff), alpha)
    array = _zarr(path).open(stack.enter_context(series.aszarr(level=0)), mode="r")
    return _checked(LargeImage(str(path), array, axes, tiff_pixel_size(tiff), alpha))


def _tiff_axes(series):
    """Letters of the axes, by the rules of `named_channels_last`; Q stands for one of length 1."""
    axes, shape = series.axes, series.shape
    kept = [k for k, (axis, side) in enumerate(zip(axes, shape, strict=True)) if side > 1 or axis in "YX"]
    names = "".join(axes[k] for k in kept)
    if not 2 <= len(kept) <= 3:
        return axes  # refused by `_check_axes`
    if "Q" in names or names.count("Y") != 1 or names.count("X") != 1:
        names = "YX" if len(kept) == 2 else "CYX" if shape[kept[0]] < shape[kept[-1]] else "YXC"
    letters = dict(zip(kept, (name if name in "YX" else "C" for name in names), strict=True))
    return "".join(letters.get(k, "Q") for k in range(len(axes)))


# OpenSlide -------------------------------------------------------------------------------------------------


class _Slide:
    """A slide of OpenSlide, read like an array (Y, X, 3); white where nothing was scanned."""

    dtype = np.dtype(np.uint8)

    def __init__(self, slide):
        self._slide = slide
        width, height = slide.dimensions
        self.shape = height, width, 3

    def __getitem__(self, place):
        rows, columns, channels = place
        size = columns.stop - columns.start, rows.stop - rows.start
        part = np.asarray(self._slide.read_region((columns.start, rows.start), 0, size))
        return np.where(part[..., 3:] == 0, np.uint8(255), part[..., :3])[..., channels]


def _open_slide(path, stack):
    slide = stack.enter_context(_openslide(path).OpenSlide(str(path)))
    x, y = (micrometres(slide.properties.get(f"openslide.mpp-{axis}"), "um") for axis in "xy")
    size = None if x is None or y is None else PixelSize(x, y, "slide metadata")
    return LargeImage(str(path), _Slide(slide), "YXC", size)
