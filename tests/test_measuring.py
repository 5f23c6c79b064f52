"""Measurements of objects: closed forms, scikit-image on the same masks, and sizes of pixels in files' metadata."""

import csv
import importlib.util
import math
import types
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from pyarrow import parquet
from skimage.measure import perimeter_crofton, regionprops_table

from keras_maskrcnn.data.images.pixel_size import PixelSize, read_pixel_size
from keras_maskrcnn.measuring import measure
from keras_maskrcnn.measuring.measurements import measured_rows
from keras_maskrcnn.measuring.shapes import crofton_perimeter, shape_of
from keras_maskrcnn.measuring.table_files import TableFile

SIZE = (120, 160)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
LENGTHS = ("perimeter", "major_axis", "minor_axis", "equivalent_diameter", "feret_diameter")


def ellipse(x, y, a, b, turned=0.0, size=SIZE):
    """Half axes a, b; `turned` radians from the x axis towards the y axis, which points down."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    along = (columns - x) * math.cos(turned) + (rows - y) * math.sin(turned)
    across = -(columns - x) * math.sin(turned) + (rows - y) * math.cos(turned)
    return (along / a) ** 2 + (across / b) ** 2 < 1


def found_of(*masks, labels=None):
    """What a predictor returns, each mask in its box with a margin."""
    windows = []
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        top, left = (max(0, side[0] - 2) if len(side) else 0 for side in (rows, columns))
        bottom, right = (side[-1] + 3 if len(side) else 4 for side in (rows, columns))
        windows.append((mask[top:bottom, left:right], int(left), int(top)))
    labels = [k % 2 for k in range(len(masks))] if labels is None else labels
    return types.SimpleNamespace(
        mask_windows=windows,
        labels=np.array(labels),
        scores=np.linspace(0.9, 0.5, len(masks)),
        class_names=("cell", "Röhre"),
        image_size=masks[0].shape,
    )


def pixels(channels=3, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (*SIZE, channels), dtype)


def test_discs_and_ellipses_have_the_numbers_of_their_formulas():
    disc, long = ellipse(40, 45, 25, 25), ellipse(110, 60, 36, 12, turned=math.radians(30))
    table = measure(found_of(disc, long), pixels(), pixel_size=0.5)
    area, circle = [math.pi * 25**2, math.pi * 36 * 12], math.pi * 50
    np.testing.assert_allclose(table["area_px"], area, rtol=0.01)
    np.testing.assert_allclose(table["area_um2"], np.array(area) / 4, rtol=0.01)
    np.testing.assert_allclose(table["major_axis_px"], [50, 72], rtol=0.01)
    np.testing.assert_allclose(table["minor_axis_um"], [25, 12], rtol=0.01)
    np.testing.assert_allclose(table["equivalent_diameter_px"], [50, 2 * math.sqrt(36 * 12)], rtol=0.01)
    np.testing.assert_allclose(table["feret_diameter_um"], [25, 36], atol=1)  # 2 pixels
    np.testing.assert_allclose(table["perimeter_um"][0], circle / 2, rtol=0.05)
    assert table["eccentricity"][0] < 0.1
    np.testing.assert_allclose(table["eccentricity"][1], math.sqrt(1 - (12 / 36) ** 2), rtol=0.01)
    # 30 degrees below the x axis is 60 degrees from the y axis, which points down; counter-clockwise.
    np.testing.assert_allclose(table["orientation"][1], math.radians(60), atol=0.01)
    np.testing.assert_allclose(table["centroid_x_px"], [40, 110], atol=0.05)
    np.testing.assert_allclose(table["centroid_y_um"], [22.5, 30], atol=0.05)
    assert table["class"].tolist() == ["cell", "Röhre"] and table["object"].tolist() == [1, 2]
    assert table["score"].tolist() == [0.9, 0.5] and table["image"].tolist() == ["", ""]


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_are_those_of_scikit_image_on_the_whole_mask(seed):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(5):  # rings and pairs of parts, rough, some at the border, most overlapping others
        x, y, a, b = rng.uniform([0, 0, 12, 8], [*SIZE[::-1], 40, 30])
        mask = ellipse(x, y, a, b, rng.uniform(0, 3)) & ~ellipse(x, y, a / 2, b / 3)
        masks.append((mask | ellipse(*rng.uniform(20, 100, 2), 5, 7)) & (rng.random(SIZE) < 0.95))
    image = pixels(2, np.uint16, seed)
    table = measure(found_of(*masks), image, pixel_size=(0.3, 0.3))
    names = {
        "area": "area", "perimeter": "perimeter", "axis_major_length": "major_axis",
        "axis_minor_length": "minor_axis", "equivalent_diameter_area": "equivalent_diameter",
        "feret_diameter_max": "feret_diameter",
    }  # fmt: skip
    for k, mask in enumerate(masks):
        properties = (*names, "eccentricity", "orientation", "centroid", *(f"intensity_{s}" for s in ("mean", "min")))
        for unit, spacing in (("px", 1.0), ("um", 0.3)):
            label = mask.astype(np.uint8)
            theirs = regionprops_table(label, image, (*properties, "intensity_max"), spacing=(spacing, spacing))
            for name, ours in names.items():
                power = "2" if name == "area" and unit == "um" else ""
                np.testing.assert_allclose(table[f"{ours}_{unit}{power}"][k], theirs[name][0], rtol=1e-9)
            half = 0.5 * spacing
            np.testing.assert_allclose(table[f"centroid_y_{unit}"][k], theirs["centroid-0"][0] + half, rtol=1e-9)
            np.testing.assert_allclose(table[f"centroid_x_{unit}"][k], theirs["centroid-1"][0] + half, rtol=1e-9)
        for name in ("eccentricity", "orientation"):
            np.testing.assert_allclose(table[name][k], theirs[name][0], rtol=1e-7)
        for statistic in ("mean", "min", "max"):
            for channel in range(2):
                expected = theirs[f"intensity_{statistic}-{channel}"][0]
                np.testing.assert_allclose(table[f"{statistic}_{channel}"][k], expected, rtol=1e-9)
        border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        assert table["touches_border"][k] == border


def test_pixels_that_are_not_square_are_measured_in_micrometres():
    # In pixels an ellipse, in micrometres a disc with a radius of 15; and a turned ellipse drawn in micrometres.
    disc = ellipse(80, 60, 30, 60, size=(120, 160))
    table = measure(found_of(disc), pixels(), pixel_size=(0.5, 0.25))
    assert table["eccentricity"][0] < 0.1 and table["touches_border"].tolist() == [True]
    for name, expected in [("area_um2", math.pi * 225), ("perimeter_um", math.pi * 30), ("major_axis_um", 30)]:
        np.testing.assert_allclose(table[name][0], expected, rtol=0.015, err_msg=name)
    np.testing.assert_allclose(table["feret_diameter_um"][0], 30, atol=1)
    np.testing.assert_allclose(table["major_axis_px"][0], 120, rtol=0.01)
    rows, columns = np.mgrid[:200, :100] + 0.5
    along = (columns * 0.5 - 25) * math.cos(0.5) + (rows * 0.25 - 25) * math.sin(0.5)
    across = (rows * 0.25 - 25) * math.cos(0.5) - (columns * 0.5 - 25) * math.sin(0.5)
    shape = shape_of((along / 18) ** 2 + (across / 9) ** 2 < 1, (0.25, 0.5))
    np.testing.assert_allclose(shape["orientation"], math.pi / 2 - 0.5, atol=0.01)
    np.testing.assert_allclose([shape["major_axis"], shape["minor_axis"]], [36, 18], rtol=0.01)
    h = ((18 - 9) / (18 + 9)) ** 2
    ramanujan = math.pi * 27 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    np.testing.assert_allclose(shape["perimeter"], ramanujan, rtol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_croftons_perimeter_is_that_of_scikit_image_where_pixels_are_square(seed):
    mask = np.random.default_rng(seed).random((20, 30)) < 0.7
    padded = np.pad(mask, 2)
    np.testing.assert_allclose(crofton_perimeter(mask, (3.0, 3.0)), 3 * perimeter_crofton(padded, 4), rtol=1e-9)


def test_parts_of_a_pixel_and_lines_and_empty_masks_have_numbers_or_none():
    dot, line, empty, two = np.zeros((4, *SIZE), bool)
    dot[5, 7] = line[10, 3:9] = two[3, 3] = two[4, 4] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = measure(found_of(dot, line, empty, two), pixels(), pixel_size=(2, 2))
    assert table["area_px"].tolist() == [1, 6, 0, 2] and table["area_um2"].tolist() == [4, 24, 0, 8]
    assert table["centroid_x_px"][:2].tolist() == [7.5, 6.0] and math.isnan(table["centroid_x_px"][2])
    assert math.isnan(table["mean_0"][2]) and table["minor_axis_px"][1] == 0
    assert table["feret_diameter_px"][1] >= 6


def test_objects_that_overlap_are_measured_each_on_its_own_mask():
    one, other = ellipse(50, 50, 20, 20), ellipse(60, 50, 20, 20)
    table = measure(found_of(one, other), pixels())
    assert table["area_px"].tolist() == [one.sum(), other.sum()]
    assert np.isnan(table["area_um2"]).all() and np.isnan(table["pixel_width_um"]).all()


def ome(path, array, **metadata):
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata={"axes": "YX"} | metadata)


def test_sizes_of_pixels_are_read_from_metadata(tmp_path):
    array = np.zeros((20, 30), np.uint16)
    path = tmp_path / "a.tif"
    micro = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    ome(path, array, PhysicalSizeX=0.25, PhysicalSizeY=0.5, **micro)
    assert read_pixel_size(path) == (0.25, 0.5, "OME metadata")
    ome(path, array, PhysicalSizeX=250, PhysicalSizeXUnit="nm")
    assert read_pixel_size(path)[:2] == (0.25, 0.25)
    ome(path, array, PhysicalSizeX=3, PhysicalSizeXUnit="pixel")
    assert read_pixel_size(path) is None
    tifffile.imwrite(path, array, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert read_pixel_size(path) == (0.25, 0.5, "ImageJ metadata")
    tifffile.imwrite(path, array, imagej=True, resolution=(4, 2), metadata={"unit": "micron"})
    assert read_pixel_size(path)[:2] == (0.25, 0.5)
    tifffile.imwrite(path, array, imagej=True, resolution=(4, 2), metadata={"unit": "pixel"})
    assert read_pixel_size(path) is None
    tifffile.imwrite(path, array, resolution=(40000, 20000), resolutionunit="CENTIMETER")
    assert read_pixel_size(path) == (0.25, 0.5, "TIFF resolution")
    tifffile.imwrite(path, array, resolution=(25400, 25400), resolutionunit="INCH")
    assert read_pixel_size(path)[:2] == (1, 1)
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, array, resolution=(40000, 20000), resolutionunit="CENTIMETER", extratags=turned)
    assert read_pixel_size(path)[:2] == (0.5, 0.25)
    for resolution, unit in (((72, 72), "INCH"), ((96, 96), "INCH"), ((300, 300), "NONE")):
        tifffile.imwrite(path, array, resolution=resolution, resolutionunit=unit)
        assert read_pixel_size(path) is None
    Image.fromarray(array.astype(np.uint8)).save(tmp_path / "a.png", dpi=(300, 300))
    assert read_pixel_size(tmp_path / "a.png") is None and read_pixel_size(array) is None


@pytest.mark.parametrize("text", ["<OME><Pixels</OME>", "<OME><Image/></OME>"])
def test_where_ome_metadata_hold_no_size_the_resolution_counts(tmp_path, text):
    path, size = tmp_path / "a.tif", {"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.zeros((20, 30), np.uint8), description=text, metadata=None, **size)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.ome_metadata == text
    assert read_pixel_size(path) == (0.25, 0.5, "TIFF resolution")


def test_a_damaged_file_has_no_size(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\xff" * 60)
    assert read_pixel_size(tmp_path / "a.tif") is None


def test_a_file_is_measured_in_its_own_values_and_size(tmp_path):
    image = pixels(1, np.uint16)[..., 0]
    ome(tmp_path / "a.ome.tif", image, PhysicalSizeX=0.5, PhysicalSizeXUnit="µm")
    mask = ellipse(50, 50, 20, 20)
    table = measure(found_of(mask), tmp_path / "a.ome.tif")
    assert table["image"].tolist() == [str(tmp_path / "a.ome.tif")] and table["max_0"][0] == image[mask].max()
    assert table["area_um2"][0] == mask.sum() / 4 and "max_1" not in table
    assert measure(found_of(mask), str(tmp_path / "a.ome.tif"), pixel_size=2)["area_um2"][0] == mask.sum() * 4
    alpha = np.concatenate([pixels(), np.full((*SIZE, 1), 7, np.uint8)], axis=2)
    Image.fromarray(alpha).save(tmp_path / "a.png")
    assert {"mean_2", "min_2"} <= set(measure(found_of(mask), tmp_path / "a.png")) - {"mean_3"}


def test_mistakes_are_told_with_the_remedy():
    found = found_of(ellipse(50, 50, 20, 20))
    with pytest.raises(ValueError, match=r"found in, \(120, 160\).*Received an array of \(120, 150\)"):
        measure(found, pixels()[:, :150])
    for wrong in (0, -1, (1, 2, 3), "wide", float("nan")):
        with pytest.raises(ValueError, match="pixel_size=... must be micrometres above 0"):
            measure(found, pixels(), pixel_size=wrong)
    del found.mask_windows
    with pytest.raises(ValueError, match="without a mask branch"):
        measure(found, pixels())


def test_no_object_gives_columns_without_rows():
    found = found_of(ellipse(50, 50, 20, 20))
    found.mask_windows, found.labels, found.scores = [], np.zeros(0, int), np.zeros(0)
    table = measure(found, pixels())
    assert len(table["area_px"]) == 0 and {"image", "class", "perimeter_um"} <= set(table)


def test_the_size_of_pixels_may_be_given_as_one():
    table = measure(found_of(ellipse(50, 50, 20, 20)), pixels(), PixelSize(0.5, 0.5))
    assert table["pixel_width_um"].tolist() == [0.5]


def rows_of(count, channels=1):
    rows = measured_rows(found_of(*[ellipse(50, 50, 10 + k, 10) for k in range(count)]), pixels(channels))
    return [row | {"image": "a,b.png"} for row in rows]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_have_the_channels_of_all_images(tmp_path, ending):
    path = tmp_path / "new" / f"cells.{ending}"
    with TableFile(path) as table:
        table.add(rows_of(2))
        assert not path.exists()
        table.add(rows_of(1, channels=3))
    if ending == "csv":
        read = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
        assert read[0]["mean_2"] == read[0]["area_um2"] == "" and read[0]["touches_border"] == "false"
        read = [{name: float(row[name] or "nan") for name in ("area_px", "mean_0", "mean_2")} | row for row in read]
    else:
        read = parquet.read_table(path).to_pylist()
        assert read[0]["mean_2"] is None and read[0]["area_um2"] is None and read[0]["touches_border"] is False
    assert [row["image"] for row in read] == ["a,b.png"] * 3 and [row["class"] for row in read][:2] == ["cell", "Röhre"]
    for row, expected in zip(read, rows_of(2) + rows_of(1, 3)):
        np.testing.assert_allclose(float(row["area_px"]), expected["area_px"], rtol=1e-9)
        np.testing.assert_allclose(float(row["mean_0"]), expected["mean_0"], rtol=1e-9)
    assert [path.name for path in path.parent.iterdir() if not path.name.startswith(".")] == [path.name]


def test_the_rows_of_a_csv_file_are_those_that_were_written(tmp_path):
    rows = [rows_of(1)[0] | {"image": ""}, *rows_of(1, channels=3)]
    with TableFile(tmp_path / "a.csv") as table:
        table.add(rows)
    for ending in ("csv", "parquet"):
        with TableFile(tmp_path / f"b.{ending}") as table:
            table.add_csv(tmp_path / "a.csv")
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    read = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert [row["image"] for row in read] == ["", "a,b.png"] and [row["object"] for row in read] == [1, 1]
    assert read[0]["mean_2"] is None and read[1]["mean_2"] == pytest.approx(rows[1]["mean_2"], rel=1e-9)
    assert [row["area_um2"] for row in read] == [None, None] and read[0]["touches_border"] is False


def test_a_table_is_written_also_when_the_work_stops_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), TableFile(path) as table:
        table.add(rows_of(2))
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert len(path.read_text().splitlines()) == 3
    with TableFile(path) as table, pytest.raises(OSError, match="cells.csv"), TableFile(path):
        pass
    assert path.read_text().startswith("image,object,class,score,touches_border,area_px,")


def test_tables_have_an_ending_and_parquet_its_package(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ends in .csv or .parquet. Received: cells.xlsx"):
        TableFile("cells.xlsx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"keras-maskrcnn\[parquet\]"):
        TableFile(tmp_path / "cells.parquet")
