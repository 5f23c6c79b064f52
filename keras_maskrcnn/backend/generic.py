"""RoIAlign in `keras.ops`, with the NMS of `tiled_nms.py`: the reference on every backend.

In: feature maps and boxes in network pixels. Out: crops, or the indices of kept boxes. All shapes
follow from the input shapes, so XLA compiles everything. The callers, `roi_align.py` and `ops.py`,
check the arguments.
"""

import numpy as np
from keras import ops

from keras_maskrcnn.backend.checks import check_convolution
from keras_maskrcnn.backend.tiled_nms import non_max_suppression, non_max_suppression_by_level
from keras_maskrcnn.geometry import bilinear

__all__ = [
    "aggregate",
    "apply_relu",
    "bin_taps",
    "box_frames",
    "finite_boxes",
    "flatten_pyramid",
    "known_values",
    "map_sizes",
    "multilevel_roi_align",
    "non_max_suppression",
    "non_max_suppression_by_level",
    "pool_by_gathers",
    "trainable_multilevel_roi_align",
]

# Boxes are clipped to this many pixels before cropping.
FARTHEST = 1e6


def apply_relu(features, cells=None, added=None):
    """max(features + added, 0), and 0 where `cells`, (B, h, w, 1) of ones and zeros, is 0."""
    features = ops.relu(features if added is None else features + added)
    return features if cells is None else features * cells


def convolve(maps, kernel, bias=None, strides=1, relu=False, groups=1):
    """Convolve maps that share a kernel, with k // 2 cells of zero padding on every side; add bias, optionally ReLU.

    For strided convolutions Keras' "same" pads more at the bottom right than at the top left. Published checkpoints
    were trained with symmetric padding.

    Args:
        maps: list of float (B, h_l, w_l, C).
        kernel: float (k, k, C / groups, K), k odd, the dtype of the maps.
        bias: float (K,) or None.
        strides: 1 or 2.
        relu: whether ReLU follows.
        groups: K / groups filters read C / groups channels each, in order.

    Returns:
        list of float (B, ceil(h_l / strides), ceil(w_l / strides), K), the dtype of the maps.

    Raises:
        ValueError: a shape is wrong, without rows, channels or filters, or the stride is no whole number from 1.
    """
    check_convolution(maps, kernel, bias, strides, groups)
    outputs = []
    side = kernel.shape[0] // 2
    for features in maps:
        if strides > 1 and side:
            features = ops.pad(features, [[0, 0], [side, side], [side, side], [0, 0]])
        features = ops.conv(features, kernel, strides, "same" if strides == 1 else "valid", "channels_last")
        if bias is not None:
            features = features + bias
        outputs.append(apply_relu(features) if relu else features)
    return outputs


def multilevel_roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation):
    """Crop every box from its own level of a feature pyramid (Mask R-CNN, section 3, "RoIAlign").

    Args:
        pyramid: list of L feature maps, float (B, H_l, W_l, C).
        boxes: float32 (R, [x1, y1, x2, y2]), network pixels. Not differentiated.
        box_batch: int32 (R,), the image of each box, 0..B-1.
        levels: int32 (R,), the map of each box, 0..L-1.
        scales: L floats, cells of the map per network pixel (1 / stride).
        output_size: (h, w), bins.
        sampling_ratio: points per bin and axis; 0: one per cell, so the number depends on the box.
        aligned: True shifts boxes by half a cell, so that cell centres are at x + 0.5; False is
            the first published form, which also makes boxes at least one cell wide.
        aggregation: "average" or "max" over the points of a bin.

    Returns:
        (R, h, w, C), the dtype of the features. Points more than one cell outside the map read 0.
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


def known_values(tensor):
    """The values of a tensor as a numpy array, or None while they are not known or would have to be fetched."""
    return None


def part_by_part(function, *arrays):
    """`function` of arrays (B, R, ...), whose R rows it treats one by one, giving (B, R, ...). Here, of all at once."""
    return function(*arrays)


# Here, preparing the gradient in the forward pass has no benefit.
trainable_multilevel_roi_align = multilevel_roi_align


def aggregate(crop, output_size, ratio, aggregation):
    """Average or maximum over the points of each bin (Mask R-CNN, section 3: both work).

    Args:
        crop: function of ((h, w), ratio) -> (R, h, w, C), the average over the points of each bin.
        output_size: (h, w), bins.
        ratio: points per bin and axis.
        aggregation: "average" or "max".

    Returns:
        (R, h, w, C).
    """
    if aggregation == "average":
        return crop(output_size, ratio)
    # Use pooling, whose gradient goes to one point. The gradient of a plain maximum compares values
    # for equality, and XLA may round them differently when it recomputes them.
    points = crop(tuple(bins * ratio for bins in output_size), 1)
    return ops.max_pool(points, ratio, ratio, "valid", data_format="channels_last")


def box_frames(boxes, levels, scales, aligned):
    """Convert boxes to cells of their level, the coordinates in which RoIAlign samples.

    Args:
        boxes: float32 (R, [x1, y1, x2, y2]), network pixels.
        levels: int32 (R,).
        scales: L floats, cells per pixel.
        aligned: as in `multilevel_roi_align`.

    Returns:
        y, x, height, width: float32 (R,), cells; (y, x) is the first corner.
    """
    scale = ops.take(ops.convert_to_tensor(np.asarray(scales, "float32")), levels)
    shift = 0.5 if aligned else 0.0
    boxes = finite_boxes(boxes)
    x, y = boxes[:, 0] * scale - shift, boxes[:, 1] * scale - shift
    width, height = boxes[:, 2] * scale - shift - x, boxes[:, 3] * scale - shift - y
    if not aligned:
        width, height = ops.maximum(width, 1.0), ops.maximum(height, 1.0)
    return y, x, height, width


def finite_boxes(boxes):
    """Boxes (R, 4) with finite sides. After divergence they can have any value, and would read outside the map."""
    return ops.clip(ops.where(ops.isfinite(boxes), boxes, 0.0), -FARTHEST, FARTHEST)


def flatten_pyramid(pyramid):
    """Concatenate the cells of all images and levels in one table, so that one index addresses any cell.

    Args:
        pyramid: list of L feature maps, (B, H_l, W_l, C).

    Returns:
        (sum of B * H_l * W_l, C): ordered by level, then image, then row.
    """
    cells = [ops.reshape(level, (-1, level.shape[-1])) for level in pyramid]
    return cells[0] if len(cells) == 1 else ops.concatenate(cells, axis=0)


def map_sizes(pyramid):
    """Position of each level in the table of `flatten_pyramid`.

    Args:
        pyramid: list of L feature maps, (B, H_l, W_l, C).

    Returns:
        heights, widths, offsets: int32 (L,): size of each map, and the row of its first cell.
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
    """Average the points of each bin, with one gather for each cell next to each point.

    Args:
        pyramid: list of L feature maps, float (B, H_l, W_l, C).
        frame: y, x, height, width as from `box_frames`.
        box_batch: int32 (R,), the image of each box.
        levels: int32 (R,), the map of each box.
        output_size: (h, w), bins.
        ratio: points per bin and axis.

    At ratio 2 it does sixteen gathers of (R, h, w, C), not one that is sixteen times as large: XLA
    fuses them.

    Returns:
        float32 (R, h, w, C).
    """
    if frame[0].shape[0] == 0:  # an empty batch has no cells, from which JAX gathers nothing, not even for no box
        return ops.zeros((0, *output_size, pyramid[0].shape[-1]), "float32")
    cells = flatten_pyramid(pyramid)
    total = 0.0
    for places, weights in bin_taps(pyramid, frame, box_batch, levels, output_size, ratio):
        values = ops.take(cells, places, axis=0)
        total = total + weights[..., None] * ops.cast(values, "float32")
    return total


def bin_taps(pyramid, frame, box_batch, levels, output_size, ratio):
    """The cells that bins read and their weights; arguments as for `pool_by_gathers`.

    Yields:
        places int32 (R, h, w), rows of the table of `flatten_pyramid`, and weights float32 (R, h, w): the four cells
        next to each of ratio^2 points.
    """
    y, x, height, width = frame
    heights, widths, offsets = map_sizes(pyramid)
    own_height, own_width = ops.take(heights, levels), ops.take(widths, levels)
    first = ops.take(offsets, levels) + ops.cast(box_batch, "int32") * own_height * own_width
    y_taps = _axis_taps(y, height, own_height, output_size[0], ratio)
    x_taps = _axis_taps(x, width, own_width, output_size[1], ratio)
    for rows, row_weights in y_taps:
        rows = first[:, None] + rows * own_width[:, None]
        for columns, column_weights in x_taps:
            yield rows[:, :, None] + columns[:, None, :], row_weights[:, :, None] * column_weights[:, None, :]


def _axis_taps(start, length, extent, bins, ratio):
    """The cells that bins read along one axis: 2 * ratio pairs (cell, weight), each (R, bins)."""
    points = bilinear.sample_points(start, length, bins, ratio)
    low, high, low_weight, high_weight = bilinear.taps(points, extent[:, None])
    pairs = ((low, low_weight), (high, high_weight))
    return [(cell[:, k::ratio], weight[:, k::ratio] / ratio) for k in range(ratio) for cell, weight in pairs]


def _crop_box_by_box(crop, pyramid, frame, box_batch, levels, output_size):
    """Crop one box at a time from its whole map, because the number of points depends on the box.

    Exact, with bounded memory, but slow: the cost per box is proportional to its map.
    """
    y, x, height, width = frame
    channels = pyramid[0].shape[-1]
    if y.shape[0] == 0:  # `ops.map` needs a first box to determine the output shape.
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
    """Average over the points of one box.

    Args:
        values: float32 (H, W, C), the map of the box.
        box: dict of scalars y, x, height, width, in cells.
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
    """Maximum over the points of one box in each bin.

    Boxes larger than their map get as many points as a box of the map's size.

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


def operators():
    """What computes RoIAlign here, in words."""
    return "gathers in keras.ops"
