"""RoIAlign along one axis: sample points, and the weights of the cells of the map.

The bilinear kernel is separable, so each axis can be computed on its own. Coordinates are in cells: the
centre of cell `m` is at `m`. Called by `backend/` for features, by `geometry/mask_samples.py` for mask targets, and by
branches.
"""

from keras import ops


def sample_points(start, length, num_bins, sampling_ratio):
    """Positions of the sample points of each box along one axis (Mask R-CNN, section 3, figure 3).

    Args:
        start: float (R,), first edge of the box, cells.
        length: float (R,), cells.
        num_bins: bins along this axis.
        sampling_ratio: points per bin, > 0, at the centres of equal parts of the bin.

    Returns:
        float (R, num_bins * sampling_ratio), cells.
    """
    count = num_bins * sampling_ratio
    fractions = (ops.arange(count, dtype="float32") + 0.5) / count
    return start[:, None] + length[:, None] * fractions


def taps(points, extent, margin=1.0):
    """The two cells next to each point, and their weights.

    Args:
        points: float (R, S), cells.
        extent: number of cells on the axis, a number or (R, 1).
        margin: points up to this far outside the centres of the first and last cell read that cell;
            points further outside read 0.

    Returns:
        low, high: int32 (R, S), within 0..extent-1.
        low_weight, high_weight: float (R, S); they sum to 1, or to 0 outside.
    """
    last = ops.cast(extent, "float32") - 1.0
    inside = ops.logical_and(points >= -margin, points <= last + margin)
    inside = ops.cast(inside, "float32")
    clipped = ops.maximum(ops.minimum(points, last), 0.0)
    low = ops.floor(clipped)
    fraction = clipped - low
    high = ops.minimum(low + 1.0, last)
    return (
        ops.cast(low, "int32"),
        ops.cast(high, "int32"),
        (1.0 - fraction) * inside,
        fraction * inside,
    )


def point_weights(points, extent, margin=1.0):
    """The same weights as a dense table: the weight of each cell at each point.

    Args:
        points: float (..., S), cells.
        extent: number of cells on the axis, an int or a scalar tensor.
        margin: as in `taps`.

    Returns:
        float (..., S, extent). Rows sum to 1, or to 0 outside.
    """
    last = ops.cast(extent, "float32") - 1.0
    inside = ops.cast(ops.logical_and(points >= -margin, points <= last + margin), "float32")
    clipped = ops.maximum(ops.minimum(points, last), 0.0)[..., None]
    cells = ops.cast(ops.arange(extent), "float32")
    return ops.relu(1.0 - ops.abs(clipped - cells)) * inside[..., None]


def fading_weights(points, extent):
    """The weight of each cell at each point of a map that is surrounded by zeros (torch's `grid_sample`).

    Args:
        points: float (..., S), cells. extent: number of cells on the axis, an int or a scalar tensor.

    Returns:
        float (..., S, extent). Beyond the centres of the outer cells they fade; a cell further they are 0.
    """
    return ops.relu(1.0 - ops.abs(points[..., None] - ops.cast(ops.arange(extent), "float32")))


def doubling(cells):
    """The matrix that doubles an axis, bilinear at half-pixel centres: float32 (2 * cells, cells)."""
    places = (ops.arange(2 * cells, dtype="float32") + 0.5) / 2 - 0.5
    return fading_weights(ops.clip(places, 0.0, cells - 1.0), cells)


def bin_weights(start, length, num_bins, sampling_ratio, extent, margin=1.0):
    """The weight of each cell in the average over each bin, so that pooling is a matrix product.

    Args:
        start: float (R,), first edge of the box, cells.
        length: float (R,), cells.
        num_bins: bins along this axis.
        sampling_ratio: points per bin, > 0.
        extent: number of cells on the axis, an int or a scalar tensor.
        margin: as in `taps`.

    Returns:
        float (R, num_bins, extent).
    """
    points = sample_points(start, length, num_bins, sampling_ratio)
    points = ops.reshape(points, (-1, num_bins, sampling_ratio))
    return ops.mean(point_weights(points, extent, margin), axis=2)


def adaptive_counts(length, num_bins):
    """Points per bin when the ratio depends on the box: one per cell (torchvision's ratio <= 0).

    Args:
        length: float (R,), cells.
        num_bins: bins along this axis.

    Returns:
        float (R,), whole numbers; 0 for a box of no length.
    """
    return ops.ceil(length / num_bins)


def adaptive_bins(start, length, num_bins):
    """The sample points of bins with one point per cell: `bin_start + (k + 0.5) * step` for k = 0..count-1.

    Args:
        start: float (R,), first edge of the box, cells.
        length: float (R,), cells.
        num_bins: bins along this axis.

    Returns:
        bin_start float (R, num_bins); step and count float (R, 1), step > 0.
    """
    count = adaptive_counts(length, num_bins)[:, None]
    bin_length = length[:, None] / num_bins
    step = bin_length / ops.maximum(count, 1.0)
    step = ops.where(step > 0, step, ops.ones_like(step))
    return start[:, None] + bin_length * ops.arange(num_bins, dtype="float32"), step, count


def cells_read(bin_start, step, count, extent):
    """The cells that the points of a bin read: one after the other, some perhaps of weight 0.

    Args:
        bin_start, step, count: as from `adaptive_bins`.
        extent: number of cells on the axis, a number or float (R, 1).

    Returns:
        first: float (R, num_bins), within 0..extent-1. number: float (R, num_bins), at most `extent`.
    """
    last = extent - 1.0
    first_point, last_point = bin_start + 0.5 * step, bin_start + (count - 0.5) * step
    reads = ops.logical_and(count > 0, ops.logical_and(first_point <= last + 1, last_point >= -1))
    first = ops.floor(ops.maximum(ops.minimum(first_point, last), 0.0))
    end = ops.minimum(ops.floor(ops.maximum(ops.minimum(last_point, last), 0.0)) + 2.0, extent)
    return first, ops.where(reads, end - first, ops.zeros_like(first))


def cell_weights(bin_start, step, count, extent, cells):
    """The weight of cells in the average over the points of a bin, in bounded memory for any number of points.

    If a bin has several points, they are more than half a cell apart. So at most five of them are within
    the two cells that one cell's bilinear kernel covers. For each bin and cell these few are found
    directly, instead of listing all points of the box.

    Args:
        bin_start, step, count: of the bins, as from `adaptive_bins`.
        extent: number of cells on the axis.
        cells: float, whole numbers. All arguments have shapes that broadcast.

    Returns:
        float, the common shape; 0 for bins without points.
    """
    # Start one point before the first that can reach the cell, to be safe against rounding.
    first = ops.maximum(ops.ceil((cells - 1.0 - bin_start) / step - 0.5) - 1.0, 0.0)
    index = first[..., None] + ops.arange(7, dtype="float32")
    bin_start, step, last, cells = (each[..., None] for each in (bin_start, step, extent - 1.0, cells))
    point = bin_start + (index + 0.5) * step
    counted = ops.logical_and(index < count[..., None], ops.logical_and(point >= -1.0, point <= last + 1.0))
    tents = ops.relu(1.0 - ops.abs(ops.maximum(ops.minimum(point, last), 0.0) - cells))
    return ops.sum(ops.where(counted, tents, 0.0), axis=-1) / ops.maximum(count, 1.0)


def adaptive_bin_weights(start, length, num_bins, extent):
    """`bin_weights` with a number of points that depends on the box.

    Args:
        start: float (R,), first edge of the box, cells.
        length: float (R,), cells.
        num_bins: bins along this axis.
        extent: number of cells on the axis, an int or a scalar tensor.

    Returns:
        float (R, num_bins, extent); zeros for a box of no length.
    """
    bin_start, step, count = (each[..., None] for each in adaptive_bins(start, length, num_bins))
    cells = ops.cast(ops.arange(extent), "float32")
    return cell_weights(bin_start, step, count, ops.cast(extent, "float32"), cells)
