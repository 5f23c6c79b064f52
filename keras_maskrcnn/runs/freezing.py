"""Which parts of a model are trained: freezing by stage, and a count of parameters that shows it.

Comes in: a MaskRCNN. Called before `compile`, by the command line and by users.
"""

import math

from keras_maskrcnn.network.backbones import describe

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")  # of the backbone, from the image on
PARTS = ("backbone", "fpn", "rpn", "box_head", "mask_head")


def freeze(model, parts):
    """Train everything but these parts, whatever was frozen before; call `compile` afterwards.

    A backbone stage takes the ones before it along, as Detectron2's FREEZE_AT does: gradients would pass through it
    for nothing. Frozen batch norm (norm="frozen_batch") stays frozen in any case, and trainable batch norm in frozen
    parts uses its moving statistics. A saved model does not remember this but for the config's `trainable_layers`.

    Args:
        model: MaskRCNN.
        parts: names among "stem", "stage1" to "stage4", "backbone", "fpn", "rpn", "box_head", "mask_head"; none
            thaws everything.

    Raises:
        ValueError: for another name, or a stage of a backbone without known stages (a subclassed keras.Model).
    """
    unknown = [part for part in parts if part not in (*STAGES, *PARTS)]
    if unknown:
        raise ValueError(f"What can be frozen is {[*STAGES, *PARTS]}. Received: {', '.join(unknown)}.")
    stages = [STAGES.index(part) + 1 for part in parts if part in STAGES]
    for part in PARTS:
        layer = getattr(model, part)
        layer.trainable = False  # first: on TensorFlow, setting what is set already does not reach the layers inside
        layer.trainable = part not in parts
    if stages and "backbone" not in parts:
        describe(model.backbone).freeze_first(max(stages))


def count_parameters(model):
    """How many numbers each part holds, and how many of them training changes.

    Returns:
        dict from the part's name to (trained, all). The statistics of batch norm count among all.
    """
    parts = {name: getattr(model, name) for name in PARTS}
    return {name: (_size(part.trainable_variables), _size(part.variables)) for name, part in parts.items()}


def format_parameters(model):
    """`count_parameters` as a table for a terminal, with a line of totals, no newline at the end."""
    rows = list(count_parameters(model).items())
    rows.append(("together", tuple(sum(numbers) for numbers in zip(*(row[1] for row in rows)))))
    lines = [f"{'parameters':<12}{'trained':>14}{'all':>14}"]
    return "\n".join(lines + [f"{name:<12}{trained:>14,}{everything:>14,}" for name, (trained, everything) in rows])


def _size(variables):
    return sum(math.prod(variable.shape) for variable in variables)
