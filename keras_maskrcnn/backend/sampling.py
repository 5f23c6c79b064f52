"""RoIAlign as a product of a sparse matrix and the cells of the pyramid, in stock TensorFlow operators.

A row of the matrix is a bin, with the weights of the cells that it reads. The transpose gives the exact gradient.
`multiply` has the same number of points in each bin, `crop_adaptively` one per cell. Called by `tensorflow.py`.
"""

import tensorflow as tf

from keras_maskrcnn.backend import generic
from keras_maskrcnn.geometry import bilinear

MOST_CELLS = 1 << 23  # in the bins of one matrix, with one point per cell: 100 bytes each while the matrix is made


def multiply(matrix, pyramid, num_boxes, output_size):
    """The average over each bin.

    Args:
        matrix: sparse matrix, a row for each bin. pyramid: list of L maps (B, H_l, W_l, C).
        num_boxes: int32 (). output_size: (h, w), bins.

    Returns:
        (R, h, w, C), the dtype of the maps, with the exact gradient.
    """

    @tf.custom_gradient
    def forward(*maps):
        cells = tf.cast(generic.flatten_pyramid(maps), tf.float32)
        crops = tf.cast(_average(matrix, cells, num_boxes, output_size), maps[0].dtype)
        return crops, lambda upstream: spread(matrix, upstream, maps)

    return forward(*pyramid)


def _average(matrix, cells, num_boxes, output_size):
    crops = tf.raw_ops.SparseMatrixMatMul(a=matrix, b=cells)[: num_boxes * output_size[0] * output_size[1]]
    return tf.reshape(crops, (-1, *output_size, cells.shape[-1]))


def crop_adaptively(pyramid, frame, images, levels, output_size):
    """Average one point per cell of each bin, of as many boxes at a time as have `MOST_CELLS` cells.

    Args and returns: as `matrix_of_points` and `multiply`. The gradient makes the matrix once more.
    """
    numbers = _Cells(pyramid, frame, images, levels, output_size).numbers
    part = tf.cumsum(tf.reduce_sum(numbers, axis=(1, 2))) // MOST_CELLS  # of each box, ascending
    num_parts = tf.reduce_max(tf.concat([[0], part], axis=0)) + 1
    ends = tf.searchsorted(part, tf.range(num_parts), side="right")

    def of_part(number):
        rows = slice(tf.where(number > 0, ends[tf.maximum(number - 1, 0)], 0), ends[number])
        return rows, _Cells(pyramid, frame[rows], images[rows], levels[rows], output_size).matrix(pyramid)

    @tf.custom_gradient
    def forward(*maps):
        cells = tf.cast(generic.flatten_pyramid(maps), tf.float32)

        def crop(number, crops):
            rows, matrix = of_part(number)
            return number + 1, crops.write(number, _average(matrix, cells, rows.stop - rows.start, output_size))

        def gradient(upstream):
            def add(number, total):
                rows, matrix = of_part(number)
                return number + 1, total + _spread_to_cells(matrix, upstream[rows])

            total = tf.zeros_like(cells)
            return _split_cells(tf.while_loop(lambda number, _: number < size, add, (0, total))[1], maps)

        size = tf.cast(num_parts, tf.int32)
        crops = tf.TensorArray(tf.float32, size, infer_shape=False, element_shape=(None, *output_size, cells.shape[-1]))
        _, crops = tf.while_loop(lambda number, _: number < size, crop, (0, crops))
        crops = tf.ensure_shape(crops.concat(), (frame.shape[0], *output_size, cells.shape[-1]))
        return tf.cast(crops, maps[0].dtype), gradient

    return forward(*pyramid)


def matrix_of_points(pyramid, frame, images, levels, output_size, ratio):
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
    return _to_matrix(tf.reshape(bins, [-1]), tf.reshape(cells, [-1]), tf.reshape(weights, [-1]), num_bins, pyramid)


def _to_matrix(bins, cells, weights, num_bins, pyramid):
    # Stack on the first axis and transpose: 2 ms, while stacking pairs takes 3.
    num_cells = tf.add_n([tf.size(level[..., 0], out_type=tf.int64) for level in pyramid])
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.transpose(tf.stack([bins, cells])),
        values=weights,
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


def spread(matrix, upstream, pyramid):
    """Distribute the gradients of the bins to the cells that they read.

    One thread sums each cell in the order of the boxes, so results are bit-identical for any number of
    threads. The explicit transpose costs 2 to 4 ms and saves 3 to 16 compared with `transpose_a=True`.

    Args:
        matrix: from `matrix_of_points`.
        upstream: float (R, h, w, C).
        pyramid: list of L maps (B, H_l, W_l, C); only sizes and dtype are used.

    Returns:
        list of L gradients, (B, H_l, W_l, C).
    """
    return _split_cells(_spread_to_cells(matrix, upstream), pyramid)


def _spread_to_cells(matrix, upstream):
    transposed = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=tf.float32)
    upstream = tf.reshape(tf.cast(upstream, tf.float32), (-1, upstream.shape[-1]))
    # This copies nothing unless there are no boxes.
    upstream = tf.pad(upstream, [[0, tf.maximum(1 - tf.shape(upstream)[0], 0)], [0, 0]])
    return tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream)


def _split_cells(cells, pyramid):
    """The inverse of `generic.flatten_pyramid`, in the dtypes of the pyramid."""
    shares = tf.split(cells, [tf.size(level[..., 0]) for level in pyramid])
    return [
        tf.cast(tf.reshape(share, tf.shape(level)), level.dtype) for share, level in zip(shares, pyramid, strict=True)
    ]


class _Cells:
    """The cells that each bin reads with one point per cell: as many as its box needs.

    Args:
        pyramid: list of L maps (B, H_l, W_l, C); only the sizes are used.
        frame, images, levels, output_size: as for `matrix_of_points`.
    """

    def __init__(self, pyramid, frame, images, levels, output_size):
        heights, widths, offsets = (tf.gather(column, levels) for column in generic.map_sizes(pyramid))
        self.rows = _AxisCells(frame[:, 0], frame[:, 2], heights, output_size[0])
        self.columns = _AxisCells(frame[:, 1], frame[:, 3], widths, output_size[1])
        self.base = tf.cast(offsets, tf.int64) + tf.cast(images, tf.int64) * tf.cast(heights * widths, tf.int64)
        self.width = tf.cast(widths, tf.int64)
        self.numbers = self.rows.number[:, :, None] * self.columns.number[:, None, :]

    def matrix(self, pyramid):
        """As `matrix_of_points`: (R * h * w, cells)."""
        bins, places, of_bin = _list_cells(self.numbers)
        rows, columns = self.rows, self.columns
        along = of_bin(columns.number[:, None, :])
        row, column = places // along, places % along
        width = self.width[:, None, None]
        first = self.base[:, None, None] + rows.first[:, :, None] * width + columns.first[:, None, :]
        cells = of_bin(first) + row * of_bin(width) + column
        weights = tf.gather(rows.weights(), of_bin(rows.begin[:, :, None]) + row)
        weights *= tf.gather(columns.weights(), of_bin(columns.begin[:, None, :]) + column)
        return _to_matrix(bins, cells, weights, tf.size(self.numbers, out_type=tf.int64), pyramid)


class _AxisCells:
    """The cells that bins read along one axis: `number` from `first` on, int64 (R, bins).

    Their weights are entries `begin` to `begin + number` of `weights()`.

    Args:
        start, length: float32 (R,), cells. extent: int (R,). bins: int.
    """

    def __init__(self, start, length, extent, bins):
        self.extent = tf.cast(extent, tf.float32)[:, None]
        self.points = bilinear.adaptive_bins(start, length, bins)
        self.first, self.number = (tf.cast(each, tf.int64) for each in bilinear.cells_read(*self.points, self.extent))
        self.begin = tf.reshape(tf.cumsum(tf.reshape(self.number, [-1]), exclusive=True), tf.shape(self.number))

    def weights(self):
        """Of the cells of all bins, float32 (sum of `number`,)."""
        _, places, of_bin = _list_cells(self.number)
        points = [of_bin(each) for each in self.points]
        return bilinear.cell_weights(*points, of_bin(self.extent), tf.cast(of_bin(self.first) + places, tf.float32))


def _list_cells(numbers):
    """A list of all cells of bins that have so many.

    Args:
        numbers: int64 (R, ...), cells of each bin.

    Returns:
        int64 (N,), the bin of each cell. int64 (N,), its place among those of its bin. A function from values that
        broadcast to the shape of `numbers` to the value of each cell's bin, (N,).
    """
    counts = tf.reshape(numbers, [-1])
    bins = tf.repeat(tf.range(tf.size(counts, out_type=tf.int64)), counts)
    places = tf.range(tf.size(bins, out_type=tf.int64)) - tf.gather(tf.cumsum(counts, exclusive=True), bins)

    def of_bin(values):
        return tf.gather(tf.reshape(tf.broadcast_to(values, tf.shape(numbers)), [-1]), bins)

    return bins, places, of_bin
