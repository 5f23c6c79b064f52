"""Operators on JAX: RoIAlign as in `generic` with a faster gradient; convolution and ReLU that keep less for theirs.

XLA compiles the sixteen gathers of a bin into one loop (5 ms for 128 boxes of 7x7 in each of four
(64, 64, 128) maps). On CPU it runs the sixteen scatters of the gradient row by row: 1150 ms for 1000
boxes of 7x7 in (256, 256, 256). A loop over the bins takes 170 ms.
"""

import functools
import math

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from keras import ops

from keras_maskrcnn.backend import adaptive_jax, generic
from keras_maskrcnn.backend.cells_jax import empty_cells, split_cells
from keras_maskrcnn.backend.checks import check_convolution
from keras_maskrcnn.backend.drawing import drawn_by_numpy
from keras_maskrcnn.geometry import bilinear

LARGEST_CACHE = 4 << 30  # bytes of compiled programs; the oldest go first

# A loop step is unrolled over the points of a bin. Above this number, compilation takes too long.
LARGEST_UNROLLED_RATIO = 4

NUM_PARTS = 4  # of `part_by_part`


def apply_relu(features, cells=None, added=None):
    """As `generic.apply_relu`. Its gradient reads the result: JAX would keep what went in as well, a copy of each map.

    Cells are set to zero before ReLU. The other way round, the gradient would need the map without zeros, too.
    """
    features = features if added is None else features + added
    return _keep_positive(features if cells is None else features * cells)


@jax.custom_vjp
def _keep_positive(features):
    return jnp.maximum(features, 0)


def _relu_forward(features):
    result = _keep_positive(features)
    return result, result


def _relu_backward(result, upstream):
    # Not `> 0`: XLA simplifies max(x, 0) > 0 to x > 0, and so reads what went in.
    return (jnp.where(result != 0, upstream, 0),)


_keep_positive.defvjp(_relu_forward, _relu_backward)


def convolve(maps, kernel, bias=None, strides=1, relu=False, groups=1):
    """As `generic.convolve`, with the padding inside the convolution: no padded copy is kept for the gradient."""
    check_convolution(maps, kernel, bias, strides, groups)
    kernel = ops.convert_to_tensor(kernel)
    outputs = []
    for features in maps:
        sums = _sum_windows(features, kernel, strides, groups)
        sums = sums if bias is None else sums + ops.convert_to_tensor(bias)
        outputs.append(apply_relu(sums) if relu else sums)
    return outputs


def _sum_windows(features, kernel, strides, groups):
    """The convolution of one map.

    A 1x1 kernel's gradient is a convolution with a window of the whole map for XLA, which is slow on CPUs: 16 s for 200
    maps (14, 14, 256) and 1024 filters. As a product it takes 3 s.
    """
    side = kernel.shape[0] // 2
    if side == 0 and groups == 1 and jax.default_backend() == "cpu":
        return jnp.tensordot(features[:, ::strides, ::strides], kernel[0, 0], 1)
    padding, layout = [(side, side)] * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        features, kernel, (strides, strides), padding, dimension_numbers=layout, feature_group_count=groups
    )


def multilevel_roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation):
    """Crop every box from its own level. Arguments and result as in `generic.multilevel_roi_align`."""
    adaptive = sampling_ratio == 0 and aggregation == "average"
    if not adaptive and not 1 <= sampling_ratio <= LARGEST_UNROLLED_RATIO:
        return generic.multilevel_roi_align(
            pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
        )
    frame = generic.box_frames(lax.stop_gradient(boxes), levels, scales, aligned)
    like = tuple(jax.ShapeDtypeStruct(level.shape, level.dtype) for level in pyramid)

    def crop(bins, ratio):
        if adaptive:
            return adaptive_jax.crop(bins, like, list(pyramid), frame, box_batch, levels)
        return _crop(bins, ratio, like, list(pyramid), frame, box_batch, levels)

    crops = generic.aggregate(crop, output_size, sampling_ratio, aggregation)
    return crops.astype(pyramid[0].dtype)


trainable_multilevel_roi_align = multilevel_roi_align


def part_by_part(function, *arrays):
    """As `generic.part_by_part`: four parts of the rows, one after the other, computed again for the gradient.

    Until then only the arguments are kept, and what one part needs. The images stay together: they may be on several
    devices.
    """
    images, rows = arrays[0].shape[:2]
    parts, again = math.gcd(rows, NUM_PARTS), jax.checkpoint(function)
    split = [jnp.moveaxis(each.reshape(images, parts, rows // parts, *each.shape[2:]), 1, 0) for each in arrays]
    results = jnp.moveaxis(lax.map(lambda part: again(*part), split), 0, 1)
    return results.reshape(images, rows, *results.shape[3:])


def known_values(tensor):
    """As `generic.known_values`: None while a function is traced."""
    return None if isinstance(tensor, jax.core.Tracer) else np.asarray(tensor)


non_max_suppression = generic.non_max_suppression
non_max_suppression_by_level = generic.non_max_suppression_by_level


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _crop(bins, ratio, like, pyramid, frame, images, levels):
    """`generic.pool_by_gathers` with a custom gradient. `like`: shapes and dtypes of the pyramid."""
    return generic.pool_by_gathers(pyramid, frame, images, levels, bins, ratio)


def _crop_forward(bins, ratio, like, pyramid, frame, images, levels):
    crops = generic.pool_by_gathers(pyramid, frame, images, levels, bins, ratio)
    return crops, (frame, images, levels)


def _crop_backward(bins, ratio, like, boxes, upstream):
    if upstream.shape[0] == 0:
        return [jnp.zeros(shape.shape, shape.dtype) for shape in like], None, None, None
    by_loop = functools.partial(_spread_by_loop, bins, ratio, like)
    by_scatter = functools.partial(_spread_by_scatter, bins, ratio, like)
    pyramid = lax.platform_dependent(boxes, upstream, cpu=by_loop, default=by_scatter)
    return pyramid, None, None, None


_crop.defvjp(_crop_forward, _crop_backward)


def _spread_by_scatter(bins, ratio, like, boxes, upstream):
    """Add the gradients of all bins to one table of cells, tap after tap, which is parallel on accelerators.

    The transpose that JAX derives from the forward pass writes one table for each of the sixteen taps and adds them.
    """
    frame, images, levels = boxes
    channels = upstream.shape[-1]
    cells = empty_cells(sum(shape.size for shape in like) // channels, upstream)
    for places, weights in generic.bin_taps(like, frame, images, levels, bins, ratio):
        shares = (weights[..., None] * upstream).reshape(-1, channels)
        cells = cells.at[places.reshape(-1)].add(shares, mode="promise_in_bounds")
    return split_cells(cells, like)


def _spread_by_loop(bins, ratio, like, boxes, upstream):
    """Add the gradient of each bin to the cells that it averages, one bin after the other, in place.

    Args:
        bins: (h, w).
        ratio: points per bin and axis.
        like: shapes and dtypes of the L maps (B, H_l, W_l, C).
        boxes: frame, images and levels, as for `generic.pool_by_gathers`.
        upstream: float32 (R, h, w, C).

    Returns:
        list of L gradients, (B, H_l, W_l, C).
    """
    rows, row_weights, columns, column_weights = _loop_taps(bins, ratio, like, boxes)
    channels = upstream.shape[-1]
    num_boxes, (num_rows, num_columns) = upstream.shape[0], bins
    upstream = upstream.reshape(-1, 1, channels)

    def add_bin(number, cells):
        box = number // (num_rows * num_columns)
        at_row = box * num_rows + number // num_columns % num_rows
        at_column = box * num_columns + number % num_columns
        value = upstream[number]
        for row, row_weight in zip(rows[at_row], row_weights[at_row], strict=True):
            for column, pair in zip(columns[at_column], column_weights[at_column], strict=True):
                start = (row + column, 0)
                two = lax.dynamic_slice(cells, start, (2, channels))
                two = two + (row_weight * pair)[:, None] * value
                cells = lax.dynamic_update_slice(cells, two, start)
        return cells

    # The right neighbour of the last cell has weight 0 but is read and written: add one row for it.
    cells = empty_cells(sum(shape.size for shape in like) // channels + 1, upstream)
    cells = lax.fori_loop(0, num_boxes * num_rows * num_columns, add_bin, cells)
    return split_cells(cells, like)


def _loop_taps(bins, ratio, like, boxes):
    """Indices and weights for the loop: bins along y (R * h, ...) and along x (R * w, ...).

    Returns:
        rows: int32 (R * h, 2 * ratio), the first cell of a row of the map, in the flat pyramid.
        row_weights: float32, the same shape, for the average over the bin.
        columns: int32 (R * w, ratio), the left one of two neighbours in the row.
        column_weights: float32 (R * w, ratio, 2), weights of the two neighbours.
    """
    (y, x, height, width), images, levels = boxes
    heights, widths, offsets = (size[levels] for size in generic.map_sizes(like))
    points = bilinear.sample_points(y, height, bins[0], ratio)
    low, high, *weights = bilinear.taps(points, heights[:, None])
    first = offsets + images * heights * widths
    rows = first[:, None, None] + jnp.stack([low, high], axis=2) * widths[:, None, None]
    row_weights = jnp.stack(weights, axis=2) / ratio
    points = bilinear.sample_points(x, width, bins[1], ratio)
    columns, _, *weights = bilinear.taps(points, widths[:, None])
    column_weights = jnp.stack(weights, axis=2) / ratio
    return (
        rows.reshape(-1, 2 * ratio),
        row_weights.reshape(-1, 2 * ratio),
        columns.reshape(-1, ratio),
        column_weights.reshape(-1, ratio, 2),
    )


def keep_compiled(folder):
    """Let JAX keep compiled programs in a folder, unless the user has chosen one (JAX_COMPILATION_CACHE_DIR)."""
    if folder is None or jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST_CACHE)
    compilation_cache.reset_cache()  # JAX decides at the first compilation whether it has one


initial_values = drawn_by_numpy


def operators():
    """Description of the RoIAlign implementation in use."""
    return "gathers in JAX with a custom gradient"
