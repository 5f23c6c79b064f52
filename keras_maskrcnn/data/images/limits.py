"""How much an image file may unpack to: the one place of these numbers, for the readers and for exported graphs.

A file of a few kilobytes can claim gigabytes of pixels, or unpack to them. So the claim is compared with the limit
before anything is decoded. Files that store their pixels plainly (`.npy`, TIFF without compression) have no limit: they
cannot hold more than their own size. Arrays and PIL images that a user made are not checked either.

`data/limits.py` has those of annotations. Called by `pillow_files` and `tiff_files`, and by `serving/`.
"""

import os

from keras_maskrcnn.data.images.forms import ImageError

SWITCH = "KERAS_MASKRCNN_MAX_PIXELS"  # environment variable: another limit than MAX_PIXELS
MAX_PIXELS = 200_000_000  # reading RGB of as many takes 1.4 GB at its peak
PIXEL_BYTES = 4  # a pixel of more bytes counts as several
MAX_TEXTS = 50  # compressed texts in a PNG, which libpng unpacks to up to 8 MB each
MAX_SCANS = 100  # of a JPEG, each of which goes over all of its pixels; progressive files have about ten
MAX_PAGES = 10_000  # pages of a TIFF; tifffile looks at each


def max_pixels():
    """The largest number of pixels of an image: that of the environment variable SWITCH, else MAX_PIXELS.

    Raises:
        ImageError: the variable is no positive whole number.
    """
    text = os.environ.get(SWITCH, "").strip()
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ImageError(
            f"The environment variable {SWITCH} must be a positive whole number of pixels. Received {text!r}. "
            f"Correct it, or unset it to allow {MAX_PIXELS}."
        )
    return int(text)


def check_pixels(name, height, width, pixel_bytes=1):
    """Refuse an image of more pixels than the limit.

    Args:
        name: str, what the message calls the file.
        height, width: int, as its header claims.
        pixel_bytes: number of bytes in a decoded pixel, all channels.

    Raises:
        ImageError: naming the file, its size, the limit and how to lift it.
    """
    if height * width * max(1, pixel_bytes / PIXEL_BYTES) > max_pixels():
        large = f", {pixel_bytes:g} bytes each" if pixel_bytes > PIXEL_BYTES else ""
        raise ImageError(too_large(f"{name} of {width} x {height} pixels{large}"))


def too_large(received):
    """The message on an image above the limit. `received` is the file with its size."""
    return (
        f"An image may have at most {max_pixels()} pixels (of more than {PIXEL_BYTES} bytes: fewer), because a small "
        f"file can claim any number. Received {received}. If you trust it and have the memory, set the environment "
        f"variable {SWITCH} to a larger number. Or cut it into tiles, or save it as .npy or TIFF without compression, "
        "which have no limit."
    )
