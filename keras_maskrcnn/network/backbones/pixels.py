"""What a foreign backbone expects of pixels: raw values, its family's normalisation, or the config's.

Many models of keras.applications begin with Rescaling and Normalization layers and take raw pixels; for others
`keras.applications.<family>.preprocess_input` documents the arithmetic, which stands here as a table.
"""

import dataclasses
import re

import numpy as np
from keras import ops

from keras_maskrcnn.network.padding import valid_cells

FRONT_LAYERS = ("Normalization", "Rescaling")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """(pixel - mean) / std, and what the padding of a canvas then holds.

    Args:
        mean, std: of each channel, or None for the config's pixel_mean and pixel_std.
        padding: value of each channel in the padding, as the backbone sees it. () is 0: the mean image after
            normalisation. None is the config's pixel_mean: the mean image of raw pixels.
        flip: True reverses the channels first: the backbone was trained on BGR.
    """

    mean: tuple | None = None
    std: tuple | None = None
    padding: tuple | None = ()
    flip: bool = False

    def __post_init__(self):
        for name in ("mean", "std", "padding"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(float(number) for number in value))

    def apply(self, images, image_sizes, mean, std):
        """Normalise the images and fill their padding.

        Args:
            images: float32 (B, H, W, C), pixels as they were read, RGB.
            image_sizes: int (B, [height, width]), network pixels.
            mean, std: the config's.

        Returns:
            float32 (B, H, W, C).
        """
        padding = mean if self.padding is None else self.padding or 0.0
        mean = mean if self.mean is None else self.mean
        std = std if self.std is None else self.std
        images = images[..., ::-1] if self.flip else images
        images = (images - np.array(mean, "float32")) / np.array(std, "float32")
        inside = valid_cells(ops.shape(images)[1:3], image_sizes, 1)[..., None]
        return ops.where(inside, images, np.array(padding, "float32"))


# keras.applications.imagenet_utils.preprocess_input, by mode. "caffe" has its mean in the order of BGR.
MODES = {
    "tf": Pixels((127.5,) * 3, (127.5,) * 3),
    "torch": Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": Pixels((103.939, 116.779, 123.68), (1.0,) * 3, flip=True),
}
# Name of the model and of one of its layers; both, because a user's own model may be called "resnet50" too.
FAMILIES = (
    (r"resnet(50|101|152)v2", "conv1_conv", "tf"),
    (r"resnet(50|101|152)", "conv1_conv", "caffe"),
    (r"vgg(16|19)", "block1_conv1", "caffe"),
    (r"mobilenet_\d.*", "conv_dw_1", "tf"),
    (r"mobilenetv2_\d.*", "expanded_conv_depthwise", "tf"),
    (r"densenet(121|169|201)", "conv2_block1_concat", "torch"),
)


def pixels_of(model, mean=None, std=None):
    """Find out what a model expects.

    Args:
        model: functional keras.Model with one input (B, H, W, C).
        mean, std: what the user says; None to find out.

    Returns:
        Pixels. A model that nothing is known of takes the config's normalisation.

    Raises:
        ValueError: if only one of mean and std is given, or both although the model normalises by itself.
    """
    front, channels = front_layers(model), model.inputs[0].shape[-1]
    if (mean is None) != (std is None) or (mean is not None and front):
        raise ValueError(
            "pixel_mean and pixel_std are given together, for a model without Rescaling and Normalization layers at "
            f"its front. Received pixel_mean={mean}, pixel_std={std} for {model.name}, which begins with "
            f"{[layer.name for layer in front] or 'no such layer'}. Give both, or neither."
        )
    if mean is not None:
        return Pixels(_per_channel(mean, channels), _per_channel(std, channels))
    if front:
        return Pixels((0.0,) * channels, (1.0,) * channels, _pixel_that_becomes_zero(front, channels))
    family = find_family(model)
    return MODES[family] if family and channels == 3 else Pixels()


def find_family(model):
    """The mode of `preprocess_input` for a model of keras.applications, or None."""
    layers = {layer.name for layer in model.layers}
    for pattern, layer, mode in FAMILIES:
        if re.fullmatch(pattern, model.name, re.IGNORECASE) and layer in layers:
            return mode
    return None


def front_layers(model):
    """The Rescaling and Normalization layers that a model begins with, in their order."""
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    kinds = [type(layer).__name__ in FRONT_LAYERS for layer in layers]
    return layers[: kinds.index(False)] if False in kinds else layers


def _pixel_that_becomes_zero(front, channels):
    """The mean image of the front layers, which compute a * x + b: -b / a; None where they do not subtract a mean."""
    shift, both = (np.full((1, 1, 1, channels), value, "float32") for value in (0.0, 1.0))
    for layer in front:
        shift, both = layer(shift), layer(both)
    shift, both = (np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), "float64") for x in (shift, both))
    zero = tuple(np.round(-shift / (both - shift), 2).ravel())
    # EfficientNet v1 keeps its mean among the weights: before these are loaded it is 0, which would be black.
    return zero if any(zero) else None


def _per_channel(values, channels):
    values = np.broadcast_to(np.asarray(values, "float64"), (channels,))
    return tuple(float(value) for value in values)
