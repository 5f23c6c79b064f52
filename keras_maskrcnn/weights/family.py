"""What the loaders of this folder need of a program whose weights they read."""

import dataclasses

from keras_maskrcnn.weights.tables import load_table


def _nothing(name):
    return False


def _same(state):
    return state


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
    prepare: object = _same
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


def differences(config, arithmetic, title):
    """Lines for a receipt: the fields of a config that are not a program's, so that the numbers are not either.

    Args:
        config: MaskRCNNConfig. arithmetic: dict of fields. title: the program's name.
    """
    given = {name: getattr(config, name) for name in arithmetic}
    parts = [f"{name}={given[name]!r} (there {value!r})" for name, value in arithmetic.items() if given[name] != value]
    if not parts:
        return ()
    return (f"the numbers are not those of {title}, because the model's config differs: {', '.join(parts)}",)
