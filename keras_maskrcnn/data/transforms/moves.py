"""Transforms of image, boxes and masks together: each changes how a Sample is looked at.

A transform is any callable `(sample, rng) -> sample`. Those here replace the sample's View, so
nothing is resampled before the last one has run, and mask and image cannot part; those of
`data.appearance` change pixels alone, `data.copy_paste` brings objects of another image. `bound(height,
width)` tells the largest size that a transform may give, from which the loader derives its canvas;
one without it keeps the size. Write your own with `sample.with_view(view)` for geometry and
`sample.affected(pixels -> pixels)` for anything about the network pixels; draw all chance from `rng`.
"""

import dataclasses
import math

from keras_maskrcnn.geometry.resizing import network_size

MIN_VISIBLE = 0.1  # of an object's mask: what a cut leaves less of, nobody could name


def bound_after(transforms, height, width):
    """Largest (height, width) that a list of transforms may give."""
    for transform in transforms:
        if hasattr(transform, "bound"):
            height, width = transform.bound(height, width)
    return height, width


@dataclasses.dataclass(frozen=True)
class RandomApply:
    """Another transform with a given probability, and else nothing.

    Args:
        transform: `(sample, rng) -> sample`.
        probability: 0..1.
    """

    transform: object
    probability: float

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"A probability lies in 0..1. Received {self.probability} for {self.transform}. Is it in per cent?"
            )

    def __call__(self, sample, rng):
        """Sample -> Sample."""
        return self.transform(sample, rng) if rng.random() < self.probability else sample

    def bound(self, height, width):
        """(height, width) that holds the image both ways."""
        changed = bound_after([self.transform], height, width)
        return max(height, changed[0]), max(width, changed[1])


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
        return sample.with_view(sample.view.resized(*self.bound(*sample.size)))

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
        return sample.with_view(sample.view.resized(*self.bound(*sample.size)))

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
        return sample.with_view(view)

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
        return sample.with_view(view)

    def bound(self, height, width):
        """(height, width) of the square that holds the image both ways."""
        return max(height, width), max(height, width)


@dataclasses.dataclass(frozen=True)
class RandomRotation:
    """A free turn about the middle. The frame stays: corners leave it, and beyond the image it is gray.

    Args:
        degrees: the turn is drawn from -degrees to degrees.
        min_visible: share of an object; of which less stays in the frame is ignored.
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
    """A window of fixed size at a random place; smaller images stay whole and are padded.

    Args:
        size: network pixels, int or (height, width).
        min_visible: share of an object; what is cut to less of it becomes a region to ignore.
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
        """(height, width) of the window, whatever the image."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter:
    """A random factor, then a window at a random place (Ghiasi et al. 2021, LSJ).

    The paper's own is `[Resize(1024, 1024), LargeScaleJitter(window=1024)]`. What is smaller than the
    window stays whole; the canvas of the batch is its padding.

    Args:
        low, high: smallest and largest factor on the present size, drawn uniformly.
        window: network pixels, int or (height, width); None is the size before.
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
        return sample.with_view(sample.view.resized(height, width))

    def bound(self, height, width):
        """(height, width) at the largest factor."""
        return math.ceil(height * self.high), math.ceil(width * self.high)
