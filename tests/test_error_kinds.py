"""Kinds of errors: planted by hand, and beside tidecv's figures of perturbed detections of real images."""

import json
import pathlib

import numpy as np
import pytest
from perturbed import perturbed
from planted_errors import plant_errors

from keras_maskrcnn.evaluation import coco_metrics, curves, error_kinds, match_detections
from keras_maskrcnn.evaluation.errors import KINDS

SHARED = pathlib.Path(__file__).parents[2] / "shared"
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "tide_figures.json").read_text())
NAMES = {
    "class": "Cls", "localisation": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg", "missed": "Miss",
    "false positives": "FalsePos", "false negatives": "FalseNeg",
}  # fmt: skip
SIDE = 40  # of a square object


def square(x, y=20, side=SIDE, image_id=1, category=1, **more):
    """An annotation or a result: a filled square as box and polygon-free run lengths of a 100 x 400 image."""
    from pycocotools import mask as rle

    mask = np.zeros((100, 400), np.uint8)
    mask[y : y + side, x : x + side] = 1
    code = rle.encode(np.asfortranarray(mask))
    entry = {"image_id": image_id, "category_id": category, "bbox": [float(x), float(y), float(side), float(side)]}
    segmentation = {"size": [100, 400], "counts": code["counts"].decode()}
    return entry | {"area": float(side * side), "iscrowd": 0, "segmentation": segmentation} | more


def truth_of(annotations, images=1, classes=(1, 2)):
    return {
        "images": [{"id": k + 1, "height": 100, "width": 400} for k in range(images)],
        "annotations": [one | {"id": k} for k, one in enumerate(annotations, start=1)],
        "categories": [{"id": key, "name": f"class {key}"} for key in classes],
    }


def errors_of(annotations, found, iou_type="segm", iou=0.5, **more):
    return error_kinds(match_detections(truth_of(annotations, **more), found, iou_type, iou))


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (4, 5))])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_fifty_planted_errors_of_each_kind_land_in_their_kind(iou_type, seed):
    # One image for each, with a right detection beside it. A square moved by half its side overlaps by 1/3.
    rng = np.random.default_rng(seed)
    annotations, found, planted = [], [], []
    kinds = rng.permutation(np.repeat(KINDS, 50))
    for image_id, kind in enumerate(kinds, start=1):
        own, other = rng.permutation([1, 2]).tolist()
        near, far = int(rng.integers(20, 60)), 300
        place, where = {"image_id": image_id, "category": own}, {"image_id": image_id, "category": other}
        annotations += [square(near, **place), square(far, **where)]
        found.append(square(far, **where, score=0.5))
        if kind != "missed":
            score = float(rng.uniform(0.6, 1.0))
            wrong = {
                "class": (near + 2, where),
                "localisation": (near + SIDE // 2, place),
                "both": (near + SIDE // 2, where),
                "duplicate": (near, place),
                "background": (180, place),
            }
            x, what = wrong[kind]
            found.append(square(x, **what, score=score))
        if kind in ("duplicate", "background"):
            found.append(square(near, **place, score=1.5))
        planted.append(kind)
    errors = errors_of(annotations, found, iou_type, images=len(kinds))
    matches = errors.matches
    assert errors.counts == {kind: 50 for kind in KINDS} | {"missed": 50 + 50}  # class and place wrong: missed, too
    for row in range(len(matches.row)):
        expected = planted[matches.image[row]] if found[matches.row[row]]["score"] not in (0.5, 1.5) else ""
        assert errors.kind[row] == expected
    for place in np.flatnonzero(errors.missed):
        assert planted[matches.gt_image[place]] in ("missed", "both")
    assert all(errors.costs[kind] > 0.005 for kind in KINDS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_errors_planted_among_real_objects_land_in_their_kind(seed):
    """50 of each kind in perfect detections of 160 photos."""
    truth = {"images": [], "annotations": []}
    for part in ("train", "val"):
        path = SHARED / "data" / "coco_tiny" / "annotations" / f"instances_{part}2017.json"
        if not path.exists():
            pytest.skip("needs ../shared/data/coco_tiny")
        content = json.loads(path.read_text())
        truth = {name: entries + content[name] for name, entries in truth.items()}
        truth["categories"] = content["categories"]
    found, planted, missed, both = plant_errors(truth, 50, seed)
    for iou_type in ("segm", "bbox"):
        errors = error_kinds(match_detections(truth, found, iou_type))
        matches = errors.matches
        told = dict(zip(matches.row.tolist(), errors.kind.tolist(), strict=True))
        assert [(row, kind) for row, kind in sorted(told.items()) if kind != planted[row]] == [], iou_type
        assert {truth["annotations"][row]["id"] for row in matches.gt_row[errors.missed]} == {*missed, *both}
        assert errors.counts == {kind: 50 for kind in KINDS} | {"missed": 100}


def test_costs_by_hand():
    # Two objects of a class. One is found (score 0.9). The other is found too far right (0.8): precision 1 up to
    # recall 1/2, which are 51 of 101 points; corrected, AP is 1. The background detection (0.95) comes first: 1/2.
    annotations = [square(20), square(120)]
    found = [square(20, score=0.9), square(140, score=0.8)]
    errors = errors_of(annotations, found)
    assert errors.ap == pytest.approx(51 / 101)
    assert errors.costs == pytest.approx(
        {kind: 0 for kind in NAMES} | {"localisation": 50 / 101, "false negatives": 50 / 101}
    )
    assert list(errors.kind) == ["", "localisation"] and list(errors.target) == [-1, 1]
    errors = errors_of(annotations, [*found, square(300, score=0.95)])
    assert errors.ap == pytest.approx(51 / 101 / 2)
    assert errors.costs["background"] == errors.costs["false positives"] == pytest.approx(51 / 101 / 2)
    assert errors.costs["localisation"] == pytest.approx((101 * 2 / 3 - 51 / 2) / 101)  # precision 2/3 everywhere


def test_only_the_best_detection_for_an_object_is_corrected():
    # Both overlap the object by 1/3. Correcting both would make two right detections of one object.
    errors = errors_of([square(120)], [square(140, score=0.8), square(100, score=0.7)])
    assert errors.counts == {kind: 0 for kind in KINDS} | {"localisation": 2}
    assert errors.ap == 0 and errors.costs["localisation"] == 1.0


def test_detections_in_crowd_regions_are_no_errors():
    crowd = square(200, side=60) | {"iscrowd": 1}
    found = [square(20, score=0.9), square(205, score=0.95), square(210, category=2, score=0.3)]
    errors = errors_of([square(20), crowd], found)
    assert list(errors.kind) == ["", "", "background"] and list(errors.matches.ignored) == [True, False, False]
    assert errors.ap == 1.0 and not errors.missed.any()


def test_classes_without_objects_change_no_average():
    found = [square(20, score=0.9), square(200, category=2, score=0.95)]
    errors = errors_of([square(20)], found)
    assert errors.ap == 1.0 and errors.counts["background"] == 1 and errors.costs["background"] == 0


@pytest.mark.parametrize("annotations", [[], [square(20) | {"iscrowd": 1}]])
def test_without_objects_there_is_no_average(annotations):
    errors = errors_of(annotations, [square(200, score=0.5)])
    assert errors.ap == -1 and errors.costs == {} and errors.counts["background"] == 1
    assert error_kinds(match_detections(truth_of([], images=0), [])).counts == {kind: 0 for kind in KINDS}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"iou_type": "keypoints"}, 'iou_type must be "bbox" or "segm". Received: \'keypoints\''),
        ({"iou": 0}, "iou must be above 0 and at most 1. Received: 0"),
        ({"max_detections": 0}, "max_detections must be at least 1. Received: 0"),
    ],
)
def test_arguments_out_of_range_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        match_detections(truth_of([]), [], **keywords)
    with pytest.raises(ValueError, match="below the IoU of a match, 0.5. Received: 0.5"):
        error_kinds(match_detections(truth_of([]), []), background_iou=0.5)


@pytest.mark.parametrize("part", ["train", "val"])
def test_figures_are_those_of_tidecv(part, monkeypatch):
    path = SHARED / "data" / "coco_tiny" / "annotations" / f"instances_{part}2017.json"
    if not path.exists():
        pytest.skip("needs ../shared/data/coco_tiny")
    truth = json.loads(path.read_text())
    cases = [case for case in GOLDEN if case["part"] == part]
    if not cases[0]["crowds"]:
        truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
    found = perturbed(truth, cases[0]["seed"])
    coco = coco_metrics(truth, found)
    for case in cases:
        matches = match_detections(truth, found, case["iou_type"], case["iou"])
        monkeypatch.setattr(curves, "RECALLS", np.linspace(0, 1, 101))
        errors = error_kinds(matches)
        assert matches.ignored.sum() == case["ignored"]
        assert errors.counts == {kind: case["counts"][NAMES[kind]] for kind in KINDS}
        for name, value in {"ap": errors.ap, **errors.costs}.items():
            assert 100 * value == pytest.approx(case[NAMES.get(name, name)], abs=0.01), (case, name)
        # COCO's figures to the last digit; tidecv reads precision at other roundings of 0.01, 0.02, ...
        assert errors.ap == pytest.approx(coco[f"{case['iou_type']}_AP{case['iou'] * 100:.0f}"], abs=1e-12)
        monkeypatch.setattr(curves, "RECALLS", np.arange(101) / 100)
        errors = error_kinds(matches)
        for name, value in {"ap": errors.ap, **errors.costs}.items():
            assert 100 * value == pytest.approx(case[NAMES.get(name, name)], abs=1e-9), (case, name)


def test_no_public_name_is_hidden_by_a_module():
    # Importing a module sets its name in the package, and would replace a function of that name.
    import keras_maskrcnn.evaluation as evaluation

    modules = {path.stem for path in pathlib.Path(evaluation.__file__).parent.glob("*.py")}
    assert not modules & set(evaluation.__all__)
    assert all(callable(getattr(evaluation, name)) for name in evaluation.__all__ if "evaluat" not in name.lower())
    with pytest.raises(AttributeError, match="no attribute 'error_sorts'"):
        evaluation.error_sorts  # noqa: B018
