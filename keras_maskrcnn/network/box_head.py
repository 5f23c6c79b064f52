"""Stage 5: pooled RoI features -> class logits and box deltas (Mask R-CNN figure 4; FPN section 4.2).

`BoxHead` is one head, `CascadeHead` one for each stage of a cascade. `stages()` gives either as a tuple of BoxHead.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.network.layers import EPSILON, ConvNorm


@keras.saving.register_keras_serializable("keras_maskrcnn")
class BoxHead(keras.layers.Layer):
    """Optional 3x3 convolutions, fully connected layers, then the two predictors.

    Args:
        num_classes: K, background not counted.
        channels: channels of the pooled features.
        pool_size: side of the pooled square.
        num_convs: number of 3x3 convolutions (paper 0; torchvision v2: 4).
        num_fcs: number of fully connected layers (paper 2; torchvision v2: 1).
        features: width of the fully connected layers.
        norm: norm of the convolutions, or None. norm_epsilon: added to its variance. norm_place: as of ConvNorm.
        class_agnostic: True predicts one box for all classes, False one for each.
    """

    def __init__(
        self,
        num_classes,
        channels=256,
        pool_size=7,
        num_convs=0,
        num_fcs=2,
        features=1024,
        norm=None,
        norm_epsilon=EPSILON,
        norm_place="before_relu",
        class_agnostic=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes, self.channels, self.pool_size = num_classes, channels, pool_size
        self.num_convs, self.num_fcs, self.features, self.norm = num_convs, num_fcs, features, norm
        self.norm_epsilon, self.norm_place, self.class_agnostic = norm_epsilon, norm_place, class_agnostic
        norm_options = {"norm": norm, "norm_epsilon": norm_epsilon, "norm_place": norm_place}
        self.convs = [
            ConvNorm(channels, 3, name=f"conv{i + 1}", dtype=self.dtype_policy, **norm_options)
            for i in range(num_convs)
        ]
        self.fcs = [
            keras.layers.Dense(
                features,
                "relu",
                kernel_initializer=backend.initial_values("he_uniform"),
                name=f"fc{i + 1}",
                dtype=self.dtype_policy,
            )
            for i in range(num_fcs)
        ]
        # Standard deviations of Fast R-CNN, section 2.3.
        normal = lambda deviation: backend.initial_values(keras.initializers.RandomNormal(stddev=deviation))  # noqa: E731
        self.classes = keras.layers.Dense(
            num_classes + 1, kernel_initializer=normal(0.01), name="classes", dtype="float32"
        )
        boxes = 1 if class_agnostic else num_classes
        self.deltas = keras.layers.Dense(boxes * 4, kernel_initializer=normal(0.001), name="deltas", dtype="float32")

    def stages(self):
        """The heads of the stages: itself."""
        return (self,)

    def build(self, input_shape):
        """Build for (B, R, pool_size, pool_size, channels)."""
        for conv in self.convs:
            conv.build((None, self.pool_size, self.pool_size, self.channels))
        width = self.pool_size**2 * self.channels
        for fc in self.fcs:
            fc.build((None, None, width))
            width = self.features
        self.classes.build((None, None, width))
        self.deltas.build((None, None, width))

    def call(self, pooled, training=None):
        """Classify and refine each RoI.

        Args:
            pooled: float (B, R, pool_size, pool_size, channels).
            training: whether trainable batch norm uses batch statistics.

        Returns:
            dict of class_logits float32 (B, R, K + 1), last column background; deltas float32
            (B, R, K, [dx, dy, dw, dh]), one box per class; of a class-agnostic head the same one.
        """
        batch, rois = backend.shape(pooled)[:2]
        features = pooled
        if self.convs:
            features = ops.reshape(features, (-1, self.pool_size, self.pool_size, self.channels))
            for conv in self.convs:
                features = conv(features, training=training)
        features = ops.reshape(features, (batch, rois, self.pool_size**2 * self.channels))
        for fc in self.fcs:
            features = fc(features)
        deltas = ops.reshape(self.deltas(features), (batch, rois, 1 if self.class_agnostic else self.num_classes, 4))
        if self.class_agnostic:
            deltas = ops.tile(deltas, (1, 1, self.num_classes, 1))
        return {"class_logits": self.classes(features), "deltas": deltas}

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels": self.channels,
            "pool_size": self.pool_size,
            "num_convs": self.num_convs,
            "num_fcs": self.num_fcs,
            "features": self.features,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "norm_place": self.norm_place,
            "class_agnostic": self.class_agnostic,
        }


@keras.saving.register_keras_serializable("keras_maskrcnn")
class CascadeHead(keras.layers.Layer):
    """The class-agnostic heads of a cascade, `stage1`, `stage2`, ... (Cai and Vasconcelos 2018, section 4).

    They are called one by one, each on the boxes of the one before: `box_stages/` does.

    Args:
        num_stages: number of heads. head: dict of the options of each `BoxHead`.
    """

    def __init__(self, num_stages, head, **kwargs):
        super().__init__(**kwargs)
        self.num_stages, self.head = num_stages, dict(head)
        for name in self._names():
            setattr(self, name, BoxHead(class_agnostic=True, name=name, dtype=self.dtype_policy, **head))

    def _names(self):
        return [f"stage{number}" for number in range(1, self.num_stages + 1)]

    def stages(self):
        """The heads of the stages, in their order."""
        return tuple(getattr(self, name) for name in self._names())

    def build(self, input_shape):
        """Build all for (B, R, pool_size, pool_size, channels)."""
        for head in self.stages():
            head.build(input_shape)

    def get_config(self):
        """Keras serialisation."""
        return {**super().get_config(), "num_stages": self.num_stages, "head": self.head}
