"""Box geometry: numbers by hand, round trips, torchvision's numbers, boxes of no size."""

import math
import pathlib

import numpy as np
import pytest
from backend_tools import pull_back, to_numpy

import keras_maskrcnn.ops as km_ops

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ops.npz")


def random_boxes(rng, *shape, side=100.0):
    corners = rng.uniform(0, side, (*shape, 2))
    sizes = rng.uniform(1, side / 2, (*shape, 2))
    return np.concatenate([corners, corners + sizes], axis=-1).astype("float32")


def test_iou_of_overlapping_nested_and_touching_boxes():
    a = [[0, 0, 10, 10]]
    b = [[5, 0, 15, 10], [2, 2, 4, 4], [10, 0, 20, 10], [0, 0, 10, 10]]
    # 50 / 150, 4 / 100, nothing shared, the same box.
    expected = [[1 / 3, 0.04, 0.0, 1.0]]
    np.testing.assert_allclose(to_numpy(km_ops.pairwise_iou(a, b)), expected, atol=1e-6)


def test_ioa_is_the_share_of_the_first_box():
    a = [[0, 0, 10, 10], [0, 0, 0, 0]]
    b = [[5, 0, 100, 10]]
    np.testing.assert_allclose(to_numpy(km_ops.pairwise_ioa(a, b)), [[0.5], [0.0]], atol=1e-6)


def test_area_of_swapped_sides_is_nothing():
    np.testing.assert_array_equal(to_numpy(km_ops.area([[0, 0, 3, 4], [3, 0, 0, 4]])), [12, 0])


def test_encode_by_hand():
    # Anchor 10 x 20 at centre (5, 10); box 20 x 10 at centre (10, 5).
    deltas = to_numpy(km_ops.encode_boxes([[0, 0, 20, 10]], [[0, 0, 10, 20]], (10, 10, 5, 5)))
    expected = [[10 * 0.5, 10 * -0.25, 5 * math.log(2), 5 * math.log(0.5)]]
    np.testing.assert_allclose(deltas, expected, rtol=1e-6)


def test_decode_by_hand_and_its_limit():
    deltas = [[0.5, -0.25, math.log(2), math.log(0.5)], [0.0, 0.0, 50.0, 0.0]]
    boxes = to_numpy(km_ops.decode_boxes(deltas, [[0, 0, 10, 20], [0, 0, 16, 16]]))
    np.testing.assert_allclose(boxes[0], [0, 0, 20, 10], atol=1e-5)
    # dw is cut at log(1000 / 16): an anchor of 16 px grows to 1000 px.
    np.testing.assert_allclose(boxes[1], [8 - 500, 0, 8 + 500, 16], atol=1e-2)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_decoding_undoes_encoding(weights):
    rng = np.random.default_rng(0)
    boxes, anchors = random_boxes(rng, 3, 50), random_boxes(rng, 3, 50)
    deltas = km_ops.encode_boxes(boxes, anchors, weights)
    again = to_numpy(km_ops.decode_boxes(deltas, anchors, weights))
    np.testing.assert_allclose(again, boxes, atol=1e-3)


def test_clip_and_scale_go_by_image():
    boxes = np.array([[[-5, 2, 30, 40]], [[-5, 2, 30, 40]]], "float32")
    clipped = to_numpy(km_ops.clip_boxes(boxes, [[20, 10], [100, 25]]))
    np.testing.assert_array_equal(clipped, [[[0, 2, 10, 20]], [[0, 2, 25, 40]]])
    scaled = to_numpy(km_ops.scale_boxes(boxes, [[2.0, 0.5], [1.0, 1.0]]))
    np.testing.assert_array_equal(scaled, [[[-2.5, 4, 15, 80]], [[-5, 2, 30, 40]]])


def test_padding_rows_are_finite_and_so_are_their_gradients():
    boxes = np.zeros((2, 4), "float32")
    shape = np.ones((2, 2), "float32")
    for pair in (km_ops.pairwise_iou, km_ops.pairwise_ioa):
        assert np.all(to_numpy(pair(boxes, boxes)) == 0)
        assert all(np.isfinite(g).all() for g in pull_back(pair, [boxes, boxes], shape)[1])
    for coder in (km_ops.encode_boxes, km_ops.decode_boxes):
        result, gradients = pull_back(coder, [boxes, boxes], boxes + 1)
        assert np.isfinite(result).all() and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("num_a, num_b", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes_give_an_empty_table(num_a, num_b):
    table = km_ops.pairwise_iou(np.zeros((2, num_a, 4)), np.zeros((2, num_b, 4)))
    assert to_numpy(table).shape == (2, num_a, num_b)


def test_iou_equals_torchvision():
    boxes = GOLDEN["nms_boxes"]
    iou = to_numpy(km_ops.pairwise_iou(boxes[:50], boxes[50:110]))
    np.testing.assert_allclose(iou, GOLDEN["iou"], atol=1e-6)


@pytest.mark.parametrize("name, weights", [("w1", (1, 1, 1, 1)), ("w10", (10, 10, 5, 5))])
def test_box_coder_equals_torchvision(name, weights):
    boxes, anchors = GOLDEN["nms_boxes"][:50], GOLDEN["nms_boxes"][50:100]
    encoded = to_numpy(km_ops.encode_boxes(boxes, anchors, weights))
    np.testing.assert_allclose(encoded, GOLDEN[f"box_encode_{name}"], rtol=1e-4, atol=1e-4)
    deltas = GOLDEN[f"box_decode_deltas_{name}"]
    decoded = to_numpy(km_ops.decode_boxes(deltas, anchors, weights))
    np.testing.assert_allclose(decoded, GOLDEN[f"box_decode_{name}"], rtol=1e-5, atol=1e-2)
