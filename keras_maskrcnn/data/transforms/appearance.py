"""Transforms that change only pixels; objects do not move. They draw strengths; `effects.py` applies them.

They run on network pixels, in their order, after all geometric transforms, wherever they are in the list.
None of them has a `bound`, because sizes do not change.
"""

import dataclasses
import math

import numpy as np

from keras_maskrcnn.data.samples.sample import some_pixels
from keras_maskrcnn.data.transforms.effects import Blur, Jpeg, Noise

# A rotation of colours about the gray axis is cos I + (1 - cos) / 3 J + sin / sqrt(3) times this matrix.
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_RGB_STD = 57.6  # of 255: ImageNet's, averaged over red, green and blue


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue at random, in one pass.

    Gray images stay gray. For images of other channels leave saturation and hue at 0: they are only defined
    for RGB. For those images, and for dtypes wider than uint8, contrast changes about each channel's mean.

    Args:
        brightness: factor drawn from 1 - brightness to 1 + brightness.
        contrast: likewise, about the image's mean.
        saturation: likewise, about each pixel's mean of red, green and blue.
        hue: rotation about the gray axis, drawn from -hue to hue; 1 is a full circle, 0.5 gives the
            opposite colour. Each pixel's mean stays the same.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        if not (min(self.brightness, self.saturation, self.hue) >= 0 and 0 <= self.contrast < 1):
            raise ValueError(
                "brightness, contrast, saturation and hue must be fractions of 0 or more, contrast below 1. "
                f"Received {self}. 0.2 is a moderate value."
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
    """Gaussian blur, as from a lens out of focus.

    Args:
        low, high: range of the standard deviation, network pixels.
    """

    low: float = 0.3
    high: float = 2.0

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.affected(Blur(rng.uniform(self.low, self.high)))


@dataclasses.dataclass(frozen=True)
class RandomNoise:
    """Gaussian noise, as from a camera in poor light.

    Args:
        low, high: range of the standard deviation, of 255. For dtypes wider than uint8 the noise of each channel
            is scaled with the channel's `pixel_std`, so that it is as strong after normalisation.
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
    """JPEG compression artefacts.

    Args:
        low, high: range of libjpeg's quality, 1..95.
    """

    low: int = 30
    high: int = 90

    def __post_init__(self):
        if not 1 <= self.low <= self.high <= 95:
            raise ValueError(f"JPEG qualities must be whole numbers, 1 <= low <= high <= 95. Received {self}.")

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.affected(Jpeg(int(rng.integers(self.low, self.high + 1))))
