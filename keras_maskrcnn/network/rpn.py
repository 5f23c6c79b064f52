"""Stage 3: pyramid -> proposals. The region proposal network (Faster R-CNN section 3.1 on FPN section 4.1).

`RPNHead` has the weights; `select_proposals` selects proposals from its outputs. A = anchors per cell.
Shapes: B images, N anchors over all levels, N_l on level l, P proposals.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.boxes import clip_boxes, decode_boxes
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.network.layers import ConvNorm, KernelAndBias
from keras_maskrcnn.network.padding import zero_padding

NEVER = -1e9  # the score of a row that must not be chosen


@keras.saving.register_keras_serializable("keras_maskrcnn")
class RPNHead(keras.layers.Layer):
    """3x3 convolutions, then objectness and box deltas for each anchor; shared by all levels.

    Args:
        channels: channels of the pyramid and of the convolutions.
        num_anchors: anchors per cell, A.
        num_convs: 3x3 convolutions (paper: 1; torchvision v2: 2).
    """

    def __init__(self, channels=256, num_anchors=3, num_convs=1, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.num_anchors, self.num_convs = channels, num_anchors, num_convs
        normal = lambda: keras.initializers.RandomNormal(stddev=0.01)  # noqa: E731  (Faster section 3.1.3)
        self.convs = [
            ConvNorm(channels, 3, kernel_initializer=normal(), name=f"conv{i + 1}", dtype=self.dtype_policy)
            for i in range(num_convs)
        ]
        self.objectness = KernelAndBias(num_anchors, normal(), name="objectness")
        self.deltas = KernelAndBias(num_anchors * 4, normal(), name="deltas")

    def build(self, input_shape):
        """Build for a list of level shapes (B, h, w, channels)."""
        shape = (None, None, None, self.channels)
        for layer in (*self.convs, self.objectness, self.deltas):
            layer.build(shape)

    def call(self, pyramid, image_sizes=None):
        """Predict objectness and deltas for every anchor of every level.

        Args:
            pyramid: P2..P6, list of float (B, h_l, w_l, channels).
            image_sizes: int (B, [height, width]), network pixels; None does not zero the padding.

        Returns:
            dict of logits, objectness: list over levels of float32 (B, N_l); deltas: list of float32
            (B, N_l, [dx, dy, dw, dh]). Anchors in the order row, column, ratio.
        """
        logits, deltas, levels = [], [], list(pyramid)
        for index, conv in enumerate(self.convs):
            if index:
                levels = [
                    zero_padding(features, image_sizes, stride) for features, stride in zip(levels, PYRAMID_STRIDES)
                ]
            levels = conv(levels)
        # One convolution for both predictors: each alone has too few filters to be fast.
        kernel, bias = (
            ops.concatenate([getattr(self.objectness, name), getattr(self.deltas, name)], axis=-1)
            for name in ("kernel", "bias")
        )
        for outputs in backend.convolve([ops.cast(features, "float32") for features in levels], kernel, bias):
            batch = ops.shape(outputs)[0]
            logits.append(ops.reshape(outputs[..., : self.num_anchors], (batch, -1)))
            deltas.append(ops.reshape(outputs[..., self.num_anchors :], (batch, -1, 4)))
        return {"logits": logits, "deltas": deltas}

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "num_anchors": self.num_anchors,
            "num_convs": self.num_convs,
        }


def select_level(logits, deltas, anchors, valid, image_sizes, *, pre_nms, nms_threshold, min_size, box_weights):
    """The best boxes of one level: top-k by objectness, decode, clip, drop tiny boxes, NMS.

    Args:
        logits: float (B, N_l). deltas: float (B, N_l, 4). anchors: float (N_l, 4).
        valid: bool (B, N_l), anchors that may be selected, or None for all.
        image_sizes: int (B, [height, width]), network pixels.
        pre_nms: largest number of boxes before NMS. nms_threshold: IoU.
        min_size: network pixels; boxes with a shorter side are dropped.
        box_weights: weights of the box coder.

    Returns:
        boxes float (B, k, 4) network pixels and scores float (B, k) by descending score, `NEVER` for empty rows.
    """
    if valid is not None:
        logits = ops.where(valid, logits, NEVER)
    count = backend.smaller(pre_nms, ops.shape(logits)[1])
    scores, order = ops.top_k(logits, count)
    deltas = ops.take_along_axis(deltas, order[..., None], axis=1)
    boxes = decode_boxes(deltas, ops.take(anchors, order, axis=0), box_weights)
    boxes = clip_boxes(boxes, image_sizes)
    large = ops.logical_and(boxes[..., 2] - boxes[..., 0] >= min_size, boxes[..., 3] - boxes[..., 1] >= min_size)
    large = ops.logical_and(large, scores > NEVER / 2)
    kept, keep = backend.non_max_suppression(boxes, scores, nms_threshold, count, None, large)
    boxes = ops.take_along_axis(boxes, kept[..., None], axis=1)
    scores = ops.where(keep, ops.take_along_axis(scores, kept, axis=1), NEVER)
    return boxes, scores


def select_proposals(*, logits, deltas, anchors, anchors_valid, image_sizes, post_nms, **level_options):
    """NMS on each level, then the best boxes over all levels (FPN section 4.1).

    Args:
        logits, deltas, anchors, anchors_valid: lists over levels, as in `select_level`.
        image_sizes: int (B, [height, width]), network pixels.
        post_nms: largest number of proposals per image.
        **level_options: options of `select_level`.

    Returns:
        dict of boxes float (B, P, [x1, y1, x2, y2]) network pixels, clipped, no gradient; scores float (B, P), logits
        in descending order; valid bool (B, P). P is post_nms, or less if the levels have fewer boxes.
    """
    levels = [
        select_level(ops.stop_gradient(scores), ops.stop_gradient(moves), boxes, valid, image_sizes, **level_options)
        for scores, moves, boxes, valid in zip(logits, deltas, anchors, anchors_valid)
    ]
    boxes = ops.concatenate([boxes for boxes, _ in levels], axis=1)
    scores = ops.concatenate([scores for _, scores in levels], axis=1)
    scores, order = ops.top_k(scores, backend.smaller(post_nms, ops.shape(scores)[1]))
    keep = scores > NEVER / 2
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
    boxes = ops.where(keep[..., None], boxes, ops.zeros_like(boxes))
    keep, boxes, scores = backend.trim_to_valid(keep, boxes, scores)
    return {"boxes": boxes, "scores": scores, "valid": keep}
