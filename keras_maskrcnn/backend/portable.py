"""Operators for graphs that other runtimes will run: ONNX, LiteRT, OpenVINO.

The converters do not support crop_and_resize for feature pyramids (tf2onnx creates a loop that copies the whole map for
each box), nor lists of growing tensors. Inside `portable_operators`, RoIAlign and NMS are ONNX's operators: one
RoiAlign a level, and one NMS for all images and classes. In graphs of fixed sizes (LiteRT) RoIAlign comes from
`generic`, and NMS runs one stock operator per class, which writes into a table of flags. Called by `tensorflow.py`,
`runtime_tensorflow.py` and, through `backend`, by `serving/`.
"""

import contextlib

import tensorflow as tf

from keras_maskrcnn.backend import generic, native

ONNX_NMS, ONNX_ROI_ALIGN = "PyFuncStateless", "PyFunc"  # what `tf.numpy_function` writes into a graph

# Below every score. Finite, because not every runtime compares infinities as TensorFlow does.
NEVER = tf.float32.min

_portable = False
_fixed_sizes = False


@contextlib.contextmanager
def portable_operators(fixed_sizes=False):
    """Context in which graphs are traced for converters.

    Args:
        fixed_sizes: no size in the graph may depend on values (LiteRT plans its memory in advance), so padding rows
            are computed too.
    """
    global _portable, _fixed_sizes
    before = _portable, _fixed_sizes
    _portable, _fixed_sizes = True, fixed_sizes
    try:
        with native.stock_operators():
            yield
    finally:
        _portable, _fixed_sizes = before


def is_used():
    """Whether the current graph is traced for a converter."""
    return _portable


def sizes_are_fixed():
    """Whether no size in the graph may depend on values."""
    return _portable and _fixed_sizes


def multilevel_roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation):
    """RoIAlign of a pyramid; arguments and result as in `generic.multilevel_roi_align`, whose numbers it gives."""
    if _fixed_sizes or (sampling_ratio == 0 and aggregation == "max"):
        return generic.multilevel_roi_align(
            pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
        )
    boxes = generic.finite_boxes(boxes)
    own = [tf.where(tf.equal(levels, number))[:, 0] for number in range(len(pyramid))]
    order = tf.concat(own, axis=0)
    places = tf.scatter_nd(order[:, None], tf.range(tf.shape(order)[0]), tf.shape(order, tf.int64))

    def crop(bins, ratio):
        crops = [
            onnx_roi_align(features, tf.gather(boxes, rows), tf.gather(box_batch, rows), scale, bins, ratio, aligned)
            for features, rows, scale in zip(pyramid, own, scales, strict=True)
        ]
        return tf.gather(tf.concat(crops, axis=0), places)

    return generic.aggregate(crop, output_size, sampling_ratio, aggregation)


def onnx_roi_align(features, boxes, box_batch, scale, output_size, sampling_ratio, aligned):
    """The place of ONNX's RoiAlign in a graph, as `onnx_nms`.

    `serving/onnx.py` converts it: an operator of type `ONNX_ROI_ALIGN` whose first three inputs are ONNX's, and whose
    fourth holds its attributes, [scale, height, width, sampling ratio, aligned].

    Args:
        features: float (B, H, W, C). boxes: float32 (R, [x1, y1, x2, y2]), network pixels. box_batch: int (R,).
        scale: cells per network pixel. output_size: (h, w), bins. sampling_ratio, aligned: as for RoIAlign.

    Returns:
        (R, h, w, C), the dtype of the features.
    """
    maps = tf.transpose(tf.cast(features, tf.float32), (0, 3, 1, 2))  # not every runtime has it in float16
    attributes = tf.constant([scale, *output_size, sampling_ratio, aligned], tf.float32)
    inputs = maps, boxes, tf.cast(box_batch, tf.int64), attributes
    crops = tf.numpy_function(_refuse, inputs, tf.float32, stateful=True)
    crops = tf.ensure_shape(crops, (None, features.shape[-1], *output_size))
    return tf.cast(tf.transpose(crops, (0, 2, 3, 1)), features.dtype)


def _refuse(*inputs):
    raise NotImplementedError("This graph is for a converter to ONNX.")


def keep_by_nms(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """Greedy NMS: which boxes it keeps.

    Args:
        boxes: float32 (B, N, [x1, y1, x2, y2]). scores: float32 (B, N). Both without a gradient.
        iou_threshold: a number or float (B,). max_outputs: int or int32 (), largest number kept per image and class.
        classes: int (B, N) or None. valid: bool (B, N) or None.

    Returns:
        bool (B, N).
    """
    keep = _keep_with_fixed_sizes if _fixed_sizes else _keep_in_onnx
    return keep(boxes, scores, iou_threshold, max_outputs, classes, valid)


def _keep_in_onnx(boxes, scores, iou_threshold, max_outputs, classes, valid):
    num_images, num_boxes = tf.unstack(tf.shape(scores))
    candidates = (scores if valid is None else tf.where(valid, scores, NEVER))[:, None]
    if classes is not None:
        numbers = tf.range(tf.reduce_max(classes) + 1)[None, :, None]
        candidates = tf.where(tf.equal(classes[:, None], numbers), candidates, NEVER)
    threshold = tf.reshape(tf.cast(iou_threshold, tf.float32), (-1,))[0]  # the operator has one for all images
    chosen = tf.cast(onnx_nms(boxes, candidates, max_outputs, threshold), tf.int32)
    places = chosen[:, 0] * num_boxes + chosen[:, 2]
    kept = tf.scatter_nd(places[:, None], tf.ones_like(places), [num_images * num_boxes])
    return tf.reshape(kept, (num_images, num_boxes)) > 0


def onnx_nms(boxes, scores, max_outputs, iou_threshold):
    """The place of ONNX's NonMaxSuppression in a graph. TensorFlow has no such operator and cannot run it.

    `serving/onnx.py` converts it: an operator of type `ONNX_NMS` with five inputs, in ONNX's order.

    Args:
        boxes: float32 (B, N, [x1, y1, x2, y2]). scores: float32 (B, K, N); boxes of score `NEVER` do not take part.
        max_outputs: int or int32 (), of each image and class. iou_threshold: float32 ().

    Returns:
        int64 (S, [image, class, box]).
    """
    limits = tf.cast(max_outputs, tf.int64), iou_threshold, tf.constant(NEVER)
    chosen = tf.numpy_function(_refuse, (boxes, scores, *limits), tf.int64, stateful=False)
    return tf.ensure_shape(chosen, (None, 3))


def _keep_with_fixed_sizes(boxes, scores, iou_threshold, max_outputs, classes, valid):
    sizes = tf.shape(scores)
    num_images, num_boxes = sizes[0], sizes[1]
    num_rows = num_images * num_boxes
    candidates = scores if valid is None else tf.where(valid, scores, NEVER)
    thresholds = tf.broadcast_to(tf.cast(iou_threshold, tf.float32), [num_images])
    num_classes = 1 if classes is None else tf.reduce_max(classes) + 1

    def suppress(group, kept):
        image = group // num_classes
        own = candidates[image]
        if classes is not None:
            own = tf.where(tf.equal(classes[image], group % num_classes), own, NEVER)
        best, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=boxes[image],
            scores=own,
            max_output_size=max_outputs,
            iou_threshold=thresholds[image],
            score_threshold=NEVER,
            pad_to_max_output_size=True,
        )
        # Padding rows write to an extra entry after the table: ONNX keeps the last of several values, while
        # TensorFlow adds them.
        places = tf.where(tf.range(max_outputs) < count, image * num_boxes + best, num_rows)
        return group + 1, kept + tf.scatter_nd(places[:, None], tf.ones_like(places), [num_rows + 1])

    kept = tf.zeros([num_rows + 1], tf.int32)
    if scores.shape[0] == 1 and classes is None:  # LiteRT has batch 1, so no loop
        _, kept = suppress(0, kept)
    else:
        groups = num_images * num_classes
        _, kept = tf.while_loop(lambda group, _: group < groups, suppress, (0, kept))
    return tf.reshape(kept[:-1], sizes) > 0
