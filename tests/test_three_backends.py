"""One weights file predicts the same on TensorFlow, JAX and PyTorch: boxes to 1e-3 pixels, scores to 1e-4."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import three_backends
from child_processes import python_path

import keras_maskrcnn as km

BACKENDS = ("tensorflow", "jax", "torch")
TOLERANCE = {"boxes": 1e-3, "scores": 1e-4, "labels": 0, "box_masks": 1e-3}


def assert_the_same(found, expected):
    for name, values in expected.items():
        assert len(values) >= 5
        np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE[name[:-1]], err_msg=name)


@pytest.mark.usefixtures("eagerly")  # on TensorFlow, where each canvas would be traced
def test_this_backend_finds_what_tensorflow_found():
    model = three_backends.small_model()
    receipt = km.load_weights(model, str(three_backends.WEIGHTS))
    assert receipt.complete
    assert_the_same(three_backends.find(model), np.load(three_backends.FOUND))


def run_on(backend, *arguments):
    """Run three_backends.py in a process on another backend."""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": python_path()}
    command = [sys.executable, three_backends.__file__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("writer", BACKENDS)
def test_the_others_find_the_same_with_weights_that_one_of_them_saved(tmp_path, writer):
    readers = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if writer not in readers or len(readers) < 2:
        pytest.skip(f"of the backends only {readers} are installed")
    weights = tmp_path / "saved.weights.h5"
    run_on(writer, "save", weights)
    expected = np.load(three_backends.FOUND)
    for reader in readers:
        run_on(reader, "find", weights, tmp_path / f"{reader}.npz")
        assert_the_same(np.load(tmp_path / f"{reader}.npz"), expected)
    assert keras.backend.backend() in readers
