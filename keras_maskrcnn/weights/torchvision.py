"""Torchvision's name and layout of every tensor, in both directions.

`tensor_table` pairs each weight of a model with its torchvision name, in torchvision's order. Loading and exporting
use the same table. Class 0 is background in torchvision; here background is the last class column, and box deltas
and mask logits have no background rows.

Sources: torchvision/models/detection/{mask_rcnn,faster_rcnn,rpn}.py and ops/feature_pyramid_network.py.
"""

import dataclasses
import functools
import re

import numpy as np
from keras import ops

from keras_maskrcnn.branches import BUILT_IN
from keras_maskrcnn.network.backbones.resnet import BASIC, BLOCKS, GROUPS, PLAIN, ResNet
from keras_maskrcnn.network.layers import ConvNorm
from keras_maskrcnn.weights.coco import COCO_CATEGORY_IDS, COCO_SLOTS
from keras_maskrcnn.weights.family import Family
from keras_maskrcnn.weights.sizes import check_state_sizes
from keras_maskrcnn.weights.states import plain_names
from keras_maskrcnn.weights.tables import COUNTER, Entry, load_table, rows_a_class, to_torch

# Names in files written before torchvision 0.12 (`_load_from_state_dict` with version < 2), such as the published
# v1 COCO weights.
_OLD_NAMES = (
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)", r"backbone.fpn.\1_blocks.\2.0.\3"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)


# The table ---------------------------------------------------------------------------------------------------


def tensor_table(model):
    """Pair every weight of a model with torchvision's name, in the order of torchvision's state dict.

    Args:
        model: MaskRCNN with a built-in ResNet.

    Returns:
        List of Entry. Layers that torchvision does not have (a second deconvolution for 56x56 masks, more fully
        connected layers) continue its numbering. The heads of a cascade are `box_heads.0`, `box_predictors.0`, ...

    Raises:
        ValueError: for a model with another backbone, or with its norms behind ReLU: torchvision has no names for it.
    """
    if not isinstance(model.backbone, ResNet):
        raise ValueError(
            "Torchvision's names exist for the ResNets of MaskRCNNConfig only. Received a model with the "
            f"backbone {model.backbone.name}. Save and load it as .keras or .weights.h5."
        )
    if model.config.head_norm_place != "before_relu":
        raise ValueError(
            "Torchvision's names, and those of other programs of PyTorch, are of norms before ReLU. Received a model "
            f"with head_norm_place={model.config.head_norm_place!r}. Save and load it as .keras or .weights.h5."
        )
    return [
        *_backbone(model.backbone),
        *_pyramid(model.fpn),
        *_rpn(model.rpn),
        *_box_heads(model.box_head.stages()),
        *_branches(model),
    ]


def _backbone(resnet):
    body = "backbone.body"
    yield from _conv_norm(resnet.stem, f"{body}.conv1", f"{body}.bn1")
    for stage, blocks in enumerate(resnet.stages, start=1):
        for index, block in enumerate(blocks):
            prefix = f"{body}.layer{stage}.{index}"
            for number, conv in enumerate(block.convs, start=1):
                yield from _conv_norm(conv, f"{prefix}.conv{number}", f"{prefix}.bn{number}")
            if block.shortcut is not None:
                yield from _conv_norm(block.shortcut, f"{prefix}.downsample.0", f"{prefix}.downsample.1")


def _pyramid(fpn):
    for kind, layers in (("inner_blocks", fpn.laterals), ("layer_blocks", fpn.outputs)):
        for index, layer in enumerate(layers):
            yield from _numbered(layer, f"backbone.fpn.{kind}.{index}")


def _rpn(rpn):
    for index, conv in enumerate(rpn.convs):
        yield from _numbered(conv, f"rpn.head.conv.{index}")
    yield from _with_bias(rpn.objectness, "rpn.head.cls_logits", "conv")
    yield from _with_bias(rpn.deltas, "rpn.head.bbox_pred", "conv")


def _box_heads(heads):
    if len(heads) == 1:
        yield from _box_head(heads[0], "roi_heads.box_head", "roi_heads.box_predictor")
        return
    for number, head in enumerate(heads):
        yield from _box_head(head, f"roi_heads.box_heads.{number}", f"roi_heads.box_predictors.{number}")


def _box_head(head, prefix, predictor):
    for index, conv in enumerate(head.convs):
        yield from _numbered(conv, f"{prefix}.{index}")
    for index, fc in enumerate(head.fcs):
        # TwoMLPHead, or FastRCNNConvFCHead: a Sequential of convolutions, Flatten, then Linear and ReLU in turn.
        name = f"{prefix}.{len(head.convs) + 1 + 2 * index}" if head.convs else f"{prefix}.fc{6 + index}"
        pooled = () if index else (head.pool_size, head.pool_size, head.channels)
        yield from _with_bias(fc, name, "dense" if index else "flat", pooled)
    yield from _with_bias(head.classes, f"{predictor}.cls_score", "dense", classes="scores")
    boxes = None if head.class_agnostic else "boxes"
    yield from _with_bias(head.deltas, f"{predictor}.bbox_pred", "dense", classes=boxes)


def _branches(model):
    """The branches' own tables. ConvNorms become Conv2dNormActivations, other layers have kernel and bias."""
    for branch, head in zip(model.config.branches, model.branch_heads().values()):
        for layer, name, outputs in branch.torchvision_table(head):
            kind = {True: "rows", False: None}.get(outputs, outputs)
            if isinstance(layer, ConvNorm):
                yield from _numbered(layer, name)
            else:
                yield from _with_bias(layer, name, "conv", classes=kind)


def _numbered(layer, prefix):
    """Conv2dNormActivation: convolution 0, norm 1."""
    return _conv_norm(layer, f"{prefix}.0", f"{prefix}.1")


def _conv_norm(layer, conv, norm):
    yield Entry(f"{conv}.weight", layer.conv.kernel, "conv", first=layer.name == "stem")
    if layer.conv.use_bias:
        yield Entry(f"{conv}.bias", layer.conv.bias)
    if layer.norm is None:
        return
    yield Entry(f"{norm}.weight", layer.norm.gamma)
    yield Entry(f"{norm}.bias", layer.norm.beta)
    if layer.norm_name != "group":
        yield Entry(f"{norm}.running_mean", layer.norm.moving_mean)
        yield Entry(f"{norm}.running_var", layer.norm.moving_variance)
        yield Entry(f"{norm}.{COUNTER}")


def _with_bias(layer, name, layout, pooled=(), classes=None):
    yield Entry(f"{name}.weight", layer.kernel, layout, pooled, classes)
    yield Entry(f"{name}.bias", layer.bias, "vector", (), classes)


def _take_classes(array, entry, category_ids):
    """The rows of the background and of these categories, for a table whose class k is category k."""
    rows = rows_a_class(entry)
    grouped = array.reshape(-1, rows, *array.shape[1:])
    return grouped[[0, *category_ids]].reshape(-1, *array.shape[1:])


# Loading and exporting -----------------------------------------------------------------------------------------


def load_state(model, state, source="state dict", heads=True, skip_mismatch=False):
    """Load a torchvision state dict into a model. Assigns nothing unless all tensors match.

    Adapts the first convolution of RGB weights if the model's images have other channels (`inflation.py`). Detects
    three kinds by their names: a detector; a ResNet classifier (`conv1.weight`, ...), which goes into the backbone;
    and COCO heads with 91 rows for a model of the 80 real categories, whose rows are selected.

    Args:
        model: MaskRCNN.
        state: dict of torchvision names to arrays.
        source: name for messages.
        heads: False keeps the model's class, box and mask predictors.
        skip_mismatch: True loads all tensors that match and skips the others.

    Returns:
        Receipt.

    Raises:
        ValueError: tensors are missing, have another shape, are unknown, or hold numbers that are not finite.
    """
    state = current_names(state)
    table = tensor_table(model)
    if is_classifier(state):
        state = {f"backbone.body.{name}" if not name.startswith("fc.") else name: a for name, a in state.items()}
        return _load_backbone(table, state, source, skip_mismatch)
    fit = functools.partial(_fitting, config=model.config)
    return load_table(table, state, source, heads, skip_mismatch, fit=fit)


def _load_backbone(table, state, source, skip_mismatch):
    """Load a classifier: the backbone's rows of the table; its last layer is left over."""
    rest = [entry for entry in table if not entry.name.startswith("backbone.body.")]
    body = [entry for entry in table if entry.name.startswith("backbone.body.")]
    left = lambda name: name.startswith("fc.")  # noqa: E731
    receipt = load_table(body, state, source, True, skip_mismatch, left)
    unasked = tuple((entry.name, entry.shape) for entry in rest if entry.weight is not None)
    return dataclasses.replace(receipt, missing=(*receipt.missing, *unasked))


def torchvision_state_dict(model):
    """All weights of a model under torchvision's names, for `load_state_dict` of the equivalent torchvision model.

    That model has `num_classes=K + 1`. Its background rows of boxes and masks, which are never used, are zeros.

    Args:
        model: MaskRCNN with a ResNet.

    Returns:
        dict of names to numpy arrays: float32 in torch's layout, int64 scalars for batch norm's counters.

    Raises:
        ValueError: torchvision has no such architecture.
    """
    if model.config.cascade_ious:
        raise ValueError(
            "Torchvision's Mask R-CNN has one box head: cascade_ious must be () to be exported. Received: cascade_ious="
            f"{model.config.cascade_ious}. Save and load the model as .keras or .weights.h5."
        )
    for branch in model.config.branches:
        branch.check_torchvision_export(model.config)
    return {
        entry.name: np.zeros((), np.int64)
        if entry.weight is None
        else np.ascontiguousarray(to_torch(np.asarray(ops.convert_to_numpy(entry.weight), np.float32), entry))
        for entry in tensor_table(model)
    }


def current_names(state):
    """A state dict with current names: without wrapping, DataParallel's `module.` prefix or names of old versions.

    Raises:
        ValueError: an entry is no array, or two entries get the same name.
    """
    renames = [pair for kind in BUILT_IN.values() for pair in kind.torchvision_renames]
    return plain_names(state, (*_OLD_NAMES, *renames))


def _fitting(array, entry, config):
    """The rows of COCO's 80 real categories, if the source has all 90 ids and the model only these categories."""
    if entry.classes and tuple(config.category_ids) == COCO_CATEGORY_IDS:
        if len(array) == (COCO_SLOTS + 1) * rows_a_class(entry):
            return _take_classes(array, entry, COCO_CATEGORY_IDS)
    return array


# The architecture of a state dict ------------------------------------------------------------------------------


def is_classifier(state):
    """Whether a state dict (with `current_names`) belongs to a ResNet classifier, not a detector."""
    return "conv1.weight" in state and "backbone.body.conv1.weight" not in state


def read_architecture(state):
    """The fields of MaskRCNNConfig that follow from the names and shapes in a state dict.

    Args:
        state: dict of torchvision names (from `current_names`) to arrays.

    Returns:
        dict of config fields; only `backbone` for a classifier.

    Raises:
        ValueError: the state dict belongs to another kind of model.
    """
    body = "" if is_classifier(state) else "backbone.body."
    blocks = tuple(_count(state, rf"{re.escape(body)}layer{stage}\.(\d+)\.conv1\.weight") for stage in range(1, 5))
    basic = f"{body}layer1.0.conv3.weight" not in state
    width = _inner_channels(state, f"{body}layer1.0.conv2.weight")
    depths = [
        depth
        for depth in BLOCKS
        if BLOCKS[depth] == blocks and (depth in BASIC) == basic and GROUPS.get(depth, PLAIN)[1] == width
    ]
    if not depths:
        raise ValueError(
            "Weights must be from torchvision's Mask R-CNN with a ResNet, or from a ResNet classifier. "
            f"Received {len(state)} tensors with {blocks} blocks in four stages; the first are {list(state)[:5]}."
        )
    if is_classifier(state):
        return {"backbone": depths[0]}
    head, predictor = "roi_heads.box_head", "roi_heads.box_predictor"
    if f"{predictor}s.0.cls_score.weight" in state:  # a cascade, whose heads have one size
        head, predictor = f"{head}s.0", f"{predictor}s.0"
    needed = [f"{predictor}.cls_score.weight", "backbone.fpn.inner_blocks.0.0.weight"]
    missing = [name for name in needed if name not in state]
    check_state_sizes(state)
    branches = {name: kind().torchvision_fields(state) for name, kind in BUILT_IN.items()}
    branches = {name: fields for name, fields in branches.items() if fields is not None}
    if missing or not branches:
        raise ValueError(
            f"A Mask R-CNN must have the tensors {needed} and those of a branch, one of {list(BUILT_IN)}. "
            f"Missing: {missing or 'every branch'}. Use a detector with masks or keypoints."
        )
    convs = _count(state, rf"{head}\.(\d+)\.0\.weight")
    return {
        "backbone": depths[0],
        "num_classes": len(state[f"{predictor}.cls_score.weight"]) - 1,
        "fpn_channels": len(state["backbone.fpn.inner_blocks.0.0.weight"]),
        "head_norm": "batch" if "backbone.fpn.inner_blocks.0.1.weight" in state else None,
        "rpn_convs": _count(state, r"rpn\.head\.conv\.(\d+)\.0\.weight"),
        "box_convs": convs,
        "box_fcs": len([n for n in state if re.fullmatch(rf"{head}\.(fc)?\d+\.weight", n)]),
        "box_features": np.shape(state[f"{predictor}.cls_score.weight"])[1],
        **{name: value for fields in branches.values() for name, value in fields.items()},
        "branches": tuple(BUILT_IN[name].of_torchvision(state) for name in branches),
    }


def _inner_channels(state, name):
    """The channels that each filter of a convolution reads; 64 where there is no such convolution."""
    shape = np.shape(state.get(name, ()))
    return shape[1] if len(shape) == 4 else PLAIN[1]


def _count(state, pattern):
    return len([name for name in state if re.fullmatch(pattern, name)])


def _recognises(state):
    return True


class _Torchvision(Family):
    """Torchvision's loader also takes classifiers, and COCO heads with a row for each id."""

    def load(self, model, state, source="state dict", heads=True, skip_mismatch=False):
        """As `Family.load`."""
        return load_state(model, state, source, heads, skip_mismatch)


FAMILY = _Torchvision("torchvision", "", _recognises, tensor_table, current_names)
