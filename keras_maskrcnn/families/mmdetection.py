"""MMDetection's Mask R-CNNs with a ResNet and a pyramid, versions 2 and 3, by the names of its configs.

Read from open-mmlab/mmdetection: `configs/_base_/models/mask-rcnn_r50_fpn.py`, `configs/mask_rcnn/`, `mmdet/models/`.
Configs of "caffe" style have BGR pixels without a deviation and the stride in the 1x1 convolution: their weights are
turned to RGB when they are read, so the mean stands here as RGB.
"""

from keras_maskrcnn.families.labels import labels_of

# What all of them have in common, where it differs from MaskRCNNConfig's defaults.
ARITHMETIC = {
    "backbone": "resnet50",
    "size_rule": "round",  # mmcv.rescale_size: int(x + 0.5)
    "resize": "opencv",
    "mask_padding": False,
    "anchor_rounding": False,
    "rpn_min_size": 1e-30,  # min_bbox_size 0: width and height > 0
    "train_post_nms": 1000,
    "min_box_growth": 16 / 1000,  # DeltaXYWHBBoxCoder's wh_ratio_clip, on both sides
    "smooth_l1_beta": 0.0,  # L1Loss
    "roi_sampling_ratio": 0,
    "roi_aligned": True,
    "level_rule": "mmdetection",
    "min_box_size": 0.0,
    "mask_pasting": "detectron2",  # `_do_paste_mask`, and >= mask_thr_binary
    "mask_targets": "detectron2",
    "gt_mask_size": 112,
    "trainable_layers": 3,  # frozen_stages 1
}
# Of these, the ones that no config of the zoo changes: a model with other values has other numbers.
COMMON = {
    name: ARITHMETIC[name]
    for name in (
        "size_rule", "resize", "mask_padding", "anchor_rounding", "min_box_growth", "roi_sampling_ratio", "roi_aligned",
        "level_rule", "min_box_size", "mask_pasting",
    )
}  # fmt: skip
# What a model needs so that the weights mean something; a warm start has no more of the above.
WARM = ("norm", "head_norm", "stride_in_1x1", "pixel_mean", "pixel_std")
CAFFE = {"stride_in_1x1": True, "pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (1.0, 1.0, 1.0)}
_DEPTHS = {"50": "resnet50", "101": "resnet101"}
_SCHEDULES = {
    "": ("1x", "2x", "poly_1x", "mstrain-poly_3x"),
    "_caffe": ("1x", "mstrain_1x", *(f"mstrain-poly_{epochs}x" for epochs in (1, 2, 3))),
}

# Name of a config of version 2 -> what it changes of the above.
CONFIGS = {
    f"mask_rcnn_r{depth}{style}_fpn_{schedule}_coco": {"backbone": backbone, **(CAFFE if style else {})}
    for depth, backbone in _DEPTHS.items()
    for style, schedules in _SCHEDULES.items()
    for schedule in schedules
}


def config_name(name):
    """The key of `CONFIGS`: the name of a config of version 2 or 3, with or without its folder and suffix.

    Version 3 writes mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco for mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco.

    Raises:
        ValueError: there is no such config.
    """
    short = str(name).removesuffix(".py").removesuffix(".pth").rsplit("/", 1)[-1]
    plain = short.replace("mask-rcnn", "mask_rcnn").replace("-caffe", "_caffe").replace("ms-poly-", "mstrain-poly_")
    plain = plain if plain.endswith("_coco") else f"{plain}_coco"
    if plain not in CONFIGS:
        raise ValueError(
            f"The name of an MMDetection config must be one of {', '.join(CONFIGS)}. Received: {name!r}. Take the one "
            "that is nearest to yours, and pass what differs as fields of MaskRCNNConfig."
        )
    return plain


def fields(name, num_classes=80, overrides=()):
    """The fields of MaskRCNNConfig of one of MMDetection's configs.

    Args:
        name: see `config_name`. num_classes: K, background not counted.
        overrides: names of the fields that the caller sets; with class names or ids among them no labels are chosen.

    Returns:
        dict.
    """
    return {**ARITHMETIC, **CONFIGS[config_name(name)], **labels_of(num_classes, overrides)}
