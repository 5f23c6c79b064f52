"""Detectron2's own numbers (tests/golden/d2_*): with its weights, rebuilt by name, this package has them too.

All stages of one image alone, and one training step of two. The first model's features are quick; the rest is slow.
"""

import dataclasses
import functools
import json

import numpy as np
import pytest
from backend_tools import compiled, losses_and_gradients, to_numpy
from torchvision_golden import GOLDEN, make_tensor, unpack

import keras_maskrcnn as km
from keras_maskrcnn.geometry.resizing import canvas_size, network_size, pad_to_canvas, resize_image
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor
from keras_maskrcnn.weights.detectron2 import table

FIRST = "d2_mask_rcnn_R_50_FPN"
CASCADE = "d2_cascade_mask_rcnn_R_50_FPN"
NAMES = (FIRST, f"{FIRST}_noaug", f"{FIRST}_LSJ", "d2_mask_rcnn_X_101_32x8d_FPN", CASCADE)
CASES = [
    pytest.param(name, i, marks=[pytest.mark.slow_on_jax] if (name, i) in ((FIRST, 0), (CASCADE, 0)) else [])
    for name in NAMES
    for i in (0, 1)
]
LEVELS = range(2, 7)
LOSSES = {
    "class_loss": "loss_cls",
    "box_loss": "loss_box_reg",
    **{f"stage{n + 1}_class_loss": f"loss_cls_stage{n}" for n in range(3)},
    **{f"stage{n + 1}_box_loss": f"loss_box_reg_stage{n}" for n in range(3)},
    "mask_loss": "loss_mask",
    "rpn_objectness_loss": "loss_rpn_cls",
    "rpn_box_loss": "loss_rpn_loc",
}


@functools.lru_cache(maxsize=1)
def twin(name):
    """A model with the weights of a golden file, and the file's numbers."""
    spec = json.loads((GOLDEN / f"{name}_state.json").read_text())
    chosen = spec["detectron2"]
    config = km.MaskRCNNConfig.detectron2(
        chosen["path"].split("/")[-1],
        num_classes=chosen["num_classes"],
        min_size=chosen["min_size"],
        max_size=chosen["max_size"],
        score_threshold=chosen["score_thresh"],
    )
    model = km.MaskRCNN(config)
    state = {key: make_tensor(spec["seed"], key, *rest) for key, *rest in spec["tensors"]}
    receipt = km.load_weights(model, state)
    assert receipt.complete and not receipt.notes and not receipt.left_over
    return model, np.load(GOLDEN / f"{name}.npz")


@functools.lru_cache(maxsize=1)
def stages(name, i):
    """Everything that the model finds in image i alone."""
    model, golden = twin(name)
    image = golden[f"image{i}"]
    size = network_size(*image.shape[:2], model.config)
    resized = resize_image(image, size, model.config.resize)
    canvas = pad_to_canvas(resized, canvas_size(*size))[None]

    def run(images, image_sizes):
        features = model.extract_features(images, image_sizes)
        proposals = model.propose(features)
        rpn = {key: proposals[key] for key in ("logits", "deltas", "anchors", "boxes", "scores", "valid")}
        return features["pyramid"], rpn, model.describe(features, model.detect(features, proposals))

    sizes = np.array([size], np.int32)
    pyramid, rpn, found = compiled(run, model.variables)(canvas, sizes)
    return resized, to_numpy(pyramid), to_numpy_values(rpn), to_numpy_values(found)


def to_numpy_values(arrays):
    return {key: to_numpy(value) for key, value in arrays.items()}


def relative(ours, golden):
    return np.abs(ours - golden).max() / np.abs(golden).max()


def entries(golden, key, channels_last):
    """Ours and theirs at the stored places; theirs is (B, C, H, W)."""
    return channels_last.transpose(0, 3, 1, 2).ravel()[golden[f"{key}_idx"]], golden[f"{key}_val"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "i"), CASES)
def test_input_features_and_rpn(name, i):
    resized, pyramid, rpn, _ = stages(name, i)
    check_features(twin(name)[1], i, resized, pyramid, rpn)


@pytest.mark.tensorflow
def test_features_of_the_first_image():
    """Not compiled: on TensorFlow that is quick."""
    model, golden = twin(FIRST)
    size = network_size(*golden["image0"].shape[:2], model.config)
    resized = resize_image(golden["image0"], size, model.config.resize)
    features = model.extract_features(pad_to_canvas(resized, canvas_size(*size))[None], np.array([size], np.int32))
    rpn = to_numpy_values(model.propose(features))
    check_features(golden, 0, resized, to_numpy(features["pyramid"]), rpn)
    check_proposals(golden, 0, rpn)


def check_features(golden, i, resized, pyramid, rpn):
    assert resized.shape[:2] == tuple(golden[f"alone{i}_input_size"]) and resized.sum() == golden[f"alone{i}_input_sum"]
    assert pyramid[0].shape[1:3] == tuple(golden[f"alone{i}_canvas"][2:] // 4)
    for index, level in enumerate(LEVELS):
        assert relative(*entries(golden, f"alone{i}_feat_p{level}", pyramid[index])) < 1e-4
        rows, columns = pyramid[index].shape[1:3]
        for key, values, count in (("obj", rpn["logits"], 3), ("delta", rpn["deltas"], 12)):
            maps = values[index].reshape(1, rows, columns, count)
            assert relative(*entries(golden, f"alone{i}_rpn_{key}_p{level}", maps)) < 1e-4
    assert [len(each) for each in rpn["anchors"]] == golden[f"alone{i}_num_anchors"].tolist()
    sums = sum(each.sum(axis=0, dtype=np.float64) for each in rpn["anchors"])
    np.testing.assert_allclose(sums, golden[f"alone{i}_anchors_sum"], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "i"), CASES)
def test_proposals(name, i):
    check_proposals(twin(name)[1], i, stages(name, i)[2])


def check_proposals(golden, i, rpn):
    ours, theirs = rpn["boxes"][0][rpn["valid"][0]], golden[f"alone{i}_proposals"]
    assert len(ours) == len(theirs)
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=-1)
    near = distance.min(axis=1) < 0.05
    assert near.mean() >= 0.995 and len(set(distance.argmin(axis=1)[near])) == near.sum()


def found_instances(name, i):
    """The instances of image i, as Predictor gives them."""
    model, golden = twin(name)
    image = golden[f"image{i}"]
    batch = NetworkBatch(Predictor(model), [image.shape[:2]])
    size = network_size(*image.shape[:2], model.config)
    batch.outputs = stages(name, i)[3] | {"image_sizes": np.array([size], np.int32)}
    return batch.found(0, image)


def partners(found, golden, i):
    """Our row of each of their detections: same class, score within 1e-4, and the nearest box."""
    boxes, scores, labels = (golden[f"det{i}_{key}"] for key in ("boxes", "scores", "labels"))
    alike = (found.labels[None] == labels[:, None]) & (np.abs(found.scores[None] - scores[:, None]) < 1e-4)
    distance = np.where(alike, np.abs(found.boxes[None] - boxes[:, None]).max(axis=-1), np.inf)
    rows = distance.argmin(axis=1)
    assert len(found) == len(boxes) > 50 and sorted(rows) == list(range(len(rows)))
    assert distance.min(axis=1).max() < 0.05
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("name", "i"), CASES)
def test_detections_and_masks(name, i):
    _, golden = twin(name)
    found = found_instances(name, i)
    rows = partners(found, golden, i)
    soft = found.box_masks[rows]
    stored = soft.ravel()[golden[f"det{i}_soft_masks_idx"]]
    np.testing.assert_allclose(stored, golden[f"det{i}_soft_masks_val"], atol=1e-3)  # ratio 2 in this head: 0.015
    theirs = unpack(golden[f"det{i}_masks_packed"], found.image_size[1]).astype(bool)
    assert (found.masks[rows] == theirs).mean(axis=(1, 2)).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("i", [pytest.param(0, marks=pytest.mark.slow_on_jax), 1])
def test_every_stage_of_the_cascade(i):
    """Scores and deltas of the golden proposals, in their order."""
    model, golden = twin(CASCADE)
    image = golden[f"image{i}"]
    size = network_size(*image.shape[:2], model.config)
    canvas = pad_to_canvas(resize_image(image, size, model.config.resize), canvas_size(*size))[None]

    def run(images, image_sizes, boxes):
        passes = model.box_stages().run(model.extract_features(images, image_sizes), boxes)
        return [(outputs["class_logits"][0], outputs["deltas"][0, :, 0]) for _, outputs in passes]

    found = compiled(run, model.variables)(canvas, np.array([size], np.int32), golden[f"alone{i}_proposals"][None])
    assert len(found) == 3
    for stage, outputs in enumerate(found):
        for key, ours in zip(("cls_logits", "box_deltas"), outputs, strict=True):
            key = f"alone{i}_{key}{stage}"
            assert relative(to_numpy(ours).ravel()[golden[f"{key}_idx"]], golden[f"{key}_val"]) < 1e-4, key


# A training step -------------------------------------------------------------------------------------------------


def ground_truth(golden, config):
    """Both images with the ground truth as Detectron2 resizes it, as one batch."""
    images = [golden[f"image{i}"] for i in range(2)]
    sizes = [network_size(*image.shape[:2], config) for image in images]
    height, width = canvas_size(*np.max(sizes, axis=0))
    rows = max(len(golden[f"gt{i}_labels"]) for i in range(2))
    batch = {
        "images": np.zeros((2, height, width, 3), np.float32),
        "image_sizes": np.array(sizes, np.int32),
        "gt_boxes": np.zeros((2, rows, 4), np.float32),
        "gt_labels": np.zeros((2, rows), np.int32),
        "gt_valid": np.zeros((2, rows), bool),
        "gt_masks": np.zeros((2, rows, height, width), np.uint8),
        "gt_mask_boxes": np.tile(np.array([0, 0, width, height], np.float32), (2, rows, 1)),
    }
    for i, (rows_of_image, columns) in enumerate(sizes):
        count = len(golden[f"gt{i}_labels"])
        batch["images"][i, :rows_of_image, :columns] = resize_image(images[i], sizes[i], config.resize)
        batch["gt_boxes"][i, :count] = golden[f"gt{i}_net_boxes"]
        batch["gt_labels"][i, :count] = golden[f"gt{i}_labels"]
        batch["gt_valid"][i, :count] = True
        masks = unpack(golden[f"gt{i}_net_masks_packed"], columns)
        beyond = [(0, 0), (0, height - rows_of_image), (0, width - columns)]
        batch["gt_masks"][i, :count] = np.pad(masks, beyond, mode="edge")
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES[:2], pytest.param(CASCADE, marks=pytest.mark.slow_on_jax)])
def test_losses_and_gradients(name, monkeypatch):
    model, golden = twin(name)
    everything = {"rpn_samples": 10**7, "rpn_positive_fraction": 1.0, "roi_samples": 10**7, "mask_samples": 100}
    config = dataclasses.replace(model.config, roi_positive_fraction=1.0, **everything)
    counts = [golden[f"count/rpn/num_{kind}_anchors"] for kind in ("pos", "neg")]
    share = float(sum(counts)) / 256  # Detectron2 divides by 256 anchors an image, this package by the sampled ones
    names = [key.removeprefix("gradnorm/") for key in golden.files if key.startswith("gradnorm/")]
    weights = {entry.name: entry.weight for entry in table(model)}
    rpn_losses = km.model.losses.rpn_losses
    monkeypatch.setattr(
        km.model.losses, "rpn_losses", lambda *a, **k: {key: each * share for key, each in rpn_losses(*a, **k).items()}
    )
    monkeypatch.setattr(model, "config", config)
    losses, gradients = losses_and_gradients(model, ground_truth(golden, config), [weights[each] for each in names])
    assert sorted(LOSSES[ours] for ours in losses) == sorted(golden["loss_names"])
    for ours, value in losses.items():
        np.testing.assert_allclose(value, golden[LOSSES[ours]], rtol=1e-3, err_msg=ours)
    assert len(names) >= 15
    for key, gradient in zip(names, gradients, strict=True):
        norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
        np.testing.assert_allclose(norm, golden[f"gradnorm/{key}"], rtol=1e-3, err_msg=key)


# The resize ------------------------------------------------------------------------------------------------------


def test_resizes():
    golden = np.load(GOLDEN / "d2_inputs.npz")
    for j in range(6):
        shortest, longest = (int(side) for side in golden[f"min_max{j}"])
        config = km.MaskRCNNConfig.detectron2(min_size=shortest, max_size=longest)
        image = golden[f"image{j}"]
        size = network_size(*image.shape[:2], config)
        assert size == tuple(golden[f"input_size{j}"])
        ours = resize_image(image, size, config.resize)
        assert ours.sum(dtype=np.int64) == golden[f"input_sum{j}"]
        if f"input{j}" in golden.files:
            np.testing.assert_array_equal(ours, golden[f"input{j}"])
        else:
            np.testing.assert_array_equal(ours.ravel()[golden[f"input{j}_idx"]], golden[f"input{j}_val"])
