"""The public operators, `km.ops.*`: what a detector needs and `keras.ops` does not have.

Tensors of the current backend come in and go out; pasting takes and returns numpy arrays. Arguments are checked here
or in the module that an operator comes from. The arithmetic is in `backend/`, `geometry/` and `learning/`.
"""

from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.backend import checks
from keras_maskrcnn.geometry.boxes import (
    area,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    pairwise_ioa,
    pairwise_iou,
    scale_boxes,
)
from keras_maskrcnn.geometry.mask_samples import sample_masks
from keras_maskrcnn.geometry.pasting import paste_mask_windows, paste_masks, paste_masks_subpixel
from keras_maskrcnn.network.roi_align import assign_levels, roi_align

__all__ = [
    "area",
    "assign_levels",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "non_max_suppression",
    "pairwise_ioa",
    "pairwise_iou",
    "paste_mask_windows",
    "paste_masks",
    "paste_masks_subpixel",
    "roi_align",
    "sample_masks",
    "scale_boxes",
]


def non_max_suppression(boxes, scores, iou_threshold=0.5, max_outputs=None, classes=None, valid=None):
    """Keep the best box of each cluster of overlapping ones: exact greedy NMS of fixed size.

    Args:
        boxes: float (N, [x1, y1, x2, y2]) or (B, N, [x1, y1, x2, y2]).
        scores: float (N,) or (B, N), finite.
        iou_threshold: a box is suppressed when its IoU with a kept, better one is greater.
        max_outputs: D, most boxes kept of an image; None: N.
        classes: int (N,) or (B, N), from 0: only boxes of one class suppress each other. None: all do.
        valid: bool (N,) or (B, N): rows that are False are never kept and suppress nothing. None:
            all are valid.

    Returns:
        indices: int32 (..., D), by descending score, equal scores by lower index; 0 where not kept.
        keep: bool (..., D), True for the leading entries that are kept boxes.

    Raises:
        ValueError: when the shapes do not belong together, or a threshold is not one.
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    scores = ops.cast(ops.convert_to_tensor(scores), "float32")
    rank = len(boxes.shape)
    if rank not in (2, 3) or boxes.shape[-1] != 4 or len(scores.shape) != rank - 1:
        raise ValueError(
            "non_max_suppression takes boxes (N, 4) with scores (N,), or boxes (B, N, 4) with "
            f"scores (B, N). Received boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)}. "
            "For a table of scores by class, flatten it, repeat the boxes and say the class of "
            "each row in `classes`."
        )
    if not 0 <= iou_threshold <= 1:
        raise ValueError(
            "iou_threshold is a share of the union, 0..1. "
            f"Received {iou_threshold}. The usual choice is 0.5, or 0.7 for proposals."
        )
    if max_outputs is None:
        max_outputs = boxes.shape[-2]
    if max_outputs is None:
        raise ValueError(
            "max_outputs must be given when the number of boxes is unknown while the graph is "
            f"built. Received max_outputs=None and boxes {tuple(boxes.shape)}. Pass the most boxes "
            "to keep, such as 1000."
        )
    if isinstance(max_outputs, bool) or int(max_outputs) != max_outputs or not 0 <= max_outputs <= checks.MOST_OUTPUTS:
        raise ValueError(
            f"max_outputs must be a whole number from 0 to {checks.MOST_OUTPUTS}. "
            f"Received {max_outputs!r}. Pass the most boxes to keep, such as 100."
        )
    classes = None if classes is None else ops.cast(ops.convert_to_tensor(classes), "int32")
    valid = None if valid is None else ops.cast(ops.convert_to_tensor(valid), "bool")
    checks.check_rows(boxes, {"scores": scores, "classes": classes, "valid": valid})
    if classes is not None:
        checks.check_indices("classes", backend.known_values(classes), checks.MOST_CLASSES, "classes at most")
    rows = (boxes, scores, classes, valid)
    if rank == 2:
        rows = [None if row is None else row[None] for row in rows]
    boxes, scores, classes, valid = rows
    indices, keep = backend.non_max_suppression(boxes, scores, float(iou_threshold), int(max_outputs), classes, valid)
    return (indices[0], keep[0]) if rank == 2 else (indices, keep)
