"""Two replicas that share each batch compute what one device computes (tf.distribute.MirroredStrategy)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
LOSSES = ("rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("uneven", 1e-6),  # the last batch is one image: a replica has none
        ("averaged", 1e-6),
        ("bfloat16", 1e-3),  # gradients are rounded before they are added
    ],
)
def test_two_replicas_train_as_one_device(tmp_path, case, tolerance):
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(TESTS.parent), str(TESTS)])
    command = [sys.executable, str(TESTS / "devices" / "replicas.py"), case, str(tmp_path / "result.json")]
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["difference"] <= tolerance
    for name in LOSSES:
        assert result["shared"][name] == pytest.approx(result["alone"][name], rel=1e-5 if tolerance < 1e-5 else 0.1)
        assert result["alone"][name] > 0
