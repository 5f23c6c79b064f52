"""The values of config fields: counts, words, ranges, and which fields must agree."""

import math

from keras_maskrcnn.host.values import is_number
from keras_maskrcnn.settings.choices import BACKBONES, CHOICES


def check_values(config, imagenet_mean):
    """Every field lies in its range, and those agree that must; the types are right already.

    Args:
        config: MaskRCNNConfig.
        imagenet_mean: the default of `pixel_mean`, which belongs to 8-bit images alone.

    Raises:
        ValueError: a field's name, what it may be and what it is.
    """
    _check_counts(config)
    _check_choices(config)
    _check_pixels(config, imagenet_mean)
    _check_ranges(config)
    _check_geometry(config)
    _check_norm_place(config)
    _check_cascade(config)
    _check_tuned(config)


def _check_counts(config):
    if config.num_classes < 1:
        raise ValueError(
            "num_classes counts the object classes without background and is at least 1. "
            f"Received: {config.num_classes!r}. For one kind of object pass num_classes=1."
        )
    for name in ("class_names", "category_ids"):
        values = getattr(config, name)
        if values and len(values) != config.num_classes:
            raise ValueError(
                f"{name} must hold one entry for each of the num_classes={config.num_classes} classes, "
                f"background not counted. Received {len(values)}: {values}."
            )
    for name in (
        "min_size", "max_size", "fpn_channels", "rpn_convs", "rpn_samples", "train_pre_nms", "train_post_nms",
        "test_pre_nms", "test_post_nms", "roi_samples", "box_fcs", "box_features", "mask_convs", "mask_channels",
        "gt_mask_size", "max_detections", "max_instances", "detection_candidates", "box_pool_size",
        "mask_pool_size", "mask_size", "mask_samples", "rpn_channels",
    ):  # fmt: skip
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}. Correct it.")
    for name in ("box_convs", "roi_sampling_ratio"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative. Received: {getattr(config, name)}. Correct it.")


def _check_choices(config):
    if config.backbone not in BACKBONES and not str(config.backbone).startswith("keras:"):
        raise ValueError(
            f"backbone must be one of {BACKBONES}, or keras:NAME for a model of keras.applications. "
            f"Received: {config.backbone!r}."
        )
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}. Received: {getattr(config, name)!r}.")


def _check_pixels(config, imagenet_mean):
    mean, std = config.pixel_mean, config.pixel_std
    if len(mean) != len(std) or not mean:
        raise ValueError(
            "pixel_mean and pixel_std hold one number for each channel of the images. "
            f"Received {len(mean)} and {len(std)}: {mean} and {std}. `keras-maskrcnn check-data` measures them."
        )
    if min(std) <= 0:
        raise ValueError(
            "pixel_mean must be finite numbers and pixel_std finite ones above 0. "
            f"Received {mean} and {std}. A channel that never changes takes 1, or is better left out."
        )
    if config.image_dtype != "uint8" and mean == imagenet_mean:
        raise ValueError(
            f"pixel_mean and pixel_std must be those of the {config.image_dtype} images. Received ImageNet's, of "
            "8-bit RGB. Measure them with `keras-maskrcnn check-data`, or leave image_dtype at uint8."
        )


def _check_ranges(config):
    for name in ("anchor_sizes", "anchor_ratios", "rpn_box_weights", "box_weights"):
        values = getattr(config, name)
        if not values or min(values) <= 0:
            raise ValueError(f"{name} must hold numbers above 0. Received: {values}. Correct them.")
    for name in ("rpn_box_weights", "box_weights"):
        if len(getattr(config, name)) != 4:
            raise ValueError(
                f"{name} holds four numbers, for dx, dy, dw and dh. Received: {getattr(config, name)}. Give four."
            )
    if not config.max_box_growth >= 1:
        raise ValueError(f"max_box_growth is a factor of at least 1. Received: {config.max_box_growth}. Correct it.")
    if not 0 <= config.min_box_growth <= 1:
        raise ValueError(f"min_box_growth is a factor in 0..1. Received: {config.min_box_growth}. Correct it.")
    for name in ("rpn_min_size", "min_box_size", "smooth_l1_beta", "rpn_smooth_l1_beta"):
        if (getattr(config, name) or 0) < 0:
            raise ValueError(f"{name} must not be negative. Received: {getattr(config, name)}. Correct it.")


def _check_geometry(config):
    if len(config.anchor_sizes) != 5:
        raise ValueError(
            "anchor_sizes needs five sizes in network pixels, one for each of P2..P6. "
            f"Received: {config.anchor_sizes}. For small objects halve them: (16, 32, 64, 128, 256)."
        )
    doublings = math.log2(config.mask_size / config.mask_pool_size)
    if doublings < 0 or not doublings.is_integer():
        raise ValueError(
            "mask_size must be mask_pool_size times a power of two (14 gives 14, 28, 56, 112). "
            f"Received: mask_size={config.mask_size}, mask_pool_size={config.mask_pool_size}."
        )
    if config.image_scale is not None and not config.image_scale > 0:
        raise ValueError(
            f"image_scale is the factor that resizes every image, and above 0. Received: {config.image_scale}. "
            "With None the sides decide: min_size and max_size."
        )
    if config.trainable_layers not in range(6):
        raise ValueError(
            "trainable_layers counts the trained parts of the backbone (stem and four stages) and lies in 0..5. "
            f"Received: {config.trainable_layers!r}."
        )
    for name in ("norm_epsilon", "head_norm_epsilon"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1. Received: {getattr(config, name)!r}. Correct it.")
    if config.canvas == "square" and (config.max_size % 64 or config.image_scale is not None or config.mask_padding):
        raise ValueError(
            'canvas="square" takes a max_size that is a multiple of 64, no image_scale, and mask_padding=False. '
            f"Received: max_size={config.max_size}, image_scale={config.image_scale}, "
            f"mask_padding={config.mask_padding}. Take the numbers of MaskRCNNConfig.matterport."
        )
    if config.resize != "bilinear" and config.image_dtype != "uint8":
        raise ValueError(
            f'resize="{config.resize}" is a rule for 8-bit images. Received: image_dtype="{config.image_dtype}". '
            'Take resize="bilinear".'
        )
    if not config.rpn_negative_iou <= config.rpn_positive_iou:
        raise ValueError(
            "rpn_negative_iou must not exceed rpn_positive_iou. "
            f"Received: {config.rpn_negative_iou} and {config.rpn_positive_iou}. The paper has 0.3 and 0.7."
        )
    for name in (
        "score_threshold", "nms_threshold", "rpn_nms_threshold", "roi_iou", "roi_positive_fraction",
        "rpn_positive_fraction", "rpn_positive_iou", "rpn_negative_iou", "crowd_ioa",
    ):  # fmt: skip
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in 0..1. Received: {getattr(config, name)}. Correct it.")


def _check_norm_place(config):
    """Batch norm behind a ReLU could not be multiplied into the convolution, as every export does."""
    norms = {name: getattr(config, name) for name in ("head_norm", "fpn_norm")}
    if config.head_norm_place == "after_relu" and {"batch", "frozen_batch"} & {*norms.values()}:
        raise ValueError(
            'head_norm_place="after_relu" takes group norm, or none. '
            f'Received: {", ".join(f"{name}={norm!r}" for name, norm in norms.items())}. Take "before_relu".'
        )


def _check_cascade(config):
    """Stages cost as much as the first one each, and the paper finds no use for a fourth."""
    ious = config.cascade_ious
    if ious and not (2 <= len(ious) <= 5 and ious[0] == config.roi_iou and all(0 <= iou <= 1 for iou in ious)):
        raise ValueError(
            "cascade_ious holds an IoU in 0..1 for each of two to five stages, and begins with roi_iou. "
            f"Received: cascade_ious={repr(ious)[:200]}, roi_iou={config.roi_iou}. The paper has (0.5, 0.6, 0.7) and "
            "0.5; () is one stage."
        )


def _check_tuned(config):
    """Thresholds are scores, and tables of calibration keep the order of scores."""
    for name in ("class_thresholds", "calibration"):
        values = getattr(config, name)
        if values is not None and len(values) != config.num_classes:
            raise ValueError(
                f"{name} must hold one entry for each of the num_classes={config.num_classes} classes. "
                f"Received {len(values)}. Let `keras-maskrcnn tune` write it, or leave it at None."
            )
    for threshold in config.class_thresholds or ():
        if not 0 <= threshold <= 1:
            raise ValueError(f"class_thresholds must lie in 0..1. Received: {config.class_thresholds}. Correct them.")
    for table in config.calibration or ():
        if not _is_calibration(table):
            raise ValueError(
                "calibration needs points (score, probability) for each class, from score 0 to 1, scores ascending and "
                f"probabilities in 0..1 that do not fall. Received: {repr(table)[:200]}. "
                "Let `keras-maskrcnn tune` write it, or leave it at None."
            )


def _is_calibration(table):
    pairs = all(isinstance(point, tuple) and len(point) == 2 and all(map(is_number, point)) for point in table)
    if not pairs or len(table) < 2:
        return False
    scores, values = zip(*table, strict=True)
    ascending = all(a < b for a, b in zip(scores, scores[1:])) and all(a <= b for a, b in zip(values, values[1:]))
    return ascending and (scores[0], scores[-1]) == (0, 1) and 0 <= values[0] and values[-1] <= 1
