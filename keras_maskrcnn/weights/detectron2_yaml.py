"""The `config.yaml` that Detectron2 writes beside a training's weights, as fields of MaskRCNNConfig.

It holds every key of Detectron2's config (`config/defaults.py`). Keys that this package has a field for become that
field. Keys that it can have one value of are compared with it, and other values are refused by the key's name. Called
by `detectron2.py`.
"""

import re

import yaml

from keras_maskrcnn.weights.limits import MEBIBYTE, MOST_NESTING, reading

NAME = "config.yaml"
EXPECTED = "a config.yaml as Detectron2 writes it"
REMEDY = "Copy it again, or move it away and name the nearest config instead."
_LEVELS = [f"p{level}" for level in range(2, 6)]
_NORMS = {
    "FrozenBN": "frozen_batch", "BN": "batch", "SyncBN": "batch", "nnSyncBN": "batch", "naiveSyncBN": "batch",
    "GN": "group",
}  # fmt: skip
_ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}

# Key -> the values with which a model is read; where a key is missing, an old Detectron2 had no choice.
FIXED = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": (0,),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.ROI_HEADS.IN_FEATURES": (_LEVELS,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.FPN.IN_FEATURES": (["res2", "res3", "res4", "res5"],),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0,),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.IN_FEATURES": ([*_LEVELS, "p6"],),
    "MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "INPUT.FORMAT": ("BGR",),
}
OF_BRANCHES = {  # branch -> what its config must say
    "mask": {
        "MODEL.MASK_ON": (True,),
        "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
    },
    "pointrend": {
        "MODEL.MASK_ON": (True,),
        "MODEL.ROI_MASK_HEAD.NAME": ("PointRendMaskHead",),
        "MODEL.POINT_HEAD.NAME": ("StandardPointHead",),
        "MODEL.POINT_HEAD.IN_FEATURES": (["p2"],),
        "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK": (False,),
        "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER": (True,),
        "MODEL.ROI_MASK_HEAD.IN_FEATURES": (["p2"],),
        "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": (7,),
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": (14,),
        "MODEL.POINT_HEAD.SUBDIVISION_STEPS": (5,),
        "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": (784,),
    },
    "keypoints": {
        "MODEL.KEYPOINT_ON": (True,),
        "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
    },
}
_WEIGHTS = [[float(stage * weight) for weight in (10, 10, 5, 5)] for stage in (1, 2, 3)]
CASCADE = {  # instead of FIXED's
    "MODEL.ROI_HEADS.NAME": ("CascadeROIHeads",),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (True,),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": (_WEIGHTS,),
}
_CASCADE_IOUS = "MODEL.ROI_BOX_CASCADE_HEAD.IOUS"
_NEEDED = ("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES")


def _reversed(values):
    return tuple(float(each) for each in values[::-1])


def _numbers(values):
    return tuple(float(each) for each in values)


def _two_numbers(values):
    low, high = values
    return float(low), float(high)


def _one_a_level(values):
    """Anchor sizes: one list of one size for each level."""
    if len(values) != 5 or any(len(each) != 1 for each in values):
        raise ValueError("five lists of one size, for p2 to p6")
    return _numbers([size for (size,) in values])


def _same_ratios(values):
    if any(each != values[0] for each in values):
        raise ValueError("the same ratios for all levels")
    return _numbers(values[0])


def _size(value):
    if int(value) < 1:
        raise ValueError("a size above 0")
    return int(value)


def _trained(frozen):
    return max(0, 5 - int(frozen))


# Key -> (field, function of the value).
FIELDS = {
    "MODEL.RESNETS.STRIDE_IN_1X1": ("stride_in_1x1", bool),
    "MODEL.RESNETS.NORM": ("norm", _NORMS.__getitem__),
    "MODEL.BACKBONE.FREEZE_AT": ("trainable_layers", _trained),
    "MODEL.PIXEL_MEAN": ("pixel_mean", _reversed),
    "MODEL.PIXEL_STD": ("pixel_std", _reversed),
    "INPUT.MIN_SIZE_TEST": ("min_size", _size),
    "INPUT.MAX_SIZE_TEST": ("max_size", _size),
    "MODEL.ANCHOR_GENERATOR.SIZES": ("anchor_sizes", _one_a_level),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ("anchor_ratios", _same_ratios),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": ("train_pre_nms", int),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": ("train_post_nms", int),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": ("test_pre_nms", int),
    "MODEL.RPN.POST_NMS_TOPK_TEST": ("test_post_nms", int),
    "MODEL.RPN.NMS_THRESH": ("rpn_nms_threshold", float),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": ("rpn_samples", int),
    "MODEL.RPN.POSITIVE_FRACTION": ("rpn_positive_fraction", float),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ("rpn_box_weights", _numbers),
    "MODEL.RPN.SMOOTH_L1_BETA": ("rpn_smooth_l1_beta", float),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": ("roi_samples", int),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": ("roi_positive_fraction", float),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("score_threshold", float),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": ("nms_threshold", float),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ("box_weights", _numbers),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": ("smooth_l1_beta", float),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": ("box_pool_size", int),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": ("roi_sampling_ratio", int),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("roi_aligned", _ALIGNED.__getitem__),
    "TEST.DETECTIONS_PER_IMAGE": ("max_detections", int),
}
_THRESHOLDS = "MODEL.RPN.IOU_THRESHOLDS"  # two fields in one key
_POOLING = ("POOLER_TYPE", "POOLER_SAMPLING_RATIO")  # here of all heads


def read_config_yaml(path):
    """Read a config.yaml.

    Args:
        path: the file.

    Returns:
        The nested dictionary, or None if it is no config of Detectron2: other programs have files of this name.

    Raises:
        WeightFileError: it is no YAML, or larger than a config.
    """
    with reading(path, EXPECTED, REMEDY), open(path, "rb") as file:
        text = file.read(MEBIBYTE + 1)
        if len(text) > MEBIBYTE:
            raise ValueError(f"a file of more than {MEBIBYTE:,} bytes")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _check_depth(yaml.parse(text, Loader=loader))
        content = yaml.load(text, Loader=loader)
    return content if _at(content, "MODEL.META_ARCHITECTURE") is not None else None


def _check_depth(events):
    """Refuse deep nesting before anything is built. Aliases stay: Detectron2 writes them for equal tuples."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_NESTING:
            raise ValueError(f"more than {MOST_NESTING} dictionaries or lists inside each other")


def fields_of(content, path, found):
    """The fields of MaskRCNNConfig of a config, where it differs from nothing that is known.

    Args:
        content: from `read_config_yaml`. path: of the file, for messages.
        found: dict of the fields that the tensors show: backbone, num_classes, branches, cascade_ious.

    Returns:
        dict.

    Raises:
        ValueError: it belongs to other weights or to another kind of model; the message names the key.
    """
    missing = [key for key in _NEEDED if _at(content, key) is None]
    if missing or "_BASE_" in content:
        fault = f"without {', '.join(missing)}" if missing else "with _BASE_"
        raise ValueError(
            f"{path} must hold every key, as Detectron2 writes it into OUTPUT_DIR. Received one {fault}. Copy the one "
            "of the training, or move it away."
        )
    branches = [branch.name for branch in found["branches"]]
    cascade = bool(found["cascade_ious"])
    fixed = (FIXED | CASCADE if cascade else FIXED) | {
        "MODEL.RESNETS.DEPTH": (int(re.search(r"\d+", found["backbone"])[0]),),
        "MODEL.ROI_HEADS.NUM_CLASSES": (found["num_classes"],),
        "MODEL.MASK_ON": (False,),
        "MODEL.KEYPOINT_ON": (False,),
    }
    for name in branches:
        fixed |= OF_BRANCHES[name]
    _check(content, path, fixed)
    _check(content, path, _same_pooling(content, branches))
    given = {key: rule for key, rule in FIELDS.items() if _has(content, key)}
    fields = {name: _converted(content, path, key, change) for key, (name, change) in given.items()}
    if _has(content, _THRESHOLDS):
        low, high = _converted(content, path, _THRESHOLDS, _two_numbers)
        fields |= {"rpn_negative_iou": low, "rpn_positive_iou": high}
    if cascade and _has(content, _CASCADE_IOUS):
        fields["cascade_ious"] = _converted(content, path, _CASCADE_IOUS, _numbers)
    if "mask" in branches and _has(content, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"):
        side = _converted(content, path, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", _size)
        fields |= {"mask_pool_size": side, "mask_size": 2 * side}
    return fields


def _same_pooling(content, branches):
    """The heads' RoIAlign must be that of the box head: key -> values."""
    heads = [head for name, head in (("mask", "MASK"), ("keypoints", "KEYPOINT")) if name in branches]
    return {
        f"MODEL.ROI_{head}_HEAD.{key}": (_at(content, f"MODEL.ROI_BOX_HEAD.{key}"),)
        for head in heads
        for key in _POOLING
    }


def _check(content, path, allowed):
    for key, values in allowed.items():
        value = _at(content, key)
        value = list(value) if isinstance(value, tuple) else value
        if value is not None and not any(value == each for each in values):
            raise ValueError(
                f"{path} describes a model that is not read, or not of these weights: {key} must be "
                f"{' or '.join(map(_shown, values))}. Received: {_shown(value)}. Only models of such a config are "
                "converted."
            )


def _converted(content, path, key, change):
    value = _at(content, key)
    try:
        return change(value)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path}: {key} has a value that is not read. Received: {_shown(value)}"
            f"{f' ({error} is expected)' if type(error) is ValueError and str(error)[0].islower() else ''}. "
            "Correct it, or move the file away and name the nearest config instead."
        ) from error


def _has(content, key):
    return _at(content, key) is not None


def _at(content, key):
    """The value of a key, its parts joined by dots; None where there is none."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return None
        content = content[part]
    return content


def _shown(value):
    """A value for a message. Aliases can nest: what is inside lists of lists is not shown."""
    if isinstance(value, list | tuple) and len(value) < 20:
        return f"[{', '.join('...' if isinstance(each, list | tuple | dict) else repr(each)[:40] for each in value)}]"
    return "..." if isinstance(value, list | tuple | dict) else repr(value)[:80]
