"""Any image a user may have -> (H, W, C) in image pixels, of the channels and dtype that a model's config asks for.

Comes in: a path, the bytes of a file, a PIL image, or an array. Files: what Pillow reads, TIFF of any channels, `.npy`,
told apart by their first bytes. EXIF orientation is applied: what comes out is what a photo viewer shows.
docs/images.md lists every kind of file.

Three channels of uint8 (RGB) is what models take unless their config says otherwise. Then:

* An alpha channel is dropped and the stored colours are kept, as TensorFlow's decoders do.
* Gray becomes three equal channels; palette, CMYK, YCbCr, LAB and 1-bit are converted to RGB.
* 16 bits and more are scaled by range: the smallest of 8, 10, 12, 14 and 16 bits that holds the image's maximum becomes
  0..255. So a 12-bit camera's file uses all of it, and no image is stretched by its content.

For other channels (`pixel_mean` has as many entries) an image must have them: RGBA counts as four, as three where three
are asked for, and gray as three. One channel is also made of RGB whose three are equal. By dtype (`image_dtype`):

* "uint8": 16 bits are scaled by range, as above.
* "uint16": whole numbers in 0..65535, kept. 8-bit images are refused: their numbers mean other things.
* "float32": all numbers as they are stored, which must be finite.

Called by the readers and by Predictor.
"""

import numpy as np

from keras_maskrcnn.data.images.channels import as_channels
from keras_maskrcnn.data.images.decoding import decode, decoded_size, orientation_of
from keras_maskrcnn.data.images.dtypes import as_dtype, check_finite
from keras_maskrcnn.data.images.forms import ImageError, is_mapped
from keras_maskrcnn.data.images.opening import open_source

__all__ = [
    "RGB", "ImageError", "check_finite", "image_orientation", "image_size", "is_mapped", "read_image", "stored_image",
    "stored_numbers",
]  # fmt: skip

RGB = (3, "uint8")


def read_image(source, channels=3, dtype="uint8"):
    """Read an image by the rules of the module docstring.

    Args:
        source: path or address (str or Path), bytes of an encoded file, PIL.Image.Image, or an array (H, W) or
            (H, W, C).
        channels: C of the result: `config.num_channels`. None: all that are stored.
        dtype: "uint8", "uint16" or "float32": `config.image_dtype`. None: the stored one.

    Returns:
        (H, W, C), image pixels, EXIF orientation applied (but to arrays). Of large files that hold just what is asked
        for, a memory map. An array that already is what is asked for comes back as it is, not copied.

    Raises:
        ImageError (a ValueError): the file is missing, empty, truncated, no image, more than one image, or larger
            than the limit (`limits`); or it has other channels or another dtype.
    """
    stored = stored_image(source)
    pixels = as_channels(stored, channels)
    return _owned(as_dtype(pixels, dtype, stored.name))


def stored_image(source):
    """An image as it is stored: all its channels, in its own dtype.

    Args:
        source: as for `read_image`.

    Returns:
        Stored. EXIF orientation is applied to all but arrays.

    Raises:
        ImageError (a ValueError): missing, empty, truncated, no image, or more than one image.
    """
    with open_source(source) as opened:
        return decode(opened)


def stored_numbers(source):
    """An image whose numbers are what counts, such as labels: as `stored_image`, but of a palette the indices.

    Args, returns, raises: as for `stored_image`.
    """
    with open_source(source) as opened:
        return decode(opened, indices=True)


def image_size(source):
    """(height, width) of an image after EXIF rotation, of a file from its header alone.

    Args:
        source: as for `read_image`.

    Raises:
        ImageError (a ValueError): missing, no image, or more than one image.
    """
    with open_source(source) as opened:
        return decoded_size(opened)


def image_orientation(source):
    """The EXIF or TIFF orientation of a file, 1 to 8, from its header: how far `read_image` turns it. 1 of arrays.

    Args, raises: as for `image_size`.
    """
    with open_source(source) as opened:
        return orientation_of(opened)


def _owned(pixels):
    """A contiguous array that may be written to; memory maps stay as they are."""
    if is_mapped(pixels) or pixels.flags.c_contiguous and pixels.flags.writeable:
        return pixels
    owned = np.empty(pixels.shape, pixels.dtype)
    if pixels.flags.c_contiguous:
        owned[:] = pixels
    else:
        for channel in range(pixels.shape[2]):  # RGB out of RGBA, 512 x 512 pixels: 0.3 ms; all at once takes 4.9 ms
            owned[..., channel] = pixels[..., channel]
    return owned
