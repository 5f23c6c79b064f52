"""Every kind of image file: one meaning, whatever is asked for and whichever library decodes it.

Each kind is read with all its channels (None, None) and as RGB; from a path, from bytes, and as a PIL image; TIFFs by
tifffile and by Pillow, whole and mapped. The values are written by hand. docs/images.md has the same rules in words.
"""

import ast
import importlib.util
import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from keras_maskrcnn.data import ImageError, read_image
from keras_maskrcnn.data.images import __file__ as room
from keras_maskrcnn.data.images import decoding, image_size

GRAY = np.array([[0, 100, 200], [255, 50, 7]], np.uint8)
RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [6, 5, 4], [3, 2, 1]]], np.uint8)
ALPHA = np.array([[[0], [51], [255]], [[0], [1], [2]]], np.uint8)
RGBA = np.concatenate([RGB, ALPHA], axis=2)
GRAY3 = [[[0] * 3, [100] * 3, [200] * 3], [[255] * 3, [50] * 3, [7] * 3]]
WHITE3 = [[[255] * 3, [155] * 3, [55] * 3], [[0] * 3, [205] * 3, [248] * 3]]  # 255 - GRAY
BLACK_WHITE = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
HAVE_CODECS = importlib.util.find_spec("imagecodecs") is not None


def pil(image, ending="TIFF", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, ending, **options)
    return file.getvalue()


def tiff(*arrays, **options):
    """A TIFF by tifffile; of several arrays, one page each, without names."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array in arrays:
            writer.write(array, **options)
    return file.getvalue()


def four_bits(photometric):
    """A TIFF of 4-bit gray, which neither library writes: rows 0 15 4 and 1 2 3 of 15."""
    tags = [(256, 3), (257, 2), (258, 4), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 2), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + b"\x0f\x40\x12\x30" + struct.pack("<H", 9) + entries + bytes(4)


def wide_png(array, color_type):
    """A PNG of 16 bits a channel, which Pillow does not write. Its rows are stored as differences to the row above."""
    height, width = array.shape[:2]
    above = np.concatenate([np.zeros_like(array[:1]), array[:-1]]).astype(">u2").reshape(height, -1).view(np.uint8)
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8) - above
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\2" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette(**info):
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.info.update(info)
    return image


COLORS = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
PALETTE = [COLORS, COLORS[::-1]]
CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}
PAGES = [GRAY, GRAY // 2, GRAY // 4, GRAY // 8]
STACK = np.stack(PAGES, axis=2)
ROTATED = [(0x0112, 3, 1, 6)]  # to be turned a quarter clockwise
WIDE = RGB.astype(np.uint16) * 257 - (RGB > 0)  # 254 in the lower byte where it is 255 in the upper
WIDE_ALPHA = ALPHA.astype(np.uint16) * 257
LARGE = np.array([[0, 70000, 3000000000], [1, 2, 3]], np.uint32)

# name: (file, all channels as stored, RGB of 8 bits). None: refused.
KINDS = {
    "PNG gray": (pil(GRAY, "PNG"), GRAY[..., None], GRAY3),
    "PNG gray and alpha": (pil(np.dstack([GRAY, ALPHA]), "PNG"), np.dstack([GRAY, ALPHA]), GRAY3),
    "PNG gray 16": (pil(GRAY.astype(np.uint16) * 257, "PNG"), GRAY[..., None].astype(np.uint16) * 257, GRAY3),
    "PNG RGB 16": (wide_png(WIDE, 2), WIDE, RGB),
    "PNG RGBA 16": (wide_png(np.dstack([WIDE, WIDE_ALPHA]), 6), np.dstack([WIDE, WIDE_ALPHA]), RGB),
    "PNG gray and alpha 16": (
        wide_png(np.dstack([GRAY.astype(np.uint16) * 257, WIDE_ALPHA]), 4),
        np.dstack([GRAY.astype(np.uint16) * 257, WIDE_ALPHA]),
        GRAY3,
    ),
    "PNG 1 bit": (pil(BLACK_WHITE > 0, "PNG"), BLACK_WHITE[..., None], BLACK_WHITE[..., None].repeat(3, 2)),
    "PNG RGB": (pil(RGB, "PNG"), RGB, RGB),
    "PNG RGBA": (pil(RGBA, "PNG"), RGBA, RGB),
    "PNG palette": (pil(palette(), "PNG"), np.uint8(PALETTE), PALETTE),
    "PNG palette, transparent": (
        pil(palette(transparency=1), "PNG"),
        np.dstack([np.uint8(PALETTE), np.uint8([[255, 0, 255], [255, 0, 255]])]),
        PALETTE,
    ),
    "GIF of two frames": (
        pil(palette(), "GIF", save_all=True, append_images=[palette().rotate(180)]),
        np.uint8(PALETTE),
        PALETTE,
    ),
    "TIFF gray": (tiff(GRAY), GRAY[..., None], GRAY3),
    "TIFF gray, white is zero": (tiff(GRAY, photometric="miniswhite"), 255 - GRAY[..., None], WHITE3),
    "TIFF gray 16": (tiff(GRAY.astype(np.uint16) * 257), GRAY[..., None].astype(np.uint16) * 257, GRAY3),
    "TIFF gray 16, white is zero": (
        tiff(GRAY.astype(np.uint16) * 257, photometric="miniswhite"),
        np.array([[[65535], [39835], [14135]], [[0], [52685], [63736]]], np.uint16),
        WHITE3,
    ),
    "TIFF gray 16, big-endian": (
        tiff(GRAY.astype(">u2") * 257, photometric="minisblack"),
        GRAY[..., None].astype(np.uint16) * 257,
        GRAY3,
    ),
    "TIFF 1 bit": (pil(BLACK_WHITE > 0), BLACK_WHITE[..., None], BLACK_WHITE[..., None].repeat(3, 2)),
    "TIFF 1 bit, white is zero": (
        tiff(BLACK_WHITE > 0, photometric="miniswhite"),
        255 - BLACK_WHITE[..., None],
        255 - BLACK_WHITE[..., None].repeat(3, 2),
    ),
    "TIFF 1 bit, Group 4": (
        pil(BLACK_WHITE > 0, compression="group4"),
        BLACK_WHITE[..., None],
        BLACK_WHITE[..., None].repeat(3, 2),
    ),
    "TIFF 4 bits": (
        four_bits(1),
        np.uint8([[[0], [255], [68]], [[17], [34], [51]]]),
        [[[0] * 3, [255] * 3, [68] * 3], [[17] * 3, [34] * 3, [51] * 3]],
    ),
    "TIFF 4 bits, white is zero": (
        four_bits(0),
        np.uint8([[[255], [0], [187]], [[238], [221], [204]]]),
        [[[255] * 3, [0] * 3, [187] * 3], [[238] * 3, [221] * 3, [204] * 3]],
    ),
    "TIFF gray and alpha": (pil(np.dstack([GRAY, ALPHA])), np.dstack([GRAY, ALPHA]), GRAY3),
    "TIFF RGB": (tiff(RGB, photometric="rgb"), RGB, RGB),
    "TIFF RGB, planar": (
        tiff(np.ascontiguousarray(RGB.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"),
        RGB,
        RGB,
    ),
    "TIFF RGB, deflate": (tiff(RGB, photometric="rgb", compression="zlib", predictor=True), RGB, RGB),
    "TIFF RGB, LZW": (pil(RGB, compression="tiff_lzw"), RGB, RGB),
    "TIFF RGB, turned": (tiff(RGB, photometric="rgb", extratags=ROTATED), np.rot90(RGB, -1), np.rot90(RGB, -1)),
    "TIFF RGBA": (pil(RGBA), RGBA, RGB),
    "TIFF RGBA, associated": (
        tiff(
            np.uint8([[[10, 20, 30, 51], [1, 2, 3, 0], [4, 5, 6, 255]]]), photometric="rgb", extrasamples=["assocalpha"]
        ),
        np.uint8([[[50, 100, 150, 51], [0, 0, 0, 0], [4, 5, 6, 255]]]),  # 51 is a fifth of 255
        [[[50, 100, 150], [0, 0, 0], [4, 5, 6]]],
    ),
    "TIFF RGB and another": (tiff(RGBA, photometric="rgb", extrasamples=["unspecified"]), RGBA, RGB),
    "TIFF RGB 16": (
        tiff(RGB.astype(np.uint16) * 257, photometric="rgb"),
        RGB.astype(np.uint16) * 257,
        RGB,
    ),
    "TIFF palette": (pil(palette()), np.uint8(PALETTE), PALETTE),
    "TIFF CMYK": (
        pil(Image.merge("CMYK", [Image.fromarray(255 - RGB[..., k]) for k in range(3)] + [Image.new("L", (3, 2))])),
        RGB,
        RGB,
    ),
    "TIFF YCbCr": (
        pil(Image.fromarray(GRAY).convert("RGB").convert("YCbCr")),
        np.uint8(GRAY3),
        GRAY3,
    ),
    "TIFF int16": (
        tiff(np.int16([[0, 100, 200], [255, 50, 7]])),
        np.int16([[[0], [100], [200]], [[255], [50], [7]]]),
        GRAY3,
    ),
    "TIFF uint32": (
        tiff(LARGE),
        LARGE[..., None],
        [[[0] * 3, [0] * 3, [255] * 3], [[0] * 3, [0] * 3, [0] * 3]],
    ),
    "TIFF float": (tiff(GRAY.astype(np.float32)), GRAY[..., None].astype(np.float32), GRAY3),
    "TIFF float, white is zero": (  # a float has no highest value: nothing to subtract from
        tiff(GRAY.astype(np.float32), photometric="miniswhite"),
        GRAY[..., None].astype(np.float32),
        GRAY3,
    ),
    "TIFF of four pages": (tiff(*PAGES, metadata=None, photometric="minisblack"), STACK, None),
    "TIFF of three pages": (
        tiff(*PAGES[:3], metadata=None, photometric="minisblack"),
        STACK[..., :3],
        STACK[..., :3],
    ),
    "TIFF of two pages by Pillow": (
        pil(GRAY, save_all=True, append_images=[Image.fromarray(GRAY // 2)]),
        STACK[..., :2],
        None,
    ),
    "TIFF of four channels": (tiff(STACK, **CONTIG), STACK, None),
    "TIFF and its thumbnail": (tiff(RGB, RGB[:1, :2], metadata=None, photometric="rgb"), RGB, RGB),
}
# A PIL image of these has only the upper 8 bits.
WIDE_PNG = {"PNG RGB 16", "PNG RGBA 16", "PNG gray and alpha 16"}
# Pillow drops samples or bits of these; where tifffile cannot decode them either, imagecodecs is asked for.
NOT_BY_PILLOW = {"TIFF RGB and another", "TIFF RGB 16", "TIFF of four channels"}
MAPPED = {"TIFF gray", "TIFF gray 16", "TIFF RGB", "TIFF RGB 16", "TIFF float", "TIFF of four channels"}


def check(source, stored, rgb):
    image = read_image(source, None, None)
    assert image.dtype == stored.dtype
    np.testing.assert_array_equal(image, stored)
    assert image_size(source) == stored.shape[:2]
    if rgb is None:
        with pytest.raises(ImageError, match=rf"3 channels.*shape \(2, 3, {stored.shape[2]}\)"):
            read_image(source)
        return
    image = read_image(source)
    assert image.dtype == np.uint8 and (image.flags.writeable or isinstance(image, np.memmap))
    np.testing.assert_array_equal(image, rgb)
    colors = stored[..., : 3 if stored.shape[2] >= 3 else 1]
    kept = rgb if stored.dtype == np.uint8 else np.broadcast_to(colors, image.shape)
    np.testing.assert_array_equal(read_image(source, 3, "float32"), np.float32(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_all_channels_and_rgb_agree(tmp_path, kind):
    data, stored, rgb = KINDS[kind]
    check(data, stored, rgb)
    (tmp_path / "image.any").write_bytes(data)  # the bytes decide, not the name
    check(tmp_path / "image.any", stored, rgb)


def without_codecs(*args, **kwargs):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "TIFF" in kind])
def test_tifffile_and_pillow_agree(monkeypatch, kind):
    data, stored, rgb = KINDS[kind]
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", without_codecs)
    if kind in NOT_BY_PILLOW:
        for asked in ((None, None), (3, "uint8")):
            with pytest.raises(ImageError, match=r"bytes>: .*Install imagecodecs \(pip install"):
                read_image(data, *asked)
    else:
        check(data, stored, rgb)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in NOT_BY_PILLOW | WIDE_PNG and "pages" not in k and "32" not in k]
)
def test_a_pil_image_is_its_file(kind):
    data, stored, rgb = KINDS[kind]
    with Image.open(io.BytesIO(data)) as image:
        if kind == "TIFF int16":
            stored = stored.astype(np.int32)  # all that Pillow has
        check(image, stored, rgb)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "TIFF" in kind])
def test_large_and_small_files_agree(tmp_path, monkeypatch, kind):
    data, stored, rgb = KINDS[kind]
    (tmp_path / "large.tif").write_bytes(data)
    monkeypatch.setattr(decoding, "MAPPED_BYTES", 0)
    check(tmp_path / "large.tif", stored, rgb)
    if kind in MAPPED:
        assert isinstance(read_image(tmp_path / "large.tif", None, None), np.memmap)


@pytest.mark.parametrize("asked", [(None, None), (3, "uint8"), (1, "uint16")])
@pytest.mark.parametrize(
    "data, message",
    [
        (tiff(np.stack([RGB, RGB]), photometric="rgb"), r"one image: rows.*\(2, 2, 3, 3\) with the axes QYXS.*own"),
        (tiff(GRAY, GRAY), r"one image; other pages must be smaller.*\[\(2, 3\), \(2, 3\)\].*own"),
        (tiff(RGB[:1, :2], RGB, photometric="rgb", metadata=None), r"2 images of shapes \[\(1, 2, 3\), \(2, 3, 3\)\]"),
        (pil(palette(), save_all=True, append_images=[palette()]), "with 2 pages in colours"),
        (KINDS["TIFF RGB"][0][:-9], "Download or export it again"),
        (KINDS["TIFF RGB, LZW"][0][:60], "Download or export it again"),
        (KINDS["TIFF palette"][0][:-3], "Download or export it again"),
        (
            KINDS["TIFF RGB"][0].replace(struct.pack("<HHII", 257, 4, 1, 2), struct.pack("<HHII", 257, 4, 1, 9999)),
            "hold",
        ),
        (b"II*\0" + bytes(40), "Download or export it again"),
        (b"\x93NUMPY" + bytes(40), "Download or export it again"),
        (b"<html>nothing here</html>", "an HTML page. Download the image itself"),
    ],
)
def test_what_is_refused_is_refused_for_all_models(tmp_path, data, message, asked):
    (tmp_path / "bad.tif").write_bytes(data)
    with pytest.raises(ImageError, match=rf"Received .*bad\.tif.*{message}|{message}"):
        read_image(tmp_path / "bad.tif", *asked)


@pytest.mark.skipif(HAVE_CODECS, reason="imagecodecs decodes it")
def test_sixteen_bit_colours_in_lzw_ask_for_the_codec():
    wide = bytearray(tiff(RGB.astype(np.uint16), photometric="rgb"))
    at = wide.index(struct.pack("<HHI", 259, 3, 1)) + 8
    wide[at] = 5  # LZW, says the tag
    with pytest.raises(ImageError, match="Install imagecodecs"):
        read_image(bytes(wide))


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_floats_that_do_not_fit_are_named_with_file_and_remedy(tmp_path, ending):
    path = tmp_path / f"float.{ending}"
    write = tifffile.imwrite if ending == "tif" else np.save
    infinite = GRAY.astype(np.float32)
    infinite[1, 2] = np.inf
    write(path, infinite)
    for dtype in ("uint8", "float32"):
        with pytest.raises(ImageError, match=rf"finite. Received .*float\.{ending} with NaN or infinity.*nan_to_num"):
            read_image(path, 3, dtype)
    write(path, GRAY.astype(np.float32) / 255)
    with pytest.raises(ImageError, match=rf"float\.{ending} with floats up to 1.*Multiply by 255 .*float32"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, 1, "float32")[..., 0], GRAY.astype(np.float32) / 255)
    write(path, -GRAY.astype(np.float64))
    with pytest.raises(ImageError, match=rf"not negative.*float\.{ending} of dtype float64 with values from -255"):
        read_image(path)
    write(path, np.zeros((2, 3), np.float32))  # black, whatever the range
    assert read_image(path).tolist() == np.zeros((2, 3, 3)).tolist()


def test_sixteen_bit_associated_alpha():
    wide = np.uint16([[[300, 600, 1000, 2000], [5, 6, 7, 0]]])
    data = tiff(wide, photometric="rgb", extrasamples=["assocalpha"])
    # 300 / 2000 of 65535 is 9830.25; rounded down, as Pillow does it for 8 bits
    assert read_image(data, None, None).tolist() == [[[9830, 19660, 32767, 2000], [0, 0, 0, 0]]]


@pytest.mark.parametrize(("photometric", "channels"), [("rgb", 3), ("separated", 4)])
@pytest.mark.parametrize("values", [(8,), (6, 1, 1)])
def test_of_several_orientations_the_first_counts(tmp_path, photometric, channels, values):
    """Pillow, which converts CMYK, takes the first of them; the size of the header must be that of the pixels."""
    pixels = np.arange(20 * 30 * channels, dtype=np.uint8).reshape(20, 30, channels)
    tag = (274, 3, len(values), values[0] if len(values) == 1 else values, True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, extratags=[tag])
    assert image_size(tmp_path / "a.tif") == read_image(tmp_path / "a.tif").shape[:2] == (30, 20)


def test_lab_becomes_rgb():
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(RGB), *to_lab, outputMode="LAB")
    image = read_image(pil(lab)).astype(int)
    assert np.abs(image[1] - RGB[1]).max() <= 3  # 8 bits of LAB do not hold all of RGB
    np.testing.assert_array_equal(read_image(pil(lab), None, None), image)


def test_each_step_is_imported_by_the_step_above_alone():
    folder = pathlib.Path(room).parent
    imports = {}
    for file in folder.glob("[!_]*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        prefix = "keras_maskrcnn.data.images."
        imports[file.stem] = {name.removeprefix(prefix) for name in names if name.startswith(prefix)} - {
            "forms",
            "limits",
        }
        own = [name for name in names if name.startswith("keras_maskrcnn")]
        assert all(name.startswith((prefix, "keras_maskrcnn.host.")) for name in own), file
        at_the_top = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
        assert not {"tifffile", "skimage"} & set(at_the_top), file  # slow to import
    assert imports == {
        "reading": {"opening", "decoding", "channels", "dtypes"},
        "decoding": {"npy_files", "tiff_files", "pillow_files", "contents"},
        "tiff_files": {"pillow_files"},
        "showing": {"channels", "dtypes"},
        "pixel_size": {"reading", "opening"},
        **dict.fromkeys(
            ("forms", "limits", "contents", "opening", "channels", "dtypes", "npy_files", "pillow_files"), set()
        ),
    }
