"""Mask targets: what the mask branch should predict for each RoI, cut out of the ground truth.

Network pixels in, numbers of 0..1 out. Runs inside the training graph. Called by the heads of masks; `km.ops` exports
`sample_masks`.
"""

from keras import ops

from keras_maskrcnn.geometry import bilinear


def sample_masks(gt_masks, gt_mask_boxes, matched, rois, size, sampling_ratio=2, aligned=True, rounded=False):
    """Cut the mask target of each roi out of the mask of the instance it was matched with.

    Args:
        gt_masks: (B, N, M1, M2), 0/1 or probabilities, in the frame of `gt_mask_boxes`: row 0
            begins at y1, row M1 ends at y2.
        gt_mask_boxes: float (B, N, [x1, y1, x2, y2]), network pixels: the window that each mask
            covers.
        matched: int (B, R), the row of `gt_masks` for each roi, 0..N-1. Where a roi has no
            instance, any.
        rois: float (B, R, [x1, y1, x2, y2]), network pixels.
        size: rows and columns of the target.
        sampling_ratio: points in a bin and axis; 0: about one for each cell of `gt_masks`.
        aligned: False reads everything half a pixel further on, as RoIAlign's first form does.
        rounded: True gives 1 from 0.5 on and 0 below, as Detectron2 does.

    Returns:
        float32 (B, R, size, size), 0..1: the bilinear average over each bin; 0 outside the window
        and wherever the window has no size (padding rows).
    """
    masks, windows = _matched_masks(gt_masks, gt_mask_boxes, matched)
    rois = ops.cast(rois, "float32")
    if not aligned:
        rois = rois + 0.5
    rows = _window_weights(rois, windows, 1, size, sampling_ratio, ops.shape(masks)[2])
    columns = _window_weights(rois, windows, 0, size, sampling_ratio, ops.shape(masks)[3])
    samples = ops.matmul(ops.matmul(rows, masks), ops.swapaxes(columns, 2, 3))
    return ops.cast(samples >= 0.5, "float32") if rounded else samples


def sample_mask_points(gt_masks, gt_mask_boxes, matched, points):
    """Read the masks of the matched instances at single points, between the centres of cells bilinear.

    Args:
        gt_masks, gt_mask_boxes, matched: as for `sample_masks`.
        points: float (B, R, P, [x, y]), network pixels.

    Returns:
        float32 (B, R, P), 0..1. Around its window a mask is 0, so that it fades towards the border.
    """
    masks, windows = _matched_masks(gt_masks, gt_mask_boxes, matched)
    corners, sides = windows[:, :, None, :2], (windows[..., 2:] - windows[..., :2])[:, :, None]
    has_size = ops.all(sides > 0, axis=-1)
    places = (ops.cast(points, "float32") - corners) / ops.where(sides > 0, sides, 1.0)
    height, width = ops.shape(masks)[2:]
    rows = bilinear.fading_weights(places[..., 1] * ops.cast(height, "float32") - 0.5, height)
    columns = bilinear.fading_weights(places[..., 0] * ops.cast(width, "float32") - 0.5, width)
    return ops.where(has_size, ops.sum(ops.matmul(rows, masks) * columns, axis=-1), 0.0)


def _matched_masks(gt_masks, gt_mask_boxes, matched):
    """The mask and the window of each RoI's instance: float32 (B, R, M1, M2) and (B, R, 4)."""
    if not gt_masks.shape[1]:  # no masks, or known late: there must be a row to read, be it empty
        gt_masks = ops.pad(gt_masks, [[0, 0], [0, 1], [0, 0], [0, 0]])
        gt_mask_boxes = ops.pad(gt_mask_boxes, [[0, 0], [0, 1], [0, 0]])
    masks = _rows_of(ops.cast(gt_masks, "float32"), matched)
    return masks, _rows_of(ops.cast(gt_mask_boxes, "float32"), matched)


def _rows_of(table, matched):
    """Rows `matched` (B, R) of each image of a table (B, N, ...)."""
    num_images, num_rows = ops.shape(table)[:2]
    flat = ops.reshape(table, (-1, *ops.shape(table)[2:]))
    first = ops.cast(ops.arange(num_images) * num_rows, "int32")[:, None]
    return ops.take(flat, first + ops.cast(matched, "int32"), axis=0)


def _window_weights(rois, windows, side, size, sampling_ratio, extent):
    """Weights (B, R, size, extent) of mask cells in the bins of rois, along x (side 0) or y (1)."""
    window_start = windows[..., side]
    window_length = windows[..., side + 2] - window_start
    has_size = window_length > 0
    cells_in_pixel = ops.cast(extent, "float32") / ops.where(has_size, window_length, 1.0)
    start = (rois[..., side] - window_start) * cells_in_pixel - 0.5
    length = (rois[..., side + 2] - rois[..., side]) * cells_in_pixel
    flat_start, flat_length = ops.reshape(start, (-1,)), ops.reshape(length, (-1,))
    if sampling_ratio:
        weights = bilinear.bin_weights(flat_start, flat_length, size, sampling_ratio, extent, margin=0.5)
    else:
        weights = bilinear.adaptive_bin_weights(flat_start, flat_length, size, extent)
    shape = (*ops.shape(rois)[:2], size, extent)
    return ops.reshape(weights, shape) * ops.cast(has_size, "float32")[..., None, None]
