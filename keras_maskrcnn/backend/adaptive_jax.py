"""RoIAlign with one point per cell on JAX: a bin is a weighted sum of the cells that its points read.

Their number depends on the box, while shapes are fixed. So boxes are sorted by it and computed in parts; a part takes
one step for each cell of its largest bin. Called by `jax.py`.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from keras_maskrcnn.backend import generic
from keras_maskrcnn.backend.cells_jax import empty_cells, split_cells
from keras_maskrcnn.geometry import bilinear

PART = 32  # boxes computed together
TILE = 32  # cells of a row of a map that the gradient on CPUs writes together


class Axis(NamedTuple):
    """The bins of R boxes along one axis, as from `bilinear.adaptive_bins` and `bilinear.cells_read`."""

    bin_start: jax.Array  # (R, bins)
    step: jax.Array  # (R, 1)
    count: jax.Array  # (R, 1)
    extent: jax.Array  # float (R, 1), cells of the map
    first: jax.Array  # (R, bins)
    number: jax.Array  # (R, bins)

    def weights(self, cells):
        """The weights of cells in the bins, both (..., bins)."""
        return bilinear.cell_weights(self.bin_start, self.step, self.count, self.extent, cells)


class Boxes(NamedTuple):
    """R boxes: the place of the first cell of each one's map in the flat pyramid, the map's width, and both axes."""

    base: jax.Array  # int32 (R,)
    width: jax.Array  # int32 (R,)
    y: Axis
    x: Axis


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def crop(bins, like, pyramid, frame, images, levels):
    """Average one point per cell of each bin.

    Args:
        bins: (h, w).
        like: shapes and dtypes of the pyramid.
        pyramid: list of L feature maps, float (B, H_l, W_l, C).
        frame: y, x, height, width as from `generic.box_frames`. Not differentiated.
        images: int32 (R,), the image of each box. levels: int32 (R,), the map of each box.

    Returns:
        float32 (R, h, w, C).
    """
    shape = (*bins, pyramid[0].shape[-1])
    if images.shape[0] == 0:
        return jnp.zeros((0, *shape), "float32")
    cells = generic.flatten_pyramid(pyramid)
    order, parts = _sorted_parts(_boxes(bins, like, frame, images, levels))

    def crop_part(part):
        def add(step, sums):
            places, weights = _cells_of_step(part, step)
            return sums + weights[..., None] * cells[places].astype("float32")

        return lax.fori_loop(0, _num_steps(part), add, jnp.zeros((PART, *shape), "float32"))

    crops = lax.map(crop_part, parts)
    crops = crops.reshape(crops.shape[0] * PART, *shape)
    return crops[jnp.argsort(order)]


def _crop_forward(bins, like, pyramid, frame, images, levels):
    return crop(bins, like, pyramid, frame, images, levels), (frame, images, levels)


def _crop_backward(bins, like, boxes, upstream):
    if upstream.shape[0] == 0:
        return [jnp.zeros(shape.shape, shape.dtype) for shape in like], None, None, None
    by_rows, by_scatter = (functools.partial(spread, bins, like) for spread in (_spread_by_rows, _spread_by_scatter))
    pyramid = lax.platform_dependent(boxes, upstream, cpu=by_rows, default=by_scatter)
    return pyramid, None, None, None


crop.defvjp(_crop_forward, _crop_backward)


def _boxes(bins, like, frame, images, levels):
    y, x, height, width = frame
    heights, widths, offsets = (size[levels] for size in generic.map_sizes(like))
    base = offsets + images * heights * widths
    return Boxes(base, widths, _axis(y, height, bins[0], heights), _axis(x, width, bins[1], widths))


def _axis(start, length, num_bins, extent):
    extent = extent.astype("float32")[:, None]
    points = bilinear.adaptive_bins(start, length, num_bins)
    return Axis(*points, extent, *bilinear.cells_read(*points, extent))


def _num_steps(part):
    """Steps that a part takes: rows times columns of cells in its largest bin."""
    return part.y.number.max().astype("int32") * part.x.number.max().astype("int32")


def _sorted_parts(boxes):
    """Boxes of similar numbers of cells together.

    Returns:
        order: int32 (R,), the boxes by ascending number. parts: Boxes of arrays (parts, boxes in a part, ...), the last
        ones of no cells.
    """
    count = boxes.base.shape[0]
    num_parts = (count + PART - 1) // PART  # `count` may be a symbol, while a model is built
    order = jnp.argsort(boxes.y.number.max(axis=1) * boxes.x.number.max(axis=1))
    padded = _pad_parts(order, num_parts)
    real = (jnp.arange(num_parts * PART) < count)[:, None]
    rows = jax.tree.map(lambda column: column[padded], boxes)
    y, x = (axis._replace(number=axis.number * real) for axis in (rows.y, rows.x))
    parts = jax.tree.map(lambda column: column.reshape(num_parts, PART, *column.shape[1:]), rows._replace(y=y, x=x))
    return order, parts


def _pad_parts(rows, num_parts):
    """Rows (R, ...) and as many zeros after them as make whole parts."""
    missing = jnp.zeros((num_parts * PART - rows.shape[0], *rows.shape[1:]), rows.dtype)
    return jnp.concatenate([rows, missing])


def _cells_of_step(part, step):
    """The cell of each bin in one step: its place in the flat pyramid, int32 (P, h, w), and its weight, float32."""
    columns = jnp.maximum(part.x.number.max().astype("int32"), 1)
    sides = []
    for axis, number in ((part.y, step // columns), (part.x, step % columns)):
        cells = axis.first + number
        weights = jnp.where(number < axis.number, axis.weights(cells), 0.0)
        sides.append((jnp.minimum(cells, axis.extent - 1).astype("int32"), weights))
    (rows, row_weights), (columns, column_weights) = sides
    places = (part.base[:, None] + rows * part.width[:, None])[:, :, None] + columns[:, None, :]
    return places, row_weights[:, :, None] * column_weights[:, None, :]


def _spread_by_scatter(bins, like, boxes, upstream):
    """Add the gradients of the bins to the cells that they read, step by step; parallel on accelerators.

    Args:
        bins: (h, w). like: shapes and dtypes of the L maps (B, H_l, W_l, C).
        boxes: frame, images and levels, as for `crop`.
        upstream: float32 (R, h, w, C).

    Returns:
        list of L gradients, (B, H_l, W_l, C).
    """
    channels = upstream.shape[-1]
    order, parts = _sorted_parts(_boxes(bins, like, *boxes))
    num_parts = parts.base.shape[0]
    shares = _pad_parts(upstream[order], num_parts).reshape(num_parts, PART, *bins, channels)

    def add_part(number, cells):
        part, share = jax.tree.map(lambda column: column[number], (parts, shares))

        def add(step, cells):
            places, weights = _cells_of_step(part, step)
            values = (weights[..., None] * share).reshape(-1, channels)
            return cells.at[places.reshape(-1)].add(values, mode="promise_in_bounds")

        return lax.fori_loop(0, _num_steps(part), add, cells)

    cells = empty_cells(sum(shape.size for shape in like) // channels, upstream)
    return split_cells(lax.fori_loop(0, num_parts, add_part, cells), like)


def _spread_by_rows(bins, like, boxes, upstream):
    """The same, box after box and row after row of its map, in place: on CPUs XLA writes a scatter cell by cell."""
    channels = upstream.shape[-1]
    boxes = _boxes(bins, like, *boxes)

    def add_box(number, cells):
        box, share = jax.tree.map(lambda column: column[number], (boxes, upstream))
        (top, bottom), (left, right) = (_span(axis) for axis in (box.y, box.x))

        def add_tile(tile, cells):
            column = left + tile * TILE
            weights = box.x.weights((column + jnp.arange(TILE))[:, None].astype("float32"))

            def add_row(row, cells):
                values = weights @ jnp.tensordot(box.y.weights(row.astype("float32")), share, 1)
                start = (box.base + row * box.width + column, 0)
                before = lax.dynamic_slice(cells, start, (TILE, channels))
                return lax.dynamic_update_slice(cells, before + values, start)

            return lax.fori_loop(top, bottom, add_row, cells)

        return lax.fori_loop(0, (right - left + TILE - 1) // TILE, add_tile, cells)

    # A tile may end after the last cell of all, where its weights are 0.
    cells = empty_cells(sum(shape.size for shape in like) // channels + TILE, upstream)
    return split_cells(lax.fori_loop(0, upstream.shape[0], add_box, cells), like)


def _span(axis):
    """The first cell that any bin of a box reads, and the end, int32."""
    reads = axis.number > 0
    first = jnp.min(jnp.where(reads, axis.first, axis.extent))
    end = jnp.max(jnp.where(reads, axis.first + axis.number, first))
    return first.astype("int32"), end.astype("int32")
