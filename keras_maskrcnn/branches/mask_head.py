"""The layer of the mask branch: RoIs -> one mask for each class (Mask R-CNN section 3 and figure 4, right).

The targets and the loss stand beside the layer. Q of the sampled RoIs are positive, M = mask_size.
"""

import math

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.branches.head import BranchHead
from keras_maskrcnn.geometry.mask_samples import sample_masks
from keras_maskrcnn.learning.losses import binary_cross_entropy, mean_of
from keras_maskrcnn.network.layers import EPSILON, ConvNorm, KernelAndBias


@keras.saving.register_keras_serializable("keras_maskrcnn")
class MaskHead(BranchHead):
    """3x3 convolutions, 2x2 deconvolutions, a 1x1 convolution to K mask logits; classes do not compete.

    Args:
        num_classes: K, background not counted.
        channels_in: channels of the pooled features.
        channels: width of the head.
        pool_size, mask_size: side of the pooled square and of the masks; their ratio is a power of two.
        num_convs: 3x3 convolutions (paper: 4).
        norm: of the convolutions, or None. norm_epsilon: added to its variance. norm_place: as of ConvNorm.
        target_rule: dict of options of `sample_masks`, a value of `mask.TARGET_RULES`.
        **kwargs: of BranchHead.
    """

    def __init__(
        self,
        num_classes,
        channels_in=256,
        channels=256,
        pool_size=14,
        mask_size=28,
        num_convs=4,
        norm=None,
        norm_epsilon=EPSILON,
        norm_place="before_relu",
        target_rule=None,
        **kwargs,
    ):
        super().__init__(pool_size, **kwargs)
        self.num_classes, self.channels_in, self.channels = num_classes, channels_in, channels
        self.mask_size, self.num_convs = mask_size, num_convs
        self.norm, self.norm_epsilon, self.norm_place = norm, norm_epsilon, norm_place
        self.target_rule = dict(target_rule or {})
        norm_options = {"norm": norm, "norm_epsilon": norm_epsilon, "norm_place": norm_place}
        self.convs = [
            ConvNorm(channels, 3, name=f"conv{i + 1}", dtype=self.dtype_policy, **norm_options)
            for i in range(num_convs)
        ]
        self.deconvs = [
            keras.layers.Conv2DTranspose(
                channels,
                2,
                strides=2,
                activation="relu",
                kernel_initializer=backend.initial_values("he_normal"),
                name=f"deconv{i + 1}",
                dtype=self.dtype_policy,
            )
            for i in range(int(math.log2(mask_size // pool_size)))
        ]
        self.logits = KernelAndBias(num_classes, name="logits")

    def build(self, input_shape):
        """Build for (B, R, pool_size, pool_size, channels_in)."""
        shape = (None, self.pool_size, self.pool_size, self.channels_in)
        for layer in (*self.convs, *self.deconvs):
            layer.build(shape)
            shape = (*shape[:-1], self.channels)
        self.logits.build(shape)

    def learn(self, maps, rois, truth, training):
        """Mask logits of the positive RoIs, and the matched objects' masks as their targets.

        Args: as for BranchHead.learn; `truth` holds gt_boxes, gt_masks and perhaps gt_mask_boxes.

        Returns:
            dict of logits float32 (B, Q, M, M), targets float32 (B, Q, M, M) in 0..1, positive bool (B, Q).
        """
        chosen = self.positive_rois(rois)
        pooled = self.align(maps, chosen["rois"], with_gradient=True)
        return {
            "logits": self(pooled, chosen["labels"], training=training),
            "targets": mask_targets(chosen["rois"], chosen["matched"], truth, self.mask_size, self.target_rule),
            "positive": chosen["positive"],
        }

    def loss_values(self, learned):
        """Dict of mask_loss."""
        return {"mask_loss": mask_loss(learned["logits"], learned["targets"], learned["positive"])}

    def detect(self, maps, detections):
        """Masks on the refined boxes (section 3.1): dict of masks float32 (B, D, M, M), probabilities."""
        pooled = self.align(maps, detections["boxes"], with_gradient=False)
        return {"masks": ops.sigmoid(self(pooled, detections["labels"], training=False))}

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
        features = ops.reshape(features, (batch, rois, *features.shape[1:]))
        logits = backend.part_by_part(self._enlarge_and_classify, features, ops.convert_to_tensor(labels))
        return ops.reshape(self._order_cells(logits), (batch, rois, self.mask_size, self.mask_size))

    def _enlarge_and_classify(self, features, labels):
        """Deconvolutions and the 1x1 convolution: float (B, R, p, p, C), int (B, R) -> float32 (B, R, mask_size ** 2).

        What the deconvolutions give is four times as large as any other map of the head, and one product makes it.
        """
        batch, rois = ops.shape(labels)[0], ops.shape(labels)[1]
        features = ops.reshape(features, (-1, *features.shape[2:]))
        for deconv in self.deconvs:
            features = self._split_cells(features, deconv)
        features = ops.cast(ops.reshape(features, (-1, self.mask_size**2, self.channels)), "float32")
        logits = self._logits_of_class(features, ops.reshape(labels, (-1,)))
        return ops.reshape(logits, (batch, rois, self.mask_size**2))

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
        bias = backend.take_rows(ops.convert_to_tensor(self.logits.bias), labels)
        return ops.matmul(features, backend.take_rows(kernel, labels)[..., None])[..., 0] + bias[:, None]

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
            "mask_size": self.mask_size,
            "num_convs": self.num_convs,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "norm_place": self.norm_place,
            "target_rule": self.target_rule,
        }


def mask_targets(rois, matched, truth, mask_size, rule=None):
    """The matched objects' masks cut out by the RoIs (Mask R-CNN section 3, "Mask Representation").

    Args:
        rois: float (B, Q, 4), network pixels. matched: int32 (B, Q), rows of the ground truth.
        truth: dict of the batch's `gt_*` arrays. mask_size: M, cells per side.
        rule: dict of options of `sample_masks`, a value of `mask.TARGET_RULES`; None takes its defaults.

    Returns:
        float32 (B, Q, M, M) in 0..1. No gradient.
    """
    windows = ops.cast(truth.get("gt_mask_boxes", truth["gt_boxes"]), "float32")
    return ops.stop_gradient(sample_masks(truth["gt_masks"], windows, matched, rois, mask_size, **(rule or {})))


def mask_loss(mask_logits, mask_targets, positive):
    """Mean sigmoid cross-entropy over the cells of the positive RoIs' own-class masks (section 3, "L_mask").

    Args:
        mask_logits: float (B, Q, M, M), of the true class. mask_targets: float (B, Q, M, M) in 0..1.
        positive: bool (B, Q).

    Returns:
        float32 scalar.
    """
    mask_logits = ops.cast(mask_logits, "float32")
    cells = math.prod(mask_logits.shape[2:])
    each = ops.sum(binary_cross_entropy(mask_targets, mask_logits), axis=(2, 3))
    return mean_of(each / cells, positive)
