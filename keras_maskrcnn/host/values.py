"""What counts as a number in files and arguments."""

import math
import numbers


def is_number(value):
    """Whether a value is a finite real number that a float can hold: numpy's count, True and False do not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False
