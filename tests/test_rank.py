"""What to label next: uncertainty and order by hand, and the command on a model of known answers."""

import csv
import json
import types

import keras
import numpy as np
import pytest
from PIL import Image
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.evaluation.ranking import RankedImage, order_of, uncertainty_of
from keras_maskrcnn.pages.rank_page import write_rank_page


def found_with(scores, masks=None):
    return types.SimpleNamespace(scores=scores, values={} if masks is None else {"masks": masks})


def test_uncertainty_by_hand():
    assert uncertainty_of(found_with([])) == 0
    assert uncertainty_of(found_with([0.5, 0.9])) == pytest.approx((1 + 0.2) / 2)
    # The ten most uncertain ones alone count: surer ones change nothing.
    assert uncertainty_of(found_with([1.0] * 50 + [0.4] * 10)) == pytest.approx(0.8)
    masks = np.zeros((2, 4, 4))
    masks[0, :2] = 0.75  # half of the cells are inside, each unsure by 0.5
    masks[1] = 1.0
    assert uncertainty_of(found_with([0.9, 0.5], masks)) == pytest.approx(((0.2 + 0.9 * 0.5) / 2 + (1 + 0) / 2) / 2)


def test_the_order_weighs_uncertainty_and_distance():
    features = np.array([[0.0], [0.1], [10.0], [5.0]])
    # The most uncertain one, then the farthest, though its neighbour is nearly as uncertain.
    assert [place for place, _ in order_of(np.array([0.9, 0.89, 0.5, 0.5]), features)] == [0, 2, 3, 1]
    # Known images push away what is like them.
    assert [place for place, _ in order_of(np.array([0.9, 0.9, 0.9, 0.9]), features, [[0.0]], 2)] == [2, 3]
    # Copies come one after the other at the end, with a distance of 0.
    order = order_of(np.array([0.9, 0.9, 0.1]), np.array([[1.0], [1.0], [2.0]]))
    assert [place for place, _ in order] == [0, 2, 1] and order[2][1] == 0 and order[0][1] == np.inf


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(4):
        pixels = rng.integers(0, 255, (64, 64, 3), np.uint8) // (1 if k < 3 else 8)
        Image.fromarray(pixels).save(folder / f"photo {k}.png")
    return folder


@pytest.mark.slow_on_jax  # compiles a model and its features; the order and the files are host code
def test_the_command_writes_list_page_and_drafts(images, tmp_path, capsys):
    model = scatter_weights(km.MaskRCNN(tiny_config()))
    model.save(tmp_path / "model.keras")
    (tmp_path / "bad.png").write_bytes(b"no image")
    line = ["rank", images, tmp_path / "bad.png", "--model", tmp_path / "model.keras", "--count", 3, "--to", "coco"]
    line += ["--output", tmp_path / "next", "--labelled", images / "photo 0.png", "--score", 0.1]
    assert cli.main([str(one) for one in line]) == cli.CHECK_FAILED
    told = capsys.readouterr()
    assert "1 of 5 images failed" in told.err and "bad.png" in told.err
    rows = json.loads((tmp_path / "next" / "rank.json").read_text())
    assert [row["rank"] for row in rows] == [1, 2, 3] and rows[0]["file"].endswith(".png")
    # photo 0 has labels: a copy of it would teach nothing.
    assert all(not row["file"].endswith("photo 0.png") and row["distance"] > 0 for row in rows)
    with open(tmp_path / "next" / "rank.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["uncertainty"]) for row in table] == [row["uncertainty"] for row in rows]
    page = (tmp_path / "next" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 and "uncertainty" in page
    drafts = list((tmp_path / "next" / "coco").rglob("*.json"))
    content = json.loads(drafts[0].read_text())
    assert len(content["images"]) == 3 and all(one["score"] >= 0.1 for one in content["annotations"])
    assert content["annotations"]


@pytest.mark.slow
def test_features_do_not_depend_on_the_padding():
    from keras_maskrcnn.evaluation.ranking import _Means

    model = scatter_weights(km.MaskRCNN(tiny_config()))
    image = np.random.default_rng(1).integers(0, 255, (1, 64, 64, 3)).astype("float32")
    wide = np.zeros((1, 96, 128, 3), np.float32)
    wide[:, :64, :64] = image
    sizes, means = np.array([[64, 64]], np.int32), _Means(model)
    alone, padded = (
        keras.ops.convert_to_numpy(means({"images": pixels, "image_sizes": sizes})) for pixels in (image, wide)
    )
    assert alone.shape == (1, 96) and np.abs(alone).max() > 0
    np.testing.assert_allclose(alone, padded, atol=1e-4 * np.abs(alone).max())


def test_the_page_names_an_image_that_is_gone(tmp_path):
    results = [{"score": 0.9}, {"score": 0.4}]
    ranked = RankedImage(0, tmp_path / "gone.png", 0.25, 1.0, (40, 60), results)
    write_rank_page(tmp_path / "index.html", [ranked], tiny_config(), "To label")
    page = (tmp_path / "index.html").read_text()
    assert "1. gone.png: uncertainty 0.25, 1 of 2 detections shown" in page and "(the image cannot be read)" in page
    assert "base64" not in page


def test_wrong_counts_and_unreadable_images_are_refused(tmp_path):
    model = km.MaskRCNN(tiny_config())
    with pytest.raises(ValueError, match="count must be at least 1. Received: 0"):
        km.rank(model, ["x.png"], count=0)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="Received 1, of which 1 cannot be read"):
        km.rank(model, [tmp_path / "bad.png"])
