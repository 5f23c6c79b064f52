"""The forms of an image on its way from a file to an array: `Opened`, then `Stored`. And `ImageError`."""

import dataclasses
import enum
import pathlib

import numpy as np


class ImageError(ValueError):
    """An image that is missing, damaged, or not what its annotations say."""


class Kind(enum.Enum):
    """What a user calls an image; files are told apart by their first bytes."""

    ARRAY = "array"
    PIL_IMAGE = "PIL image"
    NPY = "npy"
    TIFF = "TIFF"
    OTHER_FILE = "other file"


@dataclasses.dataclass(frozen=True)
class Opened:
    """An image before it is decoded.

    Args:
        content: numpy array, PIL.Image.Image, or a binary file at its start.
        kind: Kind.
        name: str, what messages call it.
        path: Path of a file on disk, else None.
    """

    content: object
    kind: Kind
    name: str
    path: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Stored:
    """An image as it is stored.

    Args:
        pixels: (H, W, C), bool or any integer or float dtype; perhaps a memory map.
        name: str, what messages call it.
        alpha: whether the last channel is known to be transparency.
        rgb_first: whether the first three channels are known to be red, green and blue, whatever the others are.
    """

    pixels: np.ndarray
    name: str
    alpha: bool = False
    rgb_first: bool = False


def stored_array(array, name):
    """`Stored` of an array whose channels have no names: three or four may be colours, and the fourth transparency.

    Args:
        array: (H, W) or (H, W, C), native byte order or not.
        name: str, what messages call it.

    Raises:
        ImageError: another shape, no pixels, or no numbers.
    """
    pixels = three_axes(array, name)
    return Stored(pixels, name, rgb_first=pixels.shape[2] in (3, 4))


def three_axes(array, name):
    """(H, W, C) in native byte order, of an array (H, W) or (H, W, C) of numbers.

    Raises:
        ImageError: another shape, no pixels, or no numbers.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if 0 in array.shape:
        raise ImageError(
            f"An image must have at least one row, one column and one channel. Received {name} of shape {array.shape}. "
            "Leave empty images out."
        )
    if array.ndim != 3:
        raise ImageError(
            f"An image array must have shape (H, W) or (H, W, C). Received {name} of shape {array.shape}. "
            "Give one image at a time, channels last."
        )
    if array.dtype.kind not in "buif":
        raise ImageError(f"An image holds numbers. Received {name} of dtype {array.dtype}. Save one image in it.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def channels_last(array, name):
    """(H, W, C) of an array whose axes have no names: the shorter of its first and last axis is the channels.

    Raises:
        ImageError: as for `three_axes`.
    """
    array = three_axes(array, name)
    return np.moveaxis(array, 0, -1) if array.shape[0] < array.shape[2] else array


def is_mapped(pixels):
    """Whether an image is a memory map, of which only the parts that are used are read."""
    return isinstance(pixels, np.memmap)


def damaged(name, error, remedy="Download or export it again, or remove it from the dataset."):
    """The message on a file that cannot be read."""
    return (
        "An image file must be complete and of a format that Pillow or tifffile reads. "
        f"Received {name}: {error}. {remedy}"
    )
