"""What a backbone is: four feature maps, and the facts about them that the rest of the model reads.

A backbone is a Keras layer or model that also has

    channels        tuple of 4 int: channels of the maps C2..C5
    strides         tuple of 4 int: network pixels a cell, (4, 8, 16, 32)
    masks_padding   bool: True if its maps do not depend on what a canvas holds beside the image
    freeze_first    method (count): stop training the first `count` of stem, stage 1, .., stage 4; count 0..5
    normalize       method: pixels -> what the backbone was made for, with the padding filled in
    extract         method: normalised images -> list of the four maps

`Backbone` is a mixin with defaults for all but `channels` and `freeze_first`. `ResNet` and `KerasBackbone` are such
backbones. `describe` gives the same facts for a plain keras.Model, which has none of these names.
"""

import keras
import numpy as np

from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES
from keras_maskrcnn.network.backbones.graph import PROBE, stage_layers, stride_of
from keras_maskrcnn.network.padding import zero_padding

PROTOCOL = ("channels", "strides", "masks_padding", "freeze_first", "normalize", "extract")


class Backbone:
    """Mixin for a layer of your own: `class Mine(km.backbones.Backbone, keras.layers.Layer)`.

    The layer adds `channels`, `freeze_first(count)` and `call(images, training)`, which returns the four maps.
    """

    strides = BACKBONE_STRIDES
    masks_padding = False

    def normalize(self, images, image_sizes, mean, std):
        """Subtract the mean, divide by the deviation, and set the padding to zero: the mean image.

        Args:
            images: float32 (B, H, W, C), pixels as they were read.
            image_sizes: int (B, [height, width]), network pixels.
            mean, std: of each channel, from the config.

        Returns:
            float32 (B, H, W, C).
        """
        images = (images - np.array(mean, "float32")) / np.array(std, "float32")
        return zero_padding(images, image_sizes, 1)

    def extract(self, images, image_sizes=None, training=None):
        """Return the four maps.

        Args:
            images: float (B, H, W, C), from `normalize`; H and W are multiples of 32.
            image_sizes: int (B, [height, width]), network pixels, or None. Ignored unless `masks_padding`.
            training: whether dropout and trainable batch norm are in training mode.

        Returns:
            List of float (B, H / s, W / s, C_s) for strides s = 4, 8, 16, 32.
        """
        return self(images, training=training)


class PlainModel(Backbone):
    """The facts about a layer that does not state them, as a keras.Model of four maps handed to `MaskRCNN`.

    It takes images normalised with the config's pixel_mean and pixel_std. Holds no weights.

    Args:
        layer: a keras.Model, or a layer with `compute_output_shape`.
        num_channels: of the images.
    """

    def __init__(self, layer, num_channels=3):
        self.layer, self.num_channels = layer, num_channels

    @property
    def channels(self):
        """Channels of the four maps."""
        return tuple(shape[-1] for shape in self._shapes((None, None)))

    @property
    def strides(self):
        """Strides of the maps; the usual ones where the layer does not tell the sides of its maps."""
        shapes = self._shapes(PROBE)
        if any(None in shape[1:3] for shape in shapes):
            return BACKBONE_STRIDES
        return tuple(stride_of(shape[1:3]) for shape in shapes)

    def freeze_first(self, count):
        """Freeze by stage, which needs the graph of a functional model.

        Raises:
            ValueError: for a layer without such a graph.
        """
        if not hasattr(self.layer, "operations"):
            raise ValueError(
                "Stages can be frozen in functional models and in layers with `freeze_first`. "
                f"Received: {type(self.layer).__name__}. Freeze 'backbone', or set `trainable` of its layers."
            )
        freeze_layers(stage_layers(self.layer), count)

    def extract(self, images, image_sizes=None, training=None):
        """Return the four maps; the arguments are those of `Backbone.extract`."""
        return self.layer(images, training=training)

    def _shapes(self, sides):
        return [tuple(shape) for shape in self.layer.compute_output_shape((None, *sides, self.num_channels))]


def describe(layer, num_channels=3):
    """The facts about a backbone: the layer itself if it states them, else a `PlainModel` around it.

    Args:
        layer: `model.backbone`. num_channels: of the images.
    """
    return layer if all(hasattr(layer, name) for name in PROTOCOL) else PlainModel(layer, num_channels)


def freeze_layers(stages, count):
    """Set `trainable = False` on the layers of the first `count` lists."""
    for layers in stages[:count]:
        for layer in layers:
            layer.trainable = False


def build(layer, num_channels, trainable_layers):
    """Create the weights, check the strides and freeze; called once, by the model.

    A plain model keeps the `trainable` flags of its own layers, whatever `trainable_layers` says.

    Args:
        layer: a backbone, from `make`.
        num_channels: of the images.
        trainable_layers: how many of stem and four stages train, counted from the last.

    Returns:
        List of the shapes (None, None, None, channels) of the four maps.

    Raises:
        ValueError: for other strides than 4, 8, 16, 32.
    """
    if not layer.built and not isinstance(layer, keras.Model):
        layer.build((None, None, None, num_channels))
    facts = describe(layer, num_channels)
    check_strides(facts.strides, getattr(layer, "name", type(layer).__name__))
    if not isinstance(facts, PlainModel):
        facts.freeze_first(5 - trainable_layers)
    return [(None, None, None, channels) for channels in facts.channels]


def check_strides(strides, name):
    """Raise ValueError unless the strides are those of the feature pyramid."""
    if tuple(strides) != BACKBONE_STRIDES:
        raise ValueError(
            f"A backbone returns four maps of strides {BACKBONE_STRIDES}, in this order. "
            f"Received strides {tuple(strides)} from {name}. "
            "Choose other layers: km.backbones.from_keras(model, layers=[...])."
        )
