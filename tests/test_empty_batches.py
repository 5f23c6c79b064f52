"""Nothing to look at, nothing to find, hardly a pixel: empty results or one clear sentence."""

import json

import numpy as np
import pytest
from known_answers import KnownDataset, KnownModel, answers_from, small_config
from PIL import Image
from reader_tools import picture

from keras_maskrcnn import cli
from keras_maskrcnn.cli import evaluate
from keras_maskrcnn.data import ArrayDataset, ImageError
from keras_maskrcnn.evaluation import evaluate_coco, format_metrics
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.inputs import as_inputs


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3000, 2), (3, 4000)])
@pytest.mark.parametrize("scale", [{"image_scale": 1.0}, {"image_scale": None, "min_size": 64, "max_size": 128}])
def test_an_image_of_hardly_a_pixel_has_its_instance(shape, scale):
    model = KnownModel(small_config(**scale), [([(0, 0, 4000, 4000)], [0.9], [0])])
    found = Predictor(model)(np.zeros((*shape, 3), np.uint8))
    size = model.batches[0]["image_sizes"][0]
    assert (size >= 1).all() and model.batches[0]["images"].shape[1] >= size[0]
    assert found.boxes.tolist() == [[0, 0, shape[1], shape[0]]]  # clipped to the image
    assert found.masks.shape == (1, *shape) and len(found.to_coco(1)) == 1


def test_nothing_found_is_an_empty_result():
    found = Predictor(KnownModel(small_config(), [([], [], [])]))(picture())
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.masks.shape == (0, 40, 60)
    assert found.to_coco(1) == [] and found.mask_windows == []


@pytest.mark.parametrize(
    "image, message",
    [
        ([], r"Received list. Give one image at a time: \[read\(image\) for image in images\]"),
        ([np.zeros((4, 4, 3), np.uint8)], "Received list. Give one image at a time"),
        (None, "Received NoneType. Convert it"),
        (b"", r"<0 bytes>: an empty file"),
        (np.zeros((0, 10, 3), np.uint8), r"at least one row.*shape \(0, 10, 3\)"),
        (np.zeros((10, 0, 3), np.uint8), r"at least one row.*shape \(10, 0, 3\)"),
        (np.zeros((10, 10, 0), np.uint8), r"at least one row.*shape \(10, 10, 0\)"),
        (np.zeros((0, 10, 10, 3), np.uint8), r"at least one row.*shape \(0, 10, 10, 3\)"),
        (np.zeros((2, 10, 10, 3), np.uint8), r"\(2, 10, 10, 3\). Give one image at a time"),
        (np.array([]), r"at least one row.*shape \(0,\)"),
        (Image.new("RGB", (0, 5)), r"at least one row"),
    ],
)
def test_what_is_no_image_is_one_clear_sentence(image, message):
    model = KnownModel(small_config(), [])
    with pytest.raises(ImageError, match=message):
        Predictor(model)(image)
    assert model.batches == []


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (1, 0, 64, 3)])
def test_a_model_refuses_an_empty_batch_in_words(shape):
    with pytest.raises(ValueError, match="at least one image, of at least one row and one column. Received shape"):
        as_inputs(np.zeros(shape, np.uint8), small_config())


def test_predict_without_an_image_says_so(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert cli.main(["predict", "model.keras", str(tmp_path / "photos")]) == cli.MISTAKE
    told = capsys.readouterr()
    assert "Passed over 4 files in" in told.out and "3 hidden, 1 of type .txt" in told.out
    assert "predict needs at least one image" in told.err


def test_data_of_no_images_are_refused():
    with pytest.raises(ValueError, match="A dataset needs at least one usable image"):
        ArrayDataset([], [])
    with pytest.raises(ValueError, match="Received a dataset of 0 images"):
        evaluate_coco(KnownModel(small_config(), []), KnownDataset([]))


def test_figures_without_objects_are_no_numbers():
    dataset = KnownDataset([[], []])
    with pytest.warns(UserWarning, match="Received 2 images with 0 objects"):
        metrics = evaluate_coco(KnownModel(small_config(), answers_from(dataset)), dataset)
    assert metrics["segm_AP"] == -1 and "-1.000" not in format_metrics(metrics)


@pytest.mark.parametrize("crowd", [None, 1])
def test_evaluate_refuses_data_without_objects(tmp_path, capsys, monkeypatch, crowd):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 1, "area": 4, "bbox": [1, 1, 2, 2]}
    one["segmentation"] = {"size": [40, 60], "counts": [41, 2, 38, 2, 2317]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "leaf"}],
        "annotations": [one] * bool(crowd),
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    model = KnownModel(small_config(1, class_names=("leaf",)), [])
    monkeypatch.setattr(evaluate, "load_model", lambda path: model)
    arguments = ["evaluate", "model.keras", "--images", str(tmp_path), "--annotations", str(tmp_path / "coco.json")]
    assert cli.main(arguments) == cli.MISTAKE
    told = capsys.readouterr()
    assert "average precision is undefined" in told.err and "-1.000" not in told.out and model.batches == []
    assert ("all of them crowd regions" if crowd else "1 images with 0 objects") in told.err
