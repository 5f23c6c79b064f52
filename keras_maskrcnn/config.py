"""Every number of the model in one frozen dataclass, each with its unit and its source.

Comes in: keyword arguments of the user, or a dictionary read from a saved model. Goes out: `MaskRCNNConfig`.
Read by `model.py`, which hands plain numbers to the stages; no stage sees the config itself.
"""

import dataclasses
import math
import numbers
import typing

from keras_maskrcnn import branches as branch_room
from keras_maskrcnn.branches.mask import PASTING_RULES, TARGET_RULES
from keras_maskrcnn.families import detectron2, matterport
from keras_maskrcnn.host.values import is_number

BACKBONES = (
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
)  # fmt: skip
NORMS = ("frozen_batch", "batch", "group")
BACKBONE_NORMS = (*NORMS, "none")
AGGREGATIONS = ("average", "max")
IMAGE_DTYPES = ("uint8", "uint16", "float32")
CHOICES = {  # field -> its values; the first is the default
    "canvas": ("tight", "square"),
    "size_rule": ("floor", "round", "square"),
    "resize": ("bilinear", "pillow", "skimage"),
    "stem_pool": ("symmetric", "end"),
    "rpn_selection": ("level", "joint"),
    "roi_sampling": ("align", "crop"),
    "level_rule": ("torchvision", "detectron2", "matterport"),
    "detection_rule": ("each_class", "best_class"),
}
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


branches_for_dataset = branch_room.for_dataset  # for rooms that import the config alone


@dataclasses.dataclass(frozen=True)
class MaskRCNNConfig:
    """All hyper-parameters of a Mask R-CNN; the defaults are torchvision's v1 recipe unless a line says otherwise.

    "Paper" is He et al., Mask R-CNN, ICCV 2017; "FPN" is Lin et al., CVPR 2017; "Faster" is Ren et al., NIPS 2015.
    Pixels are network pixels (after resizing) unless a line says otherwise.

    Args:
        num_classes: number K of object classes, background not counted. Public labels are 0..K-1.
        class_names: K names; empty means "class 0", "class 1", ...
        category_ids: K ids of the dataset behind labels 0..K-1 (COCO's 1..90 with gaps); None means 1..K.
        backbone: one of "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"; "resnext50_32x4d" or
            "resnext101_32x8d" (Xie et al. 2017: grouped 3x3 convolutions); or "keras:NAME", a model of
            keras.applications with random weights: "keras:ConvNeXtTiny". `norm` does not apply to it.
        norm: "frozen_batch" (paper section 3.1: statistics of pre-training, never updated), "batch" (trained),
            or "group" (Wu and He 2018, 32 groups). From random weights choose "batch" or "group". "none" has biases
            instead: what `optimize_for_inference` makes of batch norm.
        norm_epsilon: added to the variance in the ResNet's norm (torchvision: 1e-5, but 0 with its COCO weights of
            v1, which were converted from Caffe2's; `weights="coco"` sets that).
        stride_in_1x1: True puts a bottleneck's stride on its first 1x1 convolution (the first published ResNet,
            Detectron2, matterport), False on the 3x3 (torchvision).
        stem_pool: where the maximum after the first convolution pads: "symmetric", or "end" (matterport): at the
            bottom and right only, which shifts the grid by a pixel.
        trainable_layers: parts of the backbone (stem and four stages) that train, counted from the last: 5 all, 3 not
            the stem and the first stage (paper's code and torchvision with pre-trained weights), 0 none. A plain
            keras.Model handed to `MaskRCNN` keeps the `trainable` flags of its own layers.
        min_size, max_size: pixels. The short side is resized to `min_size` unless the long side would pass
            `max_size` (paper section 3.1: 800; torchvision: 1333).
        size_rule: how the resized sides become whole pixels: "floor" (torchvision), "round" to nearest (Detectron2), or
            "square" (matterport): nothing is made smaller for `min_size`, and `max_size` is a limit of its own.
        resize: "bilinear" (float, half-pixel centres, no antialiasing: torchvision, tf.image), "pillow" (on 8-bit
            images, with antialiasing: Detectron2) or "skimage" (order 1, zeros beyond the border, cut to 8 bits:
            matterport). It is what Predictor does; training resizes and turns in one step, by the first rule.
        canvas: "tight" puts the image at the top left of the smallest canvas whose sides are multiples of 32. "square"
            (matterport) puts it in the centre of max_size x max_size black pixels; boxes then name their last pixel.
        image_scale: if set, network image = source image * image_scale, and min_size and max_size are unused.
            For microscopy and other data in which one pixel always has the same physical size.
        pixel_mean, pixel_std: of each channel, in the units of the pixels (ImageNet's 0.485.. and 0.229.. times 255,
            RGB, torchvision). Their length is the number of channels, `num_channels`; `check-data` measures them.
        image_dtype: what images are read as: "uint8" (16 bits and more are scaled to 0..255), "uint16" or "float32"
            (values as stored). `data.images` has the rules.
        mask_padding: True makes the padded border of a canvas behave as if it did not exist, so that an image
            gives the same result alone and in a batch. False reproduces torchvision, which lets biases of the
            padding reach the image's border.
        fpn_channels: channels of every pyramid level (FPN section 4: 256).
        head_norm: None, or a norm as above for the convolutions of FPN and heads, not of the RPN (torchvision v2:
            "batch").
        fpn_norm: a norm of the FPN alone, "none" included; None means that of the heads (matterport: "none").
        head_norm_epsilon: added to the variance in the norms of FPN and heads (matterport: 1e-3).
        anchor_sizes: square root of the anchor area on P2..P6, pixels (FPN section 4.1).
        anchor_ratios: anchor height over width (FPN section 4.1).
        anchor_rounding: True rounds the corners of anchors to whole pixels (torchvision), False does not (Detectron2,
            matterport).
        anchor_spacing: pixels from cell to cell of a level: "stride", or "canvas", which is canvas side // level side
            (torchvision's `AnchorGenerator`). They differ on P6 where a canvas is no multiple of 64.
        rpn_convs: number of 3x3 convolutions of the RPN head (paper 1, torchvision v2: 2).
        rpn_channels: their filters; None means fpn_channels (matterport: 512).
        rpn_positive_iou, rpn_negative_iou: anchor matching thresholds (Faster section 3.1.2).
        rpn_samples, rpn_positive_fraction: anchors per image in the RPN loss (Faster section 3.1.3).
        rpn_box_weights: box coder weights of the RPN.
        max_box_growth: largest factor from an anchor's or proposal's side to that of its refined box (torchvision and
            Detectron2: 1000 / 16; matterport has no limit).
        rpn_selection: "level" keeps the best anchors of each level and runs NMS on each (torchvision, Detectron2);
            "joint" (matterport) takes all levels together: one ranking by score, one NMS, rows of zeros up to the
            full number.
        train_pre_nms, train_post_nms, test_pre_nms, test_post_nms: proposals kept per level before NMS and over
            all levels after it (FPN section 4.1; torchvision). With rpn_selection="joint" all four are of all levels.
        rpn_nms_threshold: IoU (Faster section 3.3).
        rpn_min_size: proposals with a shorter side are dropped, pixels (torchvision); 0 drops none.
        roi_samples, roi_positive_fraction: RoIs per image for the heads (paper section 3.1: N = 512, 1:3).
        roi_iou: RoIs with at least this IoU are positive, others negative (paper section 3.1).
        mask_samples: positive RoIs per image in the mask loss; None means all that are sampled (paper).
        crowd_ioa: anchors and RoIs of which a larger share lies in a crowd region are neither positive nor negative.
        box_weights: box coder weights of the box head (torchvision).
        smooth_l1_beta: where smooth L1 turns from square to linear (torchvision: 1/9); 0 is L1 (Detectron2).
        rpn_smooth_l1_beta: the same for the RPN; None means as for the box head.
        roi_sampling_ratio, roi_aligned, roi_aggregation: RoIAlign (paper section 3; torchvision: 2, False, "average";
            Detectron2: 0, True).
        roi_sampling: "align" is RoIAlign; "crop" (matterport: tf.image.crop_and_resize) reads one point per bin, the
            outer ones on the box's border, and the three fields above have no effect.
        level_rule: rounding of the pyramid level of a RoI (FPN eq. 1), which differs where a box lies on the border of
            two levels: "torchvision", "detectron2", or "matterport", which rounds to the nearest level.
        box_pool_size, mask_pool_size: RoIAlign bins per side (paper figure 4: 7 and 14).
        box_convs, box_fcs, box_features: box head layers and width (paper: 0, 2, 1024; torchvision v2: 4, 1, 1024).
        mask_convs, mask_channels: mask head layers and width (paper figure 4: 4 and 256).
        mask_size: mask logits per side; mask_pool_size times a power of two (paper: 28).
        gt_mask_size: ground-truth masks are squares of this many cells per side in the frame of their box.
        score_threshold, nms_threshold, max_detections: final detections (torchvision: 0.05, 0.5, 100).
        class_thresholds: None, or K scores: detections of each class score more than this, unless a user of the model
            gives a threshold. calibration: None, or K tables of points (score, probability), which replace a score by
            the probability between its neighbours; they do not fall. `score_threshold` is of scores before
            calibration, `class_thresholds` of scores after it. `keras-maskrcnn tune` finds both (docs/tuning.md).
        class_agnostic_nms: True lets a detection suppress those of other classes too.
        max_instances: ground-truth objects per image that the loader keeps.
        detection_candidates: highest-scoring (RoI, class) pairs per image that enter the final NMS. Ours: a static
            bound for compiled backends, far above what passes the score threshold in practice.
        detection_rule: "each_class" scores every class of every RoI (paper, torchvision, Detectron2); "best_class"
            (matterport) keeps the best class of a RoI, background included, and accepts a score equal to the threshold.
        min_box_size: final boxes with a shorter side are dropped, pixels (torchvision: 1e-2; Detectron2: 0, boxes
            without area are left out of what Predictor returns).
        mask_pasting: "subpixel" samples masks at pixel centres in the exact box; "detectron2" does the same, and a
            pixel of exactly 0.5 belongs to the object; "torchvision" rounds boxes to whole pixels first; "matterport"
            has whole boxes and resizes by scikit-image's rule.
        mask_targets: how ground-truth masks become targets. "subpixel": pixel centres lie at x + 0.5, 2x2 points a
            bin. "torchvision" (`project_masks_on_boxes`): RoIAlign with aligned=False, so half a pixel further, and
            about one point a pixel. "detectron2": RoIAlign with aligned=True and about one point a pixel, then 0 or 1.
        branches: what is predicted beside class and box (paper section 3): "mask", "keypoints" (of COCO's persons), or
            objects of subclasses of `keras_maskrcnn.branches.Branch`. Strings become objects. () is a Faster R-CNN on
            a pyramid.
    """

    num_classes: int
    class_names: tuple = ()
    category_ids: tuple | None = None
    backbone: str = "resnet50"
    norm: str = "frozen_batch"
    norm_epsilon: float = 1e-5
    stride_in_1x1: bool = False
    stem_pool: str = "symmetric"
    trainable_layers: int = 5
    min_size: int = 800
    max_size: int = 1333
    size_rule: str = "floor"
    resize: str = "bilinear"
    canvas: str = "tight"
    image_scale: float | None = None
    pixel_mean: tuple = IMAGENET_MEAN
    pixel_std: tuple = IMAGENET_STD
    image_dtype: str = "uint8"
    mask_padding: bool = True
    fpn_channels: int = 256
    head_norm: str | None = None
    fpn_norm: str | None = None
    head_norm_epsilon: float = 1e-5
    anchor_sizes: tuple = (32, 64, 128, 256, 512)
    anchor_ratios: tuple = (0.5, 1.0, 2.0)
    anchor_rounding: bool = True
    anchor_spacing: str = "stride"
    rpn_convs: int = 1
    rpn_channels: int | None = None
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_box_weights: tuple = (1.0, 1.0, 1.0, 1.0)
    max_box_growth: float = 1000 / 16
    rpn_selection: str = "level"
    train_pre_nms: int = 2000
    train_post_nms: int = 2000
    test_pre_nms: int = 1000
    test_post_nms: int = 1000
    rpn_nms_threshold: float = 0.7
    rpn_min_size: float = 1e-3
    roi_samples: int = 512
    roi_positive_fraction: float = 0.25
    roi_iou: float = 0.5
    mask_samples: int | None = None
    crowd_ioa: float = 0.5
    box_weights: tuple = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: float = 1 / 9
    rpn_smooth_l1_beta: float | None = None
    roi_sampling_ratio: int = 2
    roi_aligned: bool = False
    roi_aggregation: str = "average"
    roi_sampling: str = "align"
    level_rule: str = "torchvision"
    box_pool_size: int = 7
    mask_pool_size: int = 14
    box_convs: int = 0
    box_fcs: int = 2
    box_features: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    mask_size: int = 28
    gt_mask_size: int = 56
    score_threshold: float = 0.05
    class_thresholds: tuple | None = None
    calibration: tuple | None = None
    nms_threshold: float = 0.5
    class_agnostic_nms: bool = False
    max_detections: int = 100
    max_instances: int = 100
    detection_candidates: int = 4096
    detection_rule: str = "each_class"
    min_box_size: float = 1e-2
    mask_pasting: str = "subpixel"
    mask_targets: str = "subpixel"
    branches: tuple = ("mask",)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _tuples(value) if field.name == "calibration" else tuple(value))
            elif isinstance(value, float) and value.is_integer() and float not in _types_of(field):
                object.__setattr__(self, field.name, int(value))
        object.__setattr__(self, "branches", branch_room.resolve(self.branches))
        _check_types(self)
        _check_counts(self)
        _check_choices(self)
        _check_pixels(self)
        _check_ranges(self)
        _check_geometry(self)
        _check_tuned(self)
        if not self.class_names:
            names = tuple(f"class {k}" for k in range(self.num_classes))
            object.__setattr__(self, "class_names", names)
        if self.category_ids is None:
            object.__setattr__(self, "category_ids", tuple(range(1, self.num_classes + 1)))

    def to_dict(self):
        """The config as JSON-ready values; `from_dict` inverts it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["branches"] = branch_room.describe(self.branches)
        values["calibration"] = _lists(self.calibration)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values):
        """A config from `to_dict`'s values. Raises ValueError on a name that is no field, and on a wrong value."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or "num_classes" not in values:
            raise ValueError(
                "A MaskRCNNConfig is made of a dictionary of its fields, num_classes among them. "
                f"Received: {repr(values)[:200]}. `to_dict` of another config gives one."
            )
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"A MaskRCNNConfig has no field {', '.join(unknown)}. Received: {sorted(values)}. "
                f"Its fields are {sorted(known)}: remove or rename the unknown ones."
            )
        return cls(**values)

    @classmethod
    def detectron2(cls, name="mask_rcnn_R_50_FPN_3x", num_classes=None, **overrides):
        """Detectron2's arithmetic: the numbers of its model zoo, for its `.pkl` and `.pth` files.

        Args:
            name: a config of Detectron2's model zoo; `families/detectron2.py` lists them.
            num_classes: K, background not counted. 80 are COCO's, with their names and ids. None: 80, or 1, persons,
                for a Keypoint R-CNN.
            **overrides: fields of this class.

        Raises:
            ValueError: no such config, or a wrong field.
        """
        return cls(**{**detectron2.fields(name, num_classes, overrides), **overrides})

    @classmethod
    def matterport(cls, backbone="resnet101", num_classes=80, min_dim=800, max_dim=1024, **overrides):
        """The arithmetic of matterport's Mask_RCNN, for `km.load_weights` with its `.h5` files.

        Args:
            backbone: "resnet50" or "resnet101", its BACKBONE.
            num_classes: K, background not counted: its NUM_CLASSES less one. 80 are COCO's, with names and ids.
            min_dim, max_dim: its IMAGE_MIN_DIM and IMAGE_MAX_DIM, pixels; the latter is a multiple of 64.
            **overrides: fields of this class.

        Raises:
            ValueError: a wrong number or field.
        """
        return cls(**{**matterport.fields(backbone, num_classes, min_dim, max_dim, overrides), **overrides})

    @property
    def num_channels(self):
        """Channels of the images: one for each entry of `pixel_mean`."""
        return len(self.pixel_mean)

    @property
    def lowest_score(self):
        """The least score threshold that makes a difference: with calibration, `score_threshold` is of other scores."""
        return self.score_threshold if self.calibration is None else 0.0

    @property
    def tuned(self):
        """Whether `keras-maskrcnn tune` changed the scores or their thresholds."""
        return self.class_thresholds is not None or self.calibration is not None

    @property
    def roi_align(self):
        """RoIAlign's options, the same for every head: keyword arguments of `MultiLevelRoIAlign`."""
        return {
            "sampling_ratio": self.roi_sampling_ratio,
            "aligned": self.roi_aligned,
            "aggregation": self.roi_aggregation,
            "sampling": self.roi_sampling,
            "level_rule": self.level_rule,
        }

    @property
    def max_positive_rois(self):
        """Most positive RoIs per image that the sampler draws."""
        return max(1, int(self.roi_samples * self.roi_positive_fraction))

    @property
    def max_mask_rois(self):
        """Positive RoIs per image that enter the mask loss."""
        return min(self.max_positive_rois, self.mask_samples or self.max_positive_rois)

    @property
    def max_log_scale(self):
        """Largest `dw`, `dh` of the box coder."""
        return math.log(self.max_box_growth)


# Types -------------------------------------------------------------------------------------------------------

_MOST = 2**31 - 1  # of whole numbers: sizes and counts become 32-bit integers
_TYPE_NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False", tuple: "a sequence"}
_ENTRIES = {  # field of several entries -> the type of each
    "class_names": str,
    "category_ids": int,
    "pixel_mean": float,
    "pixel_std": float,
    "anchor_sizes": float,
    "anchor_ratios": float,
    "rpn_box_weights": float,
    "box_weights": float,
    "class_thresholds": float,
    "calibration": tuple,
}


def _tuples(value):
    """Nested lists as nested tuples."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _lists(value):
    """Nested tuples as nested lists, which JSON and Keras keep as they are."""
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _types_of(field):
    """The types that a field's annotation allows, without None."""
    return tuple(kind for kind in typing.get_args(field.type) or (field.type,) if kind is not type(None))


def _is_a(value, kind):
    """Whether a value is of a type: numpy's numbers count as numbers, True and False do not."""
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(value) <= _MOST
    if kind is float:
        return is_number(value)
    return isinstance(value, kind)


def _check_types(config):
    """Every field has a value of its annotation's type; numbers are finite."""
    for field in dataclasses.fields(config):
        value, kinds = getattr(config, field.name), _types_of(field)
        given = field.default is None and value is None or any(_is_a(value, kind) for kind in kinds)
        entry = _ENTRIES.get(field.name)
        if given and (value is None or entry is None or all(_is_a(each, entry) for each in value)):
            continue
        wanted = _TYPE_NAMES[kinds[0]] if entry is None else f"a sequence, each entry {_TYPE_NAMES[entry]}"
        default = "" if field.default is dataclasses.MISSING else f" The default is {field.default!r}."
        raise ValueError(f"{field.name} must be {wanted}. Received: {repr(value)[:200]}. Correct it.{default}")


# Values ------------------------------------------------------------------------------------------------------


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
    for name, choices in (
        ("norm", BACKBONE_NORMS),
        ("head_norm", (None, *NORMS)),
        ("fpn_norm", (None, *BACKBONE_NORMS)),
        ("roi_aggregation", AGGREGATIONS),
        ("mask_pasting", PASTING_RULES),
        ("mask_targets", tuple(TARGET_RULES)),
        *CHOICES.items(),
        ("anchor_spacing", ("stride", "canvas")),
        ("image_dtype", IMAGE_DTYPES),
    ):
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}. Received: {getattr(config, name)!r}.")


def _check_pixels(config):
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
    if config.image_dtype != "uint8" and mean == IMAGENET_MEAN:
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
        raise ValueError(f"image_scale must be positive. Received: {config.image_scale}.")
    if config.trainable_layers not in range(6):
        raise ValueError(
            "trainable_layers counts the trained parts of the backbone (stem and four stages) and lies in 0..5. "
            f"Received: {config.trainable_layers!r}."
        )
    for name in ("norm_epsilon", "head_norm_epsilon"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in 0..1. Received: {getattr(config, name)!r}. Correct it.")
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
            f"Received: {config.rpn_negative_iou} and {config.rpn_positive_iou}."
        )
    for name in (
        "score_threshold", "nms_threshold", "rpn_nms_threshold", "roi_iou", "roi_positive_fraction",
        "rpn_positive_fraction", "rpn_positive_iou", "rpn_negative_iou", "crowd_ioa",
    ):  # fmt: skip
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in 0..1. Received: {getattr(config, name)}. Correct it.")


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
