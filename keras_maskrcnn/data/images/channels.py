"""Third step: stored pixels -> the channels that a model takes. Called by `reading` and `showing`."""

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError, is_mapped


def as_channels(stored, channels):
    """The pixels of an image with the channels asked for.

    An image of as many channels is taken as it is. Otherwise alpha is dropped. Then gray becomes three equal channels,
    and RGB whose channels are equal becomes gray. Of four channels without names (arrays, `.npy`), and of TIFFs in RGB
    with more samples, the first three are RGB.

    Args:
        stored: Stored.
        channels: int; None takes all.

    Returns:
        (H, W, channels), the stored dtype; often a view, and of a memory map always one.

    Raises:
        ImageError: it has others.
    """
    pixels = stored.pixels
    if channels is None or pixels.shape[2] == channels:
        return pixels
    if stored.alpha:
        pixels = pixels[..., :-1]
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if (have, channels) == (1, 3):
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3), subok=is_mapped(pixels))
    if channels == 3 and stored.rgb_first:
        return pixels[..., :3]
    if (have, channels) == (3, 1) and (pixels == pixels[..., :1]).all():
        return pixels[..., :1]
    raise ImageError(
        f"The model's images have {channels} channels, one for each entry of pixel_mean in its config. "
        f"Received {stored.name} of shape {stored.pixels.shape} (height, width, channels). "
        f"{_remedy(have, channels)}"
    )


def _remedy(have, channels):
    if channels == 1 and have == 3:
        return "It is in colours: convert it to gray, or train on RGB."
    return (
        f"Give images of {channels} channels, or measure pixel_mean and pixel_std of these (check-data) and train anew."
    )
