"""Training targets of the RPN and of the sampled RoIs.

In: ground truth and candidates. Out: dictionaries of dense tensors for the losses. Targets have no gradient.
B images, G ground-truth rows, N anchors, P proposals, S samples, Q of them possibly positive, K classes.
"""

from keras import ops

from keras_maskrcnn.geometry.boxes import encode_boxes, pairwise_ioa, pairwise_iou
from keras_maskrcnn.geometry.masks import sample_masks
from keras_maskrcnn.learning.matching import BELOW, ignore_crowds, match
from keras_maskrcnn.learning.sampling import order_samples, sample

# How to resample a mask. Torchvision's `project_masks_on_boxes` uses RoIAlign with aligned=False.
MASK_RULES = {
    "subpixel": {"sampling_ratio": 2, "aligned": True},
    "torchvision": {"sampling_ratio": 0, "aligned": False},
}


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
    matched = ops.take_along_axis(ops.cast(truth["gt_boxes"], "float32"), ops.maximum(assigned, 0)[..., None], axis=1)
    deltas = encode_boxes(matched, anchors[None], box_weights)
    return {"positive": positive, "negative": negative, "deltas": ops.stop_gradient(deltas)}


def add_ground_truth(proposals, proposals_valid, truth):
    """Append the ground-truth boxes to the proposals, so that early training has positives (torchvision, Detectron).

    Args:
        proposals: float (B, P, 4), network pixels. proposals_valid: bool (B, P). truth: the batch's `gt_*` arrays.

    Returns:
        float (B, P + G, 4) and bool (B, P + G).
    """
    objects, _ = split_crowds(truth)
    boxes = ops.where(objects[..., None], ops.cast(truth["gt_boxes"], "float32"), 0.0)
    return (
        ops.concatenate([proposals, boxes], axis=1),
        ops.concatenate([proposals_valid, objects], axis=1),
    )


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
    rois = ops.take_along_axis(candidates, indices[..., None], axis=1)
    matched = ops.maximum(ops.take_along_axis(assigned, indices, axis=1), 0)
    positive = ops.logical_and(ops.take_along_axis(positive, indices, axis=1), valid)
    boxes = ops.take_along_axis(ops.cast(truth["gt_boxes"], "float32"), matched[..., None], axis=1)
    labels = ops.take_along_axis(ops.cast(truth["gt_labels"], "int32"), matched, axis=1)
    deltas = encode_boxes(boxes, rois, box_weights)
    return {
        "rois": ops.stop_gradient(rois),
        "valid": valid,
        "positive": positive,
        "labels": ops.where(positive, labels, num_classes),
        "matched": matched,
        "deltas": ops.stop_gradient(ops.where(positive[..., None], deltas, 0.0)),
    }


def mask_targets(rois, matched, truth, mask_size, rule="subpixel"):
    """Resample the masks of the matched objects inside the RoIs (Mask R-CNN section 3, "Mask Representation").

    Args:
        rois: float (B, Q, 4), network pixels. matched: int32 (B, Q). truth: the batch's `gt_*` arrays.
        mask_size: cells per side. rule: "subpixel" or "torchvision", see MaskRCNNConfig.

    Returns:
        float32 (B, Q, mask_size, mask_size) in 0..1.
    """
    windows = truth.get("gt_mask_boxes", truth["gt_boxes"])
    windows = ops.cast(windows, "float32")
    masks = sample_masks(truth["gt_masks"], windows, matched, rois, mask_size, **MASK_RULES[rule])
    return ops.stop_gradient(masks)
