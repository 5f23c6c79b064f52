"""Pixel statistics of a dataset: channels, dtype, range, and mean and standard deviation of each channel.

Computed in float64 during the pass over the images. Parts are merged by the update of Chan, Golub and LeVeque
("Algorithms for Computing the Sample Variance", 1983), which stays accurate when means are large compared with
deviations. Called by `inspection.py`; `proposal.py` turns the result into config fields.
"""

import collections
import dataclasses

import numpy as np

from keras_maskrcnn.checkup.findings import ERROR, NOTE, WARNING, Finding

_BLOCK = 2**20  # pixels summed at once, so that memory-mapped images need not fit in memory
_NAMED = 5  # largest number of image names in a message
_UINT16_MAX = 65535


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Statistics of the pixels of one image, or of several images of the same kind.

    Args:
        channels: int, without alpha.
        dtype: str, as stored.
        alpha: whether there is an additional alpha channel, which is not measured.
        least, most: float (channels,), smallest and largest value.
        count: int, pixels.
        mean: float64 (channels,).
        squares: float64 (channels,), the sum of squared differences from the mean.
        images: int, number of images.
    """

    channels: int
    dtype: str
    alpha: bool
    least: np.ndarray
    most: np.ndarray
    count: int
    mean: np.ndarray
    squares: np.ndarray
    images: int = 1

    @property
    def kind(self):
        """(channels, dtype). All images of a dataset should have the same kind."""
        return self.channels, self.dtype

    @property
    def std(self):
        """float64 (channels,): population standard deviation."""
        return np.sqrt(self.squares / max(self.count, 1))

    def joined(self, other):
        """Merge with the statistics of other images of the same kind."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return dataclasses.replace(
            self,
            alpha=self.alpha or other.alpha,
            least=np.minimum(self.least, other.least),
            most=np.maximum(self.most, other.most),
            count=count,
            mean=self.mean + apart * (other.count / count),
            squares=self.squares + other.squares + apart**2 * (self.count * other.count / count),
            images=self.images + other.images,
        )

    @property
    def image_dtype(self):
        """The config's `image_dtype` that can hold these values."""
        if self.dtype in ("uint8", "bool"):
            return "uint8"
        whole = np.dtype(self.dtype).kind in "ui" and np.dtype(self.dtype).itemsize > 1
        return "uint16" if whole and self.least.min() >= 0 and self.most.max() <= _UINT16_MAX else "float32"


def measure(stored):
    """Measure one image in blocks of rows.

    Args:
        stored: Stored, from `data/images/forms.py`.

    Returns:
        Pixels. NaN and infinity in the image make the statistics NaN.
    """
    pixels = stored.pixels[..., : stored.pixels.shape[2] - stored.alpha]
    dtype = str(pixels.dtype)
    rows = max(1, _BLOCK // pixels.shape[1])
    total = None
    for start in range(0, len(pixels), rows):
        block = pixels[start : start + rows]
        figures = np.array([_figures(block[..., channel]) for channel in range(pixels.shape[2])]).T
        least, most, mean, squares = figures
        part = Pixels(pixels.shape[2], dtype, stored.alpha, least, most, block[..., 0].size, mean, squares)
        total = part if total is None else total.joined(part)
    return dataclasses.replace(total, images=1)


def _figures(plane):
    """(least, most, mean, sum of squared differences to it) of one channel."""
    if plane.dtype == bool:
        plane = plane.astype(np.uint8) * np.uint8(255)  # as the reader converts them
    if plane.dtype in (np.uint8, np.uint16):  # counting values is exact, and ten times faster than float64
        counts = np.bincount(plane.ravel())
        values = np.arange(len(counts))
        mean = (counts @ values) / plane.size
        present = np.flatnonzero(counts)
        return present[0], present[-1], mean, counts @ (values - mean) ** 2
    values = np.asarray(plane, np.float64).ravel()
    with np.errstate(invalid="ignore"):  # of infinities the figures are NaN, which becomes a finding
        mean = values.mean()
        return values.min(), values.max(), mean, np.square(values - mean).sum()


def by_kind(measured):
    """Pixels of each kind of image, the most frequent kind first.

    Args:
        measured: list of Pixels, None for unreadable images. Images with NaN are left out.
    """
    kinds = {}
    for pixels in measured:
        if pixels is not None and np.isfinite(pixels.mean).all():
            kinds[pixels.kind] = pixels if pixels.kind not in kinds else kinds[pixels.kind].joined(pixels)
    return sorted(kinds.values(), key=lambda pixels: -pixels.images)


def is_plain(pixels):
    """Whether images of this kind are 8-bit RGB, with or without alpha."""
    return pixels.channels == 3 and pixels.image_dtype == "uint8"


def main_kind(kinds):
    """The kind of image that a model should take: Pixels, or None for 8-bit RGB.

    8-bit gray images among RGB images are read as RGB.
    """
    if not kinds or any(is_plain(pixels) for pixels in kinds) and all(_fits_rgb(pixels) for pixels in kinds):
        return None
    return None if is_plain(kinds[0]) else kinds[0]


def pixel_findings(measured, names):
    """Findings about images of an unusual kind, constant channels, and NaN or infinite values.

    Args:
        measured: list of Pixels by position, None for unreadable images.
        names: names of the images in messages.
    """
    kinds = by_kind(measured)
    main = main_kind(kinds)
    found = _other_kinds(measured, kinds, main, names) if kinds else []
    for position, pixels in enumerate(measured):
        if pixels is not None and not np.isfinite(pixels.mean).all():
            message = "it contains NaN or infinity. Replace these values, for example by the channel's mean."
            found.append(Finding(ERROR, "pixels that are not numbers", names[position], message, position))
    if main is not None and (main.least == main.most).any():
        flat = (np.flatnonzero(main.least == main.most) + 1).tolist()
        message = f"channels {flat} (counted from 1) are constant. Leave them out, or check the export."
        found.append(Finding(NOTE, "channel without content", "all images", message))
    return found


def _fits_rgb(pixels):
    return pixels.channels in (1, 3) and pixels.image_dtype == "uint8"


def _other_kinds(measured, kinds, main, names):
    """Findings about images whose numbers a model for the main kind would not take, or would take for others.

    Kinds that such a model reads the same way are no findings: gray among RGB, 1-bit among 8-bit images, whole numbers
    of 32 bits among those of 16.
    """
    joined, others = {pixels.kind: pixels for pixels in kinds}, collections.defaultdict(list)
    for position, pixels in enumerate(measured):
        if pixels is not None and not _fits(joined.get(pixels.kind, pixels), main):
            others[pixels.kind].append(position)
    return [_other_kind(kind, kinds[0].kind, positions, names) for kind, positions in others.items()]


def _fits(pixels, main):
    if main is None:
        return _fits_rgb(pixels)
    return (pixels.channels, pixels.image_dtype) == (main.channels, main.image_dtype)


def _other_kind(kind, usual, positions, names):
    listed = ", ".join(names[position] for position in positions[:_NAMED])
    more = ", ..." if len(positions) > _NAMED else ""
    message = (
        f"of the images {len(positions)} have {_in_words(kind)}, most have {_in_words(usual)}: {listed}{more}. "
        "A model takes one kind. Export all images in the same format."
    )
    return Finding(WARNING, "images of another kind", names[positions[0]], message, positions[0])


def _in_words(kind):
    channels, dtype = kind
    return f"{channels} {'channel' if channels == 1 else 'channels'} of {dtype}"
