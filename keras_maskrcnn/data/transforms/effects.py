"""Pixel effects: recolouring, blur, noise, JPEG. Objects do not move.

Each is a callable `pixels -> pixels`: (h, w, C) in and out, uint8, uint16 or float32; the dtype stays. Blur,
noise, gain and offset work for any number of channels; hue, saturation and JPEG raise for images that are
neither RGB nor gray. `appearance.py` draws the strengths; `data/samples/` applies the effects.
"""

import dataclasses
import io
import statistics

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from keras_maskrcnn.data.samples.view import as_dtype_of, by_planes
from keras_maskrcnn.geometry import native

_QUANTILES = [statistics.NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256)]


class Recolor:
    """Apply a colour matrix to each pixel. Clips to the range of the dtype (float32 is not clipped).

    Args:
        matrix: float (3, [r, g, b, 1]): the new red, green and blue are `matrix @ [r, g, b, 1]`. A gray
            image gets the mean of the three. For other numbers of channels the matrix must have the
            same gain and offset for each channel and no mixing. Or float (C, C + 1) for C channels.
    """

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, np.float64)

    def then(self, matrix):
        """One Recolor that applies this matrix, then `matrix`, without clipping in between."""
        unchanged = np.eye(1, self.matrix.shape[1], len(self.matrix))
        return Recolor(np.asarray(matrix, np.float64) @ np.concatenate([self.matrix, unchanged]))

    def __call__(self, pixels):
        """(h, w, C) -> (h, w, C) of the same dtype."""
        channels = _checked(pixels)
        if channels == 3 and pixels.dtype == np.uint8:
            recolored = native.recolor_rgb(pixels, self.matrix)
            if recolored is not None:
                return recolored
            return np.asarray(_image(pixels).convert("RGB", tuple(self.matrix.ravel().tolist())))
        if channels == len(self.matrix):
            matrix = self.matrix.astype(np.float32)
            return as_dtype_of(pixels.astype(np.float32) @ matrix[:, :-1].T + matrix[:, -1], pixels)
        gain, offset = self._gain_and_offset(channels)
        if pixels.dtype == np.uint8:
            return np.clip(np.rint(np.arange(256) * gain + offset), 0, 255).astype(np.uint8)[pixels]
        return as_dtype_of(pixels.astype(np.float32) * np.float32(gain) + np.float32(offset), pixels)

    def _gain_and_offset(self, channels):
        """Convert an RGB matrix for an image with another number of channels."""
        gain, offset = self.matrix[:, :3].sum() / 3, self.matrix[:, -1].mean()
        mixes = len(self.matrix) != 3 or np.abs(self.matrix - np.eye(3, 4) * gain - [0, 0, 0, offset]).max() > 1e-9
        if channels != 1 and mixes:
            raise ValueError(
                "Hue and saturation can only change in RGB images (gray images stay as they are). "
                f"Received an image of {channels} channels. Set hue and saturation to 0."
            )
        return gain, offset


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian blur (uint8 uses Pillow's, which repeats box blurs).

    Args:
        deviation: standard deviation, network pixels.
    """

    deviation: float

    def __call__(self, pixels):
        """(h, w, C) -> (h, w, C) of the same dtype."""
        _checked(pixels)
        if pixels.dtype == np.uint8:
            return by_planes(pixels, lambda image: image.filter(ImageFilter.GaussianBlur(self.deviation)))
        from skimage.filters import gaussian  # slow to import; needed because Pillow only blurs 8 bits

        blurred = gaussian(pixels.astype(np.float32), self.deviation, channel_axis=2, preserve_range=True)
        return as_dtype_of(blurred, pixels)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise, independent for each channel, but the same for all three if an RGB image is gray.

    Args:
        deviation: standard deviation in pixel units; for dtypes wider than uint8 also one per channel.
        seed: int, seed of the noise.
    """

    deviation: float | tuple
    seed: int

    def __call__(self, pixels):
        """(h, w, C) -> (h, w, C) of the same dtype."""
        channels = _checked(pixels)
        rng = np.random.default_rng(self.seed)
        if pixels.dtype != np.uint8:
            noise = rng.standard_normal(pixels.shape, np.float32) * np.asarray(self.deviation, np.float32)
            return as_dtype_of(pixels + noise, pixels)
        # Random bytes index 256 quantiles of the normal distribution: 5 times faster than sampling it.
        table = np.clip(np.rint(np.array(_QUANTILES) * self.deviation), -127, 127) + 128
        table = table.astype(np.uint8).tolist()

        def add(image):
            noise = Image.frombytes("L", image.size, rng.bytes(image.width * image.height)).point(table)
            return ImageChops.add(image, noise, 1, -128)

        if channels == 3 and _looks_gray(pixels):
            return np.repeat(np.asarray(add(_image(pixels[..., :1])))[..., None], 3, axis=2)
        return by_planes(pixels, lambda image: _merged(add(plane) for plane in image.split()))


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """Encode and decode as JPEG.

    Args:
        quality: int, 1..95, libjpeg's.
    """

    quality: int

    def __call__(self, pixels):
        """uint8 (h, w, 1 or 3) -> uint8 (h, w, 1 or 3)."""
        channels = _checked(pixels)
        if channels not in (1, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                "JPEG files hold gray or RGB images of 8 bits. "
                f"Received {pixels.dtype}, {channels} channels. Leave RandomJpeg out for it."
            )
        file = io.BytesIO()
        _image(pixels).save(file, "JPEG", quality=self.quality)
        with Image.open(file) as image:
            return np.array(image).reshape(pixels.shape)


def _checked(pixels):
    """Check that the pixels are (h, w, C) of an image dtype; return C."""
    if pixels.dtype not in (np.uint8, np.uint16, np.float32) or pixels.ndim != 3:
        raise ValueError(
            "Pixels must be uint8, uint16 or float32 (height, width, channels). "
            f"Received {pixels.dtype} {pixels.shape}. Read them with keras_maskrcnn.data.read_image."
        )
    return pixels.shape[2]


def _image(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _merged(planes):
    planes = list(planes)
    return planes[0] if len(planes) == 1 else Image.merge("RGB", planes)


def _looks_gray(pixels):
    few = pixels[::16, ::16]
    return bool((few == few[..., :1]).all())
