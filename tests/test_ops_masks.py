"""Masks: targets and pasting by hand, torchvision's pixels, and run lengths against pycocotools."""

import pathlib

import numpy as np
import pytest
from backend_tools import compiled, to_numpy

import keras_maskrcnn.ops as km_ops

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ops.npz")
MASKS, BOXES = GOLDEN["paste_masks"][:, 0], GOLDEN["paste_boxes"]
SIZE = (120, 160)


def sample(masks, windows, matched, rois, size, **options):
    """Targets of one image."""
    arrays = [np.asarray(a, "float32")[None] for a in (masks, windows, rois)]
    arrays.insert(2, np.asarray(matched, "int32")[None])
    function = compiled(lambda *args: km_ops.sample_masks(*args, size, **options))
    return to_numpy(function(*arrays))[0]


def test_a_roi_equal_to_its_window_gets_the_mask_itself():
    mask = np.random.default_rng(0).random((6, 6)) > 0.5
    window = [[3, 4, 15, 28]]
    np.testing.assert_allclose(sample([mask], window, [0], window, 6, sampling_ratio=1)[0], mask)


def test_target_is_the_average_over_bins():
    # Columns 0 0 1 1 over 8 px: half of the roi's first bin lies on the last empty column.
    mask = np.tile([0.0, 0.0, 1.0, 1.0], (4, 1))
    target = sample([mask], [[0, 0, 8, 8]], [0], [[2, 0, 6, 8]], 2)[0]
    # Points at x = 2.5, 3.5, 4.5, 5.5 px are at 0.75, 1.25, 1.75, 2.25 cells: 0, 1/4, 3/4, 1.
    np.testing.assert_allclose(target, [[0.125, 0.875]] * 2, atol=1e-6)


def test_outside_the_window_is_empty_and_the_border_is_not_faded():
    target = sample(np.ones((1, 4, 4)), [[10, 10, 20, 20]], [0], [[5, 10, 25, 20]], 4)[0]
    np.testing.assert_array_equal(target, [[0, 1, 1, 0]] * 4)


def test_each_roi_gets_the_mask_it_was_matched_with():
    masks = np.arange(3, dtype="float32")[:, None, None] * np.ones((3, 2, 2))
    windows = [[0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 30, 30]]
    target = sample(masks, windows, [2, 0, 1, 2], np.array(windows)[[2, 0, 1, 0]], 2)
    np.testing.assert_array_equal(target[:, 0, 0], [2, 0, 1, 0])


def test_a_batch_of_two_is_two_batches_of_one_and_padding_changes_nothing():
    rng = np.random.default_rng(0)
    masks = (rng.random((2, 3, 8, 8)) > 0.5).astype("float32")
    corners = rng.uniform(0, 50, (2, 3, 2))
    windows = np.concatenate([corners, corners + rng.uniform(5, 30, (2, 3, 2))], axis=-1)
    matched = rng.integers(0, 3, (2, 5)).astype("int32")
    rois = np.take_along_axis(windows, matched[..., None], axis=1) + rng.normal(0, 2, (2, 5, 4))
    windows, rois = windows.astype("float32"), rois.astype("float32")
    together = to_numpy(km_ops.sample_masks(masks, windows, matched, rois, 7))
    for image in range(2):
        alone = sample(masks[image], windows[image], matched[image], rois[image], 7)
        np.testing.assert_allclose(together[image], alone, atol=1e-6)
    rows = [[0, 0], [0, 4], [0, 0]]
    padded = km_ops.sample_masks(
        np.pad(masks, [*rows, [0, 0]]),
        np.pad(windows, rows),
        np.pad(matched, rows[:2]),
        np.pad(rois, rows),
        7,
    )
    np.testing.assert_allclose(to_numpy(padded)[:, :5], together, atol=1e-6)


def test_windows_of_no_size_and_no_rois_give_finite_targets():
    target = sample(np.ones((2, 4, 4)), np.zeros((2, 4)), [0, 1], np.zeros((2, 4)), 3)
    np.testing.assert_array_equal(target, np.zeros((2, 3, 3)))
    assert sample(np.ones((2, 4, 4)), np.zeros((2, 4)), [], np.zeros((0, 4)), 3).size == 0
    no_masks = km_ops.sample_masks(
        np.zeros((1, 0, 4, 4)), np.zeros((1, 0, 4)), np.zeros((1, 2)), np.zeros((1, 2, 4)), 3
    )
    np.testing.assert_array_equal(to_numpy(no_masks), np.zeros((1, 2, 3, 3)))


@pytest.mark.tensorflow
def test_number_of_masks_and_rois_may_be_free():
    import tensorflow as tf

    free = [(None, None, 4, 4), (None, None, 4), (None, None), (None, None, 4)]
    dtypes = (tf.float32, tf.float32, tf.int32, tf.float32)
    function = tf.function(
        lambda *args: km_ops.sample_masks(*args, 3),
        input_signature=[tf.TensorSpec(*each) for each in zip(free, dtypes, strict=True)],
        autograph=False,
    )
    window = np.array([[[0, 0, 4, 4]]], "float32")
    one = function(np.ones((1, 1, 4, 4), "float32"), window, np.zeros((1, 1), "int32"), window)
    np.testing.assert_array_equal(to_numpy(one), np.ones((1, 1, 3, 3)))
    masks, windows = np.zeros((1, 0, 4, 4), "float32"), np.zeros((1, 0, 4), "float32")
    none = function(masks, windows, np.zeros((1, 1), "int32"), window)
    np.testing.assert_array_equal(to_numpy(none), np.zeros((1, 1, 3, 3)))


def test_subpixel_pasting_takes_pixels_whose_centre_is_inside():
    # The box covers 2.4..5.6 in x: centres 2.5, 3.5, 4.5, 5.5; and 1.0..3.0 in y: 1.5, 2.5.
    pasted = km_ops.paste_masks_subpixel(np.ones((1, 28, 28)), [[2.4, 1.0, 5.6, 3.0]], (5, 8), 0.4)
    expected = np.zeros((5, 8), bool)
    expected[1:3, 2:6] = True
    np.testing.assert_array_equal(pasted[0], expected)


def test_subpixel_pasting_moves_an_edge_by_fractions_of_a_pixel():
    # The right half of the box is object, up to and including the middle of its cells.
    mask = np.tile(np.arange(4) >= 2, (4, 1)).astype("float32")[None]
    for shift in (0.0, 0.3, 0.6, 0.9):
        pasted = km_ops.paste_masks_subpixel(mask, [[shift, 0, 80 + shift, 80]], (80, 90))[0, 40]
        # Half between two cells is at 40 + shift; pixel centres beyond it are inside.
        assert pasted.argmax() == int(np.ceil(40 + shift - 0.5 + 1e-6))


def test_a_mask_pasted_and_sampled_again_is_the_mask():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.random((1, 4, 4)) > 0.5, np.ones((1, 7, 7)))
    box = np.array([[10.3, 20.8, 150.1, 110.2]])
    pasted = km_ops.paste_masks_subpixel(blocks, box, SIZE)
    window = [[0, 0, SIZE[1], SIZE[0]]]
    again = sample(pasted, window, [0], box, 4)[0]
    # Bin averages of the same 4 x 4 blocks; the edges of blocks are rounded to pixels.
    np.testing.assert_allclose(again, blocks[0, 3::7, 3::7], atol=0.1)


@pytest.mark.parametrize("box", [[-50, -50, -10, -10], [200, 10, 260, 40], [5, 5, 5, 5]])
@pytest.mark.parametrize("pasting", ["subpixel", "torchvision"])
def test_what_is_outside_or_has_no_size_leaves_the_image_alone(box, pasting):
    ((window, x0, y0),) = km_ops.paste_mask_windows(np.ones((1, 7, 7)), [box], SIZE, 0.5, pasting)
    assert window.sum() <= (pasting == "torchvision" and box == [5, 5, 5, 5])
    assert 0 <= x0 <= SIZE[1] and 0 <= y0 <= SIZE[0]


def test_no_objects_paste_to_an_empty_stack():
    assert km_ops.paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), SIZE).shape == (0, *SIZE)


def test_pasting_equals_torchvision():
    expected = np.unpackbits(GOLDEN["paste_out_packed"], axis=-1).astype(bool)
    equal = (km_ops.paste_masks(MASKS, BOXES, SIZE) == expected).mean(axis=(1, 2))
    assert equal.min() >= 0.999


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match="by its class"):
        km_ops.paste_masks(np.zeros((2, 3, 28, 28)), np.zeros((2, 4)), SIZE)
    with pytest.raises(ValueError, match="'nearest'"):
        km_ops.paste_mask_windows(MASKS, BOXES, SIZE, pasting="nearest")
