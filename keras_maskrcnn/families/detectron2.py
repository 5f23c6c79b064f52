"""Detectron2's Mask, Keypoint, PointRend and Cascade R-CNNs with a ResNet and a pyramid, by the names of its model zoo.

Read from facebookresearch/detectron2 at 02b5c4e2: `config/defaults.py`, `configs/Base-RCNN-FPN.yaml`, and the file of
each name below. Its pixels are BGR: the weights are turned to RGB when they are read, so mean and deviation stand here
as RGB.
"""

from keras_maskrcnn.families.labels import labels_of

# What all of them have in common, where it differs from MaskRCNNConfig's defaults.
ARITHMETIC = {
    "backbone": "resnet50",
    "stride_in_1x1": True,  # RESNETS.STRIDE_IN_1X1
    "size_rule": "round",  # ResizeShortestEdge: int(x + 0.5)
    "resize": "pillow",  # ResizeTransform on uint8
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (1.0, 1.0, 1.0),
    "mask_padding": False,
    "anchor_rounding": False,
    "rpn_min_size": 1e-30,  # Boxes.nonempty: width and height > 0
    "train_post_nms": 1000,
    "smooth_l1_beta": 0.0,  # L1
    "roi_sampling_ratio": 0,  # ROIAlignV2
    "roi_aligned": True,
    "level_rule": "detectron2",
    "min_box_size": 0.0,
    "mask_pasting": "detectron2",
    "mask_targets": "detectron2",
    "gt_mask_size": 112,
    "trainable_layers": 3,  # BACKBONE.FREEZE_AT 2
}
# Of these, the ones that no config of the zoo changes: a model with other values has other numbers.
COMMON = {
    name: ARITHMETIC[name]
    for name in (
        "size_rule", "resize", "pixel_mean", "mask_padding", "anchor_rounding", "level_rule", "min_box_size",
        "mask_pasting",
    )
}  # fmt: skip
# What a model needs so that the weights mean something; a warm start has no more of the above.
WARM = (
    "stride_in_1x1",
    "norm",
    "head_norm",
    "rpn_convs",
    "box_convs",
    "box_fcs",
    "pixel_mean",
    "pixel_std",
)
DEVIATION = (58.395, 57.12, 57.375)  # where PIXEL_STD is not 1
_CONV_HEAD = {"box_convs": 4, "box_fcs": 1}
_BATCH = {"norm": "batch", "head_norm": "batch", **_CONV_HEAD}
_GROUP = {"norm": "group", "head_norm": "group", "stride_in_1x1": False, **_CONV_HEAD}
_SCRATCH = {"trainable_layers": 5}
_LSJ = {**_BATCH, **_SCRATCH, "rpn_convs": 2}
_DETECTRON1 = {"smooth_l1_beta": 1.0, "rpn_smooth_l1_beta": 0.1111, "roi_sampling_ratio": 2, "roi_aligned": False}
_R101 = {"backbone": "resnet101"}
_X101 = {"backbone": "resnext101_32x8d", "stride_in_1x1": False, "pixel_std": DEVIATION}
_LVIS = {"score_threshold": 1e-4, "max_detections": 300}
# Options of branches: `keypoint_rcnn_inference`, and the half pixel that `datasets/coco.py` adds to COCO's keypoints.
BRANCH_OPTIONS = {"keypoints": {"score": "probability", "offset": 0.5}}
# configs/COCO-Keypoints/Base-Keypoint-RCNN-FPN.yaml
_KEYPOINTS = {
    "branches": ({"built_in": "keypoints", **BRANCH_OPTIONS["keypoints"]},),
    "smooth_l1_beta": 0.5,
    "rpn_smooth_l1_beta": 0.0,
    "train_post_nms": 1500,
}
# configs/Misc/cascade_mask_rcnn_R_50_FPN_{1x,3x}.yaml; ROI_BOX_CASCADE_HEAD.IOUS
_CASCADE = {"cascade_ious": (0.5, 0.6, 0.7), "train_post_nms": 2000}
_PERSON = {"class_names": ("person",), "category_ids": (1,)}

# Name of a config -> what it changes of the above.
CONFIGS = {
    "mask_rcnn_R_50_FPN_1x": {},
    "mask_rcnn_R_50_FPN_3x": {},
    "mask_rcnn_R_101_FPN_3x": _R101,
    "mask_rcnn_X_101_32x8d_FPN_3x": _X101,
    "mask_rcnn_R_50_FPN_noaug_1x": _DETECTRON1,
    "mask_rcnn_R_50_FPN": {"min_size": 1024, "max_size": 2048},  # of Cityscapes
    "mask_rcnn_R_50_FPN_3x_gn": _GROUP,
    "scratch_mask_rcnn_R_50_FPN_3x_gn": _GROUP | _SCRATCH,
    "scratch_mask_rcnn_R_50_FPN_9x_gn": _GROUP | _SCRATCH | {"pixel_std": DEVIATION},
    "mask_rcnn_R_50_FPN_3x_syncbn": _BATCH,
    "scratch_mask_rcnn_R_50_FPN_9x_syncbn": _BATCH | _SCRATCH | {"stride_in_1x1": False, "pixel_std": DEVIATION},
    **{f"mask_rcnn_R_50_FPN_{epochs}ep_LSJ": _LSJ for epochs in (100, 200, 400)},
    **{f"mask_rcnn_R_101_FPN_{epochs}ep_LSJ": _LSJ | _R101 for epochs in (100, 200, 400)},
    **{f"cascade_mask_rcnn_R_50_FPN_{length}": _CASCADE for length in ("1x", "3x")},
}
CONFIGS |= {
    f"keypoint_rcnn_{trunk}": {**_KEYPOINTS, **fields}
    for trunk, fields in {
        "R_50_FPN_1x": {}, "R_50_FPN_3x": {}, "R_101_FPN_3x": _R101, "X_101_32x8d_FPN_3x": _X101
    }.items()
}  # fmt: skip
# projects/PointRend/configs/InstanceSegmentation/Base-PointRend-RCNN-FPN.yaml. Its ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
# which trains masks on refined boxes, has no counterpart here.
CONFIGS |= {
    f"pointrend_rcnn_{trunk}": {"branches": ("pointrend",), **fields}
    for trunk, fields in {
        "R_50_FPN_1x": {}, "R_50_FPN_3x": {}, "R_101_FPN_3x": _R101, "X_101_32x8d_FPN_3x": _X101,
        "R_50_FPN_1x_cityscapes": {"min_size": 1024, "max_size": 2048},
    }.items()
}  # fmt: skip
LVIS_FOLDER = "LVISv0.5-InstanceSegmentation/"
CONFIGS |= {
    f"{LVIS_FOLDER}mask_rcnn_{trunk}_FPN_1x": {**fields, **_LVIS}
    for trunk, fields in {"R_50": {}, "R_101": _R101, "X_101_32x8d": _X101}.items()
}


def config_name(name):
    """The key of `CONFIGS`: the name of a file, with or without its folder and suffix; PointRend's end in _coco.

    Raises:
        ValueError: there is no such config.
    """
    short = str(name).removesuffix(".yaml").removesuffix(".py").removeprefix("configs/")
    short = short if short.startswith(LVIS_FOLDER) else short.rsplit("/", 1)[-1].removesuffix("_coco")
    if short not in CONFIGS:
        raise ValueError(
            f"The name of a Detectron2 config must be one of {', '.join(CONFIGS)}. Received: {name!r}. Take the one "
            "that is nearest to yours, and pass what differs as fields of MaskRCNNConfig."
        )
    return short


def fields(name, num_classes, overrides=()):
    """The fields of MaskRCNNConfig of one of Detectron2's configs.

    Args:
        name: see `config_name`. num_classes: K, background not counted; None: COCO's 80, persons for keypoints.
        overrides: names of the fields that the caller sets; with class names or ids among them no labels are chosen.

    Returns:
        dict.
    """
    chosen = CONFIGS[config_name(name)]
    labels = labels_of(80 if num_classes is None else num_classes, overrides)
    if chosen.get("branches") == _KEYPOINTS["branches"] and num_classes in (None, 1):
        labels = {"num_classes": 1} if set(_PERSON) & set(overrides) else {"num_classes": 1, **_PERSON}
    return {**ARITHMETIC, **chosen, **labels}
