"""Image files of every type, and changes of their bytes that keep checksums and structure right.

A flipped byte in a PNG only shows that its checksum is looked at. So a PNG's chunks are changed with a new checksum, a
TIFF's tags one by one, a `.npy`'s header as text.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from .mutations import NUMBERS, change_bytes, change_text
from .seeds import HEIGHT, WIDTH, encoded, npy_bytes

_INTEGERS = tuple(n for n in NUMBERS if isinstance(n, int))
_OTHER_FILES = (
    b"", b"\x00" * 100, b"<html><body>404</body></html>", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    b"BM", b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1", b"%PDF-1.4\n", b"PK\x03\x04", b"GIF89a",
    b"\xff\xd8\xff\xe0", b"II*\x00", b"MM\x00*\x00\x00\x00\x08", b"\x93NUMPY", b"RIFF\x00\x00\x00\x00WEBP", b"{}",
    b"version https://git-lfs", b"\x89PNG\r\n\x1a\n", b"P6 3 3 255\n", b"\x93NUMPY\x01\x00\xff\xff",
)  # fmt: skip
_EXTRA_CHUNKS = (
    (b"tRNS", b"\x00" * 6),
    (b"PLTE", b"\x01" * 9),
    (b"zTXt", b"k\x00\x00" + zlib.compress(b"a" * 10**6)),
    (b"eXIf", b"MM\x00*\x00\x00\x00\x08\x00\x01"),
    (b"acTL", b"\x00\x00\x00\x05\x00\x00\x00\x00"),
    (b"iCCP", b"x\x00\x00bad"),
)
_NPY_CHANGES = (
    ("(20", "(2000000000"), ("False", "True"), ("|u1", "|O"), ("|u1", "<U4"), ("|u1", "<c16"), ("30", "-30"),
    ("30", "{"), ("(20, 30", "(0, 30"), ("30", "("), ("'", '"""'), ("|u1", "<M8[ns]"),
    ("'<f4'", "[('a', '<f4')]"), ("(20", "(20, 1"),
)  # fmt: skip
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV")


def make_image(rng):
    """(ending, bytes) of a valid image file of any type and mode."""
    ending = rng.choice(("png", "png", "jpg", "tif", "tif", "tifffile", "gif", "bmp", "webp", "npy", "ppm", "ico"))
    if ending == "npy":
        return "npy", npy_bytes(_array(rng))
    if ending == "tifffile":
        return "tif", _tifffile_bytes(rng)
    image = mode_image(rng)
    options = {}
    if ending == "gif" and rng.random() < 0.4:
        options = {"save_all": True, "append_images": [image] * 2}
    if ending == "tif":
        options = {"compression": rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"))}
    if ending in ("jpg", "png", "webp", "tif") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(0, 10)
        options["exif"] = exif
    for mode in (image.mode, "RGB", "L"):
        try:
            return ending, encoded(image.convert(mode), ending, **options)
        except (OSError, ValueError, KeyError, RuntimeError, SystemError, struct.error):
            continue
    return "png", encoded(image.convert("RGB"), "png")


def mode_image(rng):
    """A PIL image of noise in any mode."""
    seed = rng.randrange(100)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mode = rng.choice(MODES)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(pixels[..., 1]))
    return image.convert(mode)


def _array(rng):
    shape = rng.choice(
        ((HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4), (3, HEIGHT, WIDTH), (HEIGHT, WIDTH, 1))
    )
    values = np.random.default_rng(rng.randrange(100)).integers(0, 255, shape)
    return values.astype(rng.choice(("u1", "u2", "<f4", ">f4", "i4", "f8", "?", "i8", "<f2")))


def _tifffile_bytes(rng):
    import tifffile

    file = io.BytesIO()
    options = {"compression": rng.choice((None, None, "zlib")), "photometric": rng.choice(("minisblack", "miniswhite"))}
    array = _array(rng)
    if array.ndim == 3 and array.shape[2] in (3, 4) and rng.random() < 0.7:
        options["photometric"] = "rgb"
    if rng.random() < 0.3:
        options["metadata"] = {"axes": "CYX"} if array.ndim == 3 and array.shape[0] == 3 else None
    if rng.random() < 0.2:
        options |= {"tile": (16, 16)}
    if rng.random() < 0.1:
        options |= {"bigtiff": True}
    try:
        tifffile.imwrite(file, array, **options)
    except (ValueError, TypeError):
        file = io.BytesIO()
        tifffile.imwrite(file, array.astype(np.uint8))
    return file.getvalue()


def change_image(data, rng, name=""):
    """The bytes of an image file with one change, half of the time one that keeps its structure."""
    del name
    if rng.random() < 0.06:
        return _other_file(rng)
    if rng.random() < 0.5:
        if data[:4] == b"\x89PNG":
            return _change_png(data, rng)
        if data[:2] in (b"II", b"MM"):
            return _change_tiff(data, rng)
        if data[:6] == b"\x93NUMPY":
            return _change_npy(data, rng)
        if data[:2] == b"\xff\xd8":
            return _change_jpeg(data, rng)
    return change_bytes(data, rng)


def _other_file(rng):
    """What people have under an image's name."""
    return rng.choice(_OTHER_FILES)


def png_chunks(data):
    """[(type, body)] of a PNG."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_bytes(chunks):
    """A PNG of chunks, with right lengths and checksums."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _change_png(data, rng):
    chunks = png_chunks(data)
    if not chunks:
        return change_bytes(data, rng)
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    choice = rng.randrange(7)
    if choice == 0:
        del chunks[at]
    elif choice == 1:
        chunks.insert(at, rng.choice(chunks))
    elif choice == 2 and kind == b"IDAT":
        try:
            raw = change_bytes(zlib.decompress(body), rng)
        except zlib.error:
            raw = body
        chunks[at] = (kind, zlib.compress(raw))
    elif choice == 3:
        chunks.insert(min(at, 1), rng.choice(_EXTRA_CHUNKS))
    elif choice == 4 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        header = bytearray(chunks[0][1])
        place = rng.choice((0, 4))
        header[place : place + 4] = struct.pack(
            ">I", rng.choice((0, 1, 60000, 2**31 - 1, 100000, rng.randrange(2**16)))
        )
        chunks[0] = (b"IHDR", bytes(header))
    elif choice == 5 and len(chunks[0][1]) == 13:
        header = bytearray(chunks[0][1])
        header[rng.randrange(8, 13)] = rng.randrange(20)
        chunks[0] = (b"IHDR", bytes(header))
    else:
        chunks[at] = (kind, change_bytes(body, rng))
    return png_bytes(chunks)


def _change_tiff(data, rng):
    """Change a field of a tag of the first directory, or the directory's place."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (offset,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, offset)
    except struct.error:
        return change_bytes(data, rng)
    out = bytearray(data)
    if not count or offset + 2 + 12 * count > len(out) or data[2:4] not in (b"*\0", b"\0*"):
        return change_bytes(data, rng)
    entry = offset + 2 + 12 * rng.randrange(count)
    field = rng.randrange(4)
    if field == 0:
        struct.pack_into(
            order + "H",
            out,
            entry,
            rng.choice((256, 257, 258, 259, 262, 273, 274, 277, 279, 284, 317, 322, 339, 338, 0, 65535)),
        )
    elif field == 1:
        struct.pack_into(order + "H", out, entry + 2, rng.randrange(0, 20))
    elif field == 2:
        struct.pack_into(order + "I", out, entry + 4, rng.choice((0, 1, 2, 3, 1000, 2**31, 2**32 - 1)))
    else:
        number = rng.choice((*(n % 2**32 for n in _INTEGERS), 1, 2, 3, 4, 5, 6, 7, 8, 32773, 34712, 50000))
        struct.pack_into(order + "I", out, entry + 8, number)
    return bytes(out)


def _change_npy(data, rng):
    try:
        length = struct.unpack_from("<H", data, 8)[0]
        header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    except struct.error:
        return change_bytes(data, rng)
    old, new = rng.choice(_NPY_CHANGES)
    wanted = rng.choice((change_text(header, rng), header.replace(old, new), header.replace(old, new), new * 100))
    wanted = wanted.encode("utf-8", "replace")[:60000]
    return data[:8] + struct.pack("<H", len(wanted)) + wanted + body


def _change_jpeg(data, rng):
    """Change a byte or a length in a segment before the scan."""
    out, at, places = bytearray(data), 2, []
    while at + 4 <= len(out) and out[at] == 0xFF and out[at + 1] != 0xDA:
        places.append(at)
        at += 2 + int.from_bytes(out[at + 2 : at + 4], "big")
    if not places:
        return change_bytes(data, rng)
    place = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        out[place + 1] = rng.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xE0, 0xE1, 0xFE, 0xD9))
    elif kind == 1:
        out[place + 2 : place + 4] = rng.choice((0, 1, 2, 8, 65535)).to_bytes(2, "big")
    elif kind == 2 and at < len(out):
        out = out[: rng.randrange(at, len(out))]
    else:
        spot = min(place + rng.randrange(4, 20), len(out) - 1)
        out[spot] = rng.randrange(256)
    return bytes(out)
