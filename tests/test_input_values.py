"""Values of configs, options, proposals and COCO tables: of the wrong type or range each is named, and nothing else."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from keras_maskrcnn.branches import resolve
from keras_maskrcnn.cli import MISTAKE, build_parser, main
from keras_maskrcnn.cli.results import read_known_images
from keras_maskrcnn.cli.settling import read_options
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.evaluation.figures import coco_metrics

CONFIG = {"num_classes": 2, "backbone": "resnet18", "norm": "batch"}


# Configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_classes", "2", "num_classes must be a whole number. Received: '2'. Correct it."),
        ("num_classes", True, "num_classes must be a whole number. Received: True. Correct it."),
        ("min_size", 2**31, "min_size must be a whole number. Received: 2147483648. Correct it. The default is 800."),
        ("min_size", 0.5, "min_size must be a whole number. Received: 0.5. Correct it. The default is 800."),
        ("roi_iou", "0.5", "roi_iou must be a finite number. Received: '0.5'. Correct it. The default is 0.5."),
        ("roi_iou", float("nan"), "roi_iou must be a finite number. Received: nan. Correct it. The default is 0.5."),
        ("smooth_l1_beta", 10**400, "smooth_l1_beta must be a finite number. Received: 1000"),
        ("norm", ["batch"], "norm must be text. Received: \\('batch',\\)"),
        ("roi_aligned", "False", "roi_aligned must be True or False. Received: 'False'"),
        (
            "pixel_mean",
            [1, "2", 3],
            "pixel_mean must be a sequence, each entry a finite number. Received: \\(1, '2', 3\\)",
        ),
        ("pixel_std", 5, "pixel_std must be a sequence, each entry a finite number. Received: 5"),
        ("anchor_sizes", [32, 64, [128], 256, 512], "anchor_sizes must be a sequence, each entry a finite number"),
        ("class_names", [1, 2], "class_names must be a sequence, each entry text. Received: \\(1, 2\\)"),
        ("category_ids", ["a", "b"], "category_ids must be a sequence, each entry a whole number"),
        ("anchor_ratios", [0.5, -1], "anchor_ratios must hold numbers above 0. Received: \\(0.5, -1\\)"),
        ("box_weights", [1, 1, 1], "box_weights holds four numbers, for dx, dy, dw and dh. Received: \\(1, 1, 1\\)"),
        ("crowd_ioa", 1.5, "crowd_ioa must lie in 0..1. Received: 1.5"),
        ("rpn_positive_iou", 7, "rpn_positive_iou must lie in 0..1. Received: 7"),
        ("min_box_size", -1, "min_box_size must not be negative. Received: -1"),
        ("mask_samples", 0, "mask_samples must be at least 1. Received: 0"),
        ("mask_size", 0, "mask_size must be at least 1. Received: 0"),
        ("box_convs", -1, "box_convs must not be negative. Received: -1. Correct it."),
        ("max_box_growth", 0.5, "max_box_growth is a factor of at least 1. Received: 0.5. Correct it."),
        ("image_scale", 0, "every image, and above 0. Received: 0. With None the sides decide: min_size and max_size"),
        ("norm_epsilon", 1, "norm_epsilon must be at least 0 and below 1. Received: 1. Correct it."),
        (
            "canvas",
            "square",
            "multiple of 64, no image_scale, and mask_padding=False. Received: max_size=1333, image_scale=None, "
            "mask_padding=True. Take the numbers of MaskRCNNConfig.matterport",
        ),
        (
            "rpn_negative_iou",
            0.8,
            "rpn_negative_iou must not exceed rpn_positive_iou. Received: 0.8 and 0.7. The paper has 0.3 and 0.7.",
        ),
        ("branches", 5, "branches is a sequence. Received: 5"),
        ("branches", [{"a": 1}], "with its class_name, as `describe` writes it. Received: {'a': 1}. Correct the file"),
    ],
)
def test_a_wrong_value_of_a_config_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNNConfig.from_dict(CONFIG | {name: value})


def test_a_rule_for_8_bit_images_is_refused_for_others():
    other = {"image_dtype": "uint16", "pixel_mean": (9.0,), "pixel_std": (4.0,)}
    for resize in ("opencv", "pillow"):
        with pytest.raises(ValueError, match=f'resize="{resize}" is a rule for 8-bit .* Received: image_dtype="uint16'):
            MaskRCNNConfig(**CONFIG | other, resize=resize)
    assert MaskRCNNConfig(**CONFIG | other).resize == "bilinear"


@pytest.mark.parametrize("values", [None, 3, [], {"backbone": "resnet18"}])
def test_a_config_is_made_of_a_dictionary(values):
    with pytest.raises(ValueError, match="a dictionary of its fields, num_classes among them. Received: "):
        MaskRCNNConfig.from_dict(values)


def test_numbers_of_other_types_are_taken_as_before():
    config = MaskRCNNConfig(**CONFIG | {"min_size": 640.0, "roi_iou": 1, "pixel_mean": np.array([1.5, 2, 3]).tolist()})
    assert type(config.min_size) is int and config.min_size == 640
    assert config.roi_iou == 1 and config.pixel_mean == (1.5, 2.0, 3.0)
    assert MaskRCNNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert MaskRCNNConfig(**CONFIG | {"num_classes": np.int64(2)}).class_names == ("class 0", "class 1")


def test_the_defaults_keep_their_own_rules():
    config = MaskRCNNConfig(num_classes=1)
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING and field.name not in ("class_names", "category_ids", "branches"):
            assert getattr(config, field.name) == field.default


def test_a_branch_of_another_class_is_refused():
    description = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 1}, "registered_name": None}
    with pytest.raises(ValueError, match="a branch of the class Dense, which is not registered in this process"):
        resolve([description])


# Options and proposals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "inf"], "must be finite, received inf"),
        (["--epochs", str(2**31)], "must be at most 2147483647, received 2147483648"),
        (["--seed", "-1"], "must be at least 0 and below 2^32, received -1"),
        (["--pixel-mean", "1", "nan", "3"], "must be finite, received nan"),
        (["--weight-decay", "1e999"], "must be finite, received 1e999"),
        (["--seed", "one"], "invalid int value: 'one'"),
    ],
)
def test_numbers_on_the_command_line(words, message, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", *words])
    assert message in capsys.readouterr().err


def test_a_proposal_with_a_wrong_value_is_named_with_its_file(tmp_path):
    path = tmp_path / "report.json"
    for name, value in (("pixel_std", [1, float("inf"), 2]), ("batch_size", 10**25), ("epochs", [3]), ("crop", {})):
        path.write_text(json.dumps({"proposal": {name: value}}))
        flag = "--" + name.replace("_", "-")
        with pytest.raises(ValueError, match=f"report.json: {name} must be a value that {flag} accepts: .* Received "):
            read_options(path)
    path.write_text(json.dumps({"proposal": {"x" * 5000: 1}}))
    with pytest.raises(ValueError, match="report.json with .'x{40}'."):
        read_options(path)


# COCO tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["image id", "category id", "category name"])
def test_the_tables_of_annotations_have_plain_ids(tmp_path, change, capsys):
    truth = tables()[0]
    if change == "image id":
        truth["images"][0]["id"] = [1]
    elif change == "category id":
        truth["categories"][0]["id"] = 1.5
    else:
        truth["categories"][0]["name"] = " "
    (tmp_path / "a.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="--annotations needs images .* Received .*a.json, where something is missing"):
        read_known_images(tmp_path / "a.json", [tmp_path / "a.png"])
    assert main(["predict", "run", str(tmp_path), "--annotations", str(tmp_path / "a.json")]) == MISTAKE
    assert "predict needs at least one image" in capsys.readouterr().err


def tables():
    """Ground truth and detections of one image with one square, found exactly."""
    mask = np.zeros((20, 30), np.uint8)
    mask[4:14, 5:15] = 1
    code = {"size": [20, 30], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}
    square = {"image_id": 7, "category_id": 1, "bbox": [5, 4, 10, 10], "segmentation": code}
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [square | {"id": 1, "area": 100.0, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    return truth, [square | {"score": 0.9}]


@pytest.mark.parametrize(
    ("place", "field", "value", "message"),
    [
        (
            "images",
            "id",
            None,
            r"ground_truth, images\[0\]: the image's id must be a whole number or text. Received None",
        ),
        ("images", "height", "20", r"ground_truth, images\[0\]: `height` must be a number. Received '20'"),
        ("images", "width", 10**9, r"at most 2\^31 pixels. Received 20 x 1000000000"),
        ("categories", "name", "", r"ground_truth, categories\[0\]: a category must have a name"),
        ("categories", "id", "1", r"ground_truth, categories\[0\]: the category's `id` must be a number. Received '1'"),
        ("annotations", "area", float("nan"), r"ground_truth, annotations\[0\]: `area` must be a finite number"),
        ("annotations", "iscrowd", 5, r"ground_truth, annotations\[0\]: `iscrowd` must be 0 or 1. Received 5"),
        ("annotations", "segmentation", [[1e8, 0, 5, 5, 0, 5]], r"each coordinate must be .* Received 100000000.0"),
        ("annotations", "segmentation", [[1, 2, 3]], r"must be run lengths or a list of polygons"),
        ("annotations", "segmentation", {"size": [20, 30], "counts": [5]}, r"must sum to 20 x 30. Received a sum of 5"),
        ("detections", "score", float("nan"), r"detections\[0\]: `score` must be a finite number. Received nan"),
        (
            "detections",
            "bbox",
            [1, 2, 3],
            r"detections\[0\]: `bbox` must be \[x, y, width, height\]. Received \[1, 2, 3\]",
        ),
        ("detections", "bbox", [1, 2, -3, 4], r"each number of `bbox` must be .* Received -3"),
        ("detections", "segmentation", {"size": [20, 30.0], "counts": "0"}, r"of its image's size, \[20, 30\]"),
        (
            "detections",
            "segmentation",
            {"size": [20, 30], "counts": "PPPPPPPP"},
            r"detections\[0\]: its run lengths cannot",
        ),
        ("detections", "category_id", {}, r"detections\[0\]: `category_id` must be a whole number"),
        ("detections", "image_id", [1], r"detections\[0\]: the image's id must be a whole number or text"),
    ],
)
def test_an_entry_that_cannot_be_counted_is_named(place, field, value, message):
    truth, detections = tables()
    assert coco_metrics(truth, detections)["segm_AP"] == pytest.approx(1.0)
    table = detections if place == "detections" else truth[place]
    table[0][field] = value
    before = copy.deepcopy((truth, detections))
    with pytest.raises(ValueError, match=message):
        coco_metrics(truth, detections)
    assert repr((truth, detections)) == repr(before)


@pytest.mark.parametrize("table", [None, {}, "x"])
def test_tables_are_lists(table):
    truth, detections = tables()
    with pytest.raises(ValueError, match="detections must be a list. Received"):
        coco_metrics(truth, table)
    with pytest.raises(ValueError, match="ground_truth must be a dictionary with images, .* Read a COCO instances"):
        coco_metrics([table], detections)
    with pytest.raises(ValueError, match="ground_truth, images must be a list. Received"):
        coco_metrics(truth | {"images": table}, detections)
    with pytest.raises(ValueError, match="ids must be unique. Received 7 twice"):
        coco_metrics(truth | {"images": truth["images"] * 2}, detections)


@pytest.mark.parametrize(
    ("given", "received"), [([1, 2, 2] * 16, "48 numbers"), ([], "0 numbers"), ("x", "'x'"), (None, "None")]
)
def test_keypoints_are_those_of_a_person_unless_tolerances_are_given(given, received):
    truth, detections = tables()
    truth["annotations"][0] |= {"keypoints": [10, 9, 2] * 17, "num_keypoints": 17}
    for entry, place in ((truth["annotations"][0], "ground_truth, annotations"), (detections[0], "detections")):
        detections[0]["keypoints"] = [10, 9, 2] * 17
        entry["keypoints"] = given
        message = f"{place}\\[0\\]: `keypoints` must be .* each of 17 keypoints.* Received {received}.*keypoint_sigmas"
        with pytest.raises(ValueError, match=message):
            coco_metrics(truth, detections, iou_types=("keypoints",))
        entry["keypoints"] = [10, 9, 2] * 17
    assert coco_metrics(truth, detections, iou_types=("keypoints",))["keypoints_AP"] == pytest.approx(1.0)


def test_fields_of_other_tools_and_numpy_do_not_disturb_the_count():
    truth, detections = tables()
    plain = coco_metrics(truth, detections)
    truth["annotations"][0] |= {"id": "one", "tags": [[1]], "ignore": 0, "iscrowd": None}
    detections[0] |= {"bbox": np.array([5.0, 4, 10, 10]), "score": np.float32(0.9), "image_id": np.int64(7), "note": {}}
    assert coco_metrics(truth, detections) == plain


def test_runs_written_as_whole_floats_count_as_whole_numbers():
    """JSON of other tools has 9.0 for 9; compiled code takes integers only."""
    truth, detections = tables()
    size = [truth["images"][0][side] for side in ("height", "width")]
    runs = [size[0] * 4, size[0] * 5, size[0] * (size[1] - 9)]
    truth["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": size, "counts": runs}}
    whole = coco_metrics(truth, detections)
    truth["annotations"][0]["segmentation"] = {"size": size, "counts": [float(run) for run in runs]}
    assert coco_metrics(truth, detections) == whole
    assert truth["annotations"][0]["segmentation"]["counts"] == runs  # the caller's tables are left alone
