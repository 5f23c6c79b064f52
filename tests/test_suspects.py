"""Suspicious labels: planted faults are found and ranked by the stated rules, and the files open."""

import json
import types

import numpy as np
import pytest
from test_error_kinds import square, truth_of
from test_errors_page import BAD, errors_in

from keras_maskrcnn import cli
from keras_maskrcnn.checkup import inspect_dataset
from keras_maskrcnn.data import generate_shapes, open_dataset
from keras_maskrcnn.evaluation import match_detections
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.evaluation.suspects import find_suspects, suspicious_coco


def suspects_of(annotations, found, least=0.0, **more):
    """[(kind, suspicion, label's position or None)], worst first."""
    matches = match_detections(truth_of(annotations, **more), found)
    return [
        (one.kind, one.suspicion, None if one.object == NONE else int(matches.gt_row[one.object]))
        for one in find_suspects(matches, least)
        if one.suspicion > 0
    ]


# 40 right detections of two classes with scores of 0.9 and IoU 1, each in an image of its own; 10 wrong ones of 0.3.
SURE = [square(200, image_id=k, category=k % 2 + 1) for k in range(2, 42)]
FOUND = [one | {"score": 0.9} for one in SURE] + [square(20, side=9, image_id=k, score=0.3) for k in range(2, 12)]


def with_others(annotations, found, least=0.0):
    """Suspects of the first image. Those of the others are the ten wrong detections, below 0.1."""
    found = suspects_of([*annotations, *SURE], [*found, *FOUND], least, images=41)
    return [one for one in found if one[1] > 0.1]


def test_each_kind_by_hand():
    # Labels: 0 right; 1 of the wrong class; 2 shifted by half its side (IoU 1/3); 3 nowhere. An object without a label.
    annotations = [square(10), square(60), square(110), square(280)]
    found = [square(10, score=0.9), square(60, category=2, score=0.9), square(110, y=40, score=0.9)]
    found += [square(340, score=0.9)]
    # Of 44 detections with 0.9 three are wrong: s = 41 / 44. Of 24 labels of class 1, 21 are found.
    share = 0.999 * 41 / 44 + 0.001 * 0.9
    expected = [
        ("unlabelled", pytest.approx(share), None),
        ("wrong class", pytest.approx(share), 1),
        ("poor outline", pytest.approx(share), 2),
        ("not predicted", pytest.approx(0.5 * 21 / 24), 3),
    ]
    assert with_others(annotations, found) == expected
    assert with_others(annotations, found, least=0.5) == expected[:3]


def test_a_label_is_listed_once_for_its_strongest_reason():
    # A wrong class, but its own class is there as well: with s the share of both, s * (1 - s), less than its outline.
    both = [square(60, category=2, score=0.9), square(60, y=22, score=0.9)]
    share = 0.999 * 41 / 42 + 0.001 * 0.9
    (only,) = with_others([square(60)], both)
    assert only == ("poor outline", pytest.approx(share * (1 - 38 / 42) / 0.15), 0)
    # The weak half of a detection: it is more likely that the model overlooked something, or that nothing is there.
    ((kind, _, place),) = with_others([square(60)], [square(60, y=40, score=0.3)])
    assert (kind, place) == ("not predicted", 0)


def test_what_agrees_is_not_suspicious():
    annotations = [square(10), square(60, category=2), square(300, side=90, y=0, iscrowd=1)]
    found = [square(10, score=0.9), square(60, category=2, score=0.3), square(320, y=30, score=0.9)]
    assert with_others(annotations, found) == []  # a low score alone, and what lies in a crowd region
    assert suspects_of(annotations[:2], []) == []


@pytest.mark.parametrize("seed", range(3))
def test_planted_faults_come_first(seed):
    """100 images of three labels: 5 % of the labels swapped, removed or shifted; a detector of middling quality."""
    rng = np.random.default_rng(seed)
    places = [(image, x) for image in range(1, 101) for x in (20, 140, 260)]
    faulty = rng.permutation(len(places))[:15]
    faults = {places[k]: ("swapped", "removed", "shifted")[n % 3] for n, k in enumerate(faulty)}
    labels, found = [], []
    for image, x in places:
        category = int(rng.integers(1, 3))
        fault = faults.get((image, x))
        if fault != "removed":
            shift = 20 if fault == "shifted" else 0
            labels.append(
                square(x, 20 + shift, image_id=image, category=3 - category if fault == "swapped" else category)
            )
        if rng.random() < 0.95:
            jitter = int(rng.integers(-3, 4))
            found.append(square(x + jitter, image_id=image, category=category, score=rng.uniform(0.6, 1)))
        if rng.random() < 0.1:
            found.append(square(x + 60, image_id=image, category=category, score=rng.uniform(0.05, 0.5)))
    matches = match_detections(truth_of(labels, images=100), found)
    worst = find_suspects(matches)[: len(faults)]
    hits = set()
    for one in worst:
        image = matches.image[one.detection] if one.detection != NONE else matches.gt_image[one.object]
        box = (
            found[matches.row[one.detection]]["bbox"]
            if one.object == NONE
            else labels[matches.gt_row[one.object]]["bbox"]
        )
        hits |= {key for key in faults if key[0] == image + 1 and abs(key[1] - box[0]) <= 3}
    assert len(hits) >= 12  # 0.8 of them at the length of their number


def test_the_report_shows_them_and_writes_a_dataset(tmp_path):
    annotations = [square(10), square(60)]
    found = [square(10, score=0.9), square(60, category=2, score=0.9), square(340, score=0.9), *FOUND]
    page, report, _ = errors_in(tmp_path, [*annotations, *SURE], found, images=41)
    titles = [title for title, _ in page.labels]
    assert titles[0].startswith("Suspicious labels: unlabelled, 0.95: detected dog 0.90") and len(titles) == 2
    assert titles[1].startswith("Suspicious labels: wrong class, 0.95: labelled dog, detected")
    assert report["suspicious_labels"]["counts"] == {
        "unlabelled": 1, "wrong class": 1, "poor outline": 0, "not predicted": 0
    }  # fmt: skip
    entry = report["suspicious_labels"]["labels"][1]
    assert (entry["kind"], entry["annotation_id"], entry["labelled"], entry["iou"]) == ("wrong class", 2, "dog", 1)
    # The file is a dataset that our readers take, with all labels of the image, and one that was missing.
    written = tmp_path / "errors" / "suspicious.json"
    content = json.loads(written.read_text())
    assert len(content["annotations"]) == 3 and len(content["images"]) == 1
    assert content["annotations"][1]["suggested_category_id"] == 2 and "labels" in page.ids
    added = content["annotations"][-1]
    assert (added["suspicion_kind"], added["score"], added["area"], added["id"]) == ("unlabelled", 0.9, 1600, 43)
    dataset = open_dataset(written, tmp_path / "images")
    assert len(dataset[0].instances) == 3
    assert not [fault for fault in inspect_dataset(dataset).findings if fault.severity == "error"]


def test_detections_without_masks_become_filled_boxes():
    plain = {"image_id": 1, "category_id": 1, "bbox": [5.0, 6.0, 10.0, 20.0], "score": 0.9}
    truth = truth_of([])
    matches = match_detections(truth, [plain], "bbox")
    (added,) = suspicious_coco(find_suspects(matches, 0), matches, truth, [plain])["annotations"]
    assert added["segmentation"] == [[5, 6, 15, 6, 15, 26, 5, 26]] and added["area"] == 200 and added["id"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m.keras", "--train", "--epochs 3"], "Received: --model m.keras and --train '--epochs 3'"),
        (["--folds", "1", "--train", "--epochs 3"], "--folds must be at least 2. Received: 1"),
        (["--train", "--epochs 3 --run-dir x"], "Received: --run-dir in --train"),
        (["--train=--ema"], "check-labels needs a trained model, or a length of training"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, capsys, tmp_path):
    assert cli.main(["check-labels", "x.json", "--output", str(tmp_path), *options]) == cli.MISTAKE
    assert message in capsys.readouterr().err


def test_models_look_at_the_folds_that_they_did_not_learn(tmp_path, monkeypatch, capsys):
    """Training is replaced: what it is given, and that a second call trains nothing."""
    from keras_maskrcnn.cli import labels

    errors_in(tmp_path, [square(10, image_id=k) for k in range(1, 7)], [], images=6)
    learned, looked = [], []

    def detect(model, dataset, *rest):
        looked.append(sorted(dataset.image_ids))
        found = [square(10, image_id=key, score=0.9) for key in dataset.image_ids]
        return types.SimpleNamespace(detections=found)

    monkeypatch.setattr(labels.training, "train", learned.append)
    monkeypatch.setattr(labels, "load_model", lambda path: path)
    monkeypatch.setattr("keras_maskrcnn.evaluation.coco.detect_dataset", detect)
    monkeypatch.setattr("keras_maskrcnn.data.duplicates.duplicate_groups", lambda dataset, *more: [])
    line = ["check-labels", tmp_path / "truth.json", "--images", tmp_path / "images", "--folds", "3"]
    line = [*map(str, line), "--output", str(tmp_path / "out"), "--train", "--epochs 1 --backbone resnet10"]
    assert cli.main(line) == cli.SUCCESS
    assert sorted(sum(looked, [])) == [1, 2, 3, 4, 5, 6] and len(looked) == len(learned) == 3
    for args, own in zip(learned, looked, strict=True):
        assert (args.epochs, args.backbone, args.resume) == (1, "resnet10", False)
        assert sorted(open_dataset(args.annotations, args.images).image_ids) == sorted({1, 2, 3, 4, 5, 6} - set(own))
        assert sorted(open_dataset(args.val_annotations, args.val_images).image_ids) == own
    assert "0 of 6 labels are suspicious" in capsys.readouterr().out
    assert cli.main(line) == cli.SUCCESS and len(learned) == 3


def test_a_given_model_looks_at_all_images_and_the_worst_labels_are_listed(tmp_path, monkeypatch, capsys):
    from keras_maskrcnn.cli import labels

    truth = [square(10), square(60), *SURE]
    found = [square(10, score=0.9), square(60, category=2, score=0.9), square(340, score=0.9), *FOUND]
    errors_in(tmp_path, truth, [], images=41)

    def detect(model, dataset, *rest):
        assert model == "run" and len(dataset) == 41
        return types.SimpleNamespace(truth=dataset.to_coco(), detections=found, iou_types=("bbox", "segm"))

    monkeypatch.setattr(labels, "load_model", lambda path: path)
    monkeypatch.setattr("keras_maskrcnn.evaluation.coco.detect_dataset", detect)
    line = ["check-labels", tmp_path / "truth.json", "--images", tmp_path / "images", "--model", "run"]
    assert cli.main([*map(str, line), "--output", str(tmp_path / "out")]) == cli.SUCCESS
    first, *rows, last = capsys.readouterr().out.splitlines()[-4:]
    assert first == "2 of 42 labels are suspicious"
    # The detections are sure: s = 0.953, by the rules above.
    assert rows == [
        "  0.95  unlabelled, image 1: not labelled, detected dog 0.90",
        f"  0.95  wrong class, image 1: labelled dog, detected {BAD} 0.90",
    ]
    assert last.startswith(f"with pictures: {tmp_path / 'out' / 'index.html'}; for a labelling tool: ")
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == found
    assert len(json.loads((tmp_path / "out" / "suspicious.json").read_text())["images"]) == 1


@pytest.mark.slow
def test_folds_of_shapes_find_planted_faults(shapes_run, tmp_path, capsys):
    """Real training: three models go on from a trained one, each without a third of the images."""
    count, faults = 48, 10
    path = generate_shapes(tmp_path / "data", count, 96, seed=31, max_shapes=3)
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(content["annotations"]))[:faults]
    swapped, removed = set(chosen[: faults // 2].tolist()), set(chosen[faults // 2 :].tolist())
    planted = {content["annotations"][row]["id"] for row in swapped}
    boxes = {(content["annotations"][row]["image_id"], *content["annotations"][row]["bbox"]) for row in removed}
    for row in swapped:
        content["annotations"][row]["category_id"] = content["annotations"][row]["category_id"] % 3 + 1
    content["annotations"] = [one for row, one in enumerate(content["annotations"]) if row not in removed]
    path.write_text(json.dumps(content))
    output = tmp_path / "labels"
    train = f"--start-from {shapes_run} --epochs 1 --batch-size 4 --learning-rate 1e-4"
    line = ["check-labels", path, "--images", path.parent / "images", "--folds", 3, "--train", train]
    line = [str(one) for one in (*line, "--output", output)]
    assert cli.main(line) == cli.SUCCESS
    # Each image was looked at once, by a model that did not learn it.
    (folder,) = (one for one in output.iterdir() if one.is_dir())
    looked = []
    for number in (1, 2, 3):
        learn, look = (
            {image["id"] for image in json.loads((folder / f"{name}-{number}.json").read_text())["images"]}
            for name in ("learn", "look")
        )
        assert not learn & look and len(learn | look) == count
        looked += look
        settings = json.loads((folder / f"run-{number}" / "config.json").read_text())["settings"]
        assert settings["annotations"].endswith(f"learn-{number}.json")
        found = json.loads((folder / f"detections-{number}.json").read_text())
        assert found and {one["image_id"] for one in found} <= look
    assert sorted(looked) == list(range(1, count + 1))
    # Most faults are among the first labels of the list.
    labels = json.loads((output / "report.json").read_text())["suspicious_labels"]["labels"]
    hits = 0
    for one in labels[: 2 * faults]:
        hits += one.get("annotation_id") in planted and one["kind"] == "wrong class"
        if one["kind"] == "unlabelled":
            x, y, width, height = one["detected_box"]
            hits += any(
                key == one["image_id"] and abs(left - x) + abs(top - y) < (width + height) / 4
                for key, left, top, *_ in boxes
            )
    assert hits >= 0.6 * faults, labels[: 2 * faults]
    # A second call trains nothing and finds the same.
    times = [(folder / f"run-{number}" / "best.keras").stat().st_mtime_ns for number in (1, 2, 3)]
    capsys.readouterr()
    assert cli.main(line) == cli.SUCCESS and "fold 1" not in capsys.readouterr().out
    assert times == [(folder / f"run-{number}" / "best.keras").stat().st_mtime_ns for number in (1, 2, 3)]
    assert json.loads((output / "report.json").read_text())["suspicious_labels"]["labels"] == labels
