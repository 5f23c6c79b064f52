"""Files that are no images, broken, or unpack to gigabytes: each is named with what it seems to be."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from reader_tools import picture

from keras_maskrcnn.data import ImageError, read_image
from keras_maskrcnn.data.images import image_size, limits

CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}
AGAIN = r"Download or export it again, or remove it from the dataset\.$"


def encoded(ending, array=None, **options):
    file = io.BytesIO()
    Image.fromarray(picture() if array is None else array).save(file, ending, **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *chunks):
    """A PNG of gray with these chunks after the header, and no pixels unless they are among them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(compression, strip, sides=(100, 100)):
    """A TIFF of 8-bit gray with one strip of these bytes, whatever is in them."""
    tags = [(256, sides[1]), (257, sides[0]), (258, 8), (259, compression), (262, 1), (273, 8)]
    tags += [(277, 1), (278, sides[0]), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def box(brand):
    """The start of an ISO base media file."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(200)


JPEG, PNG = encoded("JPEG"), encoded("PNG")
NO_IMAGES = {
    "empty": (b"", rf"an empty file \(0 bytes\)\. {AGAIN}"),
    "zeros": (bytes(5000), rf"a file of zeros.*\. {AGAIN}"),
    "HEIC": (box(b"heic"), r"a HEIC photo.*\. Save it as JPEG or PNG\.$"),
    "JPEG XL": (b"\xff\x0a" + bytes(9), r"a JPEG XL image.*Save it as JPEG or PNG"),
    "JPEG XL in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), r"a JPEG XL image.*Save it as JPEG"),
    "HTML": (b"\n<!DOCTYPE html><html><body>404</body></html>", r"an HTML page\. Download the image itself"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        r"a Git LFS pointer.*git lfs pull",
    ),
    "PDF": (b"%PDF-1.4\n%%EOF\n", r"a PDF.*Save its pages"),
    "MP4": (box(b"isom"), r"a video \(MP4\).*frames"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST" + bytes(50), r"a video \(AVI\)"),
    "Matroska": (b"\x1a\x45\xdf\xa3" + bytes(50), "a video"),
    "SVG": (b"<?xml version='1.0'?>\n<svg width='3'/>", "an SVG drawing. Save it as PNG"),
    "JSON": (b'{"message": "not found"}', "a JSON file"),
    "text": (b"Access denied", "a text file"),
    "ZIP": (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
    "DICOM": (bytes(128) + b"DICM" + bytes(30), "a DICOM file"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(64), "companion file of macOS"),
    "noise": (b"\xd0" + bytes(range(250, 200, -1)) * 9, f"a file of an unknown format. {AGAIN}"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], f"a JPEG that is cut off or damaged .*truncated.*{AGAIN}"),
    "half a PNG": (PNG[: len(PNG) // 2], f"a PNG that is cut off or damaged .*{AGAIN}"),
    "start of a PNG": (PNG[:20], "a PNG that is cut off or damaged"),
    "half a WebP": (encoded("WEBP")[:200], "a WebP that is cut off or damaged"),
    "half a GIF": (encoded("GIF")[:900], "a GIF that is cut off or damaged"),
    "half a BMP": (encoded("BMP")[:900], "a BMP that is cut off or damaged"),
    "half a TIFF": (encoded("TIFF")[:900], "its 900 bytes cannot hold the pixels"),
    "TIFF without pages": (b"II*\0" + bytes(60), "a TIFF that is cut off or damaged"),
    "half a .npy": (b"\x93NUMPY\1\0v\0{'descr': '<u2', 'fortran_order': False, 'shape': (9,", ".npy that is cut off"),
    "PNG with a wrong checksum": (PNG[:50] + b"\xff\xfe" + PNG[52:], "a PNG that is cut off or damaged"),
    "deflate of a TIFF that is none": (tiff(8, b"no zlib at all"), "cannot hold the pixels|incorrect header"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_cannot_be_read_is_named_with_what_it_seems_to_be(tmp_path, name):
    data, message = NO_IMAGES[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as raised:
        read_image(path)
    told = str(raised.value)
    assert told.startswith("An image file must be") and f"Received {path}: " in told and "object at 0x" not in told
    with pytest.raises(ImageError, match=rf"Received <{len(data)} bytes>: "):
        read_image(data)


@pytest.mark.parametrize(
    "error",
    [RecursionError("deep"), OverflowError("large"), MemoryError(), SyntaxError("broken PNG"), KeyError("x"),
     EOFError(), struct.error("unpack"), zlib.error("Error -3"), Warning("odd")],
)  # fmt: skip
def test_every_kind_of_exception_of_a_library_becomes_an_image_error(tmp_path, monkeypatch, error):
    (tmp_path / "photo.png").write_bytes(PNG)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(ImageError, match=r"photo\.png: a PNG that is cut off or damaged \(.+\)") as raised:
        read_image(tmp_path / "photo.png")
    assert raised.value.__cause__ is error


def test_a_pil_image_whose_file_is_damaged_is_named(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    with pytest.raises(ImageError, match=r"photo\.jpg of mode RGB: image file is truncated"):
        read_image(Image.open(tmp_path / "photo.jpg"))


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(ImageError, match=r"photo\.png: it is a pipe, not a file"):
        read_image(tmp_path / "photo.png")


# Limits --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("ending", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF deflate"])
def test_more_pixels_than_the_limit_are_refused_by_name_and_read_when_it_is_raised(tmp_path, monkeypatch, ending):
    path = tmp_path / "scan.any"
    if ending == "TIFF deflate":
        tifffile.imwrite(path, picture(), compression="zlib", photometric="rgb")
    else:
        Image.fromarray(picture()).save(path, ending)
    whole = read_image(path)
    monkeypatch.setenv(limits.SWITCH, "2399")  # it has 40 x 60
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"at most 2399 pixels.*Received .*scan\.any.*KERAS_MASKRCNN_MAX_PIXELS"):
            read(path)
    monkeypatch.setenv(limits.SWITCH, "2400")
    np.testing.assert_array_equal(read_image(path), whole)
    assert Image.MAX_IMAGE_PIXELS == 89478485  # Pillow's own is as it was


def test_plain_files_and_arrays_have_no_limit(tmp_path, monkeypatch):
    monkeypatch.setenv(limits.SWITCH, "1")
    np.save(tmp_path / "a.npy", picture())
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb")
    for source in (tmp_path / "a.npy", tmp_path / "a.tif", picture(), Image.fromarray(picture())):
        np.testing.assert_array_equal(read_image(source), picture())


@pytest.mark.parametrize("text", ["no", "-3", "0", "1e9"])
def test_a_limit_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv(limits.SWITCH, text)
    with pytest.raises(ImageError, match=f"KERAS_MASKRCNN_MAX_PIXELS must be a positive whole number.*{text!r}"):
        read_image(PNG)


def test_pixels_of_many_bytes_count_as_several(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((10, 10, 8), np.float32), compression="zlib", **CONTIG)
    monkeypatch.setenv(limits.SWITCH, "799")
    with pytest.raises(ImageError, match=r"a\.tif of 10 x 10 pixels, 32 bytes each"):
        read_image(tmp_path / "a.tif", None, None)
    monkeypatch.setenv(limits.SWITCH, "800")
    assert read_image(tmp_path / "a.tif", None, None).shape == (10, 10, 8)


@pytest.mark.filterwarnings("error")
def test_larger_than_pillow_allows_is_read(monkeypatch):
    data = encoded("PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # Pillow refuses more than twice as many
    monkeypatch.setattr("keras_maskrcnn.data.images.pillow_files._BAND", 130)  # two rows at once
    assert image_size(data) == (40, 60)
    np.testing.assert_array_equal(read_image(data), picture())
    palette, file = Image.fromarray(picture()).quantize(9), io.BytesIO()
    palette.save(file, "PNG")
    np.testing.assert_array_equal(read_image(file.getvalue()), palette.convert("RGB"))
    assert Image.MAX_IMAGE_PIXELS == 200


def deflated_zeros(count):
    """A stream that unpacks to so many zeros, made of one block again and again; without its end."""
    packer = zlib.compressobj(9)
    start = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (count // 2**20)


def many_frames(count):
    """A GIF of 400 x 400 whose one frame is there so many times."""
    data = encoded("GIF", np.zeros((400, 400), np.uint8))
    start = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 400, 400))
    return data[:start] + data[start:-1] * count + b";"


def bombs():
    text = zlib.compress(bytes(5 * 10**7))
    huge_frame = many_frames(1).replace(struct.pack("<HH", 400, 400), b"\xff" * 4)
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**5)})
    return {
        "png": (png(60000, 60000, chunk(b"IDAT", deflated_zeros(2**24))), "60000 x 60000|3600000000 pixels"),
        "jpeg": (JPEG.replace(struct.pack(">HH", 40, 60), struct.pack(">HH", 65000, 65000)), "4225000000 pixels"),
        "webp": (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\0\xff\xff\0", "pixels"),
        "gif of a large frame": (
            huge_frame,
            "4294836225 pixels",
        ),
        "tiff that claims much": (tiff(8, deflated_zeros(2**24), (60000, 60000)), "cannot hold|60000 x 60000"),
        "tiff that unpacks to more": (tiff(8, deflated_zeros(2**32)), "unpacks to more than 800000000 bytes"),
        "tiff of a compression unknown": (tiff(34925, b"x" * 99, (60000, 60000)), "60000 x 60000"),
        "text in png": (png(9, 9, *[chunk(b"zTXt", b"a\0\0" + text)] * 40), "PNG that is cut off"),
        "profile in png": (png(9, 9, chunk(b"iCCP", b"a\0\0" + text)), "PNG that is cut off"),
        "npy": (npy.getvalue() + bytes(999), ".npy that is cut off"),
    }


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))


def test_bombs_are_refused_in_little_memory(tmp_path):
    """In a process that may use 2 GB: each is refused by name, and a GIF of 20,000 frames is its first one."""
    messages = {}
    for number, (name, (data, message)) in enumerate(bombs().items()):
        (tmp_path / f"{number}.any").write_bytes(data)
        messages[f"{number}.any"] = (name, message)
    (tmp_path / "frames.any").write_bytes(many_frames(20_000))
    program = """
import pathlib, sys, time
import keras_maskrcnn_launcher
keras_maskrcnn_launcher.register_package()  # data code without the framework, as the data commands run it
from keras_maskrcnn.data.images import read_image
assert "keras" not in sys.modules
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.any")):
    started = time.process_time()
    try:
        told = str(read_image(path).shape)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    print(path.name, round(time.process_time() - started), told.replace(chr(10), " "), sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=little_memory,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(line.split("|", 1) for line in done.stdout.splitlines())
    assert set(told) == {*messages, "frames.any"}
    seconds, found = told.pop("frames.any").split("|", 1)
    assert found == "(400, 400, 3)" and int(seconds) <= 5
    for file, line in told.items():
        seconds, found = line.split("|", 1)
        name, message = messages[file]
        assert found.startswith("ImageError: ") and file in found and int(seconds) <= 10, (name, found)
        assert any(part in found for part in message.split("|")), (name, found)


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded("JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert read_image(data + b"\xff\xda" * (100 - scans)).shape == (40, 60, 3)
    told = r"at most 100 scans. Received <\d+ bytes> with 101. Save it again, as a baseline JPEG."
    with pytest.raises(ImageError, match=told):
        read_image(data + b"\xff\xda" * (101 - scans))
    assert read_image(JPEG + b"\xff\xda" * 101).shape == (40, 60, 3)  # baseline: one scan, whatever follows


def test_a_tiff_whose_planes_are_in_other_files_is_refused(tmp_path):
    """An OME-TIFF of two channels, of which the second is in a file that is not there."""
    plane = '<TiffData FirstC="{0}" IFD="0" PlaneCount="1"><UUID FileName="{0}.ome.tif">urn:uuid:{0}</UUID></TiffData>'
    sizes = 'SizeX="60" SizeY="40" SizeC="2" SizeZ="1" SizeT="1" Type="uint8"'
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" {sizes}><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>'
        f"{plane.format(0)}{plane.format(1)}</Pixels></Image></OME>"
    )
    path = tmp_path / "0.ome.tif"
    tifffile.imwrite(path, picture()[..., 0], description=text, metadata=None, photometric="minisblack")
    told = r"must hold its whole image. Received .*0.ome.tif, of which pages are missing or in other files. Save the"
    for read in (lambda: read_image(path, None, None), lambda: image_size(path)):
        with pytest.raises(ImageError, match=told):
            read()


def test_a_tiff_of_very_many_pages_is_refused(monkeypatch):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(4):
            writer.write(np.zeros((2, 3), np.uint8), metadata=None, photometric="minisblack")
    monkeypatch.setattr("keras_maskrcnn.data.images.tiff_files.MAX_PAGES", 3)
    with pytest.raises(ImageError, match="at most 3 pages. Received .* with 4"):
        read_image(file.getvalue(), None, None)
