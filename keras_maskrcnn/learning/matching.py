"""Match anchors and RoIs to ground-truth objects (Faster R-CNN section 3.1.2; Mask R-CNN section 3.1).

Pure functions of an IoU table. N ground-truth rows, M candidates (anchors or RoIs).
"""

from keras import ops

BELOW = -1  # overlaps every object by less than the low threshold: background
BETWEEN = -2  # between the thresholds, or in a crowd: ignored


def match(iou, high, low, keep_best=False, gt_valid=None):
    """Assign candidates to objects by their largest overlap.

    Args:
        iou: float (..., N, M).
        high: candidates with at least this IoU are matched.
        low: candidates with a lower IoU are background; those between `low` and `high` are ignored.
        keep_best: also match the candidates with the highest IoU for each object, even if it is low, including ties
            (Faster R-CNN section 3.1.2, rule i). Then every object that overlaps an anchor has a match. Such a
            candidate is matched to the object that it overlaps most.
        gt_valid: bool (..., N) or None; rows that are False match nothing.

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
    """Ignore background candidates that lie mostly in a crowd region (COCO's `iscrowd`).

    Args:
        assigned: int32 (..., M) from `match`.
        ioa: float (..., C, M): share of each candidate inside each crowd region; 0 for rows that are not crowds.
        crowd_ioa: share above which a candidate is ignored.

    Returns:
        int32 (..., M): `assigned`, with background inside crowds changed to `BETWEEN`.
    """
    crowded = ops.any(ioa > crowd_ioa, axis=-2)
    return ops.where(ops.logical_and(assigned == BELOW, crowded), BETWEEN, assigned)
