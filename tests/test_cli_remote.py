"""`train` and `evaluate` with data elsewhere: the losses and the AP of the same data on a disk."""

import csv
import json

import pytest
from remote_folders import STORES, elsewhere
from test_cli import small_model

from keras_maskrcnn import cli
from keras_maskrcnn.data import generate_shapes

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset of four images, in `data`, and a model."""
    place = tmp_path_factory.mktemp("place")
    generate_shapes(place / "data", 4, image_size=64)
    small_model().save(place / "model.keras")
    return place


@pytest.fixture(scope="module")
def here(place):
    return figures_of(place, place / "data", place / "here")


def figures_of(place, data, out):
    """(rows of metrics.csv, figures of evaluate --json) of a run of two epochs with the data at a path or address."""
    source = [f"{data}/images", "--annotations", f"{data}/annotations.json"]
    arguments = ["--images", *source, "--val-images", source[0], "--val-annotations", source[2], "--epochs", "2"]
    arguments += ["--start-from", str(place / "model.keras"), "--batch-size", "2", "--run-dir", str(out)]
    assert cli.main(["train", *arguments, "--augment", "light", "--workers", "1"]) == cli.SUCCESS
    file = out / "ap.json"
    assert cli.main(["evaluate", str(out), "--images", *source, "--json", str(file)]) == cli.SUCCESS
    with open(out / "metrics.csv", newline="") as rows:
        return list(csv.DictReader(rows)), json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_curves")
@pytest.mark.parametrize("kind", ["memory", "http", *STORES])
def test_train_and_evaluate_elsewhere_as_here(place, here, tmp_path, kind, capsys):
    with elsewhere(kind, place / "data") as address:
        rows, measured = figures_of(place, address, tmp_path / "run")
        for row, expected in zip(rows, here[0], strict=True):
            losses = [name for name in expected if "loss" in name]
            assert len(losses) >= 6 and float(row["loss"]) > 0
            assert {name: float(row[name]) for name in losses} == pytest.approx(
                {name: float(expected[name]) for name in losses}, rel=1e-5
            )
        assert measured.keys() == here[1].keys() and "segm_AP50" in measured
        for name in measured.keys() - {"seconds_per_image"}:
            assert measured[name] == pytest.approx(here[1][name], abs=1e-4), name
        capsys.readouterr()
        missing = ["evaluate", str(place / "model.keras"), "--images", f"{address}/images", "--annotations"]
        assert cli.main([*missing, f"{address}/none.json"]) == cli.MISTAKE
        assert f"{address}/none.json" in capsys.readouterr().err
