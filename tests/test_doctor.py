"""The doctor: this installation against torchvision's stored detections, and whether it notices illness."""

import copy

import numpy as np
import pytest
from backend_tools import without_graphs

from keras_maskrcnn.cli import doctor
from keras_maskrcnn.geometry import native


@pytest.fixture(scope="module")
def model():
    return doctor.known_model()


@pytest.fixture(scope="module")
def found(model):
    """What the model finds in the known image."""
    with without_graphs():
        return doctor.Predictor(model)(doctor.known_image())


def test_this_installation_equals_torchvision(model, cache_folder, monkeypatch, eagerly):
    """On a canvas that is no multiple of 64, where torchvision's anchors of P6 are not a stride apart."""
    monkeypatch.setattr(doctor, "known_model", lambda: model)
    report = doctor.examine()
    assert report.compared == 100 and report.trusted
    assert report.errors["lost"] == 0 and report.errors["mask"] < 1e-4
    assert report.errors["box"] < 5e-3 and report.errors["score"] < 1e-4
    lines = doctor.format_report(report).splitlines()
    assert lines[-1] == "predictions can be trusted: they equal torchvision's"
    assert f"backend: {report.backend}" in lines[2]
    assert lines[3].endswith("native loops in C" if native.load() else "numpy and Pillow")


@pytest.mark.tensorflow  # of any backend, but once is enough
@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda found: setattr(found, "boxes", found.boxes + 0.3), "reduced precision"),
        (lambda found: setattr(found, "scores", found.scores + 0.1), "NOT"),
        (lambda found: setattr(found, "boxes", found.boxes[:, [1, 0, 3, 2]]), "NOT"),
        (lambda found: setattr(found, "labels", (found.labels + 1) % 3), "NOT"),
    ],
)
def test_wrong_detections_are_noticed(model, found, cache_folder, monkeypatch, change, verdict):
    real = copy.copy(found)
    change(real)
    monkeypatch.setattr(doctor, "known_model", lambda: model)
    monkeypatch.setattr(doctor, "Predictor", lambda model: lambda image: real)
    report = doctor.examine()
    assert verdict in report.verdict and report.trusted == (verdict != "NOT")


def test_damaged_weights_are_noticed(model, found, cache_folder, monkeypatch):
    monkeypatch.setattr(doctor, "known_model", lambda: model)
    monkeypatch.setattr(doctor, "Predictor", lambda model: lambda image: found)
    cache_folder.mkdir(parents=True)
    (cache_folder / "some.80.weights.h5").write_bytes(b"cut short")
    report = doctor.examine()
    assert not report.trusted and "some.80.weights.h5" in report.verdict


def test_known_numbers_are_the_same_everywhere():
    """By hand: the first outputs of splitmix64 for seed 0 are published (Steele et al. 2014)."""
    first = (0xE220A8397B1DCDAF >> 40) / 2**23 - 1
    assert doctor._uniform(0, 1)[0] == first
    tensor = doctor.known_tensor("backbone.body.conv1.weight", (64, 3, 7, 7))
    np.testing.assert_allclose(tensor.std(), np.sqrt(2 / 147), rtol=0.02)
    assert doctor.known_image().sum() == doctor.known_image().astype(int).sum() > 0
