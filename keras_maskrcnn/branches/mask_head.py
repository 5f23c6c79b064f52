"""Stage 7: pooled RoI features -> one mask for each class (Mask R-CNN section 3 and figure 4, right)."""

import math

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.network.layers import ConvNorm, Predictor1x1


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
        self.logits = Predictor1x1(num_classes, name="logits")

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
            features = self._split_cells(features, deconv)
        features = ops.cast(ops.reshape(features, (-1, self.mask_size**2, self.channels)), "float32")
        logits = self._order_cells(self._logits_of_class(features, ops.reshape(labels, (-1,))))
        return ops.reshape(logits, (batch, rois, self.mask_size, self.mask_size))

    def _split_cells(self, features, deconv):
        """A 2x2 deconvolution as a product: each cell becomes four, (R, p, n, C) -> (R, p, 4 * n, channels).

        The four stand one behind the other. Nothing after it looks sideways, so that only the logits, one number a
        cell, are put in order.
        """
        kernel = ops.transpose(ops.cast(deconv.kernel, features.dtype), (3, 0, 1, 2))
        kernel = ops.reshape(kernel, (1, 1, -1, 4 * self.channels))
        bias = ops.tile(ops.cast(deconv.bias, features.dtype), 4)
        (split,) = backend.convolve([features], kernel, bias, relu=True)
        return ops.reshape(split, (-1, self.pool_size, 4 * split.shape[2], self.channels))

    def _logits_of_class(self, features, labels):
        """The 1x1 convolution for one class of each RoI: float (R, cells, channels), int (R,) -> float (R, cells)."""
        kernel = ops.transpose(ops.reshape(self.logits.kernel, (-1, self.num_classes)))
        labels = ops.clip(labels, 0, self.num_classes - 1)
        bias = ops.take(ops.convert_to_tensor(self.logits.bias), labels)
        return ops.matmul(features, ops.take(kernel, labels, axis=0)[..., None])[..., 0] + bias[:, None]

    def _order_cells(self, logits):
        """From the order of the splits, (row, column, (row, column) of each split), to (R, mask_size, mask_size)."""
        splits = len(self.deconvs)
        logits = ops.reshape(logits, (-1, self.pool_size, self.pool_size, *[2] * (2 * splits)))
        rows, columns = (range(first, 2 * splits + 3, 2) for first in (1, 2))
        logits = ops.transpose(logits, (0, *rows, *columns))
        return ops.reshape(logits, (-1, self.mask_size, self.mask_size))

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
