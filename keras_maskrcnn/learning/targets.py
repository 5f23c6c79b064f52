"""Training targets of the RPN and of the sampled RoIs.

In: ground truth and candidates. Out: dictionaries of dense tensors for the losses. Targets have no gradient.
B images, G ground-truth rows, N anchors, P proposals, S samples, Q of them possibly positive, K classes.
"""

from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.geometry.boxes import encode_boxes, pairwise_ioa, pairwise_iou
from keras_maskrcnn.learning.matching import BELOW, BETWEEN, ignore_crowds, match
from keras_maskrcnn.learning.sampling import order_samples, sample


def split_crowds(truth):
    """Split the ground truth into objects and crowd regions to ignore: two bool (B, G)."""
    valid = ops.cast(truth["gt_valid"], "bool")
    crowd = truth.get("gt_crowd")
    if crowd is None:
        return valid, None
    crowd = ops.cast(crowd, "bool")
    return ops.logical_and(valid, ops.logical_not(crowd)), ops.logical_and(valid, crowd)


def _assign(candidates, truth, high, low, keep_best, crowd_ioa):
    """Match candidates (B, M, 4) or (M, 4) with the batch's ground truth, ignoring crowds: int32 (B, M)."""
    objects, crowds = split_crowds(truth)
    boxes = ops.cast(truth["gt_boxes"], "float32")
    if len(candidates.shape) == 2:
        candidates = candidates[None]
    assigned = match(pairwise_iou(boxes, candidates), high, low, keep_best, objects)
    if crowds is None:
        return assigned
    crowd_boxes = ops.where(crowds[..., None], boxes, 0.0)
    ioa = ops.swapaxes(pairwise_ioa(candidates, crowd_boxes), -1, -2)
    return ignore_crowds(assigned, ioa, crowd_ioa)


def rpn_targets(
    noise, anchors, anchors_valid, truth, *, positive_iou, negative_iou, num_samples, positive_fraction,
    box_weights, crowd_ioa,
):  # fmt: skip
    """Match and sample anchors.

    Args:
        noise: float32 (B, N), uniform.
        anchors: float (N, 4), network pixels.
        anchors_valid: bool (B, N) or None; anchors that are False are not used.
        truth: the batch's `gt_*` arrays (batch.py).
        positive_iou, negative_iou, num_samples, positive_fraction, box_weights, crowd_ioa: see MaskRCNNConfig.

    Returns:
        dict of positive and negative, bool (B, N), and deltas float (B, N, 4), meaningful where positive.
    """
    assigned = _assign(anchors, truth, positive_iou, negative_iou, True, crowd_ioa)
    positive, negative = assigned >= 0, assigned == BELOW
    if anchors_valid is not None:
        positive = ops.logical_and(positive, anchors_valid)
        negative = ops.logical_and(negative, anchors_valid)
    positive, negative = sample(noise, positive, negative, num_samples, positive_fraction)
    matched = backend.gather_each(ops.cast(truth["gt_boxes"], "float32"), ops.maximum(assigned, 0))
    deltas = encode_boxes(matched, anchors[None], box_weights)
    return {"positive": positive, "negative": negative, "deltas": ops.stop_gradient(deltas)}


def add_ground_truth(proposals, proposals_valid, truth):
    """Append the ground-truth boxes to the proposals, so that early training has positives (torchvision, Detectron).

    Args:
        proposals: float (B, P, 4), network pixels. proposals_valid: bool (B, P). truth: the batch's `gt_*` arrays.

    Returns:
        dict of boxes float (B, P + G, 4) and valid bool (B, P + G).
    """
    objects, _ = split_crowds(truth)
    boxes = ops.where(objects[..., None], ops.cast(truth["gt_boxes"], "float32"), 0.0)
    return {
        "boxes": ops.concatenate([proposals, boxes], axis=1),
        "valid": ops.concatenate([proposals_valid, objects], axis=1),
    }


def roi_targets(
    noise, candidates, candidates_valid, truth, *, num_classes, iou, num_samples, positive_fraction, box_weights,
    crowd_ioa,
):  # fmt: skip
    """Match and sample the RoIs of the heads (Mask R-CNN section 3.1).

    Args:
        noise: float32 (B, P), uniform.
        candidates, candidates_valid: (B, P, 4) network pixels and (B, P), from `add_ground_truth`.
        truth: the batch's `gt_*` arrays.
        num_classes, iou, num_samples, positive_fraction, box_weights, crowd_ioa: see MaskRCNNConfig.

    Returns:
        dict of rois float (B, S, 4) network pixels; valid, positive bool (B, S), positives first; labels int32
        (B, S), K for background; matched int32 (B, S), row of the ground truth; deltas float (B, S, 4).
    """
    assigned = _assign(candidates, truth, iou, iou, False, crowd_ioa)
    positive = ops.logical_and(assigned >= 0, candidates_valid)
    negative = ops.logical_and(assigned == BELOW, candidates_valid)
    positive, negative = sample(noise, positive, negative, num_samples, positive_fraction)
    indices, valid = order_samples(noise, positive, negative, num_samples)
    positive = ops.logical_and(backend.gather_each(positive, indices), valid)
    rois, assigned = (backend.gather_each(values, indices) for values in (candidates, assigned))
    return _labelled(rois, valid, positive, assigned, truth, num_classes, box_weights)


def match_rois(rois, valid, truth, *, num_classes, iou, box_weights, crowd_ioa):
    """Match the RoIs of a further stage of a cascade, all of them (Cai and Vasconcelos 2018, section 4.2).

    Args:
        rois: float (B, S, 4), network pixels, the boxes of the stage before. valid: bool (B, S).
        truth, num_classes, iou, box_weights, crowd_ioa: as for `roi_targets`.

    Returns:
        dict as of `roi_targets`, rows in the order of `rois`. RoIs in crowds are not valid.
    """
    assigned = _assign(rois, truth, iou, iou, False, crowd_ioa)
    valid = ops.logical_and(valid, assigned != BETWEEN)
    return _labelled(rois, valid, ops.logical_and(valid, assigned >= 0), assigned, truth, num_classes, box_weights)


def _labelled(rois, valid, positive, assigned, truth, num_classes, box_weights):
    """RoIs with what the heads should make of them: the dict that `roi_targets` returns."""
    matched = ops.maximum(assigned, 0)
    boxes = backend.gather_each(ops.cast(truth["gt_boxes"], "float32"), matched)
    labels = backend.gather_each(ops.cast(truth["gt_labels"], "int32"), matched)
    deltas = encode_boxes(boxes, rois, box_weights)
    return {
        "rois": ops.stop_gradient(rois),
        "valid": valid,
        "positive": positive,
        "labels": ops.where(positive, labels, num_classes),
        "matched": matched,
        "deltas": ops.stop_gradient(ops.where(positive[..., None], deltas, 0.0)),
    }


def positive_rois(rois, most=None):
    """The positive ones among the sampled RoIs, for a head that is trained on objects alone.

    They stand first among the samples, so a slice selects them. If sizes may depend on values (TensorFlow), the slice
    is only as long as the largest number of positives in any image of the batch.

    Args:
        rois: dict from `roi_targets`. most: int, most positives per image; None: all.

    Returns:
        dict of positive bool (B, Q), rois float (B, Q, 4), labels int32 (B, Q), matched int32 (B, Q); rows where
        `positive` is False are padding.
    """
    names = ("positive", "rois", "labels", "matched")
    arrays = [rois[name] for name in names]
    if most is not None:
        count = backend.smaller(most, backend.shape(arrays[0])[1])
        arrays = [array[:, :count] for array in arrays]
    return dict(zip(names, backend.trim_to_valid(*arrays)))


def matched_rows(values, matched):
    """Ground-truth values of the matched objects: (B, G, ...) and int32 (B, Q) -> (B, Q, ...)."""
    return backend.gather_each(values, matched)
