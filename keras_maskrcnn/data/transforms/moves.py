"""Geometric transforms of image, boxes and masks together.

A transform is any callable `(sample, rng) -> sample`. Those here replace the sample's View, so nothing is
resampled before the last one has run, and mask and image stay aligned. Those of `appearance.py` change only
pixels; `copy_paste.py` adds objects of another image. `bound(height, width)` returns the largest output size of
a transform; the loader derives its canvas from it. A transform without `bound` keeps the size. To write your
own, use `sample.with_view(view)` for geometry and `sample.affected(pixels -> pixels)` for network pixels, and draw
all random numbers from `rng`.
"""

import dataclasses
import math

from keras_maskrcnn.geometry.resizing import network_size

MIN_VISIBLE = 0.1  # visible share of a mask; objects cut to less are ignored, because they are hard to recognise


def bound_after(transforms, height, width):
    """Largest (height, width) that a list of transforms can produce."""
    for transform in transforms:
        if hasattr(transform, "bound"):
            height, width = transform.bound(height, width)
    return height, width


@dataclasses.dataclass(frozen=True)
class RandomApply:
    """Apply another transform with a given probability.

    Args:
        transform: `(sample, rng) -> sample`.
        probability: 0..1.
    """

    transform: object
    probability: float

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"A probability must be in 0..1. Received {self.probability} for {self.transform}. Is it a percentage?"
            )

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return self.transform(sample, rng) if rng.random() < self.probability else sample

    def bound(self, height, width):
        """(height, width) that fits the image with and without the transform."""
        changed = bound_after([self.transform], height, width)
        return max(height, changed[0]), max(width, changed[1])


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resize the short side to `min_size`, or the long side to `max_size` if it would exceed that, as Predictor does.

    Args:
        min_size, max_size: network pixels.
    """

    min_size: int
    max_size: int
    image_scale = None

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.with_view(sample.view.resized(*self.bound(*sample.size)))

    def bound(self, height, width):
        """(height, width) after the transform."""
        return network_size(height, width, self)


@dataclasses.dataclass(frozen=True)
class ResizeByScale:
    """Scale both sides by `image_scale`, as the model does if its config sets `image_scale`.

    Args:
        image_scale: network pixels per image pixel.
    """

    image_scale: float

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.with_view(sample.view.resized(*self.bound(*sample.size)))

    def bound(self, height, width):
        """(height, width) after the transform."""
        return network_size(height, width, self)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Flip horizontally, vertically, or both, each with probability one half.

    Args:
        horizontal, vertical: which flips are enabled.
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
        return sample.with_view(view)

    def bound(self, height, width):
        """(height, width) after the transform."""
        return height, width


@dataclasses.dataclass(frozen=True)
class RandomRotate90:
    """Rotate by 0, 90, 180 or 270 degrees, with equal probability."""

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        view = sample.view
        for _ in range(rng.integers(4)):
            view = view.turned()
        return sample.with_view(view)

    def bound(self, height, width):
        """(height, width) of the square that fits the image in both orientations."""
        return max(height, width), max(height, width)


@dataclasses.dataclass(frozen=True)
class RandomRotation:
    """Rotate about the centre by any angle. The frame keeps its size: corners are cut off, empty areas are gray.

    Args:
        degrees: the angle is drawn from -degrees to degrees.
        min_visible: objects with a smaller visible share become regions to ignore.
    """

    degrees: float
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return sample.with_view(sample.view.rotated(rng.uniform(-self.degrees, self.degrees)), self.min_visible)

    def bound(self, height, width):
        """(height, width) after the transform."""
        return height, width


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Crop a window of fixed size at a random position. Smaller images stay whole and are padded.

    Args:
        size: network pixels, int or (height, width).
        min_visible: objects with a smaller visible share become regions to ignore.
    """

    size: int | tuple
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        limits = self.bound(0, 0)
        height, width = (min(side, limit) for side, limit in zip(sample.size, limits, strict=True))
        y = int(rng.integers(sample.size[0] - height + 1))
        x = int(rng.integers(sample.size[1] - width + 1))
        return sample.with_view(sample.view.cropped(x, y, height, width), self.min_visible)

    def bound(self, height, width):
        """(height, width) of the window, for any image."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter:
    """Scale by a random factor, then crop a window at a random position (Ghiasi et al. 2021, LSJ).

    The paper uses `[Resize(1024, 1024), LargeScaleJitter(window=1024)]`. Images smaller than the window
    stay whole; the batch pads them.

    Args:
        low, high: smallest and largest factor of the current size, drawn uniformly.
        window: network pixels, int or (height, width); None means the size before scaling.
        min_visible: as in RandomCrop.
    """

    low: float = 0.1
    high: float = 2.0
    window: int | tuple | None = None
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        factor = rng.uniform(self.low, self.high)
        height, width = (max(1, round(side * factor)) for side in sample.size)
        crop = RandomCrop(self.bound(*sample.size), self.min_visible)
        return crop(sample.with_view(sample.view.resized(height, width)), rng)

    def bound(self, height, width):
        """(height, width) of the window."""
        return (height, width) if self.window is None else RandomCrop(self.window).bound(height, width)


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """Scale by a random factor. The factor is log-uniform, so that doubling is as likely as halving.

    Args:
        low, high: smallest and largest factor.
    """

    low: float
    high: float

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        factor = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        height, width = (max(1, round(side * factor)) for side in sample.size)
        return sample.with_view(sample.view.resized(height, width))

    def bound(self, height, width):
        """(height, width) at the largest factor."""
        return math.ceil(height * self.high), math.ceil(width * self.high)
