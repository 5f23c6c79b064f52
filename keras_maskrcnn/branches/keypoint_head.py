"""The layer of the keypoint branch: RoIs -> a heatmap for each keypoint (Mask R-CNN section 5).

The targets, the loss and the decoding stand beside the layer. K keypoints; M = 4 * pool_size, cells of a heatmap's
side.
"""

import keras
import numpy as np
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.branches.head import BranchHead
from keras_maskrcnn.geometry.bicubic import resized_peaks
from keras_maskrcnn.geometry.bilinear import doubling
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.learning.losses import mean_of
from keras_maskrcnn.learning.targets import matched_rows
from keras_maskrcnn.network.layers import ConvNorm


@keras.saving.register_keras_serializable("keras_maskrcnn")
class KeypointHead(BranchHead):
    """3x3 convolutions, a 4x4 deconvolution of stride 2, bilinear enlargement by 2; no class has its own heatmaps.

    Args:
        num_keypoints: K.
        channels_in: channels of the pooled features.
        channels: width of the head.
        num_convs: 3x3 convolutions (paper: 8).
        score: "logit" or "probability", as `decode_keypoints` takes it.
        loss_normalizer: as `keypoint_loss` takes it.
        **kwargs: of BranchHead.
    """

    def __init__(
        self,
        num_keypoints,
        channels_in=256,
        channels=512,
        num_convs=8,
        score="logit",
        loss_normalizer=None,
        pool_size=14,
        **kwargs,
    ):
        super().__init__(pool_size, **kwargs)
        self.num_keypoints, self.channels_in, self.channels = num_keypoints, channels_in, channels
        self.num_convs, self.score, self.loss_normalizer = num_convs, score, loss_normalizer
        self.convs = [ConvNorm(channels, 3, name=f"conv{i + 1}", dtype=self.dtype_policy) for i in range(num_convs)]
        spread = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")  # of the input's channels
        self.deconv = keras.layers.Conv2DTranspose(
            num_keypoints,
            4,
            strides=2,
            padding="same",
            kernel_initializer=backend.initial_values(spread),
            name="deconv",
            dtype="float32",
        )

    @property
    def heatmap_size(self):
        """M, cells of a heatmap's side."""
        return 4 * self.pool_size

    def build(self, input_shape):
        """Build for (B, R, pool_size, pool_size, channels_in)."""
        shape = (None, self.pool_size, self.pool_size, self.channels_in)
        for layer in (*self.convs, self.deconv):
            layer.build(shape)
            shape = (*shape[:-1], self.channels)

    def call(self, pooled, training=None):
        """Float (B, R, pool_size, pool_size, channels_in) -> logits float32 (B, R, K, M, M)."""
        batch, rois = ops.shape(pooled)[0], ops.shape(pooled)[1]
        features = ops.reshape(pooled, (-1, self.pool_size, self.pool_size, self.channels_in))
        for conv in self.convs:
            features = conv(features, training=training)
        small = self._enlarge(ops.cast(features, "float32"))
        double = doubling(2 * self.pool_size)
        large = ops.matmul(ops.matmul(double, small), ops.transpose(double))
        return ops.reshape(large, (batch, rois, self.num_keypoints, self.heatmap_size, self.heatmap_size))

    def _enlarge(self, features):
        """The deconvolution, as a convolution that every runtime has: float32 (R, p, p, C) -> (R, K, 2p, 2p).

        Of the 4 x 4 weights an even row reads the last and the second, an odd one the third and the first, at the cell
        of half its number and the one beside it: a 3x3 convolution gives all four cells at once.
        """
        kernel = ops.pad(ops.convert_to_tensor(self.deconv.kernel), [[0, 1], [0, 1], [0, 0], [0, 0]])
        taps = np.array([3, 1, 4, 4, 2, 0])  # of even and odd rows; 4 is a zero
        kernel = ops.take(ops.take(kernel, taps, axis=0), taps, axis=1)
        kernel = ops.reshape(kernel, (2, 3, 2, 3, *self.deconv.kernel.shape[2:]))
        kernel = ops.reshape(ops.transpose(kernel, (1, 3, 5, 0, 2, 4)), (3, 3, -1, 4 * self.num_keypoints))
        (cells,) = backend.convolve([features], kernel, ops.tile(ops.convert_to_tensor(self.deconv.bias), 4))
        cells = ops.reshape(cells, (-1, self.pool_size, self.pool_size, 2, 2, self.num_keypoints))
        cells = ops.transpose(cells, (0, 5, 1, 3, 2, 4))
        return ops.reshape(cells, (-1, self.num_keypoints, 2 * self.pool_size, 2 * self.pool_size))

    def learn(self, maps, rois, truth, training):
        """Heatmaps of the positive RoIs, and the cells in which their objects' keypoints lie.

        Args: as for BranchHead.learn; `truth` holds gt_keypoints.

        Returns:
            dict of logits float32 (B, Q, K, M, M), cells int32 (B, Q, K), counted bool (B, Q, K).
        """
        chosen = self.positive_rois(rois)
        points = matched_rows(truth["gt_keypoints"], chosen["matched"])
        cells, inside = keypoint_targets(points, chosen["rois"], self.heatmap_size)
        counted = ops.logical_and(inside, chosen["positive"][..., None])
        pooled = self.align(maps, chosen["rois"], with_gradient=True)
        return {"logits": self(pooled, training=training), "cells": cells, "counted": counted}

    def loss_values(self, learned):
        """Dict of keypoint_loss."""
        return {"keypoint_loss": keypoint_loss(**learned, normalizer=self.loss_normalizer)}

    def detect(self, maps, detections):
        """Keypoints in the refined boxes: dict of keypoints (B, D, K, [x, y, 1]) network pixels, keypoint_scores."""
        logits = self(self.align(maps, detections["boxes"], with_gradient=False), training=False)
        height, width = ops.shape(maps[0])[1:3]
        longest = -backend.smaller(-height, -width) * PYRAMID_STRIDES[0]
        return decode_keypoints(logits, ops.cast(detections["boxes"], "float32"), longest, self.score)

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "num_keypoints": self.num_keypoints,
            "channels_in": self.channels_in,
            "channels": self.channels,
            "num_convs": self.num_convs,
            "score": self.score,
            "loss_normalizer": self.loss_normalizer,
        }


def keypoint_targets(points, rois, size):
    """The cell of each keypoint in its RoI's heatmap (torchvision's `keypoints_to_heatmap`).

    A RoI is cut into `size` x `size` cells. A keypoint on the right or lower edge belongs to the last ones.

    Args:
        points: float (B, Q, K, [x, y, visibility]), network pixels. rois: float (B, Q, 4), network pixels. size: M.

    Returns:
        (cells int32 (B, Q, K): row * M + column, inside bool (B, Q, K): labelled and in its RoI). No gradient.
    """
    points, rois = ops.cast(points, "float32"), ops.cast(rois, "float32")[:, :, None]
    starts, ends = rois[..., :2], rois[..., 2:]
    scale = size / ops.maximum(ends - starts, 1e-6)
    places = ops.floor((points[..., :2] - starts) * scale)
    places = ops.where(ops.equal(points[..., :2], ends), size - 1.0, places)
    within = ops.logical_and(ops.all(places >= 0, axis=-1), ops.all(places < size, axis=-1))
    inside = ops.logical_and(within, points[..., 2] > 0)
    places = ops.where(inside[..., None], places, 0.0)
    cells = ops.cast(places[..., 1] * size + places[..., 0], "int32")
    return ops.stop_gradient(cells), inside


def keypoint_loss(logits, cells, counted, normalizer=None):
    """Cross-entropy of a softmax over all positions of a heatmap, for the keypoints that count (section 5).

    Args:
        logits: float (B, Q, K, M, M). cells: int32 (B, Q, K), the true position. counted: bool (B, Q, K).
        normalizer: None divides by the number of keypoints that count (torchvision, Detectron2's models); a number
            divides by it and by the images of the batch (Detectron2's NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS False).

    Returns:
        float32 scalar.
    """
    logits = ops.cast(logits, "float32")
    positions = logits.shape[-1] * logits.shape[-2]
    logits = ops.reshape(logits, (*ops.shape(cells), positions))
    true = ops.equal(cells[..., None], ops.arange(positions, dtype="int32"))
    each = ops.logsumexp(logits, axis=-1) - ops.sum(ops.where(true, logits, 0.0), axis=-1)
    if normalizer is None:
        return mean_of(each, counted)
    images = ops.cast(ops.shape(cells)[0], "float32")
    return ops.sum(ops.where(counted, each, 0.0)) / backend.share_of_count(images * normalizer)


def decode_keypoints(logits, boxes, longest, score="logit"):
    """The most likely place of each keypoint (torchvision's and Detectron2's `heatmaps_to_keypoints`).

    A heatmap is resized, bicubic, to whole pixels of its box; the largest value's pixel is the keypoint.

    Args:
        logits: float32 (B, D, K, M, M). boxes: float32 (B, D, 4), network pixels.
        longest: int or int32 scalar: no box has a longer side, network pixels.
        score: "logit", the largest value (torchvision); "probability", its share in the softmax over the heatmap, which
            may exceed 1 (Detectron2).

    Returns:
        dict of keypoints float32 (B, D, K, [x, y, 1]), network pixels, and keypoint_scores float32 (B, D, K).
    """
    maps = ops.reshape(logits, (-1, *logits.shape[2:]))
    boxes = ops.reshape(boxes, (-1, 4))
    sides = ops.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    whole = ops.ceil(sides)
    values, rows, columns = resized_peaks(maps, whole[:, 1], whole[:, 0], longest + 1)
    pixel = sides / whole
    x = (columns + 0.5) * pixel[:, 0:1] + boxes[:, 0:1]
    y = (rows + 0.5) * pixel[:, 1:2] + boxes[:, 1:2]
    if score == "probability":
        values = ops.exp(values - ops.logsumexp(maps, axis=(-2, -1)))
    points = ops.stack([x, y, ops.ones_like(x)], axis=-1)
    rows = (ops.shape(logits)[0], ops.shape(logits)[1], logits.shape[2])
    return {"keypoints": ops.reshape(points, (*rows, 3)), "keypoint_scores": ops.reshape(values, rows)}
