"""Fields of annotation files: numbers, flags, ids, names and what is counted as notes."""

import math

import pytest

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation


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
