"""Model builders: torchvision's models by name. Every field of MaskRCNNConfig can be overridden.

They follow torchvision even where the defaults of `MaskRCNNConfig` are better: padding takes part in convolutions, and
masks are cropped and pasted with rounded boxes. So published weights run with the arithmetic of their training.
"""

import logging

from keras_maskrcnn.config import IMAGENET_MEAN, MaskRCNNConfig
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.weights import catalogue, published
from keras_maskrcnn.weights.coco import COCO_CATEGORIES, COCO_CATEGORY_IDS, COCO_CLASS_NAMES, COCO_SLOTS
from keras_maskrcnn.weights.loading import find_family, load_weights
from keras_maskrcnn.weights.torchvision import read_architecture

_LOG = logging.getLogger(__name__)

TORCHVISION = {
    "mask_padding": False,
    "anchor_spacing": "canvas",
    "mask_pasting": "torchvision",
    "mask_targets": "torchvision",
    "gt_mask_size": 112,  # torchvision's masks have full size; with 56 cells the mask loss would be off by 1e-3
}
RESNET50 = {"backbone": "resnet50"}
RESNET50_V2 = {
    "backbone": "resnet50",
    "norm": "batch",
    "head_norm": "batch",
    "rpn_convs": 2,
    "box_convs": 4,
    "box_fcs": 1,
}


def maskrcnn_resnet50_fpn(num_classes=80, weights=None, **overrides):
    """Torchvision's `maskrcnn_resnet50_fpn`: frozen batch norm, one-conv RPN, two-layer box head.

    Args:
        num_classes: K, background not counted.
        weights: None; "coco" (box / mask AP 37.9 / 34.6 on COCO val2017, as published by torchvision); "imagenet", for
            the backbone only; or another program's, such as "detectron2/mask_rcnn_R_50_FPN_3x"
            (`weights/catalogue.py`), with that program's arithmetic. Downloaded once, see `weights/published.py`. With
            80 classes you get COCO's categories with their names; with 90 classes torchvision's outputs, ten of them
            unused. With any other number, or with your own `class_names`, the last layers stay random. With weights,
            the stem and the first stage are frozen (`trainable_layers=3`), as in torchvision. If `pixel_mean` and
            `pixel_std` have other than three entries, the first convolution is adapted (`weights/inflation.py`); for
            more than one channel all layers train, because the stem was not trained on such images.
        **overrides: fields of MaskRCNNConfig, and `seed` and `dtype` of MaskRCNN.

    Returns:
        MaskRCNN. With weights, the receipt is logged (INFO) and stored as `weights_receipt` of the model.

    Raises:
        ValueError: `weights` has another value, or the weights do not fit the overrides.
        OSError: the download failed; the message says where to put the file manually.
    """
    return _build("maskrcnn_resnet50_fpn", num_classes, weights, RESNET50, overrides)


def maskrcnn_resnet50_fpn_v2(num_classes=80, weights=None, **overrides):
    """Torchvision's v2 model (Li et al. 2021): trained batch norm, also in the heads; 2-conv RPN; 4conv1fc box head.

    Args, returns, raises: as `maskrcnn_resnet50_fpn`; "coco" has AP 47.4 / 41.8.
    """
    return _build("maskrcnn_resnet50_fpn_v2", num_classes, weights, RESNET50_V2, overrides)


def keypointrcnn_resnet50_fpn(num_classes=1, weights=None, **overrides):
    """Torchvision's `keypointrcnn_resnet50_fpn`: `maskrcnn_resnet50_fpn` with COCO's 17 keypoints in place of masks.

    Args, returns, raises: as `maskrcnn_resnet50_fpn`; "coco" is of persons, with box / keypoint AP 54.6 / 65.0 as
    published by torchvision.
    """
    recipe = {**RESNET50, "branches": ("keypoints",)}
    return _build("keypointrcnn_resnet50_fpn", num_classes, weights, recipe, overrides, PERSON_LABELS)


def maskrcnn_resnet101_fpn(num_classes=80, weights=None, **overrides):
    """`maskrcnn_resnet50_fpn` with ResNet-101 (paper table 1); `weights` is None or "imagenet"."""
    return _build("maskrcnn_resnet101_fpn", num_classes, weights, {"backbone": "resnet101"}, overrides)


def maskrcnn_resnet18_fpn(num_classes=80, weights=None, **overrides):
    """`maskrcnn_resnet50_fpn` with ResNet-18, the smallest; `weights` is None or "imagenet"."""
    return _build("maskrcnn_resnet18_fpn", num_classes, weights, {"backbone": "resnet18"}, overrides)


def config_for_state(state, overrides=(), all_rows=False, source="state dict", architecture=None, warm_start=False):
    """The config of the model that a state dict belongs to.

    Args:
        state: dict of names to arrays, of torchvision or another of `loading.FAMILIES`.
        overrides: dict of fields of MaskRCNNConfig.
        all_rows: True keeps all 90 rows of a COCO detector of torchvision; False keeps only COCO's 80 categories.
        source: path of its file: the names of published files, and what lies beside it, say what tensors do not.
        architecture: name of a config of the state dict's program, where it has names; None finds out.
        warm_start: True takes over what the weights need to fit, and leaves the rest at the defaults of MaskRCNNConfig:
            the numbers then differ.

    Returns:
        (MaskRCNNConfig, tuple of lines for the receipt).
    """
    family, overrides = find_family(state), dict(overrides)
    if family.config is None:
        _check_plain(family, architecture, warm_start)
        return _torchvision_config(family.prepare(state), overrides, all_rows), ()
    config, notes = family.config(family.prepare(state), source, architecture, overrides)
    if not warm_start:
        return config, notes
    kept = {name: getattr(config, name) for name in (*_STRUCTURE, *family.warm)}
    return MaskRCNNConfig(**{**kept, **overrides}), ()


# What a weight file determines of a config, whatever the arithmetic.
_STRUCTURE = (
    "num_classes", "class_names", "category_ids", "backbone", "fpn_channels", "box_features", "mask_convs",
    "mask_channels", "branches", "cascade_ious",
)  # fmt: skip


def _check_plain(family, architecture, warm_start):
    if architecture is not None or warm_start:
        given = argument("architecture", architecture) if architecture is not None else argument("warm_start", True)
        raise ValueError(
            "Only weights of other programs than torchvision leave a choice of the arithmetic. "
            f"Received {given} for weights of {family.title}. Leave it out."
        )


def _torchvision_config(state, overrides, all_rows):
    found = {"num_classes": 1, **read_architecture(state)}
    if found["num_classes"] == COCO_SLOTS:
        found["num_classes"] = COCO_SLOTS if all_rows else len(COCO_CATEGORIES)
        found |= COCO_LABELS[found["num_classes"]]
    return MaskRCNNConfig(**{**TORCHVISION, **found, **overrides})


def _build(name, num_classes, weights, recipe, overrides, published_labels=None):
    """A model. `published_labels`: the fields about classes by how many the published file has; None: COCO's."""
    published_labels = published_labels or COCO_LABELS
    seed, dtype = overrides.pop("seed", 0), overrides.pop("dtype", None)
    entry = None if weights is None else catalogue.find(weights)
    if entry is not None:
        return _build_other(name, num_classes, entry, recipe, overrides, seed, dtype)
    recipe = {**TORCHVISION, **recipe}
    if weights is None:
        return MaskRCNN(MaskRCNNConfig(num_classes=num_classes, **{**recipe, **overrides}), seed=seed, dtype=dtype)
    file = published.find_file(weights, name, overrides.get("backbone", recipe["backbone"]))
    recipe |= {"norm_epsilon": published.norm_epsilon(file)}
    heads = (
        weights == "coco" and num_classes in published_labels and not {"class_names", "category_ids"} & set(overrides)
    )
    labels = published_labels[num_classes] if heads else {}
    channels = len(overrides.get("pixel_mean", IMAGENET_MEAN))
    chosen = {"trainable_layers": 3 if channels in (1, 3) else 5, **recipe, **labels, **overrides}
    model = MaskRCNN(MaskRCNNConfig(num_classes=num_classes, **chosen), seed=seed, dtype=dtype)
    classes = num_classes if heads else next(iter(published_labels))
    variant = "backbone" if weights == "imagenet" else str(classes)

    def make_reference():
        plain = recipe | {"backbone": model.config.backbone}
        return MaskRCNN(MaskRCNNConfig(num_classes=classes, **plain, **published_labels[classes]))

    model.weights_receipt = published.load_published(model, file, make_reference, variant, heads)
    _LOG.info("%s", model.weights_receipt)
    return model


def _build_other(name, num_classes, entry, recipe, overrides, seed, dtype):
    """A model with another program's published weights and its arithmetic."""
    own, config = entry.make_config(), entry.make_config(num_classes, **overrides)
    wanted = {"branches": ("mask",), **recipe}
    given = {field: getattr(config, field) for field in wanted}
    for values in (wanted, given):
        values["branches"] = [getattr(branch, "name", branch) for branch in values["branches"]]
    differing = [f"{field}={given[field]!r}" for field in wanted if given[field] != wanted[field]]
    if differing:
        raise ValueError(
            f"{name} takes weights of a model with {wanted}. Received weights={entry.name!r}, of one with "
            f"{', '.join(differing)}. Make the model of its own config and call keras_maskrcnn.load_weights(model, "
            f"{entry.name!r})."
        )
    model = MaskRCNN(config, seed=seed, dtype=dtype)
    heads = num_classes == own.num_classes and not {"class_names", "category_ids"} & set(overrides)
    receipt = load_weights(model, entry.name, heads=heads)
    origin = {"family": receipt.family, "licence": receipt.licence, "sha256": receipt.sha256}
    model.origin = {"file": entry.file, "url": entry.url, **origin}
    _LOG.info("%s", receipt)
    return model


# Torchvision has one class for each id 1..90; ten of them are unused.
COCO_LABELS = {
    80: {"class_names": COCO_CLASS_NAMES, "category_ids": COCO_CATEGORY_IDS},
    90: {
        "class_names": tuple(COCO_CATEGORIES.get(i, f"N/A {i}") for i in range(1, COCO_SLOTS + 1)),
        "category_ids": tuple(range(1, COCO_SLOTS + 1)),
    },
}
PERSON_LABELS = {1: {"class_names": ("person",), "category_ids": (1,)}}  # of torchvision's Keypoint R-CNN
