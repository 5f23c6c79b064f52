"""Losses of RPN and box head, in float32 under any dtype policy (Faster R-CNN eq. 1; Mask R-CNN section 3).

Each is a sum over the relevant samples, divided by the number of samples in the batch, or by 1 if there are none. So a
batch without objects has finite losses and a useful gradient for its background. Where replicas share a batch
(`tf.distribute`), the number is that of all of them, so that they compute what one device would.
"""

from keras import ops

from keras_maskrcnn import backend


def _mean(values, weights, count):
    """Sum of the weighted values over max(count, 1)."""
    return ops.sum(ops.where(weights, values, 0.0)) / backend.share_of_count(count)


def _count(mask):
    return ops.sum(ops.cast(mask, "float32"))


def mean_of(values, weights):
    """Mean of the values where `weights` is True; 0 where it is nowhere.

    Args:
        values: float tensor. weights: bool tensor of the same shape.
    """
    return _mean(values, weights, _count(weights))


def smooth_l1(error, beta):
    """Square below `beta`, linear above (Fast R-CNN eq. 3 with torchvision's beta); elementwise. 0 is the L1 loss."""
    size = ops.abs(error)
    if not beta:
        return size
    return ops.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def binary_cross_entropy(targets, logits):
    """Stable sigmoid cross-entropy, elementwise: max(x, 0) - x t + log(1 + exp(-|x|))."""
    return ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


def rpn_losses(logits, deltas, targets, beta):
    """Objectness and box loss of the sampled anchors, both divided by the number of sampled anchors.

    Args:
        logits: float (B, N). deltas: float (B, N, 4). targets: from `rpn_targets`.
        beta: parameter of smooth L1.

    Returns:
        dict of rpn_objectness_loss and rpn_box_loss, float32 scalars.
    """
    logits, deltas = ops.cast(logits, "float32"), ops.cast(deltas, "float32")
    sampled = ops.logical_or(targets["positive"], targets["negative"])
    count = _count(sampled)
    cross_entropy = binary_cross_entropy(ops.cast(targets["positive"], "float32"), logits)
    error = ops.where(targets["positive"][..., None], deltas - targets["deltas"], 0.0)
    box = ops.sum(smooth_l1(error, beta), axis=-1)
    return {
        "rpn_objectness_loss": _mean(cross_entropy, sampled, count),
        "rpn_box_loss": _mean(box, targets["positive"], count),
    }


def box_head_losses(class_logits, deltas, targets, beta):
    """Softmax cross-entropy, and smooth L1 of the true class's deltas, both divided by the number of sampled RoIs.

    Args:
        class_logits: float (B, S, K + 1). deltas: float (B, S, K, 4). targets: from `roi_targets`.
        beta: parameter of smooth L1.

    Returns:
        dict of class_loss and box_loss, float32 scalars.
    """
    class_logits, deltas = ops.cast(class_logits, "float32"), ops.cast(deltas, "float32")
    num_classes = deltas.shape[2]
    count = _count(targets["valid"])
    chosen = ops.one_hot(targets["labels"], num_classes + 1, dtype="float32")
    cross_entropy = -ops.sum(chosen * ops.log_softmax(class_logits, axis=-1), axis=-1)
    own = ops.sum(deltas * chosen[..., :num_classes, None], axis=2)
    error = ops.where(targets["positive"][..., None], own - targets["deltas"], 0.0)
    box = ops.sum(smooth_l1(error, beta), axis=-1)
    return {
        "class_loss": _mean(cross_entropy, targets["valid"], count),
        "box_loss": _mean(box, targets["positive"], count),
    }
