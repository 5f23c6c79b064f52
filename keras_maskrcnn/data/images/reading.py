"""Any image a user may have, as (H, W, C) in image pixels, of the channels and dtype that a model's config asks for.

Comes in: a path, the bytes of a file, a PIL image, or an array. Files: what Pillow reads, TIFF of any
channels, `.npy`; `decoding.py` says which axis of these is the channels. EXIF orientation is applied:
what comes out is what a photo viewer shows.

Three channels of uint8 (RGB) is what models take unless their config says otherwise. Then:

* An alpha channel is dropped and the stored colours are kept, as TensorFlow's decoders do.
* Gray becomes three equal channels; palette, CMYK, YCbCr, LAB and 1-bit are converted to RGB.
* 16 bits and more are scaled by range: the smallest of 8, 10, 12, 14 and 16 bits that holds the
  image's maximum becomes 0..255. So a 12-bit camera's file uses all of it, and no image is
  stretched by its content. (Pillow cannot read 16-bit *colour* PNG in full and gives its upper 8
  bits.)

For other channels (`pixel_mean` has as many entries) an image must have them: RGBA counts as four, as
three where three are asked for, and gray as three. One channel is also made of RGB whose three are
equal. By dtype (`image_dtype`):

* "uint8": 16 bits are scaled by range, as above.
* "uint16": whole numbers in 0..65535, kept. 8-bit images are refused: their numbers mean other things.
* "float32": all numbers as they are stored, which must be finite.

Called by the readers and by Predictor.
"""

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_maskrcnn.data.images.decoding import (
    ImageError,
    can_be_mapped,
    damaged,
    is_npy,
    is_tiff,
    open_source,
    stored_image,
    stored_size,
)

RGB = (3, "uint8")
_WIDE_RANGES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
_UINT16_MAX = 65535


def read_image(source, channels=3, dtype="uint8"):
    """Read an image by the rules of the module docstring.

    Args:
        source: path (str or Path), bytes of an encoded file, PIL.Image.Image, or an array (H, W) or
            (H, W, C).
        channels: C of the result: `config.num_channels`. None: all that are stored.
        dtype: "uint8", "uint16" or "float32": `config.image_dtype`. None: the stored one.

    Returns:
        (H, W, C), image pixels, EXIF orientation applied (but to arrays). Of large files that hold
        just what is asked for, a memory map.

    Raises:
        ImageError (a ValueError): the file is missing, empty, truncated, or no image; or it has other
            channels or another dtype.
    """
    if (channels, dtype) == RGB:
        return _read_rgb(source)
    stored = stored_image(source)
    return as_dtype(as_channels(stored, channels), dtype, stored.name)


def image_size(source):
    """(height, width) of an image after EXIF rotation, of a file from its header alone.

    Args:
        source: as for `read_image`.

    Raises:
        ImageError (a ValueError): missing, or no image.
    """
    if isinstance(source, (np.ndarray, Image.Image)):
        return stored_image(source).pixels.shape[:2]
    return stored_size(source)


def is_mapped(pixels):
    """Whether an image is a memory map, of which only what is looked at is read."""
    return isinstance(pixels, np.memmap)


def as_channels(stored, channels):
    """The pixels of a `Stored` with the channels asked for: (H, W, channels). None: all.

    Raises:
        ImageError: it has others.
    """
    pixels = stored.pixels
    have = pixels.shape[2]
    if channels is None or have == channels:
        return pixels
    if stored.alpha:
        pixels, have = pixels[..., :-1], have - 1
    if have == channels:
        return pixels
    if (have, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (have, channels) == (3, 1) and (pixels == pixels[..., :1]).all():
        return pixels[..., :1]
    raise ImageError(
        f"The model's images have {channels} channels, one for each entry of pixel_mean in its config. "
        f"Received {stored.name} of shape {stored.pixels.shape} (height, width, channels). "
        f"{_channels_remedy(have, channels)}"
    )


def as_dtype(pixels, dtype, name):
    """Pixels (H, W, C) in the dtype asked for, by the rules of the module docstring. None: as they are.

    Raises:
        ImageError: their values do not fit.
    """
    if dtype is None:
        return pixels
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if dtype == "uint8":
        return pixels if pixels.dtype == np.uint8 else _narrow(pixels, name)
    return _as_uint16(pixels, name) if dtype == "uint16" else _as_float(pixels, name)


def as_picture(pixels):
    """What can be seen of an image of any channels and dtype: uint8 RGB (H, W, 3).

    RGB and gray of 8 bits stay. Of more channels the first three are shown as red, green and blue, of
    two red and green. Other dtypes are stretched, channel by channel: from the 1st to the 99th percentile
    of some of its pixels to 0..255.
    """
    pixels = pixels[..., :3]
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        pixels = np.stack([_stretched(pixels[..., k]) for k in range(pixels.shape[2])], axis=2)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    return np.ascontiguousarray(pixels)


def picture_of(stored):
    """uint8 RGB to look at, of a `Stored`: as `read_image` makes it where it can be RGB, else as `as_picture`."""
    if stored.pixels.shape[2] - stored.alpha in (1, 3) and stored.pixels.dtype.kind in "bu":
        return as_dtype(as_channels(stored, 3), "uint8", stored.name)
    return as_picture(stored.pixels)


def _read_rgb(source):
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, Image.Image):
        return _from_pil(source)
    file, name = open_source(source)
    if is_npy(file) or can_be_mapped(file):
        return _from_array(stored_image(source).pixels, name)
    try:
        with Image.open(file) as image:
            image.load()
            return _from_pil(image)
    except UnidentifiedImageError as error:
        if not is_tiff(file):
            raise ImageError(damaged(name, error)) from error
        return _from_array(stored_image(source).pixels, name)
    # Pillow reports damaged files as any of these, by format.
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(damaged(name, error)) from error


def _from_pil(image):
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _from_array(np.asarray(image), f"image of mode {image.mode}")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)


def _from_array(array, name):
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            "An image array must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). "
            f"Received {name} of shape {array.shape}. Give one image at a time, channels last. "
            "For other channels the model's config needs pixel_mean and pixel_std of as many entries "
            "(`keras-maskrcnn check-data` measures them)."
        )
    array = as_dtype(array[:, :, :3], "uint8", name)
    if is_mapped(array):
        return array if array.shape[2] == 3 else np.broadcast_to(array, (*array.shape[:2], 3), subok=True)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)


def _narrow(array, name):
    """16 bits and more to uint8, by range."""
    if array.dtype.kind not in "uif" or not np.isfinite(array).all() or array.min() < 0:
        raise ImageError(
            "Pixel values must be finite and not negative, in uint8, uint16 or a wider type. "
            f"Received {name} of dtype {array.dtype} with others. Scale it to 0..255 in uint8."
        )
    top = array.max()
    if array.dtype.kind == "f" and top <= 1:
        raise ImageError(
            "Pixel values run over 0..255, or 0..65535 for 16 bits. "
            f"Received {name} with floats up to {top:.3g}. Multiply by 255 first."
        )
    full = next((limit for limit in _WIDE_RANGES if top <= limit), top)
    return np.rint(array.astype(np.float64) * (255.0 / full)).astype(np.uint8)


def _as_uint16(pixels, name):
    if pixels.dtype == np.uint16:
        return pixels
    if pixels.dtype.kind not in "ui" or pixels.dtype.itemsize < 2 or pixels.min() < 0 or pixels.max() > _UINT16_MAX:
        raise ImageError(
            "The model takes images of 16 bits, whole numbers in 0..65535 (image_dtype in its config). "
            f"Received {name} of dtype {pixels.dtype} with values from {pixels.min()} to {pixels.max()}. Give the "
            "16-bit original, or train with image_dtype uint8 (scales) or float32 (takes all)."
        )
    return pixels.astype(np.uint16)


def _as_float(pixels, name):
    if pixels.dtype == np.float32 and is_mapped(pixels):
        return pixels  # looking for NaN would read it all; `Sample.network_image` looks at what is read
    pixels = pixels.astype(np.float32)
    check_finite(pixels, name)
    return pixels


def check_finite(pixels, name):
    """Raise ImageError where float pixels are NaN or infinite."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError(
            f"Pixel values must be finite. Received {name} with NaN or infinity. "
            "Replace them, for example by the channel's mean (numpy.nan_to_num)."
        )


def _channels_remedy(have, channels):
    if channels == 1 and have == 3:
        return "It is in colours: convert it to gray, or train on RGB."
    return (
        f"Give images of {channels} channels, or measure pixel_mean and pixel_std of these (check-data) and train anew."
    )


def _stretched(plane):
    """A plane of any dtype as uint8, by its percentiles."""
    few = plane[:: max(1, plane.shape[0] // 256), :: max(1, plane.shape[1] // 256)]
    few = few[np.isfinite(few)] if few.dtype.kind == "f" else few
    low, high = np.percentile(few, (1, 99)) if few.size else (0, 1)
    scaled = (np.nan_to_num(plane.astype(np.float64), nan=low) - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
