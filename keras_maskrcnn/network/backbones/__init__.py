"""Stage 1: images -> four feature maps C2..C5 of strides 4, 8, 16, 32.

protocol.py       what a backbone is; facts about any model of four maps
resnet.py         the ResNets of the paper, in torchvision's variant
keras_models.py   models of keras.applications and KerasHub, and functional models of users
pixels.py         what such models expect of pixels
graph.py          where the stages of such models end
"""

from keras_maskrcnn.network.backbones.keras_models import (
    PREFIX,
    KerasBackbone,
    application,
    from_keras,
    load_imagenet,
)
from keras_maskrcnn.network.backbones.protocol import Backbone, build, describe
from keras_maskrcnn.network.backbones.resnet import ResNet

__all__ = [
    "Backbone",
    "KerasBackbone",
    "ResNet",
    "application",
    "build",
    "describe",
    "from_keras",
    "load_imagenet",
    "make",
]


def make(config, backbone=None, dtype=None):
    """The layer that `MaskRCNN` keeps as its backbone.

    Args:
        config: MaskRCNNConfig.
        backbone: None for the one that the config names; else a layer or model, kept as it is.
        dtype: Keras dtype policy of a new one.

    Returns:
        A keras layer with the protocol, or a keras.Model of four maps (`describe` gives its facts).
    """
    if backbone is not None:
        return backbone
    if config.backbone.startswith(PREFIX):
        name = config.backbone.removeprefix(PREFIX)
        return application(name, config.num_channels, config.image_dtype, dtype=dtype)
    return ResNet(
        config.backbone,
        norm=config.norm,
        norm_epsilon=config.norm_epsilon,
        stride_in_1x1=config.stride_in_1x1,
        stem_pool=config.stem_pool,
        name="backbone",
        dtype=dtype,
    )
