"""READ FIRST. Mask R-CNN: images -> pyramid -> proposals -> detections -> masks (He et al., ICCV 2017).

`MaskRCNN.call` is the paper in four statements; each calls one stage, and each stage has a module of its own:

    extract_features   backbone.py, fpn.py           images -> P2..P6
    propose            anchors.py, rpn.py            pyramid -> proposals
    detect             box_head.py, detections.py    proposals -> boxes, scores, labels
    segment            mask_head.py                  detections -> masks

With ground truth among the inputs, `learn` stands in the place of the last two: it samples targets (training/) and
returns the heads' answers beside them, and `compute_loss` turns those into the five losses. The forward pass is
written once and runs once a step.

Shapes: B images, H x W canvas, P proposals, S sampled RoIs, Q of them for the mask loss, D detections, K classes.
All boxes are float32 [x1, y1, x2, y2] in network pixels. The contract of the inputs is in batch.py.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.branches.mask_head import MaskHead
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.host.memory import keep_for_models
from keras_maskrcnn.learning import losses, targets
from keras_maskrcnn.network import backbones
from keras_maskrcnn.network.anchors import cell_anchors, level_anchors
from keras_maskrcnn.network.box_head import BoxHead
from keras_maskrcnn.network.detections import select_detections
from keras_maskrcnn.network.fpn import FeaturePyramid
from keras_maskrcnn.network.inputs import as_inputs
from keras_maskrcnn.network.padding import repeat_border, valid_cells
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign
from keras_maskrcnn.network.rpn import RPNHead, select_proposals

LOSSES = ("rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")


@keras.saving.register_keras_serializable("keras_maskrcnn")
class MaskRCNN(keras.Model):
    """Mask R-CNN on a feature pyramid; trains with `fit`, detects with `predict` or a call.

    Args:
        config: MaskRCNNConfig.
        backbone: None for the config's, one of `km.backbones.from_keras`, or a keras.Model from normalised images
            (B, H, W, C) to a list of four maps with strides 4, 8, 16, 32. Maps of a keras.Model depend on the padding
            of the canvas, whatever `mask_padding` says.
        seed: of the sampling of anchors and RoIs.
        dtype: Keras dtype policy of the layers; box arithmetic and losses are float32 under any policy.
    """

    def __init__(self, config, backbone=None, seed=0, dtype=None, **kwargs):
        # autocast=False: Keras would cast boxes and image sizes to the compute dtype at the door.
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        keep_for_models()
        if not isinstance(config, MaskRCNNConfig):
            raise ValueError(
                f"MaskRCNN takes a MaskRCNNConfig. Received: {type(config).__name__}. "
                "Write MaskRCNN(MaskRCNNConfig(num_classes=...))."
            )
        self.supports_jit = backend.SUPPORTS_JIT
        self.config, self.seed = config, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.custom_backbone = backbone is not None
        self._make_stages(config, backbone)
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in LOSSES}
        self.build()

    def _make_stages(self, config, backbone):
        channels, policy, norm = config.fpn_channels, self.dtype_policy, config.head_norm
        align = {
            "sampling_ratio": config.roi_sampling_ratio,
            "aligned": config.roi_aligned,
            "aggregation": config.roi_aggregation,
            "dtype": policy,
        }
        self.backbone = backbones.make(config, backbone, policy)
        self.fpn = FeaturePyramid(channels, norm, name="fpn", dtype=policy)
        self.cells = [cell_anchors(size, config.anchor_ratios) for size in config.anchor_sizes]
        self.rpn = RPNHead(channels, len(config.anchor_ratios), config.rpn_convs, name="rpn", dtype=policy)
        self.box_align = MultiLevelRoIAlign(config.box_pool_size, name="box_align", **align)
        self.box_head = BoxHead(
            config.num_classes,
            channels,
            config.box_pool_size,
            config.box_convs,
            config.box_fcs,
            config.box_features,
            norm,
            name="box_head",
            dtype=policy,
        )
        self.mask_align = MultiLevelRoIAlign(config.mask_pool_size, name="mask_align", **align)
        self.mask_head = MaskHead(
            config.num_classes,
            channels,
            config.mask_channels,
            config.mask_pool_size,
            config.mask_size,
            config.mask_convs,
            norm,
            name="mask_head",
            dtype=policy,
        )

    def build(self, input_shape=None):
        """Create all weights; called by the constructor, because no shape depends on the input."""
        if self.built:
            return
        maps = backbones.build(self.backbone, self.config.num_channels, self.config.trainable_layers)
        self.fpn.build(maps)
        self.rpn.build(None)
        self.box_head.build(None)
        self.mask_head.build(None)
        # Layers without weights count as built too, or Keras would run a batch through the model to build them.
        for layer in (self.fpn.upsample, self.box_align, self.mask_align):
            layer.built = True
        self.built = True

    # The path ------------------------------------------------------------------------------------------------

    def compile(self, *args, **kwargs):
        """As `keras.Model.compile`; also makes the optimizer's variables.

        Made in the first training step, they would have TensorFlow trace it twice.
        """
        super().compile(*args, **kwargs)
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None, options=None):
        """Detect, or with ground truth among the inputs answer and say what the answer should have been.

        Args:
            inputs: images (B, H, W, C), uint8, uint16 or float, or a dict with the keys of batch.py.
            training: whether trainable batch norm uses the batch's statistics.
            options: None, or a dict of what replaces the config's numbers, image by image: `score_threshold` float
                (B,), `nms_threshold` float (B,), `max_detections` int (B,), at most the config's.

        Returns:
            Without ground truth, a dict of boxes float (B, D, 4) network pixels, scores float (B, D) falling,
            labels int32 (B, D) in 0..K-1, masks float (B, D, 28, 28) probabilities in the frame of their box, and
            valid bool (B, D); rows that are not valid hold zeros. With ground truth, what `learn` returns.
        """
        inputs = as_inputs(inputs, self.config.num_channels)
        image_sizes = inputs["image_sizes"]
        pyramid = self.extract_features(inputs["images"], image_sizes, training)
        anchors = self.make_anchors(pyramid, image_sizes)
        rpn_answers = self.rpn(pyramid, image_sizes if self.config.mask_padding else None)
        learning = "gt_boxes" in inputs
        proposals = self.propose(rpn_answers, anchors, image_sizes, learning)
        maps = self.roi_maps(pyramid, image_sizes)
        if learning:
            return self.learn(maps, rpn_answers, anchors, proposals, inputs, training)
        detections = self.detect(maps, proposals, image_sizes, options)
        return self.segment(maps, detections)

    def extract_features(self, images, image_sizes, training=None):
        """Normalise, run backbone and pyramid.

        Args:
            images: (B, H, W, C), not normalised. image_sizes: int32 (B, [height, width]).
            training: for trainable batch norm.

        Returns:
            P2..P6, list of float (B, h_l, w_l, channels).
        """
        config = self.config
        images = backend.pad_to_multiple(ops.cast(images, "float32"), 32)
        backbone = backbones.describe(self.backbone)
        images = backbone.normalize(images, image_sizes, config.pixel_mean, config.pixel_std)
        masked = image_sizes if config.mask_padding else None
        features = backbone.extract(images, masked, training)
        return self.fpn(features, image_sizes=masked, training=training)

    def roi_maps(self, pyramid, image_sizes):
        """P2..P5 as RoIAlign reads them: beyond the image's last cell it shall find that cell, not the padding."""
        masked = image_sizes if self.config.mask_padding else None
        return [repeat_border(level, masked, stride) for level, stride in zip(pyramid[:4], PYRAMID_STRIDES)]

    def make_anchors(self, pyramid, image_sizes):
        """Anchors of every level, and which of them stand on the image.

        Returns:
            List of float (N_l, 4) network pixels, and list of bool (B, N_l), or of None where all count
            (`mask_padding=False`, torchvision's way).
        """
        canvas = [side * PYRAMID_STRIDES[0] for side in ops.shape(pyramid[0])[1:3]]
        anchors, valid = [], []
        for level, stride, cells in zip(pyramid, PYRAMID_STRIDES, self.cells):
            batch, rows, columns = ops.shape(level)[:3]
            spacing = (stride, stride)
            if self.config.anchor_spacing == "canvas":
                spacing = (canvas[0] // rows, canvas[1] // columns)
            anchors.append(level_anchors(rows, columns, spacing, cells))
            if not self.config.mask_padding:
                valid.append(None)
                continue
            inside = valid_cells(level, image_sizes, stride)[..., None]
            inside = ops.repeat(inside, len(cells), axis=-1)
            valid.append(ops.reshape(inside, (batch, -1)))
        return anchors, valid

    def propose(self, rpn_answers, anchors, image_sizes, learning=False):
        """The RPN's best boxes.

        Args:
            rpn_answers: logits and deltas by level, from `self.rpn`. anchors: from `make_anchors`.
            image_sizes: int32 (B, [height, width]). learning: whether training's counts apply.

        Returns:
            boxes float (B, P, 4) network pixels, scores float (B, P), valid bool (B, P).
        """
        config = self.config
        return select_proposals(
            *rpn_answers,
            *anchors,
            image_sizes,
            pre_nms=config.train_pre_nms if learning else config.test_pre_nms,
            post_nms=config.train_post_nms if learning else config.test_post_nms,
            nms_threshold=config.rpn_nms_threshold,
            min_size=config.rpn_min_size,
            box_weights=config.rpn_box_weights,
        )

    def detect(self, maps, proposals, image_sizes, options=None):
        """Classify and refine the proposals, and keep the best; `options` as for `call`.

        Returns:
            dict of boxes (B, D', 4), scores, labels, valid (B, D'), D' <= D (see `select_detections`).
        """
        config, options = self.config, options or {}
        boxes, _, valid = proposals
        class_logits, deltas = self.box_head(self.box_align(maps, boxes))
        return select_detections(
            class_logits,
            deltas,
            boxes,
            valid,
            image_sizes,
            score_threshold=options.get("score_threshold", config.score_threshold),
            nms_threshold=options.get("nms_threshold", config.nms_threshold),
            class_agnostic_nms=config.class_agnostic_nms,
            max_detections=config.max_detections,
            image_limits=options.get("max_detections"),
            candidates=config.detection_candidates,
            box_weights=config.box_weights,
            min_box_size=config.min_box_size,
        )

    def segment(self, maps, detections):
        """Add the masks, predicted on the refined boxes (section 3.1), and fill up to D rows."""
        pooled = self.mask_align(maps, detections["boxes"])
        masks = ops.sigmoid(self.mask_head(pooled, detections["labels"]))
        masks = ops.where(detections["valid"][..., None, None], masks, 0.0)
        rows = {**detections, "masks": masks}
        return {name: backend.pad_columns(array, self.config.max_detections) for name, array in rows.items()}

    # Training --------------------------------------------------------------------------------------------------

    def learn(self, maps, rpn_answers, anchors, proposals, truth, training=None):
        """Sample targets and let the heads answer for them.

        Returns:
            dict of `rpn` (logits (B, N), deltas (B, N, 4), targets), `roi` (class_logits (B, S, K + 1), deltas
            (B, S, K, 4), targets) and `mask` (logits, targets (B, Q, M, M), positive (B, Q)).
        """
        config = self.config
        truth = self._trim_truth(truth)
        logits, deltas = (ops.concatenate(levels, axis=1) for levels in rpn_answers)
        rpn_targets = self._rpn_targets(anchors, logits, truth)
        candidates = targets.add_ground_truth(proposals[0], proposals[2], truth)
        rois = targets.roi_targets(
            self._noise(candidates[1]),
            *candidates,
            truth,
            num_classes=config.num_classes,
            iou=config.roi_iou,
            num_samples=config.roi_samples,
            positive_fraction=config.roi_positive_fraction,
            box_weights=config.box_weights,
            crowd_ioa=config.crowd_ioa,
        )
        pooled = self.box_align(maps, rois["rois"])
        class_logits, roi_deltas = self.box_head(pooled, training=training)
        return {
            "rpn": {"logits": logits, "deltas": deltas, "targets": rpn_targets},
            "roi": {"class_logits": class_logits, "deltas": roi_deltas, "targets": rois},
            "mask": self._learn_masks(maps, rois, truth, training),
        }

    @staticmethod
    def _trim_truth(truth):
        """Leave out rows that are padding in every image: matching costs rows times anchors."""
        names = [name for name in truth if name.startswith("gt_") and name != "gt_valid"]
        rows = backend.trim_to_valid(ops.cast(truth["gt_valid"], "bool"), *(truth[name] for name in names))
        return dict(zip(("gt_valid", *names), rows))

    def _noise(self, like):
        return keras.random.uniform(ops.shape(like), dtype="float32", seed=self.seed_generator)

    def _rpn_targets(self, anchors, logits, truth):
        config = self.config
        boxes, valid = anchors
        return targets.rpn_targets(
            self._noise(logits),
            ops.concatenate(boxes, axis=0),
            None if valid[0] is None else ops.concatenate(valid, axis=1),
            truth,
            positive_iou=config.rpn_positive_iou,
            negative_iou=config.rpn_negative_iou,
            num_samples=config.rpn_samples,
            positive_fraction=config.rpn_positive_fraction,
            box_weights=config.rpn_box_weights,
            crowd_ioa=config.crowd_ioa,
        )

    def _learn_masks(self, maps, rois, truth, training):
        # Positives stand first, so the mask head runs on a slice; on TensorFlow on no more than there are.
        count = backend.smaller(self.config.max_mask_rois, ops.shape(rois["positive"])[1])
        sampled = [rois[name][:, :count] for name in ("positive", "rois", "labels", "matched")]
        positive, boxes, labels, matched = backend.trim_to_valid(*sampled)
        pooled = self.mask_align(maps, boxes)
        return {
            "logits": self.mask_head(pooled, labels, training=training),
            "targets": targets.mask_targets(boxes, matched, truth, self.config.mask_size, self.config.mask_targets),
            "positive": positive,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the five losses and of the layers' own (regularisers); each goes to its tracker.

        Raises:
            ValueError: if the batch holds no ground truth, so that `call` returned detections.
        """
        if "rpn" not in y_pred:
            raise ValueError(
                "Training needs ground truth in the batch: the keys gt_boxes, gt_labels, gt_masks and gt_valid. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}. See keras_maskrcnn/batch.py."
            )
        beta = self.config.smooth_l1_beta
        rpn, roi, mask = y_pred["rpn"], y_pred["roi"], y_pred["mask"]
        values = (
            *losses.rpn_losses(rpn["logits"], rpn["deltas"], rpn["targets"], beta),
            *losses.box_head_losses(roi["class_logits"], roi["deltas"], roi["targets"], beta),
            losses.mask_loss(mask["logits"], mask["targets"], mask["positive"]),
        )
        batch = ops.shape(rpn["logits"])[0]
        for name, value in zip(LOSSES, values):
            self.loss_trackers[name].update_state(value, sample_weight=ops.cast(batch, "float32"))
        return backend.scale_loss(sum(values) + sum(self.losses))

    # Keras -----------------------------------------------------------------------------------------------------

    def get_config(self):
        """Keras serialisation."""
        return {
            "config": self.config.to_dict(),
            "backbone": keras.saving.serialize_keras_object(self.backbone) if self.custom_backbone else None,
            "seed": self.seed,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        """Keras deserialisation."""
        config = dict(config)
        trainable = config.pop("trainable", True)
        backbone = config.pop("backbone", None)
        if backbone is not None:
            backbone = keras.saving.deserialize_keras_object(backbone)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        values = MaskRCNNConfig.from_dict(config.pop("config"))
        model = cls(values, backbone=backbone, **config)
        if not trainable:  # True would thaw the parts that the config froze
            model.trainable = False
        return model

    def export(self, *args, **kwargs):
        """Keras' export, with stock operators only: a graph with an operator of ours would run nowhere else."""
        with backend.stock_operators():
            return super().export(*args, **kwargs)

    def get_build_config(self):
        """Nothing: the constructor builds."""
        return None

    def save_own_variables(self, store):
        """Keep the sampler's state, which Keras does not, so that training resumes exactly."""
        super().save_own_variables(store)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        """Restore the sampler's state."""
        self.seed_generator.state.assign(store["seed_state"])
