"""Tensorpack's Mask R-CNNs with a ResNet and a pyramid, by the names of its model zoo.

Read from tensorpack/tensorpack, `examples/FasterRCNN/`: `config.py`, `common.py`, `eval.py` and `modeling/`. Its pixels
are BGR: the weights are turned to RGB when they are read, so mean and deviation stand here as RGB.

Its `finalize_configs` rounds MAX_SIZE up to a multiple of 32: a model that ran through it has max_size=1344.
What each name changes is in the README there.
"""

from keras_maskrcnn.families.labels import labels_of

# What all of them have in common, where it differs from MaskRCNNConfig's defaults.
ARITHMETIC = {
    "backbone": "resnet50",
    "size_rule": "round",  # CustomResize: int(x + 0.5)
    "resize": "opencv",
    "box_scaling": "mean",  # `predict_image`: one scale, sqrt(sx * sy)
    "mask_padding": False,
    "anchor_rounding": False,
    "rpn_min_size": 0.0,
    "smooth_l1_beta": 1.0,  # huber_loss
    "rpn_smooth_l1_beta": 1 / 9,
    "roi_sampling_ratio": 2,  # crop_and_resize of twice the size on a mirrored border, then the mean of 2x2
    "roi_aligned": True,
    "level_rule": "tensorpack",
    "min_box_size": 0.0,
    "mask_pasting": "detectron2",  # `_paste_mask`: pixel centres, zero beyond the mask, >= 0.5
    "trainable_layers": 3,  # BACKBONE.FREEZE_AT 2
}
# Of these, the ones that no config of the zoo changes: a model with other values has other numbers.
COMMON = {
    name: ARITHMETIC[name]
    for name in (
        "size_rule", "resize", "box_scaling", "mask_padding", "anchor_rounding", "roi_sampling_ratio", "roi_aligned",
        "level_rule", "min_box_size", "mask_pasting",
    )
}  # fmt: skip
# What a model needs so that the weights mean something; a warm start has no more of the above.
WARM = ("norm", "head_norm", "fpn_norm", "head_norm_place", "box_convs", "box_fcs")
MAX_SIZE = 1333  # PREPROC.MAX_SIZE
SMALLEST = 16  # pixels: dw and dh are limited to log(MAX_SIZE / 16)
CASCADE_IOUS = (0.5, 0.6, 0.7)  # CASCADE.IOUS; CASCADE.BBOX_REG_WEIGHTS are 1, 2 and 3 times (10, 10, 5, 5)
CONV_HEAD = {"box_convs": 4, "box_fcs": 1}  # fastrcnn_4conv1fc_{,gn_}head
# BACKBONE.NORM=GN, FPN.NORM=GN, fastrcnn_4conv1fc_gn_head, maskrcnn_up4conv_gn_head.
GROUP_NORM = {"norm": "group", "head_norm": "group", "head_norm_place": "after_relu", **CONV_HEAD}
_CASCADE = {"cascade_ious": CASCADE_IOUS}  # FPN.CASCADE=True
_R101 = {"backbone": "resnet101"}

# Name of a config -> what it changes of the above.
CONFIGS = {
    "COCO-MaskRCNN-R50FPN2x": {},
    "COCO-MaskRCNN-R101FPN1x": _R101,
    "COCO-MaskRCNN-R50FPN2xGN": GROUP_NORM,
    "COCO-MaskRCNN-R50FPN1xCas": _CASCADE,
    "COCO-MaskRCNN-R50FPN4xGNCasAug": {**GROUP_NORM, **_CASCADE},
    "COCO-MaskRCNN-R101FPN3xCasAug": {**_R101, **_CASCADE, "score_threshold": 1e-4},  # TEST.RESULT_SCORE_THRESH
    "COCO-MaskRCNN-R101FPN9xGNCasAugScratch": {
        **_R101,
        **GROUP_NORM,
        **_CASCADE,
        "trainable_layers": 5,  # BACKBONE.FREEZE_AT=0
    },
}


def config_name(name):
    """The key of `CONFIGS`: the name of a file, with or without its suffix.

    Raises:
        ValueError: there is no such config.
    """
    short = str(name).removesuffix(".npz").rsplit("/", 1)[-1]
    if short not in CONFIGS:
        raise ValueError(
            f"The name of a tensorpack model must be one of {', '.join(CONFIGS)}. Received: {name!r}. Models "
            "without a pyramid (C4) are not read."
        )
    return short


def fields(name, num_classes=80, overrides=()):
    """The fields of MaskRCNNConfig of one of tensorpack's models.

    Args:
        name: see `config_name`. num_classes: K, background not counted.
        overrides: dict of the fields that the caller sets; with class names or ids among them no labels are chosen, and
            the limit of a box's growth follows from its max_size.

    Returns:
        dict.
    """
    longest = dict(overrides).get("max_size", MAX_SIZE)
    sizes = {"max_size": longest, "max_box_growth": longest / SMALLEST}
    return {**ARITHMETIC, **sizes, **CONFIGS[config_name(name)], **labels_of(num_classes, overrides)}
