"""TIFF files -> arrays, of any number of channels and any dtype.

tifffile tells what is in the file: its pages, the names of its axes, its colours. It decodes the pixels too, except for
compressions that need imagecodecs where that is not installed: those Pillow decodes, page by page, to the same values.
Pillow also converts palettes, CMYK, YCbCr and LAB. docs/images.md has the rules in a table.

Called by `decoding`.
"""

import contextlib
import zlib

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError, Stored, channels_last, damaged, three_axes
from keras_maskrcnn.data.images.limits import MAX_PAGES, PIXEL_BYTES, check_pixels, max_pixels, too_large
from keras_maskrcnn.data.images.pillow_files import picture_orientation, read_frames, read_picture, turned

_ORIENTATION = 0x0112
_ASSOCIATED, _UNASSOCIATED = 1, 2  # ExtraSamples: alpha that is multiplied into the colours, and that is not
_CONVERTED_BY_PILLOW = ("PALETTE", "SEPARATED", "YCBCR", "CIELAB")
# The highest rates of compression: none, LZW, deflate (twice), PackBits. Deflate's is 1032, LZW's about 1400.
_HIGHEST_RATES = {1: 1, 5: 1500, 8: 1500, 32946: 1500, 32773: 64}
_NO_COMPRESSION, _DEFLATE = 1, (8, 32946)
_BLOCK = 2**20  # bytes unpacked at once to count them
# What Pillow decodes without loss: the stored dtype, and that of Pillow's image. Of 16-bit colours it drops 8 bits.
_PILLOW_DTYPES = {
    "bool": "bool", "uint8": "uint8", "uint16": "uint16", "int16": "int32", "int32": "int32", "uint32": "int32",
    "float32": "float32",
}  # fmt: skip


def read_tiff(opened, mapped_bytes, indices=False):
    """`Stored` of an `Opened` TIFF; plain pixels on disk of more than `mapped_bytes` are mapped.

    Args:
        opened: Opened. mapped_bytes: int. indices: whether to keep the indices of a palette.

    Raises:
        ImageError: it holds more than one image, or more pixels than the limit. Errors of the libraries, where it is
            damaged.
    """
    with _first_series(opened) as series:
        page = series.keyframe
        if _photometric(page) in _CONVERTED_BY_PILLOW:
            _check_one_page(series, opened.name)
            return read_picture(opened, indices)
        if opened.path is not None and _is_plain(series) and series.nbytes > mapped_bytes:
            pixels = named_channels_last(_mapped(opened.path), series.axes, opened.name)
        else:
            _check_unpacked(opened, series)
            pixels = _pixels(opened, series)
        rgb_first = _photometric(page) == "RGB" and pixels.shape[2] >= 3
        return Stored(turned(pixels, _orientation(page)), opened.name, _alpha(page) is not None, rgb_first)


def tiff_size(opened):
    """(height, width) of an `Opened` TIFF after rotation, from its tags. Raises as `read_tiff` does."""
    with _first_series(opened) as series:
        shape = np.broadcast_to(np.uint8(0), series.shape)
        height, width = named_channels_last(shape, series.axes, opened.name).shape[:2]
        return (width, height) if _applied_orientation(opened, series.keyframe) >= 5 else (height, width)


def tiff_orientation(opened):
    """Orientation of an `Opened` TIFF, 1 to 8, from its tags. Raises as `read_tiff` does."""
    with _first_series(opened) as series:
        return _applied_orientation(opened, series.keyframe)


def _applied_orientation(opened, page):
    """That of the library which reads the pixels: a damaged tag is read by one and not by the other."""
    return picture_orientation(opened) if _photometric(page) in _CONVERTED_BY_PILLOW else _orientation(page)


def named_channels_last(array, axes, name):
    """(H, W, C) of an array with tifffile's names of its axes.

    One axis besides Y and X may be longer than 1: it is the channels, whatever its name (C, S, Z, T, or I for pages).
    Where axes have no names (Q), the shorter of the first and the last is the channels.

    Args:
        array: any shape.
        axes: str, one letter an axis.
        name: str, what messages call the file.

    Raises:
        ImageError: more axes are longer than 1.
    """
    kept = [k for k, (axis, side) in enumerate(zip(axes, array.shape, strict=True)) if side > 1 or axis in "YX"]
    left, names = array.reshape([array.shape[k] for k in kept]), "".join(axes[k] for k in kept)
    if left.ndim > 3 or left.ndim < 2:
        raise ImageError(
            "A TIFF must hold one image: rows, columns and at most one more axis, its channels. "
            f"Received {name} of shape {array.shape} with the axes {axes}. Save each image in a file of its own."
        )
    if left.ndim == 2 or "Q" in names or names.count("Y") != 1 or names.count("X") != 1:
        return channels_last(left, name)
    (channel,) = (k for k, axis in enumerate(names) if axis not in "YX")
    return three_axes(np.moveaxis(left, channel, -1), name)


@contextlib.contextmanager
def _first_series(opened):
    """The image of an open TIFF, as tifffile's series."""
    import tifffile  # slow to import, and only these files need it

    opened.content.seek(0)
    with tifffile.TiffFile(opened.content) as tiff:
        _check_pages(tiff, opened.name)
        _check_one_image(tiff, opened.name)
        _check_claimed_size(tiff, opened.name)
        yield tiff.series[0]


def _check_pages(tiff, name):
    if len(tiff.pages) > MAX_PAGES:
        raise ImageError(
            f"A TIFF may have at most {MAX_PAGES} pages. Received {name} with {len(tiff.pages)}. "
            "Save each image in a file of its own."
        )


def _check_one_image(tiff, name):
    """Pages after the image may only be thumbnails, levels of a pyramid or masks: smaller, or flagged as such."""
    first = _extent(tiff.series[0])
    others = [s for s in tiff.series[1:] if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    if any(_extent(series) >= first for series in others):
        shapes = [series.shape for series in tiff.series]
        raise ImageError(
            "A TIFF must hold one image; other pages must be smaller, as thumbnails are. "
            f"Received {name} with {len(shapes)} images of shapes {shapes[:5]}. Save each image in a file of its own."
        )
    if any(page is None for page in tiff.series[0]):
        raise ImageError(
            f"A TIFF must hold its whole image. Received {name}, of which pages are missing or in other files. "
            "Save the image in one file."
        )


def _check_claimed_size(tiff, name):
    """Refuse a header that claims more pixels than its file can hold: tifffile would return zeros for them.

    And one that claims more than the limit, unless they are stored without compression.
    """
    series, page = tiff.series[0], tiff.series[0].keyframe
    rate = _HIGHEST_RATES.get(page.compression)
    if rate is not None and series.size * page.bitspersample > 8 * rate * tiff.filehandle.size:
        claim = f"its {tiff.filehandle.size} bytes cannot hold the pixels of shape {series.shape} that it claims"
        raise ImageError(damaged(name, claim))
    if page.compression != _NO_COMPRESSION:
        height, width = page.imagelength, page.imagewidth
        check_pixels(name, height, width, series.size * series.dtype.itemsize / max(height * width, 1))


def _check_unpacked(opened, series):
    """Refuse strips and tiles in deflate that unpack to more than the limit, whatever size the header claims.

    tifffile without imagecodecs unpacks each whole. Only those are looked at that could hold so much.
    """
    most = max_pixels() * PIXEL_BYTES
    for page in series.pages if series.keyframe.compression in _DEFLATE else ():
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if count * _HIGHEST_RATES[_DEFLATE[0]] > most and _unpacks_to_more(opened.content, start, count, most):
                raise ImageError(too_large(f"{opened.name}, of which a part unpacks to more than {most} bytes"))


def _unpacks_to_more(file, start, count, most):
    file.seek(start)
    unpacker, left, total = zlib.decompressobj(), count, 0
    while left > 0 and not unpacker.eof and (block := file.read(min(left, _BLOCK))):
        left -= len(block)
        while block and total <= most:
            total += len(unpacker.decompress(block, _BLOCK))
            block = unpacker.unconsumed_tail
    return total > most


def _extent(series):
    """Rows x columns."""
    page = series.keyframe
    return page.imagelength * page.imagewidth


def _check_one_page(series, name):
    if len(series.pages) != 1:
        raise ImageError(
            "A TIFF must hold one image; only pages in gray are taken as its channels. "
            f"Received {name} with {len(series.pages)} pages in colours. Save each image in a file of its own."
        )


def _photometric(page):
    return getattr(page.photometric, "name", "")


def _orientation(page):
    found = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
    if isinstance(found, tuple):
        found = found[0] if found else 1  # of several the first, as Pillow takes it
    return found if found in range(1, 9) else 1


def _alpha(page):
    """How a page stores its alpha: _ASSOCIATED or _UNASSOCIATED; None if it has no alpha, or other samples too."""
    extra = [int(sample) for sample in page.extrasamples]
    return extra[0] if extra in ([_ASSOCIATED], [_UNASSOCIATED]) else None


def _is_plain(series):
    """Whether the file holds, in one piece, the very values that are to come out."""
    page = series.keyframe
    inverted = _photometric(page) == "MINISWHITE" and series.dtype.kind in "bu"
    return series.dataoffset is not None and not inverted and _alpha(page) != _ASSOCIATED


def _mapped(path):
    import tifffile

    return tifffile.memmap(path, mode="r")


def _pixels(opened, series):
    """(H, W, C), read whole. 1 bit becomes 0 and 255, white the highest value, associated alpha unassociated."""
    try:
        array = series.asarray()
    except MemoryError:
        raise
    except Exception as error:  # every kind, as libraries do on what they cannot decode
        pixels = named_channels_last(_decoded_by_pillow(opened, series, error), series.axes, opened.name)
    else:
        pixels = _as_shown(named_channels_last(array, series.axes, opened.name), series.keyframe)
    return pixels.astype(np.uint8) * np.uint8(255) if pixels.dtype == bool else pixels


def _as_shown(pixels, page):
    """What the numbers of a page mean, as Pillow decodes them."""
    unsigned = pixels.dtype.kind == "u"
    full = 2**page.bitspersample - 1 if unsigned else 0
    if _photometric(page) == "MINISWHITE" and pixels.dtype.kind in "bu":
        pixels = np.subtract(pixels.dtype.type(full), pixels) if unsigned else ~pixels
    if unsigned and page.bitspersample < 8:
        pixels = np.rint(pixels * (255 / full)).astype(np.uint8)
    return _unassociated(pixels, full) if unsigned and _alpha(page) == _ASSOCIATED else pixels


def _unassociated(pixels, full):
    """Colours that were multiplied by alpha, divided by it again as Pillow does: rounded down, 0 where alpha is 0."""
    alpha = pixels[..., -1:].astype(np.uint64)
    colors = np.minimum(pixels[..., :-1] * np.uint64(full) // np.maximum(alpha, 1), full)
    return np.concatenate([np.where(alpha == 0, 0, colors).astype(pixels.dtype), pixels[..., -1:]], axis=2)


def _decoded_by_pillow(opened, series, reason):
    """The array of a series of pages whose compression tifffile cannot decode.

    Raises:
        ImageError: Pillow cannot decode it either, or not to the values that are stored.
    """
    page = series.keyframe
    hint = (
        {"remedy": "Install imagecodecs (pip install 'keras-maskrcnn[tiff]')."} if "imagecodecs" in str(reason) else {}
    )
    try:
        frames = read_frames(opened, [page.index for page in series.pages])
        frames = np.stack(frames) if len(frames) > 1 else frames[0][None]
    except Exception as error:  # the reason that tifffile gave is the one to tell
        raise ImageError(damaged(opened.name, reason, **hint)) from error
    if frames.size != series.size or frames.dtype.name != _PILLOW_DTYPES.get(series.dtype.name):
        raise ImageError(damaged(opened.name, reason, **hint))
    if page.planarconfig == 2 and frames.ndim == 4:
        frames = np.moveaxis(frames, -1, 1)
    return frames.reshape(series.shape).astype(series.dtype.newbyteorder("="), copy=False)
