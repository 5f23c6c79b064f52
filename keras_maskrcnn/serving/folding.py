"""Faster copy of a trained model: batch norm folded into the convolutions, optionally bfloat16.

At inference batch norm is y = x * scale + shift with constants, so it can be folded into the kernel and bias of the
preceding convolution (Jacob et al. 2018, section 3.2). Called by users and by the export.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.network.backbones import ResNet

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}  # Keras' names
FOLDED = {"frozen_batch": "none", "batch": "none"}  # group norm depends on the image and cannot be folded


def optimize_for_inference(model, dtype=None):
    """Fold batch norm into convolutions, in a copy. The model itself does not change.

    Args:
        model: MaskRCNN, trained. A backbone that is no ResNet is copied as it is.
        dtype: None for the model's; "bfloat16" computes convolutions and dense layers in bfloat16 (weights, boxes, NMS,
            scores and masks stay float32): about twice as fast on processors that have it. "float16": the same in
            float16, for GPUs and for exports.

    Returns:
        MaskRCNN without batch norm, for inference. Same predictions up to rounding (1e-5 relative in float32). It has
        no optimizer, and further training would be without norm.
    """
    if dtype is not None and dtype not in POLICIES:
        raise ValueError(f"dtype must be None or one of {tuple(POLICIES)}. Received: {dtype!r}.")
    config = model.config
    head_norm = FOLDED.get(config.head_norm, config.head_norm)
    folded_config = dataclasses.replace(
        config,
        norm=FOLDED.get(config.norm, config.norm) if isinstance(model.backbone, ResNet) else config.norm,
        head_norm=None if head_norm == "none" else head_norm,
        fpn_norm=FOLDED.get(config.fpn_norm, config.fpn_norm),
    )
    policy = model.dtype_policy if dtype is None else POLICIES[dtype]
    backbone = None
    if model.custom_backbone:
        serialized = keras.saving.serialize_keras_object(model.backbone)
        backbone = keras.saving.deserialize_keras_object(serialized)
    optimized = MaskRCNN(folded_config, backbone=backbone, seed=model.seed, dtype=policy, name=model.name)
    if not isinstance(model.backbone, ResNet):
        optimized.backbone.set_weights(model.backbone.get_weights())
    _copy_weights(model, optimized)
    return optimized


def _copy_weights(model, optimized):
    source = {_name(weight): ops.convert_to_numpy(weight) for weight in _own_weights(model)}
    for weight in _own_weights(optimized):
        name = _name(weight)
        if name not in source or name.endswith("/conv/kernel"):
            own = name.startswith("backbone/")
            weight.assign(_folded(name, source, model.config.norm_epsilon if own else model.config.head_norm_epsilon))
        else:
            weight.assign(source[name])


def _folded(name, source, epsilon):
    """Kernel or bias of a convolution with the following norm folded in, computed in float64."""
    layer, part = name.rsplit("/conv/", 1)
    kernel, norm = source[f"{layer}/conv/kernel"], f"{layer}/norm/"
    folds = norm + "moving_variance" in source
    if not folds:
        return source[name]
    values = {key: source[norm + key].astype("float64") for key in ("gamma", "beta", "moving_mean", "moving_variance")}
    scale = values["gamma"] / np.sqrt(values["moving_variance"] + epsilon)
    if part == "kernel":
        return (kernel * scale).astype("float32")
    return (values["beta"] - values["moving_mean"] * scale).astype("float32")


def _own_weights(model):
    """All weights but those of a backbone that is no ResNet and of the sampler."""
    foreign = set() if isinstance(model.backbone, ResNet) else {id(weight) for weight in model.backbone.weights}
    return [
        weight for weight in model.weights if id(weight) not in foreign and not weight.path.endswith("generator_state")
    ]


def _name(weight):
    """A weight's path without the name of the model, which may differ."""
    return weight.path.split("/", 1)[-1]
