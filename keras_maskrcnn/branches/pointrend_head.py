"""The layer of the PointRend branch: RoIs -> masks that are rendered point by point (Kirillov et al., CVPR 2020).

A coarse head predicts small masks from P2. A point head, a perceptron, predicts single points from P2 and the coarse
masks of all classes there. Training shows it points near the edges of the coarse masks. Inference doubles the masks
several times, and each time asks it for the least certain points alone.

Shapes: R RoIs, K classes, c = coarse_size, P points, M = mask_size. Points are [x, y] in 0..1 of their RoI.
"""

import keras
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.branches.head import BranchHead
from keras_maskrcnn.branches.mask_head import mask_loss, mask_targets
from keras_maskrcnn.branches.points import (
    cell_centres,
    grid_points,
    in_boxes,
    least_certain,
    own_masks,
    square_weights,
    uncertain_points,
)
from keras_maskrcnn.geometry.bilinear import doubling
from keras_maskrcnn.geometry.mask_samples import sample_mask_points
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.learning.losses import binary_cross_entropy, mean_of
from keras_maskrcnn.network.layers import KernelAndBias
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign

STRIDE = PYRAMID_STRIDES[0]  # of P2, the only map that is read
ONE_POINT = {"sampling_ratio": 1, "aligned": True, "strides": (STRIDE,)}  # RoIAlign as a regular grid of points on P2


@keras.saving.register_keras_serializable("keras_maskrcnn")
class PointRendHead(BranchHead):
    """A 2x2 convolution of stride 2 and dense layers for the coarse masks; a perceptron for points.

    Args:
        num_classes: K, background not counted.
        channels_in: channels of P2.
        coarse_size: c, side of the coarse masks.
        coarse_features, coarse_fcs: width and number of the coarse head's hidden layers.
        channels, num_fcs: width and number of the point head's hidden layers.
        steps: how often the masks are doubled: M = c * 2 ** steps.
        step_points: points that are predicted in each step.
        train_points, oversampling, importance: as of `PointRendMask`.
        fading: True puts zeros around P2, so that points within half a cell of the canvas' border read less (torch's
            `grid_sample`, in Detectron2). False lets the border cells continue, as they do on canvases that are larger
            than their image.
        target_rule: dict of options of `sample_masks` for the coarse masks' targets.
        **kwargs: of BranchHead.
    """

    def __init__(
        self,
        num_classes,
        channels_in=256,
        coarse_size=7,
        coarse_features=1024,
        coarse_fcs=2,
        channels=256,
        num_fcs=3,
        steps=5,
        step_points=784,
        train_points=196,
        oversampling=3,
        importance=0.75,
        pool_size=14,
        fading=False,
        target_rule=None,
        **kwargs,
    ):
        super().__init__(pool_size, **kwargs | {"roi_align": ONE_POINT})
        self.fading = fading
        self.num_classes, self.channels_in, self.coarse_size = num_classes, channels_in, coarse_size
        self.coarse_features, self.coarse_fcs = coarse_features, coarse_fcs
        self.channels, self.num_fcs, self.steps, self.step_points = channels, num_fcs, steps, step_points
        self.train_points, self.oversampling, self.importance = train_points, oversampling, importance
        self.target_rule = dict(target_rule or {})
        self.seed_generator = keras.random.SeedGenerator(0)
        self.first_align = MultiLevelRoIAlign(self.first_size, dtype=self.dtype_policy, **ONE_POINT)
        self.point_align = MultiLevelRoIAlign(1, dtype=self.dtype_policy, **ONE_POINT)
        self.first_align.built = self.point_align.built = True  # they have no weights
        self._make_layers()

    def _make_layers(self):
        dense = {"kernel_initializer": backend.initial_values("he_uniform"), "dtype": self.dtype_policy}
        normal = keras.initializers.RandomNormal(stddev=0.001)
        self.reduce = keras.layers.Conv2D(
            self.channels_in,
            2,
            strides=2,
            activation="relu",
            kernel_initializer=backend.initial_values("he_normal"),
            name="reduce",
            dtype=self.dtype_policy,
        )
        self.fcs = [
            keras.layers.Dense(self.coarse_features, "relu", name=f"fc{i + 1}", **dense) for i in range(self.coarse_fcs)
        ]
        self.coarse_logits = keras.layers.Dense(
            self.num_classes * self.coarse_size**2,
            kernel_initializer=backend.initial_values(normal),
            name="coarse_logits",
            dtype="float32",
        )
        self.point_fcs = [KernelAndBias(self.channels, axes=1, name=f"point_fc{i + 1}") for i in range(self.num_fcs)]
        self.point_logits = KernelAndBias(self.num_classes, normal, axes=1, name="point_logits")

    @property
    def mask_size(self):
        """M, cells of a mask's side."""
        return self.coarse_size * 2**self.steps

    @property
    def first_size(self):
        """Side of the first masks: every point of smaller ones would be predicted again in the next step."""
        size = self.coarse_size
        while size < self.mask_size and 4 * size**2 <= self.step_points:
            size *= 2
        return size

    def build(self, input_shape):
        """Weights do not depend on the input."""
        self.reduce.build((None, self.pool_size, self.pool_size, self.channels_in))
        width = (self.pool_size // 2) ** 2 * self.channels_in
        for fc in self.fcs:
            fc.build((None, width))
            width = self.coarse_features
        self.coarse_logits.build((None, width))
        width = self.channels_in
        for fc in self.point_fcs:
            fc.build((None, width + self.num_classes))
            width = self.channels
        self.point_logits.build((None, width + self.num_classes))

    # The two heads -------------------------------------------------------------------------------------------------

    def call(self, pooled):
        """The coarse masks: float (B, R, pool_size, pool_size, channels_in) -> logits float32 (B, R, K, c * c)."""
        batch, rois = backend.shape(pooled)[:2]
        features = self.reduce(ops.reshape(pooled, (-1, self.pool_size, self.pool_size, self.channels_in)))
        features = ops.transpose(features, (0, 3, 1, 2))  # the order in which published weights are flattened
        features = ops.reshape(features, (-1, (self.pool_size // 2) ** 2 * self.channels_in))
        for fc in self.fcs:
            features = fc(features)
        logits = self.coarse_logits(features)
        return ops.reshape(logits, (batch, rois, self.num_classes, self.coarse_size**2))

    def predict_points(self, fine, points, coarse, labels):
        """The mask logits of points for their RoI's own class.

        Args:
            fine: float (B, R, P, channels_in), P2 at the points. points: float (B, R, P, [x, y]).
            coarse: float32 (B, R, K, c * c). labels: int (B, R), 0..K-1.

        Returns:
            float32 (B, R, P).
        """
        batch, rois, count = backend.shape(points)[:3]
        at_points = ops.matmul(square_weights(points, self.coarse_size), ops.swapaxes(coarse, 2, 3))
        at_points = ops.cast(ops.reshape(at_points, (-1, self.num_classes)), fine.dtype)
        features = ops.reshape(fine, (-1, self.channels_in))
        for fc in self.point_fcs:
            features = ops.concatenate([features, at_points], axis=-1)
            sums = ops.matmul(features, ops.cast(fc.kernel[0], features.dtype))
            features = ops.relu(sums + ops.cast(fc.bias, features.dtype))
        features = ops.cast(ops.concatenate([features, at_points], axis=-1), "float32")
        features = ops.reshape(features, (batch, rois, count, features.shape[-1]))
        kernel = backend.take_rows(ops.transpose(self.point_logits.kernel[0]), labels)
        bias = backend.take_rows(ops.convert_to_tensor(self.point_logits.bias), labels)
        return ops.matmul(features, kernel[..., None])[..., 0] + bias[..., None]

    # P2 ------------------------------------------------------------------------------------------------------------

    def read_grid(self, p2, boxes, align, with_gradient=False):
        """P2 at the centres of equal cells of boxes (B, R, 4), network pixels: (B, R, rows, columns, channels_in).

        Args: align: `self.align` or `self.first_align`, which say how many cells.
        """
        boxes = ops.cast(boxes, "float32")
        if self.fading:
            p2, boxes = ops.pad(p2, [[0, 0], [1, 1], [1, 1], [0, 0]]), boxes + float(STRIDE)
        return align([p2], boxes, with_gradient=with_gradient)

    def read_points(self, p2, places, with_gradient=False):
        """P2 at places (B, R, P, [x, y]), network pixels, bilinear: (B, R, P, channels_in)."""
        batch, rois, count = backend.shape(places)[:3]
        boxes = ops.reshape(ops.tile(places, (1, 1, 1, 2)), (batch, rois * count, 4))  # without extent
        read = self.read_grid(p2, boxes, self.point_align, with_gradient)
        return ops.reshape(read, (batch, rois, count, self.channels_in))

    # Training ------------------------------------------------------------------------------------------------------

    def learn(self, maps, rois, truth, training):
        """Coarse masks of the positive RoIs, points where these are least certain, and the targets of both.

        Args: as for BranchHead.learn; `truth` holds gt_boxes, gt_masks and perhaps gt_mask_boxes.

        Returns:
            dict of logits and targets float32 (B, Q, c, c), point_logits and point_targets float32 (B, Q, P), positive
            bool (B, Q).
        """
        chosen = self.positive_rois(rois)
        p2 = maps[0]
        coarse = self(self.read_grid(p2, chosen["rois"], self.align, with_gradient=True))
        labels = self._classes(chosen)
        own = own_masks(coarse, labels, self.coarse_size)
        points = self._draw_points(own)
        places = in_boxes(points, chosen["rois"])
        fine = self.read_points(p2, places, with_gradient=True)
        windows = truth.get("gt_mask_boxes", truth["gt_boxes"])
        targets = sample_mask_points(truth["gt_masks"], windows, chosen["matched"], places)
        return {
            "logits": own,
            "targets": mask_targets(chosen["rois"], chosen["matched"], truth, self.coarse_size, self.target_rule),
            "point_logits": backend.part_by_part(self.predict_points, fine, points, coarse, labels),
            "point_targets": ops.stop_gradient(targets),
            "positive": chosen["positive"],
        }

    def _classes(self, rows):
        """The labels of RoIs or detections, also of padding, as indices of classes."""
        return ops.clip(ops.convert_to_tensor(rows["labels"]), 0, self.num_classes - 1)

    def _draw_points(self, logits):
        """`uncertain_points` of coarse masks (B, Q, c, c)."""
        candidates, count = self.train_points * self.oversampling, int(self.train_points * self.importance)
        shape = (*backend.shape(logits)[:2], candidates + self.train_points - count, 2)
        noise = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return uncertain_points(logits, noise, candidates, count)

    def loss_values(self, learned):
        """Dict of mask_loss, of the coarse masks, and point_loss: the mean cross-entropy of positive RoIs' points."""
        points = ops.mean(binary_cross_entropy(learned["point_targets"], learned["point_logits"]), axis=-1)
        return {
            "mask_loss": mask_loss(learned["logits"], learned["targets"], learned["positive"]),
            "point_loss": mean_of(points, learned["positive"]),
        }

    # Inference -----------------------------------------------------------------------------------------------------

    def detect(self, maps, detections):
        """Masks on the refined boxes: dict of masks float32 (B, D, M, M), probabilities."""
        p2, boxes, labels = maps[0], ops.cast(detections["boxes"], "float32"), self._classes(detections)
        coarse = self(self.read_grid(p2, boxes, self.align))

        def render(boxes, labels, coarse):
            return self.render(p2, boxes, labels, coarse)

        return {"masks": ops.sigmoid(backend.part_by_part(render, boxes, labels, coarse))}

    def render(self, p2, boxes, labels, coarse):
        """Adaptive subdivision (section 3.1).

        Args:
            p2: float (B, h, w, channels_in). boxes: float (B, R, 4), network pixels. labels: int (B, R).
            coarse: float32 (B, R, K, c * c).

        Returns:
            logits float32 (B, R, M, M).
        """
        batch, rois = backend.shape(boxes)[:2]
        size = self.first_size
        fine = self.read_grid(p2, boxes, self.first_align)
        fine = ops.reshape(fine, (batch, rois, size * size, self.channels_in))
        points = ops.broadcast_to(grid_points(size), (batch, rois, size * size, 2))
        logits = self.predict_points(fine, points, coarse, labels)
        logits = ops.reshape(logits, (batch, rois, size, size))
        while size < self.mask_size:
            size *= 2
            logits = self._subdivide(logits, size, p2, boxes, labels, coarse)
        return logits

    def _subdivide(self, logits, size, p2, boxes, labels, coarse):
        """Double masks to (B, R, size, size), and predict their least certain points."""
        batch, rois = backend.shape(boxes)[:2]
        double = doubling(size // 2)
        logits = ops.matmul(ops.matmul(double, logits), ops.transpose(double))
        cells = least_certain(ops.reshape(logits, (batch, rois, size * size)), min(self.step_points, size * size))
        points = cell_centres(cells, size)
        fine = self.read_points(p2, in_boxes(points, boxes))
        values = self.predict_points(fine, points, coarse, labels)
        first = ops.cast(ops.arange(batch * rois), "int32") * (size * size)
        places = ops.reshape(cells, (-1, cells.shape[-1])) + first[:, None]
        flat = ops.scatter_update(ops.reshape(logits, (-1,)), ops.reshape(places, (-1, 1)), ops.reshape(values, (-1,)))
        return ops.reshape(flat, (batch, rois, size, size))

    # Keras ---------------------------------------------------------------------------------------------------------

    def save_own_variables(self, store):
        """Keep the sampler's state, which Keras does not, so that training resumes exactly."""
        super().save_own_variables(store)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        """Restore the sampler's state."""
        self.seed_generator.state.assign(store["seed_state"])

    def get_config(self):
        """Keras serialisation."""
        names = (
            "num_classes", "channels_in", "coarse_size", "coarse_features", "coarse_fcs", "channels", "num_fcs",
            "steps", "step_points", "train_points", "oversampling", "importance", "fading", "target_rule",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
