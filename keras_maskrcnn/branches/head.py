"""The Keras layer of a branch: pools features for RoIs, predicts, and compares predictions with their targets."""

import keras

from keras_maskrcnn.learning.targets import positive_rois
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign


class BranchHead(keras.layers.Layer):
    """What every head of a branch has. Subclasses define `call`, `learn`, `loss_values` and `detect`.

    Args:
        pool_size: RoIAlign bins per side.
        max_rois: positive RoIs of an image that the head trains on at most; None takes all.
        roi_align: dict of options of MultiLevelRoIAlign. `Branch.head_options` gives it and max_rois.
    """

    def __init__(self, pool_size, max_rois=None, roi_align=None, **kwargs):
        super().__init__(**kwargs)
        self.pool_size, self.max_rois, self.roi_align = pool_size, max_rois, dict(roi_align or {})
        name = f"{self.name.removesuffix('_head')}_align"
        self.align = MultiLevelRoIAlign(pool_size, name=name, dtype=self.dtype_policy, **self.roi_align)
        self.align.built = True  # it has no weights

    def learn(self, maps, rois, truth, training):
        """Predict for the sampled RoIs, and make their targets.

        Args:
            maps: list of float (B, h_l, w_l, channels): P2..P5 as RoIAlign reads them.
            rois: dict of rois (B, S, 4) network pixels, valid and positive bool (B, S) with positives first, labels
                (B, S), matched (B, S): the ground-truth row of each RoI. `positive_rois` takes the positive ones.
            truth: dict of the batch's `gt_*` arrays.
            training: whether trainable norms use the batch's statistics.

        Returns:
            dict of tensors with the batch as first axis, for `loss_values`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define learn(maps, rois, truth, training).")

    def loss_values(self, learned):
        """The branch's losses: dict of each name in `Branch.losses` to a float32 scalar. learned: from `learn`."""
        raise NotImplementedError(f"{type(self).__name__} must define loss_values(learned).")

    def detect(self, maps, detections):
        """Predict for the final detections.

        Args:
            maps: as for `learn`. detections: dict of boxes (B, D, 4) network pixels, scores, labels, valid (B, D).

        Returns:
            dict of each key in `Branch.found` to (B, D, *shape). Rows that are not valid may hold anything.
        """
        raise NotImplementedError(f"{type(self).__name__} must define detect(maps, detections).")

    def positive_rois(self, rois):
        """The positive RoIs of `learn`, at most `max_rois` of an image: see `learning.targets.positive_rois`."""
        return positive_rois(rois, self.max_rois)

    def get_config(self):
        """Keras serialisation."""
        options = {"pool_size": self.pool_size, "max_rois": self.max_rois, "roi_align": self.roi_align}
        return {**super().get_config(), **options}
