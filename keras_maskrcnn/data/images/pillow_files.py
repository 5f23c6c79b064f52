"""What Pillow reads -> arrays: PIL images, JPEG, PNG and so on, and TIFFs whose colours it has to convert.

The first frame of an animation is the image. EXIF orientation is applied. Palettes, CMYK, YCbCr and LAB become RGB,
palettes with alpha where they are transparent; 1 bit becomes 0 and 255. Called by `decoding` and by `tiff_files`.

Errors of Pillow pass through; `decoding` names the file.
"""

import contextlib
import threading

import numpy as np
from PIL import Image

from keras_maskrcnn.data.images.forms import ImageError, Stored, three_axes
from keras_maskrcnn.data.images.limits import MAX_SCANS, check_pixels, max_pixels

_OPENING = threading.Lock()  # while Pillow's limit is replaced by ours
_BAND = 2**24  # pixels converted at once: a copy of a whole large image would take gigabytes
_ORIENTATION, _PHOTOMETRIC, _BITS = 0x0112, 0x0106, 0x0102  # tags of TIFF; the first of EXIF, too
# Raw modes of 16-bit colours in a PNG, all of which Pillow reduces to their upper 8 bits: raw modes by which it gives
# the upper and the lower bytes, and the number of channels.
_WIDE_PNG = {
    "RGB;16B": (("RGB;16B", "RGB;16L"), 3),
    "RGBA;16B": (("RGBA;16B", "RGBA;16L"), 4),
    "LA;16B": (("RGBA",), 2),  # four bytes a pixel: upper and lower of gray, of alpha
}
_STORED_MODES = ("L", "LA", "RGB", "RGBA")
_CONVERTED_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def read_picture(opened, indices=False):
    """`Stored` of an `Opened` file.

    Args:
        opened: Opened. indices: whether to keep the indices of a palette.

    Raises:
        ImageError: it has more pixels than the limit. Errors of Pillow, where it is damaged or no image.
    """
    with _picture(opened) as image:
        if image.format == "PNG" and image.tile and image.tile[0][3] in _WIDE_PNG:
            return _wide_png(opened, image)
        _check_scans(opened, image)
        image.load()
        return stored_picture(image, opened.name, indices)


def picture_size(opened):
    """(height, width) after EXIF rotation of an `Opened` file, from its header. Raises as `read_picture` does."""
    with _picture(opened) as image:
        width, height = image.size
        return (width, height) if _header_orientation(opened, image) >= 5 else (height, width)


def picture_orientation(opened):
    """Orientation in the EXIF of an `Opened` file, 1 to 8, from its header. Raises as `read_picture` does."""
    with _picture(opened) as image:
        return _header_orientation(opened, image)


def stored_picture(image, name, indices=False):
    """`Stored` of a PIL image.

    Args:
        image: PIL.Image.Image. name: str, what messages call it. indices: whether to keep the indices of a palette.

    Raises:
        ImageError: it has no pixels.
    """
    full = _full_scale_of_white_is_zero(image)
    image.load()  # before its EXIF is read: that of a TIFF is applied and removed
    orientation = _valid_orientation(image.getexif())
    mode = image.mode
    if mode not in _STORED_MODES and not mode.startswith(("I", "F")) and not (indices and mode in ("P", "PA")):
        mode = _CONVERTED_MODES.get(mode, "RGBA" if "transparency" in image.info else "RGB")
    pixels = three_axes(_array(image, mode), name)
    pixels = turned(pixels if full is None else full - pixels, orientation)
    return Stored(pixels, name, mode in ("LA", "RGBA", "PA"), mode in ("RGB", "RGBA"))


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


def _check_scans(opened, image):
    """Refuse a JPEG of very many scans: a few bytes each, and each takes as long as the whole image."""
    if not image.info.get("progressive"):
        return
    at = opened.content.tell()
    opened.content.seek(0)
    scans = opened.content.read().count(b"\xff\xda")
    opened.content.seek(at)
    if scans > MAX_SCANS:
        raise ImageError(
            f"A progressive JPEG may have at most {MAX_SCANS} scans. Received {opened.name} with {scans}. "
            "Save it again, as a baseline JPEG."
        )


def _array(image, mode):
    """(H, W) or (H, W, C) of a loaded PIL image in a mode. A large one is converted in bands of rows."""

    def convert(part):
        return np.asarray(part if part.mode == mode else part.convert(mode))

    width, height = image.size
    if width * height <= _BAND:
        return convert(image)
    rows = max(1, _BAND // width)
    pixels = None
    for top in range(0, height, rows):
        band = convert(image.crop((0, top, width, min(top + rows, height))))
        if pixels is None:
            pixels = np.empty((height, *band.shape[1:]), band.dtype)
        pixels[top : top + rows] = band
    return pixels


def _wide_png(opened, image):
    """`Stored` of a PNG of 16-bit colours: uint16, of the bytes that Pillow decodes."""
    raw_modes, channels = _WIDE_PNG[image.tile[0][3]]
    (width, height), pixel_bytes = image.size, 2 * channels
    check_pixels(opened.name, height, width, pixel_bytes)
    halves = np.empty((height, width, channels, 2), np.uint8)
    for k, raw_mode in enumerate(raw_modes):
        with _picture(opened) as image:
            image.tile = [(*tile[:3], raw_mode) for tile in image.tile]
            image.load()
            decoded = _array(image, image.mode)
            orientation = _valid_orientation(image.getexif())
        if len(raw_modes) == 1:
            halves[...] = decoded.reshape(halves.shape)
        else:
            halves[..., k] = decoded
    pixels = halves.view(">u2")[..., 0].astype(np.uint16)
    return Stored(turned(pixels, orientation), opened.name, channels != 3, channels != 2)


def _header_orientation(opened, image):
    if image.format == "PNG" and not _text_follows_pixels(opened.content):
        exif = Image.Image.getexif(image)  # PNG's own getexif decodes the pixels first, in case some follows them
    else:
        exif = image.getexif()
    return _valid_orientation(exif)


def _valid_orientation(exif):
    """1 to 8; 1 where EXIF has none, or another value."""
    found = exif.get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


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
    """The open PIL image of an `Opened` file, of no more pixels than our limit, in place of Pillow's lower one.

    Raises:
        ImageError: it has more. PIL.Image.DecompressionBombError: it has more than twice as many.
    """
    opened.content.seek(0)
    with _OPENING:  # only the header is read: a moment
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels()
        try:
            image = Image.open(opened.content)
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    with image:
        check_pixels(opened.name, image.height, image.width)
        yield image


def _full_scale_of_white_is_zero(image):
    """The value of black in a TIFF in which 0 is white, where Pillow has not inverted it: above 8 bits. Else None."""
    if image.format != "TIFF" or not image.mode.startswith("I;16") or image.tag_v2.get(_PHOTOMETRIC) != 0:
        return None
    return np.uint16(2 ** image.tag_v2.get(_BITS, (16,))[0] - 1)
