"""State dicts of every family for small models, and where each tensor belongs, written out by hand for the tests.

A row is (variable, names of its tensors, function of the tensors that gives the variable's value).
"""

import dataclasses
import functools

import numpy as np
from detectron2_parts import SMALL

import keras_maskrcnn as km
from keras_maskrcnn.weights.zoo import TORCHVISION


def same(array):
    return array


# Names of PyTorch's programs --------------------------------------------------------------------------------

TORCH = {
    "torchvision": {
        "body": "backbone.body", "lateral": "backbone.fpn.inner_blocks.{}.0",
        "output": "backbone.fpn.layer_blocks.{}.0",
        "rpn": "rpn.head.conv.0.0", "objectness": "rpn.head.cls_logits", "anchors": "rpn.head.bbox_pred",
        "fc": ("roi_heads.box_head.fc6", "roi_heads.box_head.fc7"), "classes": "roi_heads.box_predictor.cls_score",
        "boxes": "roi_heads.box_predictor.bbox_pred", "mask": "roi_heads.mask_head.{}.0",
        "deconv": "roi_heads.mask_predictor.conv5_mask", "logits": "roi_heads.mask_predictor.mask_fcn_logits",
    },
    "mmdetection": {
        "body": "backbone", "lateral": "neck.lateral_convs.{}.conv", "output": "neck.fpn_convs.{}.conv",
        "rpn": "rpn_head.rpn_conv", "objectness": "rpn_head.rpn_cls", "anchors": "rpn_head.rpn_reg",
        "fc": ("roi_head.bbox_head.shared_fcs.0", "roi_head.bbox_head.shared_fcs.1"),
        "classes": "roi_head.bbox_head.fc_cls", "boxes": "roi_head.bbox_head.fc_reg",
        "mask": "roi_head.mask_head.convs.{}.conv", "deconv": "roi_head.mask_head.upsample",
        "logits": "roi_head.mask_head.conv_logits",
    },
}  # fmt: skip
TORCH["mmdetection 1"] = {
    part: tuple(each.removeprefix("roi_head.") for each in name)
    if isinstance(name, tuple)
    else name.removeprefix("roi_head.")
    for part, name in TORCH["mmdetection"].items()
}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def kernel_here(array):
    """(out, in, rows, columns) -> (rows, columns, in, out), and deconvolutions (in, out, ..) -> (.., out, in)."""
    return np.moveaxis(array, [0, 1], [3, 2])


def torch_rows(model, names, background, bgr=False):
    """The rows of a program of PyTorch. background: "first" or "last"."""
    body = names["body"]
    rows = [(model.backbone.stem.conv.kernel, [f"{body}.conv1.weight"], stem_bgr if bgr else kernel_here)]
    rows += _norm(model.backbone.stem.norm, f"{body}.bn1")
    for stage, blocks in enumerate(model.backbone.stages, start=1):
        for index, block in enumerate(blocks):
            place = f"{body}.layer{stage}.{index}"
            for number, conv in enumerate(block.convs, start=1):
                rows.append((conv.conv.kernel, [f"{place}.conv{number}.weight"], kernel_here))
                rows += _norm(conv.norm, f"{place}.bn{number}")
            if block.shortcut is not None:
                rows.append((block.shortcut.conv.kernel, [f"{place}.downsample.0.weight"], kernel_here))
                rows += _norm(block.shortcut.norm, f"{place}.downsample.1")
    for level in range(4):
        rows += _pair(model.fpn.laterals[level].conv, names["lateral"].format(level), kernel_here)
        rows += _pair(model.fpn.outputs[level].conv, names["output"].format(level), kernel_here)
    rows += _pair(model.rpn.convs[0].conv, names["rpn"], kernel_here)
    rows += _pair(model.rpn.objectness, names["objectness"], kernel_here)
    rows += _pair(model.rpn.deltas, names["anchors"], kernel_here)
    head, masks, first = model.box_head, model.branch_heads()["mask"], background == "first"
    channels, side = head.channels, head.pool_size

    def flat(array):
        return array.reshape(-1, channels, side, side).transpose(2, 3, 1, 0).reshape(side * side * channels, -1)

    rows += _pair(head.fcs[0], names["fc"][0], flat)
    rows += _pair(head.fcs[1], names["fc"][1], np.transpose)
    last = (lambda array: np.concatenate([array[1:], array[:1]])) if first else same
    boxes = (lambda array: array[4:]) if first else same
    objects = (lambda array: array[1:]) if first else same
    rows += _pair(head.classes, names["classes"], np.transpose, last)
    rows += _pair(head.deltas, names["boxes"], np.transpose, boxes)
    for index, conv in enumerate(masks.convs):
        rows += _pair(conv.conv, names["mask"].format(index), kernel_here)
    rows += _pair(masks.deconvs[0], names["deconv"], kernel_here)
    return rows + _pair(masks.logits, names["logits"], kernel_here, objects)


def stem_bgr(array):
    return kernel_here(array[:, [2, 1, 0]])


def _norm(norm, place):
    return [(getattr(norm, ours), [f"{place}.{theirs}"], same) for theirs, ours in _NORM.items()]


def _pair(layer, place, change, rows=same):
    return [
        (layer.kernel, [f"{place}.weight"], lambda array: change(rows(array))),
        (layer.bias, [f"{place}.bias"], rows),
    ]


# Tensorpack's -----------------------------------------------------------------------------------------------


def tensorpack_rows(model):
    """The rows of tensorpack, by the lines of its `convert_d2.py`, and of `modeling/` for group norm."""
    rows = _with_bn(model.backbone.stem, "conv0", lambda array: array[:, :, [2, 1, 0]])
    for group, blocks in enumerate(model.backbone.stages):
        for index, block in enumerate(blocks):
            place = f"group{group}/block{index}"
            for number, conv in enumerate(block.convs, start=1):
                rows += _with_bn(conv, f"{place}/conv{number}")
            if block.shortcut is not None:
                rows += _with_bn(block.shortcut, f"{place}/convshortcut")
    for level in range(4):
        rows += _with_gn(model.fpn.laterals[level], f"fpn/lateral_1x1_c{level + 2}", f"fpn/gn_c{level + 2}")
        rows += _with_gn(model.fpn.outputs[level], f"fpn/posthoc_3x3_p{level + 2}", f"fpn/gn_p{level + 2}")
    rows += _both(model.rpn.convs[0].conv, "rpn/conv0")
    rows += _both(model.rpn.objectness, "rpn/class") + _both(model.rpn.deltas, "rpn/box")
    stages, masks = model.box_head.stages(), model.branch_heads()["mask"]
    if len(stages) == 1:
        rows += _tensorpack_head(stages[0], "fastrcnn", "fastrcnn/outputs", lambda array: array[..., 4:])
    else:
        for number, head in enumerate(stages, start=1):
            rows += _tensorpack_head(
                head, f"cascade_rcnn_stage{number}/head", f"cascade_rcnn_stage{number}/outputs", same
            )
    for index, conv in enumerate(masks.convs):
        rows += _with_gn(conv, f"maskrcnn/fcn{index}", f"maskrcnn/gn{index}")
    return rows + _both(masks.deconvs[0], "maskrcnn/deconv") + _both(masks.logits, "maskrcnn/conv")


def _tensorpack_head(head, place, outputs, boxes):
    rows, dense = [], ["fc"] if head.convs else ["fc6", "fc7"]
    for index, conv in enumerate(head.convs):
        rows += _with_gn(conv, f"{place}/conv{index}", f"{place}/gn{index}")

    def flat(array):  # rows there: channel, row, column
        cells = [(row, column) for row in range(7) for column in range(7)]
        order = [channel * 49 + row * 7 + column for row, column in cells for channel in range(head.channels)]
        return array[order]

    first, *others = zip(head.fcs, dense, strict=True)
    rows += [(first[0].kernel, [f"{place}/{first[1]}/W"], flat), (first[0].bias, [f"{place}/{first[1]}/b"], same)]
    for layer, name in others:
        rows += _both(layer, f"{place}/{name}")
    rows += _both(head.classes, f"{outputs}/class", lambda array: np.roll(array, -1, -1))
    return rows + _both(head.deltas, f"{outputs}/box", boxes)


def _with_bn(layer, name, change=same):
    """The trunk's convolutions: without a bias, their batch or group norm inside."""
    rows = [(layer.conv.kernel, [f"{name}/W"], change)]
    if not hasattr(layer.norm, "moving_mean"):
        return rows + [(getattr(layer.norm, part), [f"{name}/gn/{part}"], same) for part in ("gamma", "beta")]
    norm = {"gamma": "gamma", "beta": "beta", "mean/EMA": "moving_mean", "variance/EMA": "moving_variance"}
    return rows + [(getattr(layer.norm, ours), [f"{name}/bn/{theirs}"], same) for theirs, ours in norm.items()]


def _with_gn(layer, conv, norm):
    """The convolutions of pyramid and heads: with a bias, a group norm beside them."""
    rows = _both(layer.conv, conv)
    if layer.norm is None:
        return rows
    return rows + [(getattr(layer.norm, part), [f"{norm}/{part}"], same) for part in ("gamma", "beta")]


def _both(layer, name, change=same):
    return [(layer.kernel, [f"{name}/W"], change), (layer.bias, [f"{name}/b"], change)]


# All of them ------------------------------------------------------------------------------------------------


def _torchvision(**overrides):
    model = km.MaskRCNN(km.MaskRCNNConfig(3, **(TORCHVISION | SMALL | overrides)))
    return with_state(model, torch_rows(model, TORCH["torchvision"], "first"))


def _detectron2(**overrides):
    from detectron2_parts import expected, random_state, small_model

    model = small_model(**overrides)
    return model, [(variable, [name], change) for variable, name, change in expected(model)], random_state(model)


def _matterport(**overrides):
    from test_matterport import expected, random_state, small_config

    model = km.MaskRCNN(dataclasses.replace(small_config(), **({"backbone": "resnet10"} | overrides)))
    return model, expected(model), random_state(model)


def _mmdetection(version, **style):
    def make(**overrides):
        model = km.MaskRCNN(km.MaskRCNNConfig.mmdetection(num_classes=3, **(SMALL | style | overrides)))
        names = TORCH["mmdetection 1" if version == 1 else "mmdetection"]
        bgr = model.config.stride_in_1x1
        return with_state(model, torch_rows(model, names, "first" if version == 1 else "last", bgr))

    return make


def small_tensorpack(name="COCO-MaskRCNN-R50FPN2x", **overrides):
    """(model, rows, state dict) of tensorpack. Group norm has 32 groups: with one channel each no bias would matter."""
    grouped = {"fpn_channels": 64, "mask_channels": 64} if "GN" in name else {}
    model = km.MaskRCNN(km.MaskRCNNConfig.tensorpack(name, 3, **(SMALL | grouped | overrides)))
    return with_state(model, tensorpack_rows(model))


FAMILIES = {  # name -> function of fields of the config that gives a model, its rows and a state dict
    "tensorpack": small_tensorpack,
    "tensorpack gn": functools.partial(small_tensorpack, "COCO-MaskRCNN-R50FPN2xGN"),
    "tensorpack cascade": functools.partial(small_tensorpack, "COCO-MaskRCNN-R50FPN1xCas"),
    "tensorpack gn cascade": functools.partial(small_tensorpack, "COCO-MaskRCNN-R50FPN4xGNCasAug"),
    "mmdetection caffe": _mmdetection(2, stride_in_1x1=True, pixel_std=(1.0, 1.0, 1.0)),
    "mmdetection": _mmdetection(3),
    "mmdetection 1": _mmdetection(1),
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "matterport": _matterport,
}


def with_state(model, rows):
    """(model, rows, a state dict of other numbers in every place, in the shapes of a file)."""
    rng, state = np.random.default_rng(0), {}
    for variable, names, _ in rows:
        for name in names:
            shape = shape_in_file(model, variable, name)
            positive = name.endswith(("running_var", "variance/EMA"))
            state[name] = (rng.uniform(0.5, 1, shape) if positive else rng.normal(size=shape) * 0.05).astype(np.float32)
    return model, rows, state


def shape_in_file(model, variable, name):
    """The shape of a tensor, by hand: the variable's with the axes of PyTorch, and rows of background."""
    shape, classes = tuple(variable.shape), model.config.num_classes
    if "/" in name:  # tensorpack
        return (*shape[:-1], 4 * (classes + 1)) if name.startswith("fastrcnn/outputs/box/") else shape
    shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
    first = name.startswith(("roi_heads.", "bbox_head.", "mask_head."))  # background is first, in all tables
    if first and any(part in name for part in ("bbox_pred.", "fc_reg.")):
        return (shape[0] + 4, *shape[1:])
    if first and any(part in name for part in ("mask_fcn_logits.", "conv_logits.")):
        return (shape[0] + 1, *shape[1:])
    return shape


def faults(rows, state):
    """The tensors' names of the rows whose variable does not hold what it should."""
    values = [(variable, names, change(*(state[name] for name in names))) for variable, names, change in rows]
    return [names for variable, names, value in values if not np.allclose(variable, value, rtol=1e-6, atol=1e-7)]
