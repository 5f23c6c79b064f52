"""Transforms of image, boxes and masks together: each changes how a Sample is looked at.

A transform is any callable `(sample, rng) -> sample`. Those here replace the sample's View, so
nothing is resampled before the last one has run, and mask and image cannot part. `bound(height,
width)` tells the largest size that a transform may give, from which the loader derives its canvas.
Write your own with
`sample.seen(view)` for geometry and `sample.recolored(matrix)` for colours, or with
`dataclasses.replace(sample, image=...)` for anything else about the pixels.
"""

import dataclasses
import math

import numpy as np

from keras_maskrcnn.resizing import network_size


@dataclasses.dataclass(frozen=True)
class Resize:
    """Short side to `min_size` unless the long side would pass `max_size`, as Predictor does.

    Args:
        min_size, max_size: network pixels.
    """

    min_size: int
    max_size: int
    image_scale = None

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.seen(sample.view.resized(*self.bound(*sample.size)))

    def bound(self, height, width):
        """(height, width) after the transform."""
        return network_size(height, width, self)


@dataclasses.dataclass(frozen=True)
class ResizeByScale:
    """Both sides times `image_scale`, as the model does where its config sets `image_scale`.

    Args:
        image_scale: network pixels an image pixel.
    """

    image_scale: float

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.seen(sample.view.resized(*self.bound(*sample.size)))

    def bound(self, height, width):
        """(height, width) after the transform."""
        return network_size(height, width, self)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Exchange left and right, top and bottom, or both, each with probability one half.

    Args:
        horizontal, vertical: which of the two may happen.
    """

    horizontal: bool = True
    vertical: bool = False

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        view = sample.view
        if self.horizontal and rng.random() < 0.5:
            view = view.flipped_horizontally()
        if self.vertical and rng.random() < 0.5:
            view = view.flipped_vertically()
        return sample.seen(view)

    def bound(self, height, width):
        """(height, width) after the transform."""
        return height, width


@dataclasses.dataclass(frozen=True)
class RandomRotate90:
    """Zero to three quarter turns, each as likely."""

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        view = sample.view
        for _ in range(rng.integers(4)):
            view = view.turned()
        return sample.seen(view)

    def bound(self, height, width):
        """(height, width) of the square that holds the image both ways."""
        return max(height, width), max(height, width)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A window of fixed size at a random place; smaller images stay whole and are padded.

    Args:
        size: network pixels, int or (height, width).
    """

    size: int | tuple

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        limits = self.bound(0, 0)
        height, width = (min(side, limit) for side, limit in zip(sample.size, limits, strict=True))
        y = int(rng.integers(sample.size[0] - height + 1))
        x = int(rng.integers(sample.size[1] - width + 1))
        return sample.seen(sample.view.cropped(x, y, height, width))

    def bound(self, height, width):
        """(height, width) of the window, whatever the image."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """Enlarge or shrink by a random factor, log-uniform, so that doubling is as likely as halving.

    Args:
        low, high: smallest and largest factor.
    """

    low: float
    high: float

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        factor = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        height, width = (max(1, round(side * factor)) for side in sample.size)
        return sample.seen(sample.view.resized(height, width))

    def bound(self, height, width):
        """(height, width) at the largest factor."""
        return math.ceil(height * self.high), math.ceil(width * self.high)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation of the image at random; boxes and masks stay.

    Args:
        brightness: factor drawn from 1 - brightness to 1 + brightness.
        contrast: likewise, about the image's mean.
        saturation: likewise, about each pixel's mean of red, green and blue.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        gain, spread, color = (
            rng.uniform(1 - reach, 1 + reach) for reach in (self.brightness, self.contrast, self.saturation)
        )
        mean = float(sample.image[::8, ::8].mean())  # of some pixels: near enough, and 60 times faster
        matrix = np.full((3, 4), (1 - color) / 3)
        matrix[:, :3] += color * np.eye(3)
        matrix[:, 3] = mean * (1 / spread - 1)
        return sample.recolored(gain * spread * matrix)

    def bound(self, height, width):
        """(height, width) after the transform."""
        return height, width
