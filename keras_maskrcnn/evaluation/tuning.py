"""Score thresholds, the NMS threshold and calibrated scores of a trained model, found on labelled images.

The images are split into halves: the first is searched, the second is not looked at before the numbers stand, and gives
the table of before and after. Comes in: a model and a dataset. Goes out: `Tuning`, fields of the config. Called by
users (`km.tune`) and by `keras-maskrcnn tune`. `docs/tuning.md` has the rules.
"""

import contextlib
import dataclasses

import numpy as np

from keras_maskrcnn.data.duplicates import duplicate_groups
from keras_maskrcnn.data.split import split_dataset
from keras_maskrcnn.evaluation.calibration import METHODS, calibrated
from keras_maskrcnn.evaluation.class_thresholds import ClassDetections, calibration_tables, class_thresholds, mean_goal
from keras_maskrcnn.evaluation.coco import category_ids_of, detect_dataset
from keras_maskrcnn.evaluation.curves import calibration_error
from keras_maskrcnn.evaluation.matching import match_detections
from keras_maskrcnn.host.tables import text_table
from keras_maskrcnn.inference.arguments import USUAL_SCORE, thresholds_of

NMS_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_MEAN = "mean of classes"


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good the detections of a class are above their threshold.

    Args:
        precision, recall, f1: floats; None where they are undefined: without detections, or without objects.
        calibration_error: float of all detections, those below the threshold included; None without any.
        objects, detections: ints, the latter above the threshold.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    calibration_error: float | None
    objects: int
    detections: int


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What was found.

    Args:
        fields: dict of the config's fields `class_thresholds`, `calibration` and `nms_threshold`.
        before, after: dict from class name to Quality, on the half of the images that was not searched, and from "mean
            of classes" to the mean of those classes that have objects there.
        images: (int, int), how many images each half has. notes: list of str, what the search could not do.
    """

    fields: dict
    before: dict
    after: dict
    images: tuple
    notes: tuple = ()

    def apply(self, model):
        """Give a model the numbers; `model.save` keeps them."""
        model.change_detection(**self.fields)

    def table(self):
        """Before and after as text."""
        names = ("precision", "recall", "f1", "calibration_error")
        rows = [["class", "objects", "threshold", *(f"{part} {name}" for name in _TITLES for part in ("old", "new"))]]
        thresholds = dict(zip(self.after, self.fields["class_thresholds"], strict=False))
        for name, new in self.after.items():
            old = self.before[name]
            cells = [_cell(getattr(quality, field)) for field in names for quality in (old, new)]
            rows.append([name, new.objects, _cell(thresholds.get(name)), *cells])
        return text_table(rows)

    def to_dict(self):
        """Plain numbers, lists and dicts."""
        qualities = {
            part: {name: dataclasses.asdict(quality) for name, quality in getattr(self, part).items()}
            for part in ("before", "after")
        }
        return {"fields": self.fields, **qualities, "images": list(self.images), "notes": list(self.notes)}


_TITLES = ("precision", "recall", "F1", "calib. error")


def tune(
    model,
    dataset,
    precision=None,
    calibration="isotonic",
    nms_thresholds=NMS_THRESHOLDS,
    iou=0.5,
    seed=0,
    batch_size=None,
    verbose=0,
):
    """Find score thresholds by class, an NMS threshold and calibrated scores. The model stays as it is.

    Args:
        model: MaskRCNN. One that was tuned before is looked at as if it were not.
        dataset: any of `data`'s datasets, which the model was not trained on.
        precision: None: the thresholds with the best F1. Else float in 0..1: the lowest thresholds with at least this
            precision, or with the highest one where none reaches it.
        calibration: "isotonic", "temperature" or None, see `calibration.py`.
        nms_thresholds: floats to choose from; the model's own is tried as well. Each runs the model once.
        iou: float, the least IoU of a right detection: of masks, or of boxes if the model has no masks.
        seed: int, of the split into halves.
        batch_size, verbose: as in `evaluate_coco`.

    Returns:
        Tuning.

    Raises:
        ValueError: an argument is invalid; a half has no objects; and the errors of `evaluate_coco`.
    """
    nms_thresholds = _checked(precision, calibration, nms_thresholds, model.config.nms_threshold)
    halves = split_dataset(dataset, [0.5, 0.5], seed, duplicate_groups(dataset, None))
    with _as_trained(model):
        search = _Half(model, halves[0], iou, batch_size, verbose)
        scores = {nms: mean_goal(search.columns(nms), precision) for nms in nms_thresholds}
        nms = max(scores, key=scores.get)  # the first of equal ones: the model's own comes first
        tables = calibration_tables(search.columns(nms), calibration)
        thresholds, notes = class_thresholds(search.columns(nms), tables, precision, model.config.class_names)
        check = _Half(model, halves[1], iou, batch_size, verbose)
        before, after = check.columns(model.config.nms_threshold), check.columns(nms)
    usual = thresholds_of(model.config, None if model.config.tuned else max(USUAL_SCORE, model.config.score_threshold))
    own = model.config.calibration or [None] * model.config.num_classes
    names = model.config.class_names
    return Tuning(
        {"class_thresholds": thresholds, "calibration": tables, "nms_threshold": nms},
        _qualities(before, own, usual, names),
        _qualities(after, tables or [None] * len(names), thresholds, names),
        tuple(len(half) for half in halves),
        tuple(notes),
    )


def _checked(precision, calibration, nms_thresholds, own):
    """The NMS thresholds to try, the model's own first."""
    if precision is not None and not 0 <= precision <= 1:
        raise ValueError(f"precision must lie in 0..1. Received: {precision}. Leave it out for the best F1.")
    if calibration is not None and calibration not in METHODS:
        raise ValueError(
            f"calibration must be one of {tuple(METHODS)}, or None. Received: {calibration!r}. "
            "None keeps the scores as they are."
        )
    for threshold in nms_thresholds:
        if not 0 <= threshold <= 1:
            raise ValueError(f"nms_thresholds must lie in 0..1. Received: {threshold}. Leave them out for the usual.")
    return list(dict.fromkeys([own, *map(float, nms_thresholds)]))


@contextlib.contextmanager
def _as_trained(model):
    """The model without what an earlier tuning wrote, but for the NMS threshold."""
    before = {name: getattr(model.config, name) for name in ("class_thresholds", "calibration")}
    if not model.config.tuned:
        yield
        return
    model.change_detection(class_thresholds=None, calibration=None)
    try:
        yield
    finally:
        model.change_detection(**before)


class _Half:
    """Half of the images, and what the model finds in them with an NMS threshold."""

    def __init__(self, model, dataset, iou, batch_size, verbose):
        self.model, self.dataset, self.iou = model, dataset, iou
        self.options, self.known = (batch_size, verbose), {}
        self.ids = category_ids_of(model.config, dataset, dataset.to_coco())

    def columns(self, nms):
        """List of ClassDetections, one for each class of the model."""
        if nms not in self.known:
            batch_size, verbose = self.options
            found = detect_dataset(self.model, self.dataset, None, verbose, batch_size, nms)
            iou_type = "segm" if "segm" in found.iou_types else "bbox"
            matches = match_detections(found.truth, found.detections, iou_type, self.iou, found.max_detections)
            self.known[nms] = [_of_class(matches, key) for key in self.ids]
            if not any(columns.objects for columns in self.known[nms]):
                raise ValueError(
                    "Thresholds are found on images with objects of the model's classes, in both halves. Received: "
                    f"{self.dataset.name} without any. Give more labelled images."
                )
        return self.known[nms]


def _of_class(matches, category):
    rows = (matches.category == category) & ~matches.ignored
    return ClassDetections(matches.score[rows], matches.right[rows], int((matches.gt_category == category).sum()))


# The table ---------------------------------------------------------------------------------------------------


def _qualities(classes, tables, thresholds, names):
    """Dict from class name, and `_MEAN`, to Quality."""
    found = {}
    for columns, table, threshold, name in zip(classes, tables, thresholds, names, strict=True):
        found[name] = _quality(dataclasses.replace(columns, scores=calibrated(columns.scores, table)), threshold)
    counted = [quality for quality in found.values() if quality.objects]
    means = {
        field: _mean([getattr(quality, field) for quality in counted])
        for field in ("precision", "recall", "f1", "calibration_error")
    }
    sums = {field: sum(getattr(quality, field) for quality in counted) for field in ("objects", "detections")}
    return found | {_MEAN: Quality(**means, **sums)}


def _quality(columns, threshold):
    kept = columns.scores > threshold
    hits, count = int(columns.right[kept].sum()), int(kept.sum())
    return Quality(
        precision=hits / count if count else None,
        recall=hits / columns.objects if columns.objects else None,
        f1=2 * hits / (count + columns.objects) if count + columns.objects else None,
        calibration_error=calibration_error(columns.scores, columns.right),
        objects=columns.objects,
        detections=count,
    )


def _mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def _cell(value):
    return "-" if value is None else f"{value:.3f}"
