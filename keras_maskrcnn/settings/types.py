"""The types of config fields: what their annotations say, and numbers are finite."""

import dataclasses
import numbers
import typing

from keras_maskrcnn.host.values import is_number

_MOST = 2**31 - 1  # of whole numbers: sizes and counts become 32-bit integers
_TYPE_NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False", tuple: "a sequence"}
_ENTRIES = {  # field of several entries -> the type of each
    "class_names": str,
    "category_ids": int,
    "pixel_mean": float,
    "pixel_std": float,
    "anchor_sizes": float,
    "anchor_ratios": float,
    "rpn_box_weights": float,
    "box_weights": float,
    "cascade_ious": float,
    "class_thresholds": float,
    "calibration": tuple,
}


def _as_tuples(value):
    """Nested lists as nested tuples."""
    return tuple(_as_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def as_lists(value):
    """Nested tuples as nested lists, which JSON and Keras keep as they are."""
    return [as_lists(each) for each in value] if isinstance(value, list | tuple) else value


def normalized(field, value):
    """A field's value as the config keeps it: lists become tuples, and 5.0 becomes 5 where no fractions are allowed."""
    if isinstance(value, list | tuple):
        return _as_tuples(value) if field.name == "calibration" else tuple(value)
    if isinstance(value, float) and value.is_integer() and float not in _types_of(field):
        return int(value)
    return value


def _types_of(field):
    """The types that a field's annotation allows, without None."""
    return tuple(kind for kind in typing.get_args(field.type) or (field.type,) if kind is not type(None))


def _is_a(value, kind):
    """Whether a value is of a type: numpy's numbers count as numbers, True and False do not."""
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(value) <= _MOST
    if kind is float:
        return is_number(value)
    return isinstance(value, kind)


def check_types(config):
    """Every field has a value of its annotation's type; numbers are finite."""
    for field in dataclasses.fields(config):
        value, kinds = getattr(config, field.name), _types_of(field)
        given = field.default is None and value is None or any(_is_a(value, kind) for kind in kinds)
        entry = _ENTRIES.get(field.name)
        if given and (value is None or entry is None or all(_is_a(each, entry) for each in value)):
            continue
        wanted = _TYPE_NAMES[kinds[0]] if entry is None else f"a sequence, each entry {_TYPE_NAMES[entry]}"
        default = "" if field.default is dataclasses.MISSING else f" The default is {field.default!r}."
        raise ValueError(f"{field.name} must be {wanted}. Received: {repr(value)[:200]}. Correct it.{default}")
