"""A short fuzz of every door that needs no model, in children; all doors and more cases are marked slow."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry import rle

from . import children, doors, inputs, judge, seeds

# Seeded by Hypothesis from the test's name, so that every run tries the same.
SAME_EACH_TIME = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(-3, 70))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=5)),
    max_leaves=12,
)


def fuzz(*arguments):
    """Run the fuzzer in a process of its own, which imports no framework where no door needs it; it finds nothing."""
    words = [sys.executable, "-m", "tests.fuzz.run", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(
        zip(("accepted", "clear"), map(int, re.search(r"\| all \| \d+ \| (\d+) \| (\d+)", done.stdout).groups()))
    )
    total = sum(counts.values())
    assert min(counts.values()) > 0.25 * total  # neither all valid nor all garbage


@pytest.mark.parametrize("kind", list(seeds.DATASETS))
def test_unchanged_datasets_are_accepted(kind, tmp_path):
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        found = children.run_case(kind, f"valid-{number}", tmp_path / str(number), kept=[])
        assert (found["outcome"], found.get("message")) == ("accepted", None)


def test_a_short_fuzz_finds_nothing():
    names = [name for name, door in doors.DOORS.items() if not door.models]
    fuzz("--cases", 500, "--seed", 20261126, "--door", *names)


@pytest.mark.slow
def test_a_long_fuzz_finds_nothing():
    fuzz("--cases", 20000, "--seed", 20261127, "--jobs", 2)


@pytest.mark.parametrize("part", ["images", "annotations", "categories", "segmentation", "counts", "bbox"])
@settings(max_examples=40, **SAME_EACH_TIME)
@given(value=JSON)
def test_any_json_in_a_coco_file_is_read_or_refused_clearly(part, value):
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": seeds.HEIGHT, "width": seeds.WIDTH}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [seeds.SQUARE]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        if part in content:
            content[part] = [value]
        elif part == "counts":
            content["annotations"][0]["segmentation"] = {"size": [seeds.HEIGHT, seeds.WIDTH], "counts": value}
        else:
            content["annotations"][0][part] = value
        case = inputs.Case({"a.png": seeds.picture(0), "coco.json": content}, "coco.json", mutated=False)
        path = inputs.write(case, folder, 0)
        try:
            doors.DOORS["coco"].enter(case, path)
        except Exception as error:
            assert judge.outcome_of(error, doors.mentions(case, path)) == ("clear", "")


@settings(max_examples=60, **SAME_EACH_TIME)
@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_run_lengths_are_those_of_pycocotools(mask):
    code = coco_mask.encode(np.asfortranarray(mask))
    runs = rle.parse_counts(code["counts"])
    assert runs.sum() == mask.size
    box = (0, 0, mask.shape[1], mask.shape[0])
    np.testing.assert_array_equal(rle.decode_window(runs, mask.shape[0], box), mask)
    np.testing.assert_array_equal(rle.encode_window(mask, 0, 0, *mask.shape), runs)


@settings(max_examples=200, **SAME_EACH_TIME)
@given(counts=st.one_of(st.text(max_size=20), st.binary(max_size=20), JSON))
def test_any_run_lengths_are_parsed_or_refused_clearly(counts):
    try:
        runs = rle.parse_counts(counts)
    except Exception as error:
        assert judge.outcome_of(error, ()) == ("clear", "")
    else:
        assert runs.dtype == np.int64 and runs.ndim == 1 and (runs >= 0).all()


# The fuzzer itself ----------------------------------------------------------------------------------------------


def test_a_case_is_the_same_each_time():
    for name in ("coco", "image", "voc", "rle"):
        first, second = (doors.DOORS[name].make(f"again-{name}") for _ in range(2))
        assert json.dumps(first.files, default=repr) == json.dumps(second.files, default=repr)
        assert str(first.options) == str(second.options)


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        ("kill", "crash"),
        ("sleep", "hang"),
        ("take", "memory"),
        ("raise", "unclear"),
        ("refuse", "clear"),
        ("lie", "wrong"),
        ("work", "accepted"),
    ],
)
def test_every_outcome_is_seen_and_the_other_cases_go_on(does, outcome, monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 0.5 if does == "sleep" else 30)
    # A child begins with the memory of this process, whatever ran here before; one takes 800 MB more.
    monkeypatch.setattr(children, "MEMORY", children._resident(os.getpid()) + 400 * 2**20)
    monkeypatch.setitem(
        doors.DOORS, "odd", doors.Door(lambda seed, kept=None: inputs.Case({}), _odd(does), named=False)
    )
    monkeypatch.setitem(doors.DOORS, "fine", doors.Door(lambda seed, kept=None: inputs.Case({}), _odd("work")))
    found = []
    children.run_all([("fine", "1"), ("odd", "2"), ("fine", "3")], 1, 10, lambda *one: found.append(one))
    assert sorted((seed, result["outcome"]) for _, seed, result in found) == [
        ("1", "accepted"),
        ("2", outcome),
        ("3", "accepted"),
    ]


def _odd(does):
    def enter(case, path):
        if does == "kill":
            import ctypes

            ctypes.string_at(0)
        elif does == "sleep":
            while True:
                pass
        elif does == "take":
            data = np.ones(800 * 2**20, np.uint8)
            while data.any():
                pass
        elif does == "raise":
            {}["key"]
        elif does == "lie":
            raise judge.Wrong("a mask outside the image")
        elif does == "refuse":
            rle.parse_counts([3, -1])

    return enter
