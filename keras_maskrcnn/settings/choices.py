"""The values of every config field that is a choice of words."""

from keras_maskrcnn.branches.mask import PASTING_RULES, TARGET_RULES

BACKBONES = (
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
)  # fmt: skip
NORMS = ("frozen_batch", "batch", "group")
CHOICES = {  # field -> its values
    "norm": (*NORMS, "none"),
    "head_norm": (None, *NORMS),
    "fpn_norm": (None, *NORMS, "none"),
    "head_norm_place": ("before_relu", "after_relu"),
    "canvas": ("tight", "square"),
    "size_rule": ("floor", "round", "square"),
    "resize": ("bilinear", "pillow", "opencv", "skimage"),
    "box_scaling": ("sides", "mean"),
    "image_dtype": ("uint8", "uint16", "float32"),
    "stem_pool": ("symmetric", "end"),
    "anchor_spacing": ("stride", "canvas"),
    "rpn_selection": ("level", "joint"),
    "roi_aggregation": ("average", "max"),
    "roi_sampling": ("align", "crop"),
    "level_rule": ("torchvision", "detectron2", "matterport", "tensorpack", "mmdetection"),
    "detection_rule": ("each_class", "best_class"),
    "mask_pasting": PASTING_RULES,
    "mask_targets": tuple(TARGET_RULES),
}
