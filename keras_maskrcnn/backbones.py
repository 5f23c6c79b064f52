"""Backbones for `MaskRCNN(config, backbone=...)`: `km.backbones.from_keras` and the protocol of one's own.

docs/backbones.md shows how to use them; the code is in network/backbones/.
"""

from keras_maskrcnn.network.backbones import Backbone, KerasBackbone, ResNet, describe, from_keras

__all__ = ["Backbone", "KerasBackbone", "ResNet", "describe", "from_keras"]
