"""AP of hand-made detections against figures worked out by hand and against pycocotools' own summary."""

import contextlib
import io
import json

import numpy as np
import pytest
from known_answers import KnownDataset, KnownModel, answers_from, rectangle_rle, small_config
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_maskrcnn.evaluation.coco import CocoEvaluator, coco_metrics, evaluate_coco, format_metrics

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


def test_images_that_fill_the_models_rows_are_counted():
    dataset = KnownDataset([[(10, 10, 30, 30, 0), (40, 40, 60, 60, 0)], [(10, 10, 30, 30, 0)]])
    metrics = evaluate_coco(KnownModel(small_config(max_detections=2), answers_from(dataset)), dataset)
    assert metrics["images_at_cap"] == 1
    assert "can give: 1;" in format_metrics(metrics)
    assert "can give" not in format_metrics(metrics | {"images_at_cap": 0.0})


def random_scene(seed):
    """Ground truth with crowds, and detections that are near, far, doubled and mislabelled."""
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
        kinds = np.where(rng.random(len(near)) < 0.8, np.repeat(labels, 2), rng.integers(0, 2, len(near)))
        found.append((near, rng.random(len(near)).round(2), kinds))  # rounding makes equal scores
    crowd = {(i, j) for i, group in enumerate(objects) for j in range(len(group)) if rng.random() < 0.15}
    return KnownDataset(objects, category_ids=(3, 8), crowd=crowd), found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_figures_equal_pycocotools_own_summary(seed):
    dataset, found = random_scene(seed)
    results = [
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
    metrics = coco_metrics(dataset.to_coco(), results)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.to_coco()
        for annotation in truth.dataset["annotations"]:
            annotation["id"] += 1  # the stock evaluator takes id 0 for "no match"
        truth.createIndex()
        for kind in ("bbox", "segm"):
            key = {"bbox": "bbox", "segm": "segmentation"}[kind]
            kept = [{k: r[k] for k in ("image_id", "category_id", "score", key)} for r in results]
            stock = COCOeval(truth, truth.loadRes(kept), kind)
            stock.evaluate(), stock.accumulate(), stock.summarize()
            ours = [metrics[f"{kind}_{name}"] for name in names]
            np.testing.assert_allclose(ours, stock.stats, atol=1e-12)
            assert 0.05 < ours[0] < 0.95  # the scene really exercises the matching


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


def test_a_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        coco_metrics(KnownDataset([[]]).to_coco(), [], max_detections=0)
