"""Random initial weights drawn by numpy.

JAX compiles a program for every shape that it draws: 31 seconds of CPU for the weights of a ResNet-50-FPN, which a file
often replaces at once.
"""

import math

import keras
import numpy as np

# A normal distribution cut at two deviations has this deviation; `keras.initializers` divides by it.
DEVIATION_OF_CUT = 0.87962566103423978


class NumpyInitializer:
    """Draws values with numpy: the same at every call, as Keras' initializers do.

    Args:
        seed: int. draw: function of a numpy generator and a shape to float32 values.
    """

    def __init__(self, seed, draw):
        self.seed, self.draw = seed, draw

    def __call__(self, shape, dtype=None):
        """Values of a shape: a numpy array, or a tensor of another dtype than float32."""
        dtype = keras.backend.standardize_dtype(dtype)
        values = self.draw(np.random.default_rng(self.seed), tuple(shape))
        return values if dtype == "float32" else keras.ops.cast(values, dtype)


def drawn_by_numpy(initializer):
    """The distribution of a Keras initializer, drawn by numpy.

    Args:
        initializer: a Keras initializer or its name.

    Returns:
        NumpyInitializer; the initializer itself if this package uses none of its kind, or if its seed is no number.
    """
    initializer = keras.initializers.get(initializer)
    draw = _plan(initializer)
    if draw is None or not isinstance(initializer.seed, int):
        return initializer
    return NumpyInitializer(initializer.seed, draw)


def _plan(initializer):
    """How to draw: function of (generator, shape) to float32 values, or None."""
    if type(initializer) is keras.initializers.RandomNormal:
        mean, deviation = np.float32(initializer.mean), np.float32(initializer.stddev)
        return lambda rng, shape: mean + deviation * rng.standard_normal(shape, np.float32)
    if not isinstance(initializer, keras.initializers.VarianceScaling) or initializer.mode != "fan_in":
        return None
    if getattr(initializer, "input_axes", None) is not None:  # Keras 3.12 has no axes
        return None
    deviation = lambda shape: np.float32(math.sqrt(initializer.scale / max(1, math.prod(shape[:-1]))))  # noqa: E731
    if initializer.distribution == "truncated_normal":
        return lambda rng, shape: _cut_normal(rng, shape) * (deviation(shape) / np.float32(DEVIATION_OF_CUT))
    if initializer.distribution == "uniform":
        side = np.float32(math.sqrt(3))
        return lambda rng, shape: (2 * rng.random(shape, np.float32) - 1) * (deviation(shape) * side)
    return None


def _cut_normal(rng, shape):
    """Standard normal values between -2 and 2, float32: others are drawn again."""
    values = rng.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(np.count_nonzero(beyond), np.float32)
    return values
