"""Chooses which parts of a model are trained, and counts the parameters of each part.

In: a MaskRCNN. Called before `compile`, by the command line and by users.
"""

import math

from keras_maskrcnn.host.tables import text_table
from keras_maskrcnn.network.backbones import describe

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")  # of the backbone, from the image on
TRUNK = ("backbone", "fpn", "rpn", "box_head")


def parts_of(model):
    """The parts of a model that train or freeze as one: dict of name to layer, `<branch>_head` for each branch."""
    heads = {f"{name}_head": head for name, head in model.branch_heads().items()}
    return {name: getattr(model, name) for name in TRUNK} | heads


def freeze(model, parts):
    """Freeze these parts and train all others, whatever was frozen before. Call `compile` afterwards.

    Freezing a stage of the backbone also freezes the stages before it, as Detectron2's FREEZE_AT does. Frozen batch
    norm (norm="frozen_batch") always stays frozen. Trainable batch norm in frozen parts uses its moving statistics. A
    saved model does not store what is frozen, apart from the config's `trainable_layers`.

    Args:
        model: MaskRCNN.
        parts: names among "stem", "stage1" to "stage4", "backbone", "fpn", "rpn", "box_head" and "<branch>_head", such
            as "mask_head"; an empty list trains everything.

    Raises:
        ValueError: for another name, or a stage of a backbone without known stages (a subclassed keras.Model).
    """
    layers = parts_of(model)
    unknown = [part for part in parts if part not in (*STAGES, *layers)]
    if unknown:
        raise ValueError(
            f"The parts that can be frozen are {[*STAGES, *layers]}. Received: {', '.join(unknown)}. Use these names."
        )
    stages = [STAGES.index(part) + 1 for part in parts if part in STAGES]
    for part, layer in layers.items():
        layer.trainable = False  # on TensorFlow, setting the present value again does not reach the layers inside
        layer.trainable = part not in parts
    if stages and "backbone" not in parts:
        describe(model.backbone).freeze_first(max(stages))


def count_parameters(model):
    """Count the parameters of each part.

    Returns:
        dict from the part's name to (trained, all). The second number includes the statistics of batch norm.
    """
    layers = parts_of(model)
    return {name: (_size(layer.trainable_variables), _size(layer.variables)) for name, layer in layers.items()}


def format_parameters(model):
    """Format `count_parameters` as a table in plain text, with a line of totals, no newline at the end."""
    counts = count_parameters(model)
    counts["total"] = tuple(sum(numbers) for numbers in zip(*counts.values()))
    rows = [(name, f"{trained:,}", f"{everything:,}") for name, (trained, everything) in counts.items()]
    return text_table([("parameters", "trained", "all"), *rows])


def _size(variables):
    return sum(math.prod(variable.shape) for variable in variables)
