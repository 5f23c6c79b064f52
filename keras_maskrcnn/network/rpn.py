"""Stage 3: pyramid -> proposals. The region proposal network (Faster R-CNN section 3.1 on FPN section 4.1).

`RPNHead` has the weights; `select_proposals` selects proposals from its outputs. A = anchors per cell.
Shapes: B images, N anchors over all levels, N_l on level l, P proposals.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.boxes import MAX_LOG_SCALE, clip_boxes, decode_boxes, sides_reach
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.network.layers import ConvNorm, KernelAndBias
from keras_maskrcnn.network.padding import zero_padding

NEVER = -1e9  # the score of a row that must not be chosen


@keras.saving.register_keras_serializable("keras_maskrcnn")
class RPNHead(keras.layers.Layer):
    """3x3 convolutions, then objectness and box deltas for each anchor; shared by all levels.

    Args:
        channels: channels of the pyramid.
        num_anchors: anchors per cell, A.
        num_convs: 3x3 convolutions (paper: 1; torchvision v2: 2).
        filters: of the convolutions; None: as many as the pyramid has channels.
    """

    def __init__(self, channels=256, num_anchors=3, num_convs=1, filters=None, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.num_anchors, self.num_convs = channels, num_anchors, num_convs
        self.filters = filters or channels
        normal = lambda: keras.initializers.RandomNormal(stddev=0.01)  # noqa: E731  (Faster section 3.1.3)
        self.convs = [
            ConvNorm(self.filters, 3, kernel_initializer=normal(), name=f"conv{i + 1}", dtype=self.dtype_policy)
            for i in range(num_convs)
        ]
        self.objectness = KernelAndBias(num_anchors, normal(), name="objectness")
        self.deltas = KernelAndBias(num_anchors * 4, normal(), name="deltas")

    def build(self, input_shape):
        """Build for a list of level shapes (B, h, w, channels)."""
        shape = (None, None, None, self.channels)
        for layer in (*self.convs, self.objectness, self.deltas):
            layer.build(shape)
            shape = (None, None, None, self.filters)

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
            batch = backend.shape(outputs)[0]
            objectness, moves = ops.split(outputs, [self.num_anchors], axis=-1)
            logits.append(ops.reshape(objectness, (batch, -1)))
            deltas.append(ops.reshape(moves, (batch, -1, 4)))
        return {"logits": logits, "deltas": deltas}

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "num_anchors": self.num_anchors,
            "num_convs": self.num_convs,
            "filters": self.filters,
        }


def select_proposals(*, post_nms, nms_threshold, filled=False, **ranking):
    """The best anchors of each level, decoded; NMS on each level; the best boxes over all levels (FPN section 4.1).

    Args:
        logits: list over levels of float (B, N_l). deltas: list of float (B, N_l, 4). anchors: list of float (N_l, 4).
        anchors_valid: list of bool (B, N_l), anchors that may be selected, or of None for all.
        image_sizes: int (B, [height, width]), network pixels.
        pre_nms: largest number of boxes of a level before NMS. post_nms: largest number of proposals per image.
        nms_threshold: IoU. min_size: network pixels; boxes with a shorter side are dropped.
        box_weights: weights of the box coder. max_log_scale: see `decode_boxes`.
        origins: int (B, [y, x]), network pixels, where the images begin; None: at (0, 0).
        filled: for `select_proposals_jointly`.

    Returns:
        dict of boxes float (B, P, [x1, y1, x2, y2]) network pixels, clipped, no gradient; scores float (B, P), logits
        in descending order; valid bool (B, P). P is post_nms, or less if the levels have fewer boxes.
    """
    del filled
    ranked = rank_anchors(**ranking)
    kept, keep = suppress_ranked(ranked, nms_threshold, post_nms)
    scores = ops.where(keep, backend.gather_each(ranked["scores"], kept), NEVER)
    boxes = ops.where(ops.expand_dims(keep, -1), backend.gather_each(ranked["boxes"], kept), 0.0)
    keep, boxes, scores = backend.trim_to_valid(keep, boxes, scores)
    return {"boxes": boxes, "scores": scores, "valid": keep}


def rank_anchors(
    *,
    logits,
    deltas,
    anchors,
    anchors_valid,
    image_sizes,
    pre_nms,
    min_size,
    box_weights,
    max_log_scale=MAX_LOG_SCALE,
    origins=None,
):
    """The best anchors of each level, decoded: the first half of `select_proposals`, with its arguments.

    Returns:
        dict of boxes float (B, M, 4) network pixels, clipped, and scores float (B, M), level after level, each by
        descending score; order int32 (B, M), rows among the anchors of all levels; valid bool (B, M); sizes: list over
        levels of the number of boxes, whose sum is M.
    """
    scores, order, sizes = _best_anchors(logits, anchors_valid, pre_nms)
    boxes = clip_boxes(_decode(deltas, anchors, order, box_weights, max_log_scale), image_sizes, origins)
    valid = ops.logical_and(sides_reach(boxes, min_size), scores > NEVER / 2)
    return {"boxes": boxes, "scores": scores, "order": order, "valid": valid, "sizes": sizes}


def suppress_ranked(ranked, nms_threshold, post_nms):
    """NMS on each level, and the best over all levels: the second half of `select_proposals`.

    Args:
        ranked: from `rank_anchors`. nms_threshold, post_nms: as of `select_proposals`.

    Returns:
        int (B, P), rows of `ranked` by descending score; bool (B, P), whether the row is there.
    """
    scores, sizes = ranked["scores"], ranked["sizes"]
    limit = backend.smaller(post_nms, backend.shape(scores)[1])
    return backend.non_max_suppression_by_level(ranked["boxes"], scores, sizes, nms_threshold, limit, ranked["valid"])


def select_proposals_jointly(
    *,
    logits,
    deltas,
    anchors,
    anchors_valid,
    image_sizes,
    pre_nms,
    post_nms,
    nms_threshold,
    min_size,
    box_weights,
    max_log_scale=MAX_LOG_SCALE,
    origins=None,
    filled=False,
):
    """As `select_proposals`, but all levels are ranked together, by probability, and share one NMS (matterport).

    Args: as for `select_proposals`; `pre_nms` counts the boxes of all levels.
        filled: True makes all rows valid: where there are fewer boxes than P, boxes of zeros, which matterport's heads
            classify like any other.

    Returns:
        dict as from `select_proposals`; scores are probabilities, and 0 in rows that are not valid.
    """
    # Float32 probabilities, so that those that round to the same number rank by their place.
    joined = ops.sigmoid(ops.stop_gradient(ops.concatenate(logits, axis=1)))
    if anchors_valid[0] is not None:
        joined = ops.where(ops.concatenate(anchors_valid, axis=1), joined, -1.0)
    scores, order = ops.top_k(joined, backend.smaller(pre_nms, backend.shape(joined)[1]))
    order = ops.cast(order, "int32")
    boxes = clip_boxes(_decode(deltas, anchors, order, box_weights, max_log_scale), image_sizes, origins)
    valid = scores >= 0
    if min_size:
        valid = ops.logical_and(valid, sides_reach(boxes, min_size))
    limit = backend.smaller(post_nms, backend.shape(scores)[1])
    kept, keep = backend.non_max_suppression(boxes, scores, nms_threshold, limit, None, valid)
    scores = ops.where(keep, backend.gather_each(scores, kept), 0.0)
    boxes = ops.where(ops.expand_dims(keep, -1), backend.gather_each(boxes, kept), 0.0)
    if filled:
        return {"boxes": boxes, "scores": scores, "valid": ops.ones_like(keep)}
    keep, boxes, scores = backend.trim_to_valid(keep, boxes, scores)
    return {"boxes": boxes, "scores": scores, "valid": keep}


SELECTIONS = {"level": select_proposals, "joint": select_proposals_jointly}  # of the config's rpn_selection


def _decode(deltas, anchors, order, box_weights, max_log_scale):
    """The boxes of these anchors: float (B, M, 4), no gradient, not clipped. `order`: int32 (B, M)."""
    deltas = backend.gather_each(ops.stop_gradient(ops.concatenate(deltas, axis=1)), order)
    return decode_boxes(deltas, backend.take_rows(ops.concatenate(anchors, axis=0), order), box_weights, max_log_scale)


def _best_anchors(logits, anchors_valid, pre_nms):
    """The anchors of each level with the highest logits, level after level.

    Returns:
        scores float (B, M) without a gradient, `NEVER` where not valid; order int32 (B, M), rows among the anchors of
        all levels; sizes: list over levels of the number of anchors, whose sum is M.
    """
    scores, order, sizes, first = [], [], [], 0
    for level, valid in zip(logits, anchors_valid, strict=True):
        level = ops.stop_gradient(level)
        level = level if valid is None else ops.where(valid, level, NEVER)
        count = backend.shape(level)[1]
        sizes.append(backend.smaller(pre_nms, count))
        best, rows = ops.top_k(level, sizes[-1])
        scores.append(best)
        order.append(ops.cast(rows, "int32") + first)
        first = first + count
    return ops.concatenate(scores, axis=1), ops.concatenate(order, axis=1), sizes
