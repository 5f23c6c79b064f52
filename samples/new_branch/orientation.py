"""A branch of your own: which way each object points, learned beside class, box and mask.

Each annotation holds a field of yours, here `"direction": [dx, dy]`, image pixels. Add the branch to a config:
`km.MaskRCNNConfig(num_classes=1, branches=("mask", Orientation()))`. train.py does, on pictures of arrows.
"""

import keras
import numpy as np
from keras import ops

from keras_maskrcnn.branches import Branch, BranchHead, Field
from keras_maskrcnn.learning.losses import mean_of
from keras_maskrcnn.learning.targets import matched_rows


@keras.saving.register_keras_serializable("orientation")
class Orientation(Branch):
    """The direction of each object in the image plane, as a unit vector."""

    name = "orientation"
    losses = ("orientation_loss",)

    def truth(self, config):
        """gt_orientation: zeros where the annotation has no direction."""
        return {"gt_orientation": Field((2,), "float32", "unit vector, network pixels", ("[dx, dy]",))}

    def make_truth(self, seen, config):
        """The annotated direction after flips, crops and turns."""
        vector = seen.vectors((seen.instance.attributes or {}).get("direction", (0, 0)))
        return {"gt_orientation": vector / max(np.linalg.norm(vector), 1e-6)}

    def found(self, config):
        """orientation: the predicted direction."""
        return {"orientation": Field((2,), "float32", "unit vector, image pixels", ("[dx, dy]",))}

    def make_head(self, config, dtype):
        """One hidden layer on 7x7 pooled features."""
        return OrientationHead(7, config.fpn_channels, **self.head_options(config, dtype))

    def draw(self, pen, found, index, enlarge, color):
        """A line from the middle of the box towards the direction."""
        x1, y1, x2, y2 = found.boxes[index] * enlarge
        middle, reach = np.array([x1 + x2, y1 + y2]) / 2, min(x2 - x1, y2 - y1) / 2
        pen.line([*middle, *(middle + found.orientation[index] * reach)], fill=color, width=2)


class OrientationHead(BranchHead):
    """Pooled features -> unit vector."""

    def __init__(self, pool_size, channels, **kwargs):
        super().__init__(pool_size, **kwargs)
        self.width = pool_size * pool_size * channels
        self.hidden = keras.layers.Dense(64, "relu", name="hidden", dtype=self.dtype_policy)
        self.vector = keras.layers.Dense(2, name="vector", dtype="float32")

    def build(self, input_shape):
        """Weights do not depend on the input."""
        self.hidden.build((None, None, self.width))
        self.vector.build((None, None, 64))

    def call(self, pooled):
        """Float (B, R, 7, 7, channels) -> float32 (B, R, [dx, dy])."""
        pooled = ops.reshape(pooled, (*ops.shape(pooled)[:2], self.width))
        return ops.normalize(self.vector(self.hidden(pooled)), axis=-1)

    def learn(self, maps, rois, truth, training):
        """Predictions and targets of the positive RoIs."""
        chosen = self.positive_rois(rois)
        targets = matched_rows(truth["gt_orientation"], chosen["matched"])
        return {"vectors": self(self.align(maps, chosen["rois"], with_gradient=True)), "targets": targets, **chosen}

    def loss_values(self, learned):
        """One minus the cosine, where a direction is known."""
        error = 1.0 - ops.sum(learned["vectors"] * learned["targets"], axis=-1)
        known = ops.any(learned["targets"] != 0, axis=-1)
        return {"orientation_loss": mean_of(error, ops.logical_and(learned["positive"], known))}

    def detect(self, maps, detections):
        """Directions of the final boxes."""
        return {"orientation": self(self.align(maps, detections["boxes"], with_gradient=False))}
