"""Files of commit 0d7ef1d, before modules moved into folders: they load, and give that commit's numbers.

test_new_branch.py loads one in a new process, beside a file of its own: two imports of TensorFlow would take seconds.
"""

import keras
import numpy as np
import pytest
from keras import ops
from old_files import CANVAS, batch_of, found_by, known_values, losses_of, read_cases, write_archive, write_weights

import keras_maskrcnn as km

CASES = read_cases()
TENSORFLOW = keras.backend.backend() == "tensorflow"
# The numbers are TensorFlow's; other backends add in another order.
TOLERANCE = 1e-5 if TENSORFLOW else 1e-4
SIZES = {"boxes": max(CANVAS), "scores": 1.0, "labels": 0.0, "valid": 0.0, "mask_sums": 28 * 28}


def assert_found(found, case):
    assert sorted(found) == sorted(SIZES)
    for name, size in SIZES.items():
        expected = np.array(case["found"][name], float)
        np.testing.assert_allclose(np.array(found[name], float), expected, atol=TOLERANCE * size, rtol=0, err_msg=name)


def assert_losses(losses, case):
    assert losses == pytest.approx(case["losses"], rel=TOLERANCE, abs=TOLERANCE / 10)


def config_of(case):
    return km.MaskRCNNConfig.from_dict(case["texts"]["config.json"]["config"]["config"])


def array_of(case, name):
    ((shape, dtype),) = [array[1:] for array in case["arrays"] if array[0] == name]
    return known_values(name, shape, dtype, case["salt"])


def test_a_keras_file_gives_the_same_detections_and_losses(tmp_path):
    case = CASES["tiny"]
    model = keras.saving.load_model(write_archive(case, tmp_path / "old.keras"), compile=False)
    assert isinstance(model, km.MaskRCNN)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.seed_generator.state), array_of(case, "vars/seed_state"))
    batch = batch_of(model.config)
    assert_found(found_by(model, batch), case)
    if TENSORFLOW:  # its anchors and RoIs are drawn at random, on other backends from other numbers
        assert_losses(losses_of(model, batch), case)


def test_a_weights_file_loads_whole(tmp_path):
    case = CASES["others"]
    model = km.MaskRCNN(config_of(case))
    receipt = km.load_weights(model, write_weights(case, tmp_path / "old.weights.h5"))
    stored = {array[0] for array in case["arrays"] if not array[0].startswith(("optimizer/", "vars/seed_state"))}
    assert receipt.complete and not receipt.left_over and not receipt.notes
    assert {name for name, _ in receipt.used} == stored
    assert_found(found_by(model, batch_of(model.config)), case)


def test_a_stopped_run_goes_on_with_its_optimizer(tmp_path):
    case = CASES["tiny"]
    model = km.MaskRCNN(config_of(case))
    model.compile(km.sgd(batch_size=2, milestones=(600, 800)))
    model.load_weights(write_archive(case, tmp_path / "last.keras"))  # as `train --resume` does
    steps = int(array_of(case, "optimizer/vars/0"))
    assert int(model.optimizer.iterations) == steps > 0
    moments = [ops.convert_to_numpy(variable) for variable in model.optimizer.variables if len(variable.shape) == 4]
    np.testing.assert_array_equal(moments[0], array_of(case, "optimizer/vars/1"))
    assert len(moments) == sum(name.startswith("optimizer/") and len(shape) == 4 for name, shape, _ in case["arrays"])
    np.testing.assert_array_equal(ops.convert_to_numpy(model.seed_generator.state), array_of(case, "vars/seed_state"))
