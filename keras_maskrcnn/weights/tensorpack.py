"""Tensorpack's names and layout: the `.npz` files of its model zoo, and its users' own.

Kernels have Keras' layout, but the first dense layer reads channels before rows and columns. Background is the first
class of scores and boxes, masks have none. Images are BGR, so the first kernel's channels are reversed. Names are from
`examples/FasterRCNN/modeling/` and `convert_d2/convert_d2.py`.
"""

import functools
import re

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import tensorpack as recipe
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.network.backbones.resnet import BLOCKS, ResNet
from keras_maskrcnn.weights.family import Family, differences
from keras_maskrcnn.weights.states import plain_names
from keras_maskrcnn.weights.tables import Combination

LICENCE = "Apache-2.0 (tensorpack's repository; no licence of the weights alone)"
_NORM = {"gamma": "gamma", "beta": "beta", "mean/EMA": "moving_mean", "variance/EMA": "moving_variance"}
# What training keeps beside the weights: `is_training_name` in tensorpack/tfutils/varmanip.py, and the counters.
_OF_TRAINING = re.compile(
    r".*/(Momentum|Adam|Adam_1|Adagrad|Adadelta|Adadelta_1|RMSProp|RMSProp_1|AccumGrad)"
    r"|(EMA|AccumGrad|apply_gradients)/.*|.*/EMA/.*|global_step|learning_rate|beta[12]_power"
)


def recognises(state):
    """Whether a state dict has tensorpack's names."""
    return any(re.match(r"(group0/block0|fastrcnn|maskrcnn|cascade_rcnn_stage1)/", name) for name in state)


def prepare(state):
    """The tensors without the `:0` of TensorFlow's names.

    Raises:
        ValueError: two tensors get the same name.
    """
    return plain_names(state, ((r"(.*):0", r"\1"),))


# The table ---------------------------------------------------------------------------------------------------


def table(model):
    """The weights of a model beside tensorpack's tensors.

    Raises:
        ValueError: the model has parts that tensorpack's has not.
    """
    _check_parts(model)
    return [*_backbone(model.backbone), *_pyramid(model.fpn), *_rpn(model.rpn), *_box_head(model), *_masks(model)]


def _check_parts(model):
    config = model.config
    faults = [] if isinstance(model.backbone, ResNet) else [f"backbone={config.backbone!r}"]
    wanted = {"rpn_convs": 1, "box_convs": 0, "head_norm": None, "cascade_ious": ()}
    faults += [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]
    faults += [f"norm={config.norm!r}"] if config.norm not in ("frozen_batch", "batch") else []
    if [branch.name for branch in config.branches] != ["mask"]:
        faults.append(f"branches={config.branches}")
    if faults:
        raise ValueError(
            "Tensorpack's weights fit a ResNet with batch norm, one RPN convolution, dense layers in the box head and "
            f"masks. Received {', '.join(faults)}. Take MaskRCNNConfig.tensorpack."
        )


def _backbone(resnet):
    yield from _conv_norm(resnet.stem, "conv0")
    for group, blocks in enumerate(resnet.stages):
        for index, block in enumerate(blocks):
            place = f"group{group}/block{index}"
            for number, conv in enumerate(block.convs, start=1):
                yield from _conv_norm(conv, f"{place}/conv{number}")
            if block.shortcut is not None:
                yield from _conv_norm(block.shortcut, f"{place}/convshortcut")


def _pyramid(fpn):
    for level, layer in enumerate(fpn.laterals, start=2):
        yield from _plain(layer.conv, f"fpn/lateral_1x1_c{level}")
    for level, layer in enumerate(fpn.outputs, start=2):
        yield from _plain(layer.conv, f"fpn/posthoc_3x3_p{level}")


def _rpn(rpn):
    yield from _plain(rpn.convs[0].conv, "rpn/conv0")
    yield from _plain(rpn.objectness, "rpn/class")
    yield from _plain(rpn.deltas, "rpn/box")


def _box_head(model):
    head, classes = model.box_head, model.config.num_classes + 1
    for index, fc in enumerate(head.fcs):
        name = f"fastrcnn/fc{6 + index}"
        pooled = functools.partial(_channels_last, side=head.pool_size, channels=head.channels)
        yield _one(f"{name}/W", fc.kernel, change=_same if index else pooled)
        yield _one(f"{name}/b", fc.bias)
    yield from _classes(head.classes, "fastrcnn/outputs/class", classes, _background_last, "scores")
    yield from _classes(head.deltas, "fastrcnn/outputs/box", 4 * classes, _objects_boxes, "boxes")


def _masks(model):
    head = model.branch_heads()["mask"]
    for index, conv in enumerate(head.convs):
        yield from _plain(conv.conv, f"maskrcnn/fcn{index}")
    yield from _plain(head.deconvs[0], "maskrcnn/deconv")
    yield from _plain(head.logits, "maskrcnn/conv", "rows")


# Kinds of layers ---------------------------------------------------------------------------------------------


def _conv_norm(layer, name):
    stem = layer.name == "stem"
    yield _one(f"{name}/W", layer.conv.kernel, change=_reversed if stem else _same, first=stem)
    for theirs, ours in _NORM.items():
        yield _one(f"{name}/bn/{theirs}", getattr(layer.norm, ours))


def _plain(layer, name, classes=None):
    yield _one(f"{name}/W", layer.kernel, classes)
    yield _one(f"{name}/b", layer.bias, classes)


def _classes(layer, name, outputs, change, classes):
    """A layer whose outputs, the last axis of kernel and bias, are classes in another order."""
    for theirs, weight in (("W", layer.kernel), ("b", layer.bias)):
        shape = (*tuple(weight.shape)[:-1], outputs)
        yield Combination(((f"{name}/{theirs}", shape),), weight, change, classes)


def _one(name, weight, classes=None, change=None, first=False):
    parts = ((name, tuple(weight.shape)),)
    return Combination(parts, weight, change or _same, classes, first=first, reversed_channels=first)


def _same(array):
    return array


def _reversed(kernel):
    return kernel[:, :, ::-1]


def _channels_last(array, side, channels):
    return array.reshape(channels, side, side, -1).transpose(1, 2, 0, 3).reshape(array.shape)


def _background_last(array):
    return np.roll(array, -1, axis=-1)


def _objects_boxes(array):
    return array[..., 4:]


# The family --------------------------------------------------------------------------------------------------


def _left(name):
    return _OF_TRAINING.fullmatch(name) is not None


def _notes(model):
    return differences(model.config, recipe.COMMON, "tensorpack")


def read_config(state, source, name=None, overrides=()):
    """The config of the model that a file belongs to. Arguments and result as of `detectron2.read_config`.

    Raises:
        ValueError: tensors of a model with group norm, a cascade, no pyramid or another depth; sizes that do not belong
            together.
    """
    _check_kind(state)
    blocks = len([key for key in state if re.fullmatch(r"group2/block\d+/conv1/W", key)])
    depths = {BLOCKS[backbone][2]: backbone for backbone in ("resnet50", "resnet101")}
    if blocks not in depths:
        raise ValueError(
            f"Tensorpack's models have a ResNet-50 or -101. Received one with {blocks} blocks in group2, of "
            f"{len(state)} tensors. Name a whole model's file."
        )
    chosen = next(each for each, fields in recipe.CONFIGS.items() if _backbone_of(fields) == depths[blocks])
    if name is not None and recipe.config_name(name) != chosen:
        raise ValueError(
            f"The file has a {depths[blocks]}, as {chosen}. Received {argument('architecture', name)}. Leave it out."
        )
    found = _sizes(state)
    values = {**recipe.fields(chosen, found["num_classes"], overrides), **found, **dict(overrides)}
    note = "sizes of images, anchors and thresholds are not in the file: they are those of tensorpack's zoo"
    return MaskRCNNConfig(**values), (note,)


def _backbone_of(fields):
    return fields.get("backbone", recipe.ARITHMETIC["backbone"])


_OTHERS = {
    r"(group\d+/block\d+/conv\d+|conv0)/gn/gamma|fpn/gn_.*|.*/gn\d+/gamma": "group norm",
    r"cascade_rcnn_stage\d+/.*": "a cascade",
    r"fastrcnn/(class|box)/W": "no pyramid (C4)",
    r"fastrcnn/conv\d+/W": "convolutions in the box head",
}


def _check_kind(state):
    """Refuse the other models of the zoo by their first tensor."""
    for pattern, kind in _OTHERS.items():
        found = next((key for key in state if re.fullmatch(pattern, key)), None)
        if found is not None:
            raise ValueError(
                f"Of tensorpack's models {', '.join(recipe.CONFIGS)} and models like them are read. Received one with "
                f"{kind}: the tensor {found}. Convert one of these."
            )


def _sizes(state):
    """The sizes of a model, each from one tensor; the others must agree, so that a small file makes no large model."""
    shapes = {key: np.shape(array) for key, array in state.items()}
    pyramid, box, mask = (
        shapes.get(key, (0,))[axis]
        for key, axis in (("fpn/lateral_1x1_c2/W", -1), ("fastrcnn/outputs/class/W", 0), ("maskrcnn/fcn0/W", -1))
    )
    outputs = shapes.get("fastrcnn/outputs/class/W", (0, 0))
    convs = len([key for key in shapes if re.fullmatch(r"maskrcnn/fcn\d+/W", key)])
    wanted = {
        "fpn/posthoc_3x3_p2/W": (3, 3, pyramid, pyramid),
        "rpn/conv0/W": (3, 3, pyramid, pyramid),
        "fastrcnn/fc6/W": (49 * pyramid, box),
        "fastrcnn/fc7/W": (box, box),
        "fastrcnn/outputs/class/W": (box, outputs[-1]),
        "maskrcnn/fcn0/W": (3, 3, pyramid, mask),
        "maskrcnn/deconv/W": (2, 2, mask, mask),
    }
    faults = [f"{key} {shapes.get(key, 'is missing')}" for key, shape in wanted.items() if shapes.get(key) != shape]
    if faults or min(pyramid, box, mask, outputs[-1] - 1) < 1:
        raise ValueError(
            "The tensors of a Mask R-CNN must have sizes that belong together. Received "
            f"{', '.join(faults[:6]) or wanted}. The file is damaged, or of another kind of model."
        )
    sizes = {"fpn_channels": pyramid, "box_features": box, "mask_channels": mask, "mask_convs": convs}
    return {"num_classes": outputs[-1] - 1, **sizes}


FAMILY = Family(
    title="tensorpack",
    licence=LICENCE,
    recognises=recognises,
    table=table,
    prepare=prepare,
    left=_left,
    notes=_notes,
    config=read_config,
    warm=recipe.WARM,
)
