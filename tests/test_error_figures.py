"""Precision-recall, F1, score histograms, reliability, confusion and boundary AP against figures worked out by hand."""

import numpy as np
import pytest
from pycocotools import mask as rle
from scipy import ndimage
from test_error_kinds import square, truth_of

from keras_maskrcnn.evaluation import coco_metrics, match_detections
from keras_maskrcnn.evaluation.confusion import confusion_matrix
from keras_maskrcnn.evaluation.curves import precision_at_recalls, precision_recall, reliability, score_histogram


def test_precision_at_recalls_by_hand():
    # Right, wrong, right of four objects: precision 1 up to recall 1/4, 2/3 up to 1/2, then nothing.
    precision = precision_at_recalls([0.9, 0.8, 0.7], [True, False, True], 4)
    expected = np.select([np.arange(101) <= 25, np.arange(101) <= 50], [1.0, 2 / 3])
    assert precision == pytest.approx(expected)
    assert precision_at_recalls([], [], 3) == pytest.approx(np.zeros(101))
    tied = precision_at_recalls([0.5, 0.5], [False, True], 1)  # in the order given
    assert tied == pytest.approx(np.full(101, 0.5))


def found_with(scores_right):
    """Matches of one right or wrong detection an image, of class 1, and of one object an image."""
    annotations = [square(20, image_id=k + 1) for k in range(len(scores_right))]
    found = [square(20 if right else 200, image_id=k + 1, score=score) for k, (score, right) in enumerate(scores_right)]
    return match_detections(truth_of(annotations, images=len(annotations)), found)


def test_the_best_threshold_has_the_highest_f1():
    matches = found_with([(0.9, True), (0.8, True), (0.8, False), (0.3, True), (0.1, False)])
    curve = precision_recall(matches)[1]
    # Of 5 objects: 0.9 -> 2 * 1 / (1 + 5); 0.8 -> 4 / 8; 0.3 -> 6 / 9; 0.1 -> 6 / 10.
    assert (curve["objects"], curve["best_f1"], curve["best_score"]) == (5, pytest.approx(2 / 3), 0.3)
    assert curve["ap"] == pytest.approx(curve["precision"].mean())
    nothing = precision_recall(match_detections(truth_of([square(20)]), []))[1]
    assert (nothing["ap"], nothing["best_f1"], nothing["best_score"]) == (0, 0, 0)


def test_reliability_and_histogram_by_hand():
    # Bin 0.9..1: scores 0.95, 0.9, 1.0, two of three right. Bin 0.2..0.3: 0.25, wrong.
    matches = found_with([(0.95, True), (0.9, True), (1.0, False), (0.25, False)])
    result = reliability(matches)
    assert result["count"] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    assert result["score"][9] == pytest.approx(0.95) and result["right"][9] == pytest.approx(2 / 3)
    assert result["score"][0] is None and result["right"][2] == 0
    assert result["calibration_error"] == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * 0.25)
    histogram = score_histogram(matches, bins=4)
    assert (histogram["right"], histogram["wrong"]) == ([0, 0, 0, 2], [0, 1, 0, 1])
    assert reliability(match_detections(truth_of([square(20)]), []))["calibration_error"] is None


def test_confusion_by_hand():
    annotations = [square(20), square(120, category=2), square(220, category=2), square(320)]
    found = [
        square(20, score=0.9),  # right
        square(20, score=0.8),  # a duplicate: background taken for class 1
        square(120, score=0.7),  # class 2 taken for class 1
        square(120, category=3, score=0.6),  # that object is taken: background taken for class 3
        square(220, category=2, score=0.4),  # right, but below the threshold: overlooked
    ]
    matches = match_detections(truth_of(annotations, classes=(1, 2, 3)), found)
    confusion = confusion_matrix(matches, 0.5)
    assert confusion.categories == [1, 2, 3]
    assert confusion.counts.tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert confusion.mistaken() == [(2, 1, 1)]
    lower = confusion_matrix(matches, 0.0)
    assert lower.counts.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    nothing = confusion_matrix(match_detections(truth_of([]), []))
    assert nothing.counts.tolist() == [[0]]


def boundary(mask):
    """Strips inside the outline, 2 % of the diagonal wide: the mask without its erosion."""
    width = max(1, round(0.02 * np.hypot(*mask.shape)))
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), width, border_value=0)


@pytest.mark.parametrize("cut", [0, 3, 6, 12])
def test_boundary_ap_takes_the_smaller_iou(cut):
    ys, xs = np.ogrid[:200, :300]
    mask = (ys - 90) ** 2 + (xs - 140) ** 2 < 70**2
    found = mask & ~((ys > 90 - cut) & (ys < 90 + cut) & (xs > 140 + 70 - 5 * cut))
    found &= ~(np.abs(ys - 90) > 70 - cut)
    strips = boundary(mask), boundary(found)
    iou = (mask & found).sum() / (mask | found).sum()
    boundary_iou = (strips[0] & strips[1]).sum() / (strips[0] | strips[1]).sum()
    assert cut == 0 or boundary_iou < iou
    codes = [rle.encode(np.asfortranarray(one.astype(np.uint8))) for one in (mask, found)]
    entries = [
        {"image_id": 1, "category_id": 1, "bbox": rle.toBbox(code).tolist(), "area": float(rle.area(code)), "id": 1}
        | {"iscrowd": 0, "score": 0.5, "segmentation": {"size": [200, 300], "counts": code["counts"].decode()}}
        for code in codes
    ]
    truth = truth_of([]) | {"images": [{"id": 1, "height": 200, "width": 300}], "annotations": entries[:1]}
    thresholds = np.linspace(0.5, 0.95, 10)
    together = coco_metrics(truth, entries[1:], iou_types=("bbox", "segm", "boundary"))
    assert together["segm_AP"] == pytest.approx((thresholds <= iou).mean())
    assert together["boundary_AP"] == pytest.approx((thresholds <= min(iou, boundary_iou)).mean())
    alone = coco_metrics(truth, entries[1:], iou_types=("boundary",))
    assert {name: value for name, value in together.items() if name in alone} == alone
