"""Stage 7: pooled RoI features -> one mask for each class (Mask R-CNN section 3 and figure 4, right)."""

import math

import keras
from keras import ops

from keras_maskrcnn.layers import ConvNorm


@keras.saving.register_keras_serializable("keras_maskrcnn")
class MaskHead(keras.layers.Layer):
    """3x3 convolutions, 2x2 deconvolutions, a 1x1 convolution to K mask logits; classes do not compete.

    Args:
        num_classes: K, background not counted.
        channels_in: channels of the pooled features.
        channels: width of the head.
        pool_size, mask_size: side of the pooled square and of the masks; their ratio is a power of two.
        num_convs: 3x3 convolutions (paper: 4).
        norm: of the convolutions, or None.
    """

    def __init__(
        self, num_classes, channels_in=256, channels=256, pool_size=14, mask_size=28, num_convs=4, norm=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_classes, self.channels_in, self.channels = num_classes, channels_in, channels
        self.pool_size, self.mask_size, self.num_convs, self.norm = pool_size, mask_size, num_convs, norm
        self.convs = [
            ConvNorm(channels, 3, norm=norm, name=f"conv{i + 1}", dtype=self.dtype_policy) for i in range(num_convs)
        ]
        self.deconvs = [
            keras.layers.Conv2DTranspose(
                channels,
                2,
                strides=2,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"deconv{i + 1}",
                dtype=self.dtype_policy,
            )
            for i in range(int(math.log2(mask_size // pool_size)))
        ]
        self.logits = keras.layers.Conv2D(
            num_classes, 1, kernel_initializer="he_normal", name="logits", dtype="float32"
        )

    def build(self, input_shape):
        """Build for (B, R, pool_size, pool_size, channels_in)."""
        shape = (None, self.pool_size, self.pool_size, self.channels_in)
        for layer in (*self.convs, *self.deconvs):
            layer.build(shape)
            shape = (*shape[:-1], self.channels)
        self.logits.build(shape)

    def call(self, pooled, labels, training=None):
        """The mask logits of each RoI for its own class.

        Args:
            pooled: float (B, R, pool_size, pool_size, channels_in).
            labels: int (B, R), 0..K-1: predicted at test, ground truth in training (section 3: only the k-th mask
                contributes). Other values give zeros or any class's mask: such rows are padding.
            training: for trainable batch norm.

        Returns:
            float32 (B, R, mask_size, mask_size).
        """
        batch, rois = ops.shape(pooled)[0], ops.shape(pooled)[1]
        features = ops.reshape(pooled, (-1, self.pool_size, self.pool_size, self.channels_in))
        for conv in self.convs:
            features = conv(features, training=training)
        for deconv in self.deconvs:
            features = deconv(features)
        logits = self.logits(features)
        if self.num_classes > 1:
            chosen = ops.clip(ops.reshape(labels, (-1, 1, 1, 1)), 0, self.num_classes - 1)
            chosen = ops.broadcast_to(chosen, (*ops.shape(logits)[:3], 1))
            logits = ops.take_along_axis(logits, chosen, axis=-1)
        return ops.reshape(logits, (batch, rois, self.mask_size, self.mask_size))

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels_in": self.channels_in,
            "channels": self.channels,
            "pool_size": self.pool_size,
            "mask_size": self.mask_size,
            "num_convs": self.num_convs,
            "norm": self.norm,
        }
