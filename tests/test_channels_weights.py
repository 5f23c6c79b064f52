"""RGB weights in models of other channels: the first convolution is inflated, and nothing else changes."""

import numpy as np
import pytest
from keras import ops
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.weights.inflation import inflate


def model_of(channels, **overrides):
    rgb = {} if channels == 3 else {"pixel_mean": (100.0,) * channels, "pixel_std": (50.0,) * channels}
    return km.MaskRCNN(tiny_config(**rgb, **overrides))


def stem_of(model):
    return ops.convert_to_numpy(model.backbone.stem.conv.kernel)


def test_inflation_by_hand():
    kernel = np.array([1.0, 2.0, 4.0], np.float32).reshape(1, 3, 1, 1)
    assert inflate(kernel, 1, 1).ravel().tolist() == [7.0]
    np.testing.assert_allclose(inflate(kernel, 5, 1).ravel(), np.array([1, 2, 4, 1, 2]) * 0.6)
    np.testing.assert_allclose(inflate(kernel, 6, 1).ravel(), np.array([1, 2, 4, 1, 2, 4]) * 0.5)
    np.testing.assert_allclose(inflate(kernel, 2, 1).ravel(), [1.5, 3.0])


@pytest.mark.parametrize("channels, kind", [(1, "state"), (5, "state"), (4, "keras")])
def test_the_first_convolution_alone_is_inflated(tmp_path, channels, kind):
    rgb, wide = scatter_weights(model_of(3)), model_of(channels)
    source = km.torchvision_state_dict(rgb)
    if kind == "keras":
        source = tmp_path / "rgb.keras"
        rgb.save(source)
    receipt = km.load_weights(wide, source)
    assert receipt.complete
    (line,) = receipt.notes
    assert f"inflated from 3 to {channels} channels" in line and "timm" in line
    kernel = stem_of(rgb)
    expected = (
        kernel.sum(2, keepdims=True) if channels == 1 else kernel[:, :, [0, 1, 2, 0, 1][:channels]] * (3 / channels)
    )
    np.testing.assert_allclose(stem_of(wide), expected, rtol=1e-6)
    for ours, theirs in zip(wide.weights, rgb.weights, strict=True):
        if "stem/conv" not in ours.path:
            np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_rgb_into_rgb_stays_exact_and_has_no_note():
    source = scatter_weights(model_of(3))
    target = model_of(3)
    receipt = km.load_weights(target, km.torchvision_state_dict(source))
    assert not receipt.notes
    np.testing.assert_array_equal(stem_of(source), stem_of(target))


def test_one_channel_answers_gray_as_three_equal_channels_do():
    rgb = scatter_weights(model_of(3, pixel_mean=(100.0,) * 3, pixel_std=(50.0,) * 3))
    gray = model_of(1)
    km.load_weights(gray, km.torchvision_state_dict(rgb))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), np.uint8)
    sizes = np.array([[64, 64]], np.int32)
    one = gray.extract_features(ops.convert_to_tensor(image), sizes)
    three = rgb.extract_features(ops.convert_to_tensor(image.repeat(3, 3)), sizes)
    for a, b in zip(one, three, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_other_numbers_of_channels_are_a_mismatch():
    with pytest.raises(ValueError, match="another shape than the model's"):
        km.load_weights(model_of(4), km.torchvision_state_dict(model_of(5)))
