"""The gradient of a pyramid as one table of cells on JAX, for `jax.py` and `adaptive_jax.py`."""

from jax import numpy as jnp


def empty_cells(count, upstream):
    """A table of zeros (count, C), as large as the pyramid, that XLA cannot make before it has `upstream`.

    A constant it would make once, early, and copy for each RoIAlign: a third table in memory.
    """
    never = upstream.reshape(-1)[0] > jnp.inf
    return jnp.broadcast_to(never.astype("float32"), (count, upstream.shape[-1]))


def split_cells(cells, like):
    """From a table (cells, C) to the list of maps: the inverse of `generic.flatten_pyramid`."""
    result, first = [], 0
    for shape in like:
        size = shape.size // shape.shape[-1]
        result.append(cells[first : first + size].reshape(shape.shape).astype(shape.dtype))
        first += size
    return result
