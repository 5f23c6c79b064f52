"""Second step: an opened image -> its pixels as they are stored. Every channel, in the image's own dtype.

Channels come last. Where a TIFF names its axes (ImageJ, OME, planar or interleaved samples, pages) the names decide.
TIFFs without names and `.npy` files: the shorter of the first and the last of three axes is the channels.

Large arrays of plain values on disk (`.npy`; TIFF that is neither compressed nor tiled) are mapped into memory, not
read: whoever uses a part of one reads that part from the disk.

Libraries raise exceptions of every kind on damaged files. Here, in one place, each becomes an ImageError that names the
file and what it seems to be. Called by `reading`.
"""

import contextlib

from PIL import Image, UnidentifiedImageError

from keras_maskrcnn.data.images.contents import seems_to_be
from keras_maskrcnn.data.images.forms import ImageError, Kind, damaged, stored_array
from keras_maskrcnn.data.images.limits import too_large
from keras_maskrcnn.data.images.npy_files import read_npy_image
from keras_maskrcnn.data.images.pillow_files import (
    picture_orientation,
    picture_size,
    read_picture,
    stored_picture,
)
from keras_maskrcnn.data.images.tiff_files import read_tiff, tiff_orientation, tiff_size

MAPPED_BYTES = 64 * 2**20  # smaller files are read whole: a mapped one keeps a file open
_REASON_LENGTH = 200  # of a library's message; some quote the file


def decode(opened, indices=False):
    """Read an image whole, or map it.

    Args:
        opened: Opened.
        indices: whether to keep the indices of a palette, not its colours.

    Returns:
        Stored. EXIF orientation is applied to all but arrays.

    Raises:
        ImageError: it is damaged, no image, more than one image, or has more pixels than the limit.
    """
    with _named_faults(opened):
        if opened.kind == Kind.ARRAY:
            return stored_array(opened.content, opened.name)
        if opened.kind == Kind.PIL_IMAGE:
            return stored_picture(opened.content, opened.name, indices)
        if opened.kind == Kind.NPY:
            return read_npy_image(opened, MAPPED_BYTES)
        if opened.kind == Kind.TIFF:
            return read_tiff(opened, MAPPED_BYTES, indices)
        return read_picture(opened, indices)


def decoded_size(opened):
    """(height, width) that `decode` gives, of a file from its header alone.

    Args:
        opened: Opened.

    Raises:
        ImageError: as for `decode`.
    """
    with _named_faults(opened):
        if opened.kind == Kind.NPY:
            return read_npy_image(opened, 0).pixels.shape[:2]
        if opened.kind == Kind.TIFF:
            return tiff_size(opened)
        if opened.kind == Kind.OTHER_FILE:
            return picture_size(opened)
    return decode(opened).pixels.shape[:2]


def orientation_of(opened):
    """Orientation of an image as EXIF counts, 1 to 8, of a file from its header; `decode` applies it.

    Args:
        opened: Opened.

    Raises:
        ImageError: as for `decode`.
    """
    with _named_faults(opened):
        if opened.kind == Kind.TIFF:
            return tiff_orientation(opened)
        return picture_orientation(opened) if opened.kind == Kind.OTHER_FILE else 1


@contextlib.contextmanager
def _named_faults(opened):
    """Whatever an image library raises inside becomes an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(too_large(f"{opened.name}: {str(error).rstrip('.')}")) from error
    except Exception as error:  # every kind: libraries raise what their formats and the damage lead to
        raise ImageError(_unreadable(opened, error)) from error


def _unreadable(opened, error):
    """The message on an image that a library fails on."""
    reason = str(error) or type(error).__name__
    if isinstance(error, (LookupError, MemoryError, AttributeError, TypeError)):
        reason = f"{type(error).__name__}: {reason}"  # the text alone says nothing
    if opened.kind in (Kind.ARRAY, Kind.PIL_IMAGE):
        return damaged(opened.name, reason[:_REASON_LENGTH])
    what, remedy = seems_to_be(opened.content)
    if isinstance(error, UnidentifiedImageError):  # its text says no more
        return damaged(opened.name, what, remedy)
    return damaged(opened.name, f"{what} ({reason[:_REASON_LENGTH].strip().rstrip('.')})", remedy)
