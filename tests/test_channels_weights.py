"""RGB weights in models of other channels: the first convolution is inflated, and nothing else changes."""

import numpy as np
import pytest
from keras import ops
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.weights.inflation import inflate, inflates

pytestmark = pytest.mark.tensorflow  # passes on JAX too; the loaders are numpy


def model_of(channels):
    return km.MaskRCNN(tiny_config(pixel_mean=(100.0,) * channels, pixel_std=(50.0,) * channels))


@pytest.fixture(scope="module")
def rgb():
    return scatter_weights(model_of(3))


def stem_of(model):
    return ops.convert_to_numpy(model.backbone.stem.conv.kernel)


def test_inflation_by_hand():
    kernel = np.array([1.0, 2.0, 4.0], np.float32).reshape(1, 3, 1, 1)
    assert inflate(kernel, 1, 1).ravel().tolist() == [7.0]
    np.testing.assert_allclose(inflate(kernel, 5, 1).ravel(), np.array([1, 2, 4, 1, 2]) * 0.6)
    np.testing.assert_allclose(inflate(kernel, 6, 1).ravel(), np.array([1, 2, 4, 1, 2, 4]) * 0.5)
    np.testing.assert_allclose(inflate(kernel, 2, 1).ravel(), [1.5, 3.0])


def test_only_rgb_kernels_that_agree_otherwise_are_inflated():
    assert inflates((64, 3, 7, 7), (64, 5, 7, 7), 1) and inflates((7, 7, 3, 64), (7, 7, 1, 64), 2)
    assert not inflates((64, 3, 7, 7), (64, 3, 7, 7), 1)  # exact where nothing has to change
    assert not inflates((64, 4, 7, 7), (64, 5, 7, 7), 1) and not inflates((64, 3, 7, 7), (32, 5, 7, 7), 1)
    assert not inflates((), (7, 7, 5, 64), 2)


def test_the_first_convolution_alone_is_inflated(rgb, tmp_path):
    wide = model_of(5)
    rgb.save(tmp_path / "rgb.keras")
    for source in (km.torchvision_state_dict(rgb), tmp_path / "rgb.keras"):
        wide.backbone.stem.conv.kernel.assign(0 * wide.backbone.stem.conv.kernel)
        receipt = km.load_weights(wide, source)
        (line,) = receipt.notes
        assert receipt.complete and "inflated from 3 to 5 channels" in line and "timm" in line
        expected = stem_of(rgb)[:, :, [0, 1, 2, 0, 1]] * (3 / 5)
        np.testing.assert_allclose(stem_of(wide), expected, rtol=1e-6)
    np.testing.assert_allclose(stem_of(wide), expected, rtol=1e-6)
    for ours, theirs in zip(wide.weights, rgb.weights, strict=True):
        if "stem/conv" not in ours.path:
            np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_one_channel_answers_gray_as_three_equal_channels_do(rgb):
    gray = model_of(1)
    km.load_weights(gray, km.torchvision_state_dict(rgb))
    np.testing.assert_allclose(stem_of(gray), stem_of(rgb).sum(2, keepdims=True), rtol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), np.uint8)
    sizes = np.array([[64, 64]], np.int32)
    one = gray.extract_features(ops.convert_to_tensor(image), sizes)["pyramid"]
    three = rgb.extract_features(ops.convert_to_tensor(image.repeat(3, 3)), sizes)["pyramid"]
    for a, b in zip(one, three, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
