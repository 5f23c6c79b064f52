"""What the numbers of a weight must be, whatever file they come from. Called by the loaders of this folder."""

import numpy as np

from keras_maskrcnn.weights.limits import WeightFileError

_NUMBERS = "fiub"


def check_numbers(source, name, array, is_variance=False):
    """Check an array before it becomes a weight.

    Args:
        source: where it comes from, for the message. name: its name there.
        array: numpy array.
        is_variance: a moving variance, which is never negative.

    Returns:
        The array, or its float32 copy if it has another dtype.

    Raises:
        WeightFileError: it holds something else than finite float32 numbers.
    """
    if array.dtype.kind not in _NUMBERS:
        raise WeightFileError(
            f"Weights must be arrays of numbers. Received {name} of {source}, whose dtype is {array.dtype}. "
            "Save the file again from the model that was trained."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise WeightFileError(
            f"Weights must be finite in float32. Received {name} of {source}, where {count:,} of {array.size:,} "
            "numbers are NaN, infinite or too large. The training diverged, or the file is damaged: take an earlier "
            "checkpoint, or copy it again."
        )
    if is_variance and (array < 0).any():
        raise WeightFileError(
            f"A moving variance must be at least 0. Received {name} of {source}, whose least is {array.min()}. "
            "The file is damaged: copy it again."
        )
    return array
