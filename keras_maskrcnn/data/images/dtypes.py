"""Fourth step: pixels of a stored dtype -> the dtype that a model takes. Called by `reading` and `showing`."""

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError, is_mapped

_WIDE_RANGES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
_UINT16_MAX = 65535
_BAND = 2**22  # values scaled at once, in float64


def as_dtype(pixels, dtype, name):
    """Pixels in the dtype asked for, by the rules of `reading`.

    Args:
        pixels: (H, W, C), bool or any integer or float dtype.
        dtype: "uint8", "uint16" or "float32"; None leaves the pixels as they are.
        name: str, what messages call the image.

    Raises:
        ImageError: their values do not fit.
    """
    if dtype is None:
        return pixels
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.strides[2] == 0:  # gray shown as three channels: one is converted
        gray = _CONVERSIONS[dtype](pixels[..., :1], name)
        return np.broadcast_to(gray, pixels.shape, subok=is_mapped(gray))
    return _CONVERSIONS[dtype](pixels, name)


def check_finite(pixels, name):
    """Raise ImageError where float pixels are NaN or infinite.

    Args:
        pixels: array of any dtype.
        name: str, what the message calls the image.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError(
            f"Pixel values must be finite. Received {name} with NaN or infinity. "
            "Replace them, for example by the channel's mean (numpy.nan_to_num)."
        )


def as_uint8(pixels, name, top=None):
    """8 bits as they are; 16 bits and more by range.

    Args:
        pixels: (H, W, C), a number dtype. name: str, what messages call the image.
        top: the highest value of the whole image of which these are a part; None: theirs.

    Raises:
        ImageError: negative, not finite, or floats from 0 to 1.
    """
    if pixels.dtype == np.uint8:
        return pixels
    check_finite(pixels, name)
    least, top = pixels.min(), pixels.max() if top is None else top
    if least < 0:
        raise ImageError(
            "Pixel values must be finite and not negative where a model takes 8 bits. "
            f"Received {name} of dtype {pixels.dtype} with values from {least} to {top}. "
            "Scale it to 0..255 in uint8, or train with image_dtype float32, which takes all numbers."
        )
    if pixels.dtype.kind == "f" and 0 < top <= 1:
        raise ImageError(
            "Pixel values run over 0..255, or 0..65535 for 16 bits. "
            f"Received {name} with floats up to {top:.3g}. Multiply by 255 first, "
            "or train with image_dtype float32, which takes all numbers."
        )
    full = next((limit for limit in _WIDE_RANGES if top <= limit), top)
    if pixels.dtype == np.uint16:  # 16 bits have few values: one look at a table for each pixel, in little memory
        return _scaled(np.arange(int(top) + 1), full)[pixels]
    scaled = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BAND // pixels[0].size)
    for start in range(0, len(pixels), rows):
        scaled[start : start + rows] = _scaled(pixels[start : start + rows], full)
    return scaled


def _scaled(values, full):
    """0..full to 0..255, uint8."""
    scaled = values.astype(np.float64)
    scaled *= 255.0 / full
    return np.rint(scaled, out=scaled).astype(np.uint8)


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


def _as_float32(pixels, name):
    if pixels.dtype == np.float32 and is_mapped(pixels):
        return pixels  # looking for NaN would read it all; `Sample.network_image` looks at what is read
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, which is named next
        pixels = pixels.astype(np.float32)
    check_finite(pixels, name)
    return pixels


_CONVERSIONS = {"uint8": as_uint8, "uint16": _as_uint16, "float32": _as_float32}
