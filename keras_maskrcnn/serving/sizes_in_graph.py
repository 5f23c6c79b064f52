"""`geometry.resizing.network_size` in a graph, in whole numbers: many runtimes compute float64 in float32.

Torchvision's rule is floor(side * scale) in float64, with scale = min_size / short or max_size / long. The result is
the whole quotient, except where the division leaves no remainder: then the scale's rounding decides, and the result can
be one less. `_rounding_errors` has this error for each divisor, so that float32 is enough to decide. Called by
`signatures.py`.
"""

import functools

import numpy as np
import tensorflow as tf

LONGEST = 2**15  # image pixels; a longer side is treated as if no rounding took place
_UNIT = 2.0**54  # errors are multiplied with it, to be near one


def network_size(source, config):
    """Size of an image in network pixels.

    Args:
        source: int32 ([height, width]), image pixels.
        config: MaskRCNNConfig; `min_size`, `max_size` and `image_scale` are read.

    Returns:
        int32 ([height, width]), network pixels, each >= 1.
    """
    if config.image_scale is not None:
        beyond = tf.cast(tf.floor(tf.cast(source, tf.float64) * config.image_scale + 0.5), tf.int32)
        network = tf.gather(_scaled_sides(config.image_scale), tf.minimum(source, LONGEST))
        network = tf.where(source > LONGEST, beyond, network)
    else:
        network = _by_floor(source, config.min_size, config.max_size)
    return tf.maximum(network, 1)


def _by_floor(source, min_size, max_size):
    height, width = tf.unstack(source)
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    by_short = min_size * long <= max_size * short
    size, side = tf.where(by_short, min_size, max_size), tf.where(by_short, short, long)
    network = source * size // side
    place = tf.minimum(side, LONGEST)
    errors = (tf.gather(_rounding_errors(each), place) for each in (min_size, max_size))
    error = tf.where(by_short, *errors)
    halfway = tf.gather(_halfway_below(max(min_size, max_size)), network)
    down = tf.logical_and(tf.equal(network * side, source * size), tf.cast(network, tf.float32) * error > halfway)
    return network - tf.cast(down, tf.int32)


@functools.lru_cache(maxsize=8)
def _rounding_errors(size):
    """1 - side * (size / side) for each side, the quotient rounded to float64: float32 (LONGEST + 1,), in units."""
    errors = np.zeros(LONGEST + 1, np.float32)
    for side in range(1, LONGEST):
        above, below = (size / side).as_integer_ratio()
        errors[side] = _UNIT * ((size * below - side * above) / (size * below))
    return errors


def _halfway_below(largest):
    """Half the distance from each whole number to the next float64 below it: float32 (largest + 1,), in units.

    A product that is less than this below the number is rounded to it, one exactly half-way too. A millionth more, for
    the rounding of the errors to float32.
    """
    powers = [(number - 1).bit_length() for number in range(1, largest + 1)]
    return np.array([1.0, *(2.0**power * (1 + 1e-6) for power in powers)], np.float32)


@functools.lru_cache(maxsize=8)
def _scaled_sides(scale):
    """Network pixels of each side under `image_scale`, int32 (LONGEST + 1,)."""
    return np.floor(np.arange(LONGEST + 1) * scale + 0.5).astype(np.int32)
