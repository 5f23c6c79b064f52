"""read_image: every kind of file that users have, by the pixel values that come out."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn.data import ImageError, read_image
from keras_maskrcnn.data.images.reading import image_size

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [6, 5, 4], [3, 2, 1]]], np.uint8)


def png(array_or_image):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_rgb_from_path_bytes_pil_and_array(tmp_path):
    (tmp_path / "a.png").write_bytes(png(RGB))
    for source in (
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        png(RGB),
        Image.fromarray(RGB),
        RGB,
    ):
        image = read_image(source)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, RGB)


def test_alpha_is_dropped_and_colours_stay():
    alpha = np.array([[[0], [128], [255]], [[0], [1], [2]]], np.uint8)
    rgba = np.concatenate([RGB, alpha], -1)
    for source in (png(rgba), rgba, Image.fromarray(rgba)):
        np.testing.assert_array_equal(read_image(source), RGB)


def test_gray_becomes_three_equal_channels():
    gray = np.array([[0, 100], [200, 255]], np.uint8)
    for source in (png(gray), gray, gray[..., None]):
        np.testing.assert_array_equal(read_image(source), np.stack([gray] * 3, -1))


def test_gray_with_alpha_and_one_bit():
    gray = Image.fromarray(np.array([[0, 100]], np.uint8)).convert("LA")
    assert read_image(png(gray)).tolist() == [[[0] * 3, [100] * 3]]
    assert read_image(png(Image.fromarray(np.array([[True, False]])))).tolist() == [[[255] * 3, [0] * 3]]
    assert read_image(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


def test_palette_gives_its_colours():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert read_image(png(image)).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    image.info["transparency"] = 1
    assert read_image(png(image)).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_cmyk_jpeg_gives_rgb():
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG", quality=95)
    image = read_image(file.getvalue())
    assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0, 255], [0, 255]),  # holds 8 bits
        ([0, 1023], [0, 255]),  # 10 bits: 1023 is full scale
        ([2000, 4095], [125, 255]),  # 12 bits: 2000 / 4095 * 255 = 124.5
        ([0, 65535], [0, 255]),
        ([16384, 40000], [64, 156]),  # 16 bits: 63.75 and 155.6
    ],
)
def test_sixteen_bits_are_scaled_by_the_range_that_holds_them(values, expected):
    wide = np.array([values], np.uint16)
    for source in (png(wide), wide):
        assert read_image(source)[0, :, 0].tolist() == expected


def test_sixteen_bit_tiff_gray_and_colour(tmp_path):
    gray = np.array([[0, 65535], [257, 514]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "gray.tif")
    assert read_image(tmp_path / "gray.tif")[..., 1].tolist() == [[0, 255], [1, 2]]
    tifffile = pytest.importorskip("tifffile")
    colour = np.arange(18, dtype=np.uint16).reshape(2, 3, 3) * 257 * 15
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "colour.tif"), np.arange(18).reshape(2, 3, 3) * 15)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    # What a viewer shows for each orientation of one stored picture (EXIF 2.3, tag 0x0112).
    shown = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.swapaxes(0, 1),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(RGB),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(file.getvalue()), shown[orientation])


def test_image_size_reads_the_header_and_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(RGB).save(tmp_path / "plain.png")
    assert image_size(tmp_path / "plain.png") == (2, 3)
    assert image_size(tmp_path / "turned.png") == (3, 2)
    turned = (tmp_path / "turned.png").read_bytes()
    start = turned.index(b"eXIf") - 4  # length, name, content, checksum
    end = start + 12 + int.from_bytes(turned[start : start + 4], "big")
    tail = turned.index(b"IEND") - 4
    moved = turned[:start] + turned[end:tail] + turned[start:end] + turned[tail:]  # EXIF after the pixels
    assert image_size(moved) == read_image(moved).shape[:2] == (3, 2)
    no_pixels = turned[: turned.index(b"IDAT") + 4] + bytes(8)
    assert image_size(png(RGB)[:41]) == (2, 3), "the header alone is read"
    with pytest.raises(ImageError, match="Download or export it again"):
        read_image(no_pixels)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.png.*Check the folder of the images \(`?image_dir"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("keep", [0, 20, 600])
def test_a_truncated_jpeg_is_named(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:keep])
    with pytest.raises(ImageError, match=r"cut\.jpg.*Download or export it again"):
        read_image(tmp_path / "cut.jpg")
    with pytest.raises(ImageError, match="bytes"):
        read_image(data[:keep])


@pytest.mark.parametrize(
    "source, message",
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "one image at a time"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.full((4, 4, 3), 0.5, np.float32), "Multiply by 255"),
        (np.full((4, 4, 3), -1, np.int32), "not negative"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite"),
        (b"", "Download or export it again"),
        (3.5, "Received float"),
    ],
)
def test_what_is_no_image_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        read_image(source)
