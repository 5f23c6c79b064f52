"""READ FIRST. Mask R-CNN: images -> pyramid -> proposals -> detections -> masks (He et al., ICCV 2017).

`MaskRCNN.call` is the paper in four statements. Each calls one stage:

    extract_features   network/backbones/, fpn.py            images -> P2..P6
    propose            network/anchors.py, rpn.py            pyramid -> proposals (rpn_selection chooses the function)
    detect             box_stages/, network/detections.py    proposals -> boxes, scores, labels
    describe           branches/                             detections -> masks, and what else the config names

With ground truth among the inputs, `learn` replaces the last two: it samples targets (learning/) and returns the heads'
outputs with their targets, and `compute_loss` turns these into the named losses. The forward pass is written once and
runs once per step. `box_stages/` holds the box head: one stage, or a cascade of them.

Shapes: B images, H x W canvas, N anchors, P proposals, S sampled RoIs, D detections, K classes. All boxes are float32
[x1, y1, x2, y2] in network pixels. batch.py is the contract of the inputs. `training` is Keras' flag everywhere:
whether trainable norms use the batch's statistics.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.box_stages.limits import detection_limits
from keras_maskrcnn.box_stages.stages import BoxStages, make_layers
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.geometry.anchor_shapes import cell_anchors
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.inputs import HAS_IMAGE, as_inputs, count_images
from keras_maskrcnn.learning import losses, targets
from keras_maskrcnn.network import backbones
from keras_maskrcnn.network.anchors import level_anchors
from keras_maskrcnn.network.detections import RULES
from keras_maskrcnn.network.fpn import FeaturePyramid
from keras_maskrcnn.network.frames import make_frame
from keras_maskrcnn.network.padding import repeat_border, valid_cells
from keras_maskrcnn.network.rpn import SELECTIONS, RPNHead

RPN_LOSSES = ("rpn_objectness_loss", "rpn_box_loss")
DETECTION_FIELDS = ("score_threshold", "class_thresholds", "calibration", "nms_threshold")


@keras.saving.register_keras_serializable("keras_maskrcnn")
class MaskRCNN(keras.Model):
    """Mask R-CNN on a feature pyramid; trains with `fit`, detects with `predict` or a call.

    Args:
        config: MaskRCNNConfig.
        backbone: None for the config's, one of `km.backbones.from_keras`, or a keras.Model from normalised images
            (B, H, W, C) to a list of four maps with strides 4, 8, 16, 32. Maps of a keras.Model depend on the padding
            of the canvas, whatever `mask_padding` says.
        seed: int, of the sampling of anchors and RoIs.
        dtype: Keras dtype policy of the layers; box arithmetic and losses are float32 under any policy.
    """

    def __init__(self, config, backbone=None, seed=0, dtype=None, **kwargs):
        # autocast=False: Keras would cast boxes and image sizes to the compute dtype.
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        if not isinstance(config, MaskRCNNConfig):
            raise ValueError(
                f"MaskRCNN takes a MaskRCNNConfig. Received: {type(config).__name__}. "
                "Write MaskRCNN(MaskRCNNConfig(num_classes=...))."
            )
        self.supports_jit = backend.SUPPORTS_JIT
        self.config, self.seed = config, seed
        self._predict_here = None
        self.origin = None  # of converted weights: dict of str, kept in saved models (licence, family, file, sha256)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.custom_backbone = backbone is not None
        self._make_stages(config, backbone)
        of_branches = (name for branch in config.branches for name in branch.losses)
        names = (*RPN_LOSSES, *self.box_stages().loss_names, *of_branches)
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.build()

    def _make_stages(self, config, backbone):
        channels, policy = config.fpn_channels, self.dtype_policy
        self.backbone = backbones.make(config, backbone, policy)
        self.fpn = FeaturePyramid(
            channels,
            norm=config.fpn_norm or config.head_norm,
            norm_epsilon=config.head_norm_epsilon,
            norm_place=config.head_norm_place,
            name="fpn",
            dtype=policy,
        )
        self.frame = make_frame(config.canvas, config.max_size)
        cells = [cell_anchors(size, config.anchor_ratios, config.anchor_rounding) for size in config.anchor_sizes]
        self.cells = [self.frame.cells(each).astype("float32") for each in cells]
        self.rpn = RPNHead(
            channels,
            num_anchors=len(config.anchor_ratios),
            num_convs=config.rpn_convs,
            filters=config.rpn_channels,
            name="rpn",
            dtype=policy,
        )
        self.box_align, self.box_head = make_layers(config, policy)
        for branch in config.branches:
            setattr(self, f"{branch.name}_head", branch.make_head(config, policy))

    def box_stages(self):
        """The box head's stages. A method, because they read the config, and its numbers can change."""
        return BoxStages(self.config, self.box_align, self.box_head.stages(), self.frame)

    def branch_heads(self):
        """The heads of the config's branches: dict of branch name to BranchHead.

        A method, because Keras saves weights under the first attribute that holds them: `<name>_head`.
        """
        return {branch.name: getattr(self, f"{branch.name}_head") for branch in self.config.branches}

    def build(self, input_shape=None):
        """Create all weights; called by the constructor, because no shape depends on the input."""
        if self.built:
            return
        self.fpn.build(backbones.build(self.backbone, self.config.num_channels, self.config.trainable_layers))
        self.rpn.build(None)
        self.box_head.build(None)
        for head in self.branch_heads().values():
            head.build([(None, None, None, self.config.fpn_channels)] * 4)
        # Layers without weights count as built too, or Keras would run a batch through the model to build them.
        self.box_align.built = True
        self.built = True

    def compile(self, *args, **kwargs):
        """As `keras.Model.compile`; also makes the optimizer's variables.

        Made in the first training step, they would have TensorFlow trace it twice.
        """
        super().compile(*args, **kwargs)
        self.optimizer.build(self.trainable_variables)
        backend.prepare_optimizer(self.optimizer, self)

    # The path ------------------------------------------------------------------------------------------------

    def call(self, inputs, training=None, options=None):
        """Detect; with ground truth among the inputs, return the heads' outputs with their training targets.

        Args:
            inputs: images (B, H, W, C), uint8, uint16 or float, or a dict with the keys of batch.py.
            training: whether trainable norms use the batch's statistics.
            options: None, or a dict of tensors that replace the config's numbers image by image: `score_threshold`
                float (B,), `nms_threshold` float (B,), `max_detections` int (B,), at most the config's. A batch may
                hold the first two, and `options` wins. `detection_limits` has the rules.

        Returns:
            Without ground truth, a dict of boxes float (B, D, 4) network pixels, scores float (B, D) descending,
            labels int32 (B, D) in 0..K-1, valid bool (B, D), and each branch's arrays, such as masks float
            (B, D, 28, 28): probabilities in the frame of their box. Rows that are not valid hold zeros. With ground
            truth, what `learn` returns.
        """
        inputs, truth, own = as_inputs(inputs, self.config)
        features = self.extract_features(inputs["images"], inputs["image_sizes"], training)
        proposals = self.propose(features, for_training=truth is not None)
        if truth is not None:
            return self.learn(features, proposals, self._enter(truth, inputs["image_sizes"]), training)
        detections = self.detect(features, proposals, own | (options or {}))
        return self.describe(features, detections)

    def extract_features(self, images, image_sizes, training=None):
        """Normalise, run backbone and pyramid.

        Args:
            images: (B, H, W, C), not normalised. image_sizes: int32 (B, [height, width]).
            training: for trainable norms.

        Returns:
            dict of pyramid: P2..P6, list of float (B, h_l, w_l, channels); roi_maps: P2..P5 as RoIAlign reads them,
            whose border cells continue into the padding; image_sizes: int32 (B, [height, width]), network pixels.
        """
        config = self.config
        images, normalized = self.frame.place(ops.cast(images, "float32"), image_sizes)
        backbone = backbones.describe(self.backbone)
        images = backbone.normalize(images, normalized, config.pixel_mean, config.pixel_std)
        masked = image_sizes if config.mask_padding else None
        maps = backbone.extract(images, masked, training)
        pyramid = self.fpn(maps, image_sizes=masked, training=training)
        roi_maps = [repeat_border(level, masked, stride) for level, stride in zip(pyramid[:4], PYRAMID_STRIDES)]
        return {"pyramid": pyramid, "roi_maps": roi_maps, "image_sizes": image_sizes}

    def propose(self, features, for_training=False):
        """The RPN's best boxes.

        Args:
            features: from `extract_features`.
            for_training: whether training's numbers of boxes apply, which are larger.

        Returns:
            dict of boxes float (B, P, 4) network pixels, scores float (B, P), valid bool (B, P); and by level, for the
            RPN's losses: logits list of float (B, N_l), deltas list of float (B, N_l, 4), anchors list of float
            (N_l, 4) network pixels, anchors_valid list of bool (B, N_l), or of None where all count.
        """
        outputs = self.rpn(features["pyramid"], features["image_sizes"] if self.config.mask_padding else None)
        anchors = self._make_anchors(features)
        limits = self.proposal_limits(for_training)
        proposals = SELECTIONS[self.config.rpn_selection](
            **outputs, **anchors, **self.frame.canvas_limits(features["image_sizes"]), **limits, filled=not for_training
        )
        return {**proposals, **outputs, **anchors}

    def proposal_limits(self, for_training=False):
        """The config's numbers in the words of `select_proposals`: dict of its keyword arguments."""
        config = self.config
        return {
            "pre_nms": config.train_pre_nms if for_training else config.test_pre_nms,
            "post_nms": config.train_post_nms if for_training else config.test_post_nms,
            "nms_threshold": config.rpn_nms_threshold,
            "min_size": config.rpn_min_size,
            "box_weights": config.rpn_box_weights,
            "max_log_scale": config.max_log_scale,
        }

    def detect(self, features, proposals, options=None):
        """Classify and refine the proposals, and keep the best; `options` as for `call`.

        Returns:
            dict of boxes (B, D', 4), scores, labels, valid (B, D'), D' <= D (see `select_detections`).
        """
        rule = RULES[self.config.detection_rule]
        return rule(**self.classify(features, proposals), **self.detection_limits(options))

    def classify(self, features, proposals):
        """Run the box head: the first arguments of `select_detections`, see `BoxStages.classify`."""
        return self.box_stages().classify(features, proposals)

    def detection_limits(self, options=None):
        """The config's numbers in the words of `select_detections`; `options` as for `call`: see `limits.py`."""
        return detection_limits(self.config, options)

    def change_detection(self, **fields):
        """Replace numbers of the config that only the choice of detections reads, such as those that `tune` finds.

        Args:
            **fields: of `DETECTION_FIELDS`.

        Raises:
            ValueError: another field, or a wrong value.
        """
        unknown = sorted(set(fields) - set(DETECTION_FIELDS))
        if unknown:
            raise ValueError(
                f"change_detection takes {', '.join(DETECTION_FIELDS)}. Received: {', '.join(unknown)}. "
                "Other numbers are given when a model is made."
            )
        self.config = dataclasses.replace(self.config, **fields)
        self.predict_function = self._predict_here = None  # compiled with the numbers before

    def describe(self, features, detections):
        """Add each branch's predictions, made on the refined boxes (section 3.1), and pad to D rows."""
        rows = dict(detections)
        for head in self.branch_heads().values():
            for name, values in head.detect(features["roi_maps"], detections).items():
                valid = detections["valid"][(..., *[None] * (len(values.shape) - 2))]
                rows[name] = ops.where(valid, values, ops.zeros_like(values))
        boxes = self.frame.leave(rows["boxes"], features["image_sizes"])
        rows["boxes"] = ops.where(detections["valid"][..., None], boxes, ops.zeros_like(boxes))
        return {name: backend.pad_columns(array, self.config.max_detections) for name, array in rows.items()}

    def _make_anchors(self, features):
        """Anchors of every level, and which of them stand on the image: `anchors` and `anchors_valid` of `propose`."""
        pyramid, image_sizes = features["pyramid"], features["image_sizes"]
        canvas = [side * PYRAMID_STRIDES[0] for side in backend.shape(pyramid[0])[1:3]]
        anchors, valid = [], []
        for level, stride, cells in zip(pyramid, PYRAMID_STRIDES, self.cells):
            batch, *extent = backend.shape(level)[:3]
            spacing = (stride, stride)
            if self.config.anchor_spacing == "canvas":
                spacing = (canvas[0] // extent[0], canvas[1] // extent[1])
            anchors.append(level_anchors(*extent, spacing, cells))
            if not self.config.mask_padding:
                valid.append(None)
                continue
            inside = ops.expand_dims(valid_cells(extent, image_sizes, stride), -1)
            inside = ops.logical_and(inside, np.ones(len(cells), bool))  # for every anchor of a cell
            valid.append(ops.reshape(inside, (batch, -1)))
        return {"anchors": anchors, "anchors_valid": valid}

    # Training --------------------------------------------------------------------------------------------------

    def learn(self, features, proposals, truth, training=None):
        """Sample targets and run the heads on the sampled RoIs.

        Returns:
            dict of `rpn` (logits (B, N), deltas (B, N, 4), targets), `roi` (class_logits (B, S, K + 1), deltas
            (B, S, K, 4), targets; of a cascade `stage1_roi`, ...), and for each branch, under its name, what its head's
            `learn` returns.
        """
        has_image, truth = self._trim_truth(truth)
        rpn, stages = self._learn_rpn(proposals, truth, has_image), self.box_stages()
        rois = stages.sample(proposals, truth, has_image, self._noise)
        learned = {"rpn": rpn, **stages.learn(features, rois, truth, training)}
        for name, head in self.branch_heads().items():
            learned[name] = head.learn(features["roi_maps"], rois, truth, training)
        return learned

    @staticmethod
    def _trim_truth(truth):
        """Leave out rows that are padding in every image: matching costs rows times anchors.

        Returns:
            bool (B,), which rows of the batch hold an image; dict of the ground truth.
        """
        names = [name for name in truth if name not in ("gt_valid", HAS_IMAGE)]
        rows = backend.trim_to_valid(ops.cast(truth["gt_valid"], "bool"), *(truth[name] for name in names))
        return truth[HAS_IMAGE], dict(zip(("gt_valid", *names), rows))

    def _enter(self, truth, image_sizes):
        """The ground truth with its boxes in the network's own frame."""
        names = [name for name in ("gt_boxes", "gt_mask_boxes") if name in truth]
        return truth | {name: self.frame.enter(truth[name], image_sizes) for name in names}

    def _noise(self, like):
        return keras.random.uniform(backend.shape(like), dtype="float32", seed=self.seed_generator)

    def _learn_rpn(self, proposals, truth, has_image):
        config = self.config
        logits, deltas = (ops.concatenate(proposals[name], axis=1) for name in ("logits", "deltas"))
        valid, counted = proposals["anchors_valid"], has_image[:, None]
        if valid[0] is not None:
            counted = ops.logical_and(counted, ops.concatenate(valid, axis=1))
        sampled = targets.rpn_targets(
            noise=self._noise(logits),
            anchors=ops.concatenate(proposals["anchors"], axis=0),
            anchors_valid=counted,
            truth=truth,
            positive_iou=config.rpn_positive_iou,
            negative_iou=config.rpn_negative_iou,
            num_samples=config.rpn_samples,
            positive_fraction=config.rpn_positive_fraction,
            box_weights=config.rpn_box_weights,
            crowd_ioa=config.crowd_ioa,
        )
        return {"logits": logits, "deltas": deltas, "targets": sampled}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the named losses and of the layers' own (regularisers); each named one goes to its tracker.

        Raises:
            ValueError: if the batch holds no ground truth, so that `call` returned detections.
        """
        if "rpn" not in y_pred:
            raise ValueError(
                "Training needs ground truth in the batch: the keys gt_boxes, gt_labels, gt_valid and those of the "
                f"branches. Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}. "
                "keras_maskrcnn/batch.py lists them."
            )
        beta, rpn_beta = self.config.smooth_l1_beta, self.config.rpn_smooth_l1_beta
        values = losses.rpn_losses(**y_pred["rpn"], beta=beta if rpn_beta is None else rpn_beta)
        values |= self.box_stages().loss_values(y_pred)
        for name, head in self.branch_heads().items():
            values |= head.loss_values(y_pred[name])
        batch = backend.share_of_count(count_images(x))
        for name, tracker in self.loss_trackers.items():
            tracker.update_state(values[name], sample_weight=batch)
        return backend.scale_loss(sum(values[name] for name in self.loss_trackers) + sum(self.losses))

    def get_metrics_result(self):
        """As `keras.Model.get_metrics_result`; `loss` is the sum of the named losses where no layer adds one.

        Keras weights it with the rows of a batch, also those without an image.
        """
        logs = super().get_metrics_result()
        if "loss" in logs and not self.losses:
            logs["loss"] = sum(logs[name] for name in self.loss_trackers)
        return logs

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As `keras.Model.compute_metrics`, in the shape in which `fit` averages over processes."""
        return backend.logs_of_replica(super().compute_metrics(x, y, y_pred, sample_weight))

    # Keras -----------------------------------------------------------------------------------------------------

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`. Of several devices this process's first one computes, without the others.

        So processes may detect in different images at the same time.
        """
        if self._predict_here is None:
            self._predict_here = backend.local_prediction(self)
        return super().predict_on_batch(x) if self._predict_here is None else self._predict_here(x)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: the constructor builds the layers, and `compile` the optimizer.

        Keras would build them from the mean of the replicas' first batches, which bool arrays do not have.
        """

    def get_config(self):
        """Keras serialisation."""
        return {
            **({"origin": dict(self.origin)} if self.origin else {}),
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
        trainable, origin = config.pop("trainable", True), config.pop("origin", None)
        backbone = config.pop("backbone", None)
        if backbone is not None:
            backbone = keras.saving.deserialize_keras_object(backbone)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        values = MaskRCNNConfig.from_dict(config.pop("config"))
        model = cls(values, backbone=backbone, **config)
        model.origin = origin
        if not trainable:  # True would thaw the parts that the config froze
            model.trainable = False
        return model

    def export(self, *args, **kwargs):
        """Keras' export, with stock operators only: a graph with an operator of ours would run nowhere else.

        Raises:
            ValueError: the backend is PyTorch, whose exports hold the number of boxes of one image.
        """
        if keras.backend.backend() == "torch":
            raise ValueError(
                "Models are exported on the TensorFlow backend. Received: backend torch. Save the model as .keras, "
                "then run KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras DIRECTORY."
            )
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
