"""The commands on PyTorch: a run that is killed within an epoch and goes on, its figures, and what its model finds.

On TensorFlow and JAX other files run them: test_cli.py, test_devices.py.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from child_processes import python_path
from tiny import tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.data import generate_shapes
from keras_maskrcnn.runs.folder import find_run

if keras.backend.backend() != "torch":
    pytest.skip("these tests are of the backend torch", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("quick_curves")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset of eight images, and a model."""
    place = tmp_path_factory.mktemp("place")
    generate_shapes(place / "shapes", 8, image_size=64)
    names = km.open_dataset(place / "shapes").class_names
    km.MaskRCNN(tiny_config(class_names=names, score_threshold=0.01)).save(place / "model.keras")
    return place


def train_arguments(place, run, epochs):
    data = [f"--{part}images={place / 'shapes' / 'images'}" for part in ("", "val-")]
    data += [f"--{part}annotations={place / 'shapes' / 'annotations.json'}" for part in ("", "val-")]
    recipe = [f"--epochs={epochs}", "--batch-size=2", "--augment=light", "--save-minutes=0.00001", "--ema=0.9"]
    return ["train", *data, *recipe, f"--start-from={place / 'model.keras'}", f"--run-dir={run}"]


def rows_of(run):
    with open(run / "metrics.csv", newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same_run(run, other):
    """Two runs have the same losses in each epoch, and the same weights in the end."""
    for row, expected in zip(rows_of(run), rows_of(other), strict=True):
        losses = [name for name in expected if "loss" in name]
        assert len(losses) >= 6
        assert [row[name] for name in losses] == pytest.approx([expected[name] for name in losses], rel=1e-5)
    models = [keras.saving.load_model(folder / "last.keras", compile=False) for folder in (run, other)]
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.fixture(scope="module")
def whole(place):
    """A run of two epochs that nobody stopped."""
    assert cli.main(train_arguments(place, place / "whole", 2)) == cli.SUCCESS
    return place / "whole"


def test_train_learns_and_evaluate_gives_the_figures_of_the_run(place, whole, tmp_path):
    rows = rows_of(whole)
    assert len(rows) == 2 and rows[1]["loss"] < rows[0]["loss"]
    source = ["--images", str(place / "shapes" / "images"), "--annotations", str(place / "shapes" / "annotations.json")]
    assert cli.main(["evaluate", str(whole), *source, "--json", str(tmp_path / "ap.json")]) == cli.SUCCESS
    measured, kept = (json.loads(file.read_text()) for file in (tmp_path / "ap.json", whole / "metrics.json"))
    assert measured["segm_AP"] == pytest.approx(kept["segm_AP"], abs=1e-4)
    assert measured["bbox_AP50"] == pytest.approx(kept["bbox_AP50"], abs=1e-4)


def test_predict_writes_what_the_predictor_finds(place, whole, tmp_path):
    photos = place / "shapes" / "images"
    (tmp_path / "bad.png").write_bytes(b"no image")
    arguments = ["predict", str(whole), str(photos), str(tmp_path / "bad.png"), "--output", str(tmp_path / "found")]
    assert cli.main([*arguments, "--score", "0.01"]) == cli.CHECK_FAILED  # one image cannot be read
    results = json.loads((tmp_path / "found" / "detections.json").read_text())
    predictor = km.Predictor(keras.saving.load_model(whole / "best.keras", compile=False), 0.01)
    expected = [one for file in sorted(photos.iterdir()) for one in predictor(file).to_coco(0)]
    assert len(results) == len(expected) > 0
    for name in ("bbox", "score", "category_id", "segmentation"):
        assert [one[name] for one in results] == [one[name] for one in expected]


def test_train_is_stopped_within_an_epoch_and_goes_on_to_the_same_end(place, whole, tmp_path, monkeypatch, capsys):
    from keras_maskrcnn.runs.recorder import RunRecorder

    steps, end_of_step = [], RunRecorder.on_train_batch_end

    def stop_after_seven(recorder, batch, logs=None):
        end_of_step(recorder, batch, logs)
        steps.append(batch)
        if len(steps) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunRecorder, "on_train_batch_end", stop_after_seven)
        assert cli.main(train_arguments(place, tmp_path / "run", 2)) == 130
    found = find_run(tmp_path / "run")
    assert found.midway["epochs_done"] == 1 and 2 <= found.midway["midway"]["batches"] <= 3
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--run-dir", str(tmp_path / "run")]) == cli.SUCCESS
    assert "after 1 epochs, " in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_end(place, whole, tmp_path):
    command = [sys.executable, "-c", "import sys, keras_maskrcnn_launcher as launcher; sys.exit(launcher.main())"]
    folders = python_path(pathlib.Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": folders}
    run = tmp_path / "run"
    training = subprocess.Popen([*command, *train_arguments(place, run, 2)], env=environment)
    try:
        for name in ("last.keras", "midway.keras"):  # of the first epoch, and within the second
            while not (run / name).is_file():
                assert training.poll() is None
                time.sleep(0.02)
    finally:
        training.kill()
        training.wait()
    assert not (run / "index.html").is_file()
    subprocess.run([*command, "train", "--resume", "--run-dir", str(run)], env=environment, check=True)
    assert_same_run(run, whole)
