"""Tables of COCO's size: the quick look accepts nothing that is wrong, and parts give the figures of the whole."""

import copy
import functools

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from test_evaluation import random_scene, results_of

from keras_maskrcnn.evaluation import coco_metrics, figures
from keras_maskrcnn.evaluation.columns import detections_are_right
from keras_maskrcnn.evaluation.tables import check_tables
from keras_maskrcnn.geometry import rle

BOTH = ("bbox", "segm")


def scene(seed=0):
    """Ground truth, results with codes of text, and image sizes by id."""
    return copy.deepcopy(made_scene(seed))


@functools.cache
def made_scene(seed):
    dataset, found = random_scene(seed)
    results = results_of(dataset, found)
    for result in results:
        result["segmentation"] = {"size": list(dataset.size), "counts": result["segmentation"]["counts"].decode()}
    return dataset.to_coco(), results, dict.fromkeys(dataset.image_ids, dataset.size)


def test_plain_tables_are_accepted():
    _, results, sizes = scene()
    assert len(results) > 50 and detections_are_right(results, sizes, BOTH)
    assert detections_are_right([], sizes, BOTH)
    only_boxes = [{key: one[key] for key in ("image_id", "category_id", "score", "bbox")} for one in results]
    assert detections_are_right(only_boxes, sizes, ("bbox",)) and not detections_are_right(only_boxes, sizes, BOTH)
    results[3]["segmentation"]["counts"] = results[3]["segmentation"]["counts"].encode()
    results[4]["segmentation"]["size"] = tuple(results[4]["segmentation"]["size"])
    results[5]["score"] = 1
    assert detections_are_right(results, sizes, BOTH)


WRONG = [
    ("image_id", 10**6), ("image_id", None), ("image_id", True), ("image_id", [100]), ("category_id", "3"),
    ("category_id", 1.5), ("category_id", 10**400), ("score", float("nan")), ("score", float("inf")), ("score", "0.5"),
    ("score", True), ("score", None), ("score", 10**400), ("bbox", [1, 2, 3]), ("bbox", [1, 2, -3, 4]),
    ("bbox", [1, 2, 3, float("nan")]), ("bbox", [2e6, 2, 3, 4]), ("bbox", "abcd"), ("bbox", None),
    ("bbox", [1, 2, 3, "4"]), ("bbox", [[1], 2, 3, 4]), ("segmentation", None), ("segmentation", [[1, 2, 3, 4, 5, 6]]),
    ("segmentation", {"size": [200, 200]}), ("segmentation", {"size": [200, 201], "counts": "PlW1"}),
    ("segmentation", {"size": [200.0, 200], "counts": "PlW1"}), ("segmentation", {"size": [200, 200], "counts": ""}),
    ("segmentation", {"size": [200, 200], "counts": "P"}), ("segmentation", {"size": [200, 200], "counts": "é"}),
    ("segmentation", {"size": [200, 200], "counts": "PlW"}), ("segmentation", {"size": [200, 200], "counts": [40000]}),
    ("segmentation", {"size": [200, 200], "counts": "PPPPPPPPPPPP0"}),
    ("segmentation", {"size": [200, 200], "counts": "O1"}),  # a run of -1
]  # fmt: skip


@pytest.mark.parametrize("field, value", WRONG, ids=[f"{k}-{field}" for k, (field, _) in enumerate(WRONG)])
@pytest.mark.parametrize("place", [0, -1])
def test_what_the_slow_check_names_is_not_accepted(field, value, place):
    truth, results, sizes = scene()
    results[place] = results[place] | {field: value}
    assert not detections_are_right(results, sizes, BOTH)
    with pytest.raises(ValueError, match=rf"detections\[{place % len(results)}\]: "):
        check_tables(truth, results, BOTH)


@pytest.mark.parametrize("entry", [None, [], "text", {}, {"image_id": 100}])
def test_other_entries_are_not_accepted(entry):
    truth, results, sizes = scene()
    assert not detections_are_right([*results, entry], sizes, BOTH)
    with pytest.raises(ValueError, match=rf"detections\[{len(results)}\]: "):
        check_tables(truth, [*results, entry], BOTH)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_codes_are_accepted_by_both_checks_or_by_none(seed):
    rng = np.random.default_rng(seed)
    truth, results, sizes = scene()
    place = int(rng.integers(len(results)))
    code = results[place]["segmentation"]
    for _ in range(40):
        text = bytearray(code["counts"].encode())
        text[rng.integers(len(text))] = rng.integers(33, 127)
        results[place]["segmentation"] = code | {"counts": text.decode()}
        try:
            right = int(rle.parse_counts(text.decode()).sum()) == 200 * 200
        except ValueError:
            right = False
        assert detections_are_right(results, sizes, BOTH) == right


def test_totals_and_areas_of_many_codes_equal_pycocotools():
    rng = np.random.default_rng(0)
    sizes = [tuple(rng.integers(1, 60, 2)) for _ in range(1200)]
    masks = [(rng.random(size) < rng.choice([0, 0.05, 0.5, 1])).astype(np.uint8) for size in sizes]
    masks[7] = np.zeros((70_000, 1000), np.uint8)  # one run of five characters
    codes = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    totals, areas = rle.totals_and_areas([code["counts"] for code in codes])
    assert totals.tolist() == [mask.size for mask in masks]
    assert areas.tolist() == [int(coco_mask.area(code)) for code in codes]
    assert [len(values) for values in rle.totals_and_areas([])] == [0, 0]


@pytest.mark.parametrize("part", [1, 10, 30])
def test_categories_in_parts_give_the_figures_of_the_whole(monkeypatch, part):
    truth, results, _ = scene(3)
    truth["categories"].append({"id": 1, "name": "kind 8"})  # a name twice, and without objects
    results += [one | {"category_id": 77} for one in results[:3]]  # a category that is not listed
    before = copy.deepcopy((truth, results))
    whole = coco_metrics(truth, results)
    monkeypatch.setattr(figures, "_PART", part)
    counted = []
    monkeypatch.setattr(figures, "_evaluate", lambda *args, count=figures._evaluate: counted.append(1) or count(*args))
    assert coco_metrics(truth, results) == whole and (truth, results) == before
    assert len(counted) == 8 if part == 1 else len(counted) in (4, 6, 8)
    assert whole["segm_AP/kind 8 (id 1)"] == -1 and 0 < whole["segm_AP/kind 8 (id 8)"] < 1
