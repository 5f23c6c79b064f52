"""Torchvision's twin: with its weights, its numbers, from the features to the gradients.

test_torchvision_v1.py and test_torchvision_v2.py import the tests, each with its `twin`, which is made once a file: its
weights take seconds.
"""

import functools

import numpy as np
from backend_tools import compiled, losses_and_gradients, to_numpy
from torchvision_golden import (
    LEVELS,
    both_images,
    golden_model,
    golden_numbers,
    ground_truth,
    sample_all,
    unpack,
)

from keras_maskrcnn.inference.found import FoundInstances
from keras_maskrcnn.weights.torchvision import tensor_table

LOSSES = {
    "rpn_objectness_loss": "loss_objectness",
    "rpn_box_loss": "loss_rpn_box_reg",
    "class_loss": "loss_classifier",
    "box_loss": "loss_box_reg",
    "mask_loss": "loss_mask",
}


class Twin:
    """One version's model beside torchvision's numbers; what it computes for both, stage by stage, when asked."""

    def __init__(self, version):
        self.golden = golden_numbers(version)
        self.model = golden_model(version)
        self.batch = both_images(self.golden, self.model.config)

    @functools.cached_property
    def _outputs(self):
        def stages(images, image_sizes):
            model = self.model
            features = model.extract_features(images, image_sizes)
            proposals = model.propose(features)
            detections = model.describe(features, model.detect(features, proposals))
            rpn = proposals["logits"], proposals["deltas"]
            kept = proposals["boxes"], proposals["scores"], proposals["valid"]
            return features["pyramid"], proposals["anchors"], rpn, kept, detections

        outputs = compiled(stages, self.model.variables)(self.batch["images"], self.batch["image_sizes"])
        detections = {name: to_numpy(each) for name, each in outputs[4].items()}
        return *(to_numpy(list(each)) for each in outputs[:4]), detections

    pyramid, anchors, rpn, proposals, detections = (
        property(lambda self, place=place: self._outputs[place]) for place in range(5)
    )

    def found(self, i):
        """The instances of image i in its own pixels."""
        source, network = self.golden[f"image{i}"].shape[:2], self.batch["image_sizes"][i]
        out = {name: array[i][self.detections["valid"][i]] for name, array in self.detections.items()}
        factors = np.array([source[1] / network[1], source[0] / network[0]] * 2, np.float32)
        return FoundInstances(
            out["boxes"] * factors, out["scores"], out["labels"], {"masks": out["masks"]}, source, self.model.config
        )


def relative(ours, golden):
    return np.abs(ours - golden).max() / np.abs(golden).max()


def test_features_and_rpn_outputs(twin):
    for level, key in enumerate(LEVELS):
        nchw = twin.pyramid[level].transpose(0, 3, 1, 2)
        assert relative(nchw.ravel()[twin.golden[f"feat{key}_idx"]], twin.golden[f"feat{key}_val"]) < 1e-5
        batch, _, rows, columns = nchw.shape
        for ours, name, values in ((twin.rpn[0], "obj", 1), (twin.rpn[1], "delta", 4)):
            # Ours: row, column, anchor, value. Torchvision's channels: anchor, value.
            maps = ours[level].reshape(batch, rows, columns, 3 * values).transpose(0, 3, 1, 2)
            golden = twin.golden[f"rpn_{name}{level}_val"]
            assert relative(maps.ravel()[twin.golden[f"rpn_{name}{level}_idx"]], golden) < 1e-5


def test_anchors(twin):
    assert sum(map(len, twin.anchors)) == twin.golden["num_anchors"]
    sums = sum(each.sum(axis=0, dtype=np.float64) for each in twin.anchors)
    np.testing.assert_allclose(sums, twin.golden["anchors_sum"], rtol=1e-7)


def test_proposals(twin):
    boxes, _, valid = twin.proposals
    for i in range(2):
        ours, golden = boxes[i][valid[i]], twin.golden[f"proposals{i}"]
        assert len(ours) == len(golden)
        distance = np.abs(ours[:, None] - golden[None]).max(axis=-1)
        # One to one: each finds its own partner, and no partner is taken twice.
        partner = distance.argmin(axis=1)
        near = distance.min(axis=1) < 0.05
        assert near.mean() >= 0.995 and len(set(partner[near])) == near.sum()


SCORE_TOLERANCE = 2e-5


def golden_detections(twin, i):
    return {name: twin.golden[f"det{i}_{name}"] for name in ("boxes", "scores", "labels")}


def partners(found, golden):
    """The row of each golden detection: its own, but that scores closer than the tolerance may stand in any order.

    XLA adds in another order than torch, and two of v2's scores differ by less than float32's noise.
    """
    rows = []
    for row, (box, score, label) in enumerate(zip(golden["boxes"], golden["scores"], golden["labels"], strict=True)):
        tied = (np.abs(golden["scores"] - score) < SCORE_TOLERANCE) & (found.labels + 1 == label)
        distance = np.where(tied, np.abs(found.boxes - box).max(axis=1), np.inf)
        rows.append(row if found.labels[row] + 1 == label and tied.sum() == 1 else int(distance.argmin()))
    assert sorted(rows) == list(range(len(rows)))  # one to one
    return np.array(rows)


def test_detections(twin):
    for i in range(2):
        found, golden = twin.found(i), golden_detections(twin, i)
        assert len(found) == len(golden["boxes"]) > 50
        rows = partners(found, golden)
        np.testing.assert_array_equal(found.labels[rows] + 1, golden["labels"])
        np.testing.assert_allclose(found.boxes[rows], golden["boxes"], atol=2e-3)
        np.testing.assert_allclose(found.scores[rows], golden["scores"], atol=SCORE_TOLERANCE)


def test_masks(twin):
    for i in range(2):
        found = twin.found(i)
        golden = unpack(twin.golden[f"det{i}_masks_packed"], found.image_size[1]).astype(bool)
        masks = found.masks[partners(found, golden_detections(twin, i))]
        assert (masks == golden).mean(axis=(1, 2)).min() >= 0.999
        assert (masks & golden).sum() / (masks | golden).sum() >= 0.999


def test_losses_and_gradients(twin):
    truth = ground_truth(twin.golden, twin.batch)
    names = [key.removeprefix("gradnorm/") for key in twin.golden.files if key.startswith("gradnorm/")]
    weights = {entry.name: entry.weight for entry in tensor_table(twin.model)}
    config, twin.model.config = twin.model.config, sample_all(twin.model.config)
    try:
        batch = twin.batch | truth
        losses, gradients = losses_and_gradients(twin.model, batch, [weights[name] for name in names])
    finally:
        twin.model.config = config
    for ours, theirs in LOSSES.items():
        np.testing.assert_allclose(losses[ours], twin.golden[theirs], rtol=1e-5, err_msg=ours)
    assert len(names) >= 8
    for name, gradient in zip(names, gradients):
        norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
        np.testing.assert_allclose(norm, twin.golden[f"gradnorm/{name}"], rtol=5e-4, err_msg=name)
