"""Pixels of other channels and dtypes, by value: from files, through transforms, into batches; large ones in part."""

import io
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_maskrcnn.batch import check_batch
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import (
    ArrayDataset,
    CocoDataset,
    ColorJitter,
    CopyPaste,
    DataLoader,
    ImageError,
    RandomBlur,
    RandomCrop,
    RandomJpeg,
    RandomNoise,
    Sample,
    preset,
    read_image,
)
from keras_maskrcnn.data.images import decoding
from keras_maskrcnn.data.images.reading import image_orientation, image_size, is_mapped
from keras_maskrcnn.data.images.showing import as_picture
from keras_maskrcnn.data.samples.view import View
from keras_maskrcnn.data.transforms.effects import Blur, Noise, Recolor
from keras_maskrcnn.geometry.resizing import resize_bilinear

# Channel k of pixel (y, x) is 8000 k + 100 y + x: 40000 among them, and every place and channel tells itself.
WIDE = (8000 * np.arange(6) + np.add.outer(100 * np.arange(20), np.arange(30))[..., None]).astype(np.uint16)
FIVE = WIDE[..., [5, 1, 2, 3, 4]]  # FIVE[0, 0, 0] is 40000


def config_of(channels, dtype, **more):
    norms = {"pixel_mean": (20000.0,) * channels, "pixel_std": (9000.0,) * channels, "image_dtype": dtype}
    return MaskRCNNConfig(num_classes=1, image_scale=1.0, gt_mask_size=14, max_instances=4, **norms, **more)


def planes(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def write(path, kind):
    """FIVE in one of the ways in which tools write it."""
    if kind == "npy":
        return np.save(path, FIVE)
    if kind == "npy, channels first":
        return np.save(path, planes(FIVE))
    options = {
        "interleaved": {"photometric": "minisblack", "planarconfig": "contig"},
        "interleaved, compressed": {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"},
        "interleaved, tiled": {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)},
        "big-endian": {"photometric": "minisblack", "planarconfig": "contig", "byteorder": ">"},
        "pages without names, channels last": {},
        "planar": {"photometric": "minisblack", "planarconfig": "separate"},
        "pages without names": {},
        "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
        "ImageJ slices": {"imagej": True},
        "OME": {"ome": True, "metadata": {"axes": "CYX"}},
    }
    last = "interleaved" in kind or kind in ("big-endian", "pages without names, channels last")
    return tifffile.imwrite(path, FIVE if last else planes(FIVE), **options[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "npy", "npy, channels first", "interleaved", "interleaved, compressed", "interleaved, tiled", "big-endian",
        "planar", "pages without names", "pages without names, channels last", "ImageJ", "ImageJ slices", "OME",
    ],
)  # fmt: skip
def test_five_channels_of_sixteen_bits_arrive_as_they_are(tmp_path, kind):
    path = tmp_path / ("a.npy" if "npy" in kind else "a.tif")
    write(path, kind)
    image = read_image(path, 5, "uint16")
    assert image.dtype == np.uint16 and image[0, 0, 0] == 40000
    np.testing.assert_array_equal(image, FIVE)
    np.testing.assert_array_equal(read_image(path, 5, "float32"), FIVE.astype(np.float32))
    assert image_size(path) == (20, 30)
    if "tif" in path.name:
        np.testing.assert_array_equal(read_image(path.read_bytes(), 5, "uint16"), FIVE)


def test_what_pillow_holds_is_kept_where_the_config_says_so(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 4), rgba)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgba[..., :3])
    wide = FIVE[..., 0]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", 1, "uint16")[0, 0, 0] == 40000
    np.testing.assert_array_equal(read_image(tmp_path / "wide.png", 3, "uint16"), wide[..., None].repeat(3, 2))
    gray = rgba[..., :1].repeat(3, 2)  # gray, stored as RGB
    np.testing.assert_array_equal(read_image(gray, 1), rgba[..., :1])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "turned.png", exif=turned)
    assert [image_orientation(source) for source in (tmp_path / "turned.png", tmp_path / "rgba.png", rgba)] == [6, 1, 1]
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", 4), np.rot90(rgba, -1))
    tifffile.imwrite(
        tmp_path / "t.tif", FIVE, photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, 6)]
    )
    np.testing.assert_array_equal(read_image(tmp_path / "t.tif", 5, "uint16"), np.rot90(FIVE, -1))
    assert image_size(tmp_path / "t.tif") == (30, 20)


@pytest.mark.parametrize(
    "source, channels, dtype, message",
    [
        (FIVE, 4, "uint16", r"4 channels.*shape \(20, 30, 5\).*check-data"),
        (FIVE, 3, "uint8", r"shape \(20, 30, 5\).*pixel_mean"),
        (FIVE[..., :3].astype(np.uint8), 1, "uint8", "convert it to gray"),
        (FIVE.astype(np.uint8), 5, "uint16", "16 bits.*dtype uint8.*image_dtype"),
        (FIVE.astype(np.int32) - 1, 6, "uint16", "6 channels"),
        (FIVE.astype(np.int32) * 2, 5, "uint16", "to 8.*float32"),
        (FIVE / np.float32(0.5) + np.nan, 5, "float32", "NaN"),
        (np.zeros((2, 2, 5, 5), np.uint16), 5, "uint16", "one image at a time"),
        (np.zeros((2, 2, 5), complex), 5, "uint16", "holds numbers. Received .* of dtype complex128. Save one image"),
    ],
)
def test_what_does_not_fit_is_named(source, channels, dtype, message):
    with pytest.raises(ImageError, match=message):
        read_image(source, channels, dtype)


def test_whole_numbers_of_any_size_are_taken_where_they_fit():
    for dtype in (np.int32, np.uint32, np.int64):
        image = read_image(FIVE.astype(dtype), 5, "uint16")
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, FIVE)


def test_one_bit_is_black_and_white(tmp_path):
    """Shown, and written to a COCO file with five channels."""
    bits = FIVE > 20000
    np.testing.assert_array_equal(as_picture(bits), bits[..., :3] * np.uint8(255))
    np.testing.assert_array_equal(as_picture(bits[..., :1]), np.repeat(bits[..., :1], 3, 2) * np.uint8(255))
    mask = np.ones((20, 30), np.uint8)
    ArrayDataset([bits], [[mask]]).to_coco(tmp_path / "a.json")
    written = CocoDataset(tmp_path / "a.json", tmp_path / "a_images").load_image(0, None, None)
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, bits * np.uint8(255))


def test_a_file_that_does_not_fit_is_named_by_its_path(tmp_path):
    tifffile.imwrite(
        tmp_path / "stack.tif", np.zeros((2, 5, 20, 30), np.uint16), imagej=True, metadata={"axes": "ZCYX"}
    )
    with pytest.raises(ImageError, match=r"stack\.tif.*axes ZCYX"):
        read_image(tmp_path / "stack.tif", 5, "uint16")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "stack.tif").read_bytes()[:300])
    with pytest.raises(ImageError, match=r"cut\.tif"):
        read_image(tmp_path / "cut.tif", 5, "uint16")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(ImageError, match=r"words\.npy"):
        read_image(tmp_path / "words.npy", 5, "uint16")


def test_a_config_says_what_it_needs():
    with pytest.raises(ValueError, match="one number for each channel.*check-data"):
        MaskRCNNConfig(num_classes=1, pixel_mean=(1, 2, 3, 4))
    with pytest.raises(ValueError, match="pixel_std finite ones above 0"):
        MaskRCNNConfig(num_classes=1, pixel_mean=(1, 2), pixel_std=(1, 0))
    with pytest.raises(ValueError, match="ImageNet's.*check-data"):
        MaskRCNNConfig(num_classes=1, image_dtype="uint16")
    assert config_of(5, "uint16").num_channels == 5
    assert MaskRCNNConfig.from_dict(config_of(5, "uint16").to_dict()) == config_of(5, "uint16")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_view_resamples_every_channel_as_prediction_does(dtype):
    image = (FIVE // (1 if dtype != np.uint8 else 256)).astype(dtype)
    view = View(20, 30).resized(33, 47)
    expected = resize_bilinear(image, (33, 47))
    # Of 8 bits Pillow rounds rows, then columns; else whole numbers are rounded once; float32 has 24 bits.
    off = {np.uint8: 1.0, np.uint16: 0.501, np.float32: 0.02}[dtype]
    assert np.abs(view.pixels(image) - expected).max() <= off and view.pixels(image).dtype == dtype
    part = view.cropped(5, 7, 20, 30).flipped_horizontally().turned()
    assert np.abs(part.pixels(image) - np.rot90(expected[7:27, 5:35][:, ::-1])).max() <= off
    shrunk = View(20, 30).resized(9, 11)
    assert np.abs(shrunk.pixels(image) - resize_bilinear(image, (9, 11))).max() <= off


def test_a_free_turn_fills_each_channel_with_its_mean():
    fill = (100, 200, 300, 400, 50000)
    pixels = View(20, 30).rotated(90).pixels(FIVE, fill)
    assert pixels.dtype == np.uint16 and pixels[0, 0].tolist() == list(fill)  # 90 degrees leave the sides free
    np.testing.assert_array_equal(pixels[:, 5:25], np.rot90(FIVE)[5:25])
    dataset = ArrayDataset([FIVE], [[]])
    seen = DataLoader(dataset, config_of(5, "uint16"), 1).cache.read(0)
    assert seen.fill == (20000.0,) * 5 and seen.std == (9000.0,) * 5


def test_effects_act_on_wide_dtypes():
    gain = Recolor(np.concatenate([np.eye(5) * 0.5, np.full((5, 1), 100.0)], 1))
    np.testing.assert_array_equal(gain(FIVE), np.rint(FIVE * 0.5 + 100).astype(np.uint16))
    assert Recolor(np.eye(5, 6) * 3)(FIVE).max() == 65535  # clipped, not wrapped
    of_rgb = Recolor(np.concatenate([np.eye(3) * 0.5, np.full((3, 1), 100.0)], 1))  # the same for each channel
    for channels in (1, 5):
        np.testing.assert_array_equal(of_rgb(FIVE[..., :channels]), gain(FIVE)[..., :channels])
    flat = np.full((40, 40, 5), 30000, np.uint16)
    np.testing.assert_array_equal(Blur(1.5)(flat), flat)
    noise = Noise((10.0, 100.0, 1000.0, 1.0, 0.0), 3)(np.repeat(flat, 4, 0)).astype(float) - 30000
    np.testing.assert_allclose(noise.std((0, 1)), (10, 100, 1000, 1.04, 0), rtol=0.06)  # 1.04: rounding adds 1/12
    sample = Sample.whole(FIVE, (), std=(9000.0,) * 5)
    drawn = RandomNoise(5.76, 5.76)(sample, np.random.default_rng(0)).effects[0].deviation
    np.testing.assert_allclose(drawn, (900.0,) * 5)  # a tenth of the deviation, as 5.76 is of ImageNet's 57.6
    contrast = ColorJitter(0.0, 0.5)(sample, np.random.default_rng(0)).network_image().astype(float)
    ratio = contrast.std((0, 1)) / FIVE.std((0, 1))
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.01)  # each channel about its own mean
    assert abs(ratio[0] - 1) > 0.05 and np.abs(contrast.mean((0, 1)) - FIVE.mean((0, 1))).max() < 400
    with pytest.raises(ValueError, match="5 channels. Set hue"):
        ColorJitter(0, 0, 0, 0.1)(sample, np.random.default_rng(0)).network_image()
    with pytest.raises(ValueError, match="5 channels. Leave RandomJpeg out"):
        RandomJpeg()(sample, np.random.default_rng(0)).network_image()
    assert RandomBlur()(sample, np.random.default_rng(0)).network_image().dtype == np.uint16


def test_presets_leave_out_what_has_no_meaning():
    for channels, dtype in ((5, "uint16"), (3, "uint16"), (4, "uint8")):
        listed = str(preset("strong", config_of(channels, dtype)))
        assert "Jpeg" not in listed and "saturation=0.0, hue=0.0" in listed and "RandomNoise" in listed
    masks = np.zeros((1, 20, 30), np.uint8)
    masks[0, 4:14, 6:20] = 1
    config = config_of(5, "uint16")
    loader = DataLoader(ArrayDataset([FIVE] * 4, [masks] * 4), config, 4, augmentation="strong")
    for _ in range(6):  # every part of it comes up
        batch = check_batch(loader[0], config)
        assert batch["images"].dtype == np.uint16 and batch["images"].shape == (4, 32, 32, 5)
        loader.on_epoch_end()


@pytest.mark.parametrize("blend", [0.0, 1.0])
def test_copy_paste_keeps_values(blend):
    base = Sample.whole(np.full((40, 50, 5), 1000, np.uint16), ())
    mask = np.zeros((1, 20, 30), np.uint8)
    mask[0, 4:14, 6:20] = 1
    instances = ArrayDataset([FIVE], [mask])[0].instances
    sample = Sample.whole(base.image, (), draw=lambda rng: Sample.whole(FIVE, instances))
    pasted = CopyPaste(blend=blend)(sample, np.random.default_rng(1))
    (instance,) = pasted.instances
    x, y = instance.mask.x, instance.mask.y
    inner = (slice(4, 6), slice(4, 10)) if blend else (slice(0, 10), slice(0, 14))  # where the blend has not reached
    np.testing.assert_allclose(
        pasted.image[y : y + 10, x : x + 14][inner].astype(int), FIVE[4:14, 6:20][inner], rtol=0.001 if blend else 0
    )
    assert (base.image == 1000).all() and (pasted.image == 1000).any()


def resident(path):
    """Bytes of a mapped file that are in this process' memory."""
    with open("/proc/self/smaps", encoding="utf-8") as file:
        lines, found = file.read().splitlines(), 0
    for number, line in enumerate(lines):
        if line.endswith(str(path)):
            found += next(int(entry.split()[1]) for entry in lines[number + 1 :] if entry.startswith("Rss:")) * 1024
    return found


@pytest.mark.parametrize("kind", ["npy", "tif"])
def test_a_crop_of_a_large_image_reads_the_crop(tmp_path, kind):
    path, side = tmp_path / f"large.{kind}", 6000
    if kind == "npy":
        image = np.lib.format.open_memmap(path, "w+", np.uint8, (side, side, 3))  # a file with holes: fast
    else:
        image = tifffile.memmap(path, shape=(side, side, 3), dtype=np.uint8, photometric="rgb")
    image[2000:2010, 3000:3020] = (7, 80, 200)
    image.flush()
    del image
    masks = np.zeros((1, side, side), bool)
    masks[0, 2000:2010, 3000:3020] = True
    dataset = ArrayDataset([path], [masks])
    assert dataset.image_sizes == [(side, side)] and is_mapped(dataset.load_image(0))
    config = MaskRCNNConfig(num_classes=1, image_scale=1.0, gt_mask_size=14, max_instances=4)

    def crop_at_the_object(sample, rng):
        return sample.with_view(sample.view.cropped(2950, 1980, 128, 128), 0.1)

    crop_at_the_object.bound = lambda height, width: (128, 128)
    loader = DataLoader(dataset, config, 1, augmentation=[crop_at_the_object, ColorJitter(0.0, 0.0)])
    tracemalloc.start()
    sample = loader.cache.read(0)
    batch = loader[0]
    random = DataLoader(dataset, config, 1, augmentation=[RandomCrop(256)])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = np.zeros((128, 128, 3), np.uint8)
    expected[20:30, 50:70] = (7, 80, 200)
    np.testing.assert_array_equal(batch["images"][0], expected)
    np.testing.assert_allclose(batch["gt_boxes"][0, 0], [50, 20, 70, 30])
    assert random["images"].shape == (1, 256, 256, 3)
    assert peak < 8e6  # the image has 108 MB
    assert is_mapped(sample.image)
    try:
        assert resident(path) < 40e6, resident(path)
    except FileNotFoundError:
        pass  # no /proc: another system
    doubled = sample.view.resized(2 * side, 2 * side).cropped(6000, 4000, 20, 40)
    np.testing.assert_array_equal(doubled.pixels(sample.image)[1:18, 1:38], np.full((17, 37, 3), (7, 80, 200)))


def test_small_files_are_not_mapped(tmp_path, monkeypatch):
    np.save(tmp_path / "small.npy", FIVE)
    assert not is_mapped(read_image(tmp_path / "small.npy", 5, "uint16"))  # hundreds would be as many open files
    monkeypatch.setattr(decoding, "MAPPED_BYTES", 100)
    assert is_mapped(read_image(tmp_path / "small.npy", 5, "uint16"))


def test_cellpose_projects_are_no_images(tmp_path):
    from keras_maskrcnn.data.readers.folders import image_files

    for name in ("a.npy", "a_seg.npy", "b.tif"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in image_files(tmp_path)] == ["a.npy", "b.tif"]


@pytest.mark.tensorflow
def test_files_of_other_channels_in_the_graph():
    from keras_maskrcnn.serving.images_in_graph import read_batch

    def encoded(pixels, ending="PNG"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ending)
        return file.getvalue()

    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    wide, gray, rgb = FIVE[..., 0], rgba[..., 0], rgba[..., :3]
    for pixels, good, bad in (
        ((4, "uint8"), rgba, [encoded(rgb), encoded(rgb, "BMP"), b"nothing"]),
        ((1, "uint16"), wide[..., None], [encoded(gray), encoded(rgb)]),
        ((1, "uint8"), gray[..., None], [encoded(rgb)]),
    ):
        files = [encoded(np.squeeze(good)), *bad]
        batch = read_batch(np.array(files, object), lambda size: size, pixels)
        problems = [text.decode() for text in batch["problems"].numpy()]
        assert problems[0] == "" and all(problems[1:]), problems
        np.testing.assert_array_equal(batch["images"].numpy()[0], good.astype(np.float32))
        assert not batch["images"].numpy()[1:].any()
