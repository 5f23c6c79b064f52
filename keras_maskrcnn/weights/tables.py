"""A table of a model's weights beside the tensors of a file, and the one loader that works through it.

A family gives a table: for each weight of a model the names and shapes of the tensors that make it, in the family's own
layout. `load_table` takes every tensor or none, and names what is missing, misshapen or unknown as the file does.
"""

import dataclasses
import re

import numpy as np

from keras_maskrcnn.weights.inflation import inflate, inflates, note
from keras_maskrcnn.weights.receipt import Receipt, check_account
from keras_maskrcnn.weights.values import check_numbers

COUNTER = "num_batches_tracked"  # counter of torch's batch norm; unused here, because momentum is constant
_VARIANCE = re.compile(r"(running_var|moving_variance(:0)?|variance/EMA)$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One weight and the tensor of PyTorch's layout that it comes from.

    Args:
        name: of the tensor.
        weight: the Keras variable; None for a counter, which has no counterpart.
        layout: "conv" (of one or two axes), "dense", "flat" (dense on flattened (rows, columns, channels)) or "vector".
        pooled: rows, columns and channels before flattening, for the "flat" layout.
        classes: None, or "scores", "boxes", "rows": the tensor's rows are classes; or "outputs": of a last layer whose
            outputs are no classes, but differ between datasets.
        background: where the tensor has background: "first", in every table of classes (torchvision), or "last", in
            that of the scores alone (as here: Detectron2, MMDetection).
        first: whether it is the kernel that reads the image. reversed_channels: whether it reads BGR.
    """

    name: str
    weight: object = None
    layout: str = "vector"
    pooled: tuple = ()
    classes: str | None = None
    background: str = "first"
    first: bool = False
    reversed_channels: bool = False
    input_axis = 1

    @property
    def shape(self):
        """Shape of the tensor."""
        if self.weight is None:
            return ()
        return to_torch(np.empty(tuple(self.weight.shape), np.bool_), self).shape

    @property
    def parts(self):
        """The tensors that the weight is made of: pairs (name, shape)."""
        return ((self.name, self.shape),)

    def value(self, array):
        """The weight's value from its tensor."""
        return from_torch(array, self)


@dataclasses.dataclass(frozen=True)
class Combination:
    """One weight that is computed from several tensors.

    Args:
        parts: pairs (name, shape), each with its own shape as in the file.
        weight: the Keras variable.
        combine: function of the tensors, float32 arrays, that gives the weight's value.
        classes: None, or what the rows are, as for `Entry`.
        first: whether it is the kernel that reads the image. reversed_channels: whether the tensor reads BGR; `combine`
            turns it.
    """

    parts: tuple
    weight: object
    combine: object
    classes: str | None = None
    first: bool = False
    reversed_channels: bool = False
    input_axis = 2

    def value(self, *arrays):
        """The weight's value from its tensors."""
        return self.combine(*arrays)


# Layouts -----------------------------------------------------------------------------------------------------


def to_torch(array, entry):
    """Convert an array to the tensor's layout. Background rows of boxes and masks become zeros.

    Args:
        array: has the shape of `entry.weight`. entry: Entry.

    Returns:
        Array: convolutions (out, in, h, w) or (out, in, h), deconvolutions (in, out, h, w), dense (out, in).
    """
    if entry.layout == "conv":
        array = array.transpose(-1, -2, *range(array.ndim - 2))
    elif entry.layout == "flat":
        array = array.reshape(*entry.pooled, -1).transpose(3, 2, 0, 1)
        array = array.reshape(len(array), -1)
    elif entry.layout == "dense":
        array = array.T
    if entry.reversed_channels:
        array = array[:, ::-1]
    if entry.background == "last" or entry.classes in (None, "outputs"):
        return array
    if entry.classes == "scores":
        return np.roll(array, 1, axis=0)
    background = np.zeros((rows_a_class(entry), *array.shape[1:]), array.dtype)
    return np.concatenate([background, array])


def from_torch(array, entry):
    """The inverse of `to_torch`. Drops the background rows of boxes and masks."""
    if entry.classes not in (None, "outputs") and entry.background == "first":
        array = np.roll(array, -1, axis=0) if entry.classes == "scores" else array[rows_a_class(entry) :]
    if entry.reversed_channels:
        array = array[:, ::-1]
    if entry.layout == "conv":
        return array.transpose(*range(2, array.ndim), 1, 0)
    if entry.layout == "flat":
        rows, columns, channels = entry.pooled
        array = array.reshape(len(array), channels, rows, columns).transpose(2, 3, 1, 0)
        return array.reshape(-1, array.shape[-1])
    return array.T if entry.layout == "dense" else array


def rows_a_class(entry):
    """Rows of each class in a tensor whose rows are classes."""
    return 4 if entry.classes == "boxes" else 1


# Loading -----------------------------------------------------------------------------------------------------


def load_table(table, state, source, heads=True, skip_mismatch=False, left=lambda name: False, fit=None):
    """Assign all weights of a table from a state dict, or none if something does not fit.

    Args:
        table: list of Entry and Combination.
        state: dict of names to arrays.
        source: where the tensors come from, for messages.
        heads: False keeps the weights of last layers, whose rows are classes or other outputs.
        skip_mismatch: True loads all tensors that match and skips the others.
        left: function of a name: whether the family leaves such tensors out on purpose.
        fit: None, or a function of (array, entry) that selects rows before shapes are compared.

    Returns:
        Receipt.

    Raises:
        ValueError: tensors are missing, have another shape, are unknown, or hold numbers that are not finite.
    """
    asked = [entry for entry in table if heads or entry.classes is None]
    problems, notes, found = {"missing": [], "shape": [], "unknown": []}, [], []
    for entry in asked:
        arrays = _tensors(entry, state, fit, problems, notes)
        if arrays is not None and entry.weight is not None:
            found.append((entry, arrays))
    wanted, named = ({name for entry in entries for name, _ in entry.parts} for entries in (asked, table))
    left_over = tuple((name, np.shape(array)) for name, array in state.items() if name not in wanted)
    for name, shape in left_over:
        if name not in named and not name.endswith(COUNTER) and not left(name):
            problems["unknown"].append(f"{name} {shape}")
    problems = {kind: list(dict.fromkeys(lines)) for kind, lines in problems.items()}
    skipped = check_account(source, problems, skip_mismatch)
    _assign(source, found)
    used = {name: np.shape(state[name]) for entry, _ in found for name, _ in entry.parts}
    missing = dict(part for entry in table if entry.weight is not None for part in entry.parts if part[0] not in used)
    return Receipt(source, tuple(used.items()), left_over, tuple(missing.items()), skipped, tuple(notes))


def _tensors(entry, state, fit, problems, notes):
    """The tensors of one entry, or None where one is missing or misshapen; adds to problems and notes."""
    arrays = []
    for name, shape in entry.parts:
        if name not in state:
            problems["missing"] += [f"{name} {tuple(shape)}"] if entry.weight is not None else []
            continue
        array = np.asarray(state[name])
        array = array if fit is None else fit(array, entry)
        if entry.first and inflates(array.shape, shape, entry.input_axis):
            array = _inflated(array, entry, shape[entry.input_axis])
            notes.append(note(name, shape[entry.input_axis]))
        if array.shape != tuple(shape):
            problems["shape"].append(f"{name}: {np.shape(state[name])}; the model has {tuple(shape)}")
            continue
        arrays.append(array)
    return arrays if len(arrays) == len(entry.parts) else None


def _inflated(kernel, entry, channels):
    """A kernel of RGB, or of BGR, for images of so many channels, in the same order."""
    axis = entry.input_axis
    if not entry.reversed_channels:
        return inflate(kernel, channels, axis)
    return np.flip(inflate(np.flip(kernel, axis), channels, axis), axis)


def _assign(source, found):
    """Assign all weights, or none if a tensor holds something else than finite numbers."""
    checked = []
    for entry, arrays in found:
        names = [name for name, _ in entry.parts]
        arrays = [
            check_numbers(source, name, array, bool(_VARIANCE.search(name)))
            for name, array in zip(names, arrays, strict=True)
        ]
        checked.append((entry.weight, entry.value(*arrays)))
    for weight, value in checked:
        weight.assign(np.ascontiguousarray(value, np.float32))
