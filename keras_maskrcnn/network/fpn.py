"""Stage 2: C2..C5 -> pyramid P2..P6 (Lin et al. 2017, section 3; P6 by subsampling P5, section 4.1)."""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES
from keras_maskrcnn.network.layers import EPSILON, ConvNorm
from keras_maskrcnn.network.padding import keep_cells, weights_of_map


@keras.saving.register_keras_serializable("keras_maskrcnn")
class FeaturePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, top-down sums with nearest upsampling, 3x3 output convolutions.

    Args:
        channels: channels of every level.
        norm: None or a norm (torchvision v2: "batch"). norm_epsilon: added to its variance. norm_place: "after_relu"
            gives the convolutions a bias before it; there is no ReLU.
    """

    def __init__(self, channels=256, norm=None, norm_epsilon=EPSILON, norm_place="before_relu", **kwargs):
        super().__init__(**kwargs)
        self.norm_place = norm_place
        self.channels, self.norm, self.norm_epsilon = channels, None if norm == "none" else norm, norm_epsilon
        self.laterals = [self._conv("lateral", 1, level) for level in range(2, 6)]
        self.outputs = [self._conv("output", 3, level) for level in range(2, 6)]

    def _conv(self, kind, size, level):
        return ConvNorm(
            self.channels,
            size,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            norm_place=self.norm_place,
            relu=False,
            kernel_initializer="lecun_uniform" if self.norm is None else "he_normal",
            name=f"{kind}{level}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        """Build for the shapes of C2..C5, any number of channels each.

        Raises:
            ValueError: for another number of maps.
        """
        if len(input_shape) != len(BACKBONE_STRIDES):
            raise ValueError(
                f"The pyramid takes {len(BACKBONE_STRIDES)} maps, of strides {BACKBONE_STRIDES}. "
                f"Received {len(input_shape)} maps of shapes {list(input_shape)}. Choose one layer of each stride: "
                "km.backbones.from_keras(model, layers=[...])."
            )
        for lateral, output, shape in zip(self.laterals, self.outputs, input_shape):
            lateral.build(shape)
            output.build((*shape[:-1], self.channels))

    def call(self, features, image_sizes=None, training=None):
        """Merge the maps, the coarsest first.

        Args:
            features: list of float (B, H / s, W / s, C) for strides s = 4, 8, 16, 32.
            image_sizes: int (B, [height, width]), network pixels; None leaves the padding as it is.
            training: whether trainable batch norm uses the batch's statistics.

        Returns:
            List of float (B, H / s, W / s, channels) for strides s = 4, 8, 16, 32, 64.
        """
        pyramid, merged = [], None
        for level, stride in reversed(list(enumerate(BACKBONE_STRIDES))):
            lateral = self.laterals[level](features[level], training=training)
            cells = weights_of_map(lateral, image_sizes, stride)
            merged = keep_cells(lateral, cells) if merged is None else backend.add_upsampled(lateral, merged, cells)
            pyramid.insert(0, keep_cells(self.outputs[level](merged, training=training), cells))
        # Every second cell. A slice with strides takes longer on TensorFlow, and OpenVINO cannot bound its size.
        pyramid.append(ops.average_pool(pyramid[-1], 1, 2, padding="valid"))
        return pyramid

    def get_config(self):
        """Keras serialisation."""
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, "norm_place": self.norm_place}
        return {**super().get_config(), "channels": self.channels, **norm}
