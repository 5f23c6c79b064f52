"""The network's own frame: where the image lies, and that boxes come out as they went in."""

import dataclasses

import numpy as np
import pytest
from backend_tools import to_numpy
from tiny import random_batch, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.families.matterport import ARITHMETIC
from keras_maskrcnn.network.frames import SquareFrame, TightFrame

SIZES = np.array([[40, 61], [64, 17]], np.int32)


def test_the_square_holds_the_image_in_its_centre():
    images = np.zeros((2, 64, 96, 2), np.float32)
    rng = np.random.default_rng(0)
    for row, (height, width) in enumerate(SIZES):
        images[row, :height, :width] = rng.uniform(1, 2, (height, width, 2))
    placed, normalized = (to_numpy(each) for each in SquareFrame(64).place(images, SIZES))
    assert placed.shape == (2, 64, 64, 2) and normalized.tolist() == [[64, 64]] * 2
    for row, (height, width) in enumerate(SIZES):
        top, left = (64 - height) // 2, (64 - width) // 2
        expected = np.zeros((64, 64, 2), np.float32)
        expected[top : top + height, left : left + width] = images[row, :height, :width]
        np.testing.assert_array_equal(placed[row], expected)


def test_boxes_name_their_last_pixel_inside():
    boxes = np.array([[[0, 0, 61, 40], [3, 4, 10, 20]], [[0, 0, 17, 64], [1, 2, 3, 4]]], np.float32)
    frame = SquareFrame(64)
    inside = to_numpy(frame.enter(boxes, SIZES))
    np.testing.assert_array_equal(inside[0], [[1, 12, 61, 51], [4, 16, 10, 31]])  # the image begins at x=1, y=12
    np.testing.assert_array_equal(to_numpy(frame.leave(inside, SIZES)), boxes)
    limits = frame.image_limits(SIZES)
    corner = np.concatenate([limits["origins"], to_numpy(limits["origins"]) + limits["image_sizes"]], axis=1)
    np.testing.assert_array_equal(corner[:, [1, 0, 3, 2]], inside[:, 0])  # the box of the whole image
    canvas = to_numpy(frame.canvas_limits(SIZES)["image_sizes"])
    np.testing.assert_array_equal(canvas, np.full((2, 2), 63))  # the black border is a place for proposals
    assert TightFrame().enter(boxes, SIZES) is boxes


@pytest.mark.slow
def test_matterports_arithmetic_trains():
    own = {name: value for name, value in ARITHMETIC.items() if name not in ("score_threshold", "rpn_channels")}
    narrow = {"test_pre_nms": 60, "test_post_nms": 40, "train_pre_nms": 60, "train_post_nms": 60, "roi_samples": 32}
    config = tiny_config(**(own | narrow | {"image_scale": None, "min_size": 64, "max_size": 128}))
    model = km.MaskRCNN(dataclasses.replace(config, norm="batch", head_norm="batch"))
    batch = random_batch([(96, 80), (64, 128)], (96, 128))
    model.compile(optimizer="sgd")
    logs = model.train_on_batch(batch, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()) and min(logs.values()) > 0
    found = model.predict_on_batch({name: batch[name] for name in ("images", "image_sizes")})
    right, bottom = batch["image_sizes"][:, 1], batch["image_sizes"][:, 0]
    assert (found["boxes"][..., 2].max(axis=1) <= right).all() and (found["boxes"][..., 3].max(axis=1) <= bottom).all()
