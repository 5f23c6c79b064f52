"""Detectron2's state dicts for small models, and where each tensor belongs, written out by hand for the tests."""

import numpy as np

import keras_maskrcnn as km

SMALL = {
    "backbone": "resnet10",
    "fpn_channels": 16,
    "box_features": 24,
    "mask_channels": 8,
    "min_size": 64,
    "max_size": 96,
    "test_pre_nms": 60,
    "test_post_nms": 20,
    "score_threshold": 0.0,
    "max_detections": 10,
}


def small_model(name="mask_rcnn_R_50_FPN_3x", num_classes=3, **overrides):
    """A model with Detectron2's arithmetic, narrow, with two blocks a stage."""
    return km.MaskRCNN(km.MaskRCNNConfig.detectron2(name, num_classes, **(SMALL | overrides)))


def _conv(prefix, layer):
    """Expected values of a convolution and its norm: pairs (variable, function of the state)."""
    yield layer.conv.kernel, f"{prefix}.weight", lambda array: array.transpose(2, 3, 1, 0)
    if layer.conv.use_bias:
        yield layer.conv.bias, f"{prefix}.bias", np.asarray
    if layer.norm is not None:
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        for theirs, ours in names.items():
            if hasattr(layer.norm, ours):
                yield getattr(layer.norm, ours), f"{prefix}.norm.{theirs}", np.asarray


def _dense(prefix, layer):
    yield layer.kernel, f"{prefix}.weight", np.transpose
    yield layer.bias, f"{prefix}.bias", np.asarray


def _pointwise(prefix, layer):
    yield layer.kernel, f"{prefix}.weight", lambda array: array.transpose(2, 3, 1, 0)
    yield layer.bias, f"{prefix}.bias", np.asarray


def _flat(prefix, layer, channels):
    """The first dense layer: rows in the order channel, row, column there, and row, column, channel here."""
    side = int((layer.kernel.shape[0] // channels) ** 0.5)

    def moved(array):
        squares = array.reshape(-1, channels, side, side)
        return np.stack([square.transpose(1, 2, 0).ravel() for square in squares], axis=1)

    yield layer.kernel, f"{prefix}.weight", moved
    yield layer.bias, f"{prefix}.bias", np.asarray


def expected(model):
    """Triples (variable, name of its tensor, function from tensor to value), for all weights of a model."""
    rows = list(_conv("backbone.bottom_up.stem.conv1", model.backbone.stem))
    # BGR: the first channel there is blue, here red.
    rows[0] = (rows[0][0], rows[0][1], lambda array: array[:, [2, 1, 0]].transpose(2, 3, 1, 0))
    for stage, blocks in zip((2, 3, 4, 5), model.backbone.stages, strict=True):
        for number, block in enumerate(blocks):
            place = f"backbone.bottom_up.res{stage}.{number}"
            for index, conv in enumerate(block.convs, start=1):
                rows += _conv(f"{place}.conv{index}", conv)
            if block.shortcut is not None:
                rows += _conv(f"{place}.shortcut", block.shortcut)
    for level, lateral, output in zip((2, 3, 4, 5), model.fpn.laterals, model.fpn.outputs, strict=True):
        rows += [*_conv(f"backbone.fpn_lateral{level}", lateral), *_conv(f"backbone.fpn_output{level}", output)]
    rpn = "proposal_generator.rpn_head"
    for index, conv in enumerate(model.rpn.convs):
        rows += _conv(f"{rpn}.conv" if len(model.rpn.convs) == 1 else f"{rpn}.conv.conv{index}", conv)
    rows += _pointwise(f"{rpn}.objectness_logits", model.rpn.objectness)
    rows += _pointwise(f"{rpn}.anchor_deltas", model.rpn.deltas)
    stages = model.box_head.stages()
    for number, head in enumerate(stages):
        rows += _box_head(head, "" if len(stages) == 1 else f".{number}")
    heads = model.branch_heads()
    return rows + [row for name, head in heads.items() for row in _BRANCHES[name](head)]


def _box_head(head, place):
    """Of the only stage, or of one of a cascade: `place` is its number there, ".0" to ".2"."""
    rows = []
    for index, conv in enumerate(head.convs, start=1):
        rows += _conv(f"roi_heads.box_head{place}.conv{index}", conv)
    for index, fc in enumerate(head.fcs, start=1):
        name = f"roi_heads.box_head{place}.fc{index}"
        rows += _flat(name, fc, head.channels) if index == 1 else _dense(name, fc)
    rows += _dense(f"roi_heads.box_predictor{place}.cls_score", head.classes)
    return rows + list(_dense(f"roi_heads.box_predictor{place}.bbox_pred", head.deltas))


def _masks(masks):
    rows = []
    for index, conv in enumerate(masks.convs, start=1):
        rows += _conv(f"roi_heads.mask_head.mask_fcn{index}", conv)
    rows += _pointwise("roi_heads.mask_head.deconv", masks.deconvs[0])
    return rows + list(_pointwise("roi_heads.mask_head.predictor", masks.logits))


def _keypoints(head):
    rows = []
    for index, conv in enumerate(head.convs, start=1):
        rows += _pointwise(f"roi_heads.keypoint_head.conv_fcn{index}", conv.conv)
    return rows + list(_pointwise("roi_heads.keypoint_head.score_lowres", head.deconv))


def _pointrend(head):
    prefix = "roi_heads.mask_head"
    yield from _pointwise(f"{prefix}.coarse_head.reduce_spatial_dim_conv", head.reduce)
    for index, fc in enumerate(head.fcs, start=1):
        yield from _dense(f"{prefix}.coarse_head.fc{index}", fc)
    yield from _dense(f"{prefix}.coarse_head.prediction", head.coarse_logits)
    for index, fc in enumerate(head.point_fcs, start=1):
        yield from _one_axis(f"{prefix}.point_head.fc{index}", fc)
    yield from _one_axis(f"{prefix}.point_head.predictor", head.point_logits)


def _one_axis(prefix, layer):
    yield layer.kernel, f"{prefix}.weight", lambda array: array.transpose(2, 1, 0)
    yield layer.bias, f"{prefix}.bias", np.asarray


_BRANCHES = {"mask": _masks, "keypoints": _keypoints, "pointrend": _pointrend}


def random_state(model, seed=0):
    """A state dict of other numbers in every place, for a model; shapes follow from `expected`."""
    rng, state = np.random.default_rng(seed), {}
    for variable, name, change in expected(model):
        shape = _shape(variable, name, change, model)
        positive = name.endswith("running_var")
        state[name] = (rng.uniform(0.5, 1, shape) if positive else rng.normal(size=shape) * 0.05).astype(np.float32)
    return state


def _shape(variable, name, change, model):
    shape = tuple(variable.shape)
    if name.endswith("fc1.weight"):
        return shape[::-1]
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    return shape[::-1]


def faults(model, state):
    """Names of the tensors whose variable does not hold what it should."""
    return [name for variable, name, change in expected(model) if not np.array_equal(variable, change(state[name]))]
