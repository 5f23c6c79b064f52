"""Files and PIL images as they are stored: every channel, in the file's own dtype. What they become is `images.py`'s.

Channels come last. Where a TIFF names its axes (ImageJ, OME, planar or interleaved samples, pages) the names decide,
and one axis besides rows and columns may be longer than 1: it is the channels, whatever its name (C, S, Z, T or page).
TIFFs without names and `.npy` files: the shorter of the first and the last of three axes is the channels.

Large arrays of plain values (`.npy`; TIFF that is neither compressed nor tiled) are mapped into memory, not read:
whoever takes a part of one reads that part from the disk. Called by `images.py`.
"""

import dataclasses
import io
import pathlib
import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAPPED_BYTES = 64 * 2**20  # smaller files are read whole: a mapped one keeps a file open
TIFF_SUFFIXES = (".tif", ".tiff")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF's
_ORIENTATION = 0x0112  # tag of TIFF and EXIF
_ALPHA = (1, 2)  # TIFF's ExtraSamples: associated and unassociated
_NOT_CHANNELS = ("PALETTE", "SEPARATED", "YCBCR", "CIELAB")  # TIFF's colours that Pillow makes RGB of
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
_TRANSPARENT_MODES = ("La", "PA", "RGBa")
_TIFF_FAULTS = (OSError, ValueError, KeyError, IndexError, TypeError, struct.error, ImportError)


class ImageError(ValueError):
    """An image that is missing, damaged, or not what its annotations say."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An image as it is stored.

    Args:
        pixels: (H, W, C), any numeric dtype or bool; perhaps a memory map.
        alpha: whether the last channel is known to be transparency.
        name: str, what to call it in messages.
    """

    pixels: np.ndarray
    alpha: bool
    name: str


def stored_image(source):
    """An image with all its channels.

    Args:
        source: path (str or Path), bytes of an encoded file, PIL.Image.Image, or an array (H, W) or (H, W, C).

    Returns:
        Stored. EXIF orientation is applied to all but arrays.

    Raises:
        ImageError (a ValueError): missing, empty, truncated, or no image.
    """
    if isinstance(source, np.ndarray):
        return Stored(_three_axes(source, "an array"), False, "an array")
    if isinstance(source, Image.Image):
        return _from_pil(source, f"image of mode {source.mode}")
    file, name = open_source(source)
    if is_npy(file):
        return Stored(channels_last(read_npy(file, name), name), False, name)
    return read_tiff(file, name) if is_tiff(file) else _read_pil(file, name)


def open_source(source):
    """(path or io.BytesIO, name) of a path or of the bytes of a file.

    Raises:
        ImageError: it is neither, or no file is there.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(bytes(source)), f"<{len(source)} bytes>"
    if not isinstance(source, (str, pathlib.Path)):
        raise ImageError(
            "An image is a path, bytes, a PIL image, or a numpy array. "
            f"Received {type(source).__name__}. Convert it to one of these."
        )
    path = pathlib.Path(source)
    if not path.is_file():
        raise ImageError(
            f"An image file must exist. Received {path}, which does not. "
            "Check image_dir and the file names in the annotations."
        )
    return path, str(path)


def stored_size(source):
    """(height, width) of an image file after EXIF rotation, from its header alone.

    Args:
        source: path, or bytes of an encoded file.

    Raises:
        ImageError (a ValueError): missing, or no image.
    """
    file, name = open_source(source)
    if is_npy(file):
        return channels_last(read_npy(file, name, map_all=True), name).shape[:2]
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            pages = getattr(image, "n_frames", 1) if is_tiff(file) else 1
    except UnidentifiedImageError as error:
        if not is_tiff(file):
            raise ImageError(damaged(name, error)) from error
        pages = 0
    except (OSError, SyntaxError) as error:
        raise ImageError(damaged(name, error)) from error
    if pages != 1:
        return _tiff_size(file, name)
    return (width, height) if turned else (height, width)


def is_npy(file):
    """Whether a path is numpy's `.npy`."""
    return isinstance(file, pathlib.Path) and file.suffix.lower() == ".npy"


def is_tiff(file):
    """Whether a path, by its ending, or a file in memory, by its first bytes, is a TIFF."""
    if isinstance(file, pathlib.Path):
        return file.suffix.lower() in TIFF_SUFFIXES
    return file.getbuffer()[:4].tobytes() in _TIFF_STARTS


def can_be_mapped(file):
    """Whether a path is a large TIFF of plain values in RGB or gray, by its header."""
    if not isinstance(file, pathlib.Path) or not is_tiff(file) or file.stat().st_size <= MAPPED_BYTES:
        return False
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            photometric = getattr(tiff.pages[0].photometric, "name", "")
            return tiff.series[0].dataoffset is not None and photometric not in _NOT_CHANNELS
    except _TIFF_FAULTS:
        return False


def read_npy(file, name, map_all=False):
    """The array of a `.npy` file; large ones are mapped. ImageError where it holds none of numbers."""
    mapped = map_all or file.stat().st_size > MAPPED_BYTES
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(damaged(name, error)) from error
    if array.dtype.kind not in "buif":
        raise ImageError(f"An image holds numbers. Received {name} of dtype {array.dtype}. Save one image in it.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def channels_last(array, name):
    """(H, W, C) of an array whose axes have no names, by the rule of the module docstring."""
    array = _three_axes(array, name)
    return np.moveaxis(array, 0, -1) if array.shape[0] < array.shape[2] else array


def read_tiff(file, name):
    """A TIFF through tifffile; through Pillow where its colours have to be converted, or tifffile lacks a codec."""
    import tifffile  # slow to import, and only these files need it

    try:
        with tifffile.TiffFile(file) as tiff:
            page, series = tiff.pages[0], tiff.series[0]
            if getattr(page.photometric, "name", "") in _NOT_CHANNELS:
                return _read_pil(file, name)
            plain = series.dataoffset is not None and isinstance(file, pathlib.Path)
            if plain and series.nbytes > MAPPED_BYTES:
                array = tifffile.memmap(file, mode="r")
            else:
                array = series.asarray()
            orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
            alpha = len(page.extrasamples) == 1 and int(page.extrasamples[0]) in _ALPHA
            axes = series.axes
    except _TIFF_FAULTS as error:
        return _without_codec(file, name, error)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return Stored(_turned(_named_channels_last(array, axes, name), orientation), alpha, name)


def damaged(name, error):
    """The message on a file that cannot be read."""
    return (
        f"An image file must be complete and of a format that Pillow or scikit-image reads. "
        f"Received {name}: {error}. Download or export it again, or remove it from the dataset."
    )


def _tiff_size(file, name):
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            series, tags = tiff.series[0], tiff.pages[0].tags
            shape, axes = series.shape, series.axes
            turned = _ORIENTATION in tags and tags[_ORIENTATION].value >= 5
    except _TIFF_FAULTS as error:
        raise ImageError(damaged(name, error)) from error
    height, width = _named_channels_last(np.broadcast_to(np.uint8(0), shape), axes, name).shape[:2]
    return (width, height) if turned else (height, width)


def _named_channels_last(array, axes, name):
    """(H, W, C) by tifffile's names of the axes; Q is one without a name."""
    kept = [k for k, (axis, side) in enumerate(zip(axes, array.shape, strict=True)) if side > 1 or axis in "YX"]
    left, names = array.reshape([array.shape[k] for k in kept]), "".join(axes[k] for k in kept)
    if left.ndim > 3 or left.ndim < 2:
        raise ImageError(
            "A TIFF must hold one image: rows, columns and at most one more axis, its channels. "
            f"Received {name} of shape {array.shape} with the axes {axes}. Save each image in a file of its own."
        )
    if "Q" in names or names.count("Y") != 1 or names.count("X") != 1:
        return channels_last(left, name)
    if left.ndim == 2:
        return left[:, :, None]
    (channel,) = (k for k, axis in enumerate(names) if axis not in "YX")
    return np.moveaxis(left, channel, -1)


def _turned(array, orientation):
    """An image turned and mirrored as TIFF's and EXIF's orientation asks."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return array[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _without_codec(file, name, error):
    """What Pillow makes of a TIFF that tifffile could not read; its compressions are others."""
    try:
        return _read_pil(file, name)
    except ImageError:
        hint = ". Install imagecodecs (pip install 'keras-maskrcnn[tiff]')" if "imagecodecs" in str(error) else ""
        raise ImageError(damaged(name, f"{error}{hint}")) from error


def _read_pil(file, name):
    try:
        with Image.open(file) as image:
            if any(";16" in str(tile[3]) for tile in image.tile) and image.mode in ("RGB", "RGBA", "LA"):
                name = f"{name} (16-bit colours, of which Pillow reads the upper 8 bits)"
            image.load()
            return _from_pil(image, name)
    # Pillow reports damaged files as any of these, by format.
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(damaged(name, error)) from error


def _from_pil(image, name):
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Stored(_three_axes(np.asarray(image), name), False, name)
    if image.mode not in _PLAIN_MODES:
        transparent = "transparency" in image.info or image.mode in _TRANSPARENT_MODES
        image = image.convert("L" if image.mode == "1" else "RGBA" if transparent else "RGB")
    pixels = np.array(image)
    return Stored(_three_axes(pixels, name), image.mode in ("LA", "RGBA"), name)


def _three_axes(array, name):
    """(H, W, C) of an array (H, W) or of three axes."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(
            f"An image array must have shape (H, W) or (H, W, C). Received {name} of shape {array.shape}. "
            "Give one image at a time, channels last."
        )
    return array
