"""ResNet: images -> feature maps C2..C5 (He et al. 2016, in torchvision's variant).

Torchvision puts a bottleneck's stride on the 3x3 convolution, pads symmetrically and uses epsilon 1e-5.
`keras.applications` does none of the three, so published detection weights do not fit it.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES
from keras_maskrcnn.network.backbones.protocol import Backbone, freeze_layers
from keras_maskrcnn.network.layers import EPSILON, ConvNorm
from keras_maskrcnn.network.padding import cell_weights

BLOCKS = {
    "resnet10": (1, 1, 1, 1),  # half of resnet18, for CPUs; torchvision has none
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
}
BASIC = ("resnet10", "resnet18", "resnet34")
WIDTHS = (64, 128, 256, 512)
GROUPS = {"resnext50_32x4d": (32, 4), "resnext101_32x8d": (32, 8)}  # groups and channels of each (Xie et al. 2017)
PLAIN = (1, WIDTHS[0])
_POOL_PADDING = {"symmetric": 1, "end": 0}  # rows and columns before the map; one is always after it


@keras.saving.register_keras_serializable("keras_maskrcnn")
class ResidualBlock(keras.layers.Layer):
    """One residual block (He et al. 2016, figure 5): basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1).

    Args:
        width: channels of the 3x3 convolutions; a bottleneck returns four times as many.
        strides: stride of the first 3x3 convolution and of the shortcut.
        bottleneck: True for a bottleneck.
        stride_in_1x1: True puts a bottleneck's stride on its first 1x1 convolution instead.
        groups: (groups, channels of each in the first stage) of a bottleneck's 3x3 convolution; (1, 64) is a plain one.
        norm: see `ConvNorm`.
        branch_scale: initial gamma of the residual branch under a frozen norm. A frozen norm does not normalise until
            weights are loaded, and the sum of many branches at full scale would grow a hundredfold.
        norm_epsilon: see `ConvNorm`.
    """

    def __init__(
        self,
        width,
        strides,
        bottleneck,
        norm,
        branch_scale=1.0,
        norm_epsilon=EPSILON,
        stride_in_1x1=False,
        groups=PLAIN,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width, self.strides, self.bottleneck = width, strides, bottleneck
        self.stride_in_1x1, self.groups = stride_in_1x1 and bottleneck, tuple(groups)
        self.norm, self.norm_epsilon = norm, norm_epsilon
        self.branch_scale = branch_scale
        self.filters = width * 4 if bottleneck else width
        shared = {"norm": norm, "norm_epsilon": norm_epsilon, "dtype": self.dtype_policy}
        if bottleneck:
            first, second = (strides, 1) if stride_in_1x1 else (1, strides)
            inner = width * groups[0] * groups[1] // WIDTHS[0]
            self.convs = [
                ConvNorm(inner, 1, first, name="conv1", **shared),
                ConvNorm(inner, 3, second, name="conv2", groups=groups[0], **shared),
                ConvNorm(self.filters, 1, relu=False, name="conv3", frozen_scale=branch_scale, **shared),
            ]
        else:
            self.convs = [
                ConvNorm(width, 3, strides, name="conv1", **shared),
                ConvNorm(width, 3, relu=False, name="conv2", frozen_scale=branch_scale, **shared),
            ]
        self.shortcut = None

    def build(self, input_shape):
        """Build for (B, h, w, C); the shortcut gets a convolution where shapes differ."""
        shape = tuple(input_shape)
        for conv in self.convs:
            conv.build(shape)
            shape = (*shape[:-1], conv.filters)
        if self.strides != 1 or input_shape[-1] != self.filters:
            self.shortcut = ConvNorm(
                self.filters,
                1,
                strides=self.strides,
                norm=self.norm,
                relu=False,
                norm_epsilon=self.norm_epsilon,
                name="shortcut",
                dtype=self.dtype_policy,
            )
            self.shortcut.build(input_shape)

    def call(self, inputs, cells_in=None, cells_out=None, training=None):
        """Add the convolutions to the shortcut.

        Args:
            inputs: float (B, h, w, C), zero in the padding.
            cells_in: float (B, h, w, 1), 1 in the image and 0 in the padding (`cell_weights`), or None.
            cells_out: the same of the result.
            training: whether trainable batch norm uses the batch's statistics.

        Returns:
            float (B, h / strides, w / strides, filters), zero in the padding.
        """
        features = inputs
        for conv, following in zip(self.convs, self.convs[1:]):
            cells = cells_in if conv.kernel_size == 1 and not self.stride_in_1x1 else cells_out
            # Only a convolution larger than 1x1 mixes the padding with the image.
            features = conv(features, training=training, cells=cells if following.kernel_size > 1 else None)
        features = self.convs[-1](features, training=training)
        shortcut = self.shortcut(inputs, training=training) if self.shortcut is not None else inputs
        return backend.apply_relu(features, cells_out, added=shortcut)

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "width": self.width,
            "strides": self.strides,
            "bottleneck": self.bottleneck,
            "norm": self.norm,
            "branch_scale": self.branch_scale,
            "norm_epsilon": self.norm_epsilon,
            "stride_in_1x1": self.stride_in_1x1,
            "groups": self.groups,
        }


@keras.saving.register_keras_serializable("keras_maskrcnn")
class ResNet(Backbone, keras.layers.Layer):
    """ResNet-10, 18, 34, 50, 101 or 152, ResNeXt-50-32x4d or -101-32x8d, without its classifier.

    Given `image_sizes`, it keeps the padding at zero, so its maps do not depend on the size of the canvas.

    Args:
        depth: "resnet10" .. "resnet152", "resnext50_32x4d", "resnext101_32x8d".
        norm: "frozen_batch", "batch", "group" or "none".
        norm_epsilon: added to the norm's variance.
        stride_in_1x1: see `ResidualBlock`.
        stem_pool: "symmetric", or "end": the maximum after the stem pads at the bottom and right only.
    """

    masks_padding = True

    def __init__(
        self,
        depth,
        norm="frozen_batch",
        norm_epsilon=EPSILON,
        stride_in_1x1=False,
        stem_pool="symmetric",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if depth not in BLOCKS:
            raise ValueError(
                f"A ResNet is one of {tuple(BLOCKS)}. Received: {depth!r}. Wrap other networks by "
                "km.backbones.from_keras(model)."
            )
        self.depth, self.norm, self.norm_epsilon = depth, norm, norm_epsilon
        self.stride_in_1x1, self.stem_pool = stride_in_1x1, stem_pool
        self.stem = ConvNorm(
            64, 7, strides=2, norm=norm, norm_epsilon=norm_epsilon, name="stem", dtype=self.dtype_policy
        )
        self.pool = keras.layers.MaxPooling2D(3, 2, name="pool", dtype=self.dtype_policy)
        # One flat list: Keras saves no weights of layers in nested lists.
        self.blocks, self.ends = [], []
        branch_scale = sum(BLOCKS[depth]) ** -0.5
        for index, (count, width) in enumerate(zip(BLOCKS[depth], WIDTHS)):
            for block in range(count):
                strides = 2 if block == 0 and index else 1
                name = f"stage{index + 1}_block{block + 1}"
                self.blocks.append(
                    ResidualBlock(
                        width=width,
                        strides=strides,
                        bottleneck=depth not in BASIC,
                        norm=norm,
                        branch_scale=branch_scale,
                        norm_epsilon=norm_epsilon,
                        stride_in_1x1=stride_in_1x1,
                        groups=GROUPS.get(depth, PLAIN),
                        name=name,
                        dtype=self.dtype_policy,
                    )
                )
            self.ends.append(len(self.blocks) - 1)

    @property
    def channels(self):
        """Channels of C2..C5."""
        return tuple(self.blocks[end].filters for end in self.ends)

    @property
    def stages(self):
        """The four lists of blocks that compute C2..C5."""
        starts = [0, *(end + 1 for end in self.ends[:-1])]
        return [self.blocks[start : end + 1] for start, end in zip(starts, self.ends)]

    def freeze_first(self, count):
        """Freeze the first `count` of: stem, stage 1, .., stage 4.

        Torchvision's `trainable_layers` counts from the other end.

        Args:
            count: 0..5.
        """
        freeze_layers([[self.stem], *self.stages], count)

    def extract(self, images, image_sizes=None, training=None):
        """Return the four maps; the arguments are those of `call`."""
        return self(images, image_sizes=image_sizes, training=training)

    def build(self, input_shape):
        """Build for images (B, H, W, C)."""
        self.stem.build(input_shape)
        shape = (None, None, None, 64)
        for block in self.blocks:
            block.build(shape)
            shape = (None, None, None, block.filters)

    def call(self, images, image_sizes=None, training=None):
        """Extract the four maps that a pyramid needs.

        Args:
            images: float (B, H, W, C), normalised, zero in the padding; H and W multiples of 32.
            image_sizes: int (B, [height, width]), network pixels; None lets the padding take part in the convolutions.
            training: whether trainable batch norm uses the batch's statistics.

        Returns:
            List of float (B, H / s, W / s, C) for strides s = 4, 8, 16, 32.
        """
        extent = ops.shape(images)[1:3]
        cells = {
            stride: cell_weights([side // stride for side in extent], image_sizes, stride, self.compute_dtype)
            for stride in (2, *BACKBONE_STRIDES)
        }
        features = self.stem(images, training=training, cells=cells[2])
        # Features are not negative after ReLU, so padding with zeros gives the same maximum as padding with -inf.
        before = _POOL_PADDING[self.stem_pool]
        features = self.pool(ops.pad(features, [[0, 0], [before, 1], [before, 1], [0, 0]]))
        features = features if image_sizes is None else backend.keep_cells(features, cells[4])
        outputs, stride = [], 4
        for index, block in enumerate(self.blocks):
            cells_in, stride = cells[stride], stride * block.strides
            features = block(features, cells_in, cells[stride], training=training)
            if index in self.ends:
                outputs.append(features)
        return outputs

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "depth": self.depth,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "stride_in_1x1": self.stride_in_1x1,
            "stem_pool": self.stem_pool,
        }
