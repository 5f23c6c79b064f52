"""What the loaders of this folder need of a program whose weights they read."""

import dataclasses
import re

from keras_maskrcnn.network.backbones.resnet import ResNet
from keras_maskrcnn.weights.tables import load_table


def _nothing(name):
    return False


def _no_notes(model):
    return ()


@dataclasses.dataclass(frozen=True)
class Family:
    """Names and layout of one program's weights.

    Args:
        title: the program's name, for receipts. licence: of its published weights, one line.
        recognises: function of a state dict: whether it has the program's names.
        table: function of a MaskRCNN: list of `tables.Entry` and `tables.Combination`.
        prepare: function of a state dict that brings its names to one form.
        left: function of a name: whether such tensors are left out on purpose.
        notes: function of a MaskRCNN: lines for the receipt, on what of its config is not the program's.
        config: None, or a function of (state, source, name, overrides) that gives (MaskRCNNConfig, lines for the
            receipt) of the model that a file belongs to; `name` is what the user calls it, or None.
        warm: names of the config's fields that a warm start takes over.
        check: function of (state, model) that raises ValueError where a tensor that is left out contradicts the config.
    """

    title: str
    licence: str
    recognises: object
    table: object
    prepare: object
    left: object = _nothing
    notes: object = _no_notes
    config: object = None
    check: object = None
    warm: tuple = ()

    def load(self, model, state, source="state dict", heads=True, skip_mismatch=False):
        """Load a prepared state dict into a model: all tensors, or none.

        Args:
            model: MaskRCNN. state: dict of names to arrays. source: where they come from, for messages.
            heads: False keeps the model's class, box and mask predictors.
            skip_mismatch: True loads all tensors that match and skips the others.

        Returns:
            Receipt.

        Raises:
            ValueError: tensors are missing, misshapen, unknown or not finite.
        """
        if self.check is not None:
            self.check(state, model)
        receipt = load_table(self.table(model), state, source, heads, skip_mismatch, self.left)
        notes = (*receipt.notes, *self.notes(model))
        return dataclasses.replace(receipt, notes=notes, family=self.title, licence=self.licence)


def check_parts(model, allowed, fits, make):
    """Refuse a model with parts that a program's models have not, before names of tensors are compared.

    Args:
        model: MaskRCNN. Its backbone must be a ResNet, and masks its only branch.
        allowed: dict of the config's fields to the tuple of values that the program's names exist for.
        fits: one sentence: what the program's weights fit. make: name of the method of MaskRCNNConfig.

    Raises:
        ValueError: the fields that differ.
    """
    config = model.config
    faults = [] if isinstance(model.backbone, ResNet) else [f"backbone={config.backbone!r}"]
    faults += [f"{name}={value!r}" for name, value in _values(config, allowed) if value not in allowed[name]]
    if [branch.name for branch in config.branches] != ["mask"]:
        faults.append(f"branches={config.branches}")
    if faults:
        raise ValueError(f"{fits} Received {', '.join(faults)}. Take MaskRCNNConfig.{make}.")


def check_kind(state, others, read):
    """Refuse a program's other models by their first tensor.

    Args:
        state: dict of names to arrays.
        others: dict of patterns of whole names to words for the kind of model.
        read: one sentence: which of the program's models are read.

    Raises:
        ValueError: the kind of model, and its tensor.
    """
    for pattern, kind in others.items():
        found = next((key for key in state if re.fullmatch(pattern, key)), None)
        if found is not None:
            raise ValueError(f"{read} Received one with {kind}: the tensor {found}. Convert one of these.")


def _values(config, names):
    return [(name, getattr(config, name)) for name in names]


def differences(config, arithmetic, title):
    """Lines for a receipt: the fields of a config that are not a program's, so that the numbers are not either.

    Args:
        config: MaskRCNNConfig. arithmetic: dict of fields. title: the program's name.
    """
    given = dict(_values(config, arithmetic))
    parts = [f"{name}={given[name]!r} (there {value!r})" for name, value in arithmetic.items() if given[name] != value]
    if not parts:
        return ()
    return (f"the numbers are not those of {title}, because the model's config differs: {', '.join(parts)}",)
