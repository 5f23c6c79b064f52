"""The size rule of the exports, in float32 and whole numbers: the same sizes as `network_size`, for every image."""

import numpy as np
import pytest

import keras_maskrcnn as km
from keras_maskrcnn.geometry.resizing import network_size

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("sizes", [(800, 1333), (512, 512), (96, 150), (27, 3000), (1333, 1333)])
def test_sizes_are_those_of_torchvisions_rule(sizes):
    """Also where a quotient is whole and the rounding of float64 decides: 1 of 20 heights gives 799 rows, not 800."""
    import tensorflow as tf

    from keras_maskrcnn.serving import sizes_in_graph

    config = km.MaskRCNNConfig(num_classes=1, min_size=sizes[0], max_size=sizes[1])
    rng = np.random.default_rng(sizes)
    images = rng.integers(1, 3000, (3000, 2))
    whole = np.arange(1, 2000)[:, None] * rng.integers(1, 5, (1999, 2))  # aspect ratios of small numbers
    images = np.concatenate([images, whole, np.repeat(whole[:, :1], 2, axis=1), [(1, 1), (1, 40000), (40000, 3)]])
    expected = np.array([network_size(int(height), int(width), config) for height, width in images])
    whole_graph = tf.function(lambda rows: tf.map_fn(lambda row: sizes_in_graph.network_size(row, config), rows))
    found = whole_graph(tf.constant(images, tf.int32))
    np.testing.assert_array_equal(found, expected)
    scale = np.minimum(sizes[0] / images.min(1), sizes[1] / images.max(1))[:, None]
    assert ((expected + 1) == np.round(images * scale)).sum() > 30  # the cases of the docstring are among them


@pytest.mark.parametrize("scale", [1.0, 0.37, 2.5])
def test_sizes_under_an_image_scale(scale):
    import tensorflow as tf

    from keras_maskrcnn.serving import sizes_in_graph

    config = km.MaskRCNNConfig(num_classes=1, image_scale=scale)
    for size in ((1, 1), (480, 641), (1333, 7), (32768, 32769), (50001, 3)):
        assert tuple(sizes_in_graph.network_size(tf.constant(size), config).numpy()) == network_size(*size, config)
