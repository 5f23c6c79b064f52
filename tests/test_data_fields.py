"""Fields of annotation files: numbers, flags, ids, names and what is counted as notes."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn.data import ArrayDataset, CocoDataset
from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.evaluation.figures import coco_metrics


def problem_of(function, *args, **keywords):
    with pytest.raises(FaultyAnnotation) as caught:
        function(*args, **keywords)
    problem, remedy = caught.value.args
    assert problem.endswith(".") and remedy.endswith(".")
    return problem


@pytest.mark.parametrize(
    "value, keywords, expected",
    [
        (3, {}, 3.0),
        (-2.5, {}, -2.5),
        ("1600", {}, 1600.0),
        (" 1.5e3 ", {}, 1500.0),
        (".5", {"least": 0, "most": 1}, 0.5),
        (640.0, {"whole": True, "least": 1}, 640),
        ("640", {"whole": True, "least": 1}, 640),
        (2**60 + 1, {"whole": True}, 2**60 + 1),
    ],
)
def test_numbers_are_read(value, keywords, expected):
    found = fields.number(value, "`width`", **keywords)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [None, True, False, math.nan, math.inf, -math.inf, "", "nan", "inf", "1_000", "12px", "0x10", "1,5", "١", [3], {}]
    + [10**400, "9" * 401, "1e999", b"3"],
)
def test_what_is_no_finite_number_is_named(value):
    problem = problem_of(fields.number, value, "`area`")
    assert problem.startswith("`area` must be a finite number. Received ") and len(problem) < 120


@pytest.mark.parametrize(
    "value, keywords, words",
    [
        (0, {"least": 1, "whole": True}, "`width` must be a whole number of at least 1. Received 0."),
        (2.5, {"whole": True}, "`width` must be a whole number. Received 2.5."),
        (2, {"least": 0, "most": 1}, "`width` must be a finite number from 0 to 1. Received 2."),
        (2, {"most": 1}, "`width` must be a finite number of at most 1. Received 2."),
    ],
)
def test_numbers_out_of_range_are_named(value, keywords, words):
    assert problem_of(fields.number, value, "`width`", **keywords) == words


def test_text_read_as_a_number_is_counted_in_one_note():
    notes = fields.Notes()
    for entry in range(3):
        fields.number("12", "`area`", note=lambda what, entry=entry: notes.add(what, f"annotation {entry}"))
    fields.number(12, "`area`", note=pytest.fail)
    notes.add("left out", "image 3")
    assert notes.sentences("a.json") == [
        "a.json: `area` is text and was read as a number (annotation 0 and 2 more).",
        "a.json: left out (image 3).",
    ]


def test_flags_are_zero_or_one():
    assert [fields.flag(value, "`iscrowd`") for value in (None, 0, 1, True, False, 1.0, "1", "0")] == [
        False, False, True, True, False, True, True, False,
    ]  # fmt: skip
    for value in (2, -1, "yes", "true", [1], 0.5, math.nan):
        assert problem_of(fields.flag, value, "`iscrowd`").startswith("`iscrowd` must be 0 or 1. Received ")


def test_names_are_one_line():
    for name in ("cell", "Zürich 東京\u3000駅", " a ", "🍃"):
        assert fields.class_name(name) == name
    for name in ("", "  ", None, 5, True, ["a"], "a\nb", "a\tb", "a\u2028b", "\ud800", "a\0"):
        assert "must have a name: one line of text" in problem_of(fields.class_name, name)


def test_texts_are_not_empty():
    assert fields.text("a.png", "`file_name`") == "a.png"
    for value in ("", " ", None, 3, ["a.png"], "a\0.png"):
        assert problem_of(fields.text, value, "`file_name`").startswith("`file_name` must be text that is not empty")


def test_ids_are_whole_numbers_or_text_and_each_is_there_once():
    ids = fields.Identifiers("images")
    assert [ids.add(value) for value in (1, "a", -3, 5.0, "07", 2**70)] == [1, "a", -3, 5, "07", 2**70]
    assert ids.add(7) == 7 and ids.add("007") == "007"  # other ids than "07"
    for value in (1, 1.0, "1", "a", 5, "5", "-3", "7"):
        assert f"the id {value if value != 1.0 else 1} is used twice among the images" in problem_of(ids.add, value)
    assert problem_of(ids.add, "1").endswith("as 1 and as '1'.")
    for value in (None, True, 1.5, "", " ", [1], {}, math.nan, "a\nb"):
        assert problem_of(ids.add, value).startswith("`id` must be a whole number or text. Received ")


def test_references_find_ids_in_either_form():
    ids = fields.Identifiers("images")
    for value in (1, "7", "x", 139):
        ids.add(value)
    found = [ids.find(value) for value in (1, "1", 1.0, 7, "7", "x", "000139")]
    assert found == [1, 1, 1, "7", "7", "x", 139] and isinstance(found[3], str)
    assert [ids.find(value) for value in (2, "2", None, True, 1.5, [1], {}, math.nan)] == [None] * 8


def test_received_values_are_shortened():
    assert fields.shown("a" * 100) == "'" + "a" * 59 + "..."
    assert fields.shown([1] * 100) == "[1, 1, 1, 1, 1, 1, 1, 1]"
    assert fields.shown([[1] * 10**6]).startswith("a list of 1: [1, 1") and len(fields.shown([[1] * 10**6])) < 70
    assert fields.shown({"size": 1, "counts": 2}) == "{'size', 'counts'}"


# COCO files ------------------------------------------------------------------------------------------------------


def content():
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "area": 36.0,
                "bbox": [2, 3, 6, 6],
                "segmentation": [[2, 3, 8, 3, 8, 9, 2, 9]],
            }
            for number in (1, 2)
        ],
        "categories": [{"id": 1, "name": "leaf"}, {"id": 2, "name": "stem"}],
    }


@pytest.fixture
def opened(tmp_path):
    """Writes two images and the content, with the first entry of one list changed; returns the dataset."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 30, 3), 50, np.uint8)).save(tmp_path / name)

    def open_with(kind=None, changes=None, data=None, **keywords):
        data = content() if data is None else data
        if isinstance(changes, dict):
            data[kind][0].update(changes)
        elif kind is not None:
            data[kind][0] = changes
        (tmp_path / "a.json").write_text(json.dumps(data))
        return CocoDataset(tmp_path / "a.json", tmp_path, **keywords)

    return open_with


BAD = {"list": [1], "dict": {}, "true": True, "text": "x", "nan": math.nan, "infinite": math.inf, "half": 0.5}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("field", ["id", "image_id", "category_id", "iscrowd", "bbox", "score"])
def test_no_value_of_an_annotation_is_trusted(opened, field, name):
    value = BAD[name]
    if (field, name) in {("id", "text"), ("iscrowd", "true"), ("score", "half")}:
        assert len(opened("annotations", {field: value}).records[0].instances) == 1
        return
    entry = "annotation number 0" if field == "id" else "annotation 1"
    with pytest.raises(ValueError, match=rf"a\.json must have no faults. Received 1:\n  {entry}") as caught:
        opened("annotations", {field: value})
    assert "Received " in str(caught.value).split(entry)[1]
    with pytest.warns(UserWarning, match="Left out 1 faulty"):
        dataset = opened("annotations", {field: value}, on_error="skip")
    assert [len(record.instances) for record in dataset.records] == [0, 1]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("field", ["id", "file_name", "height", "width"])
def test_no_value_of_an_image_is_trusted(opened, field, name):
    value = BAD[name]
    if (field, name) == ("id", "text"):
        value = ""
    entry = "image number 0" if field == "id" and name != "text" else "image "
    with pytest.raises(ValueError, match=rf"a\.json must have no faults. Received \d:\n  {entry}"):
        opened("images", {field: value})
    with pytest.warns(UserWarning, match="Left out"):
        dataset = opened("images", {field: value}, on_error="skip")
    assert dataset.image_ids == [2] and len(dataset.records[0].instances) == 1


@pytest.mark.parametrize("value", [0, -1, -1.0, None, "-5", "", 10**400, 1e300])
def test_sides_are_positive_whole_numbers_of_possible_images(opened, value):
    with pytest.raises(ValueError, match=r"Received 1:\n  image 1 \(a\.png\): "):
        opened("images", {"width": value})


def test_sides_as_text_or_float_are_read(opened):
    assert opened("images", {"height": 20.0}).image_sizes == [(20, 30)] * 2
    with pytest.warns(UserWarning, match=r"a side is text and was read as a number \(image 1 \(a\.png\)\)"):
        dataset = opened("images", {"height": "20"})
    assert dataset.image_sizes == [(20, 30)] * 2 and type(dataset[0].height) is int


@pytest.mark.parametrize("value", [[1600], {}, -36, 0, 0.0, math.nan, math.inf, "", "x", True, -(10**400), 10**400])
def test_an_area_that_is_no_positive_number_comes_from_the_mask(opened, value):
    with pytest.warns(UserWarning, match=r"`area` is no positive finite number.*\(annotation 1 of .*a\.png\)"):
        dataset = opened("annotations", {"area": value})
    assert [annotation["area"] for annotation in dataset.to_coco()["annotations"]] == [36, 36]


def test_an_area_as_text_is_read_and_a_missing_one_comes_from_the_mask(opened):
    with pytest.warns(UserWarning, match="`area` is text and was read as a number"):
        assert opened("annotations", {"area": "40.5"}).to_coco()["annotations"][0]["area"] == 40.5
    assert opened("annotations", {"area": None}).to_coco()["annotations"][0]["area"] == 36


def test_boxes_and_flags_as_text_are_read(opened):
    with pytest.warns(UserWarning, match="`bbox` is text"):
        dataset = opened("annotations", {"bbox": ["2", "3", "6", 6]})
    assert dataset[0].instances[0].stated_box == (2, 3, 6, 6)
    with pytest.warns(UserWarning, match="`iscrowd` is text"):
        assert opened("annotations", {"iscrowd": "1"})[0].instances[0].crowd is True


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "x", 3])
def test_lists_that_are_none_end_with_their_name(opened, kind, value):
    with pytest.raises(ValueError, match=rf"a\.json: `{kind}` must be a list. Received "):
        opened(data={**content(), kind: value})


@pytest.mark.parametrize("kind, noun", [("images", "image"), ("annotations", "annotation"), ("categories", "category")])
@pytest.mark.parametrize("value", [None, 3, "x", [1], True])
def test_entries_that_are_no_dictionaries_are_faults(opened, kind, noun, value):
    with pytest.raises(ValueError, match=rf"  {noun} number 0: it must be a dictionary. Received .* Remove it\."):
        opened(kind, value)


@pytest.mark.parametrize("name", ["", " ", 5, True, ["leaf"], "two\nlines", "\ud800", "tab\there"])
def test_categories_need_names_of_one_line(opened, name):
    with pytest.raises(ValueError, match="  category 1: a category must have a name: one line of text"):
        opened("categories", {"name": name})
    with pytest.warns(UserWarning, match="Left out 3"):  # and both annotations of this class
        dataset = opened("categories", {"name": name}, on_error="skip")
    assert dataset.class_names == ("stem",) and not any(record.instances for record in dataset.records)
    with pytest.raises(ValueError, match="each of class_names must have a name: one line"):
        opened(class_names=["leaf", "stem", name] if isinstance(name, (str, int)) else ["leaf", "stem", "a\nb"])


def test_ids_may_be_text_but_not_both(opened):
    data = content()
    for entry in data["images"]:
        entry["id"] = f"img{entry['id']}"
    for entry in data["annotations"]:
        entry |= {"id": f"ann{entry['id']}", "image_id": f"img{entry['image_id']}"}
    dataset = opened(data=data)
    assert dataset.image_ids == ["img1", "img2"] and dataset[0].instances[0].annotation_id == "ann1"
    data["images"][0]["id"], data["annotations"][0]["image_id"] = "2", "2"
    data["images"][1]["id"], data["annotations"][1]["image_id"] = 5, 5
    truth = opened(data=data).to_coco()  # with one id that is text and one that is a number
    found = [{**annotation, "score": 0.9} for annotation in truth["annotations"]]
    assert coco_metrics(truth, found, iou_types=("bbox",))["bbox_AP"] == 1.0
    data["images"][1]["id"], data["annotations"][1]["image_id"] = 2, 2
    with pytest.raises(ValueError, match=r"image 2 \(b\.png\): the id 2 is used twice .* as '2' and as 2"):
        opened(data=data)


def test_references_as_text_mean_the_numbers(opened):
    with pytest.warns(UserWarning, match=r"`image_id` is text where the ids of `images` are numbers.*\(annotation 1\)"):
        dataset = opened("annotations", {"image_id": "1"})
    assert dataset.image_ids == [1, 2] and len(dataset[0].instances) == 1
    with pytest.warns(UserWarning, match="`category_id` is text where the ids of `categories` are numbers"):
        assert opened("annotations", {"category_id": "2"})[0].instances[0].label == 1


def test_category_ids_as_text_become_numbers(opened):
    data = content()
    data["categories"] = [{"id": "7", "name": "leaf"}, {"id": "stem", "name": "stem"}, {"id": 3, "name": "root"}]
    data["annotations"][0]["category_id"], data["annotations"][1]["category_id"] = "stem", 7
    with pytest.warns(UserWarning, match="category ids that are text became numbers: '7' became 7, 'stem' became 8"):
        dataset = opened(data=data)
    assert dataset.category_ids == (3, 7, 8) and dataset.class_names == ("root", "leaf", "stem")
    assert [annotation["category_id"] for annotation in dataset.to_coco()["annotations"]] == [8, 7]
    data["categories"][2]["id"] = 7
    with pytest.raises(ValueError, match="category 7: the id 7 is used twice among the categories, as '7' and as 7"):
        opened(data=data)


def test_an_image_without_file_name_takes_the_end_of_its_url(opened, tmp_path):
    (tmp_path / "train2017").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "train2017" / "000000000009.jpg")
    data = content()
    del data["images"][0]["file_name"]
    data["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000009.jpg"
    assert opened(data=data)[0].source == tmp_path / "train2017" / "000000000009.jpg"


# Arrays, and class names of any dataset ------------------------------------------------------------------------


@pytest.mark.parametrize("label", [0.5, math.nan, True, "0", None, [0], -1, 1])
def test_labels_of_arrays_are_whole_numbers(label):
    image, mask = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), bool)
    with pytest.raises(ValueError, match=r"Labels must lie in 0\.\.0.*object 0 of image 1"):
        ArrayDataset([image], [[mask]], [[label]])
    assert ArrayDataset([image], [[mask]], [[np.int64(0)]])[0].instances[0].label == 0


def test_masks_of_arrays_are_finite():
    mask = np.ones((20, 30))
    mask[3, 4] = math.nan
    with pytest.raises(ValueError, match="object 0 of image 1: a mask must hold finite numbers"):
        ArrayDataset([np.zeros((20, 30, 3), np.uint8)], [[mask]])


def test_other_fields_that_json_cannot_hold_are_left_out_with_a_note(tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [square | {"depth": math.nan, "pose": {"z": [1.0, math.inf]}, "view": "left", "turn": 0.5}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="the field '(depth|pose)' holds NaN or infinity, which JSON does not have"):
        dataset = CocoDataset(tmp_path / "a.json", tmp_path)
    assert dataset[0].instances[0].attributes == {"view": "left", "turn": 0.5}
    assert json.loads(json.dumps(dataset.to_coco(), allow_nan=False))["annotations"][0]["view"] == "left"
