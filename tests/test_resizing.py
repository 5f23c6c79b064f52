"""Sizes by torchvision's rule, pixels by TensorFlow's."""

import json
import pathlib
import zlib

import numpy as np
import pytest
from known_answers import small_config

from keras_maskrcnn.geometry.resizing import (
    bucket_size,
    canvas_size,
    network_size,
    pad_to_canvas,
    resize_bilinear,
    resize_image,
)

GOLDEN = pathlib.Path(__file__).parent / "golden"

TORCHVISION = {"image_scale": None, "min_size": 800, "max_size": 1333}


@pytest.mark.parametrize(
    "source, expected",
    [
        ((480, 640), (800, 1066)),  # floor(1066.67)
        ((640, 480), (1066, 800)),
        ((427, 640), (800, 1199)),
        ((300, 1000), (399, 1333)),  # the long side limits: 300 * 1.333 = 399.9
        ((800, 800), (800, 800)),
        ((1, 4000), (1, 1333)),  # never zero
    ],
)
def test_network_size_follows_torchvision(source, expected):
    assert network_size(*source, small_config(**TORCHVISION)) == expected


def test_network_size_by_scale_ignores_the_sides():
    assert network_size(100, 333, small_config(image_scale=1.5)) == (150, 500)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        network_size(0, 5, small_config())


def test_resize_reads_bin_centres_of_a_ramp():
    # Half-pixel centres: target pixel i reads source position (i + 0.5) * 4 / 8 - 0.5, clamped to the image.
    ramp = np.tile(np.arange(4, dtype=np.uint8)[None, :, None], (3, 1, 3))
    resized = resize_bilinear(ramp, (3, 8))
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(resized[1, :, 0], expected, atol=1e-6)


def test_same_size_is_only_converted():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    resized = resize_bilinear(image, (5, 7))
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized, image)


@pytest.mark.parametrize("size", [(300, 450), (41, 120), (13, 200), (3, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_equals_tensorflows_to_the_last_bit(size, dtype):
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(1).integers(0, 256, (60, 95, 3)).astype(dtype)
    np.testing.assert_array_equal(resize_bilinear(image, size), tf.image.resize(image, size).numpy())


def test_opencvs_rule_equals_opencv_to_the_last_bit():
    """golden/make_opencv_resize.py ran OpenCV on the same images."""
    golden = json.loads((GOLDEN / "opencv_resize.json").read_text())
    for seed, height, width, channels, *size, checksum in golden["rows"]:
        image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
        resized = resize_image(image, size, "opencv")
        assert resized.dtype == np.float32 and resized.shape == (*size, channels)
        assert zlib.crc32(resized.astype(np.uint8).tobytes()) == checksum, (seed, height, width, size)
    small = np.random.default_rng(1000).integers(0, 256, (5, 7, 1), np.uint8)
    np.testing.assert_array_equal(resize_image(small, (4, 11), "opencv")[..., 0], golden["small"])
    same = resize_image(small, (5, 7), "opencv")
    np.testing.assert_array_equal(same, small)


def test_canvas_is_the_next_multiple_of_32_and_buckets_are_few():
    assert canvas_size(800, 1066) == (800, 1088)
    assert canvas_size(1, 32) == (32, 32)
    assert {bucket_size(side, side)[0] for side in range(513, 1025)} == {640, 768, 896, 1024}
    for side in range(1, 2000):
        bucket = bucket_size(side, side)[0]
        assert bucket % 32 == 0 and side <= bucket <= max(32, 1.25 * side + 32)


def test_padding_is_zero_at_right_and_bottom():
    padded = pad_to_canvas(np.ones((2, 3, 1), np.uint8), (4, 5))
    assert padded[:2, :3].all() and padded.sum() == 6 and padded.dtype == np.uint8
    with pytest.raises(ValueError, match="fit the image"):
        pad_to_canvas(np.ones((2, 3, 1), np.uint8), (1, 5))
