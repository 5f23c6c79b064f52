"""RoIAlign: boxes and feature maps in, crops of fixed size out (Mask R-CNN, section 3).

`roi_align` crops from one map, `MultiLevelRoIAlign` from the pyramid level that fits each box (FPN
paper, eq. 1). The model has one `MultiLevelRoIAlign` for the box head and one for the mask head. The
arithmetic is in `backend/`.
"""

import keras
import numpy as np
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.backend import checks
from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES
from keras_maskrcnn.network.roi_levels import LEVEL_RULES

AGGREGATIONS = ("average", "max")
SAMPLINGS = ("align", "crop")


def roi_align(
    features,
    boxes,
    box_batch,
    output_size,
    spatial_scale,
    sampling_ratio=2,
    aligned=False,
    aggregation="average",
):
    """Crop each box from a map into bins of bilinear samples, without rounding coordinates.

    Args:
        features: float (B, H, W, C).
        boxes: float (R, [x1, y1, x2, y2]), input pixels. Not differentiated.
        box_batch: int (R,), the image of each box, 0..B-1.
        output_size: number of bins, an int or (h, w), at most 1024.
        spatial_scale: cells of the map per input pixel (1 / stride), more than 0.
        sampling_ratio: points per bin and axis; 0: one per cell, so the number depends on the box
            (slow).
        aligned: True shifts boxes by half a cell, so that cell centres are at x + 0.5; False is
            the first published form, which also makes boxes at least one cell wide.
        aggregation: "average" or "max" over the points of a bin.

    Returns:
        (R, h, w, C), the dtype of `features`. Points more than a cell outside the map read 0.

    Raises:
        ValueError: an option is invalid; shapes do not belong together, or a map has no rows, columns or channels;
            the image of a box does not exist. While a graph is traced, what is not known then is not checked.
    """
    features = ops.convert_to_tensor(features)
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    box_batch = ops.cast(ops.convert_to_tensor(box_batch), "int32")
    bins = check_output_size(output_size)
    checks.check_crops([features], boxes, box_batch, bins)
    checks.check_indices("box_batch", backend.known_values(box_batch), features.shape[0], "images")
    return backend.multilevel_roi_align(
        [features],
        boxes,
        box_batch,
        ops.zeros_like(box_batch),
        (check_scale(spatial_scale),),
        bins,
        check_sampling_ratio(sampling_ratio),
        bool(aligned),
        check_aggregation(aggregation),
    )


def assign_levels(boxes, num_levels=4, canonical_scale=224, canonical_level=4, first_level=2, rule="torchvision"):
    """Choose the pyramid level for each box by its size (FPN paper, eq. 1).

    Args:
        boxes: float (..., [x1, y1, x2, y2]), network pixels.
        num_levels: number of levels.
        canonical_scale: side in network pixels of the square box that is assigned to
            `canonical_level`.
        canonical_level: its level; 4 is P4.
        first_level: the level with index 0; 2 is P2.
        rule: how the level becomes a whole number, a key of `LEVEL_RULES`.

    Returns:
        int32 (...,), 0 for the first level (P2) to num_levels - 1. Empty boxes get the first level.
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    width = ops.relu(boxes[..., 2] - boxes[..., 0])
    height = ops.relu(boxes[..., 3] - boxes[..., 1])
    level = LEVEL_RULES[rule](ops.sqrt(width * height) / canonical_scale, canonical_level) - first_level
    # After divergence boxes can be NaN; the level must still be a valid index.
    level = ops.where(ops.isnan(level), 0.0, level)
    return ops.cast(ops.clip(level, 0, num_levels - 1), "int32")


@keras.saving.register_keras_serializable(package="keras_maskrcnn")
class MultiLevelRoIAlign(keras.layers.Layer):
    """Crop every box from the pyramid level that fits its size, for a whole batch in one call.

    Args:
        output_size: number of bins, an int or (h, w): 7 for the box head, 14 for the mask head.
        sampling_ratio: points per bin and axis; 0: depends on the size of the box (slow).
        aligned: as in `roi_align`.
        aggregation: "average" or "max" over the points of a bin.
        canonical_scale: side in network pixels of a box that is assigned to `canonical_level`.
        canonical_level: its level; 4 is P4 (stride 16).
        strides: network pixels per cell of each level in `pyramid`.
        sampling: "align", or "crop": one point per bin, the outer ones on the border of the box, in the frame of
            `frames.SquareFrame` (matterport). The three options of RoIAlign then have no effect.
        level_rule: as `rule` of `assign_levels`.
    """

    def __init__(
        self,
        output_size,
        sampling_ratio=2,
        aligned=False,
        aggregation="average",
        canonical_scale=224,
        canonical_level=4,
        strides=BACKBONE_STRIDES,
        sampling="align",
        level_rule="torchvision",
        **kwargs,
    ):
        # Autocast would round boxes to bfloat16 under mixed precision: 2 to 4 px at 1000 px.
        super().__init__(autocast=False, **kwargs)
        self.output_size = check_output_size(output_size)
        self.sampling_ratio = check_sampling_ratio(sampling_ratio)
        self.aligned = bool(aligned)
        self.aggregation = check_aggregation(aggregation)
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.strides = tuple(strides)
        self.sampling, self.level_rule = check_choice("sampling", sampling, SAMPLINGS), level_rule
        check_choice("level_rule", level_rule, tuple(LEVEL_RULES))

    def call(self, pyramid, boxes, with_gradient=False):
        """Crop.

        Args:
            pyramid: list of float (B, H_l, W_l, C), one map for each of `strides`: P2, P3, ...
            boxes: float (B, R, [x1, y1, x2, y2]), network pixels. Padding rows give crops of no
                meaning.
            with_gradient: whether a gradient follows: choose the operator that is fast with it. The
                result is the same to 1e-4.

        Returns:
            (B, R, h, w, C), the dtype of the pyramid.
        """
        if len(pyramid) != len(self.strides):
            raise ValueError(
                "MultiLevelRoIAlign takes one feature map for each of its strides "
                f"{self.strides}. Received {len(pyramid)} maps. Leave out P6, which only the "
                "region proposals use, or set `strides`."
            )
        checks.check_channels(pyramid, "MultiLevelRoIAlign")
        boxes = ops.cast(boxes, "float32")
        num_images, num_boxes = backend.shape(boxes)[:2]
        options = {"sampling_ratio": self.sampling_ratio, "aligned": self.aligned, "aggregation": self.aggregation}
        if self.sampling == "crop":
            boxes, levels = self._crop_frames(pyramid, boxes)
            options = {"sampling_ratio": 1, "aligned": True, "aggregation": "average"}
        else:
            levels = self._levels(boxes)
        images = ops.cast(ops.arange(num_images), "int32")[:, None]
        crop = backend.trainable_multilevel_roi_align if with_gradient else backend.multilevel_roi_align
        crops = crop(
            list(pyramid),
            ops.reshape(boxes, (-1, 4)),
            ops.reshape(images + ops.zeros_like(levels), (-1,)),
            ops.reshape(levels, (-1,)),
            tuple(1.0 / stride for stride in self.strides),
            self.output_size,
            **options,
        )
        channels = pyramid[0].shape[-1]
        return ops.reshape(crops, (num_images, num_boxes, *self.output_size, channels))

    def _levels(self, boxes):
        return assign_levels(
            boxes,
            len(self.strides),
            self.canonical_scale,
            self.canonical_level,
            first_level=self.strides[0].bit_length() - 1,
            rule=self.level_rule,
        )

    def _crop_frames(self, pyramid, boxes):
        """Boxes whose bins have their centres where `tf.image.crop_and_resize` samples, and the boxes' levels.

        Its points are y1 * (h - 1) + i * (y2 - y1) * (h - 1) / (bins - 1) for normalised boxes and a map of h rows.

        Args:
            pyramid: as for `call`. boxes: float (B, R, [x1, y1, x2, y2]), inclusive, of the whole canvas.

        Returns:
            float (B, R, 4), network pixels as RoIAlign with aligned=True takes them; int32 (B, R).
        """
        rows, columns = (ops.cast(side, "float32") * self.strides[0] for side in backend.shape(pyramid[0])[1:3])
        canvas = ops.stack([columns, rows, columns, rows])
        boxes = boxes / (canvas - 1)
        levels = self._levels(boxes * canvas)
        stride = backend.take_rows(ops.cast(np.array(self.strides), "float32"), levels)[..., None]
        points = boxes * (canvas / stride - 1)
        first, last = ops.split(points, 2, axis=-1)
        bins = np.array(self.output_size[::-1], "float32")
        half = (last - first) / (2 * np.maximum(bins - 1, 1))
        return (ops.concatenate([first - half, last + half], axis=-1) + 0.5) * stride, levels

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "output_size": self.output_size,
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.aligned,
            "aggregation": self.aggregation,
            "canonical_scale": self.canonical_scale,
            "canonical_level": self.canonical_level,
            "strides": self.strides,
            "sampling": self.sampling,
            "level_rule": self.level_rule,
        }


def check_output_size(output_size):
    """Check an output size; return it as (h, w)."""
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or not all(isinstance(bins, int) and 1 <= bins <= checks.MOST_BINS for bins in pair):
        raise ValueError(
            f"output_size must be a number of bins, or (bins in y, bins in x), each from 1 to {checks.MOST_BINS}. "
            f"Received {output_size!r}. The paper's heads use 7 and 14."
        )
    return pair


def check_sampling_ratio(sampling_ratio):
    """Check a sampling ratio; return it."""
    if not isinstance(sampling_ratio, int) or not 0 <= sampling_ratio <= checks.MOST_POINTS:
        raise ValueError(
            f"sampling_ratio must be a whole number of points per bin and axis, at most {checks.MOST_POINTS}, or 0 for "
            "one per cell. "
            f"Received {sampling_ratio!r}. torchvision's -1 is 0 here."
        )
    return sampling_ratio


def check_scale(spatial_scale):
    """Check the cells of a map per pixel; return them as a float."""
    if not 0 < float(spatial_scale) <= checks.LARGEST_SCALE:  # NaN is refused as well
        raise ValueError(
            f"spatial_scale must be more than 0 and at most {checks.LARGEST_SCALE:g} cells of the map per input pixel. "
            f"Received {spatial_scale!r}. It is 1 / stride: 0.25 for P2."
        )
    return float(spatial_scale)


def check_choice(name, value, choices):
    """Check that a value is one of those possible; return it."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}. Received {value!r}. The usual choice is {choices[0]!r}.")
    return value


def check_aggregation(aggregation):
    """Check the name of an aggregation; return it."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(
            f'aggregation must be one of {AGGREGATIONS}. Received {aggregation!r}. The usual choice is "average".'
        )
    return aggregation
