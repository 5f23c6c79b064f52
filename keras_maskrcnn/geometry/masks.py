"""Masks between the box frame and the image frame: targets to train on, pasting what was found.

`sample_masks` runs inside the training graph, in network pixels. The pasting functions run on the
host in numpy, in image pixels, for `Predictor`, the evaluator and pictures; `paste_mask_windows`
is the form that never builds an (n, H, W) stack (450 objects on a 12-megapixel image once took 416
GB).
"""

import numpy as np
from keras import ops

from keras_maskrcnn.geometry import bilinear


def sample_masks(gt_masks, gt_mask_boxes, matched, rois, size, sampling_ratio=2, aligned=True):
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

    Returns:
        float32 (B, R, size, size), 0..1: the bilinear average over each bin; 0 outside the window
        and wherever the window has no size (padding rows). Not rounded to 0/1.
    """
    if not gt_masks.shape[1]:  # no masks, or known late: there must be a row to read, be it empty
        gt_masks = ops.pad(gt_masks, [[0, 0], [0, 1], [0, 0], [0, 0]])
        gt_mask_boxes = ops.pad(gt_mask_boxes, [[0, 0], [0, 1], [0, 0]])
    masks = _rows_of(ops.cast(gt_masks, "float32"), matched)
    windows = _rows_of(ops.cast(gt_mask_boxes, "float32"), matched)
    rois = ops.cast(rois, "float32")
    if not aligned:
        rois = rois + 0.5
    rows = _window_weights(rois, windows, 1, size, sampling_ratio, ops.shape(masks)[2])
    columns = _window_weights(rois, windows, 0, size, sampling_ratio, ops.shape(masks)[3])
    return ops.matmul(ops.matmul(rows, masks), ops.swapaxes(columns, 2, 3))


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


def paste_masks(masks, boxes, image_size, threshold=0.5):
    """Paste masks by torchvision's rule: grow mask and box by one cell, round the box, resize.

    Args:
        masks: float (n, m, m), probabilities in the box frame.
        boxes: float (n, [x1, y1, x2, y2]), image pixels; may reach over the border.
        image_size: (height, width), image pixels.
        threshold: a pixel belongs to the object above it.

    Returns:
        bool (n, height, width). For many objects on a large image use `paste_mask_windows`.
    """
    return _stack(masks, boxes, image_size, threshold, "torchvision")


def paste_masks_subpixel(masks, boxes, image_size, threshold=0.5):
    """Paste masks exactly: sample at pixel centres in the box as it is, not rounded.

    Args, returns: as `paste_masks`. A pixel whose centre is outside the box is False; near the
    border of the box the mask fades towards 0, as in detectron2.
    """
    return _stack(masks, boxes, image_size, threshold, "subpixel")


def paste_mask_windows(masks, boxes, image_size, threshold=0.5, pasting="subpixel"):
    """Paste each mask into the smallest window that holds it, instead of into a whole image.

    Args:
        masks: float (n, m, m), probabilities in the box frame.
        boxes: float (n, [x1, y1, x2, y2]), image pixels; may reach over the border.
        image_size: (height, width), image pixels.
        threshold: a pixel belongs to the object above it.
        pasting: "subpixel" (as `paste_masks_subpixel`) or "torchvision" (as `paste_masks`).

    Returns:
        list of n (window bool (h, w), x0, y0): pixel (y, x) of the window is pixel (y0 + y, x0 +
        x) of the image. Windows lie inside the image; one that would lie outside has no pixels.

    Raises:
        ValueError: when the shapes do not belong together or `pasting` is unknown.
    """
    masks, boxes = np.asarray(masks, "float32"), np.asarray(boxes, "float32")
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            "Pasting takes masks (n, m, m) and boxes (n, 4). "
            f"Received {masks.shape} and {boxes.shape}. Choose each object's mask by its class."
        )
    if pasting not in _AXES:
        raise ValueError(
            f"pasting is one of {sorted(_AXES)}. Received {pasting!r}. "
            'Use "subpixel" unless masks must equal torchvision\'s.'
        )
    axis = _AXES[pasting]
    height, width = (int(side) for side in image_size)
    windows = []
    for mask, box in zip(masks, boxes, strict=True):
        y0, rows = axis(box[1], box[3], mask.shape[0], height)
        x0, columns = axis(box[0], box[2], mask.shape[1], width)
        windows.append((rows @ mask @ columns.T > threshold, x0, y0))
    return windows


def _stack(masks, boxes, image_size, threshold, pasting):
    windows = paste_mask_windows(masks, boxes, image_size, threshold, pasting)
    stack = np.zeros((len(windows), int(image_size[0]), int(image_size[1])), bool)
    for canvas, (window, x0, y0) in zip(stack, windows, strict=True):
        canvas[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] = window
    return stack


def _subpixel_axis(low, high, cells, extent):
    """Pixels of an axis with their centres in [low, high), and what each mask cell weighs there.

    Returns:
        first: the first such pixel, >= 0.
        weights: float32 (pixels, cells). Beyond the outermost cell's centre there are zeros to mix
            with.
    """
    low, high = float(low), float(high)
    first = min(max(int(np.ceil(low - 0.5)), 0), extent)
    last = max(min(int(np.ceil(high - 0.5)), extent), first)
    if not high > low:
        return first, np.zeros((0, cells), "float32")
    centres = np.arange(first, last) + 0.5
    points = (centres - low) / (high - low) * cells - 0.5
    weights = np.maximum(1.0 - np.abs(points[:, None] - np.arange(cells)), 0.0)
    return first, weights.astype("float32")


def _torchvision_axis(low, high, cells, extent):
    """As `_subpixel_axis`, with one empty cell around, and the box grown to match and rounded."""
    scale = np.float32((cells + 2) / cells)
    half = (high - low) * np.float32(0.5) * scale
    middle = (high + low) * np.float32(0.5)
    start, end = int(middle - half), int(middle + half)
    size = max(end - start + 1, 1)
    first = min(max(start, 0), extent)
    last = max(min(end + 1, extent), first)
    pixels = np.arange(first, last) - start
    # Half-pixel resize of the grown mask (cells + 2) to `size`; it reads the edge cell beyond the
    # edge.
    points = (pixels + 0.5) * ((cells + 2) / size) - 0.5
    points = np.clip(points, 0, cells + 1) - 1
    weights = np.maximum(1.0 - np.abs(points[:, None] - np.arange(cells)), 0.0)
    return first, weights.astype("float32")


_AXES = {"subpixel": _subpixel_axis, "torchvision": _torchvision_axis}
