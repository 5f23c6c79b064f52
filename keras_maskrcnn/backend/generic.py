"""RoIAlign and exact NMS in `keras.ops`: the reference that runs on every backend, also compiled.

In: feature maps and boxes in network pixels. Out: crops, or the indices of kept boxes. Shapes are
fixed by the inputs, so XLA compiles all of it. The checks of arguments are in `roi_align.py` and
`ops.py`, which call this.
"""

import numpy as np
from keras import ops

from keras_maskrcnn import bilinear
from keras_maskrcnn import boxes as boxes_module

# Boxes per step of NMS: 256 was the fastest of 128..1024 for 2000 boxes on JAX and on TensorFlow.
NMS_TILE = 256

# Boxes are cut to this many pixels before they are cropped.
FARTHEST = 1e6


def multilevel_roi_align(
    pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
):
    """Crop every box from its own level of a feature pyramid (Mask R-CNN, section 3, "RoIAlign").

    Args:
        pyramid: list of L feature maps, float (B, H_l, W_l, C).
        boxes: float32 (R, [x1, y1, x2, y2]), network pixels. Get no gradient.
        box_batch: int32 (R,), the image of each box, 0..B-1.
        levels: int32 (R,), the map of each box, 0..L-1.
        scales: L floats, cells of the map in one network pixel (1 / stride).
        output_size: (h, w), bins.
        sampling_ratio: points in a bin and axis; 0: one for each cell, as many as the box is large.
        aligned: True shifts boxes by half a cell, so that cell centres lie at x + 0.5; False is
            the first published form, which also takes boxes for at least one cell wide.
        aggregation: "average" or "max" over the points of a bin.

    Returns:
        (R, h, w, C), the dtype of the features. Points beyond the map by more than a cell read 0.
    """
    boxes = ops.stop_gradient(boxes)
    frame = box_frames(boxes, levels, scales, aligned)
    if sampling_ratio == 0:
        crop = _ADAPTIVE[aggregation]
        return _crop_box_by_box(crop, pyramid, frame, box_batch, levels, output_size)

    def crop(bins, ratio):
        return pool_by_gathers(pyramid, frame, box_batch, levels, bins, ratio)

    crops = aggregate(crop, output_size, sampling_ratio, aggregation)
    return ops.cast(crops, pyramid[0].dtype)


# Nothing is gained here by preparing the gradient in the forward pass.
trainable_multilevel_roi_align = multilevel_roi_align


def aggregate(crop, output_size, ratio, aggregation):
    """Average the points of each bin, or take the largest (Mask R-CNN, section 3: both work).

    Args:
        crop: function of ((h, w), ratio) -> (R, h, w, C), the average over the points of each bin.
        output_size: (h, w), bins.
        ratio: points in a bin and axis.
        aggregation: "average" or "max".

    Returns:
        (R, h, w, C).
    """
    if aggregation == "average":
        return crop(output_size, ratio)
    # A bin of one point is its point. The gradient of pooling chooses one point; that of a plain
    # maximum looks for equal values, and XLA may round them otherwise when it computes them again.
    points = crop(tuple(bins * ratio for bins in output_size), 1)
    return ops.max_pool(points, ratio, ratio, "valid", data_format="channels_last")


def box_frames(boxes, levels, scales, aligned):
    """Put boxes into the cells of their level, where RoIAlign samples.

    Args:
        boxes: float32 (R, [x1, y1, x2, y2]), network pixels.
        levels: int32 (R,).
        scales: L floats, cells in a pixel.
        aligned: as in `multilevel_roi_align`.

    Returns:
        y, x, height, width: float32 (R,), cells; (y, x) is the first corner.
    """
    scale = ops.take(ops.convert_to_tensor(np.asarray(scales, "float32")), levels)
    shift = 0.5 if aligned else 0.0
    # Boxes of a network that diverged may be anything; as indices they would read beyond the map.
    boxes = ops.clip(ops.where(ops.isfinite(boxes), boxes, 0.0), -FARTHEST, FARTHEST)
    x, y = boxes[:, 0] * scale - shift, boxes[:, 1] * scale - shift
    width, height = boxes[:, 2] * scale - shift - x, boxes[:, 3] * scale - shift - y
    if not aligned:
        width, height = ops.maximum(width, 1.0), ops.maximum(height, 1.0)
    return y, x, height, width


def flatten_pyramid(pyramid):
    """Lay all cells of all images and levels in one table, so that one index finds any of them.

    Args:
        pyramid: list of L feature maps, (B, H_l, W_l, C).

    Returns:
        (sum of B * H_l * W_l, C): level by level, in each image by image, row by row.
    """
    cells = [ops.reshape(level, (-1, level.shape[-1])) for level in pyramid]
    return cells[0] if len(cells) == 1 else ops.concatenate(cells, axis=0)


def map_sizes(pyramid):
    """Where the cells of each level are in the table of `flatten_pyramid`.

    Args:
        pyramid: list of L feature maps, (B, H_l, W_l, C).

    Returns:
        heights, widths, offsets: int32 (L,): size of each map and the row of its first cell.
    """
    heights, widths, offsets, end = [], [], [], 0
    for level in pyramid:
        num_images, height, width, _ = ops.shape(level)
        heights.append(height)
        widths.append(width)
        offsets.append(end)
        end = end + num_images * height * width
    columns = (heights, widths, offsets)
    return tuple(ops.stack([ops.cast(n, "int32") for n in column]) for column in columns)


def pool_by_gathers(pyramid, frame, box_batch, levels, output_size, ratio):
    """Average the points of each bin, with one gather for each of the cells around each point.

    Args:
        pyramid: list of L feature maps, float (B, H_l, W_l, C).
        frame: y, x, height, width as from `box_frames`.
        box_batch: int32 (R,), the image of each box.
        levels: int32 (R,), the map of each box.
        output_size: (h, w), bins.
        ratio: points in a bin and axis.

    Sixteen gathers of (R, h, w, C) at ratio 2 instead of one sixteen times as large: XLA fuses
    them.

    Returns:
        float32 (R, h, w, C).
    """
    y, x, height, width = frame
    cells = flatten_pyramid(pyramid)
    heights, widths, offsets = map_sizes(pyramid)
    own_height, own_width = ops.take(heights, levels), ops.take(widths, levels)
    first = ops.take(offsets, levels) + ops.cast(box_batch, "int32") * own_height * own_width
    y_taps = _axis_taps(y, height, own_height, output_size[0], ratio)
    x_taps = _axis_taps(x, width, own_width, output_size[1], ratio)
    total = 0.0
    for rows, row_weights in y_taps:
        rows = first[:, None] + rows * own_width[:, None]
        for columns, column_weights in x_taps:
            values = ops.take(cells, rows[:, :, None] + columns[:, None, :], axis=0)
            weights = row_weights[:, :, None] * column_weights[:, None, :]
            total = total + weights[..., None] * ops.cast(values, "float32")
    return total


def _axis_taps(start, length, extent, bins, ratio):
    """The cells that bins read along one axis: 2 * ratio pairs (cell, weight), (R, bins) each."""
    points = bilinear.sample_points(start, length, bins, ratio)
    low, high, low_weight, high_weight = bilinear.taps(points, extent[:, None])
    pairs = ((low, low_weight), (high, high_weight))
    return [
        (cell[:, k::ratio], weight[:, k::ratio] / ratio)
        for k in range(ratio)
        for cell, weight in pairs
    ]


def _crop_box_by_box(crop, pyramid, frame, box_batch, levels, output_size):
    """Crop one box at a time from its whole map, because each has its own number of points.

    Exact and of bounded memory, not fast: the cost of a box is that of its map.
    """
    y, x, height, width = frame
    channels = pyramid[0].shape[-1]
    if y.shape[0] == 0:  # `ops.map` looks at the first box to know what it will get.
        return ops.zeros((0, *output_size, channels), pyramid[0].dtype)
    result = 0.0
    for number, level in enumerate(pyramid):

        def one(box, level=level):
            values = ops.cast(ops.take(level, box["image"], axis=0), "float32")
            return crop(values, box, output_size)

        fields = {"y": y, "x": x, "height": height, "width": width}
        fields["image"] = ops.cast(box_batch, "int32")
        crops = ops.map(one, fields)
        crops = ops.reshape(crops, (-1, *output_size, channels))
        own = ops.cast(ops.equal(levels, number), "float32")
        result = result + crops * own[:, None, None, None]
    return ops.cast(result, pyramid[0].dtype)


def _adaptive_average(values, box, output_size):
    """Average one box over its own number of points.

    Args:
        values: float32 (H, W, C), the map of the box.
        box: dict of scalars y, x, height, width, cells.
        output_size: (h, w), bins.

    Returns:
        float32 (h, w, C).
    """
    extent = ops.shape(values)
    rows, columns = (
        bilinear.adaptive_bin_weights(box[start][None], box[length][None], bins, cells)[0]
        for start, length, bins, cells in (
            ("y", "height", output_size[0], extent[0]),
            ("x", "width", output_size[1], extent[1]),
        )
    )
    strips = ops.tensordot(rows, values, axes=1)
    return ops.einsum("qw,pwc->pqc", columns, strips)


def _adaptive_max(values, box, output_size):
    """Largest of one box's own points in each bin.

    Boxes larger than their map get as many points as one of its size.

    Args and returns: as `_adaptive_average`.
    """
    height, width, channels = ops.shape(values)
    axes = []
    for start, length, bins, extent in (
        (box["y"], box["height"], output_size[0], height),
        (box["x"], box["width"], output_size[1], width),
    ):
        most = (extent + bins) // bins
        count = ops.minimum(bilinear.adaptive_counts(length, bins), ops.cast(most, "float32"))
        steps = ops.cast(ops.arange(most), "float32")
        bin_length = length / bins
        bin_start = start + bin_length * ops.arange(bins, dtype="float32")
        points = bin_start[:, None] + (steps + 0.5) * bin_length / ops.maximum(count, 1.0)
        axes.append((bilinear.point_weights(points, extent), steps < count))
    (rows, row_counted), (columns, column_counted) = axes
    strips = ops.einsum("psh,hwc->pswc", rows, values)
    points = ops.einsum("pswc,qtw->psqtc", strips, columns)
    counted = ops.logical_and(row_counted[:, None], column_counted)[None, :, None, :, None]
    largest = ops.max(ops.where(counted, points, -np.inf), axis=(1, 3))
    return ops.where(ops.any(counted), largest, 0.0)


_ADAPTIVE = {"average": _adaptive_average, "max": _adaptive_max}


def non_max_suppression(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """Keep the best box of every cluster, exactly as the greedy algorithm does, with fixed shapes.

    Boxes go by falling score in tiles. A tile first loses what the kept boxes of earlier tiles
    suppress; then "suppressed by a box that is kept" is repeated inside the tile until nothing
    changes, which is the greedy answer because each round settles at least one more box of it.

    Args:
        boxes: float32 (B, N, [x1, y1, x2, y2]); N must be known when the graph is built.
        scores: float32 (B, N).
        iou_threshold: suppress above it.
        max_outputs: D, an int (on TensorFlow also a scalar tensor).
        classes: int (B, N) or None: boxes of different classes leave each other alone.
        valid: bool (B, N) or None: rows that are False are never kept and suppress nothing.

    Returns:
        indices: int32 (B, D) by falling score, equal scores by lower index; 0 where not kept.
        keep: bool (B, D).
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    if valid is not None:
        scores = ops.where(valid, scores, -np.inf)
    boxes, scores, classes = _pad_to_tiles(boxes, scores, classes)
    order = ops.cast(ops.argsort(-scores, axis=1), "int32")
    sides = list(boxes_module.split_sides(ops.take_along_axis(boxes, order[..., None], axis=1)))
    if classes is not None:
        classes = ops.take_along_axis(classes, order, axis=1)
    candidate = ops.cast(ops.take_along_axis(scores, order, axis=1) > -np.inf, "float32")
    tile = min(NMS_TILE, order.shape[1])
    kept = _keep_tile_by_tile(sides, classes, candidate, iou_threshold, tile)
    return _first_kept(order, kept, max_outputs)


def _pad_to_tiles(boxes, scores, classes):
    """Add rows that are never kept, up to a whole number of tiles and at least one row."""
    num_boxes = scores.shape[1]
    tile = min(NMS_TILE, max(num_boxes, 1))
    missing = -num_boxes % tile if num_boxes else 1
    if missing:
        boxes = ops.pad(boxes, [[0, 0], [0, missing], [0, 0]])
        scores = ops.pad(scores, [[0, 0], [0, missing]], constant_values=-np.inf)
        if classes is not None:
            classes = ops.pad(classes, [[0, 0], [0, missing]])
    return boxes, scores, classes


def _keep_tile_by_tile(sides, classes, candidate, iou_threshold, tile):
    """Greedy suppression of boxes that are in score order.

    Args:
        sides: x1, y1, x2, y2, each float32 (B, N), N a multiple of `tile`. Four arrays: the last
            axis of a (B, N, 4) table is too short for vector instructions.
        classes: int (B, N) or None.
        candidate: float32 (B, N), 1 or 0; 0 is never kept.
        iou_threshold: suppress above it.
        tile: boxes in a step.

    Returns:
        float32 (B, N), 1 or 0.
    """
    later = ops.convert_to_tensor(np.triu(np.ones((tile, tile), "float32"), 1))

    def suppresses(rows, columns):
        hit = _overlap_exceeds(sides, rows, columns, iou_threshold)
        if classes is not None:
            hit = ops.logical_and(hit, classes[:, rows, None] == classes[:, None, columns])
        return ops.cast(hit, "float32")

    def unsuppressed(alive, kept, hits):
        # Sums of ones are exact in float32: below one half means that nobody kept hits it.
        return alive * ops.cast(ops.matmul(kept[:, None, :], hits)[:, 0, :] < 0.5, "float32")

    kept = []
    for first in range(0, candidate.shape[1], tile):
        own = slice(first, first + tile)
        alive = candidate[:, own]
        if kept:
            before = suppresses(slice(0, first), own)
            alive = unsuppressed(alive, ops.concatenate(kept, axis=1), before)
        inside = suppresses(own, own) * later

        def changed(now, last):
            return ops.any(now != last)

        def settle(now, last, alive=alive, inside=inside):
            return unsuppressed(alive, now, inside), now

        start = (unsuppressed(alive, alive, inside), alive)
        kept.append(ops.while_loop(changed, settle, start)[0])
    return ops.concatenate(kept, axis=1)


def _overlap_exceeds(sides, rows, columns, iou_threshold):
    """Whether IoU > threshold, with torchvision's arithmetic; bool (B, rows, columns)."""
    x1, y1, x2, y2 = sides
    width = ops.minimum(x2[:, rows, None], x2[:, None, columns]) - ops.maximum(
        x1[:, rows, None], x1[:, None, columns]
    )
    height = ops.minimum(y2[:, rows, None], y2[:, None, columns]) - ops.maximum(
        y1[:, rows, None], y1[:, None, columns]
    )
    shared = ops.relu(width) * ops.relu(height)
    areas = (x2 - x1) * (y2 - y1)
    union = areas[:, rows, None] + areas[:, None, columns] - shared
    return ops.logical_and(union > 0, shared / ops.where(union > 0, union, 1.0) > iou_threshold)


def _first_kept(order, kept, max_outputs):
    """The first `max_outputs` kept boxes in score order, with a fixed shape."""
    num_boxes = order.shape[1]
    missing = max(max_outputs - num_boxes, 0)
    place = ops.arange(num_boxes, dtype="int32")
    # Kept boxes keep their places, the others go behind all of them.
    place = ops.where(kept > 0.5, place, place + num_boxes)
    place = ops.sort(place, axis=1)[:, :max_outputs]
    keep = place < num_boxes
    indices = ops.take_along_axis(order, ops.where(keep, place, 0), axis=1)
    indices = ops.where(keep, indices, 0)
    padding = [[0, 0], [0, missing]]
    return ops.pad(indices, padding), ops.pad(keep, padding)
