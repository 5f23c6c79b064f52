"""Which ground-truth object each anchor or RoI answers for (Faster R-CNN section 3.1.2; Mask R-CNN section 3.1).

Pure functions of an IoU table. N ground-truth rows, M candidates (anchors or RoIs).
"""

from keras import ops

BELOW = -1  # overlaps every object less than the low threshold: background
BETWEEN = -2  # between the thresholds, or in a crowd: neither


def match(iou, high, low, keep_best=False, gt_valid=None):
    """Assign candidates to objects by their largest overlap.

    Args:
        iou: float (..., N, M).
        high: candidates with at least this IoU are matched.
        low: candidates with less are background; the rest lies between.
        keep_best: also match the candidates that overlap an object most, however little, ties included, so that
            every object that touches an anchor has one (Faster R-CNN section 3.1.2, rule i). They answer for the
            object that they themselves overlap most.
        gt_valid: bool (..., N) or None; False rows match nothing.

    Returns:
        int32 (..., M): row of the matched object, `BELOW` or `BETWEEN`.
    """
    iou = ops.convert_to_tensor(iou)
    if gt_valid is not None:
        iou = ops.where(gt_valid[..., None], iou, -1.0)
    best = ops.max(iou, axis=-2)
    matched = ops.cast(ops.argmax(iou, axis=-2), "int32")
    assigned = ops.where(best >= high, matched, BETWEEN)
    assigned = ops.where(best < low, BELOW, assigned)
    if keep_best:
        highest = ops.max(iou, axis=-1, keepdims=True)
        restored = ops.any(ops.logical_and(iou == highest, iou > 0), axis=-2)
        assigned = ops.where(restored, matched, assigned)
    return ops.cast(assigned, "int32")


def ignore_crowds(assigned, ioa, crowd_ioa):
    """Take candidates that lie mostly in a crowd region out of the background (COCO's `iscrowd`).

    Args:
        assigned: int32 (..., M) from `match`.
        ioa: float (..., C, M): share of each candidate inside each crowd region; 0 for rows that are none.
        crowd_ioa: share above which a candidate is ignored.

    Returns:
        int32 (..., M): as `assigned`, with background turned to `BETWEEN` inside crowds.
    """
    crowded = ops.any(ioa > crowd_ioa, axis=-2)
    return ops.where(ops.logical_and(assigned == BELOW, crowded), BETWEEN, assigned)
