"""Shapes of `segmentation`: what is read, noted and refused; outlines far outside the image; run lengths."""

import json
import math
import warnings

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from keras_maskrcnn.data import CocoDataset, Polygons, RunLengths
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, Notes
from keras_maskrcnn.data.readers.outlines import ellipse, polygon_mask
from keras_maskrcnn.data.readers.segmentations import read_segmentation
from keras_maskrcnn.geometry import polygons, rle

HEIGHT, WIDTH = 20, 30
SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]
POINTS = [[2, 3], [8, 3], [8, 9], [2, 9]]
OTHER = [12, 3, 18, 3, 18, 9, 12, 9]


def pixels(mask, height=HEIGHT, width=WIDTH):
    full = np.zeros((height, width), np.uint8)
    window = mask.window(height, width)
    rows, columns = window.pixels.shape
    full[window.y : window.y + rows, window.x : window.x + columns] = window.pixels
    return full


def square(*corners):
    full = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2 in corners or [(2, 3, 8, 9)]:
        full[y1:y2, x1:x2] = 1
    return full


def read(segmentation):
    """(mask, box, sentences of the notes)."""
    notes = Notes()
    mask, box = read_segmentation(segmentation, HEIGHT, WIDTH, lambda what: notes.add(what, "annotation 1"))
    return mask, box, notes.sentences("a.json")


def refused(segmentation):
    with pytest.raises(FaultyAnnotation) as caught:
        read(segmentation)
    return " ".join(caught.value.args)


RUNS = [2 * HEIGHT + 3] + [6, 14] * 5 + [6]
RUNS.append(HEIGHT * WIDTH - sum(RUNS))
CODE = {"size": [HEIGHT, WIDTH], "counts": RUNS}


@pytest.mark.parametrize(
    "segmentation, note",
    [
        ([SQUARE], None),
        (CODE, None),
        ({**CODE, "size": [float(HEIGHT), float(WIDTH)]}, None),
        ({**CODE, "counts": [float(run) for run in RUNS]}, None),
        (SQUARE, "flat list of numbers"),
        (POINTS, "list of points"),
        ([POINTS], "lists of points"),
        ([[SQUARE]], "superfluous brackets"),
        ([[[SQUARE]]], "superfluous brackets"),
        ([[[POINTS]]], "superfluous brackets"),
        ([SQUARE, []], "empty lists"),
        ([[], SQUARE], "empty lists"),
        ([[str(value) for value in SQUARE]], "is text and was read as a number"),
        ([CODE], "list of run lengths"),
        ([SQUARE, [20, 4, 20, 5]], "left out parts"),  # two points
        ([[20, 4], SQUARE], "left out parts"),  # one point
        ([SQUARE, [20, 4, 25, 4, 25]], "left out parts"),  # an odd number of values
        ([SQUARE, [20, 4, 22, 6, 24, 8]], "left out parts"),  # on a line
        ([SQUARE, [20, 4] * 4], "left out parts"),
        ([SQUARE, SQUARE], None),
    ],
)
def test_what_means_one_thing_is_read_with_a_note(segmentation, note):
    mask, box, notes = read(segmentation)
    assert box.tolist() == [2, 3, 8, 9]
    np.testing.assert_array_equal(pixels(mask), square())
    assert bool(notes) == (note is not None)
    assert note is None or note in notes[0] and notes[0].startswith("a.json: ")


def test_several_parts_with_other_brackets_are_their_union():
    for segmentation in ([SQUARE, OTHER], [POINTS, OTHER], [[SQUARE, OTHER]], [[SQUARE], [OTHER]], [[POINTS], OTHER]):
        mask, box, _ = read(segmentation)
        np.testing.assert_array_equal(pixels(mask), square((2, 3, 8, 9), (12, 3, 18, 9)))
        assert box.tolist() == [2, 3, 18, 9]


@pytest.mark.parametrize(
    "segmentation, words",
    [
        (None, ["no segmentation", "Received None"]),
        ([], ["no segmentation", "Received []"]),
        ([[]], ["no segmentation", "Received [[]]"]),
        ([[], []], ["no segmentation"]),
        ([[[]]], ["no segmentation"]),
        ("", ["no segmentation"]),
        ("[[1, 2]]", ["list of polygons", "'[[1, 2]]'"]),
        (5, ["list of polygons", "Received 5"]),
        (True, ["list of polygons", "Received True"]),
        (SQUARE[:-1], ["flat list", "7 values, which is odd", "[2, 3, 8, 3, 8, 9, 2]"]),
        ([SQUARE[:4]], ["at least three points", "[[2.0, 3.0], [8.0, 3.0]]"]),
        ([[1, 2], [3, 4]], ["at least three points", "[[1.0, 2.0], [3.0, 4.0]]"]),
        ([SQUARE[:4], [5, 6]], ["at least three points"]),
        ([20, 20, 60, [20, 60]], ["side by side", "Put brackets around the numbers of each polygon"]),
        ([SQUARE, 5], ["side by side"]),
        ([SQUARE, None], ["side by side"]),
        ([[[[[[[[[[[SQUARE]]]]]]]]]]], ["too many brackets"]),
        ([[2, 3, 8, None, 8, 9]], ["a coordinate must be a finite number", "Received None"]),
        ([[2, 3, 8, "x", 8, 9]], ["a coordinate must be a finite number", "'x'"]),
        ([[2, 3, 8, 3, 8, math.nan]], ["finite", "nan"]),
        ([[2, math.nan, 8, 3, 8, 9]], ["finite", "nan"]),
        ([[math.nan, 3, 8, 3, 8, 9]], ["finite", "nan"]),
        ([SQUARE, [2, 3, 8, 3, 8, math.inf]], ["finite", "inf"]),
        ([[2, 3, 8, 3, 8, 1e300]], ["within 1e+09 pixels", "1e+300"]),
        ([[2, 3, 8, 3, 8, 10**300]], ["within 1e+09 pixels", "1e+300"]),
        ([[2, 3, 8, 3, 8, 10**400]], ["a coordinate must be a finite number"]),
        ([[True, False, True, True, False, True]], ["a coordinate must be a finite number", "Received True"]),
        ([{"size": [HEIGHT, WIDTH]}], ["`counts`", "Received None"]),
        ({}, ["must have the size of its image, [20, 30]", "Received None"]),
        ({**CODE, "size": [WIDTH, HEIGHT]}, ["[20, 30]", "sides are swapped"]),
        ({**CODE, "size": "20x30"}, ["[20, 30]", "'20x30'"]),
        ({**CODE, "size": 600}, ["[20, 30]", "600"]),
        ({**CODE, "counts": None}, ["`counts`", "None"]),
        ({**CODE, "counts": {}}, ["`counts`"]),
        ({**CODE, "counts": 600}, ["`counts`", "600"]),
        ({**CODE, "counts": [600, 1]}, ["sum to 20 x 30", "a sum of 601"]),
        ({**CODE, "counts": [-1, 601]}, ["cannot be read", "negative", "-1"]),
        ({**CODE, "counts": [0.5, 599.5]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": [math.nan, 600]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": ["600"]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": [[600]]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": [[600], 1]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": [2**63, 2**63, 600]}, ["cannot be read"]),
        ({**CODE, "counts": [2**62, 2**62, 2**62, 2**62, 600]}, ["cannot be read"]),
        ({**CODE, "counts": [10**30]}, ["cannot be read"]),
        ({**CODE, "counts": [True, False]}, ["cannot be read", "whole numbers"]),
        ({**CODE, "counts": "o"}, ["cannot be read", "damaged"]),
        ({**CODE, "counts": "é0"}, ["cannot be read", "damaged"]),
        ({**CODE, "counts": "\ud800"}, ["cannot be read", "damaged"]),
        ({**CODE, "counts": "o" * 40 + "0"}, ["cannot be read", "damaged"]),
        ({**CODE, "counts": "00"}, ["sum to 20 x 30"]),
        ({**CODE, "counts": [HEIGHT * WIDTH]}, ["mask is empty"]),
        ([[40, 3, 50, 3, 50, 9]], ["covers no area", "[40.0, 3.0]"]),
        ([[5, 3, 5, 4, 5, 9]], ["covers no area"]),
    ],
)
def test_what_is_damaged_or_ambiguous_is_refused(segmentation, words):
    message = refused(segmentation)
    for word in words:
        assert word in message, message
    assert len(message) < 600


def test_a_list_of_points_with_three_values_each_is_no_polygon():
    # [x, y, visible]: read as flat parts of three values, each of which is odd.
    assert "3 values, which is odd" in refused([[2, 3, 0], [8, 3, 0], [8, 9, 0]])


def test_degenerate_parts_are_faults_where_nobody_is_told():
    with pytest.raises(FaultyAnnotation, match="at least three points"):
        polygon_mask([SQUARE, [20, 4, 20, 5]], HEIGHT, WIDTH)


# Outlines far outside the image --------------------------------------------------------------------------------


def by_pycocotools(points, height, width):
    return coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], height, width))[..., 0]


def by_columns(points, height, width):
    runs = polygons.column_runs(points, height, width)
    assert runs.sum() == height * width and (runs[1:] > 0).all() and (runs >= 0).all()
    return rle.decode_window(runs, height, [0, 0, width, height])


@pytest.mark.parametrize("seed", range(8))
def test_columns_of_the_image_alone_give_the_pixels_of_pycocotools(seed):
    rng, partly = np.random.default_rng(seed), 0
    for trial in range(150):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        far = 10 ** rng.uniform(0, 4)
        points = rng.uniform(-far, far + 40, (rng.integers(3, 9), 2))
        if trial % 3 == 0:
            points = np.round(points)
        if trial % 5 == 0:
            points[1] = points[0]  # a side without length
        if trial % 7 == 0:
            points[0, trial % 2] = points[-1, trial % 2]  # an upright or a level side
        expected = by_pycocotools(points, height, width)
        np.testing.assert_array_equal(by_columns(points, height, width), expected)
        partly += 0 < expected.sum() < expected.size
    assert partly > 20


def test_a_far_corner_changes_no_pixel_of_the_image():
    points = np.array([[10, 10], [3e5, 77], [2e5, 4e5], [-1e5, 3e5]], float)
    assert polygons.is_long(points)
    expected = by_pycocotools(points, 60, 80)
    assert 0 < expected.sum() < expected.size
    notes = Notes()
    mask, box = polygon_mask([points], 60, 80, note=lambda what: notes.add(what, "annotation 1"))
    np.testing.assert_array_equal(pixels(mask, 60, 80), expected)
    assert isinstance(mask, RunLengths) and len(mask.counts) < 200
    rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
    assert box[[0, 2]].tolist() == [columns[0], columns[-1] + 1] and box[1] <= rows[0] and box[3] >= rows[-1] + 1
    assert "cut off outlines at the border" in notes.sentences("a")[0]
    np.testing.assert_array_equal(pixels(Polygons((points,)), 60, 80), expected)


@pytest.mark.parametrize("far", [1e8, 9.9e8])
def test_corners_beyond_any_integer_of_pycocotools_are_cut_in_no_time(far):
    mask, _ = polygon_mask([[[10, 10], [far, 10], [far, far], [10, far]], SQUARE], 60, 80)
    expected = np.zeros((60, 80), np.uint8)
    expected[10:, 10:] = 1
    expected[3:9, 2:8] = 1
    np.testing.assert_array_equal(pixels(mask, 60, 80), expected)


def test_outlines_near_the_image_stay_polygons():
    points = np.array([[-500, -500], [3000, -500], [3000, 3000], [-500, 3000]], float)
    assert not polygons.is_long(points)
    mask, box = polygon_mask([points], 60, 80)
    assert isinstance(mask, Polygons) and box.tolist() == [0, 0, 80, 60]


def test_an_outline_that_fills_memory_is_a_fault():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 8000, (20_000, 2))
    with pytest.raises(FaultyAnnotation, match="cross the columns of its image 8388608 times.*20000"):
        polygon_mask([points], 8000, 8000)
    with pytest.raises(ValueError, match="At most 1000000 points in an outline"):
        polygon_mask([np.zeros((1_000_001, 2))], 100, 100)


@pytest.mark.parametrize("radius", [0, -1, math.nan, math.inf, 1e13])
def test_radii_of_no_circle_are_refused(radius):
    with pytest.raises(FaultyAnnotation, match="positive radii of at most 1e\\+09 pixels"):
        ellipse(5, 5, radius, 5)
    assert len(ellipse(5, 5, 1e9, 5)) < 1_000_000


# In files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path):
    """Writes an image and annotations with the given segmentations; returns a function that opens them."""
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 50, np.uint8)).save(tmp_path / "a.png")

    def open_with(*segmentations, image=None, **keywords):
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH, **(image or {})}],
            "annotations": [
                {"id": number, "image_id": 1, "category_id": 1, "segmentation": segmentation}
                for number, segmentation in enumerate(segmentations, start=1)
            ],
            "categories": [{"id": 1, "name": "leaf"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        return CocoDataset(tmp_path / "a.json", tmp_path, **keywords)

    return open_with


def test_an_object_with_a_part_of_two_points_stays_and_is_counted(opened):
    with pytest.warns(UserWarning, match=r"a\.json: left out parts.*\(annotation 1 of .*a\.png and 1 more\)"):
        dataset = opened([SQUARE, [20, 4, 20, 5]], [OTHER, [20, 4]], [SQUARE])
    assert [len(instance.mask.parts) for instance in dataset[0].instances] == [1, 1, 1]
    assert len(dataset.notes) == 1 and dataset.faults == []


def test_far_outlines_come_back_as_small_files(opened):
    with pytest.warns(UserWarning, match="cut off outlines"):
        dataset = opened([[10, 10, 1e8, 10, 1e8, 1e8, 10, 1e8]])
    (annotation,) = dataset.to_coco()["annotations"]
    assert annotation["area"] == 200 and annotation["bbox"] == [10, 10, 20, 10]
    np.testing.assert_array_equal(pixels(dataset[0].instances[0].mask), square((10, 10, 30, 20)))


def test_large_stated_sizes_are_compared_with_the_file_before_a_mask_is_made(opened):
    large = {"height": 60_000, "width": 60_000}
    whole = [[0, 0, 60_000, 0, 60_000, 60_000, 0, 60_000]]
    with pytest.raises(ValueError, match=r"image 1 .*a\.png.*60000 x 60000.*Received a file of 20 x 30"):
        opened(whole, image=large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 20 x 30 is too small to be compared here
        assert len(opened([SQUARE])) == 1
