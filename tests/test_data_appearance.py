"""Colours, blur, noise and JPEG: right for RGB and gray, clear about others, objects where they were."""

import colorsys
import dataclasses

import numpy as np
import pytest

from keras_maskrcnn.data import (
    ColorJitter,
    Instance,
    MaskWindow,
    RandomBlur,
    RandomJpeg,
    RandomNoise,
    Sample,
)
from keras_maskrcnn.data.transforms.effects import Blur, Jpeg, Noise, Recolor

PHOTO = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
GRAY = np.repeat(PHOTO[..., :1], 3, axis=2)


def sample_of(image):
    box = np.array([4, 6, 40, 30], np.float32)
    return Sample.whole(image, [Instance(0, box, MaskWindow(np.ones((24, 36), np.uint8), 4, 6))])


ALL = [ColorJitter(0.4, 0.4, 0.4, 0.2), RandomBlur(0.5, 2), RandomNoise(), RandomJpeg(20, 60)]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_pixels_change_and_objects_do_not(transform):
    sample = sample_of(PHOTO)
    changed = transform(sample, np.random.default_rng(1))
    image = changed.network_image()
    assert image.dtype == np.uint8 and image.shape == PHOTO.shape
    assert 1 < np.abs(image.astype(int) - PHOTO).mean() < 90
    assert changed.view == sample.view and changed.instances == sample.instances
    np.testing.assert_array_equal(image, transform(sample, np.random.default_rng(1)).network_image())
    assert (image != transform(sample, np.random.default_rng(2)).network_image()).any()


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_gray_images_stay_gray_and_are_treated_as_one_channel(transform):
    changed = transform(sample_of(GRAY), np.random.default_rng(1))
    image = changed.network_image().astype(int)
    assert np.abs(image - image[..., :1]).max() <= 1  # rounding
    alone = GRAY[..., :1]
    for effect in changed.effects:
        alone = effect(alone)
    assert alone.shape == (*GRAY.shape[:2], 1)
    assert np.abs(alone - image[..., :1]).max() <= 1


def jittered(color, **reach):
    """What a picture of one colour becomes, for 20 seeds: float (20, [r, g, b])."""
    image = np.full((8, 8, 3), color, np.uint8)
    reach = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0} | reach
    transform = ColorJitter(**reach)
    return np.array([transform(sample_of(image), np.random.default_rng(k)).network_image()[0, 0] for k in range(20)])


def test_hue_turns_colours_and_keeps_their_mean():
    colors = jittered((90, 120, 150), hue=0.5)
    np.testing.assert_allclose(colors.mean(1), 120, atol=0.7)
    distance = np.linalg.norm(colors - 120.0, axis=1)  # from gray: a turn keeps it
    np.testing.assert_allclose(distance, np.linalg.norm([30, 0, 30]), atol=1.2)
    hues = np.array([colorsys.rgb_to_hsv(*color)[0] for color in colors])
    assert np.ptp(hues) > 0.6
    assert np.abs(jittered((90, 120, 150), hue=0.05) - [90, 120, 150]).max() < 15
    np.testing.assert_array_equal(jittered((77, 77, 77), hue=0.5, saturation=0.5), np.full((20, 3), 77))


def test_a_third_of_a_turn_exchanges_the_channels():
    red = np.array([[[200, 40, 40]]], np.uint8)
    seen = set()
    for k in range(3000):
        color = ColorJitter(0, 0, 0, 0.5)(sample_of(red), np.random.default_rng(k))
        angle = np.degrees(np.arctan2(*(color.effects[0].matrix[[1, 0], 0] - 1 / 3)))
        if abs(abs(angle) - 180 + 35) < 0.3:
            seen.add(tuple(color.network_image()[0, 0].tolist()))
    third = Recolor(np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]))
    assert third(red)[0, 0].tolist() == [40, 200, 40]


def test_blur_is_gaussian_and_keeps_the_mean():
    point = np.zeros((41, 41, 3), np.uint8)
    point[15:26, 15:26] = 200
    blurred = Blur(2.0)(point).astype(float)[..., 0]
    np.testing.assert_allclose(blurred.sum(), point[..., 0].sum(), rtol=0.02)
    offset = np.arange(41) - 20
    variance = (blurred.sum(0) * offset**2).sum() / blurred.sum()
    assert abs(variance - ((11**2 - 1) / 12 + 2.0**2)) < 0.6  # variances add


def test_noise_has_the_deviation_and_no_bias():
    flat = np.full((128, 128, 3), (120, 130, 140), np.uint8)
    noise = Noise(8.0, seed=5)(flat).astype(float) - flat
    assert abs(noise.std() - 8.0) < 0.25 and abs(noise.mean()) < 0.15
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03
    dark = Noise(8.0, seed=5)(np.zeros((64, 64, 3), np.uint8))
    assert dark.min() == 0 and dark.max() < 40  # clipped, not wrapped


def test_jpeg_loses_more_at_lower_quality():
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[..., None].repeat(3, 2)
    smooth[20:40, 20:40] = 250
    losses = [np.abs(Jpeg(q)(smooth).astype(int) - smooth).mean() for q in (10, 40, 95)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1


def test_other_numbers_of_channels_pass_where_they_can_and_are_refused_where_not():
    many = np.random.default_rng(0).integers(40, 200, (64, 64, 5), np.uint8)
    plain = ColorJitter(0.3, 0.0)(sample_of(many), np.random.default_rng(0)).effects[0]
    gain = plain.matrix[0, 0]
    np.testing.assert_allclose(plain(many), np.clip(np.rint(many * gain), 0, 255), atol=0.5)
    assert Blur(1.0)(many).shape == many.shape and Noise(3.0, 0)(many).shape == many.shape
    noise = Noise(3.0, 0)(many).astype(int) - many
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 4].ravel())[0, 1]) < 0.06
    colors = ColorJitter(0.3, 0.3, 0.3, 0.1)(sample_of(many), np.random.default_rng(0)).effects[0]
    with pytest.raises(ValueError, match="Received an image of 5 channels. Set hue and saturation to 0"):
        colors(many)
    with pytest.raises(ValueError, match="5 channels. Leave RandomJpeg out"):
        Jpeg(50)(many)
    for effect in (plain, Blur(1.0), Noise(3.0, 0), Jpeg(50)):
        with pytest.raises(ValueError, match="uint8.*Received float64"):
            effect(many.astype(np.float64))


def test_numbers_that_can_not_be_are_refused():
    with pytest.raises(ValueError, match="contrast below 1"):
        ColorJitter(contrast=1.0)
    with pytest.raises(ValueError, match="low <= high <= 95"):
        RandomJpeg(50, 100)


def test_effects_run_in_order_and_after_geometry():
    sample = sample_of(PHOTO).affected(Blur(1.0)).recolored(np.eye(3, 4) * 0.5)
    view = sample.view.flipped_horizontally()
    expected = Recolor(np.eye(3, 4) * 0.5)(Blur(1.0)(PHOTO[:, ::-1]))
    np.testing.assert_array_equal(dataclasses.replace(sample, view=view).network_image(), expected)
