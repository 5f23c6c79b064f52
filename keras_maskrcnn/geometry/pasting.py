"""Masks from the box frame into the image frame: pasting what was found, in numpy, in image pixels.

Called by `Predictor`, the evaluator and the pictures. `paste_mask_windows` never builds an (n, H, W) stack (450 objects
on a 12-megapixel image once took 416 GB).
"""

import numpy as np

PASTING_RULES = ("subpixel", "torchvision", "detectron2", "matterport")


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
    return stack_windows(paste_mask_windows(masks, boxes, image_size, threshold, "torchvision"), image_size)


def paste_masks_subpixel(masks, boxes, image_size, threshold=0.5):
    """Paste masks exactly: sample at pixel centres in the box as it is, not rounded.

    Args, returns: as `paste_masks`. A pixel whose centre is outside the box is False; near the
    border of the box the mask fades towards 0, as in detectron2.
    """
    return stack_windows(paste_mask_windows(masks, boxes, image_size, threshold, "subpixel"), image_size)


def paste_mask_windows(masks, boxes, image_size, threshold=0.5, pasting="subpixel"):
    """Paste each mask into the smallest window that holds it, instead of into a whole image.

    Args:
        masks: float (n, m, m), probabilities in the box frame.
        boxes: float (n, [x1, y1, x2, y2]), image pixels; may reach over the border.
        image_size: (height, width), image pixels.
        threshold: a pixel belongs to the object above it.
        pasting: "subpixel" (as `paste_masks_subpixel`), "torchvision" (as `paste_masks`), "detectron2" (as the first,
            but a pixel at the threshold belongs to the object) or "matterport" (as the latter, on boxes of whole
            pixels; values stay in the range of the mask, as scikit-image's `resize` keeps them).

    Returns:
        list of n (window bool (h, w), x0, y0): pixel (y, x) of the window is pixel (y0 + y, x0 +
        x) of the image. Windows lie inside the image; one that would lie outside has no pixels.

    Raises:
        ValueError: when the shapes do not belong together or `pasting` is unknown.
    """
    masks, boxes = checked_pasting(masks, boxes, pasting)
    axis, decide = _RULES[pasting]
    height, width = (int(side) for side in image_size)
    windows = []
    for mask, box in zip(masks, boxes, strict=True):
        y0, rows = axis(box[1], box[3], mask.shape[0], height)
        x0, columns = axis(box[0], box[2], mask.shape[1], width)
        windows.append((decide(rows @ mask @ columns.T, mask, threshold), x0, y0))
    return windows


def checked_pasting(masks, boxes, pasting):
    """Masks and boxes of `paste_mask_windows` as float32 arrays. Raises ValueError as it does."""
    masks, boxes = np.asarray(masks, "float32"), np.asarray(boxes, "float32")
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            "Pasting takes masks (n, m, m) and boxes (n, 4). "
            f"Received {masks.shape} and {boxes.shape}. Choose each object's mask by its class."
        )
    if pasting not in _RULES:
        raise ValueError(
            f"pasting is one of {sorted(_RULES)}. Received {pasting!r}. "
            'Use "subpixel" unless masks must equal torchvision\'s.'
        )
    return masks, boxes


def stack_windows(windows, image_size):
    """Put each window of `paste_mask_windows` into a whole image.

    Args:
        windows: list of n (bool (h, w), x0, y0). image_size: (height, width), image pixels.

    Returns:
        bool (n, height, width).
    """
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


def _above(values, mask, threshold):
    return values > threshold


def _not_below(values, mask, threshold):
    return values >= threshold


def _not_below_in_range(values, mask, threshold):
    return np.clip(values, mask.min(), mask.max()) >= threshold


_RULES = {
    "subpixel": (_subpixel_axis, _above),
    "torchvision": (_torchvision_axis, _above),
    "detectron2": (_subpixel_axis, _not_below),
    "matterport": (_subpixel_axis, _not_below_in_range),
}
