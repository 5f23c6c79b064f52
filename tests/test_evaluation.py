"""AP of hand-made detections against figures worked out by hand and against pycocotools' own summary."""

import contextlib
import io
import json
import types

import numpy as np
import pytest
from known_answers import ColourModel, KnownDataset, KnownModel, answers_from, rectangle_rle, small_config
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_maskrcnn.data import ArrayDataset, ImageError, read_image
from keras_maskrcnn.evaluation import CocoEvaluator, coco_metrics, evaluate_coco, format_metrics
from keras_maskrcnn.evaluation.coco import category_ids_of, iou_types_of

TWO_KINDS = [
    [(10, 10, 30, 30, 0), (60, 60, 120, 120, 1)],
    [(40, 20, 80, 60, 0)],
    [],
    [(5, 100, 45, 140, 1)],
]


def evaluate(dataset, answers, **keywords):
    config = small_config(len(dataset.category_ids), max_detections=300)
    return evaluate_coco(KnownModel(config, answers), dataset, **keywords)


def test_perfect_detections_score_one_and_sparse_ids_come_back():
    dataset = KnownDataset(TWO_KINDS, category_ids=(7, 90))
    metrics = evaluate(dataset, answers_from(dataset))
    for name in ("AP", "AP50", "AP75", "APs", "APm", "AR10", "AR300", "AP/kind 7", "AP/kind 90"):
        assert metrics[f"bbox_{name}"] == pytest.approx(1.0), name
        assert metrics[f"segm_{name}"] == pytest.approx(1.0), name
    assert metrics["bbox_APl"] == metrics["segm_APl"] == -1  # no object over 96 x 96


def test_a_shift_passes_the_thresholds_below_its_iou():
    # 20 x 20 boxes shifted by 2 along x: IoU = 18 * 20 / (2 * 400 - 360) = 0.818, above 7 of 10 thresholds.
    dataset = KnownDataset([[(10, 10, 30, 30, 0)], [(50, 50, 70, 70, 0)]])
    moved = answers_from(dataset, lambda b: (b[0] + 2, b[1], b[2] + 2, b[3]))
    metrics = evaluate(dataset, moved)
    for kind in ("bbox", "segm"):
        assert metrics[f"{kind}_AP"] == pytest.approx(0.7)
        assert metrics[f"{kind}_AP50"] == metrics[f"{kind}_AP75"] == pytest.approx(1.0)


def test_half_of_the_objects_missing_gives_half_of_the_recall_axis():
    # Precision 1 up to recall 0.5: 51 of pycocotools' 101 recall points.
    dataset = KnownDataset([[(10, 10, 30, 30, 0)], [(50, 50, 70, 70, 0)]])
    found, _ = answers_from(dataset)
    metrics = evaluate(dataset, [found, ([], [], [])])
    assert metrics["segm_AP"] == pytest.approx(51 / 101)
    assert metrics["segm_AR300"] == pytest.approx(0.5)


def test_a_wrong_label_counts_for_nothing():
    dataset = KnownDataset([[(10, 10, 30, 30, 0), (50, 50, 90, 90, 1)]], category_ids=(1, 2))
    ((boxes, scores, labels),) = answers_from(dataset)
    metrics = evaluate(dataset, [(boxes, scores, [1 - label for label in labels])])
    assert metrics["bbox_AP50"] == 0 and metrics["segm_AP50"] == 0


def test_no_detections_at_all_score_zero():
    dataset = KnownDataset(TWO_KINDS, category_ids=(1, 2))
    metrics = evaluate(dataset, [([], [], [])] * len(dataset))
    assert metrics["bbox_AP"] == metrics["segm_AP"] == metrics["segm_AR300"] == 0


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong():
    dataset = KnownDataset([[(10, 10, 30, 30, 0), (50, 50, 150, 150, 0)]], crowd={(0, 1)})
    found = ([(60, 60, 90, 90), (100, 100, 130, 130), (10, 10, 30, 30)], [0.9, 0.8, 0.7], [0, 0, 0])
    assert evaluate(dataset, [found])["segm_AP"] == pytest.approx(1.0)


def test_more_than_a_hundred_objects_count_up_to_the_models_cap():
    grid = [(x, y, x + 8, y + 8, 0) for y in range(0, 150, 10) for x in range(0, 100, 10)]
    dataset = KnownDataset([grid])  # 150 objects
    answers = answers_from(dataset)
    metrics = evaluate(dataset, answers)
    assert metrics["max_detections"] == 300
    assert metrics["segm_AP"] == metrics["segm_AR300"] == pytest.approx(1.0)
    capped = evaluate(dataset, answers, max_detections=100)
    assert capped["segm_AR100"] == pytest.approx(100 / 150)
    assert capped["segm_AP"] == pytest.approx(67 / 101)  # recall points 0, 0.01, ..., 0.66
    assert "count up to 300 detections" in format_metrics(metrics)


def scenes_of_sizes():
    """A dataset of images of several sizes, each of one colour, and what ColourModel has to find in it."""
    sizes = [(30, 40), (64, 64), (33, 20), (20, 31), (64, 10), (30, 30), (64, 60)]
    colours = [11, 22, 33, 44, 55, 66, 77]
    images = [np.full((*size, 3), colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)]
    corners = [(min(w, 1 + c % 30), min(h, 1 + c % 23)) for (h, w), c in zip(sizes, colours, strict=True)]
    masks = [np.zeros((1, *size), np.uint8) for size in sizes]
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[0, :y, : max(1, x - 2)] = 1  # not quite what is found
    labels = [[colour % 3] for colour in colours]
    return ArrayDataset(images, masks, labels, class_names=("a", "b", "c"))


@pytest.mark.parametrize("batch_size", [2, 3, 8])
@pytest.mark.parametrize("free", [False, True])
def test_batches_give_the_figures_of_one_image_at_a_time(batch_size, free):
    dataset = scenes_of_sizes()
    config = small_config(3, class_names=("a", "b", "c"), max_detections=1)
    several, one = ColourModel(config, free), ColourModel(config, free)
    expected = evaluate_coco(one, dataset)
    metrics = evaluate_coco(several, dataset, batch_size=batch_size)
    assert {shape[0] for shape, _ in one.batches} == {1} and max(shape[0] for shape, _ in several.batches) > 1
    del metrics["seconds_per_image"], expected["seconds_per_image"]
    assert metrics == expected and 0 < metrics["segm_AP"] < 1 and metrics["images_at_cap"] == 7


def test_evaluation_names_the_image_that_cannot_be_read_and_the_wrong_batch_size(tmp_path, monkeypatch):
    dataset, config = scenes_of_sizes(), small_config(3, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="batch_size=... must be a whole number of images, at least 1. Received: 0"):
        evaluate_coco(ColourModel(config), dataset, batch_size=0)
    with pytest.raises(ValueError, match="batch_size=... must be a whole number of images, at least 1. Received: -1"):
        CocoEvaluator(dataset, batch_size=-1)
    load = dataset.load_image
    broken = lambda index, *pixels: load(index, *pixels) if index != 3 else read_image(b"broken")  # noqa: E731
    monkeypatch.setattr(dataset, "load_image", broken)
    with pytest.raises(ImageError, match="<6 bytes>"):
        evaluate_coco(ColourModel(config), dataset, batch_size=2)


def test_images_that_fill_the_models_rows_are_counted():
    dataset = KnownDataset([[(10, 10, 30, 30, 0), (40, 40, 60, 60, 0)], [(10, 10, 30, 30, 0)]])
    metrics = evaluate_coco(KnownModel(small_config(max_detections=2), answers_from(dataset)), dataset)
    assert metrics["images_at_cap"] == 1
    assert "can give: 1;" in format_metrics(metrics)
    assert "can give" not in format_metrics(metrics | {"images_at_cap": 0.0})


def random_scene(seed):
    """Ground truth with crowds and a class without objects; detections near, far, doubled and mislabelled."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for _ in range(6):
        corners = rng.integers(0, 120, (rng.integers(0, 15), 2))
        sizes = rng.integers(4, 80, corners.shape)
        labels = rng.integers(0, 2, len(corners))
        boxes = np.concatenate([corners, corners + sizes], axis=1).clip(0, 200)
        objects.append([(*map(int, box), int(k)) for box, k in zip(boxes, labels, strict=True)])
        near = (np.repeat(boxes, 2, axis=0) + rng.integers(-4, 5, (2 * len(boxes), 4))).clip(0, 200)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.where(rng.random(len(near)) < 0.8, np.repeat(labels, 2), rng.integers(0, 3, len(near)))
        found.append((near, rng.random(len(near)).round(2), kinds))  # rounding makes equal scores
    crowd = {(i, j) for i, group in enumerate(objects) for j in range(len(group)) if rng.random() < 0.15}
    return KnownDataset(objects, category_ids=(3, 8, 21), crowd=crowd), found


def results_of(dataset, found):
    """The scene's detections as COCO results."""
    return [
        {
            "image_id": dataset.image_ids[i],
            "category_id": dataset.category_ids[label],
            "score": float(score),
            "bbox": [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])],
            "segmentation": rle.frPyObjects(rectangle_rle(box, dataset.size), *dataset.size),
        }
        for i, group in enumerate(found)
        for box, score, label in zip(*group, strict=True)
    ]


def stock_evaluation(truth, results, kind, cap):
    """pycocotools' own COCOeval, run; its loadRes needs results that have one kind of geometry."""
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", key)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        # Ids from 1: the stock evaluator takes id 0 for "no match".
        annotations = [{**annotation, "id": i} for i, annotation in enumerate(truth["annotations"], start=1)]
        index.dataset = {**truth, "annotations": annotations}
        index.createIndex()
        stock = COCOeval(index, index.loadRes(kept), kind)
        stock.params.maxDets = sorted({1, 10, cap})
        stock.evaluate(), stock.accumulate()
    return stock


def mean_present(values):
    return values[values > -1].mean() if (values > -1).any() else -1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_figures_equal_pycocotools_own_summary(seed, kind):
    dataset, found = random_scene(seed)
    results = results_of(dataset, found)
    metrics = coco_metrics(dataset.to_coco(), results)
    stock = stock_evaluation(dataset.to_coco(), results, kind, 100)
    with contextlib.redirect_stdout(io.StringIO()):
        stock.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    ours = [metrics[f"{kind}_{name}"] for name in names]
    np.testing.assert_allclose(ours, stock.stats, atol=1e-12)
    assert 0.05 < ours[0] < 0.95  # the scene really exercises the matching


@pytest.mark.parametrize("cap", [4, 1000])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_of_classes_and_other_caps_equal_pycocotools_tables(kind, cap):
    dataset, found = random_scene(5)
    results = results_of(dataset, found)
    metrics = coco_metrics(dataset.to_coco(), results, cap, [kind])
    stock = stock_evaluation(dataset.to_coco(), results, kind, cap)
    precision, recall = stock.eval["precision"], stock.eval["recall"]
    at_cap = stock.params.maxDets.index(cap)
    expected = {f"{kind}_AP": precision[..., 0, at_cap], f"{kind}_AR{cap}": recall[..., 0, at_cap]}
    for k, name in enumerate(dataset.class_names):
        expected[f"{kind}_AP/{name}"] = precision[:, :, k, 0, at_cap]
    for name, table in expected.items():
        assert metrics[name] == pytest.approx(mean_present(table), abs=1e-12), name
    assert metrics[f"{kind}_AP/kind 21"] == -1  # found, but not there


def random_persons(seed):
    """Ground truth and results with 17 keypoints, moved by a few pixels."""
    rng = np.random.default_rng(seed)
    truth = KnownDataset([[]] * 4).to_coco()
    results = []
    for image in truth["images"]:
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.uniform(0, 100, 2)
            points = np.stack([rng.uniform(x, x + 60, 17), rng.uniform(y, y + 90, 17)], axis=1)
            seen = rng.integers(0, 3, 17) * (rng.random() < 0.8)
            truth["annotations"].append(
                {
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [x, y, 60, 90],
                    "area": 3000.0,
                    "iscrowd": 0,
                    "num_keypoints": int((seen > 0).sum()),
                    "keypoints": np.column_stack([points, seen]).ravel().tolist(),
                }
            )
            moved = points + rng.normal(size=points.shape) * rng.choice([0.5, 4])
            result = {"image_id": image["id"], "category_id": 1, "score": float(rng.random())}
            results.append(result | {"keypoints": np.column_stack([moved, np.ones(17)]).ravel().tolist()})
    return truth, results


def test_figures_of_keypoints_equal_pycocotools():
    truth, results = random_persons(0)
    metrics = coco_metrics(truth, results, 20, ["keypoints"])
    stock = stock_evaluation(truth, results, "keypoints", 20)
    precision, recall = stock.eval["precision"], stock.eval["recall"]
    for area, name in enumerate(("", "m", "l")):
        assert metrics[f"keypoints_AP{name}"] == pytest.approx(mean_present(precision[..., area, 2]), abs=1e-12)
    assert metrics["keypoints_AR20"] == pytest.approx(mean_present(recall[..., 0, 2]), abs=1e-12)
    assert 0.05 < metrics["keypoints_AP"] < 0.95
    assert "keypoints" in format_metrics(metrics) and "segm" not in format_metrics(metrics)


# What is compared ----------------------------------------------------------------------------------------------


def test_boxes_alone_need_no_masks():
    dataset, found = random_scene(6)
    results = results_of(dataset, found)
    both = coco_metrics(dataset.to_coco(), results)
    without = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    boxes = coco_metrics(dataset.to_coco(), without, iou_types=["bbox"])
    assert boxes == {key: value for key, value in both.items() if not key.startswith("segm")}
    lines = format_metrics(boxes).splitlines()
    assert lines[1].split()[:2] == ["bbox", f"{boxes['bbox_AP']:.3f}"]
    assert lines[3].split() == ["class", "bbox", "AP"] and "segm" not in "".join(lines)
    with pytest.raises(ValueError, match='needs "segmentation" where iou_types has "segm"'):
        coco_metrics(dataset.to_coco(), without)


def test_types_come_from_the_models_branches():
    def config(*iou_types):
        return types.SimpleNamespace(branches=[types.SimpleNamespace(coco_iou_type=t) for t in iou_types])

    assert iou_types_of(config()) == ("bbox",)
    assert iou_types_of(config("segm", None, "keypoints", "segm")) == ("bbox", "segm", "keypoints")
    assert iou_types_of(types.SimpleNamespace()) == ("bbox", "segm")
    assert iou_types_of(small_config()) == ("bbox", "segm")


def test_a_class_name_like_a_figure_is_no_type():
    dataset = KnownDataset([[(10, 10, 30, 30, 0)]])
    dataset.class_names = ("old_AP",)
    metrics = evaluate(dataset, answers_from(dataset))
    assert metrics["bbox_AP/old_AP"] == pytest.approx(1.0)
    assert format_metrics(metrics).splitlines()[5].split() == ["old_AP", "1.000", "1.000"]


def test_image_ids_may_be_texts():
    dataset, found = random_scene(7)
    results = results_of(dataset, found)
    truth = dataset.to_coco()
    expected = coco_metrics(truth, results)
    for rows, key in ((truth["images"], "id"), (truth["annotations"], "image_id"), (results, "image_id")):
        for row in rows:
            row[key] = f"image {row[key]}"
    assert coco_metrics(truth, results) == expected


def test_detections_of_an_unknown_image_are_refused():
    dataset, found = random_scene(0)
    truth = dataset.to_coco()
    truth["images"] = truth["images"][1:]
    with pytest.raises(ValueError, match="Received one of image 100; the ground truth has 5 images"):
        coco_metrics(truth, results_of(dataset, found))


def test_ground_truth_is_left_as_it_was():
    dataset = KnownDataset(TWO_KINDS, category_ids=(1, 2))
    truth = dataset.to_coco()
    before = json.dumps(truth)
    coco_metrics(truth, [])
    assert json.dumps(truth) == before


def test_evaluator_puts_its_figures_among_the_logs_when_due():
    dataset = KnownDataset([[(10, 10, 30, 30, 0)]])
    model = KnownModel(small_config(), answers_from(dataset) * 3)
    model.jax_state_sync = lambda: None
    evaluator = CocoEvaluator(dataset, every=2)
    evaluator.set_model(model)
    evaluator.set_params({"epochs": 5})
    seen = []
    for epoch in range(5):
        logs = {"loss": 1.0}
        evaluator.on_epoch_end(epoch, logs)
        seen.append(logs.get("val_segm_AP"))
    assert seen == [None, pytest.approx(1.0), None, pytest.approx(1.0), pytest.approx(1.0)]
    assert evaluator.metrics["segm_AP/kind 1"] == pytest.approx(1.0)


def test_a_class_that_the_dataset_lacks_is_told():
    dataset = KnownDataset([[(10, 10, 30, 30, 0)]], category_ids=(4,))
    config = small_config(2, class_names=("kind 9", "kind 4"))
    with pytest.warns(UserWarning, match="the dataset: it does not list the classes .*kind 9.*; no object has them"):
        ids = category_ids_of(config, dataset, dataset.to_coco())
    assert ids[1] == 4 and ids[0] not in dataset.category_ids


def test_epochs_are_counted_from_one():
    with pytest.raises(ValueError, match="every counts epochs and is at least 1. Received: 0. Pass 1 for each epoch"):
        CocoEvaluator(KnownDataset([[]]), every=0)


def test_a_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        coco_metrics(KnownDataset([[]]).to_coco(), [], max_detections=0)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="Received: 'panoptic'"):
        coco_metrics(KnownDataset([[]]).to_coco(), [], iou_types=["bbox", "panoptic"])
