"""Calibration tables and thresholds against figures worked out by hand, and the config that keeps them."""

import numpy as np
import pytest

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.evaluation.calibration import METHODS, calibrated, isotonic_table
from keras_maskrcnn.evaluation.class_thresholds import ClassDetections, best_threshold, class_thresholds, mean_goal
from keras_maskrcnn.evaluation.curves import calibration_error
from keras_maskrcnn.inference.arguments import thresholds_of

NETCAL = 0.17188685686067776
TABLES = [[[0, 0], [0.5, 0.25], [1, 1]], [[0, 0], [1, 0.5]]]


def mixed(score, share):
    """A point of an isotonic table: a thousandth of the score is mixed into the share."""
    return [score, pytest.approx(0.999 * share + 0.001 * score, abs=1e-6)]


def test_isotonic_tables_go_through_the_centres_of_pools():
    # The shares 0, 1, 0, 1 fall once: the two in the middle are pooled, 0.5 at 0.5.
    table = isotonic_table([0.2, 0.4, 0.6, 0.8], [False, True, False, True])
    assert table == [[0, 0], mixed(0.2, 0), mixed(0.5, 0.5), mixed(0.8, 1), [1, 1]]
    # Equal scores are one point with their share; the pool weighs three detections at 0.4 and one at 0.8.
    assert isotonic_table([0.4, 0.4, 0.4, 0.8], [True, True, False, False])[1] == mixed(0.5, 0.5)
    assert isotonic_table([0.5], [False]) == [[0, 0], mixed(0.5, 0), [1, 0.001]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_tables_are_small_and_keep_the_order_of_scores(method, seed):
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.4, 0.4, 20_000)
    right = rng.random(len(scores)) < 1 / (1 + ((1 - scores) / scores) ** 0.5)  # a temperature of 2
    table = METHODS[method](scores, right)
    assert len(table) <= 33 and (np.diff(table, axis=0) > 0).all()
    MaskRCNNConfig(1, calibration=[table])
    values = np.sort(rng.random(1000))
    assert (np.diff(calibrated(values, table)) > 0).all()
    assert calibration_error(scores, right) > 0.08 > 0.02 > calibration_error(calibrated(scores, table), right)


def test_a_temperature_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, 100_000)
    right = rng.random(len(logits)) < 1 / (1 + np.exp(-logits / 3))
    table = METHODS["temperature"](1 / (1 + np.exp(-logits)), right)
    for score in (0.1, 0.5, 0.9):
        expected = 1 / (1 + np.exp(-np.log(score / (1 - score)) / 3))
        assert calibrated([score], table)[0] == pytest.approx(expected, abs=0.01)


def test_calibration_error_is_netcals():
    """The value of `netcal.metrics.ECE(10, detection=True).measure(scores, right)`, netcal 1.4.0, of these numbers."""
    rng = np.random.default_rng(5)
    scores = rng.random(500)
    right = rng.random(500) < scores**2
    assert calibration_error(scores, right) == pytest.approx(NETCAL, abs=1e-12)
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) is None


def test_best_thresholds_by_hand():
    scores, right = np.array([0.9, 0.8, 0.8, 0.3, 0.1]), np.array([True, True, False, True, False])
    # Of 5 objects: above 0.8 F1 is 2 * 1 / 6, above 0.3 4 / 8, above 0.1 6 / 9, above 0 6 / 10.
    assert best_threshold(scores, right, 5) == pytest.approx((0.2, 3 / 4, 3 / 5, 2 / 3))
    assert best_threshold(scores, right, 5, 0.9) == pytest.approx((0.85, 1, 1 / 5, 1 / 3))
    assert best_threshold(scores, right, 5, 0.6) == pytest.approx((0.05, 3 / 5, 3 / 5, 3 / 5))
    # None reaches it: the highest precision there is, with the most detections.
    assert best_threshold(scores[1:], right[1:], 5, 0.9) == pytest.approx((0.2, 2 / 3, 2 / 5, 1 / 2))
    assert best_threshold(np.array([0.4]), np.array([True]), 0) == pytest.approx((0.2, 1, 0, 2))


def test_classes_without_detections():
    """The goal counts a class whose objects are all missed, and none without objects; its threshold is that of all."""
    found = ClassDetections(np.array([0.9, 0.3]), np.array([True, False]), 1)
    missed, absent = (ClassDetections(np.zeros(0), np.zeros(0, bool), objects) for objects in (4, 0))
    assert mean_goal([found, missed, absent], None) == mean_goal([found, missed, absent], 0.9) == pytest.approx(0.5)
    thresholds, notes = class_thresholds([found, missed], None, None, ("one", "two"))
    assert thresholds == pytest.approx([0.6, 0.6]) and notes[0].startswith("two: no right detection in the first half")
    thresholds, notes = class_thresholds([missed, absent], None, None, ("one", "two"))
    assert thresholds == [0.5, 0.5]
    assert notes[1] == "two: no detection of any class in the first half; the threshold stays at 0.5"


def test_the_config_keeps_thresholds_and_tables():
    config = MaskRCNNConfig(2, class_thresholds=[0.5, 0.25], calibration=TABLES)
    assert config.class_thresholds == (0.5, 0.25) and config.calibration[1] == ((0, 0), (1, 0.5))
    assert config.to_dict()["calibration"] == TABLES and MaskRCNNConfig.from_dict(config.to_dict()) == config
    hash(config)
    old = {key: value for key, value in config.to_dict().items() if key not in ("class_thresholds", "calibration")}
    assert MaskRCNNConfig.from_dict(old) == MaskRCNNConfig(2)
    assert (config.tuned, MaskRCNNConfig(2).tuned) == (True, False)


def test_thresholds_of_a_predictor():
    plain, by_class = MaskRCNNConfig(2), MaskRCNNConfig(2, class_thresholds=(0.5, 0.01))
    assert thresholds_of(plain).tolist() == [0.05, 0.05] and thresholds_of(plain, 0.3).tolist() == [0.3, 0.3]
    assert thresholds_of(by_class).tolist() == [0.5, 0.05] and thresholds_of(by_class, 0.3).tolist() == [0.3, 0.3]
    calibrated_too = MaskRCNNConfig(2, class_thresholds=(0.5, 0.01), calibration=TABLES)
    assert thresholds_of(calibrated_too).tolist() == [0.5, 0.01]  # 0.05 is of other scores
    assert (plain.lowest_score, by_class.lowest_score, calibrated_too.lowest_score) == (0.05, 0.05, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_thresholds": (0.5,)}, "class_thresholds must hold one entry for each of the num_classes=2 classes"),
        ({"class_thresholds": (0.5, 1.5)}, "class_thresholds must lie in 0..1. Received: (0.5, 1.5)"),
        ({"class_thresholds": (0.5, None)}, "class_thresholds must be a sequence, each entry a finite number"),
        ({"calibration": 0.5}, "calibration must be a sequence, each entry a sequence. Received: 0.5"),
        ({"calibration": TABLES[:1]}, "calibration must hold one entry for each"),
        ({"calibration": [TABLES[0], [[0, 0]]]}, "calibration needs points"),
        ({"calibration": [TABLES[0], [[0, 0], [0.5, 1]]]}, "from score 0 to 1"),
        ({"calibration": [TABLES[0], [[0, 0.5], [1, 0.4]]]}, "probabilities in 0..1 that do not fall"),
        ({"calibration": [TABLES[0], [[0, 0], [1, "a"]]]}, "Received: ((0, 0), (1, 'a'))"),
        ({"calibration": [TABLES[0], [[0, 0], [1, 1.5]]]}, "tune` write it"),
    ],
)
def test_a_config_refuses_wrong_tables(fields, message):
    with pytest.raises(ValueError) as error:
        MaskRCNNConfig(2, **fields)
    assert message in str(error.value)
