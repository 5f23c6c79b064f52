"""Initial weights drawn by numpy have the distributions of Keras' initializers."""

import keras
import numpy as np
import pytest
from backend_tools import to_numpy

from keras_maskrcnn import backend
from keras_maskrcnn.backend.drawing import drawn_by_numpy
from keras_maskrcnn.network.layers import ConvNorm, KernelAndBias

SHAPE = (3, 3, 64, 96)
FAN_IN = 3 * 3 * 64


@pytest.mark.parametrize(
    "initializer, deviation, largest",
    [
        ("he_normal", np.sqrt(2 / FAN_IN), 2 * np.sqrt(2 / FAN_IN) / 0.87962566),
        ("he_uniform", np.sqrt(2 / FAN_IN), np.sqrt(6 / FAN_IN)),
        ("lecun_uniform", np.sqrt(1 / FAN_IN), np.sqrt(3 / FAN_IN)),
        (keras.initializers.RandomNormal(stddev=0.01), 0.01, 0.06),
    ],
)
def test_values_have_the_deviation_and_the_bounds_of_the_paper(initializer, deviation, largest):
    values = drawn_by_numpy(initializer)(SHAPE, "float32")
    assert isinstance(values, np.ndarray) and values.shape == SHAPE and values.dtype == np.float32
    assert values.std() == pytest.approx(deviation, rel=0.02) and abs(values.mean()) < 0.02 * deviation
    assert 0.6 * largest < np.abs(values).max() <= largest * (1 + 1e-6)
    # Keras' own, by the backend.
    own = to_numpy(keras.initializers.get(initializer)(SHAPE))
    assert values.std() == pytest.approx(own.std(), rel=0.02)
    quantiles = (0.05, 0.25, 0.75, 0.95)
    np.testing.assert_allclose(np.quantile(values, quantiles), np.quantile(own, quantiles), atol=0.05 * deviation)


def test_a_seed_gives_the_same_values_and_another_gives_others():
    draw = lambda seed: drawn_by_numpy(keras.initializers.HeNormal(seed=seed))((3, 3, 8, 8))  # noqa: E731
    np.testing.assert_array_equal(draw(1), draw(1))
    assert np.abs(draw(1) - draw(2)).min() > 0


def test_other_dtypes_are_those_asked_for():
    values = drawn_by_numpy("he_normal")((1, 1, 4, 4), "bfloat16")
    assert keras.backend.standardize_dtype(values.dtype) == "bfloat16"


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.Zeros(),
        keras.initializers.GlorotUniform(),
        keras.initializers.HeNormal(seed=keras.random.SeedGenerator(1)),
        keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
    ],
    ids=["constant", "both fans", "generator", "not cut"],
)
def test_other_initializers_stay_what_they_are(initializer):
    assert drawn_by_numpy(initializer) is initializer


def test_axes_are_regarded_where_keras_has_them():
    initializer = keras.initializers.HeNormal()
    initializer.input_axes = [0]  # an argument of `VarianceScaling` in Keras 3.15
    assert drawn_by_numpy(initializer) is initializer
    del initializer.input_axes
    assert drawn_by_numpy(initializer) is not initializer


def test_layers_draw_by_the_backend_and_keep_their_initializer_in_the_config():
    conv, both = (
        ConvNorm(8, 3, kernel_initializer="he_normal"),
        KernelAndBias(4, keras.initializers.RandomNormal(0, 0.01)),
    )
    for layer, kernel in ((conv, lambda: conv.conv.kernel), (both, lambda: both.kernel)):
        layer.build((None, None, None, 16))
        again = type(layer).from_config(layer.get_config())
        assert type(again.kernel_initializer) is type(layer.kernel_initializer)
        expected = backend.initial_values(layer.kernel_initializer)(tuple(kernel().shape))
        np.testing.assert_allclose(to_numpy(kernel()), to_numpy(expected), atol=1e-7)
