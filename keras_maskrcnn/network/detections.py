"""Stage 6: class logits and box deltas -> final detections (Mask R-CNN section 3.1, inference).

Pure functions. B images, P proposals, K classes, D detections. Called by `model.py`.
"""

from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.boxes import MAX_LOG_SCALE, clip_boxes, decode_boxes, sides_reach
from keras_maskrcnn.network.calibration import calibrate


def select_detections(*, nms_threshold, class_agnostic_nms, max_detections, image_limits=None, class_logits, **pairs):
    """Softmax, one refined box per class, clip, threshold, NMS per class, the best D detections.

    Args:
        class_logits: float (B, P, K + 1), background last. deltas: float (B, P, K, [dx, dy, dw, dh]).
        proposals: float (B, P, 4) network pixels. proposals_valid: bool (B, P).
        image_sizes: int (B, [height, width]), network pixels.
        score_threshold: detections score more than this, before calibration. nms_threshold: IoU. Both a number or
            float (B,).
        class_thresholds: None, or float (K,) or (B, K): detections of each class score more than this as well, after
            calibration. calibration: None, or K tables, see `calibration.py`: the scores become what the tables say.
        class_agnostic_nms: whether classes suppress each other.
        max_detections: D. candidates: largest number of (proposal, class) pairs before NMS.
        box_weights: weights of the box coder. min_box_size: network pixels; boxes with a shorter side are dropped.
        image_limits: None, or int (B,): largest number of detections of each image, if less than D.
        max_log_scale: see `decode_boxes`. origins: int (B, [y, x]), where the images begin; None: at (0, 0).

    Returns:
        dict of boxes float (B, D', 4) network pixels, clipped; scores float (B, D') descending; labels int32 (B, D');
        valid bool (B, D'). D' <= D; rows that are not valid hold zeros.
    """
    ranked = rank_pairs(class_logits=class_logits, **pairs)
    together = class_agnostic_nms or class_logits.shape[-1] == 2
    return _best_boxes(ranked, nms_threshold, together, max_detections, image_limits)


def select_best_classes(
    *,
    class_logits,
    deltas,
    proposals,
    proposals_valid,
    image_sizes,
    score_threshold,
    nms_threshold,
    class_agnostic_nms,
    max_detections,
    candidates,
    box_weights,
    min_box_size,
    image_limits=None,
    max_log_scale=MAX_LOG_SCALE,
    origins=None,
    class_thresholds=None,
    calibration=None,
):
    """As `select_detections`, with one class for each RoI: the best of all, background included (matterport).

    Args, returns: as for `select_detections`, but detections score `score_threshold` or more, and `candidates` has no
    effect: there are as many boxes as proposals.
    """
    del candidates
    probabilities = ops.softmax(class_logits, axis=-1)
    num_classes = probabilities.shape[-1] - 1
    best = ops.cast(ops.argmax(probabilities, axis=-1), "int32")
    scores = ops.where(proposals_valid, ops.max(probabilities, axis=-1), 0.0)
    lowest = ops.cast(ops.reshape(score_threshold, (-1, 1)), scores.dtype)
    passed = ops.logical_and(ops.logical_and(best < num_classes, scores >= lowest), proposals_valid)
    labels = ops.minimum(best, num_classes - 1)
    own = ops.cast(ops.arange(num_classes) == labels[..., None], deltas.dtype)
    if calibration is not None:
        scores = ops.sum(calibrate(probabilities[..., :num_classes], calibration) * own, axis=-1)
        scores = ops.where(proposals_valid, scores, 0.0)
    if class_thresholds is not None:
        lowest = ops.sum(_of_classes(class_thresholds, scores.dtype) * own, axis=-1)
        passed = ops.logical_and(passed, scores >= lowest)
    deltas = ops.sum(deltas * own[..., None], axis=2)
    boxes = clip_boxes(decode_boxes(deltas, proposals, box_weights, max_log_scale), image_sizes, origins)
    if min_box_size:
        passed = ops.logical_and(passed, sides_reach(boxes, min_box_size))
    ranked = {"boxes": boxes, "scores": scores, "labels": labels, "passed": passed}
    together = class_agnostic_nms or num_classes == 1
    return _best_boxes(ranked, nms_threshold, together, max_detections, image_limits)


RULES = {"each_class": select_detections, "best_class": select_best_classes}  # of the config's detection_rule


def _best_boxes(ranked, nms_threshold, class_agnostic_nms, max_detections, image_limits):
    """NMS, and the rows that it keeps: what `select_detections` returns."""
    kept, valid = suppress_pairs(ranked, nms_threshold, class_agnostic_nms, max_detections)
    if image_limits is not None:  # greedy NMS with a lower limit gives the first rows of the same result
        rows = ops.arange(backend.shape(valid)[1], dtype="int32")
        valid = ops.logical_and(valid, rows < ops.reshape(image_limits, (-1, 1)))
    valid, kept = backend.trim_to_valid(valid, kept)
    return {
        "boxes": ops.where(valid[..., None], backend.gather_each(ranked["boxes"], kept), 0.0),
        "scores": ops.where(valid, backend.gather_each(ranked["scores"], kept), 0.0),
        "labels": ops.where(valid, backend.gather_each(ranked["labels"], kept), 0),
        "valid": valid,
    }


def rank_pairs(
    *,
    class_logits,
    deltas,
    proposals,
    proposals_valid,
    image_sizes,
    score_threshold,
    candidates,
    box_weights,
    min_box_size,
    max_log_scale=MAX_LOG_SCALE,
    origins=None,
    class_thresholds=None,
    calibration=None,
):
    """The best pairs of a proposal and a class, refined: the first half of `select_detections`, with its arguments.

    Returns:
        dict of boxes float (B, M, 4) network pixels, clipped; scores float (B, M) descending; labels int32 (B, M);
        rows int (B, M), the proposal of each pair; passed bool (B, M): its score is above the threshold, and its sides
        are long enough.
    """
    num_classes = class_logits.shape[-1] - 1
    batch = backend.shape(class_logits)[0]
    scores = ops.softmax(class_logits, axis=-1)[..., :num_classes]
    scores = ops.where(proposals_valid[..., None], scores, 0.0)
    if calibration is not None or class_thresholds is not None:
        scores = _tuned(scores, score_threshold, class_thresholds, calibration)
        score_threshold = 0.0  # others are zeros now
    scores = ops.reshape(scores, (batch, -1))
    scores = ops.where(scores > ops.cast(ops.reshape(score_threshold, (-1, 1)), scores.dtype), scores, 0.0)
    count = backend.smaller(candidates, backend.shape(scores)[1])
    scores, order = ops.top_k(scores, count)
    passed, order, scores = backend.trim_to_valid(scores > 0, order, scores)
    labels, rows = ops.cast(order % num_classes, "int32"), order // num_classes
    deltas = backend.gather_each(ops.reshape(deltas, (batch, -1, 4)), order)
    proposals = backend.gather_each(proposals, rows)
    boxes = clip_boxes(decode_boxes(deltas, proposals, box_weights, max_log_scale), image_sizes, origins)
    passed = ops.logical_and(passed, sides_reach(boxes, min_box_size))
    return {"boxes": boxes, "scores": scores, "labels": labels, "rows": rows, "passed": passed}


def _tuned(scores, score_threshold, class_thresholds, calibration):
    """Calibrated scores (B, P, K), zero where the score or the calibrated one does not pass its threshold."""
    passed = scores > ops.cast(ops.reshape(score_threshold, (-1, 1, 1)), scores.dtype)
    if calibration is not None:
        scores = ops.cast(calibrate(scores, calibration), scores.dtype)
    if class_thresholds is not None:
        passed = ops.logical_and(passed, scores > _of_classes(class_thresholds, scores.dtype))
    return ops.where(passed, scores, 0.0)


def _of_classes(class_thresholds, dtype):
    """Thresholds (K,) or (B, K) beside scores (B, P, K): (1 or B, 1, K)."""
    thresholds = ops.cast(class_thresholds, dtype)
    return ops.reshape(thresholds, (-1, 1, thresholds.shape[-1]))


def suppress_pairs(ranked, nms_threshold, class_agnostic_nms, max_detections):
    """NMS, and the best D: the middle of `select_detections`.

    Args:
        ranked: from `rank_pairs`. Others: as of `select_detections`.

    Returns:
        int (B, D'), rows of `ranked` by descending score; bool (B, D'), whether the row is there.
    """
    classes = None if class_agnostic_nms else ranked["labels"]
    limit = backend.smaller(max_detections, backend.shape(ranked["scores"])[1])
    return backend.non_max_suppression(
        ranked["boxes"], ranked["scores"], nms_threshold, limit, classes, ranked["passed"]
    )
