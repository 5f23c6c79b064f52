"""Bicubic interpolation along one axis, and the place of the maximum of maps that are resized by it.

The kernel is Keys' (1981) with a = -0.75: torch's `interpolate(mode="bicubic", align_corners=False)`. It is separable,
so each axis is a matrix product. Coordinates are in cells: the centre of cell m is at m. Beyond the map its first and
last cells repeat. Called by `branches/keypoint_head.py`.

Resized maps of all boxes at once need gigabytes, and boxes have different sizes. So `resized_peaks` looks twice: at
four points of each of the map's cells, then at all samples near the best of these. Boxes of up to four samples a cell
are seen whole at the first look.
"""

from keras import ops

SHARPNESS = -0.75  # Keys' parameter a
POINTS = 4  # of a cell at the first look, on each axis
CANDIDATES = 8  # squares that are looked at again: of white noise, the hardest map, the peak was never below the sixth


def point_weights(points, cells):
    """The weight of each cell of a map at some points.

    Args:
        points: float (..., S), cells. cells: int, M.

    Returns:
        float32 (..., S, M). Rows sum to 1.
    """
    a, first = SHARPNESS, ops.floor(points)
    t = points - first
    taps = (
        ((a * t - 2 * a) * t + a) * t,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((-(a + 2) * t + (2 * a + 3)) * t - a) * t,
        (a - a * t) * t * t,
    )
    numbers, total = ops.arange(cells, dtype="float32"), 0.0
    for k, weight in enumerate(taps):
        cell = ops.clip(first + (k - 1.0), 0.0, cells - 1.0)
        total = total + weight[..., None] * ops.cast(ops.equal(cell[..., None], numbers), "float32")
    return total


def sample_points(index, length, cells):
    """Where the samples of a resized axis lie: whole numbers (...) and the axis' samples -> float (...), cells."""
    return (index + 0.5) * (cells / length) - 0.5


def resized_peaks(maps, heights, widths, longest):
    """The largest value of maps that are resized to the sizes of their boxes, and its place.

    Args:
        maps: float32 (R, K, M, M).
        heights, widths: float32 (R,), whole numbers of at least 1: the size that each box's maps are resized to.
        longest: int or int32 scalar, at least the largest of them.

    Returns:
        (values float32 (R, K), rows float32 (R, K), columns float32 (R, K)): the whole numbers of the sample.
    """
    cells = maps.shape[-1]
    sizes = [side[:, None] for side in (heights, widths)]
    squares = _first_look(maps, *(point_weights(_first_points(side, cells), cells) for side in sizes))
    own_rows, own_columns = (_has_samples(side, cells) for side in sizes)
    own = ops.logical_and(own_rows[:, None, :, None], own_columns[:, None, None, :])
    squares = ops.where(own, squares, -3e38)  # the last sample again: copies would take the others' places
    _, chosen = ops.top_k(ops.reshape(squares, (*ops.shape(maps)[:2], (cells + 1) ** 2)), CANDIDATES)
    # A cell has at most longest / cells samples, rounded up; one more on each side is safe against rounding.
    steps = ops.arange(longest // cells + POINTS, dtype="float32")
    best = None
    for k in range(CANDIDATES):
        starts = (ops.cast(chosen[..., k] // (cells + 1), "float32"), ops.cast(chosen[..., k] % (cells + 1), "float32"))
        indices = [_samples(start, side, steps, cells) for start, side in zip(starts, sizes)]
        found = _second_look(maps, indices, sizes)
        best = found if best is None else [ops.where(found[0] > best[0], new, old) for new, old in zip(found, best)]
    return tuple(best)


def _first_points(length, cells):
    """Points of the first look along one axis: float (R, 1), samples -> (R, POINTS * (cells + 1)), cells.

    They are the samples themselves where there are no more of them, the last one repeated; else those in the middle of
    equal parts of each cell.
    """
    count = POINTS * (cells + 1)
    numbers = ops.arange(count, dtype="float32")[None]
    samples = sample_points(ops.minimum(numbers, length - 1.0), length, cells)
    return ops.where(length <= count, samples, (numbers + 0.5) / POINTS - 1.0)


def _has_samples(length, cells):
    """Which squares of the first look begin with a sample of their own, along one axis: (R, 1) -> (R, cells + 1)."""
    starts = ops.arange(cells + 1, dtype="float32") * POINTS
    return ops.logical_or(starts < length, length > POINTS * (cells + 1))


def _first_look(maps, rows, columns):
    """The largest value in each square of POINTS x POINTS points: float32 (R, K, cells + 1, cells + 1)."""
    cells = maps.shape[-1]
    rows, columns = (ops.reshape(each, (-1, cells + 1, POINTS, cells)) for each in (rows, columns))
    best = None
    for i in range(POINTS):  # one at a time: never more values than the maps have
        part = ops.matmul(rows[:, None, :, i], maps)
        for j in range(POINTS):
            values = ops.matmul(part, ops.swapaxes(columns[:, None, :, j], -1, -2))
            best = values if best is None else ops.maximum(best, values)
    return best


def _samples(start, length, steps, cells):
    """Samples of one axis in a square of the first look, and a few beside it: (R, K), (R, 1), (S,) -> (R, K, S)."""
    first = ops.where(length <= POINTS * (cells + 1), start * POINTS, ops.floor((start - 0.5) * (length / cells) - 0.5))
    return ops.clip(first[..., None] + steps, 0.0, length[..., None] - 1.0)


def _second_look(maps, indices, sizes):
    """[value, row, column] of the largest of some samples, float32 (R, K) each. indices: rows and columns (R, K, S)."""
    cells = maps.shape[-1]
    rows, columns = (
        point_weights(sample_points(index, side[..., None], cells), cells) for index, side in zip(indices, sizes)
    )
    values = ops.matmul(ops.matmul(rows, maps), ops.swapaxes(columns, -1, -2))
    # Top-k, because tf2onnx has no argmax of Keras'.
    (best, row), (_, column) = (ops.top_k(ops.max(values, axis=axis), 1) for axis in (-1, -2))
    return [best[..., 0], *(_taken(index, place) for index, place in zip(indices, (row, column)))]


def _taken(index, place):
    """The entry of (R, K, S) at a place (R, K, 1)."""
    numbers = ops.arange(ops.shape(index)[-1], dtype="int32")
    return ops.sum(ops.where(ops.equal(numbers, ops.cast(place, "int32")), index, 0.0), axis=-1)
