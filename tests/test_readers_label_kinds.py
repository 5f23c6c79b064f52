"""Label images of every kind of file: the same numbers, whatever holds them. And how folders are listed."""

import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.data.readers.dsb import DsbDataset
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import files_with, folders_in, image_files, image_files_and_others
from keras_maskrcnn.data.readers.label_images import color_number, read_labels

LABELS = np.array([[0, 1, 1], [2, 2, 0]], np.uint8).repeat(4, axis=0).repeat(4, axis=1)  # 8 x 12
WIDE = LABELS.astype(np.uint16) * 300
ALPHA = np.full(LABELS.shape, 255, np.uint8)
COLORS = np.uint8([[0, 0, 0], [9, 0, 0], [0, 9, 0]])[LABELS]
NUMBERS = np.array([0, 9, 9 * 256])[LABELS]


def palette():
    image = Image.fromarray(LABELS, "P")
    image.putpalette([0, 0, 0, 5, 5, 5, 5, 5, 5])  # two equal colours: only the indices tell objects apart
    return image


def write_tiff(path, array, **options):
    tifffile.imwrite(path, array, **options)


def wide_colors(path):
    rows = (COLORS.astype(">u2") * 300).astype(">u2").reshape(len(COLORS), -1).view(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *LABELS.shape[::-1], 16, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


KINDS = {  # name: (ending, function that writes it, the numbers)
    "gray": ("png", lambda p: Image.fromarray(LABELS).save(p), LABELS),
    "gray and alpha": ("png", lambda p: Image.fromarray(np.dstack([LABELS, ALPHA])).save(p), LABELS),
    "gray 16": ("png", lambda p: Image.fromarray(WIDE).save(p), WIDE),
    "1 bit": ("png", lambda p: Image.fromarray(LABELS > 0).save(p), (LABELS > 0) * 255),
    "palette": ("png", lambda p: palette().save(p), LABELS),
    "palette, transparent": ("png", lambda p: palette().save(p, transparency=0), LABELS),
    "palette TIFF": ("tif", lambda p: palette().save(p), LABELS),
    "GIF": ("gif", lambda p: palette().save(p), LABELS),
    "RGB": ("png", lambda p: Image.fromarray(COLORS).save(p), NUMBERS),
    "RGBA": ("png", lambda p: Image.fromarray(np.dstack([COLORS, ALPHA])).save(p), NUMBERS),
    "RGB 16": ("png", wide_colors, None),
    "TIFF 16": ("tif", lambda p: write_tiff(p, WIDE), WIDE),
    "TIFF white is zero": ("tif", lambda p: write_tiff(p, 255 - LABELS, photometric="miniswhite"), LABELS),
    "TIFF int32": ("tif", lambda p: write_tiff(p, LABELS.astype(np.int32) * 70000), LABELS.astype(int) * 70000),
    "TIFF uint64": ("tif", lambda p: write_tiff(p, LABELS.astype(np.uint64) << 40), LABELS.astype(int) << 40),
    "TIFF float": ("tif", lambda p: write_tiff(p, LABELS.astype(np.float32)), LABELS),
    "TIFF RGB": ("tif", lambda p: write_tiff(p, COLORS, photometric="rgb"), NUMBERS),
    ".npy": ("npy", lambda p: np.save(p, LABELS.astype(np.int64)), LABELS),
    ".npy of colours": ("npy", lambda p: np.save(p, COLORS), NUMBERS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_image_has_its_numbers(tmp_path, kind):
    ending, write, numbers = KINDS[kind]
    path = tmp_path / f"a.{ending}"
    write(path)
    found = read_labels(path, LABELS.shape, "data")
    assert found.dtype.kind in "iu"
    if numbers is None:  # a number for each colour, of which only the difference counts
        assert len(np.unique(found)) == 3 and ((found == found[0, 5]) == (LABELS == 1)).all() and found[0, 0] == 0
    else:
        np.testing.assert_array_equal(found, numbers)


def test_colours_of_16_bits_have_numbers_of_their_own():
    values = np.array([0, 1, 255, 256, 257, 511, 65535])
    red, green, blue = (axis.ravel() for axis in np.meshgrid(values, values, values))
    assert len(np.unique(color_number(red, green, blue))) == len(values) ** 3
    assert color_number(1, 2, 3) == 1 + 2 * 256 + 3 * 65536


@pytest.mark.parametrize(
    "name, write, message",
    [
        ("a.png", lambda p: Image.fromarray(LABELS).save(p, "JPEG"), "JPEG changes the numbers"),
        ("a.tif", lambda p: write_tiff(p, LABELS / np.float32(2)), "one whole number per pixel"),
        ("a.tif", lambda p: write_tiff(p, np.where(LABELS, np.float32(np.inf), 0)), "one whole number per pixel"),
        ("a.npy", lambda p: np.save(p, LABELS * 1e30), "one whole number per pixel"),
        ("a.npy", lambda p: np.save(p, np.full(LABELS.shape, 2**64 - 1, np.uint64)), "one whole number per pixel"),
        (
            "a.tif",
            lambda p: write_tiff(p, np.stack([LABELS] * 3), photometric="minisblack"),
            r"a\.tif of shape \(8, 12, 3\) \(height, width, channels or pages\)",
        ),
        ("a.png", lambda p: p.write_bytes(b"<html>"), r"a\.png: an HTML page"),
        ("a.tif", lambda p: p.write_bytes(b"II*\0" + bytes(30)), r"a\.tif: a TIFF that is cut off"),
        ("a.npy", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(30)), r"a\.npy: a ZIP archive"),
        ("a.png", lambda p: None, r"a\.png cannot be read"),
    ],
)
def test_what_holds_no_numbers_is_named(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(FaultyAnnotation) as raised:
        read_labels(tmp_path / name, LABELS.shape, "data")
    assert re.search(message, raised.value.args[0]), raised.value.args


def test_a_photo_in_place_of_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_maskrcnn.data.readers.label_images.LABEL_COUNT", 1000)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / folder / "a.png")
    with pytest.raises(ValueError, match=r"labels/a\.png: it holds more than 1000 different numbers.*a picture"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "mask",
    [np.uint16([[0, 1, 0]]), np.dstack([np.uint8([[0, 0, 0]]), np.uint8([[0, 200, 0]]), np.uint8([[0, 0, 0]])])],
)
def test_all_that_is_not_black_is_in_a_mask_of_the_data_science_bowl(tmp_path, mask):
    """A faint 16-bit pixel (1 of 65535 beside others), and green, which has no red."""
    for folder in ("images", "masks"):
        (tmp_path / "one" / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(tmp_path / "one" / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "one" / "masks" / "m.png")
    (tmp_path / "one" / "masks" / "._m.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    dataset = DsbDataset(tmp_path)
    assert [instance.box.tolist() for instance in dataset[0].instances] == [[1, 0, 2, 1]]


# Folders -------------------------------------------------------------------------------------------------------


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_folder_is_listed_without_hidden_files_and_other_types(tmp_path):
    fill(tmp_path, "b.PNG", "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "notes.pdf", "clip.mp4", "two.mp4", "README")
    fill(tmp_path, "in/c.tif", "in/._c.tif", ".cache/d.png", "__MACOSX/e.png", "@eaDir/f.jpg", "cell_seg.npy", "g.npy")
    names = [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "g.npy"]
    assert [str(file.relative_to(tmp_path)) for file in image_files(tmp_path, deep=True)] == [*names, "in/c.tif"]
    assert [path.name for path in folders_in(tmp_path)] == ["in"]
    assert files_with(tmp_path, ".pdf") == [tmp_path / "notes.pdf"]
    assert files_with(tmp_path / "missing", ".pdf") == folders_in(tmp_path / "missing") == []
    files, note = image_files_and_others(tmp_path, known=(".npy",))
    assert [file.name for file in files] == ["a.jpg", "b.PNG", "g.npy"]
    assert note == (
        f"Passed over 7 files in {tmp_path} that are no images: "
        "3 hidden, 2 of type .mp4, 1 without an ending, 1 of type .pdf."
    )
    assert image_files_and_others(tmp_path / "in") == (
        [tmp_path / "in" / "c.tif"],
        f"Passed over 1 files in {tmp_path / 'in'} that are no images: 1 hidden.",
    )


def test_companion_files_of_macos_are_in_no_dataset(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        fill(tmp_path, f"{folder}/._a.png", f"{folder}/notes.doc", "._coco.json")
        Image.fromarray(np.pad(np.full((4, 4), 7, np.uint8), 3)).save(tmp_path / folder / "a.png")
    with pytest.warns(UserWarning, match=r"Passed over 2 files in .* that are no images: 1 hidden, 1 of type \.doc\."):
        dataset = open_dataset(tmp_path)
    assert len(dataset) == 1 and dataset[0].instances[0].box.tolist() == [3, 3, 7, 7]
