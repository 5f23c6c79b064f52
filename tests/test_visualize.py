"""Pictures: the right pixels take the right colours, and nothing else changes."""

import numpy as np
import pytest
from known_answers import KnownDataset, small_config

from keras_maskrcnn.batch import empty_batch, fill_row
from keras_maskrcnn.inference.found import FoundInstances
from keras_maskrcnn.inference.visualize import (
    above,
    beside,
    draw_batch_row,
    draw_ground_truth,
    draw_instances,
    draw_tracks,
    instance_color,
)


def found_in(size, boxes, scores):
    return FoundInstances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros(len(boxes), int),
        {"masks": np.ones((len(boxes), 28, 28), np.float32)},
        size,
        small_config(),
    )


def test_mask_is_blended_inside_outlined_at_its_border_and_nowhere_else():
    image = np.full((40, 60, 3), 100, np.uint8)
    picture = draw_instances(image, found_in((40, 60), [(10, 5, 30, 25)], [0.9]), captions=False, boxes=False)
    color = np.array(instance_color(0))
    np.testing.assert_allclose(picture[15, 20], 100 * 0.55 + color * 0.45, atol=1)
    np.testing.assert_array_equal(picture[5, 20], color)  # top row of the mask: outline
    np.testing.assert_array_equal(picture[24, 29], color)
    outside = np.ones((40, 60), bool)
    outside[5:25, 10:30] = False
    assert (picture[outside] == 100).all()
    assert (image == 100).all()  # the user's array is not touched


def test_instances_below_min_score_are_left_out():
    image = np.zeros((20, 20, 3), np.uint8)
    found = found_in((20, 20), [(2, 2, 8, 8), (12, 12, 18, 18)], [0.9, 0.2])
    picture = draw_instances(image, found, min_score=0.5, captions=False)
    assert picture[4, 4].any() and not picture[14, 14].any()


def test_enlarging_repeats_pixels_and_keeps_places():
    image = np.zeros((10, 10, 3), np.uint8)
    found = found_in((10, 10), [(2, 2, 8, 8)], [0.9])
    large = draw_instances(image, found, captions=False, boxes=False, enlarge=3)
    assert large.shape == (30, 30, 3)
    assert large[6:24, 6:24].any(-1).all() and large.any(-1).sum() == 18 * 18


def test_captions_and_boxes_stay_inside_the_picture_at_every_corner():
    image = np.zeros((60, 80, 3), np.uint8)
    corners = [(0, 0, 10, 10), (70, 0, 80, 10), (0, 50, 10, 60), (70, 50, 80, 60)]
    picture = draw_instances(image, found_in((60, 80), corners, [0.9] * 4))
    assert picture.shape == image.shape
    for x1, y1, x2, y2 in corners:
        assert picture[y1:y2, x1:x2].any(-1).mean() > 0.9


def test_nothing_found_leaves_the_image_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(draw_instances(image, found_in((9, 9), [], [])), image)


def test_ground_truth_shows_annotations_and_crowds_in_gray():
    dataset = KnownDataset([[(5, 5, 15, 15, 0), (30, 30, 50, 50, 0)]], size=(60, 60), crowd={(0, 1)})
    annotations = dataset.to_coco()["annotations"]
    polygon = {**annotations[0], "segmentation": [[40, 5, 55, 5, 55, 20, 40, 20]], "bbox": [40, 5, 15, 15]}
    image = np.zeros((60, 60, 3), np.uint8)
    picture = draw_ground_truth(image, [*annotations, polygon], boxes=False)
    np.testing.assert_array_equal(picture[5, 10], instance_color(0))
    np.testing.assert_array_equal(picture[30, 40], (150, 150, 150))
    assert picture[10, 48].any() and not picture[25, 25].any()


def test_panels_stand_side_by_side_on_white():
    left, right = np.zeros((10, 20, 3), np.uint8), np.full((30, 5, 3), 9, np.uint8)
    panel = beside([left, right])
    assert panel.shape == (30, 20 + 8 + 5, 3)
    assert (panel[:10, :20] == 0).all() and (panel[:, 28:] == 9).all() and (panel[10:, :20] == 255).all()
    titled = beside([left, right], ["a", "b"])
    np.testing.assert_array_equal(titled[24:], panel)


def test_neighbouring_colours_differ():
    colors = np.array([instance_color(i) for i in range(50)], float)
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        draw_instances(np.zeros((5, 5)), found_in((5, 5), [], []))


def test_other_channels_and_dtypes_are_shown_by_their_first_three_stretched():
    ramp = np.linspace(1000, 51000, 101).round().astype(np.uint16)  # percentiles 1 and 99: 1500 and 50500
    image = np.stack([ramp, ramp[::-1], ramp // 2, ramp * 0, ramp * 0 + 9], -1)[None].repeat(4, 0)
    drawn = draw_instances(image, found_in((4, 101), [], []))
    expected = np.clip(np.rint((ramp - 1500.0) / 49000 * 255), 0, 255)
    np.testing.assert_allclose(drawn[2, :, 0], expected, atol=1)
    np.testing.assert_array_equal(drawn[2, :, 1], drawn[2, ::-1, 0])
    np.testing.assert_allclose(drawn[2, :, 2], expected, atol=1)
    two = draw_instances(image[..., :2], found_in((4, 101), [], []))
    np.testing.assert_array_equal(two[..., :2], drawn[..., :2])
    assert not two[..., 2].any()
    gray = np.full((4, 5, 1), 77, np.uint8)  # 8 bits stay as they are
    assert (draw_instances(gray, found_in((4, 5), [], [])) == 77).all()


def test_a_batch_row_is_drawn_at_scale_and_what_is_ignored_is_gray():
    batch = empty_batch(2, (64, 96), 4, small_config(3, gt_mask_size=8))
    boxes = np.array([[4, 6, 20, 26], [30, 10, 60, 40]], np.float32)
    masks = np.ones((2, 8, 8), np.uint8)
    image = np.full((50, 80, 3), 100, np.uint8)
    truth = {"gt_boxes": boxes, "gt_labels": [0, 2], "gt_masks": masks, "gt_crowd": [False, True]}
    fill_row(batch, 1, image, truth)
    picture = draw_batch_row(batch, 1, ["a", "b", "c"], scale=2.0, captions=False)
    assert picture.shape == (100, 160, 3)  # the image's part of the canvas, twice as large
    np.testing.assert_allclose(picture[30, 20], 100 * 0.55 + np.array(instance_color(0)) * 0.45, atol=1)
    np.testing.assert_allclose(picture[50, 90], 100 * 0.55 + 150 * 0.45, atol=1)
    assert (picture[90:] == 100).all() and (picture[:8] == 100).all()


def test_a_batch_of_boxes_alone_is_drawn_without_masks():
    batch = empty_batch(1, (64, 96), 4, small_config(1, branches=()))
    box = np.array([[10, 10, 40, 30]], np.float32)
    fill_row(batch, 0, np.zeros((50, 80, 3), np.uint8), {"gt_boxes": box, "gt_labels": [0], "gt_crowd": [False]})
    picture = draw_batch_row(batch, 0, ["a"], scale=2.0, captions=False)
    assert (picture[20, 21:79] == instance_color(0)).all() and (picture[21:59, 20] == instance_color(0)).all()
    assert not picture[24:56, 24:76].any() and not picture[:16].any()


def test_a_track_keeps_its_colour_whatever_its_place():
    image = np.zeros((64, 64, 3), np.uint8)
    left, right = (4, 4, 20, 20), (30, 34, 60, 60)
    first = draw_tracks(image, found_in((64, 64), [left, right], [0.9, 0.8]), [1], [7])
    later = draw_tracks(image, found_in((64, 64), [right, left], [0.9, 0.8]), [0, 1], [7, 0])
    np.testing.assert_allclose(first[50, 50], np.array(instance_color(7)) * 0.45, atol=1)
    np.testing.assert_array_equal(later[40:60, 32:58], first[40:60, 32:58])
    assert not first[:20, :28].any() and later[12, 12].any()  # an object that is not kept; one without a track


def test_rows_of_a_sheet_stand_above_each_other():
    sheet = above([np.zeros((10, 30, 3), np.uint8), np.full((6, 20, 3), 9, np.uint8)])
    assert sheet.shape == (24, 30, 3)
    assert not sheet[:10].any() and (sheet[10:18] == 255).all() and (sheet[18:, :20] == 9).all()
    assert (sheet[18:, 20:] == 255).all()


def test_a_box_that_reaches_far_beyond_the_picture_costs_no_more():
    image = np.zeros((40, 60, 3), np.uint8)
    square = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "category_id": 1, "iscrowd": 0}
    near, far = ({**square, "bbox": [5, 5, size, size]} for size in (1000, 1e12))
    drawn = [draw_ground_truth(image, [one], captions=False) for one in (near, far)]
    np.testing.assert_array_equal(*drawn)  # takes minutes if Pillow draws the whole of it
    assert drawn[1][5, 5:].any(axis=1).all() and drawn[1][5:, 5].any(axis=1).all() and not drawn[1][:5].any()
