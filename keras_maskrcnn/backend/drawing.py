"""Random initial weights drawn by numpy.

JAX compiles a program for every shape that it draws: 31 seconds of CPU for the weights of a ResNet-50-FPN, most of which
a file replaces next.
"""

import math

import keras
import numpy as np

# A normal distribution cut at two deviations has this deviation; `keras.initializers` divides by it.
DEVIATION_OF_CUT = 0.87962566103423978


def drawn_by_numpy(initializer):
    """The distribution of a Keras initializer, drawn by numpy.

    Args:
        initializer: a Keras initializer or its name.

    Returns:
        Function of (shape, dtype) to a numpy array, the same at every call as in Keras; the initializer itself if it is
        no plain random one with a number as its seed.
    """
    initializer = keras.initializers.get(initializer)
    draw = _plan(initializer)
    if draw is None or not isinstance(initializer.seed, int):
        return initializer

    def initial(shape, dtype=None):
        dtype = keras.backend.standardize_dtype(dtype)
        values = draw(np.random.default_rng(initializer.seed), tuple(shape))
        return values if dtype == "float32" else keras.ops.cast(values, dtype)

    return initial


def _plan(initializer):
    """How to draw: function of (generator, shape) to float32 values, or None."""
    if type(initializer) is keras.initializers.RandomNormal:
        return lambda rng, shape: initializer.mean + initializer.stddev * rng.standard_normal(shape, np.float32)
    if not isinstance(initializer, keras.initializers.VarianceScaling) or initializer.mode != "fan_in":
        return None
    if initializer.input_axes is not None:
        return None
    variance = lambda shape: initializer.scale / max(1.0, math.prod(shape[:-1]))  # noqa: E731
    if initializer.distribution == "truncated_normal":
        return lambda rng, shape: _cut_normal(rng, shape) * np.float32(math.sqrt(variance(shape)) / DEVIATION_OF_CUT)
    if initializer.distribution == "uniform":
        return lambda rng, shape: (2 * rng.random(shape, np.float32) - 1) * np.float32(math.sqrt(3 * variance(shape)))
    return None


def _cut_normal(rng, shape):
    """Standard normal values between -2 and 2, float32: others are drawn again."""
    values = rng.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(np.count_nonzero(beyond), np.float32)
    return values
