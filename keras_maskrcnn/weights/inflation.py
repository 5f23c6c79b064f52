"""Adapt the first convolution of RGB weights to images with another number of channels.

The rule is timm's (`adapt_input_conv` in timm/models/_manipulate.py). For one channel, sum over red, green and blue: a
gray image then gives the same features as an RGB image with three equal channels. For other numbers C, repeat the
three in turn and scale by 3 / C, so that C equal channels give about the same features. Called by the loaders here.
"""

import numpy as np

RGB = 3


def inflates(source, target, axis):
    """Whether two kernel shapes differ only in the number of input channels, which is 3 in the source.

    Args:
        source, target: shapes.
        axis: axis of the input channels.
    """
    source, target = list(source), list(target)
    if len(source) != 4 or len(target) != 4 or source[axis] != RGB or target[axis] == RGB:
        return False
    return source[:axis] + source[axis + 1 :] == target[:axis] + target[axis + 1 :]


def inflate(kernel, channels, axis):
    """Convert an RGB kernel to another number of channels.

    Args:
        kernel: float array of 4 axes.
        channels: int, channels of the images.
        axis: axis of the input channels.

    Returns:
        float array with `channels` along the axis.
    """
    if channels == 1:
        return kernel.sum(axis, keepdims=True)
    return np.take(kernel, np.arange(channels) % RGB, axis) * np.float32(RGB / channels)


def note(name, channels):
    """The note for the receipt."""
    how = "summed" if channels == 1 else f"repeated in turn and scaled by 3/{channels}"
    return f"{name} inflated from 3 to {channels} channels: red, green and blue {how} (timm's adapt_input_conv)"
