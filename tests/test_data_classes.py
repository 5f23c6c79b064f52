"""Classes are joined by name: between files, with a loader, in an evaluation, and on the command line."""

import json

import numpy as np
import pytest
from known_answers import KnownModel, small_config
from PIL import Image
from reader_tools import HEIGHT, WIDTH, picture

from keras_maskrcnn import cli
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, CocoDataset, DataLoader, open_dataset
from keras_maskrcnn.data.classes import ClassesDiffer, ids_by_label, join_classes, with_classes
from keras_maskrcnn.evaluation import coco_metrics, evaluate_coco

NAMES = ("circle", "square", "triangle")
BOXES = ((2, 2, 12, 12), (20, 5, 40, 30), (42, 10, 58, 38))  # one object of each class


def coco(folder, categories, name="a.json", classes=NAMES):
    """A COCO file of two images with an object of each class. `categories`: list of (id, name), in the file's order."""
    folder.mkdir(exist_ok=True)
    ids = {name: key for key, name in categories}
    images, annotations = [], []
    for i in (1, 2):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
        for one, (x1, y1, x2, y2) in zip(classes, BOXES):
            outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            fields = {"segmentation": outline, "category_id": ids[one], "image_id": i}
            annotations.append({"id": len(annotations) + 1, **fields})
    listed = [{"id": key, "name": one} for key, one in categories]
    (folder / name).write_text(json.dumps({"images": images, "annotations": annotations, "categories": listed}))
    return folder / name


@pytest.fixture
def train(tmp_path):
    return CocoDataset(coco(tmp_path, [(1, "circle"), (2, "square"), (3, "triangle")], "train.json"), tmp_path)


@pytest.fixture
def swapped(tmp_path):
    """The same objects with other ids in another order."""
    return coco(tmp_path, [(3, "circle"), (1, "square"), (2, "triangle")], "swapped.json")


def labels_of(dataset):
    return [[instance.label for instance in record.instances] for record in dataset.records]


@pytest.mark.parametrize("ids", [None, (1, 2, 3)])
def test_a_file_that_numbers_the_same_names_differently_gives_the_same_labels(train, swapped, ids):
    val = open_dataset(swapped, swapped.parent, class_names=train.class_names, category_ids=ids)
    assert labels_of(val) == labels_of(train) == [[0, 1, 2]] * 2
    assert val.class_names == NAMES and val.category_ids == (3, 1, 2)  # its own ids, so that pycocotools agrees
    assert val.to_coco()["annotations"][0]["category_id"] == 3


def test_yolo_in_another_order_gives_the_same_labels(tmp_path):
    for number, place in enumerate(("images", "labels")):
        (tmp_path / place).mkdir()
        if number == 0:
            Image.fromarray(picture()).save(tmp_path / place / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 .1 .1 .5 .1 .5 .5\n2 .5 .5 .9 .5 .9 .9\n")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images\nnames: [triangle, square, circle]\n")
    assert labels_of(open_dataset(tmp_path, class_names=NAMES)) == [[2, 0]]
    yaml.write_text("train: images\nnames: [triangle, square, triangle]\n")
    with pytest.raises(ValueError, match=r"name of its own. Received \['triangle'\] more than once"):
        open_dataset(tmp_path)


def test_names_that_differ_are_refused_with_both_lists(train, tmp_path):
    path = coco(tmp_path, [(1, "Circle"), (2, "square"), (3, "triangle")], classes=("Circle", "square", "triangle"))
    for on_error in ("raise", "skip"):
        with pytest.raises(ClassesDiffer) as caught:
            CocoDataset(path, tmp_path, on_error, class_names=train.class_names)
        message = str(caught.value)
        assert "expected: ['circle', 'square', 'triangle']" in message
        assert "received: ['Circle', 'square', 'triangle']" in message and "Objects have ['Circle']" in message
    with pytest.raises(ClassesDiffer, match="not expected"):
        CocoDataset(path, tmp_path, class_names=("leaf",))


def test_a_name_twice_is_an_error(tmp_path):
    path = coco(tmp_path, [(1, "circle"), (2, "square"), (3, "triangle")])
    path.write_text(path.read_text().replace('"name": "square"', '"name": "circle"'))
    with pytest.raises(ValueError, match=r"name of its own. Received \['circle'\] more than once"):
        CocoDataset(path, tmp_path)
    with pytest.raises(ValueError, match="class_names: every class must have a name of its own"):
        join_classes(["a"], ["a", "a"], {"a"}, "file")
    with pytest.raises(ClassesDiffer, match="No name is in both"):
        join_classes(["a"], ["b"], set(), "file")


def test_roboflows_root_category_is_dropped_with_a_note(train, tmp_path):
    path = coco(tmp_path, [(0, "shapes"), (1, "circle"), (2, "square"), (3, "triangle")])
    with pytest.warns(UserWarning, match=r"left out the classes \['shapes'\], which no object has"):
        val = CocoDataset(path, tmp_path, class_names=train.class_names)
    assert labels_of(val) == [[0, 1, 2]] * 2 and val.category_ids == (1, 2, 3) and len(val.notes) == 1
    path = coco(tmp_path, [(0, "circle"), (1, "circle"), (2, "square"), (3, "triangle")])  # the root has a class's name
    with pytest.warns(UserWarning, match=r"circle \(id 0\)"):
        assert CocoDataset(path, tmp_path).category_ids == (1, 2, 3)


def test_classes_that_a_file_does_not_list_keep_their_place(train, tmp_path):
    path = coco(tmp_path, [(2, "triangle"), (9, "circle")], classes=("circle", "triangle"))
    with pytest.warns(UserWarning, match=r"does not list the classes \['square'\]"):
        val = CocoDataset(path, tmp_path, class_names=train.class_names, category_ids=train.category_ids)
    assert labels_of(val) == [[0, 2]] * 2 and val.category_ids == (9, 10, 2)  # 2 is taken by triangle
    assert val.absent_classes == ("square",)
    assert ids_by_label({0: 9}, 3, (1, 2, 3)) == (9, 2, 3)


def test_a_loader_joins_by_name(train, swapped):
    data = CocoDataset(swapped, swapped.parent)
    assert labels_of(data) == [[2, 0, 1]] * 2  # by id, as nothing else is known
    config = MaskRCNNConfig(num_classes=3, class_names=NAMES, category_ids=(1, 2, 3), image_scale=1.0)
    batch = DataLoader(data, config, 2)[0]
    np.testing.assert_array_equal(batch["gt_labels"][:, :3], [[0, 1, 2]] * 2)
    assert with_classes(train, NAMES)[0] is train
    with pytest.raises(ClassesDiffer, match=r"expected: \['circle', 'square', 'disc'\]"):
        DataLoader(data, MaskRCNNConfig(num_classes=3, class_names=("circle", "square", "disc")), 1)


def test_a_loader_tells_of_classes_that_one_side_lacks():
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, 5:20, 5:20] = 1
    data = ArrayDataset([picture()], [mask], [[1]], class_names=("shapes", "triangle"))
    config = MaskRCNNConfig(num_classes=3, class_names=NAMES, image_scale=1.0)
    with pytest.warns(UserWarning) as told:
        batch = DataLoader(data, config, 1)[0]
    assert batch["gt_labels"][0][batch["gt_valid"][0]].tolist() == [2]
    assert [str(one.message).partition(": ")[2] for one in told] == [
        "left out the classes ['shapes'], which no object has.",
        "it does not list the classes ['circle', 'square']; no object has them.",
    ]


def test_an_evaluation_without_names_needs_a_category_for_each_label(tmp_path):
    path = coco(tmp_path, [(1, "circle"), (2, "square")], classes=("circle", "square"))
    told = r"model's 3 labels take the categories of .*a.json in order. Received 2 categories: .*'circle', 'square'"
    with pytest.raises(ValueError, match=rf"{told}.*Open it with category_ids=config.category_ids."):
        evaluate_coco(KnownModel(small_config(3), [([], [], [])] * 2), CocoDataset(path, tmp_path))


def test_without_real_names_labels_are_in_the_order_of_ids(swapped):
    data = CocoDataset(swapped, swapped.parent)
    batch = DataLoader(data, MaskRCNNConfig(num_classes=3, image_scale=1.0), 2)[0]
    np.testing.assert_array_equal(batch["gt_labels"][:, :3], [[2, 0, 1]] * 2)


def test_an_evaluation_joins_by_name(train, swapped):
    """The boxes of square and triangle are right, that of circle is wrong: so say the figures with either file."""
    answer = ([(30, 2, 40, 12), *BOXES[1:]], [0.9, 0.9, 0.9], [0, 1, 2])
    for dataset in (train, CocoDataset(swapped, swapped.parent)):
        model = KnownModel(small_config(3, class_names=NAMES), [answer] * 2)
        metrics = evaluate_coco(model, dataset)
        assert [round(metrics[f"bbox_AP/{name}"], 3) for name in NAMES] == [0, 1, 1]
    with pytest.raises(ClassesDiffer, match="Objects have"):
        evaluate_coco(KnownModel(small_config(3, class_names=("circle", "square", "disc")), [answer]), train)


def test_figures_are_kept_by_label_where_names_are_the_same():
    truth = {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "categories": [{"id": 4, "name": "cell"}, {"id": 7, "name": "cell"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": c, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
            for k, c in ((1, 4), (2, 7))
        ],
    }
    found = [{"image_id": 1, "category_id": 7, "score": 0.9, "bbox": [5, 5, 20, 20]}]
    metrics = coco_metrics(truth, found, iou_types=("bbox",))
    assert metrics["bbox_AP/cell (id 4)"] == 0 and metrics["bbox_AP/cell (id 7)"] == pytest.approx(1)


def test_check_data_reports_other_names_and_dropped_classes(train, tmp_path, capsys):
    other = coco(tmp_path, [(1, "disc"), (2, "square")], "other.json", classes=("disc", "square"))
    output = str(tmp_path / "out")
    arguments = ["check-data", str(train.name), "--images", str(tmp_path), "--output", output]
    assert cli.main([*arguments, "--val", str(other), "--val-images", str(tmp_path)]) == cli.CHECK_FAILED
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["findings"]
    told = [found["message"] for found in findings if found["kind"] == "other classes in validation"]
    assert len(told) == 1 and "['circle', 'square', 'triangle']" in told[0] and "['disc', 'square']" in told[0]
    root = coco(tmp_path, [(0, "shapes"), (3, "circle"), (1, "square"), (2, "triangle")], "root.json")
    assert cli.main([*arguments, "--val", str(root), "--val-images", str(tmp_path)]) == cli.SUCCESS
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["findings"]
    told = [found for found in findings if found["kind"] == "decided by the reader"]
    assert len(told) == 1 and told[0]["severity"] == "warning" and "['shapes']" in told[0]["message"]
