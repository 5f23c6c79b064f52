"""The model of matterport/Mask_RCNN (commit 3deaec5d): `mrcnn/model.py`, `utils.py`, `config.py`."""

from keras_maskrcnn.families.labels import labels_of

ARITHMETIC = {
    "norm": "frozen_batch",  # TRAIN_BN False
    "norm_epsilon": 1e-3,
    "head_norm": "frozen_batch",
    "head_norm_epsilon": 1e-3,
    "fpn_norm": "none",
    "stride_in_1x1": True,
    "stem_pool": "end",
    "size_rule": "square",
    "resize": "skimage",
    "canvas": "square",
    "mask_padding": False,
    "pixel_mean": (123.7, 116.8, 103.9),
    "pixel_std": (1.0, 1.0, 1.0),
    "anchor_ratios": (2.0, 1.0, 0.5),  # RPN_ANCHOR_RATIOS, width over height there: 0.5, 1, 2
    "anchor_rounding": False,
    "rpn_channels": 512,
    "rpn_box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_box_growth": 1e30,  # no limit
    "rpn_selection": "joint",
    "train_pre_nms": 6000,
    "test_pre_nms": 6000,
    "train_post_nms": 2000,
    "test_post_nms": 1000,
    "rpn_min_size": 0.0,
    "roi_samples": 200,
    "roi_positive_fraction": 0.33,
    "smooth_l1_beta": 1.0,
    "roi_sampling": "crop",
    "level_rule": "matterport",
    "detection_rule": "best_class",
    "score_threshold": 0.7,
    "nms_threshold": 0.3,
    "min_box_size": 0.0,
    "mask_pasting": "matterport",
}
# What a model needs so that the weights mean something; a warm start has no more of the above.
WARM = (
    "norm", "norm_epsilon", "head_norm", "head_norm_epsilon", "fpn_norm", "stride_in_1x1", "pixel_mean", "pixel_std",
    "anchor_ratios", "rpn_channels", "rpn_box_weights",
)  # fmt: skip
# What no user of matterport's code chooses: a model with other values has other numbers.
COMMON = {
    name: ARITHMETIC[name]
    for name in (
        "norm_epsilon", "head_norm_epsilon", "stride_in_1x1", "stem_pool", "size_rule", "resize", "canvas",
        "mask_padding", "anchor_rounding", "rpn_box_weights", "max_box_growth", "rpn_selection", "roi_sampling",
        "level_rule", "detection_rule", "mask_pasting",
    )
}  # fmt: skip


def fields(backbone, num_classes, min_dim, max_dim, overrides=()):
    """The fields of MaskRCNNConfig of a matterport model.

    Args:
        backbone: "resnet50" or "resnet101". num_classes: K, background not counted.
        min_dim, max_dim: IMAGE_MIN_DIM and IMAGE_MAX_DIM, pixels.
        overrides: names of the fields that the caller sets.

    Returns:
        dict.
    """
    if backbone not in ("resnet50", "resnet101"):
        raise ValueError(
            f'backbone must be "resnet50" or "resnet101", as in matterport\'s code. Received: {backbone!r}.'
        )
    sizes = {"backbone": backbone, "min_size": min_dim, "max_size": max_dim}
    return {**ARITHMETIC, **sizes, **labels_of(num_classes, overrides)}
