"""Transforms: sizes, bounds, and the same random choice for image and objects."""

import dataclasses

import numpy as np
import pytest
from reader_tools import network_instances

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
from keras_maskrcnn.data.transforms.moves import bound_after


def marked_sample(height=40, width=60):
    """A white rectangle on black that is also the only object: image and mask can be compared."""
    image = np.zeros((height, width, 3), np.uint8)
    image[8:30, 12:50] = 255
    pixels = np.ones((22, 38), np.uint8)
    return Sample.whole(image, [Instance(0, np.array([12, 8, 50, 30], np.float32), MaskWindow(pixels, 12, 8))])


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
            bound = bound_after([transform], *bound)
            assert sample.size[0] <= bound[0] and sample.size[1] <= bound[1]
        image = sample.network_image()
        assert image.shape == (*sample.size, 3)
        objects = network_instances(sample, 5, 8, rng)
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
    corners = {RandomCrop(38)(marked_sample(), np.random.default_rng(seed)).view.offset for seed in range(300)}
    assert {-x for x, _ in corners} == set(range(23)) and {-y for _, y in corners} == {0, 1, 2}
    assert RandomCrop(64)(marked_sample(), np.random.default_rng(0)).size == (40, 60)


def test_scale_jitter_is_log_uniform():
    sizes = [
        ScaleJitter(0.5, 2.0)(marked_sample(1000, 1000), np.random.default_rng(seed)).size[0] for seed in range(400)
    ]
    assert min(sizes) >= 500 and max(sizes) <= 2000
    assert 0.4 < np.mean(np.array(sizes) < 1000) < 0.6


def colored(sample):
    return dataclasses.replace(sample, image=np.full((40, 60, 3), (60, 90, 150), np.uint8))


def test_color_jitter_moves_one_thing_at_a_time():
    sample = colored(marked_sample())
    for jitter, kept in (
        # Brightness keeps the ratios of the channels, saturation their mean, contrast the mean of
        # the image (100 here, so each channel keeps its ratio to the others' distance from it).
        (ColorJitter(0.3, 0, 0), lambda rgb: rgb / rgb[0] - np.array([1, 1.5, 2.5])),
        (ColorJitter(0, 0, 0.5), lambda rgb: rgb.mean() - 100),
        (
            ColorJitter(0, 0.5, 0),
            lambda rgb: (rgb - 100) / (rgb[2] - 100) - np.array([-0.8, -0.2, 1]),
        ),
    ):
        seen = set()
        for seed in range(5):
            image = jitter(sample, np.random.default_rng(seed)).network_image()
            assert image.dtype == np.uint8 and (image == image[0, 0]).all()
            assert np.abs(kept(image[0, 0].astype(float))).max() < 0.7
            seen.add(tuple(image[0, 0].tolist()))
        assert len(seen) == 5
    assert sample.network_image()[0, 0].tolist() == [60, 90, 150]


def test_colour_changes_compose_and_clip_once():
    sample = colored(marked_sample())
    double = np.diag([2.0, 2, 2, 1])[:3]
    shift = np.eye(4)[:3] + np.array([[0, 0, 0, -200.0]] * 3)
    image = sample.recolored(double).recolored(shift).network_image()
    assert image[0, 0].tolist() == [0, 0, 100]  # 2 x - 200, and not min(2 x, 255) - 200
