"""Sample the anchors and RoIs for the losses, with a maximum share of positives (Faster R-CNN section 3.1.3).

Pure functions of uniform noise; the caller controls the seed. M candidates, S samples.
"""

from keras import ops

from keras_maskrcnn import backend


def _best(noise, eligible, count):
    """True for the `count` eligible candidates with the largest noise; count is an int or (int, int32 (B,))."""
    noise = ops.where(eligible, noise, -1.0)
    most = count if isinstance(count, int) else count[0]
    size = backend.smaller(most, backend.shape(noise)[1])
    highest, _ = ops.top_k(noise, size)
    if isinstance(count, int):
        threshold = highest[:, -1:]
        return ops.logical_and(eligible, noise >= threshold)
    each = ops.clip(count[1], 0, size)
    threshold = backend.gather_each(highest, ops.maximum(each - 1, 0)[:, None])
    return ops.logical_and(ops.logical_and(eligible, noise >= threshold), each[:, None] > 0)


def sample(noise, positive, negative, num_samples, positive_fraction):
    """Draw at most S candidates: positives up to the given share, the rest negatives.

    Args:
        noise: float32 (B, M), uniform in 0..1.
        positive, negative: bool (B, M), disjoint.
        num_samples: S.
        positive_fraction: largest share of positives.

    Returns:
        positive and negative: bool (B, M), the drawn candidates.
    """
    positive = _best(noise, positive, max(1, int(num_samples * positive_fraction)))
    drawn = ops.sum(ops.cast(positive, "int32"), axis=1)
    negative = _best(noise, negative, (num_samples, num_samples - drawn))
    return positive, negative


def order_samples(noise, positive, negative, num_samples):
    """Arrange drawn candidates in a table of fixed width: positives, then negatives, then padding.

    Args:
        noise: float32 (B, M), uniform in 0..1.
        positive, negative: bool (B, M), from `sample`.
        num_samples: S.

    Returns:
        indices int32 (B, S') of candidates, and valid bool (B, S'), S' = min(S, M).
    """
    priority = ops.where(positive, noise + 2.0, ops.where(negative, noise + 1.0, 0.0))
    highest, indices = ops.top_k(priority, backend.smaller(num_samples, backend.shape(noise)[1]))
    return ops.cast(indices, "int32"), highest >= 1.0
