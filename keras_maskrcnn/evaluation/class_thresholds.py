"""Score thresholds and calibration of each class, from the scores of its detections and which of them are right.

Comes in: columns of numbers of each class. Goes out: thresholds and tables. Called by `tuning.py`, which makes the
columns. `docs/tuning.md` has the rules.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.evaluation.calibration import METHODS, calibrated
from keras_maskrcnn.inference.arguments import USUAL_SCORE

_FEW, _FEW_RIGHT = 50, 10  # with fewer detections, or fewer right ones, a class has the calibration of all together
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class ClassDetections:
    """Detections of a class: scores float64 (D,), whether they are right; and how many objects there are."""

    scores: np.ndarray
    right: np.ndarray
    objects: int


def best_threshold(scores, right, num_objects, precision=None):
    """The score that detections should exceed, in the middle between two scores.

    Args:
        scores: float (N,), N > 0. right: bool (N,). num_objects: int. precision: as for `tune`.

    Returns:
        (threshold, precision, recall, F1), floats.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores are kept together
    kept, hits = last + 1, hits[last]
    precisions, f1 = hits / kept, 2 * hits / (kept + num_objects)
    if precision is None:
        best = int(f1.argmax())
    else:
        enough = np.flatnonzero(precisions >= precision)
        best = int(enough[-1] if len(enough) else np.flatnonzero(precisions == precisions.max())[-1])
    below = scores[last[best] + 1] if last[best] + 1 < len(scores) else 0.0
    recall = hits[best] / num_objects if num_objects else 0.0
    return float((scores[last[best]] + below) / 2), float(precisions[best]), float(recall), float(f1[best])


def mean_goal(classes, precision):
    """What the NMS threshold is chosen by: the mean of the best F1, or of the recall at the wanted precision."""
    goals = []
    for columns in (each for each in classes if each.objects):
        if not len(columns.scores):
            goals.append(0.0)
            continue
        _, reached, recall, f1 = best_threshold(columns.scores, columns.right, columns.objects, precision)
        goals.append(f1 if precision is None else recall if reached >= precision else 0.0)
    return float(np.mean(goals))


def calibration_tables(classes, method):
    """Tables of all classes, or None. A class with few detections has the table of all detections together."""
    together = _joined(classes)
    if method is None or not len(together.scores):
        return None
    common = METHODS[method](together.scores, together.right)
    enough = [len(each.scores) >= _FEW and each.right.sum() >= _FEW_RIGHT for each in classes]
    return [METHODS[method](each.scores, each.right) if good else common for each, good in zip(classes, enough)]


def _joined(classes):
    scores, right = (np.concatenate([getattr(each, name) for each in classes]) for name in ("scores", "right"))
    return ClassDetections(scores, right, sum(each.objects for each in classes))


def class_thresholds(classes, tables, precision, names):
    """(list of K thresholds of calibrated scores, notes)."""
    tables = tables or [None] * len(classes)
    moved = [
        dataclasses.replace(each, scores=calibrated(each.scores, table))
        for each, table in zip(classes, tables, strict=True)
    ]
    together, notes, thresholds = _joined(moved), [], []
    for columns, name in zip(moved, names, strict=True):
        usable = columns.objects and columns.right.any()
        source = columns if usable else together
        if not len(source.scores):
            thresholds.append(USUAL_SCORE)
            notes.append(f"{name}: no detection of any class in the first half; the threshold stays at {USUAL_SCORE}")
            continue
        threshold, reached, _, _ = best_threshold(source.scores, source.right, source.objects, precision)
        thresholds.append(round(threshold, _DIGITS))
        if not usable:
            notes.append(f"{name}: no right detection in the first half; the threshold is that of all classes together")
        elif precision is not None and reached < precision:
            notes.append(f"{name}: no threshold reaches the precision {precision:g}; this one reaches {reached:.3f}")
    return thresholds, notes
