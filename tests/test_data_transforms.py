"""Transforms: sizes, bounds, and the same random choice for image and objects."""

import dataclasses

import numpy as np
import pytest

from keras_maskrcnn.data import (
    ColorJitter,
    Instance,
    MaskWindow,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    Resize,
    ResizeByScale,
    Sample,
    ScaleJitter,
)


def marked_sample(height=40, width=60):
    """A white rectangle on black that is also the only object: image and mask can be compared."""
    image = np.zeros((height, width, 3), np.uint8)
    image[8:30, 12:50] = 255
    pixels = np.ones((22, 38), np.uint8)
    return Sample.whole(
        image, [Instance(0, np.array([12, 8, 50, 30], np.float32), MaskWindow(pixels, 12, 8))]
    )


def white_box(image):
    white = image[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize(
    "transforms",
    [
        [RandomFlip(horizontal=True, vertical=True)],
        [RandomRotate90(), RandomFlip()],
        [RandomCrop(32), RandomRotate90()],
        [ResizeByScale(2.0), RandomCrop((48, 64)), RandomFlip(vertical=True)],
        [Resize(30, 1000), RandomRotate90(), ScaleJitter(0.7, 1.4), RandomCrop(24)],
        [ScaleJitter(0.5, 2.0), ColorJitter(0.1, 0.1, 0.1)],
    ],
)
def test_box_and_mask_stay_on_the_object(transforms):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = marked_sample()
        bound = sample.size
        for transform in transforms:
            sample = transform(sample, rng)
            bound = transform.bound(*bound)
            assert sample.size[0] <= bound[0] and sample.size[1] <= bound[1]
        image = sample.network_image()
        assert image.shape == (*sample.size, 3)
        objects = sample.network_instances(5, 8, rng)
        if len(objects.boxes):
            # Half a pixel of blur on each side of a resized edge.
            np.testing.assert_allclose(objects.boxes[0], white_box(image), atol=1.01)
            assert objects.masks[0].all()
        else:
            assert (image < 250).mean() > 0.9


def test_resize_follows_the_short_side_and_the_maximum():
    rng = np.random.default_rng(0)
    assert Resize(20, 1000)(marked_sample(), rng).size == (20, 30)
    assert Resize(20, 24)(marked_sample(), rng).size == (16, 24)  # 0.4: floor(40 * 0.4), 60 * 0.4
    assert ResizeByScale(1.5)(marked_sample(), rng).size == (60, 90)


def test_random_choices_are_all_taken():
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sample = RandomFlip(True, True)(RandomRotate90()(marked_sample(), rng), rng)
        seen.add((sample.view.scale, sample.view.transposed))
    assert len(seen) == 8  # the eight symmetries of the square


def test_crops_cover_the_image_and_small_images_stay_whole():
    corners = {
        RandomCrop(38)(marked_sample(), np.random.default_rng(seed)).view.offset
        for seed in range(300)
    }
    assert {-x for x, _ in corners} == set(range(23)) and {-y for _, y in corners} == {0, 1, 2}
    assert RandomCrop(64)(marked_sample(), np.random.default_rng(0)).size == (40, 60)


def test_scale_jitter_is_log_uniform():
    sizes = [
        ScaleJitter(0.5, 2.0)(marked_sample(1000, 1000), np.random.default_rng(seed)).size[0]
        for seed in range(400)
    ]
    assert min(sizes) >= 500 and max(sizes) <= 2000
    assert 0.4 < np.mean(np.array(sizes) < 1000) < 0.6


def test_color_jitter_moves_brightness_and_leaves_the_source_alone():
    sample = marked_sample()
    gray = dataclasses.replace(sample, image=np.full((40, 60, 3), 100, np.uint8))
    changed = ColorJitter(0.3, 0.0)(gray, np.random.default_rng(1))
    assert changed.image.min() == changed.image.max() and 70 <= changed.image.max() <= 130
    assert gray.image.max() == 100 and changed.image.dtype == np.uint8
