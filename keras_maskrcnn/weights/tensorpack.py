"""Tensorpack's names and layout: the `.npz` files of its model zoo, and its users' own.

Kernels have Keras' layout, but the first dense layer reads channels before rows and columns. Background is the first
class of scores and boxes, masks have none. Images are BGR, so the first kernel's channels are reversed. In pyramid and
heads a convolution has a bias before group norm, too. Names are from `examples/FasterRCNN/modeling/` and
`convert_d2/convert_d2.py`.
"""

import functools
import re

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import tensorpack as recipe
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.network.backbones.resnet import BLOCKS
from keras_maskrcnn.weights.family import Family, check_kind, check_parts, differences
from keras_maskrcnn.weights.states import plain_names
from keras_maskrcnn.weights.tables import Combination

LICENCE = "Apache-2.0 (tensorpack's repository; no licence of the weights alone)"
_BATCH_NORM = {"gamma": "gamma", "beta": "beta", "mean/EMA": "moving_mean", "variance/EMA": "moving_variance"}
_GROUP_NORM = {"gamma": "gamma", "beta": "beta"}
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
    check_parts(model, _parts(model.config), _FITS, "tensorpack")
    return [*_backbone(model.backbone), *_pyramid(model.fpn), *_rpn(model.rpn), *_box_heads(model), *_masks(model)]


_FITS = (
    "Tensorpack's weights fit a ResNet with batch or group norm, one RPN convolution, box heads of two dense layers or "
    "of convolutions and one dense layer, group norm behind ReLU or none in pyramid and heads, and masks."
)


def _parts(config):
    """Fields of the config that tensorpack's names exist for, to their values."""
    grouped = "group" in (config.head_norm, config.fpn_norm)
    return {
        "norm": ("frozen_batch", "batch", "group"),
        "head_norm": (None, "group"),
        "fpn_norm": (None, "none", "group"),
        "head_norm_place": ("after_relu",) if grouped else ("before_relu", "after_relu"),
        "rpn_convs": (1,),
        "box_fcs": (len(_dense_names(config.box_convs)),),
    }


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
        yield from _conv_of_head(layer, f"fpn/lateral_1x1_c{level}", f"fpn/gn_c{level}")
    for level, layer in enumerate(fpn.outputs, start=2):
        yield from _conv_of_head(layer, f"fpn/posthoc_3x3_p{level}", f"fpn/gn_p{level}")


def _rpn(rpn):
    yield from _plain(rpn.convs[0].conv, "rpn/conv0")
    yield from _plain(rpn.objectness, "rpn/class")
    yield from _plain(rpn.deltas, "rpn/box")


def _box_heads(model):
    heads = model.box_head.stages()
    for head, (place, outputs) in zip(heads, _places(len(heads)), strict=True):
        yield from _box_head(head, place, outputs)


def _box_head(head, place, outputs):
    for index, conv in enumerate(head.convs):
        yield from _conv_of_head(conv, f"{place}/conv{index}", f"{place}/gn{index}")
    change = functools.partial(_channels_last, side=head.pool_size, channels=head.channels)
    for fc, name in zip(head.fcs, _dense_names(len(head.convs)), strict=True):
        yield _one(f"{place}/{name}/W", fc.kernel, change=change)
        yield _one(f"{place}/{name}/b", fc.bias)
        change = _same
    classes = head.num_classes + 1
    yield from _classes(head.classes, f"{outputs}/class", classes, _background_last, "scores")
    if head.class_agnostic:
        yield from _plain(head.deltas, f"{outputs}/box")
    else:
        yield from _classes(head.deltas, f"{outputs}/box", 4 * classes, _objects_boxes, "boxes")


def _places(stages):
    """The names that each box head and its last layers stand under: list of pairs."""
    if stages == 1:
        return [("fastrcnn", "fastrcnn/outputs")]
    scopes = [f"cascade_rcnn_stage{number}" for number in range(1, stages + 1)]
    return [(f"{scope}/head", f"{scope}/outputs") for scope in scopes]


def _dense_names(convs):
    """The dense layers of a box head: of `fastrcnn_2fc_head`, or of `fastrcnn_Xconv1fc_head`."""
    return ("fc",) if convs else ("fc6", "fc7")


def _masks(model):
    head = model.branch_heads()["mask"]
    for index, conv in enumerate(head.convs):
        yield from _conv_of_head(conv, f"maskrcnn/fcn{index}", f"maskrcnn/gn{index}")
    yield from _plain(head.deconvs[0], "maskrcnn/deconv")
    yield from _plain(head.logits, "maskrcnn/conv", "rows")


# Kinds of layers ---------------------------------------------------------------------------------------------


def _conv_norm(layer, name):
    stem = layer.name == "stem"
    yield _one(f"{name}/W", layer.conv.kernel, change=_reversed if stem else _same, first=stem)
    group = layer.norm_name == "group"
    for theirs, ours in (_GROUP_NORM if group else _BATCH_NORM).items():
        yield _one(f"{name}/{'gn' if group else 'bn'}/{theirs}", getattr(layer.norm, ours))


def _conv_of_head(layer, conv, norm):
    """A convolution with bias, and its group norm, which stands beside it and not in it."""
    yield from _plain(layer.conv, conv)
    if layer.norm is not None:
        for theirs, ours in _GROUP_NORM.items():
            yield _one(f"{norm}/{theirs}", getattr(layer.norm, ours))


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


_READ = f"Of tensorpack's models {', '.join(recipe.CONFIGS)} and models like them are read."
_OTHERS = {r"fastrcnn/(class|box)/W": "no pyramid (C4)"}


def read_config(state, source, name=None, overrides=()):
    """The config of the model that a file belongs to. Arguments and result as of `detectron2.read_config`.

    Trunk, norms, heads, stages and sizes follow from the tensors; the rest is that of the zoo's model with the same
    trunk, norm and stages.

    Raises:
        ValueError: tensors of a model without a pyramid or of another depth; sizes that do not belong together; the
            name of another model.
    """
    check_kind(state, _OTHERS, _READ)
    structure = _structure(state)
    found = {**structure, **_sizes(state, len(structure["cascade_ious"]) or 1)}
    chosen = _of_zoo(found)
    if name is not None and recipe.config_name(name) != chosen:
        raise ValueError(
            f"The file has a {found['backbone']}, norm={found['norm']!r} and cascade_ious={found['cascade_ious']}, as "
            f"{chosen}. Received {argument('architecture', name)}. Leave it out."
        )
    values = {**recipe.fields(chosen, found["num_classes"], overrides), **found, **dict(overrides)}
    note = f"sizes of images, anchors and thresholds are not in the file: they are those of tensorpack's {chosen}"
    return MaskRCNNConfig(**values), (note,)


def _of_zoo(found):
    """The name in the zoo of a model with the same trunk, norm and stages; else with the same norm and stages."""
    usual = {"backbone": recipe.ARITHMETIC["backbone"], "norm": "frozen_batch", "cascade_ious": ()}
    models = {name: {**usual, **fields} for name, fields in recipe.CONFIGS.items()}

    def alike(*names):
        return [each for each, fields in models.items() if all(fields[name] == found[name] for name in names)]

    return (alike("backbone", "norm", "cascade_ious") or alike("norm", "cascade_ious"))[0]


def _structure(state):
    """The fields that follow from which tensors there are."""
    blocks = _count(state, r"group2/block\d+/conv1/W")
    depths = {BLOCKS[backbone][2]: backbone for backbone in ("resnet50", "resnet101")}
    if blocks not in depths:
        raise ValueError(
            f"Tensorpack's models have a ResNet-50 or -101. Received one with {blocks} blocks in group2, of "
            f"{len(state)} tensors. Name a whole model's file."
        )
    heads = "group" if "maskrcnn/gn0/gamma" in state else None
    pyramid = "group" if "fpn/gn_c2/gamma" in state else None
    return {
        "backbone": depths[blocks],
        "norm": "group" if "conv0/gn/gamma" in state else "frozen_batch",
        "head_norm": heads,
        "fpn_norm": None if pyramid == heads else pyramid or "none",
        "head_norm_place": "after_relu" if "group" in (heads, pyramid) else "before_relu",
        "cascade_ious": recipe.CASCADE_IOUS if _count(state, r"cascade_rcnn_stage1/.*") else (),
    }


def _sizes(state, stages):
    """The sizes of a model, each from one tensor; the others must agree, so that a small file makes no large model."""
    shapes = {key: np.shape(array) for key, array in state.items()}
    places = _places(stages)
    box_convs, mask_convs = _count(shapes, rf"{places[0][0]}/conv\d+/W"), _count(shapes, r"maskrcnn/fcn\d+/W")
    scores = f"{places[0][1]}/class/W"
    pyramid, box, mask = (
        shapes.get(key, (0,))[axis]
        for key, axis in (("fpn/lateral_1x1_c2/W", -1), (scores, 0), ("maskrcnn/fcn0/W", -1))
    )
    classes = shapes.get(scores, (0, 0))[-1]
    wanted = {
        "fpn/posthoc_3x3_p2/W": (3, 3, pyramid, pyramid),
        "rpn/conv0/W": (3, 3, pyramid, pyramid),
        "maskrcnn/fcn0/W": (3, 3, pyramid, mask),
        "maskrcnn/deconv/W": (2, 2, mask, mask),
    }
    for place, outputs in places:
        wanted |= {f"{place}/conv{index}/W": (3, 3, pyramid, pyramid) for index in range(box_convs)}
        dense = {f"{place}/{name}/W": (box, box) for name in _dense_names(box_convs)}
        wanted |= {**dense, next(iter(dense)): (49 * pyramid, box), f"{outputs}/class/W": (box, classes)}
    faults = [f"{key} {shapes.get(key, 'is missing')}" for key, shape in wanted.items() if shapes.get(key) != shape]
    if faults or min(pyramid, box, mask, classes - 1) < 1:
        raise ValueError(
            "The tensors of a Mask R-CNN must have sizes that belong together. Received "
            f"{', '.join(faults[:6]) or wanted}. The file is damaged, or of another kind of model."
        )
    sizes = {"fpn_channels": pyramid, "box_features": box, "mask_channels": mask, "mask_convs": mask_convs}
    layers = {"box_convs": box_convs, "box_fcs": len(_dense_names(box_convs))}
    return {"num_classes": classes - 1, **sizes, **layers}


def _count(names, pattern):
    return len([name for name in names if re.fullmatch(pattern, name)])


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
