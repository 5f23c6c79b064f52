"""Every number of the model in one frozen dataclass, each with its unit and its source.

Comes in: keyword arguments of the user, or a dictionary read from a saved model. Goes out: `MaskRCNNConfig`.
Read by `model.py` and `box_stages/`, which hand plain numbers to the stages of `network/`; none sees the config itself.
"""

import dataclasses
import math

from keras_maskrcnn import branches as branch_room
from keras_maskrcnn.families import detectron2, matterport, mmdetection, tensorpack
from keras_maskrcnn.settings.ranges import check_values
from keras_maskrcnn.settings.types import as_lists, check_types, normalized

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
CASCADE_IOUS = (0.5, 0.6, 0.7)  # of `train --cascade`: Cai and Vasconcelos 2018, section 4.2

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
            images, with antialiasing: Detectron2), "opencv" (on 8-bit images, no antialiasing, weights of 11 bits:
            tensorpack, MMDetection) or "skimage" (order 1, zeros beyond the border, cut to 8 bits: matterport). It is
            what Predictor does; training resizes and turns in one step, by the first rule.
        box_scaling: from network to image pixels by the quotient of each of the two "sides", or by the geometric "mean"
            of both (tensorpack).
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
        head_norm_place: where the norm of FPN and heads stands: "before_relu" (torchvision, Detectron2), or
            "after_relu" (tensorpack: convolution with bias, ReLU where there is one, group norm).
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
            Detectron2: 1000 / 16; tensorpack: max_size / 16; matterport has no limit).
        min_box_growth: the smallest factor; 0: no limit (MMDetection: 16 / 1000).
        rpn_selection: "level" keeps the best anchors of each level and runs NMS on each (torchvision, Detectron2);
            "joint" (matterport) takes all levels together: one ranking by score, one NMS, rows of zeros up to the
            full number.
        train_pre_nms, train_post_nms, test_pre_nms, test_post_nms: proposals kept per level before NMS and over
            all levels after it (FPN section 4.1; torchvision). With rpn_selection="joint" all four are of all levels.
        rpn_nms_threshold: IoU (Faster section 3.3).
        rpn_min_size: proposals with a shorter side are dropped, pixels (torchvision); 0 drops none.
        roi_samples, roi_positive_fraction: RoIs per image for the heads (paper section 3.1: N = 512, 1:3).
        roi_iou: RoIs with at least this IoU are positive, others negative (paper section 3.1).
        cascade_ious: () has one box head; IoUs such as (0.5, 0.6, 0.7) a cascade of as many stages (Cai and Vasconcelos
            2018, Detectron2), each on the boxes of the one before: RoIs of a stage with at least its IoU are positive.
            The first is roi_iou. Box deltas are of no class, and `box_weights` times 1, 2, 3, ... are the stages'.
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
            two levels: "torchvision", "detectron2", "tensorpack", "mmdetection", or "matterport", which rounds to the
            nearest level.
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
        branches: what is predicted beside class and box (paper section 3): "mask", or "pointrend" (masks of 224 cells,
            which the fields on masks' size and layers do not concern), "keypoints" (of COCO's persons), or objects of
            subclasses of `keras_maskrcnn.branches.Branch`. Strings become objects. () is a Faster R-CNN on a pyramid.
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
    box_scaling: str = "sides"
    canvas: str = "tight"
    image_scale: float | None = None
    pixel_mean: tuple = IMAGENET_MEAN
    pixel_std: tuple = IMAGENET_STD
    image_dtype: str = "uint8"
    mask_padding: bool = True
    fpn_channels: int = 256
    head_norm: str | None = None
    fpn_norm: str | None = None
    head_norm_place: str = "before_relu"
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
    min_box_growth: float = 0.0
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
    cascade_ious: tuple = ()
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
            object.__setattr__(self, field.name, normalized(field, getattr(self, field.name)))
        object.__setattr__(self, "branches", branch_room.resolve(self.branches))
        check_types(self)
        check_values(self, IMAGENET_MEAN)
        if not self.class_names:
            names = tuple(f"class {k}" for k in range(self.num_classes))
            object.__setattr__(self, "class_names", names)
        if self.category_ids is None:
            object.__setattr__(self, "category_ids", tuple(range(1, self.num_classes + 1)))

    def to_dict(self):
        """The config as JSON-ready values; `from_dict` inverts it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["branches"] = branch_room.describe(self.branches)
        values["calibration"] = as_lists(self.calibration)
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

    @classmethod
    def tensorpack(cls, name="COCO-MaskRCNN-R50FPN2x", num_classes=80, **overrides):
        """Tensorpack's arithmetic, for `km.load_weights` with the `.npz` files of its model zoo.

        Args:
            name: a file of tensorpack's model zoo with a pyramid; `families/tensorpack.py` lists them.
            num_classes: K, background not counted. 80 are COCO's, with their names and ids.
            **overrides: fields of this class.

        Raises:
            ValueError: no such model, or a wrong field.
        """
        return cls(**{**tensorpack.fields(name, num_classes, overrides), **overrides})

    @classmethod
    def mmdetection(cls, name="mask_rcnn_r50_fpn_1x_coco", num_classes=80, **overrides):
        """MMDetection's arithmetic, for `km.load_weights` with its `.pth` files.

        Args:
            name: a config of MMDetection's model zoo; `families/mmdetection.py` lists them.
            num_classes: K, background not counted. 80 are COCO's, with their names and ids.
            **overrides: fields of this class.

        Raises:
            ValueError: no such config, or a wrong field.
        """
        return cls(**{**mmdetection.fields(name, num_classes, overrides), **overrides})

    @property
    def num_channels(self):
        """Channels of the images: one for each entry of `pixel_mean`."""
        return len(self.pixel_mean)

    @property
    def norms_canvas(self):
        """Whether the statistics of a norm are of the whole canvas, its padding included: group norm, anywhere."""
        return "group" in (self.norm, self.head_norm, self.fpn_norm)

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
    def box_stages(self):
        """For each stage of the box head the least IoU of positive RoIs and the box coder weights: tuple of pairs."""
        ious = self.cascade_ious or (self.roi_iou,)
        return tuple((iou, tuple(place * weight for weight in self.box_weights)) for place, iou in enumerate(ious, 1))

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
        """Largest `dw`, `dh` of the box coder; with `min_box_growth` the pair of smallest and largest."""
        largest = math.log(self.max_box_growth)
        return (math.log(self.min_box_growth), largest) if self.min_box_growth else largest
