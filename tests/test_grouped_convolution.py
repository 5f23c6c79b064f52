"""Grouped convolutions: each group is a convolution of its own, forward and backward; and the ResNeXts made of them."""

import numpy as np
import pytest
from backend_tools import pull_back_function, to_numpy

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.network.backbones.resnet import ResidualBlock

CASES = [(32, 8, 8, 1), (8, 4, 4, 2), (4, 64, 64, 2), (2, 16, 48, 1), (16, 1, 2, 1), (3, 5, 2, 1), (6, 4, 8, 2)]
# Too many channels to be computed as one dense convolution, as TensorFlow's version does.
CASES += [pytest.param(2, 72, 8, 1, marks=pytest.mark.tensorflow)]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("groups", "channels", "filters", "strides"), CASES)
def test_a_grouped_convolution_is_one_convolution_a_group(groups, channels, filters, strides):
    rng = np.random.default_rng(groups)
    features = rng.normal(size=(2, 5, 6, groups * channels)).astype("float32")
    kernel = rng.normal(size=(3, 3, channels, groups * filters)).astype("float32") / np.float32(3 * channels**0.5)
    bias = rng.normal(size=groups * filters).astype("float32")

    def whole(features, kernel, bias):
        return backend.convolve([features], kernel, bias, strides, True, groups)[0]

    def one(features, kernel, bias):
        return backend.convolve([features], kernel, bias, strides, True)[0]

    upstream = rng.normal(size=(2, -(-5 // strides), -(-6 // strides), groups * filters)).astype("float32")
    result, gradients = pull_back_function(whole)([features, kernel, bias], upstream)
    for group in {0, groups // 2, groups - 1}:
        inputs = slice(group * channels, (group + 1) * channels)
        outputs = slice(group * filters, (group + 1) * filters)
        parts = [features[..., inputs], kernel[..., outputs], bias[outputs]]
        own, theirs = pull_back_function(one)(parts, upstream[..., outputs])
        np.testing.assert_allclose(result[..., outputs], own, atol=1e-5)
        ours = gradients[0][..., inputs], gradients[1][..., outputs], gradients[2][outputs]
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, atol=2e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("way", "groups"), [(0, 4), (2, 1)], ids=["grouped", "dense"])
def test_the_native_convolution_has_the_same_bits_for_any_number_of_threads(way, groups):
    from keras_maskrcnn.backend import native

    library = native.load()
    if library is None:
        pytest.skip("no native library: was there a compiler?")
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, *sides, 64)).astype("float32") for sides in ((31, 37), (5, 3))]
    kernel = rng.normal(size=(3, 3, 64 // groups, 128)).astype("float32")
    results = set()
    for threads in (1, 2, 3, 8):
        options = {"groups": groups, "way": way, "threads": threads}
        outputs = library.keras_maskrcnn_conv3x3(maps, kernel, np.ones(128, "float32"), stride=1, relu=1, **options)
        back = library.keras_maskrcnn_conv3x3_back(outputs, kernel, **options)
        gradient = library.keras_maskrcnn_conv3x3_kernel_grad(maps, outputs, stride=1, **options)
        results.add(b"".join(each.numpy().tobytes() for each in (*outputs, *back, gradient)))
    assert len(results) == 1 and np.abs(gradient).max() > 1


def test_wrong_groups_are_refused():
    features, kernel = np.zeros((1, 4, 4, 6), "float32"), np.zeros((3, 3, 2, 4), "float32")
    with pytest.raises(ValueError, match="divides the 4 filters. Received 3"):
        backend.convolve([features], kernel, groups=3)
    with pytest.raises(ValueError, match="in 2 groups of C channels"):
        backend.convolve([features], kernel, groups=2)


def test_where_the_stride_is_and_what_the_groups_are():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 8, 8, 64)).astype("float32")
    block = ResidualBlock(64, 2, True, "none", stride_in_1x1=True)
    block.build((None, None, None, 64))
    block(image)
    assert [conv.strides for conv in block.convs] == [2, 1, 1] and block.shortcut.strides == 2
    # Of every second row and column alone: the others count for nothing.
    other = image.copy()
    other[:, 1::2], other[:, :, 1::2] = 7.0, 7.0
    np.testing.assert_array_equal(to_numpy(block(image)), to_numpy(block(other)))
    wide = ResidualBlock(128, 1, True, "none", groups=(32, 8))
    wide.build((None, None, None, 256))
    assert [tuple(conv.conv.kernel.shape) for conv in wide.convs] == [
        (1, 1, 256, 512),
        (3, 3, 16, 512),
        (1, 1, 512, 512),
    ]
    assert km.MaskRCNNConfig(1, backbone="resnext101_32x8d").backbone == "resnext101_32x8d"
