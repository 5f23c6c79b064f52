"""Data without anything to learn from are noticed: by the reader, check-data, convert-data, the loader and train."""

import json
import pathlib

import numpy as np
import pytest
from reader_tools import HEIGHT, WIDTH, save_image, scene

from keras_maskrcnn import cli
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, DataLoader, YoloDataset
from keras_maskrcnn.data.learnable import nothing_to_learn

LABEL = "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"


def coco(folder, crowd=None, count=3):
    """A COCO file of some pictures with one object each, or none for crowd=None."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for k in range(1, count + 1):
        scene(k).save(folder / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": 120, "width": 160})
        outline = [[20, 20, 70, 20, 70, 60, 20, 60]]
        annotations.append(
            {"id": k, "image_id": k, "category_id": 1, "segmentation": outline, "iscrowd": int(bool(crowd))}
        )
    content = {"images": images, "annotations": [] if crowd is None else annotations}
    (folder / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "leaf"}]}))
    return folder / "a.json"


def train_arguments(path, run_dir):
    data = ["--images", str(path.parent), "--annotations", str(path)]
    val = ["--val-images", str(path.parent), "--val-annotations", str(path)]
    size = ["--image-scale", "1", "--backbone", "resnet10", "--roi-samples", "16", "--batch-size", "1"]
    return ["train", *data, *val, *size, "--epochs", "1", "--run-dir", str(run_dir)]


@pytest.mark.parametrize("crowd, words", [(True, "3 objects, all of them crowd regions"), (None, "with 0 objects")])
def test_check_data_and_train_stop_where_nothing_can_be_learned(tmp_path, capsys, crowd, words):
    path = coco(tmp_path / "data", crowd)
    assert (
        cli.main(["check-data", str(path), "--images", str(path.parent), "--output", str(tmp_path)]) == cli.CHECK_FAILED
    )
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    errors = [found for found in findings if found["severity"] == "error"]
    assert [found["kind"] for found in errors] == ["nothing to learn"] and words in errors[0]["message"]
    assert cli.main(train_arguments(path, tmp_path / "run")) == cli.MISTAKE
    told = capsys.readouterr().err
    assert words in told and "--allow-empty" in told and not (tmp_path / "run").exists()


def test_a_class_with_crowd_regions_alone_is_a_warning(tmp_path):
    path = coco(tmp_path / "data", crowd=False)
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "stem"})
    content["annotations"][0] |= {"category_id": 2, "iscrowd": 1}
    path.write_text(json.dumps(content))
    assert cli.main(["check-data", str(path), "--images", str(path.parent), "--output", str(tmp_path)]) == cli.SUCCESS
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [f["where"] for f in findings if f["kind"] == "class with crowd regions alone"] == ["class 'stem'"]


def test_a_loader_warns_and_works():
    data = ArrayDataset([np.zeros((40, 40, 3), np.uint8)] * 2, [[], []])
    with pytest.warns(UserWarning, match="Received 2 images with 0 objects"):
        loader = DataLoader(data, MaskRCNNConfig(num_classes=1, image_scale=1.0), 2)
    assert not loader[0]["gt_valid"].any()
    mask = np.ones((40, 40), bool)
    assert nothing_to_learn(ArrayDataset([np.zeros((40, 40, 3), np.uint8)], [[mask]])) is None


def yolo(folder, images, labels):
    for k in range(3):
        save_image(folder / images / f"p{k}.png", k)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    for k in range(2):
        (folder / labels / f"p{k}.txt").write_text(LABEL)
    (folder / "data.yaml").write_text(f"train: {images}\nnames: [leaf]\n")
    return folder


PLACES = {
    "Images": "Labels",
    "imgs": "labels",
    "photos": "photos/label",
    "train/images": "train/annotations",
    "images/train": "images/labels",
    "photos/train": "labels/train",
    "pictures/train": "labels",
}


@pytest.mark.parametrize("images", PLACES)
def test_yolo_labels_are_found_in_usual_places(tmp_path, images):
    yolo(tmp_path, images, PLACES[images])
    with pytest.warns(UserWarning, match="are read from .*"):
        dataset = YoloDataset(tmp_path)
    assert [len(record.instances) for record in dataset.records] == [1, 1, 0]
    x1, y1, x2, y2 = np.array([0.1, 0.1, 0.6, 0.6]) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    np.testing.assert_allclose(dataset[0].instances[0].box, [x1, y1, x2, y2], atol=1e-4)
    assert (
        pathlib.Path(dataset.notes[0].split(" are read from ")[1].rstrip(".")) == (tmp_path / PLACES[images]).resolve()
    )


def test_yolo_labels_in_the_usual_place_are_not_looked_for_elsewhere(tmp_path):
    yolo(tmp_path, "images", "labels")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "p2.txt").write_text(LABEL)
    dataset = YoloDataset(tmp_path)
    assert [len(record.instances) for record in dataset.records] == [1, 1, 0] and dataset.notes == []


def test_yolo_without_any_label_file_says_where_it_looked(tmp_path, capsys):
    yolo(tmp_path, "photos", "somewhere")
    with pytest.warns(UserWarning, match=r"0 of 3 images have a label file. Looked in .*photos"):
        assert cli.main(["convert-data", str(tmp_path), str(tmp_path / "out.json")]) == cli.CHECK_FAILED
    assert "0 of 3 images have a label file" in capsys.readouterr().err
    yolo(tmp_path, "photos", "labels")
    yolo(tmp_path, "photos", "annotations")
    with pytest.raises(ValueError, match="must be in one folder.*annotations.*labels"):
        YoloDataset(tmp_path)


def test_three_images_are_no_batch_of_four(tmp_path):
    path = coco(tmp_path / "data", crowd=False)
    assert cli.main(["check-data", str(path), "--images", str(path.parent), "--output", str(tmp_path)]) == cli.SUCCESS
    assert json.loads((tmp_path / "report.json").read_text())["proposal"]["batch_size"] == 3
    mask = np.ones((40, 40), bool)
    data = ArrayDataset([np.zeros((40, 40, 3), np.uint8)] * 3, [[mask]] * 3)
    with pytest.raises(ValueError, match=r"3 images for batch_size=4\. Set batch_size=3"):
        DataLoader(data, MaskRCNNConfig(num_classes=1, image_scale=1.0), 4, shuffle=True)
