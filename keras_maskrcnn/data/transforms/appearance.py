"""Transforms of the pixels alone; objects stay where they are. They draw strengths, `data.effects` acts.

They run on network pixels, in their order, after all geometry, wherever they stand in the list. None of
them has a `bound`: sizes stay.
"""

import dataclasses
import math

import numpy as np

from keras_maskrcnn.data.samples.sample import some_pixels
from keras_maskrcnn.data.transforms.effects import Blur, Jpeg, Noise

# A turn of colours about the gray axis is cos I + (1 - cos) / 3 J + sin / sqrt(3) of this.
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_RGB_STD = 57.6  # ImageNet's, the mean over red, green and blue, of 255


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue of the image at random, in one pass.

    Gray images stay gray. With other channels, leave saturation and hue 0: they are about red, green and
    blue. Then, and for wider dtypes than uint8, contrast is changed about each channel's own mean.

    Args:
        brightness: factor drawn from 1 - brightness to 1 + brightness.
        contrast: likewise, about the image's mean.
        saturation: likewise, about each pixel's mean of red, green and blue.
        hue: turn about the gray axis, drawn from -hue to hue; 1 is the whole circle, 0.5 the
            opposite colour. Each pixel's mean stays.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        if not (min(self.brightness, self.saturation, self.hue) >= 0 and 0 <= self.contrast < 1):
            raise ValueError(
                "Reaches of brightness, contrast, saturation and hue are shares, 0 or more, contrast below 1. "
                f"Received {self}. 0.2 is a moderate one."
            )

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        gain, spread, color = (
            rng.uniform(1 - reach, 1 + reach) for reach in (self.brightness, self.contrast, self.saturation)
        )
        angle = 2 * math.pi * rng.uniform(-self.hue, self.hue)
        few = some_pixels(sample.image)
        if not (self.saturation or self.hue) and (few.dtype != np.uint8 or few.shape[2] not in (1, 3)):
            means = few.mean((0, 1), dtype=np.float64)
            matrix = np.concatenate([np.eye(len(means)), means[:, None] * (1 / spread - 1)], axis=1)
            return sample.recolored(gain * spread * matrix)
        mean = float(few.mean())
        turn = math.cos(angle) * (np.eye(3) - 1 / 3) + math.sin(angle) * _TURN
        matrix = np.full((3, 4), mean * (1 / spread - 1))
        matrix[:, :3] = 1 / 3 + color * turn
        return sample.recolored(gain * spread * matrix)


@dataclasses.dataclass(frozen=True)
class RandomBlur:
    """A Gaussian blur, as of a lens out of focus.

    Args:
        low, high: limits of its standard deviation, network pixels.
    """

    low: float = 0.3
    high: float = 2.0

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.affected(Blur(rng.uniform(self.low, self.high)))


@dataclasses.dataclass(frozen=True)
class RandomNoise:
    """Gaussian noise, as of a camera in poor light.

    Args:
        low, high: limits of its standard deviation, of 255. In wider dtypes than uint8 it is as strong to the
            model: each channel's noise in proportion to the channel's `pixel_std`, as in RGB to ImageNet's.
    """

    low: float = 2.0
    high: float = 12.0

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        deviation = rng.uniform(self.low, self.high)
        if sample.image.dtype != np.uint8:
            deviation = tuple((deviation / _RGB_STD * sample.channel_std()).tolist())
        return sample.affected(Noise(deviation, int(rng.integers(2**32))))


@dataclasses.dataclass(frozen=True)
class RandomJpeg:
    """Artefacts of JPEG compression.

    Args:
        low, high: limits of libjpeg's quality, 1..95.
    """

    low: int = 30
    high: int = 90

    def __post_init__(self):
        if not 1 <= self.low <= self.high <= 95:
            raise ValueError(f"JPEG qualities are whole numbers, 1 <= low <= high <= 95. Received {self}.")

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.affected(Jpeg(int(rng.integers(self.low, self.high + 1))))
