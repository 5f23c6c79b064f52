"""RoIAlign and NMS from stock TensorFlow operators, several times faster than `generic`.

Uses only operators of every TensorFlow runtime, so a SavedModel needs no extra library. Sizes may be
dynamic (None). XLA compiles neither crop_and_resize nor stock NMS nor sparse products: under
`jit_compile=True` use `generic`. Times below are milliseconds on 2 cores, for 128 boxes of 7x7 in each
of four (64, 64, 128) maps / 1000 boxes of 7x7 in one (256, 256, 256) map; `benchmarks/operators.py`
measures them.
"""

import math

import numpy as np
import tensorflow as tf

from keras_maskrcnn.backend import generic, native, portable
from keras_maskrcnn.backend.checks import check_convolution
from keras_maskrcnn.geometry import bilinear

_DENSE_CHANNELS = 64  # of a dense convolution that stands for several groups

stock_operators = native.stock_operators
portable_operators = portable.portable_operators


def operators():
    """Description of the RoIAlign implementation in use."""
    if tf.config.list_logical_devices("GPU"):
        return "stock TensorFlow operators (crop_and_resize) on the GPU"
    if native.is_used():
        return f"native C++ operator on {native.num_threads()} threads"
    return "stock TensorFlow operators (crop_and_resize; sparse products in training)"


def known_values(tensor):
    """As `generic.known_values`: None while a graph is traced."""
    return tensor.numpy() if tf.executing_eagerly() and tf.is_tensor(tensor) else None


def convolve(maps, kernel, bias=None, strides=1, relu=False, groups=1):
    """Convolve with the native operator where it is faster (3x3), else with stock operators. As `generic.convolve`.

    On maps that are not small the native operator needs a quarter of the multiplications. For 256 channels of 200x264
    cells it takes 140 ms, stock operators 400; the gradients 280 against 1310 (2 cores of an AMD EPYC with AVX2).
    """
    kernel = tf.convert_to_tensor(kernel)
    check_convolution(maps, kernel, bias, strides, groups)
    if groups > 1:
        return [_convolve_groups(features, kernel, bias, strides, relu, groups) for features in maps]
    if _convolves_natively(maps, kernel):
        bias = tf.zeros(kernel.shape[-1]) if bias is None else tf.convert_to_tensor(bias)
        return native.convolve(maps, kernel, bias, strides, relu)
    return [_convolve_by_stock(features, kernel, bias, strides, relu) for features in maps]


def _convolve_groups(features, kernel, bias, strides, relu, groups):
    """A grouped convolution as dense ones of a few groups each, whose kernels hold zeros between groups.

    TensorFlow has no gradient for grouped convolutions on CPUs. With `_DENSE_CHANNELS` channels or more the dense ones
    run at full speed, which makes up for the products with zero.
    """
    channels, filters = kernel.shape[2], kernel.shape[3] // groups
    together = math.gcd(groups, max(1, _DENSE_CHANNELS // channels))
    blocks = tf.eye(together, dtype=kernel.dtype)[:, None, :, None]
    outputs = []
    for first in range(0, groups, together):
        own = kernel[..., first * filters : (first + together) * filters]
        own = tf.reshape(own, (*kernel.shape[:2], 1, channels, together, filters)) * blocks
        own = tf.reshape(own, (*kernel.shape[:2], together * channels, together * filters))
        part = features[..., first * channels : (first + together) * channels]
        ends = None if bias is None else bias[first * filters : (first + together) * filters]
        outputs += convolve([part], own, ends, strides, relu)
    return tf.concat(outputs, axis=-1)


def _convolve_by_stock(features, kernel, bias, strides, relu):
    if features.shape[0] == 0:  # TensorFlow's operator returns the shape of its input
        rows, columns = (-(-side // strides) for side in features.shape[1:3])
        return tf.zeros((0, rows, columns, kernel.shape[-1]), kernel.dtype)

    def finish(sums):  # TensorFlow's graph optimizer fuses these with the convolution
        sums = sums if bias is None else tf.nn.bias_add(sums, bias)
        return tf.nn.relu(sums) if relu else sums

    if kernel.shape[0] == 1 and not _on_gpu(features) and not portable.is_used():
        # A matrix product: on CPU its gradients take a half to a fifth of the time of conv2d's.
        if strides > 1:  # select every second cell by 1x1 pooling: 1 ms, gradient 5; a strided slice takes 23 and 23
            features = tf.nn.avg_pool2d(features, 1, strides, "VALID")
        products = finish(tf.matmul(tf.reshape(features, (-1, kernel.shape[2])), kernel[0, 0]))
        products = tf.reshape(products, tf.concat([tf.shape(features)[:3], kernel.shape[3:]], axis=0))
        return tf.ensure_shape(products, (*features.shape[:3], kernel.shape[3]))
    side = kernel.shape[0] // 2 if strides > 1 else 0
    padding = [[0, 0], [side, side], [side, side], [0, 0]] if side else "SAME"
    return finish(tf.nn.conv2d(features, kernel, strides, padding))


def _convolves_natively(maps, kernel):
    rows, columns, channels, filters = kernel.shape
    fits = (rows, columns) == (3, 3) and channels % 16 == 0 and filters % 16 == 0
    return fits and all(features.dtype == tf.float32 for features in maps) and not _on_gpu(maps[0]) and native.is_used()


def multilevel_roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation):
    """Crop with the native operator or crop_and_resize. Arguments and result as in `generic.multilevel_roi_align`.

    crop_and_resize, 13 / 31 ms, is for exports and for machines without a compiler: every runtime and
    exchange format supports it. Its stock gradient loses updates between CPU threads and is wrong by up
    to 20 % (on a GPU it is right), so the gradient comes from `trainable_multilevel_roi_align`.
    """
    if _is_native(pyramid, sampling_ratio, aggregation):
        frame = _stack_frame(boxes, levels, scales, aligned)
        return generic.aggregate(
            lambda bins, ratio: native.crop(pyramid, frame, box_batch, levels, bins, ratio),
            output_size,
            sampling_ratio,
            aggregation,
        )

    def crop(points, ratio):
        frame = _stack_frame(boxes, levels, scales, aligned)
        own = [tf.where(tf.equal(levels, number))[:, 0] for number in range(len(pyramid))]
        places = tf.math.invert_permutation(tf.concat(own, axis=0))

        def forward(*maps):
            crops = [
                _crop_level(features, tf.gather(frame, rows), tf.gather(box_batch, rows), points, ratio)
                for features, rows in zip(maps, own, strict=True)
            ]
            return tf.gather(tf.concat(crops, axis=0), places)

        @tf.custom_gradient
        def forward_with_exact_gradient(*maps):
            def gradient(upstream):
                matrix = _sampling_matrix(maps, frame, box_batch, levels, points, ratio)
                return _spread(matrix, upstream, maps)

            return forward(*maps), gradient

        return (forward if _on_gpu(pyramid[0]) else forward_with_exact_gradient)(*pyramid)

    if sampling_ratio == 0 or portable.is_used():
        roi_align = portable.multilevel_roi_align if portable.is_used() else generic.multilevel_roi_align
        return roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation)
    return generic.aggregate(crop, output_size, sampling_ratio, aggregation)


def trainable_multilevel_roi_align(
    pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
):
    """Crop with the native operator or a sparse matrix product. Arguments and result as in `multilevel_roi_align`.

    The product is for training: the transpose of the matrix, computed once, gives the exact gradient. 11 ms and 8
    for the gradient / 23 and 15. It does not store the sample points, which need 4 times the memory of the crops.
    """
    if sampling_ratio == 0 or _on_gpu(pyramid[0]) or _is_native(pyramid, sampling_ratio, aggregation):
        return multilevel_roi_align(
            pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
        )

    def crop(points, ratio):
        frame = _stack_frame(boxes, levels, scales, aligned)
        matrix = _sampling_matrix(pyramid, frame, box_batch, levels, points, ratio)

        @tf.custom_gradient
        def multiply(*maps):
            cells = generic.flatten_pyramid(maps)
            crops = tf.raw_ops.SparseMatrixMatMul(a=matrix, b=tf.cast(cells, tf.float32))
            crops = crops[: tf.shape(frame)[0] * points[0] * points[1]]
            crops = tf.reshape(crops, (-1, *points, maps[0].shape[-1]))
            return tf.cast(crops, maps[0].dtype), lambda upstream: _spread(matrix, upstream, maps)

        return multiply(*pyramid)

    return generic.aggregate(crop, output_size, sampling_ratio, aggregation)


def _is_native(pyramid, sampling_ratio, aggregation):
    """Whether the native operator supports this call: on a CPU, in float32 or bfloat16."""
    known = pyramid[0].dtype in (tf.float32, tf.bfloat16) and (sampling_ratio > 0 or aggregation == "average")
    return known and not _on_gpu(pyramid[0]) and native.is_used()


def _stack_frame(boxes, levels, scales, aligned):
    """Boxes in cells of their levels, float32 (R, [y, x, height, width])."""
    boxes = tf.stop_gradient(boxes)
    return tf.stack(generic.box_frames(boxes, levels, scales, aligned), axis=1)


def _on_gpu(tensor):
    """Whether operators on a tensor will run on a GPU, as far as is known during tracing."""
    if tensor.device:
        return "GPU" in tensor.device
    return bool(tf.config.list_logical_devices("GPU"))


def _crop_level(features, frame, images, output_size, ratio):
    """Crop boxes from one map: bilinear sampling with crop_and_resize, then averages over bins.

    Args:
        features: float (B, H, W, C).
        frame: float32 (r, [y, x, height, width]), cells.
        images: int32 (r,).
        output_size: (h, w), bins.
        ratio: points per bin and axis.

    Returns:
        (r, h, w, C), the dtype of the features.
    """
    # Replicate the border by one cell: points up to one cell outside read the border values.
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    padded = tf.pad(tf.cast(features, tf.float32), border, mode="SYMMETRIC")
    points = (output_size[0] * ratio, output_size[1] * ratio)
    half_step = 0.5 * frame[:, 2:] / tf.constant(points, tf.float32)
    first = frame[:, :2] + 1.0 + half_step
    last = frame[:, :2] + 1.0 + frame[:, 2:] - half_step
    extent = tf.cast(tf.shape(features)[1:3] + 1, tf.float32)
    window = tf.concat([first / extent, last / extent], axis=1)
    crops = tf.image.crop_and_resize(padded, window, images, points)
    if ratio > 1:
        # 4 / 9 ms; the mean over the axes of a reshaped tensor takes 70 / 300.
        crops = tf.nn.avg_pool2d(crops, ratio, ratio, "VALID")
    return tf.cast(crops, features.dtype)


def _sampling_matrix(pyramid, frame, images, levels, output_size, ratio):
    """The weight of every cell of the pyramid in every bin of every box, 4 * ratio^2 entries per bin.

    Args:
        pyramid: list of L maps (B, H_l, W_l, C); only the sizes are used.
        frame: float32 (R, [y, x, height, width]), cells of the box's level.
        images: int32 (R,), the image of each box.
        levels: int32 (R,), the map of each box.
        output_size: (h, w), bins.
        ratio: points per bin and axis.

    Returns:
        sparse matrix (R * h * w, cells), in the order of `generic.flatten_pyramid`. Without boxes it
        has one empty row, because the product of a matrix without rows crashes the process.
    """
    sizes = generic.map_sizes(pyramid)
    heights, widths, offsets = (tf.cast(tf.gather(column, levels), tf.int64) for column in sizes)
    rows, row_weights = _axis_cells(frame[:, 0], frame[:, 2], heights, output_size[0], ratio)
    columns, column_weights = _axis_cells(frame[:, 1], frame[:, 3], widths, output_size[1], ratio)
    first = offsets + tf.cast(images, tf.int64) * heights * widths
    rows = first[:, None, None] + rows * widths[:, None, None]
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    taps = 4 * ratio * ratio
    num_bins = tf.size(cells, out_type=tf.int64) // taps
    bins = tf.broadcast_to(tf.range(num_bins)[:, None], (num_bins, taps))
    # Stack on the first axis and transpose: 2 ms, while stacking pairs takes 3.
    indices = tf.transpose(tf.stack([tf.reshape(bins, [-1]), tf.reshape(cells, [-1])]))
    num_cells = tf.add_n([tf.size(level[..., 0], out_type=tf.int64) for level in pyramid])
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=indices,
        values=tf.reshape(weights, [-1]),
        dense_shape=tf.stack([tf.maximum(num_bins, 1), num_cells]),
    )


def _axis_cells(start, length, extent, bins, ratio):
    """The cells that each bin reads along one axis and their weights in its average.

    Returns:
        cells: int64 (R, bins, 2 * ratio).
        weights: float32, the same shape.
    """
    points = bilinear.sample_points(start, length, bins, ratio)
    low, high, low_weight, high_weight = bilinear.taps(points, extent[:, None])
    shape = (-1, bins, 2 * ratio)
    cells = tf.reshape(tf.stack([low, high], axis=2), shape)
    weights = tf.reshape(tf.stack([low_weight, high_weight], axis=2), shape)
    return tf.cast(cells, tf.int64), weights / ratio


def _spread(matrix, upstream, pyramid):
    """Distribute the gradients of the bins to the cells that they read.

    One thread sums each cell in the order of the boxes, so results are bit-identical for any number of
    threads. The explicit transpose costs 2 to 4 ms and saves 3 to 16 compared with `transpose_a=True`.

    Args:
        matrix: from `_sampling_matrix`.
        upstream: float (R, h, w, C).
        pyramid: list of L maps (B, H_l, W_l, C); only sizes and dtype are used.

    Returns:
        list of L gradients, (B, H_l, W_l, C).
    """
    channels = pyramid[0].shape[-1]
    transposed = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=tf.float32)
    upstream = tf.reshape(tf.cast(upstream, tf.float32), (-1, channels))
    # This copies nothing unless there are no boxes.
    upstream = tf.pad(upstream, [[0, tf.maximum(1 - tf.shape(upstream)[0], 0)], [0, 0]])
    cells = tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream)
    shares = tf.split(cells, [tf.size(level[..., 0]) for level in pyramid])
    return [
        tf.cast(tf.reshape(share, tf.shape(level)), level.dtype) for share, level in zip(shares, pyramid, strict=True)
    ]


def non_max_suppression(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """Exact NMS with the stock operator. Arguments and result as in `generic.non_max_suppression`.

    One call per class and image. The usual alternative, to offset the boxes by class, rounds the
    boxes. Two images of 2000 boxes take 12 ms (generic 16 to 29), four of 4500 in five classes
    90 ms (generic 280). N may be dynamic.
    """
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(scores)
    keep = portable.keep_by_nms if portable.is_used() else _keep_by_nms
    return _best_kept(scores, keep(boxes, scores, iou_threshold, max_outputs, classes, valid), max_outputs)


def non_max_suppression_by_level(boxes, scores, sizes, iou_threshold, max_outputs, valid):
    """NMS of each level by itself: a level counts as a class. As `generic.non_max_suppression_by_level`."""
    levels = tf.concat([tf.fill([size], number) for number, size in enumerate(sizes)], axis=0)
    levels = tf.broadcast_to(levels, tf.shape(scores))
    return non_max_suppression(boxes, scores, iou_threshold, max_outputs, levels, valid)


def _keep_by_nms(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """The boxes that greedy NMS keeps, bool (B, N): one call for each image and class that has boxes."""
    num_images, num_boxes = tf.shape(scores)[0], tf.shape(scores)[1]
    rows, ends = _rows_by_group(num_images, num_boxes, classes, valid)
    row_boxes = tf.gather(tf.reshape(boxes, (-1, 4)), rows)
    row_scores = tf.gather(tf.reshape(scores, (-1,)), rows)
    thresholds = tf.broadcast_to(iou_threshold, [num_images])
    thresholds = tf.gather(thresholds, rows // tf.maximum(num_boxes, 1))
    thresholds = tf.concat([thresholds, [0.0]], axis=0)  # one more, the empty group at the end

    def suppress(number, kept):
        first = tf.where(number > 0, ends[tf.maximum(number - 1, 0)], 0)
        group = slice(first, ends[number])
        best = tf.image.non_max_suppression(row_boxes[group], row_scores[group], max_outputs, thresholds[first])
        return number + 1, kept.write(number, tf.gather(rows, best + first))

    num_groups = tf.size(ends)
    kept = tf.TensorArray(tf.int32, size=num_groups, infer_shape=False, element_shape=[None])
    _, kept = tf.while_loop(lambda number, _: number < num_groups, suppress, (0, kept))
    kept = kept.concat()
    kept = tf.scatter_nd(kept[:, None], tf.ones_like(kept), [num_images * num_boxes])
    return tf.reshape(kept, (num_images, num_boxes)) > 0


def _rows_by_group(num_images, num_boxes, classes, valid):
    """Group the valid rows of a table (B * N, ...) by image and class.

    Returns:
        rows: int32 (V,), valid rows, sorted by group, in their original order within a group.
        ends: int32 (G,), the end of each group in `rows`; the last group is empty.
    """
    group = tf.broadcast_to(tf.range(num_images)[:, None], (num_images, num_boxes))
    if classes is not None:
        group = group * (tf.reduce_max(classes) + 1) + classes
    group = tf.reshape(group, [-1])
    rows = tf.range(num_images * num_boxes)
    if valid is not None:
        rows = tf.boolean_mask(rows, tf.reshape(valid, [-1]))
    rows = tf.gather(rows, tf.argsort(tf.gather(group, rows), stable=True))
    _, _, counts = tf.unique_with_counts(tf.gather(group, rows))
    return rows, tf.concat([tf.cumsum(counts), [tf.size(rows)]], axis=0)


def _best_kept(scores, kept, max_outputs):
    """The best `max_outputs` kept boxes of each image, with a fixed shape."""
    num_boxes = tf.shape(scores)[1]
    candidates = tf.where(kept, scores, -np.inf)
    best, indices = tf.math.top_k(candidates, tf.minimum(max_outputs, num_boxes))
    keep = best > -np.inf
    padding = [[0, 0], [0, max_outputs - tf.shape(best)[1]]]
    shape = (scores.shape[0], max_outputs if isinstance(max_outputs, int) else None)
    return tuple(tf.ensure_shape(tf.pad(columns, padding), shape) for columns in (tf.where(keep, indices, 0), keep))
