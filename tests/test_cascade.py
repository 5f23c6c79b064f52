"""Cascade R-CNN: what each stage is given and trained on, by hand and against numpy; files, exports, options.

Detectron2's own numbers are in test_detectron2_golden.py, its weights in test_detectron2.py.
"""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
from backend_tools import pull_back, to_numpy
from converter_models import noise, small_model
from tiny import images_only, random_batch, sample_everything, scatter_weights, tiny_config
from torchvision_golden import make_tensor

import keras_maskrcnn as km
from keras_maskrcnn.box_stages.stages import _mean_logits, _share_gradient
from keras_maskrcnn.cli.demo import shapes_config, train_on_shapes
from keras_maskrcnn.learning import targets
from keras_maskrcnn.runs.freezing import freeze
from keras_maskrcnn.serving.quantizing import quantizable
from keras_maskrcnn.weights.detectron2 import table
from keras_maskrcnn.weights.models import load_model

IOUS = (0.5, 0.6, 0.7)
STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def model():
    return scatter_weights(km.MaskRCNN(sample_everything(cascade_ious=IOUS)))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def moved(boxes, deltas, weights, size):
    """Faster R-CNN eq. 2 inverted, then clipped: float64 numpy (n, 4)."""
    boxes, (dx, dy, dw, dh) = boxes.astype(np.float64), (deltas / weights).T.astype(np.float64)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    x, y = boxes[:, 0] + (0.5 + dx) * width, boxes[:, 1] + (0.5 + dy) * height
    half = np.array([width * np.exp(dw), height * np.exp(dh)]) / 2
    return np.clip(np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], axis=-1), 0, [*size[::-1]] * 2)


# The path ----------------------------------------------------------------------------------------------------


@pytest.mark.slow_on_jax
def test_each_stage_takes_the_boxes_of_the_one_before_and_scores_are_averaged(model):
    size, stages = (80, 100), model.box_stages()
    batch = images_only(random_batch([size], (96, 128)))
    features = model.extract_features(batch["images"], keras.ops.convert_to_tensor(batch["image_sizes"]))
    proposals = model.propose(features)
    passes = [(to_numpy(boxes)[0], {k: to_numpy(v)[0] for k, v in out.items()}) for boxes, out in stages.run(
        features, proposals["boxes"]
    )]  # fmt: skip
    np.testing.assert_array_equal(passes[0][0], to_numpy(proposals["boxes"])[0])
    valid = to_numpy(proposals["valid"])[0]
    for number, ((boxes, outputs), (following, _)) in enumerate(zip(passes, passes[1:]), 1):
        weights = np.array([10.0, 10.0, 5.0, 5.0]) * number
        expected = moved(boxes, outputs["deltas"][:, 0], weights, size)
        np.testing.assert_allclose(following[valid], expected[valid], atol=1e-3)
        assert np.abs(following - boxes)[valid].max() > 0.5  # something moves
        assert (outputs["deltas"] == outputs["deltas"][:, :1]).all()  # one box for all classes
    for (boxes, outputs), head in zip(passes, model.box_head.stages(), strict=True):
        alone = head(model.box_align(features["roi_maps"], boxes[None]))
        np.testing.assert_allclose(outputs["class_logits"], to_numpy(alone["class_logits"])[0], atol=1e-5)
    classified = {name: to_numpy(value)[0] for name, value in model.classify(features, proposals).items()}
    mean = np.mean([softmax(outputs["class_logits"]) for _, outputs in passes], axis=0)
    np.testing.assert_allclose(softmax(classified["class_logits"]), mean, atol=1e-6)
    np.testing.assert_array_equal(classified["proposals"], passes[-1][0])
    np.testing.assert_array_equal(classified["deltas"], passes[-1][1]["deltas"])
    found = {name: to_numpy(value)[0] for name, value in model(batch).items()}
    final = moved(passes[-1][0], passes[-1][1]["deltas"][:, 0], np.array([30.0, 30.0, 15.0, 15.0]), size)
    assert found["valid"].all()
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        near = np.abs(final - box).max(axis=1) < 1e-3
        assert near.any() and np.abs(mean[near, label] - score).min() < 1e-5


def test_scores_of_no_probability_stay_finite():
    logits = [np.array([[[200.0, 0.0, -200.0]]], np.float32)] * 3
    mean = to_numpy(_mean_logits(logits))
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(softmax(mean)[0, 0], [1, 0, 0], atol=1e-7)


# Training ----------------------------------------------------------------------------------------------------


def test_rois_of_a_further_stage_by_hand():
    truth = {
        "gt_boxes": np.array([[[10, 10, 30, 50], [60, 60, 100, 100]]], np.float32),
        "gt_labels": np.array([[2, 0]], np.int32),
        "gt_valid": np.array([[True, True]]),
        "gt_crowd": np.array([[False, True]]),
    }
    # 36 of 40 high: IoU 0.9. 26 of 40: 0.65. In the crowd. Nothing. Right, but not valid.
    rois = [[10, 10, 30, 46], [10, 10, 30, 36], [70, 70, 80, 80], [0, 60, 20, 80], [10, 10, 30, 50]]
    found = targets.match_rois(
        np.array([rois], np.float32), np.array([[True] * 4 + [False]]), truth,
        num_classes=3, iou=0.7, box_weights=(20.0, 20.0, 10.0, 10.0), crowd_ioa=0.5,
    )  # fmt: skip
    found = {name: to_numpy(value) for name, value in found.items()}
    assert found["valid"].tolist() == [[True, True, False, True, False]]
    assert found["positive"].tolist() == [[True, False, False, False, False]]
    assert found["labels"].tolist() == [[2, 3, 3, 3, 3]]
    np.testing.assert_allclose(found["deltas"][0, 0], [0, 20 * 2 / 36, 0, 10 * np.log(40 / 36)], rtol=1e-5, atol=1e-6)
    assert not found["deltas"][0, 1:].any()


@pytest.mark.parametrize("count", [1, 3])
def test_the_stages_share_the_gradient_of_the_features(count):
    features, upstream = (np.random.default_rng(seed).normal(size=(2, 5)).astype(np.float32) for seed in (0, 1))
    values, (gradient,) = pull_back(lambda given: _share_gradient(given, count), [features], upstream)
    np.testing.assert_array_equal(values, features)
    np.testing.assert_allclose(gradient, upstream / count, rtol=1e-6)


@pytest.mark.slow_on_jax
def test_a_step_trains_every_stage_on_its_own_targets(model):
    batch = random_batch([(80, 100), (128, 112)], (128, 128))
    batch["gt_boxes"][1, 0] = [5, 5, 5, 5]  # no size
    learned = model(batch)
    values = model.box_stages().loss_values(learned)
    assert set(values) == {f"stage{n}_{kind}_loss" for n in STAGES for kind in ("class", "box")}
    positives = []
    for number, iou in zip(STAGES, IOUS, strict=True):
        stage = learned[f"stage{number}_roi"]
        rois, kept = to_numpy(stage["targets"]["rois"]), to_numpy(stage["targets"]["valid"])
        positive = to_numpy(stage["targets"]["positive"])
        overlap = np.stack([to_numpy(km.ops.pairwise_iou(r, g)) for r, g in zip(rois, batch["gt_boxes"], strict=True)])
        best = np.where(batch["gt_valid"][:, None], overlap, 0).max(axis=-1)
        np.testing.assert_array_equal(positive, kept & (best >= np.float32(iou)))
        positives.append(positive.sum())
        labels, logits = to_numpy(stage["targets"]["labels"]), to_numpy(stage["class_logits"])
        entropy = -np.log(np.take_along_axis(softmax(logits.astype(np.float64)), labels[..., None], -1))[..., 0]
        assert float(values[f"stage{number}_class_loss"]) == pytest.approx(entropy[kept].mean(), rel=1e-4)
    assert positives[0] > 0 and all((kept.sum(1) > 0).tolist())
    boxes = to_numpy(learned["stage2_roi"]["targets"]["rois"])
    given, outputs = learned["stage1_roi"]["targets"], learned["stage1_roi"]
    for row, size in enumerate(batch["image_sizes"]):
        weights = np.array([10.0, 10.0, 5.0, 5.0])
        expected = moved(to_numpy(given["rois"])[row], to_numpy(outputs["deltas"])[row, :, 0], weights, size)
        np.testing.assert_allclose(boxes[row], expected, atol=1e-3)


@pytest.mark.slow_on_jax
def test_fit_and_a_saved_model(tmp_path):
    model = km.MaskRCNN(tiny_config(cascade_ious=IOUS, norm="batch"))
    batch = random_batch([(80, 100)] * 2, (96, 128))
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    before = {weight.path: to_numpy(weight) for weight in model.trainable_weights}
    logs = model.train_on_batch(batch, return_dict=True)
    names = [f"stage{n}_{kind}_loss" for n in STAGES for kind in ("class", "box")]
    assert set(logs) == {"loss", "rpn_objectness_loss", "rpn_box_loss", *names, "mask_loss"}
    assert logs["loss"] == pytest.approx(sum(value for name, value in logs.items() if name != "loss"), rel=1e-5)
    stuck = [weight.path for weight in model.trainable_weights if (before[weight.path] == to_numpy(weight)).all()]
    assert not [path for path in stuck if "/box_head/" in path and "/classes/" in path]
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.config == model.config and again.config.cascade_ious == IOUS
    for mine, theirs in zip(model.weights, again.weights, strict=True):
        assert mine.path == theirs.path
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(mine), err_msg=mine.path)


@pytest.mark.slow_on_jax  # names and files: no operator runs
def test_names_in_files_and_other_classes(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    with h5py.File(path) as file:
        names = {f"box_head/stage{n}/{layer}/vars/0" for n in STAGES for layer in ("classes", "deltas", "fcs/dense")}
        assert all(name in file for name in names) and "box_head/classes" not in file
    other = km.MaskRCNN(sample_everything(cascade_ious=IOUS, num_classes=5))
    new = [to_numpy(head.classes.kernel) for head in other.box_head.stages()]
    receipt = km.load_weights(other, path, heads=False)
    left = {name for name, _ in receipt.missing}
    assert {name for name in left if name.startswith("box_head")} == {
        f"box_head/stage{n}/classes/vars/{k}" for n in STAGES for k in (0, 1)
    }
    for mine, theirs, kernel in zip(other.box_head.stages(), model.box_head.stages(), new, strict=True):
        np.testing.assert_array_equal(to_numpy(mine.classes.kernel), kernel)
        np.testing.assert_array_equal(to_numpy(mine.deltas.kernel), to_numpy(theirs.deltas.kernel))
    freeze(other, ["box_head"])
    assert not [weight.path for weight in other.trainable_weights if "/box_head/" in weight.path]


def test_what_a_cascade_is_refused(model):
    for ious in ((0.5,), (0.6, 0.7), (0.5, 1.5), (0.5,) * 6):
        with pytest.raises(ValueError, match=r"two to five stages, and begins with roi_iou. Received: cascade_ious=\("):
            tiny_config(cascade_ious=ious)
    with pytest.raises(ValueError, match="cascade_ious must be a sequence, each entry a finite number"):
        tiny_config(cascade_ious=("a", "b"))
    assert tiny_config(cascade_ious=[0.4, 0.5], roi_iou=0.4).box_stages[1] == (0.5, (20.0, 20.0, 10.0, 10.0))
    with pytest.raises(ValueError, match=r"has one box head: cascade_ious must be \(\)"):
        km.torchvision_state_dict(model)
    single = km.torchvision_state_dict(km.MaskRCNN(tiny_config()))
    with pytest.raises(ValueError, match=r"missing from the source(.|\n)*roi_heads.box_heads.0.fc6.weight"):
        km.load_weights(model, single)


def rule(name, shape):
    """A tensor of Detectron2's layout for a trunk from nothing: he_normal kernels, small last layers, norms of 1."""
    if len(shape) > 1:
        last = ("cls_score.weight", "bbox_pred.weight", "logits.weight", "deltas.weight", "predictor.weight")
        return make_tensor(0, name, shape, "he_normal", 0.05 if name.endswith(last) else 1.0)
    return np.full(shape, name.endswith(("norm.weight", "running_var")), np.float32)


@pytest.mark.tensorflow
@pytest.mark.slow  # the demo's minutes
def test_a_converted_cascade_learns_shapes(tmp_path):
    """`km.load_weights` and then `fit`, which reaches what the demo reaches in its time."""
    plain, base = km.MaskRCNNConfig(num_classes=3), shapes_config()
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    fields = {name: value for name, value in fields.items() if value != getattr(plain, name)}
    config = km.MaskRCNNConfig.detectron2("cascade_mask_rcnn_R_50_FPN_3x", 3, **fields, trainable_layers=5)
    assert (config.cascade_ious, config.level_rule, config.backbone) == (IOUS, "detectron2", "resnet10")
    model = km.MaskRCNN(config)
    assert km.load_weights(
        model, {e.name: rule(e.name, e.shape) for e in table(model) if e.weight is not None}
    ).complete
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=1e-4, beta_2=0.99, global_clipnorm=5.0))
    _, _, metrics = train_on_shapes(tmp_path, minutes=2.5, model=model)
    print(km.format_metrics(metrics))
    assert metrics["segm_AP50"] >= 0.8


# Exports -----------------------------------------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.slow  # three conversions
@pytest.mark.parametrize("form", ["onnx", "tflite", "saved_model"])
def test_exports_find_what_the_model_finds(form, tmp_path):
    pytest.importorskip({"saved_model": "keras", "onnx": "tf2onnx", "tflite": "ai_edge_litert"}[form])
    model, size = small_model(cascade_ious=IOUS, score_threshold=0.0), (100, 130)
    path = tmp_path / {"saved_model": "model", "onnx": "model.onnx", "tflite": "model.tflite"}[form]
    if form == "tflite":
        km.export_litert(model, path, size)
    else:
        {"saved_model": km.export_saved_model, "onnx": km.export_onnx}[form](model, path)
    theirs, ours = km.Predictor(path), km.Predictor(model)
    for seed in range(3):
        found, expected = theirs(noise(*size, seed)), ours(noise(*size, seed))
        assert len(found) == len(expected) == model.config.max_detections
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=5e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-5)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.box_masks, expected.box_masks, atol=1e-4)
    if form == "onnx":
        import onnx

        graph = onnx.load(path)
        assert {entry.domain for entry in graph.opset_import} == {""}
        assert not {node.op_type for node in graph.graph.node} & {"Loop", "If", "Scan"}
        in_int8 = [node.name for node in quantizable(graph.graph)]
        for number in STAGES:  # the dense layers are, and what boxes and scores are made of is not
            assert any(f"stage{number}" in name and "/fc2" in name for name in in_int8)
            assert not [
                name for name in in_int8 if f"stage{number}" in name and ("classes" in name or "deltas" in name)
            ]


# The command line --------------------------------------------------------------------------------------------


def test_train_makes_a_cascade(tmp_path, monkeypatch):
    from keras_maskrcnn.cli import build_parser, settling, train

    annotations = km.data.generate_shapes(tmp_path, 2, 64, 0, 2)
    monkeypatch.setattr("keras_maskrcnn.model.MaskRCNN", lambda config, seed: config)

    def config_of(*given):
        given = ["train", "--images", "x", "--val-images", "y", "--epochs", "1", *given]
        return train._model_to_train(settling.settle(build_parser().parse_args(given)), km.CocoDataset(annotations))

    assert config_of("--cascade").cascade_ious == IOUS and config_of().cascade_ious == ()
    with pytest.raises(ValueError, match="--weights coco is of a model with one box head. Received --cascade"):
        config_of("--cascade", "--weights", "coco")
