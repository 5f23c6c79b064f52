"""What Pillow reads -> arrays: PIL images, JPEG, PNG and so on, and TIFFs whose colours it has to convert.

The first frame of an animation is the image. EXIF orientation is applied. Palettes, CMYK, YCbCr and LAB become RGB,
palettes with alpha where they are transparent; 1 bit becomes 0 and 255. Called by `decoding` and by `tiff_files`.
"""

import contextlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_maskrcnn.data.images.forms import DECODER_FAULTS, ImageError, Stored, damaged, three_axes

_ORIENTATION, _PHOTOMETRIC, _BITS = 0x0112, 0x0106, 0x0102  # tags of TIFF; the first of EXIF, too
_STORED_MODES = ("L", "LA", "RGB", "RGBA")
_CONVERTED_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def read_picture(opened):
    """`Stored` of an `Opened` file.

    Raises:
        ImageError: it is damaged, no image, or larger than Pillow's limit.
    """
    with _picture(opened) as image:
        name = opened.name
        if image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile):
            name = f"{name} (16-bit colours, of which Pillow reads the upper 8 bits)"
        image.load()
        return stored_picture(image, name)


def picture_size(opened):
    """(height, width) after EXIF rotation of an `Opened` file, from its header. Raises as `read_picture` does."""
    with _picture(opened) as image:
        width, height = image.size
        if image.format == "PNG" and not _text_follows_pixels(opened.content):
            exif = Image.Image.getexif(image)  # PNG's own getexif decodes the pixels first, in case some follows them
        else:
            exif = image.getexif()
        return (width, height) if exif.get(_ORIENTATION, 1) >= 5 else (height, width)


def stored_picture(image, name):
    """`Stored` of a PIL image.

    Raises:
        ImageError: it has no pixels.
    """
    full = _full_scale_of_white_is_zero(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        pixels = three_axes(np.asarray(image), name)
        return Stored(pixels if full is None else full - pixels, name)
    if image.mode not in _STORED_MODES:
        others = "RGBA" if "transparency" in image.info else "RGB"
        image = image.convert(_CONVERTED_MODES.get(image.mode, others))
    return Stored(three_axes(np.asarray(image), name), name, alpha=image.mode in ("LA", "RGBA"))


def read_frames(opened, numbers):
    """Frames of an `Opened` TIFF as they are stored: not turned.

    Args:
        opened: Opened.
        numbers: iterable of int, which frames.

    Returns:
        List of arrays (H, W) or (H, W, C). White is the highest value, alpha is not multiplied into the colours.

    Raises:
        ImageError: as for `read_picture`.
    """
    frames = []
    with _picture(opened) as image:
        for number in numbers:
            image.seek(number)
            orientation = image.tag_v2.get(_ORIENTATION, 1)
            image.load()
            pixels = np.asarray(image)
            full = _full_scale_of_white_is_zero(image)
            pixels = pixels if full is None else full - pixels
            turned_by_pillow = image.tag_v2.get(_ORIENTATION, 1) != orientation
            frames.append(turned(pixels, {6: 8, 8: 6}.get(orientation, orientation)) if turned_by_pillow else pixels)
    return frames


def turned(array, orientation):
    """An image turned and mirrored as an orientation of TIFF and EXIF (1 to 8) asks."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return array[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _text_follows_pixels(file):
    """Whether a PNG has EXIF or text, which may hold EXIF too, after its pixels. Leaves the file where it was."""
    at, start, pixels_seen = file.tell(), 8, False
    file.seek(start)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        if pixels_seen and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            break
        pixels_seen |= head[4:] == b"IDAT"
        start += int.from_bytes(head[:4], "big") + 12  # length and name, content, checksum
        file.seek(start)
    file.seek(at)
    return head[4:] not in (b"IEND", b"")


@contextlib.contextmanager
def _picture(opened):
    """The open PIL image of an `Opened` file; whatever goes wrong while it is used becomes an ImageError."""
    try:
        opened.content.seek(0)
        with Image.open(opened.content) as image:
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(damaged(opened.name, "cannot identify the format by its first bytes")) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"An image may have as many pixels as Pillow allows. Received {opened.name}: {error} "
            "If you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS, or save it as .npy or uncompressed TIFF."
        ) from error
    except DECODER_FAULTS as error:
        raise ImageError(damaged(opened.name, error)) from error


def _full_scale_of_white_is_zero(image):
    """The value of black in a TIFF in which 0 is white, where Pillow has not inverted it: above 8 bits. Else None."""
    if image.format != "TIFF" or not image.mode.startswith("I;16") or image.tag_v2.get(_PHOTOMETRIC) != 0:
        return None
    return np.uint16(2 ** image.tag_v2.get(_BITS, (16,))[0] - 1)
