"""The samples run: two steps each, and the run folder holds what it should."""

import csv
import json
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

SAMPLES = pathlib.Path(__file__).parents[1] / "samples"

pytestmark = pytest.mark.tensorflow


def write_bowl(folder, count):
    """Images of discs in the layout of the Data Science Bowl 2018: one mask file a disc."""
    rows, columns = np.mgrid[:64, :64]
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((64, 64, 4), 255, np.uint8)
        image[..., :3] = 20
        parts = {name: folder / f"{number:04d}" / name for name in ("images", "masks")}
        for part in parts.values():
            part.mkdir(parents=True)
        for disc, corner in enumerate([(16, 16), (44, 40)]):
            y, x = corner + rng.integers(-4, 5, 2)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < 64
            image[inside, :3] = 200
            Image.fromarray(inside.astype(np.uint8) * 255).save(parts["masks"] / f"{disc}.png")
        Image.fromarray(image).save(parts["images"] / f"{number:04d}.png")


def test_nuclei_on_the_bowls_own_layout(tmp_path, capsys):
    write_bowl(tmp_path / "data", 4)
    sample = runpy.run_path(str(SAMPLES / "nuclei" / "train.py"))
    run = tmp_path / "run"
    sample["main"](["--train", str(tmp_path / "data"), "--steps", "2", "--batch-size", "1", "--output", str(run)])
    assert "AP and AR400 count up to 400 detections an image" in capsys.readouterr().out
    (row,) = csv.DictReader(open(run / "metrics.csv", encoding="utf-8"))
    assert 0.5 < float(row["loss"]) < 20
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["segm_AP"] <= 1
    assert len(list((run / "overlays").glob("*.png"))) == 1  # one of four images is for validation
    config = json.loads((run / "config.json").read_text())["model"]
    assert config["class_names"] == ["nucleus"] and config["max_instances"] == 2
