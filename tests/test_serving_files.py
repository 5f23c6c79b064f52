"""Files in the graph: each gives the pixels that `read_image` gives, whatever it is and whatever lies beside it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn.data.images.reading import read_image

tf = pytest.importorskip("tensorflow")
from keras_maskrcnn.serving import gif_in_graph, images_in_graph  # noqa: E402  (need TensorFlow)

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def decode():
    return tf.function(images_in_graph.decode, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


@pytest.fixture(scope="module")
def read_batch():
    def read(files):
        return images_in_graph.read_batch(files, lambda size: size)

    return tf.function(read, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)


def smooth(height=40, width=60, channels=3, dtype=np.uint8):
    """A picture that JPEG keeps well: ramps along both axes and a block, no two sides alike."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = np.stack([x, y, (x + y) / 2, 1 - x / 2][:channels], axis=-1)
    planes[: height // 3, : width // 4] = 0.9
    return np.rint(planes * np.iinfo(dtype).max).astype(dtype)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def png(header, rows):
    """A PNG that Pillow does not write. header: (bit depth, colour type); rows: bytes of each row."""
    depth, kind, width = header

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


RGB = Image.fromarray(smooth())
RGBA = Image.fromarray(smooth(channels=4))
GRAY16 = smooth(dtype=np.uint16)[..., 0]
PALETTE = RGB.quantize(20)
TRANSPARENT = encode(PALETTE, transparency=3)

# Name: (file, largest difference to read_image in levels). JPEG: the same library and transform in both.
FILES = {
    "png": (encode(RGB), 0),
    "png gray": (encode(RGB.convert("L")), 0),
    "png one bit": (encode(RGB.convert("1")), 0),
    "png rgba": (encode(RGBA), 0),
    "png gray alpha": (encode(RGBA.convert("LA")), 0),
    "png palette": (encode(PALETTE), 0),
    "png palette transparent": (TRANSPARENT, 0),
    "png 16 bit gray": (encode(GRAY16), 0),
    "png 16 bit gray, of which 12 are used": (encode(GRAY16 // 16), 0),
    "png 16 bit gray, of which 3 are used": (encode(GRAY16 // 8192), 0),
    "png 16 bit colour": (png((16, 2, 60), [row.astype(">u2").tobytes() for row in smooth(dtype=np.uint16)]), 0),
    "png 16 bit colour and alpha": (
        png((16, 6, 60), [row.astype(">u2").tobytes() for row in smooth(channels=4, dtype=np.uint16)]),
        0,
    ),
    "png one pixel": (encode(smooth(1, 1)), 0),
    "png 16 x 4000": (encode(smooth(16, 4000)), 0),
    "jpeg": (encode(RGB, "JPEG", quality=95), 0),
    "jpeg gray": (encode(RGB.convert("L"), "JPEG"), 0),
    "jpeg progressive, subsampled": (encode(RGB, "JPEG", progressive=True, subsampling=2), 0),
    "jpeg one pixel": (encode(smooth(1, 1), "JPEG"), 0),
    "jpeg cmyk": (encode(RGB.convert("CMYK"), "JPEG", quality=95), 2),
    "bmp": (encode(RGB, "BMP"), 0),
    "bmp rgba": (encode(RGBA, "BMP"), 0),
    "bmp gray": (encode(RGB.convert("L"), "BMP"), 0),
    "bmp palette": (encode(PALETTE, "BMP"), 0),
    "gif": (encode(PALETTE, "GIF"), 0),
    "gif of three frames": (
        encode(PALETTE, "GIF", save_all=True, append_images=[RGB.rotate(20).quantize(9), RGB.rotate(40).quantize(9)]),
        0,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_pixels_that_the_predictor_reads(decode, name):
    data, tolerance = FILES[name]
    expected = read_image(data)
    found = decode(data).numpy()
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= tolerance


def with_orientation(form, number, **options):
    exif = Image.Exif()
    exif[0x010F] = "a maker's name, which makes the directory longer"
    exif[0x0112] = number
    return encode(RGB, form, exif=exif, **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_turns_and_mirrors_in_all_eight_ways(decode, form):
    seen = set()
    for number in range(1, 9):
        data = with_orientation(form, number)
        expected = read_image(data)
        np.testing.assert_array_equal(decode(data).numpy(), expected, err_msg=str(number))
        seen.add(expected.tobytes())
    assert len(seen) == 8


def test_exif_is_found_in_either_byte_order_behind_other_segments_and_chunks(decode):
    """Big-endian, LONG instead of SHORT, after a comment and fill bytes; in a PNG behind the pixels."""
    entry = struct.pack(">HHII", 0x0112, 4, 1, 6)
    exif = b"MM\0\x2a" + struct.pack(">IH", 8, 1) + entry + b"\0\0\0\0"
    plain = encode(RGB, "JPEG", quality=95)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 9) + b"Exif\0\0MM*"
    segment = b"\xff\xff\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
    upright = decode(plain).numpy()
    turned = decode(plain[:2] + comment + segment + plain[2:]).numpy()
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))

    png_file = encode(RGB)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    np.testing.assert_array_equal(decode(png_file[:-12] + chunk + png_file[-12:]).numpy(), np.rot90(smooth(), -1))


def test_nonsense_in_exif_leaves_the_image_upright(decode):
    good = with_orientation("JPEG", 6, quality=95)
    at = good.index(b"\x12\x01") if b"Exif\0\0II" in good else good.index(b"\x01\x12")
    upright = decode(encode(RGB, "JPEG", quality=95)).numpy()
    for patch in (b"\x0e\x00", b"\xff\xff"):  # an offset of the directory beyond the file, an unknown tag
        where = good.index(b"Exif\0\0") + 10 if patch == b"\xff\xff" else at
        np.testing.assert_array_equal(decode(good[:where] + patch + good[where + 2 :]).numpy(), upright)


def bad_files():
    jpeg, plain = encode(RGB, "JPEG"), encode(RGB)
    flipped = bytearray(plain)
    flipped[60] ^= 0xFF
    huge = bytearray(plain)
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    gif = encode(PALETTE, "GIF")
    start_of_frame = gif.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 60, 40))
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(9))
    text = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    start = jpeg.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    huge_jpeg = jpeg[: start + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[start + 9 :]
    return {
        "nothing": b"",
        "text": b"no image at all",
        "first bytes only": jpeg[:3],
        "half a jpeg": jpeg[: len(jpeg) // 2],
        "half a png": plain[: len(plain) // 2],
        "half a bmp": encode(RGB, "BMP")[:2000],
        "half a gif": encode(PALETTE, "GIF")[:300],
        "png with a damaged row": bytes(flipped),
        "png that claims to be gigabytes": bytes(huge),
        "jpeg that claims to be gigabytes": huge_jpeg,
        "gif that claims to be gigabytes": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + encode(PALETTE, "GIF")[10:],
        "gif without a frame": encode(PALETTE, "GIF")[:13] + b";",
        "gif whose frame claims to be gigabytes": gif.replace(struct.pack("<HH", 60, 40), b"\xff" * 4),
        "gif of parts without end": gif[:start_of_frame]
        + b"\x21\xfe"
        + b"\1a" * 200_000
        + b"\0"
        + gif[start_of_frame:],
        "jpeg of a million scans": jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 200 + jpeg[-2:],
        "png of many texts": plain[:33] + text * 60 + plain[33:],
        "bmp of 4 bits": b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 9, 9, 1, 4, 0, 0, 0, 0, 0, 0) + bytes(99),
        "compressed bmp": b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 9, 9, 1, 8, 1, 0, 0, 0, 0, 0)
        + bytes(99),
        "tiff": encode(RGB, "TIFF"),
    }


def test_a_bad_file_says_so_and_leaves_the_others_of_its_batch_alone(read_batch):
    bad = bad_files()
    first, last = smooth(30, 50), smooth(44, 20)
    batch = read_batch([encode(first), *bad.values(), encode(last)])
    problems = [text.decode() for text in batch["problems"].numpy()]
    for name, problem in zip(bad, problems[1:-1], strict=True):
        assert ("damaged" in problem) != ("not a JPEG, PNG, GIF or BMP" in problem), name
    assert [name for name, p in zip(bad, problems[1:-1], strict=True) if p.startswith("not")] == [
        "nothing", "text", "tiff"
    ]  # fmt: skip
    sizes = batch["image_sizes"].numpy()
    assert not problems[0] and not problems[-1] and not sizes[1:-1].any()
    assert sizes[0].tolist() == [30, 50] and sizes[-1].tolist() == [44, 20]
    images = batch["images"].numpy()
    np.testing.assert_array_equal(images[0, :30, :50], first)
    np.testing.assert_array_equal(images[-1, :44, :20], last)
    assert not images[1:-1].any() and not images[0, 30:].any() and not images[-1, :, 20:].any()


def test_a_batch_of_bad_files_alone_is_answered_too(read_batch):
    batch = read_batch([b"", b"GIF89a"])
    assert not batch["image_sizes"].numpy().any() and all(batch["problems"].numpy())


def test_of_a_gif_only_the_first_frame_is_unpacked(decode, monkeypatch):
    gif = encode(PALETTE, "GIF")
    frames = gif[13 + 3 * 2 ** ((gif[10] & 7) + 1) : -1]
    many = gif[:-1] + frames * 3000 + b";"
    first, sides = gif_in_graph.first_frame(tf.constant(many))
    assert first.numpy() == gif and sides.numpy().tolist() == [60, 40]
    np.testing.assert_array_equal(decode(many).numpy(), read_image(gif))
    comment = b"\x21\xfe\x03abc\x02de\0"
    first, _ = gif_in_graph.first_frame(tf.constant(many[: -len(frames) * 3000 - 1] + comment + frames + b";"))
    assert first.numpy() == gif  # what follows the frame is cut off


def test_resizing_is_the_predictors(decode):
    from keras_maskrcnn.geometry.resizing import resize_bilinear

    image = smooth(37, 53)
    batch = images_in_graph.read_batch([encode(image)], lambda size: tf.constant([50, 71]) + 0 * size)
    np.testing.assert_array_equal(batch["images"].numpy()[0], resize_bilinear(image, (50, 71)))
