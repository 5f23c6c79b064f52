"""Second step: an opened image -> its pixels as they are stored. Every channel, in the image's own dtype.

Channels come last. Where a TIFF names its axes (ImageJ, OME, planar or interleaved samples, pages) the names decide.
TIFFs without names and `.npy` files: the shorter of the first and the last of three axes is the channels.

Large arrays of plain values on disk (`.npy`; TIFF that is neither compressed nor tiled) are mapped into memory, not
read: whoever uses a part of one reads that part from the disk. Called by `reading`.
"""

from keras_maskrcnn.data.images.forms import Kind, stored_array
from keras_maskrcnn.data.images.npy_files import read_npy_image
from keras_maskrcnn.data.images.pillow_files import picture_size, read_picture, stored_picture
from keras_maskrcnn.data.images.tiff_files import read_tiff, tiff_size

MAPPED_BYTES = 64 * 2**20  # smaller files are read whole: a mapped one keeps a file open


def decode(opened):
    """Read an image whole, or map it.

    Args:
        opened: Opened.

    Returns:
        Stored. EXIF orientation is applied to all but arrays.

    Raises:
        ImageError: it is damaged, no image, or more than one image.
    """
    if opened.kind == Kind.ARRAY:
        return stored_array(opened.content, opened.name)
    if opened.kind == Kind.PIL_IMAGE:
        return stored_picture(opened.content, opened.name)
    if opened.kind == Kind.NPY:
        return read_npy_image(opened, MAPPED_BYTES)
    if opened.kind == Kind.TIFF:
        return read_tiff(opened, MAPPED_BYTES)
    return read_picture(opened)


def decoded_size(opened):
    """(height, width) that `decode` gives, of a file from its header alone.

    Args:
        opened: Opened.

    Raises:
        ImageError: as for `decode`.
    """
    if opened.kind == Kind.NPY:
        return read_npy_image(opened, 0).pixels.shape[:2]
    if opened.kind == Kind.TIFF:
        return tiff_size(opened)
    if opened.kind == Kind.OTHER_FILE:
        return picture_size(opened)
    return decode(opened).pixels.shape[:2]
