"""Classes and boxes of RoIs: one stage (Mask R-CNN section 3), or a cascade (Cai and Vasconcelos, CVPR 2018).

Comes in: features and proposals of `model.py`; in training the ground truth. Goes out: what `select_detections` takes;
in training the heads' outputs with their targets, and losses. Each stage of a cascade refines the boxes of the one
before, and counts RoIs as positive from its own IoU on. One stage is a cascade of length one: there is one path.

Shapes: B images, P proposals, S sampled RoIs, K classes. Boxes are float32 [x1, y1, x2, y2] in network pixels. Called
by `model.py`.
"""

from keras import ops

from keras_maskrcnn.geometry.boxes import area, clip_boxes, decode_boxes
from keras_maskrcnn.learning import losses, targets
from keras_maskrcnn.network.box_head import BoxHead, CascadeHead
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign

_LEAST = 1e-30  # of probabilities, so that their logarithms are finite


def make_layers(config, policy):
    """The layers of the stages that a config describes: RoIAlign, and a BoxHead or CascadeHead."""
    head = {
        "num_classes": config.num_classes,
        "channels": config.fpn_channels,
        "pool_size": config.box_pool_size,
        "num_convs": config.box_convs,
        "num_fcs": config.box_fcs,
        "features": config.box_features,
        "norm": config.head_norm,
        "norm_epsilon": config.head_norm_epsilon,
        "norm_place": config.head_norm_place,
    }
    align = MultiLevelRoIAlign(config.box_pool_size, name="box_align", dtype=policy, **config.roi_align)
    if config.cascade_ious:
        return align, CascadeHead(len(config.cascade_ious), head, name="box_head", dtype=policy)
    return align, BoxHead(name="box_head", dtype=policy, **head)


class BoxStages:
    """The stages with the present numbers of a config.

    Args:
        config: MaskRCNNConfig. align: MultiLevelRoIAlign. heads: sequence of BoxHead, one for each stage.
        frame: TightFrame or SquareFrame, which says what boxes are clipped to.

    Attributes:
        prefixes: for each stage, what the names of its outputs and losses begin with: "" for the only one, else
            "stage1_", "stage2_", ...
    """

    def __init__(self, config, align, heads, frame):
        self.config, self.align, self.heads, self.frame = config, align, tuple(heads), frame
        self.numbers = config.box_stages
        self.prefixes = [f"stage{number}_" for number in range(1, len(heads) + 1)] if len(heads) > 1 else [""]

    @property
    def loss_names(self):
        """`class_loss` and `box_loss` of each stage, with its prefix."""
        return tuple(f"{prefix}{name}" for prefix in self.prefixes for name in ("class_loss", "box_loss"))

    # Detections ------------------------------------------------------------------------------------------------

    def classify(self, features, proposals):
        """Run all stages: the first arguments of `select_detections`.

        Args:
            features: from `MaskRCNN.extract_features`. proposals: dict of boxes (B, P, 4) and valid (B, P).

        Returns:
            dict of class_logits float (B, P, K + 1), whose softmax is the mean of the stages'; deltas float
            (B, P, K, 4) of the last stage; proposals (B, P, 4), the boxes that these refine; proposals_valid (B, P);
            image_sizes (B, 2) and perhaps origins (B, 2).
        """
        passes = self.run(features, proposals["boxes"])
        boxes, last = passes[-1]
        return {
            "class_logits": _mean_logits([outputs["class_logits"] for _, outputs in passes]),
            "deltas": last["deltas"],
            "proposals": boxes,
            "proposals_valid": proposals["valid"],
            **self.frame.image_limits(features["image_sizes"]),
        }

    def run(self, features, boxes):
        """Run all stages one after the other.

        Returns:
            list of (boxes float (B, P, 4) that a stage is given, dict of what its head returns).
        """
        passes = []
        for number, head in enumerate(self.heads):
            if passes:
                boxes = self._refine(*passes[-1], number - 1, features["image_sizes"])
            outputs = head(self.align(features["roi_maps"], boxes, with_gradient=False), training=False)
            passes.append((boxes, outputs))
        return passes

    def _refine(self, boxes, outputs, number, image_sizes):
        """The boxes that a class-agnostic stage makes of those that it was given, clipped to the image."""
        _, weights = self.numbers[number]
        refined = decode_boxes(outputs["deltas"][:, :, 0], boxes, weights, self.config.max_log_scale)
        return clip_boxes(refined, **self.frame.image_limits(image_sizes))

    # Training --------------------------------------------------------------------------------------------------

    def sample(self, proposals, truth, has_image, noise):
        """The RoIs of the first stage and of the branches (Mask R-CNN section 3.1), as `roi_targets` returns them.

        Args:
            proposals: as for `classify`. truth: dict of the batch's `gt_*` arrays.
            has_image: bool (B,), which rows of the batch hold an image.
            noise: function from a tensor to uniform float32 of its shape.
        """
        config, (iou, box_weights) = self.config, self.numbers[0]
        candidates = targets.add_ground_truth(proposals["boxes"], proposals["valid"], truth)
        return targets.roi_targets(
            noise=noise(candidates["valid"]),
            candidates=candidates["boxes"],
            candidates_valid=ops.logical_and(candidates["valid"], has_image[:, None]),
            truth=truth,
            num_classes=config.num_classes,
            iou=iou,
            num_samples=config.roi_samples,
            positive_fraction=config.roi_positive_fraction,
            box_weights=box_weights,
            crowd_ioa=config.crowd_ioa,
        )

    def learn(self, features, rois, truth, training=None):
        """Run the stages on sampled RoIs. Further stages take all of them, as the stage before refined them.

        Args:
            features: from `MaskRCNN.extract_features`. rois: from `sample`. truth: as for `sample`.
            training: whether trainable norms use the batch's statistics.

        Returns:
            dict of "roi" with each prefix: dict of class_logits (B, S, K + 1), deltas (B, S, K, 4) and targets.
        """
        passes = []
        for number, head in enumerate(self.heads):
            if passes:
                given, outputs = passes[-1]
                boxes = self._refine(given["rois"], outputs, number - 1, features["image_sizes"])
                rois = self._match(ops.stop_gradient(boxes), given["valid"], truth, number)
            pooled = self.align(features["roi_maps"], rois["rois"], with_gradient=True)
            passes.append((rois, head(_share_gradient(pooled, len(self.heads)), training=training)))
        named = zip(self.prefixes, passes, strict=True)
        return {f"{prefix}roi": {**outputs, "targets": rois} for prefix, (rois, outputs) in named}

    def _match(self, boxes, valid, truth, number):
        """Targets of the boxes that a stage is given. Boxes without area are left out."""
        config, (iou, box_weights) = self.config, self.numbers[number]
        return targets.match_rois(
            boxes,
            ops.logical_and(valid, area(boxes) > 0),
            truth,
            num_classes=config.num_classes,
            iou=iou,
            box_weights=box_weights,
            crowd_ioa=config.crowd_ioa,
        )

    def loss_values(self, learned):
        """Dict of each name in `loss_names` to a float32 scalar. learned: holds what `learn` returns."""
        values = {}
        for prefix in self.prefixes:
            found = losses.box_head_losses(**learned[f"{prefix}roi"], beta=self.config.smooth_l1_beta)
            values |= {f"{prefix}{name}": value for name, value in found.items()}
        return values


def _mean_logits(logits):
    """Logits whose softmax is the mean of several softmaxes; those of one stage as they are."""
    if len(logits) == 1:
        return logits[0]
    mean = sum(ops.softmax(each, axis=-1) for each in logits) / len(logits)
    return ops.log(ops.maximum(mean, _LEAST))


def _share_gradient(features, count):
    """The features, with 1 / count of their gradient.

    The losses of the stages are added. So heads learn as fast as that of one stage, and the trunk as well.
    """
    if count == 1:
        return features
    fixed = ops.stop_gradient(features)
    return fixed + (features - fixed) / count
