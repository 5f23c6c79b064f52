"""check-data: planted faults are found and named and none is invented; anchor recall and proposals by hand."""

import html
import json
import pathlib
import shutil

import numpy as np
import pytest
from planted import plant
from reader_tools import box, masks_of, scene

from keras_maskrcnn import cli
from keras_maskrcnn.checkup import inspect_dataset, make_report, propose
from keras_maskrcnn.checkup.anchor_recall import best_overlaps, network_boxes, recall_by_size
from keras_maskrcnn.checkup.findings import box_iou, crosses_itself
from keras_maskrcnn.checkup.proposal import config_of
from keras_maskrcnn.data import ArrayDataset, CocoDataset
from keras_maskrcnn.geometry.anchor_shapes import cell_anchors
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.network.anchors import level_anchors
from keras_maskrcnn.pages.dataset_page import write_page

COCO = pathlib.Path(__file__).parents[2] / "shared" / "data" / "coco_tiny"


def clean(folder, count=22):
    """Different pictures with two polygons each, nothing wrong with them."""
    images, annotations = [], []
    for number in range(1, count + 1):
        picture = scene(100 + number)
        picture.save(folder / f"{number:03d}.png")
        images.append({"id": number, "file_name": f"{number:03d}.png", "height": 120, "width": 160})
        for k, (x, y) in enumerate(((60, 20), (90, 70))):
            square = [x, y, x + 30, y, x + 30, y + 30, x, y + 30]
            entry = {"id": 2 * number + k, "image_id": number, "category_id": k + 1, "iscrowd": 0, "area": 900}
            annotations.append(entry | {"segmentation": [square], "bbox": [x, y, 30, 30]})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def run(content, folder, output, *more):
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    status = cli.main(["check-data", str(path), "--images", str(folder), "--output", str(output), *more])
    return status, json.loads((output / "report.json").read_text())


def check_planted(content, folder, output, before):
    """All twenty are found, each by its name; with them the report has nothing that it had not before."""
    planted = plant(content, folder)
    assert len(planted) == 20
    status, report = run(content, folder, output)
    assert status == cli.CHECK_FAILED
    told = [" ".join((found["kind"], found["where"], found["message"])) for found in report["findings"]]
    lost = {name: words for name, words in planted.items() if not any(all(w in text for w in words) for text in told)}
    assert not lost, told
    explained = [text for text in told if any(all(w in text for w in words) for words in planted.values())]
    assert len(explained) == 20 and sorted(set(told) - set(explained)) == sorted(before), told
    return report


def test_twenty_planted_faults_are_found_and_named_and_none_is_invented(tmp_path, capsys):
    content = clean(tmp_path)
    status, report = run(content, tmp_path, tmp_path / "before")
    assert status == cli.SUCCESS and report["findings"] == []
    assert (report["images"], report["objects"]) == (22, 44)
    assert report["classes"] == [{"name": n, "objects": 22, "images": 22} for n in ("cat", "dog")]
    assert report["objects_an_image"]["median"] == 2 and report["object_side"]["most"] == 30
    assert report["image_sizes"] == [{"height": 120, "width": 160, "images": 22}]
    report = check_planted(content, tmp_path, tmp_path / "after", [])
    page = (tmp_path / "after" / "index.html").read_text()
    assert page.count("<img") >= 15 and page.startswith("<!doctype html>")
    assert all(found["where"] in page for found in report["findings"])
    assert "error: unreadable image: 2" in capsys.readouterr().out


def test_twenty_planted_faults_in_photos(tmp_path):
    if not COCO.is_dir():
        pytest.skip("needs ../shared/data/coco_tiny")
    shutil.copytree(COCO / "train2017", tmp_path / "images")
    content = json.loads((COCO / "annotations" / "instances_train2017.json").read_text())
    _, before = run(content, tmp_path / "images", tmp_path / "before")
    known = [" ".join((found["kind"], found["where"], found["message"])) for found in before["findings"]]
    assert len(known) <= 1
    check_planted(content, tmp_path / "images", tmp_path / "after", known)


def test_copies_in_both_parts_and_classes_that_cannot_be_learnt(tmp_path, capsys):
    train, val = tmp_path / "train", tmp_path / "val"
    train.mkdir(), val.mkdir()
    content = clean(train, 4)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1]
    later = clean(val, 3)
    scene(300).save(val / "001.png")
    scene(301).save(val / "002.png")  # 003 stays what it is in the training part
    (val / "val.json").write_text(json.dumps(later))
    _, report = run(content, train, tmp_path / "out", "--val", str(val / "val.json"), "--val-images", str(val))
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert set(found) == {"copy in both parts", "class without training data", "class without object"}
    leak = found["copy in both parts"]
    assert str(val / "003.png") in leak["where"] and str(train / "003.png") in leak["message"]
    assert "'dog'" in found["class without training data"]["where"]
    told = capsys.readouterr().out
    assert f"--val-images {val} --val-annotations {val / 'val.json'}" in told


def test_images_that_are_forgotten_are_noted(tmp_path):
    content = clean(tmp_path, 3)
    content["images"], content["annotations"] = content["images"][:2], content["annotations"][:4]
    _, report = run(content, tmp_path, tmp_path / "out")
    (found,) = report["findings"]
    assert found["severity"] == "note" and "003.png" in found["message"]


@pytest.mark.parametrize(
    "points, sides",
    [
        ([(0, 0), (10, 10), (10, 0), (0, 10)], (0, 2)),
        ([(0, 0), (10, 0), (10, 10), (0, 10)], None),
        ([(0, 0), (10, 0), (10, 0), (10, 10), (0, 10), (0, 0)], None),  # points repeated
        ([(0, 0), (9, 0), (9, 9), (0, 9), (0, 0), (3, 3), (3, 6), (6, 6), (6, 3), (3, 3)], None),  # a hole's bridge
        ([(0, 0), (10, 0), (5, 5), (5, 0), (0, 5)], None),  # touches itself in a point
        ([(0, 0), (4, 0), (4, 4)], None),
    ],
)
def test_outlines_that_cross_themselves(points, sides):
    assert crosses_itself(np.array(points, float)) == sides


def test_long_outlines_are_compared_in_parts():
    angles = np.linspace(0, 2 * np.pi, 2500, endpoint=False)
    ring = np.stack([100 + 50 * np.cos(angles), 100 + 50 * np.sin(angles)], 1)
    assert crosses_itself(ring) is None
    ring[[2100, 2101]] = ring[[2101, 2100]]
    assert crosses_itself(ring) == (2099, 2101)


def test_best_overlaps_are_those_of_all_anchors_compared():
    rng = np.random.default_rng(0)
    sizes = np.array([[160, 224], [96, 64]])
    positions = rng.integers(0, 2, 60)
    low = rng.uniform(0, 40, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 60, (60, 2))], 1)
    anchor_sizes, ratios = (8, 16, 32, 64, 128), (0.5, 1.0, 2.0)
    found = best_overlaps(boxes, positions, sizes, anchor_sizes, ratios)
    for image, (height, width) in enumerate(sizes):
        levels = [
            np.asarray(level_anchors(-(-height // s), -(-width // s), (s, s), cell_anchors(size, ratios)))
            for s, size in zip(PYRAMID_STRIDES, anchor_sizes, strict=True)
        ]
        chosen = positions == image
        every = box_iou(boxes[chosen], np.concatenate(levels).astype(float)).max(1)
        np.testing.assert_allclose(found[chosen], every, atol=1e-6)


def test_recall_counts_by_size():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 20, 20], [0, 0, 20, 21], [0, 0, 300, 300]], float)
    rows = recall_by_size(boxes, np.array([0.2, 0.5, 0.8, 0.6]))
    assert rows[0] == {"size": "0 to 16", "objects": 1, "recall_50": 0, "recall_70": 0}
    assert rows[1] == {"size": "16 to 32", "objects": 2, "recall_50": 1, "recall_70": 0.5}
    assert rows[-2]["size"] == "over 256"
    assert rows[-1] == {"size": "all", "objects": 4, "recall_50": 0.75, "recall_70": 0.25}
    assert rows[2] == {"size": "32 to 64", "objects": 0, "recall_50": None, "recall_70": None}


def squares(side, sizes, count=3):
    """A dataset of square objects of one side on images of the sizes given."""
    images = [np.full((*size, 3), k % 200, np.uint8) for k, size in enumerate(sizes)]
    masks = []
    for height, width in sizes:
        masks.append([])
        for k in range(count):
            mask = np.zeros((height, width), np.uint8)
            mask[5 : 5 + side, 5 + k * side : 5 + (k + 1) * side] = 1
            masks[-1].append(mask)
    return inspect_dataset(ArrayDataset(images, masks))


def test_proposals_follow_the_data():
    """Objects of 16 pixels in equal images of 256: 640 is the first side that makes them 32 pixels (2.5 times)."""
    options = propose(squares(16, [(256, 256)] * 4))
    assert (options["min_size"], options["max_size"]) == (640, 1066)
    assert options["max_instances"] == 20 and options["max_detections"] == 100 and options["epochs"] == 100
    assert options["anchor_sizes"] == [32, 64, 128, 256, 512] and options["batch_size"] == 4
    assert "image_scale" not in options


@pytest.mark.parametrize(
    "object_side, image_side, proposed",
    [
        (30, 96, 128),  # 40 pixels at 128, and the images are no larger
        (14, 96, 256),  # 28 at 192, 37 at 256
        (40, 250, 256),
        (150, 600, 320),  # 32 pixels at 128, but larger images are not shrunk below 320
    ],
)
def test_small_images_are_not_blown_up_without_need(object_side, image_side, proposed):
    assert propose(squares(object_side, [(image_side, image_side)] * 2))["min_size"] == proposed


def test_large_images_are_cut_into_crops():
    """Objects of 8 pixels need a short side of 1024, so the long one has 1706: more than 1344."""
    options = propose(squares(8, [(256, 512)] * 4))
    assert (options["min_size"], options["crop"], options["batch_size"]) == (1024, 512, 4)
    options = propose(squares(16, [(256, 512)] * 4))  # 640 and 1066 are enough
    assert (options["min_size"], options["batch_size"]) == (640, 2) and "crop" not in options


def test_one_scale_for_images_of_many_sizes_with_objects_of_one():
    options = propose(squares(16, [(128, 128), (128, 140), (256, 256), (400, 300)], count=5))
    assert options["image_scale"] == 2.0 and "min_size" not in options
    config = config_of(options)
    boxes, sizes = network_boxes(
        np.array([[0, 0, 16, 16]], float), np.array([2]), [(128, 128)] * 2 + [(256, 256)], config
    )
    assert boxes.tolist() == [[0, 0, 32, 32]] and sizes[2].tolist() == [512, 512]


def pixel_findings(*images):
    """(severity, kind, where, message) of the findings about the pixels of these arrays."""
    found = inspect_dataset(ArrayDataset(images, [[] for _ in images]), workers=1).findings
    kinds = ("images of another kind", "pixels that are not numbers", "channel without content")
    return [(one.severity, one.kind, one.where, one.message) for one in found if one.kind in kinds]


RGB8, RGB16 = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint16)
GRAY1, GRAY8 = np.eye(4, dtype=bool), np.eye(4, dtype=np.uint8)
GRAY16, GRAY32 = np.eye(4, dtype=np.uint16), np.eye(4, dtype=np.int32) * 65535


@pytest.mark.parametrize(
    "images, others",
    [
        ([RGB8, RGB8, GRAY8, GRAY1], []),  # all are read as RGB
        ([GRAY8, GRAY8, RGB8], []),
        (
            [RGB8, RGB8, GRAY8, RGB16],
            [("image 4", "1 have 3 channels of uint16, most have 3 channels of uint8: image 4")],
        ),
        ([GRAY8, GRAY8, GRAY1], []),  # 1 bit becomes 0 and 255
        ([GRAY16, GRAY16, GRAY32], []),  # the same numbers
        (
            [GRAY16, GRAY16, GRAY16, GRAY32 * 2, GRAY8, GRAY32 * 3],
            [
                ("image 4", "2 have 1 channel of int32, most have 1 channel of uint16: image 4, image 6"),
                ("image 5", "1 have 1 channel of uint8, most have 1 channel of uint16: image 5"),
            ],
        ),
        (
            [np.eye(4)] * 7 + [RGB8] * 6,
            [
                (
                    "image 8",
                    "6 have 3 channels of uint8, most have 1 channel of float64: "
                    "image 8, image 9, image 10, image 11, image 12, ...",
                )
            ],
        ),
    ],
)
def test_images_that_a_model_would_take_for_others_are_found(images, others):
    advice = ". A model takes one kind. Export all images in the same format."
    assert pixel_findings(*images) == [
        ("warning", "images of another kind", where, f"of the images {told}{advice}") for where, told in others
    ]


def test_pixels_that_are_not_numbers_and_channels_without_content_are_found():
    clean = np.stack([np.full((7, 7), 0.7), np.eye(7), np.full((7, 7), -3)], axis=2)  # the mean of 0.7 is not 0.7
    holes, infinite = clean.copy(), clean.copy()
    holes[1, 2, 1], infinite[0, 0, 0] = np.nan, -np.inf
    advice = "it contains NaN or infinity. Replace these values, for example by the channel's mean."
    wrong = [("error", "pixels that are not numbers", f"image {k}", advice) for k in (2, 4)]
    flat = "channels [1, 3] (counted from 1) are constant. Leave them out, or check the export."
    empty = ("note", "channel without content", "all images", flat)
    assert pixel_findings(clean, holes, clean, infinite) == [*wrong, empty]
    assert pixel_findings(holes, infinite) == [(*wrong[0][:2], f"image {k}", advice) for k in (1, 2)]
    assert pixel_findings(clean, clean + 1) == []  # constant in each image, not in all


def test_a_dataset_without_objects_still_has_a_report():
    inspection = inspect_dataset(ArrayDataset([np.zeros((64, 64, 3), np.uint8)], [[]]))
    report = make_report(inspection, propose(inspection))
    assert report["objects"] == 0 and report["object_side"] is None and report["anchor_recall"][-1]["recall_50"] is None
    assert report["images_without_objects"] == 1 and report["proposal"]["min_size"] == 800


def test_masks_of_the_clean_dataset_are_what_the_test_says(tmp_path):
    content = clean(tmp_path, 1)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    masks = masks_of(CocoDataset(tmp_path / "annotations.json", tmp_path), 0)
    assert masks[0, :40, :60].sum() == box(60, 20, 90, 50).sum() == 0 and masks[0].sum() == 900


def test_train_takes_a_config_and_arguments_override_it(tmp_path, capsys, monkeypatch):
    seen = {}
    remember = lambda args: seen.update(vars(args)) or cli.SUCCESS  # noqa: E731
    commands = [command._replace(run=remember) if command.name == "train" else command for command in cli._COMMANDS]
    monkeypatch.setattr(cli, "_COMMANDS", commands)
    content = clean(tmp_path, 3)
    _, report = run(content, tmp_path, tmp_path / "out")
    data = ["--images", str(tmp_path), "--annotations", str(tmp_path / "annotations.json"), "--val-images", "v"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "--weights coco</pre>" in page and "<figcaption>003.png: 2 objects</figcaption>" in page
    assert cli.main(["train", *data, "--config", str(tmp_path / "out" / "report.json"), "--batch-size", "1"]) == 0
    proposal = report["proposal"]
    assert {name: seen[name] for name in proposal} == proposal | {"batch_size": 1}
    assert cli.main(["train", *data, "--auto", "--minutes", "3"]) == 0
    assert {name: seen[name] for name in proposal} == proposal | {"epochs": None} and seen["minutes"] == 3
    assert "proposed: " in capsys.readouterr().out
    (tmp_path / "scale.json").write_text('{"image_scale": 2.0, "epochs": 3}')
    assert cli.main(["train", *data, "--config", str(tmp_path / "scale.json")]) == 0 and seen["image_scale"] == 2.0
    assert cli.main(["train", *data, "--config", str(tmp_path / "scale.json"), "--min-size", "256"]) == 0
    assert (seen["image_scale"], seen["min_size"], seen["epochs"]) == (None, 256, 3)
    assert cli.main(["train", *data]) == cli.MISTAKE and "--auto" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text('{"learning": 1}')
    assert cli.main(["train", *data, "--config", str(tmp_path / "bad.json")]) == cli.MISTAKE
    assert "'learning'" in capsys.readouterr().err


def test_nothing_in_a_dataset_is_taken_for_html(tmp_path):
    bad = "<script>alert(1)</script>"
    content = clean(tmp_path, 2)
    (tmp_path / "002.png").rename(tmp_path / "<script>.png")
    content["images"][1]["file_name"] = "<script>.png"
    content["categories"][0]["name"] = bad
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path / "annotations.json", tmp_path)
    inspection = inspect_dataset(dataset)
    report = make_report(inspection, propose(inspection))
    found = {"severity": "error", "kind": f"kind {bad}", "where": f"where {bad}", "message": f"told {bad}", "image": 1}
    report |= {"findings": [found] * 12, "dataset": bad, "proposal": {f"name {bad}": f"value {bad}"}}
    write_page(report, dataset, tmp_path / "page.html", f"train {bad}")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and page.count("<img") == 2
    text = html.unescape(page)
    for shown in (
        f"<h1>Dataset check: {bad}</h1>",
        f"kind {bad}: 12</summary>",
        f"<li>where {bad}: told {bad}</li>",
        f"<tr><td>name {bad}</td><td>value {bad}</td></tr>",
        f"<pre>train {bad}</pre>",
        f'<tr><td>{bad}</td><td class="n">2</td><td class="n">2</td>',
        f"<figcaption><script>.png: 2 objects (kind {bad})</figcaption>",
    ):
        assert shown in text, shown
    assert text.count(f"<li>where {bad}") == 12 and "<details>" in page  # more than ten wait for a click
