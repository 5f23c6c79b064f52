"""The first convolution of RGB weights for images of other channels.

The rule is timm's (`adapt_input_conv` in timm/models/_manipulate.py): for one channel the sum over red, green and blue,
which answers a gray image as the RGB weights answer it in three equal channels; for others the three are repeated in
turn and scaled by 3 / C, so that C equal channels give about the answer that three gave. Called by the loaders of this
folder.
"""

import numpy as np

RGB = 3


def inflates(source, target, axis):
    """Whether a kernel's shape is another's but for the number of input channels, 3 in the source.

    Args:
        source, target: shapes.
        axis: of the input channels.
    """
    source, target = list(source), list(target)
    if len(source) != 4 or len(target) != 4 or source[axis] != RGB or target[axis] == RGB:
        return False
    return source[:axis] + source[axis + 1 :] == target[:axis] + target[axis + 1 :]


def inflate(kernel, channels, axis):
    """A kernel of RGB for images of other channels.

    Args:
        kernel: float array of 4 axes.
        channels: int, of the images.
        axis: of the input channels.

    Returns:
        float array with `channels` along the axis.
    """
    if channels == 1:
        return kernel.sum(axis, keepdims=True)
    return np.take(kernel, np.arange(channels) % RGB, axis) * np.float32(RGB / channels)


def note(name, channels):
    """The receipt's line on it."""
    how = "summed" if channels == 1 else f"repeated in turn and scaled by 3/{channels}"
    return f"{name} inflated from 3 to {channels} channels: red, green and blue {how} (timm's adapt_input_conv)"
