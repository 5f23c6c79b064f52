"""Matterport's names and layout: the `.h5` files of matterport/Mask_RCNN, its users and its forks for TensorFlow 2.

Kernels have Keras' layout. Background comes first, boxes are (dy, dx, dh, dw), the RPN has one logit each for
background and object, and convolutions before a batch norm have a bias: it moves into the norm's mean. The batch norms
of the two dense layers are multiplied into them. Names are those of `mrcnn/model.py`.
"""

import re
import string

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import matterport as recipe
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.network.backbones.resnet import BLOCKS
from keras_maskrcnn.weights.family import Family, check_parts, differences
from keras_maskrcnn.weights.states import plain_names
from keras_maskrcnn.weights.tables import Combination

LICENCE = "MIT (matterport/Mask_RCNN)"
NESTED = "rpn_model"  # a model inside the model, whose layers lie in one group
EPSILON = recipe.ARITHMETIC["norm_epsilon"]
_XY = [1, 0, 3, 2]  # (dy, dx, dh, dw) <-> (dx, dy, dw, dh)
_NESTED_LAYERS = ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_NORMS = ("frozen_batch", "batch", "none", None)
_PARTS = {  # field of the config -> its values
    "rpn_convs": (1,),
    "box_convs": (0,),
    "box_fcs": (2,),
    "mask_convs": (4,),
    "cascade_ious": ((),),
    **dict.fromkeys(("norm", "head_norm", "fpn_norm"), _NORMS),
}
_FITS = (
    "Matterport's weights fit a ResNet with batch norm or none, one RPN convolution, one box head of two dense layers "
    "and four mask convolutions."
)


def recognises(state):
    """Whether a state dict has matterport's names."""
    return any(name.split("/")[0] in ("mrcnn_class_conv1", "mrcnn_bbox_fc", NESTED, "fpn_c5p5") for name in state)


def prepare(state):
    """The tensors under `layer/layer/weight:0`, whatever the fork calls what lies between layer and weight.

    Raises:
        ValueError: two tensors get the same name.
    """
    prepared, origin = {}, {}
    for path, array in plain_names(state).items():
        name = _full_name(path)
        if name in prepared:
            raise ValueError(
                f"Every weight of a layer must be there once. Received {name} twice, as {origin[name]} and as {path}. "
                "Keep one of the two."
            )
        prepared[name], origin[name] = array, path
    return prepared


def _full_name(path):
    *groups, weight = path.split("/")
    weight = weight.removesuffix(":0")
    if not groups:
        return path
    if groups[0] != NESTED:
        return f"{groups[0]}/{groups[0]}/{weight}:0"
    return f"{NESTED}/{re.sub(r'_[0-9]+$', '', groups[-1])}/{weight}:0"


def _path(layer, weight):
    return f"{NESTED if layer in _NESTED_LAYERS else layer}/{layer}/{weight}:0"


# The table ---------------------------------------------------------------------------------------------------


def table(model):
    """The weights of a model beside matterport's tensors.

    Raises:
        ValueError: the model has parts that matterport's has not.
    """
    check_parts(model, _PARTS, _FITS, "matterport")
    return [*_backbone(model.backbone), *_pyramid(model.fpn), *_rpn(model.rpn), *_box_head(model), *_masks(model)]


def _backbone(resnet):
    yield from _conv_norm(resnet.stem, "conv1", "bn_conv1")
    for stage, blocks in enumerate(resnet.stages, start=2):
        for letter, block in zip(string.ascii_lowercase, blocks):
            for branch, conv in zip("abc", block.convs):
                place = f"{stage}{letter}_branch2{branch}"
                yield from _conv_norm(conv, f"res{place}", f"bn{place}")
            if block.shortcut is not None:
                place = f"{stage}{letter}_branch1"
                yield from _conv_norm(block.shortcut, f"res{place}", f"bn{place}")


def _pyramid(fpn):
    for level, layer in enumerate(fpn.laterals, start=2):
        yield from _plain(layer.conv, f"fpn_c{level}p{level}")
    for level, layer in enumerate(fpn.outputs, start=2):
        yield from _plain(layer.conv, f"fpn_p{level}")


def _rpn(rpn):
    yield from _plain(rpn.convs[0].conv, "rpn_conv_shared")
    yield from _changed(rpn.objectness, "rpn_class_raw", 2 * rpn.num_anchors, _object_less_background)
    yield from _changed(rpn.deltas, "rpn_bbox_pred", 4 * rpn.num_anchors, _swap_axes)


def _box_head(model):
    head, classes = model.box_head, model.config.num_classes + 1
    shapes = (head.pool_size, head.pool_size, head.channels), (1, 1, head.features)
    for number, (fc, shape) in enumerate(zip(head.fcs, shapes, strict=True), start=1):
        names = f"mrcnn_class_conv{number}", f"mrcnn_class_bn{number}"
        yield from _folded(fc, *names, (*shape, head.features), fc.kernel.shape)
    yield from _changed(head.classes, "mrcnn_class_logits", classes, _background_last, "scores")
    yield from _changed(head.deltas, "mrcnn_bbox_fc", 4 * classes, _objects_boxes, "boxes")


def _masks(model):
    head = model.branch_heads()["mask"]
    for number, conv in enumerate(head.convs, start=1):
        yield from _conv_norm(conv, f"mrcnn_mask_conv{number}", f"mrcnn_mask_bn{number}")
    yield from _plain(head.deconvs[0], "mrcnn_mask_deconv")
    yield from _changed(head.logits, "mrcnn_mask", head.num_classes + 1, _objects, "rows")


# Kinds of layers ---------------------------------------------------------------------------------------------


def _conv_norm(layer, conv, norm):
    """A convolution with bias and its norm; where the model has no norm, it is multiplied into kernel and bias."""
    kernel = tuple(layer.conv.kernel.shape)
    if layer.norm is None:
        yield from _folded(layer.conv, conv, norm, kernel, kernel)
        return
    yield _one(_path(conv, "kernel"), layer.conv.kernel, first=layer.name == "stem")
    for name in ("gamma", "beta", "moving_variance"):
        yield _one(_path(norm, name), getattr(layer.norm, name))
    shape = kernel[-1:]
    parts = (_path(norm, "moving_mean"), shape), (_path(conv, "bias"), shape)
    yield Combination(parts, layer.norm.moving_mean, lambda mean, bias: mean - bias)


def _folded(layer, conv, norm, kernel_shape, target_shape):
    """Kernel and bias of a layer that stands for a convolution and its batch norm."""
    width = tuple(kernel_shape[-1:])
    gamma, beta, mean, variance = ((_path(norm, name), width) for name in _NORM)
    first = kernel_shape[:2] == (7, 7) and kernel_shape[2] <= 4
    kernel = (_path(conv, "kernel"), tuple(kernel_shape)), gamma, variance

    def scaled(kernel, gamma, variance):
        return (kernel * _scale(gamma, variance)).reshape(target_shape)

    def moved(bias, gamma, beta, mean, variance):
        return (bias - np.float64(mean)) * _scale(gamma, variance) + beta

    yield Combination(kernel, layer.kernel, scaled, first=first)
    yield Combination(((_path(conv, "bias"), width), gamma, beta, mean, variance), layer.bias, moved)


def _scale(gamma, variance):
    return gamma / np.sqrt(np.float64(variance) + EPSILON)


def _plain(layer, name):
    yield _one(_path(name, "kernel"), layer.kernel)
    yield _one(_path(name, "bias"), layer.bias)


def _changed(layer, name, outputs, change, classes=None):
    """A layer whose outputs, the last axis of kernel and bias, stand in another order."""
    for kind in ("kernel", "bias"):
        weight = getattr(layer, kind)
        shape = (*tuple(weight.shape)[:-1], outputs)
        yield Combination(((_path(name, kind), shape),), weight, change, classes)


def _one(path, weight, first=False):
    return Combination(((path, tuple(weight.shape)),), weight, lambda array: array, first=first)


# Orders of outputs -------------------------------------------------------------------------------------------


def _object_less_background(array):
    """The softmax of two logits is the sigmoid of their difference."""
    pairs = array.reshape(*array.shape[:-1], -1, 2)
    return pairs[..., 1] - pairs[..., 0]


def _swap_axes(array):
    return array.reshape(*array.shape[:-1], -1, 4)[..., _XY].reshape(array.shape)


def _background_last(array):
    return np.roll(array, -1, axis=-1)


def _objects(array):
    return array[..., 1:]


def _objects_boxes(array):
    return _swap_axes(array[..., 4:])


# The family --------------------------------------------------------------------------------------------------


def _left(name):
    return name.startswith("anchors/")  # the forks for TensorFlow 2 keep them in a layer


def _notes(model):
    return differences(model.config, recipe.COMMON, "matterport's Mask_RCNN")


def read_config(state, source, name=None, overrides=()):
    """The config of the model that a file belongs to. Arguments and result as of `detectron2.read_config`.

    IMAGE_MIN_DIM and IMAGE_MAX_DIM are not in the file; the receipt says which are taken.
    """
    letters = len([key for key in state if re.fullmatch(r"res4[a-z]_branch2a/res4[a-z]_branch2a/kernel:0", key)])
    depths = {BLOCKS[depth][2]: depth for depth in ("resnet50", "resnet101")}
    logits = np.shape(state.get(_path("mrcnn_class_logits", "kernel"), ()))
    if letters not in depths or len(logits) != 2 or logits[1] < 2 or name is not None:
        raise ValueError(
            "Matterport's Mask R-CNN has a ResNet-50 or -101, the layer mrcnn_class_logits with two columns or more, "
            f"and no other architecture. Received {letters} blocks in stage 4, class scores of shape {logits}, "
            f"architecture {name}. The first of {len(state)} tensors are {list(state)[:5]}. Name a whole model's file."
        )
    values = dict(overrides)
    sizes = values.pop("min_size", 800), values.pop("max_size", 1024)
    config = MaskRCNNConfig.matterport(depths[letters], logits[1] - 1, *sizes, **values)
    given = f"{argument('min_size')} and {argument('max_size')}"
    note = f"IMAGE_MIN_DIM {sizes[0]} and IMAGE_MAX_DIM {sizes[1]} are not in the file: give other ones by {given}"
    return config, (note,)


FAMILY = Family(
    title="matterport/Mask_RCNN",
    licence=LICENCE,
    recognises=recognises,
    table=table,
    prepare=prepare,
    left=_left,
    notes=_notes,
    config=read_config,
    warm=recipe.WARM,
)
