"""Large images: read in parts, predicted tile by tile, merged and written on the way; killed runs go on."""

import csv
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from disc_finder import DiscFinder, disc_picture
from known_answers import KnownModel, small_config

from keras_maskrcnn.data import read_image
from keras_maskrcnn.data.images.forms import ImageError
from keras_maskrcnn.gigapixels import outputs, predict_large
from keras_maskrcnn.gigapixels.sources import is_large, open_large
from keras_maskrcnn.inference.predictor import Predictor

zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'keras-maskrcnn[wsi]'")
SIDE = 800


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(path of a zarr folder, its pixels, numbers of the objects): 16 discs and a bar over the whole width."""
    picture, truth = disc_picture(SIDE, 60, 200, long=True)
    path = tmp_path_factory.mktemp("large") / "discs.zarr"
    array = zarr.create_array(path, shape=picture.shape, chunks=(256, 256), dtype="uint8")
    array[:] = picture
    return path, picture, truth


def results(folder):
    """(rows of the table, features, label image) of an output folder."""
    rows = list(csv.DictReader((folder / "objects.csv").open(encoding="utf-8", newline="")))
    features = json.loads((folder / "objects.geojson").read_text(encoding="utf-8"))["features"]
    return rows, features, zarr.open_array(folder / "labels.zarr", mode="r")[:]


def check(folder, picture, truth):
    """Every object is in all three files once, to the pixel."""
    rows, features, labels = results(folder)
    numbers = [k for k in np.unique(truth) if k]
    assert len(rows) == len(features) == labels.max() == len(numbers)
    np.testing.assert_array_equal(labels > 0, truth > 0)
    pairs = {(int(a), int(b)) for a, b in zip(labels[truth > 0], truth[truth > 0], strict=True)}
    assert len(pairs) == len(numbers)
    for number, (row, one) in enumerate(zip(rows, features, strict=True), start=1):
        mask = labels == number
        assert int(row["object"]) == one["properties"]["measurements"]["object"] == number
        assert float(row["area_px"]) == mask.sum()
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(
            [float(row["centroid_x_px"]), float(row["centroid_y_px"])], [xs.mean() + 0.5, ys.mean() + 0.5]
        )
        np.testing.assert_allclose(float(row["mean_0"]), picture[mask].mean())
        ring = np.array(one["geometry"]["coordinates"][0])
        assert ring.min(0).tolist() == [xs.min(), ys.min()] and ring.max(0).tolist() == [xs.max() + 1, ys.max() + 1]
        edge = bool(xs.min() == 0 or ys.min() == 0 or xs.max() == len(picture) - 1 or ys.max() == len(picture) - 1)
        assert row["touches_border"] == str(edge).lower()
        level = int(np.median(picture[mask]))
        assert row["class"] == one["properties"]["classification"]["name"] == ("bright" if level > 150 else "dim")
    return rows


def test_a_model_without_masks_is_refused_before_anything_is_written(tmp_path):
    """The pieces of one object in several tiles could not be joined."""
    predictor = Predictor(KnownModel(small_config(1, branches=()), []))
    with pytest.raises(ValueError, match="Tiles are joined by masks.* Received the branches: none. Leave tile=... out"):
        predict_large(predictor, tmp_path / "none.zarr", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_every_object_is_written_once_also_one_longer_than_all_tiles(scene, tmp_path):
    path, picture, truth = scene
    steps = []
    finder = DiscFinder()
    done = predict_large(finder, path, tmp_path / "a", tile=300, overlap=0.35, progress=lambda *at: steps.append(at))
    check(tmp_path / "a", picture, truth)
    assert done.objects == len(np.unique(truth)) - 1 and done.tiles == finder.calls == 16
    assert steps == [(k + 1, 16) for k in range(16)]
    before = {file.name: file.read_bytes() for file in (tmp_path / "a").glob("*.*") if file.is_file()}
    again = predict_large(DiscFinder(pytest.fail), path, tmp_path / "a", tile=300, overlap=0.35)
    assert again == done and all((tmp_path / "a" / name).read_bytes() == text for name, text in before.items())


@pytest.mark.parametrize(
    "death, moment",
    [
        (5, "writing"),
        pytest.param(0, "predicting", marks=pytest.mark.slow),
        pytest.param(7, "predicting", marks=pytest.mark.slow),
        pytest.param(2, "writing", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_files(scene, tmp_path, death, moment):
    path, picture, truth = scene
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, str(here / "disc_finder.py"), str(path), str(tmp_path / "a"), str(death), moment]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    finder = DiscFinder()
    predict_large(finder, path, tmp_path / "a", tile=350)
    check(tmp_path / "a", picture, truth)
    assert finder.calls <= 9 - (death if moment == "predicting" else 1)
    predict_large(DiscFinder(), path, tmp_path / "b", tile=350)
    for name in ("objects.csv", "objects.geojson"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


class Stop(Exception):
    """Ends a run at a chosen moment."""


@pytest.mark.parametrize("step, count", [("add_tile", 3), ("add_done", 1), ("write", 4), ("_append", 3), ("_paint", 2)])
def test_a_run_that_stops_at_any_step_goes_on(scene, tmp_path, monkeypatch, step, count):
    from keras_maskrcnn.gigapixels import journal

    path, picture, truth = scene
    owner = journal.Journal if step.startswith("add") else outputs.Outputs
    original, calls = getattr(owner, step), []

    def stopping(self, *arguments):
        calls.append(step)
        if len(calls) == count:
            raise Stop
        return original(self, *arguments)

    monkeypatch.setattr(owner, step, stopping)
    with pytest.raises(Stop):
        predict_large(DiscFinder(), path, tmp_path / "a", tile=400)
    with open(tmp_path / "a" / "tiles.jsonl", "ab") as file:
        file.write(b'{"tile": 3, "pie')  # a line that a kill cut off
    predict_large(DiscFinder(), path, tmp_path / "a", tile=400)
    check(tmp_path / "a", picture, truth)


def test_another_image_or_another_setting_does_not_go_on(scene, tmp_path):
    predict_large(DiscFinder(), scene[0], tmp_path / "a", tile=600, identity="one")
    for changed in ({"tile": 700}, {"overlap": 0.3}, {"identity": "two"}, {"pixel_size": 2}):
        with pytest.raises(ValueError, match="goes on with the settings that it began with"):
            predict_large(DiscFinder(), scene[0], tmp_path / "a", **{"tile": 600, "identity": "one"} | changed)


def test_where_objects_overlap_the_surest_has_the_pixels(tmp_path, monkeypatch):
    class Two(DiscFinder):
        """Two squares that overlap, the one that comes first is surer."""

        def predict(self, pixels):
            found = super().predict(pixels)
            found.boxes, found.labels, found.scores = [(10, 10, 30, 30), (20, 20, 40, 40)], [0, 1], [0.9, 0.8]
            found.mask_windows = [(np.ones((20, 20), bool), 10, 10), (np.ones((20, 20), bool), 20, 20)]
            return found

    zarr.create_array(tmp_path / "a.zarr", shape=(60, 60, 3), chunks=(60, 60, 3), dtype="uint8")
    predict_large(Two(), tmp_path / "a.zarr", tmp_path / "out")
    monkeypatch.setattr(outputs, "_AT_ONCE", 899)  # the two have 30 x 30 pixels: too many to be read at once
    predict_large(Two(), tmp_path / "a.zarr", tmp_path / "apart")
    assert (tmp_path / "apart" / "objects.csv").read_bytes() == (tmp_path / "out" / "objects.csv").read_bytes()
    rows, _, labels = results(tmp_path / "out")
    assert [(labels == k).sum() for k in (1, 2)] == [400, 300] and [row["area_px"] for row in rows] == ["400", "400"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path, monkeypatch):
    peaks = []
    for rows in (1, 6):
        array = zarr.create_array(tmp_path / f"{rows}.zarr", shape=(rows * 512, 512), chunks=(256, 256), dtype="uint8")
        picture, _ = disc_picture(512, 30, 64)
        for k in range(rows):
            array[k * 512 : (k + 1) * 512] = picture
        tracemalloc.start()
        done = predict_large(DiscFinder(), tmp_path / f"{rows}.zarr", tmp_path / f"out{rows}", tile=256)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert done.objects >= 60 * rows
    assert peaks[1] < 1.3 * peaks[0]


# Sources ---------------------------------------------------------------------------------------------------


def pixels_of(path):
    with open_large(path) as image:
        height, width = image.size
        return image.read(0, 0, width, height), image


RGB = np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8)


def pyramid(path, picture, **options):
    """A tiled TIFF with two smaller copies."""
    with tifffile.TiffWriter(path, bigtiff=True, ome=options.pop("ome", False)) as file:
        options = {"tile": (64, 64), "compression": "zlib"} | options
        file.write(picture, subifds=2, **options)
        options.pop("metadata", None)
        for step in (2, 4):
            small = picture[::step, ::step] if picture.shape[-1] == 3 else picture[..., ::step, ::step]
            file.write(small, subfiletype=1, **options)


def test_tiffs_are_read_in_parts(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    pyramid(path, RGB, ome=True, photometric="rgb", metadata=metadata)
    pixels, image = pixels_of(path)
    np.testing.assert_array_equal(pixels, RGB)
    assert image.size == (300, 420) and image.channels == 3 and image.pixel_size[:2] == (0.5, 0.5)
    with open_large(path) as image:
        np.testing.assert_array_equal(image.read(50, 10, 200, 90), RGB[10:90, 50:200])
    deep = np.random.default_rng(1).integers(0, 4000, (2, 300, 420), np.uint16)
    pyramid(path, deep, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    pixels, image = pixels_of(path)
    np.testing.assert_array_equal(pixels, np.moveaxis(deep, 0, -1))
    with open_large(path) as image:
        assert image.maximum() == deep.max() and image.dtype == np.uint16
    tifffile.imwrite(path, deep[0], photometric="minisblack")  # plain: mapped
    np.testing.assert_array_equal(pixels_of(path)[0], deep[0][..., None])
    tifffile.imwrite(path, RGB, photometric="rgb", planarconfig="contig", compression="zlib", rowsperstrip=16)
    np.testing.assert_array_equal(pixels_of(path)[0], RGB)
    alpha = np.dstack([RGB, np.full((300, 420), 9, np.uint8)])
    tifffile.imwrite(path, alpha, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64), compression="zlib")
    np.testing.assert_array_equal(pixels_of(path)[0], RGB)


def test_zarr_of_all_kinds_of_axes(tmp_path):
    def made(name, array, **options):
        node = zarr.create_array(tmp_path / name, shape=array.shape, chunks=array.shape, dtype=array.dtype, **options)
        node[...] = array
        return tmp_path / name

    for name, array, options in [
        ("a", RGB, {}),
        ("b", np.moveaxis(RGB, -1, 0), {}),
        ("c", np.moveaxis(RGB, -1, 0), {"zarr_format": 2}),
        ("d", np.moveaxis(RGB, -1, 1), {"dimension_names": ("y", "c", "x")}),
        ("e", np.moveaxis(RGB, -1, 0)[None, :, None], {"dimension_names": ("t", "c", "z", "y", "x")}),
    ]:
        np.testing.assert_array_equal(pixels_of(made(name, array, **options))[0], RGB)
    group = zarr.open_group(tmp_path / "ome.zarr", mode="w")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1, 0.25, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}, {"path": "1"}]
    group.attrs["ome"] = {"multiscales": [{"axes": [{"name": "c", "type": "channel"}, *axes], "datasets": datasets}]}
    for name, step in (("0", 1), ("1", 2)):
        level = np.moveaxis(RGB, -1, 0)[:, ::step, ::step]
        group.create_array(name, shape=level.shape, chunks=(1, 64, 64), dtype="uint8")[:] = level
    pixels, image = pixels_of(tmp_path / "ome.zarr")
    np.testing.assert_array_equal(pixels, RGB)
    assert image.pixel_size == (0.5, 0.25, "OME-Zarr metadata")
    with pytest.raises(ImageError, match="one picture.*Save one plane"):
        pixels_of(made("many", np.zeros((2, 3, 20, 30), np.uint8)))


def test_a_group_may_hold_one_array_and_levels_may_have_no_size(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("pixels", shape=RGB.shape, chunks=RGB.shape, dtype="uint8")[:] = RGB
    pixels, image = pixels_of(tmp_path / "a.zarr")
    np.testing.assert_array_equal(pixels, RGB)
    assert image.pixel_size is None
    for axes, transformations in (
        (["y", "x", "c"], []),
        ([{"name": "y"}, {"name": "x", "unit": "micrometer"}, {"name": "c"}], [{"type": "scale", "scale": [1, 1, 1]}]),
    ):
        datasets = [{"path": "pixels", "coordinateTransformations": transformations}]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets}]
        pixels, image = pixels_of(tmp_path / "a.zarr")
        np.testing.assert_array_equal(pixels, RGB)
        assert image.pixel_size is None


FIVE = np.random.default_rng(2).integers(0, 256, (60, 90, 5), np.uint8)
PLANES = np.ascontiguousarray(FIVE.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "array, options",
    [
        (FIVE, {}),  # without names of the axes: rows, columns, channels
        (FIVE, {"metadata": {"axes": "ABC"}}),
        (FIVE, {"planarconfig": "contig", "compression": "zlib", "tile": (32, 32)}),
        (FIVE, {"planarconfig": "contig"}),
        (PLANES, {}),
        (PLANES, {"compression": "zlib"}),
        (PLANES[None], {}),
        (PLANES[:, None], {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        (PLANES, {"metadata": {"axes": "TYX"}}),
        (PLANES[0], {"metadata": {"axes": "AB"}}),
    ],
)
def test_axes_of_tiffs_are_those_of_images_that_are_read_whole(tmp_path, array, options):
    tifffile.imwrite(tmp_path / "a.tif", array, **{"photometric": "minisblack"} | options)
    expected = FIVE if array.ndim > 2 else FIVE[..., :1]
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", None, None), expected)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif")[0], expected)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 20, 30), np.uint8), np.zeros((2, 3, 4, 20, 30), np.uint8)])
def test_tiffs_of_several_pictures_are_refused(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with pytest.raises(ImageError, match=r"must be one picture.*a.tif of shape \(2, 3.*Save one plane and one point"):
        pixels_of(tmp_path / "a.tif")


def test_blocks_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    from keras_maskrcnn.gigapixels import sources

    zarr.create_array(tmp_path / "a.zarr", shape=(60, 60), chunks=(30, 60), dtype="uint16")
    monkeypatch.setattr(sources, "LARGEST_BLOCK", 3599)
    told = r"blocks of at most 3599 bytes. Received .*a.zarr with blocks of \(30, 60\), 3600 bytes. Save it in tiles"
    with pytest.raises(ImageError, match=told):
        pixels_of(tmp_path / "a.zarr")


def test_missing_packages_are_named_with_the_remedy(scene, tmp_path, monkeypatch):
    for name in ("zarr", "openslide"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.svs").write_bytes(b"slide")
    assert is_large(tmp_path / "a.svs") and is_large(scene[0])
    remedy = r"Install it: pip install 'keras-maskrcnn\[wsi\]'.$"
    with pytest.raises(ImportError, match=rf"Reading .*a.svs needs OpenSlide. Received: .*openslide.*{remedy}"):
        pixels_of(tmp_path / "a.svs")
    with pytest.raises(ImportError, match=rf"Reading .*zarr in parts needs zarr. Received: it is not.*{remedy}"):
        pixels_of(scene[0])
    with pytest.raises(ImportError, match=rf"Large images need zarr, also to write labels.zarr. Received.*{remedy}"):
        predict_large(DiscFinder(), scene[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slides_are_read_by_openslide(tmp_path):
    pytest.importorskip("openslide", reason="openslide is not installed: pip install 'keras-maskrcnn[wsi]'")
    path = tmp_path / "a.svs"  # OpenSlide looks at the content: a generic TIFF
    pyramid(path, RGB, photometric="rgb", resolution=(40000, 20000), resolutionunit="CENTIMETER")
    pixels, image = pixels_of(path)
    np.testing.assert_array_equal(pixels, RGB)
    assert image.channels == 3 and image.size == (300, 420) and is_large(path)


def test_what_cannot_be_read_in_parts_is_named(tmp_path):
    with pytest.raises(ImageError, match="must be on this machine"):
        pixels_of(tmp_path / "none.zarr")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match="must be zarr, TIFF or one of .svs"):
        pixels_of(tmp_path / "a.png")
    for name in ["bad.tif"] + ["bad.svs"] * (importlib.util.find_spec("openslide") is not None):
        (tmp_path / name).write_bytes(b"no tiff")
        with pytest.raises(ImageError, match=f"must be complete, .*{name}"):
            pixels_of(tmp_path / name)
    pyramid(tmp_path / "cut.tif", RGB, photometric="rgb")
    whole = bytearray((tmp_path / "cut.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "cut.tif") as tiff:
        start = tiff.pages[0].dataoffsets[3]
    whole[start : start + 500] = bytes(500)
    (tmp_path / "cut.tif").write_bytes(whole)
    with pytest.raises(ImageError, match="must be complete, .*cut.tif"):
        pixels_of(tmp_path / "cut.tif")
    made = zarr.create_array(tmp_path / "cut.zarr", shape=(60, 60), chunks=(60, 60), dtype="uint8")
    made[:] = 7
    (block,) = [path for path in (tmp_path / "cut.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"]
    block.write_bytes(block.read_bytes()[:5])
    with pytest.raises(ImageError, match="must be complete, .*cut.zarr"):
        pixels_of(tmp_path / "cut.zarr")
    zarr.create_array(tmp_path / "text.zarr", shape=(9, 9), chunks=(9, 9), dtype="complex64")
    with pytest.raises(ImageError, match="An image holds numbers"):
        pixels_of(tmp_path / "text.zarr")
    tifffile.imwrite(tmp_path / "white.tif", RGB[..., 0], photometric="miniswhite", tile=(64, 64), compression="zlib")
    with pytest.raises(ImageError, match="gray or RGB, not turned"):
        pixels_of(tmp_path / "white.tif")
    group = zarr.open_group(tmp_path / "two.zarr", mode="w")
    for name in "ab":
        group.create_array(name, shape=(9, 9), chunks=(9, 9), dtype="uint8")
    with pytest.raises(ImageError, match="or hold one array"):
        pixels_of(tmp_path / "two.zarr")


def test_large_images_are_those_that_do_not_fit_or_cannot_be_read_whole(scene, tmp_path, monkeypatch):
    from keras_maskrcnn.gigapixels import sources

    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    assert is_large(scene[0]) and not is_large(tmp_path) and not is_large(tmp_path / "a.tif")
    monkeypatch.setattr(sources, "LARGE_PIXELS", 10_000)
    monkeypatch.setattr(sources, "_LOOKED_AT", 1000)
    assert is_large(tmp_path / "a.tif") and not is_large("s3://bucket/a.zarr")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + b"\xff" * 2000)
    assert not is_large(tmp_path / "damaged.tif")  # reading its pixels says what is wrong


def test_16_bits_are_scaled_alike_in_all_tiles(tmp_path):
    seen = []

    class Seeing(DiscFinder):
        config = type("Config", (), {"class_names": ("a", "b"), "branches": (), "image_dtype": "uint8"})

        def predict(self, pixels):
            seen.append((pixels.dtype.name, int(pixels[0, 0, 0])))
            return super().predict(pixels)

    array = zarr.create_array(tmp_path / "a.zarr", shape=(100, 200), chunks=(100, 100), dtype="uint16")
    array[:, :100], array[:, 100:] = 200, 4000  # 12 bits
    predict_large(Seeing(), tmp_path / "a.zarr", tmp_path / "out", tile=100, overlap=0)
    assert seen == [("uint8", round(200 * 255 / 4095)), ("uint8", round(4000 * 255 / 4095))]
