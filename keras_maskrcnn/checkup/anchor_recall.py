"""How well anchors fit the objects of a dataset at a given input size: the share of objects that an anchor overlaps.

An object that no anchor overlaps by half is rarely proposed. For each anchor shape, the best overlap is at the cell
nearest to the object in x and y. So one cell per shape is enough: exact, and fast for any number of objects.
"""

import numpy as np

from keras_maskrcnn.geometry.anchor_shapes import cell_anchors
from keras_maskrcnn.geometry.resizing import network_size
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES

_AT_ONCE = 20_000  # boxes, which the cores' caches hold
BUCKETS = (0, 16, 32, 64, 128, 256, np.inf)  # square root of an object's area, network pixels


def network_boxes(boxes, positions, image_sizes, config):
    """Boxes in network pixels.

    Args:
        boxes: float (n, [x1, y1, x2, y2]), image pixels.
        positions: int (n,), the image of each box.
        image_sizes: list of (height, width), image pixels.
        config: MaskRCNNConfig, determines the network size.

    Returns:
        (float (n, 4) network pixels, int (images, [height, width]) network pixels).
    """
    own = np.array(image_sizes, np.int64).reshape(-1, 2)
    different, which, _ = different_sizes(own)
    sizes = np.array([network_size(*size, config) for size in different.tolist()]).reshape(-1, 2)[which]
    scale = (sizes / own)[positions][:, [1, 0, 1, 0]]
    return boxes * scale, sizes


def different_sizes(sizes):
    """The different ones of many sizes.

    Args:
        sizes: int (n, [height, width]).

    Returns:
        (int (k, 2), rising; int (n,), which of these each size is; int (k,), how many have it).
    """
    # One key each: np.unique(axis=0) takes ten times as long.
    keys, which, counts = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_inverse=True, return_counts=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1), which, counts


def best_overlaps(boxes, positions, sizes, anchor_sizes, anchor_ratios):
    """The largest IoU of each box with any anchor of its image.

    Args:
        boxes: float (n, 4), network pixels.
        positions: int (n,), the image of each box.
        sizes: int (images, [height, width]), network pixels.
        anchor_sizes: one per entry of PYRAMID_STRIDES.
        anchor_ratios: height / width.

    Returns:
        float (n,).
    """
    blocks = np.array_split(np.arange(len(boxes)), 1 + len(boxes) // _AT_ONCE)
    parts = [_best_overlaps(boxes[rows], sizes[positions[rows]], anchor_sizes, anchor_ratios) for rows in blocks]
    return np.concatenate(parts)


def _best_overlaps(boxes, sizes, anchor_sizes, anchor_ratios):
    """As `best_overlaps`, of some boxes. `sizes`: int (n, [height, width]), of each box's image."""
    best = np.zeros(len(boxes))
    corners, axes = np.ascontiguousarray(boxes.T), range(2)  # x and y apart: several times as fast as pairs of both
    low, high = corners[:2], corners[2:]
    areas = (high[0] - low[0]) * (high[1] - low[1])
    for stride, size in zip(PYRAMID_STRIDES, anchor_sizes, strict=True):
        last = -(-sizes.T[::-1] // stride) - 1  # the last column and row of the level's map
        cell = [np.clip(np.rint((low[k] + high[k]) / 2 / stride), 0, last[k]) * stride for k in axes]
        for anchor in cell_anchors(size, anchor_ratios):
            width, height = (
                np.maximum(np.minimum(high[k], cell[k] + anchor[2 + k]) - np.maximum(low[k], cell[k] + anchor[k]), 0)
                for k in axes
            )
            shared = width * height
            area = np.prod(anchor[2:] - anchor[:2])
            best = np.maximum(best, shared / np.maximum(area + areas - shared, 1e-9))
    return best


def recall_by_size(boxes, overlaps):
    """Shares of objects whose best anchor has IoU of at least 0.5 and 0.7, by size.

    Args:
        boxes: float (n, 4), network pixels.
        overlaps: float (n,), from `best_overlaps`.

    Returns:
        List of dicts "size", "objects", "recall_50", "recall_70" (None without objects); the last one is for all sizes.
    """
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    rows = []
    for low, high in zip(BUCKETS[:-1], BUCKETS[1:], strict=True):
        name = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
        rows.append(_row(name, overlaps[(sides >= low) & (sides < high)]))
    return [*rows, _row("all", overlaps)]


def _row(name, overlaps):
    shares = [float((overlaps >= limit).mean()) if len(overlaps) else None for limit in (0.5, 0.7)]
    return {"size": name, "objects": len(overlaps), "recall_50": shares[0], "recall_70": shares[1]}
