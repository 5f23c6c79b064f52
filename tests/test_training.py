"""Matching, sampling, targets, losses, the optimizer's recipe: against torchvision and against values by hand."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.branches.mask_head import mask_loss, mask_targets
from keras_maskrcnn.learning import losses, targets
from keras_maskrcnn.learning.matching import BELOW, BETWEEN, ignore_crowds, match
from keras_maskrcnn.learning.sampling import order_samples, sample

GOLDEN = pathlib.Path(__file__).parent / "golden" / "ops.npz"


@pytest.mark.parametrize(("name", "high", "low", "best"), [("rpn", 0.7, 0.3, True), ("roi", 0.5, 0.5, False)])
def test_matchers_equal_torchvision(name, high, low, best):
    golden = np.load(GOLDEN)
    answer = match(golden["matcher_iou"], high, low, keep_best=best)
    np.testing.assert_array_equal(ops.convert_to_numpy(answer), golden[f"matcher_{name}"])


def test_match_by_hand():
    iou = np.array([[0.8, 0.4, 0.1, 0.0], [0.75, 0.45, 0.2, 0.0]], "float32")
    plain = ops.convert_to_numpy(match(iou, 0.7, 0.3))
    assert plain.tolist() == [0, BETWEEN, BELOW, BELOW]
    # The second object's best anchor is the first, too, which answers for the object it overlaps most.
    low = np.array([[0.8, 0.4, 0.1, 0.0], [0.1, 0.2, 0.25, 0.0]], "float32")
    assert ops.convert_to_numpy(match(low, 0.7, 0.3, keep_best=True)).tolist() == [0, BETWEEN, 1, BELOW]
    # A row of padding matches nothing, though its overlap is largest.
    valid = np.array([False, True])
    assert ops.convert_to_numpy(match(iou, 0.7, 0.3, gt_valid=valid)).tolist() == [1, BETWEEN, BELOW, BELOW]
    # An object that touches no anchor takes none.
    nothing = np.zeros((1, 3), "float32")
    assert ops.convert_to_numpy(match(nothing, 0.7, 0.3, keep_best=True)).tolist() == [BELOW] * 3


def test_what_lies_in_a_crowd_is_no_background():
    assigned = np.array([[0, BELOW, BELOW, BETWEEN]], "int32")
    ioa = np.array([[[0.9, 0.6, 0.4, 0.9]]], "float32")
    answer = ops.convert_to_numpy(ignore_crowds(assigned, ioa, 0.5))
    assert answer.tolist() == [[0, BETWEEN, BELOW, BETWEEN]]


def test_a_crowd_is_never_a_target_and_shields_its_anchors():
    anchors = np.array([[0, 0, 20, 20], [50, 50, 70, 70], [100, 100, 120, 120]], "float32")
    truth = {
        "gt_boxes": np.array([[[0, 0, 20, 20], [45, 45, 90, 90]]], "float32"),
        "gt_valid": np.array([[True, True]]),
        "gt_crowd": np.array([[False, True]]),
    }
    answer = targets.rpn_targets(
        np.full((1, 3), 0.5, "float32"), anchors, None, truth,
        positive_iou=0.7, negative_iou=0.3, num_samples=8, positive_fraction=0.5,
        box_weights=(1.0, 1.0, 1.0, 1.0), crowd_ioa=0.5,
    )  # fmt: skip
    assert ops.convert_to_numpy(answer["positive"]).tolist() == [[True, False, False]]
    assert ops.convert_to_numpy(answer["negative"]).tolist() == [[False, False, True]]


def test_sampling_keeps_the_share_and_fills_up_with_negatives():
    rng = np.random.default_rng(0)
    noise = rng.random((2, 100), "float32")
    positive = np.zeros((2, 100), bool)
    positive[0, :50], positive[1, :3] = True, True
    negative = ~positive
    negative[:, 90:] = False
    drawn = [ops.convert_to_numpy(mask) for mask in sample(noise, positive, negative, 20, 0.25)]
    assert drawn[0].sum(1).tolist() == [5, 3] and drawn[1].sum(1).tolist() == [15, 17]
    assert not (drawn[0] & ~positive).any() and not (drawn[1] & ~negative).any()
    indices, valid = (ops.convert_to_numpy(array) for array in order_samples(noise, *drawn, 20))
    assert valid.all()
    assert positive[0, indices[0, :5]].all() and negative[0, indices[0, 5:]].all()
    assert len(set(indices[1])) == 20


def test_too_few_candidates_leave_rows_of_padding():
    noise = np.array([[0.1, 0.2, 0.3, 0.4]], "float32")
    positive, negative = np.array([[1, 0, 0, 0]], bool), np.array([[0, 0, 1, 0]], bool)
    drawn = sample(noise, positive, negative, 4, 0.5)
    indices, valid = (ops.convert_to_numpy(array) for array in order_samples(noise, *drawn, 4))
    assert valid.tolist() == [[True, True, False, False]]
    assert indices[0, :2].tolist() == [0, 2]


def test_roi_targets_by_hand():
    truth = {
        "gt_boxes": np.array([[[10, 10, 30, 50], [0, 0, 0, 0]]], "float32"),
        "gt_labels": np.array([[2, 0]], "int32"),
        "gt_valid": np.array([[True, False]]),
    }
    proposals = np.array([[[10, 10, 30, 46], [60, 60, 80, 80]]], "float32")
    candidates = targets.add_ground_truth(proposals, np.ones((1, 2), bool), truth)
    assert ops.convert_to_numpy(candidates["valid"]).tolist() == [[True, True, True, False]]
    answer = targets.roi_targets(
        np.array([[0.1, 0.2, 0.3, 0.4]], "float32"), candidates["boxes"], candidates["valid"], truth,
        num_classes=3, iou=0.5,
        num_samples=4, positive_fraction=0.5, box_weights=(10.0, 10.0, 5.0, 5.0), crowd_ioa=0.5,
    )  # fmt: skip
    answer = {name: ops.convert_to_numpy(value) for name, value in answer.items()}
    assert answer["labels"].tolist() == [[2, 2, 3, 3]]
    assert answer["positive"].tolist() == [[True, True, False, False]]
    assert answer["valid"].tolist() == [[True, True, True, False]]
    # The object itself scores higher noise and stands first; the proposal is 36 high with its centre 2 too high.
    np.testing.assert_allclose(answer["deltas"][0, 0], [0, 0, 0, 0], atol=1e-6)
    expected = [0, 10 * 2 / 36, 0, 5 * np.log(40 / 36)]
    np.testing.assert_allclose(answer["deltas"][0, 1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX has the variables elsewhere during an epoch")
def test_epochs_are_measured_with_the_weights_at_their_end(monkeypatch):
    model, measured = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]), []
    note = lambda model, *_: measured.append(model.get_weights()[0].item()) or {"segm_AP": 0.5}  # noqa: E731
    monkeypatch.setattr("keras_maskrcnn.evaluation.coco.evaluate_coco", note)
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    at_the_start = model.get_weights()[0].item()
    figures = [km.CocoEvaluator("the validation data")]
    history = model.fit(np.ones((8, 1)), np.zeros((8, 1)), batch_size=8, epochs=3, callbacks=figures, verbose=0).history
    expected = at_the_start * 0.8 ** np.arange(1, 4)  # w - 0.1 * 2 w
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert history["val_segm_AP"] == [0.5] * 3


def test_rpn_losses_by_hand():
    logits = np.array([[0.0, 2.0, -1.0, 9.0]], "float32")
    deltas = np.zeros((1, 4, 4), "float32")
    deltas[0, 0] = [1.0, 0.05, 0.0, 0.0]
    given = {
        "positive": np.array([[True, False, False, False]]),
        "negative": np.array([[False, True, True, False]]),
        "deltas": np.zeros((1, 4, 4), "float32"),
    }
    objectness, box = losses.rpn_losses(logits, deltas, given, 1 / 9).values()
    expected = (np.log(2) + np.log1p(np.exp(2)) + np.log1p(np.exp(-1))) / 3
    assert float(objectness) == pytest.approx(expected, rel=1e-5)
    assert float(box) == pytest.approx(((1 - 1 / 18) + 0.5 * 0.05**2 * 9) / 3, rel=1e-5)
    distance = losses.rpn_losses(logits, deltas, given, 0.0)["rpn_box_loss"]  # a beta of 0, as Detectron2's default
    assert float(distance) == pytest.approx(1.05 / 3, rel=1e-5)


def test_box_head_losses_by_hand():
    class_logits = np.array([[[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]], "float32")
    deltas = np.zeros((1, 3, 2, 4), "float32")
    deltas[0, 0, 0], deltas[0, 0, 1] = [0.5, 0, 0, 0], [9, 9, 9, 9]  # the other class's box does not count
    given = {
        "labels": np.array([[0, 2, 2]], "int32"),
        "valid": np.array([[True, True, False]]),
        "positive": np.array([[True, False, False]]),
        "deltas": np.zeros((1, 3, 4), "float32"),
    }
    class_loss, box_loss = losses.box_head_losses(class_logits, deltas, given, 1 / 9).values()
    first = np.log(np.exp(2) + 1 + np.e) - 2
    assert float(class_loss) == pytest.approx((first + np.log(3)) / 2, rel=1e-5)
    assert float(box_loss) == pytest.approx((0.5 - 1 / 18) / 2, rel=1e-5)


def test_mask_loss_by_hand_and_without_positives():
    logits = np.zeros((1, 2, 2, 2), "float32")
    logits[0, 0] = [[3.0, -3.0], [0.0, 0.0]]
    wanted = np.zeros((1, 2, 2, 2), "float32")
    wanted[0, 0] = [[1, 0], [1, 0]]
    value = mask_loss(logits, wanted, np.array([[True, False]]))
    assert float(value) == pytest.approx((2 * np.log1p(np.exp(-3)) + 2 * np.log(2)) / 4, rel=1e-5)
    assert float(mask_loss(logits, wanted, np.array([[False, False]]))) == 0.0


def test_mask_targets_of_an_object_seen_through_its_own_box_are_its_mask():
    mask = np.zeros((1, 1, 28, 28), "uint8")
    mask[0, 0, 7:21, :14] = 1
    truth = {"gt_boxes": np.array([[[10, 20, 66, 76]]], "float32"), "gt_masks": mask}
    answer = mask_targets(truth["gt_boxes"], np.zeros((1, 1), "int32"), truth, 28)
    assert ((ops.convert_to_numpy(answer) > 0.5) == mask.astype(bool)).all()


def test_sgd_is_the_papers():
    optimizer = km.sgd(batch_size=8, milestones=(3000,))
    rate = optimizer._learning_rate
    at = lambda step: float(ops.convert_to_numpy(rate(step)))  # noqa: E731
    assert at(0) == pytest.approx(0.01 * 0.001)
    assert at(500) == pytest.approx(0.01 * (0.001 + 0.999 * 0.5), rel=1e-5)
    assert at(1000) == pytest.approx(0.01) and at(3000) == pytest.approx(0.001)
    copy = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert copy._learning_rate.get_config() == rate.get_config()
    # Decay runs through the momentum in the paper: after many steps without gradient it shrinks by lr * wd / (1 - m).
    assert optimizer.weight_decay == pytest.approx(1e-3) and optimizer.momentum == 0.9


def test_averages_outlive_a_prediction_after_the_training():
    """On JAX Keras' `fit` leaves model and averages with the same arrays, which a prediction uses up."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse", jit_compile="auto")
    model.build((None, 2))
    model.optimizer.build(model.trainable_variables)
    backend.prepare_optimizer(model.optimizer, model)
    model.fit(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), batch_size=2, verbose=0)
    expected = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    model.predict_on_batch(np.ones((1, 2), "float32"))
    averages = model.optimizer._model_variables_moving_average
    for average, value in zip(averages, expected, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(average), value)
    assert any(value.any() for value in expected)
