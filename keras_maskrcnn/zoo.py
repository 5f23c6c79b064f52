"""Ready-made models: torchvision's recipes by name, each keyword of MaskRCNNConfig open to change."""

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.model import MaskRCNN


def _build(num_classes, weights, recipe, overrides):
    if weights is not None:
        raise ValueError(
            "Downloading published weights is not part of this version: `weights` must be None. "
            f"Received: {weights!r}. Build the model, then call model.load_weights on a .weights.h5 file."
        )
    seed, dtype = overrides.pop("seed", 0), overrides.pop("dtype", None)
    # torchvision lets the padding of a canvas take part in the convolutions; its twins do, too.
    config = MaskRCNNConfig(num_classes=num_classes, **{"mask_padding": False, **recipe, **overrides})
    return MaskRCNN(config, seed=seed, dtype=dtype)


def maskrcnn_resnet50_fpn(num_classes=80, weights=None, **overrides):
    """Torchvision's `maskrcnn_resnet50_fpn`: frozen batch norm, one-conv RPN, two-layer box head.

    Args:
        num_classes: K, background not counted.
        weights: None.
        **overrides: fields of MaskRCNNConfig, `seed` and `dtype` of MaskRCNN.

    Returns:
        MaskRCNN with random weights.
    """
    return _build(num_classes, weights, {"backbone": "resnet50"}, overrides)


def maskrcnn_resnet101_fpn(num_classes=80, weights=None, **overrides):
    """`maskrcnn_resnet50_fpn` on ResNet-101 (paper table 1)."""
    return _build(num_classes, weights, {"backbone": "resnet101"}, overrides)


def maskrcnn_resnet18_fpn(num_classes=80, weights=None, **overrides):
    """`maskrcnn_resnet50_fpn` on ResNet-18, the smallest."""
    return _build(num_classes, weights, {"backbone": "resnet18"}, overrides)


def maskrcnn_resnet50_fpn_v2(num_classes=80, weights=None, **overrides):
    """Torchvision's v2 recipe (Li et al. 2021): trained batch norm, also in the heads, 2-conv RPN, 4conv1fc head."""
    recipe = {"backbone": "resnet50", "norm": "batch", "head_norm": "batch", "rpn_convs": 2}
    recipe |= {"box_convs": 4, "box_fcs": 1}
    return _build(num_classes, weights, recipe, overrides)
