"""Run lengths: hand-written codes, pycocotools as the judge, and real masks pixel for pixel."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from keras_maskrcnn.data import CocoDataset, MaskWindow, Polygons, RunLengths
from keras_maskrcnn.geometry import rle


def random_masks():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 9), (9, 1), (5, 7), (40, 30)]:
        for share in (0.05, 0.5, 0.95):
            yield (rng.random((height, width)) < share).astype(np.uint8)
    blob = np.zeros((300, 200), np.uint8)
    blob[20:290, 3:190] = 1  # long runs: counts of more than one character
    yield blob


def placed(window, shape):
    full = np.zeros(shape, np.uint8)
    height, width = window.pixels.shape
    full[window.y : window.y + height, window.x : window.x + width] = window.pixels
    return full


def test_counts_read_columns_from_the_top_starting_with_zeros():
    # Columns of a 3 x 4 mask: (0 0 1) (1 1 0) (0 0 0) (0 1 1).
    runs = rle.parse_counts([2, 3, 5, 2])
    assert rle.extent(runs, 3).tolist() == [0, 0, 4, 3]
    mask = rle.decode_window(runs, 3, [0, 0, 4, 3])
    assert mask.tolist() == [[0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]]
    assert rle.decode_window(runs, 3, [1, 1, 2, 3]).tolist() == [[1], [0]]


@pytest.mark.parametrize("mask", random_masks())
def test_compressed_codes_decode_as_pycocotools_does(mask):
    code = coco_mask.encode(np.asfortranarray(mask))
    for counts in (code["counts"], code["counts"].decode()):
        runs = rle.parse_counts(counts)
        assert runs.sum() == mask.size
        height, width = mask.shape
        np.testing.assert_array_equal(rle.decode_window(runs, height, [0, 0, width, height]), mask)
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            found = rle.extent(runs, height)
            # Exact in x; in y it may be the whole height where a run goes on in the next column.
            assert found[[0, 2]].tolist() == [box[0], box[2]]
            assert found[1] <= box[1] and found[3] >= box[3]
            np.testing.assert_array_equal(placed(RunLengths(runs).window(*mask.shape), mask.shape), mask)


@pytest.mark.parametrize("mask", random_masks())
def test_windows_encode_as_pycocotools_does(mask):
    expected = rle.parse_counts(coco_mask.encode(np.asfortranarray(mask))["counts"])
    np.testing.assert_array_equal(rle.encode_window(mask, 0, 0, *mask.shape), expected)
    wide = np.pad(mask, ((2, 3), (4, 1)))
    runs = rle.encode_window(mask, 4, 2, *wide.shape)
    expected = rle.parse_counts(coco_mask.encode(np.asfortranarray(wide))["counts"])
    np.testing.assert_array_equal(runs, expected)


@pytest.mark.parametrize("counts", ["", "0~\x7f", b"\x01", [3, -1, 2], "o"])
def test_damaged_codes_are_errors(counts):
    with pytest.raises(ValueError, match="damaged"):
        rle.parse_counts(counts)


def test_polygons_fill_what_they_enclose():
    square = Polygons((np.array([[1, 2], [4, 2], [4, 6], [1, 6]], np.float64),))
    expected = np.zeros((8, 9), np.uint8)
    expected[2:6, 1:4] = 1
    np.testing.assert_array_equal(placed(square.window(8, 9), (8, 9)), expected)
    assert square.box(8, 9).tolist() == [1, 2, 4, 6]


def test_polygons_are_clipped_to_the_image_and_parts_united():
    parts = (
        np.array([[-5, -5], [2, -5], [2, 2], [-5, 2]], np.float64),
        np.array([[6, 6], [30, 6], [30, 30], [6, 30]], np.float64),
    )
    expected = np.zeros((8, 9), np.uint8)
    expected[:2, :2] = 1
    expected[6:, 6:] = 1
    mask = Polygons(parts)
    assert mask.box(8, 9).tolist() == [0, 0, 9, 8]
    np.testing.assert_array_equal(placed(mask.window(8, 9), (8, 9)), expected)


def test_a_polygon_thinner_than_a_pixel_may_have_none():
    sliver = Polygons((np.array([[1, 1], [3, 1], [3, 1.05]], np.float64),))
    assert sliver.window(8, 9).pixels.sum() == 0


def test_every_form_of_one_mask_is_the_same_coco_mask():
    mask = np.zeros((8, 9), np.uint8)
    mask[2:6, 1:4] = 1
    forms = [
        Polygons((np.array([[1, 2], [4, 2], [4, 6], [1, 6]], np.float64),)),
        RunLengths(rle.parse_counts(coco_mask.encode(np.asfortranarray(mask))["counts"])),
        MaskWindow(np.ones((4, 3), np.uint8), 1, 2),
    ]
    for form in forms:
        segmentation = form.segmentation(8, 9)
        code = coco_mask.frPyObjects(segmentation, 8, 9)
        code = coco_mask.merge(code) if isinstance(code, list) else code
        np.testing.assert_array_equal(coco_mask.decode(code), mask)


def test_masks_of_real_annotations_equal_pycocotools(shared_data):
    coco = pytest.importorskip("pycocotools.coco")
    for annotations, images in [
        ("coco_tiny/annotations/instances_val2017.json", "coco_tiny/val2017"),
        ("nuclei/val/annotations.json", "nuclei/val/images"),
    ]:
        dataset = CocoDataset(shared_data / annotations, shared_data / images)
        truth = coco.COCO(shared_data / annotations)
        for record in dataset.records[::10]:
            for instance in record.instances:
                expected = truth.annToMask(truth.anns[instance.annotation_id])
                window = instance.mask.window(record.height, record.width)
                np.testing.assert_array_equal(placed(window, expected.shape), expected)
