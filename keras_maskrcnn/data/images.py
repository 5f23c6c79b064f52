"""Any image a user may have, as uint8 RGB (H, W, 3) in image pixels.

Comes in: a path, the bytes of a file, a PIL image, or an array. Rules, in the order they apply:

* EXIF orientation is applied: what comes out is what a photo viewer shows.
* An alpha channel is dropped and the stored colours are kept, as TensorFlow's decoders do.
* Gray becomes three equal channels; palette, CMYK, YCbCr, LAB and 1-bit are converted to RGB.
* 16 bits and more are scaled by range: the smallest of 8, 10, 12, 14 and 16 bits that holds the
  image's maximum becomes 0..255. So a 12-bit camera's file uses all of it, and no image is
  stretched by its content. (Pillow cannot read 16-bit *colour* PNG in full and gives its upper 8
  bits.)

Called by the readers and by Predictor.
"""

import io
import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_WIDE_RANGES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))


class ImageError(ValueError):
    """An image that is missing, damaged, or not what its annotations say."""


def read_image(source):
    """Read an image as uint8 RGB, by the rules of the module docstring.

    Args:
        source: path (str or Path), bytes of an encoded file, PIL.Image.Image, or an array: uint8,
            uint16 or bool of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

    Returns:
        uint8 (H, W, [r, g, b]), image pixels, EXIF orientation applied.

    Raises:
        ImageError (a ValueError): the file is missing, empty, truncated, or no image; or the array
            has another shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, Image.Image):
        return _from_pil(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(source)), f"<{len(source)} bytes>")
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
    return _decode(path, str(path))


def image_size(source):
    """(height, width) of an image file after EXIF rotation, from its header alone.

    Args:
        source: path, or bytes of an encoded file.

    Raises:
        ImageError (a ValueError): missing, or no image.
    """
    encoded = isinstance(source, bytes)
    try:
        with Image.open(io.BytesIO(source) if encoded else source) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError) as error:
        raise ImageError(_damaged(f"<{len(source)} bytes>" if encoded else source, error)) from error
    return (width, height) if turned else (height, width)


def _decode(file, name):
    try:
        with Image.open(file) as image:
            image.load()
            return _from_pil(image)
    except UnidentifiedImageError as error:
        return _decode_tiff(file, name, error)
    # Pillow reports damaged files as any of these, by format.
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(_damaged(name, error)) from error


def _decode_tiff(file, name, error):
    """Multi-channel and floating TIFF that Pillow does not know, through scikit-image's reader."""
    is_tiff = isinstance(file, pathlib.Path) and file.suffix.lower() in (".tif", ".tiff")
    if not is_tiff:
        raise ImageError(_damaged(name, error)) from error
    from skimage import io as skimage_io  # slow to import, and only these files need it

    try:
        array = skimage_io.imread(file)
    except (OSError, ValueError) as second:
        raise ImageError(_damaged(name, second)) from second
    return _from_array(array, name)


def _damaged(name, error):
    return (
        f"An image file must be complete and of a format that Pillow or scikit-image reads. "
        f"Received {name}: {error}. Download or export it again, or remove it from the dataset."
    )


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
            f"Received {name} of shape {array.shape}. Give one image at a time, channels last."
        )
    array = array[:, :, :3]
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = _narrow(array, name)
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
