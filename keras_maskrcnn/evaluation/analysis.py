"""All figures that explain average precision, of one set of detections: what the page of errors shows.

Comes in: ground truth and detections in COCO's formats. Goes out: `Analysis`. Called by `pages/errors_page.py` and by
users who want the numbers without a page.
"""

import dataclasses

from keras_maskrcnn.evaluation.confusion import confusion_matrix
from keras_maskrcnn.evaluation.curves import precision_recall, reliability, score_histogram
from keras_maskrcnn.evaluation.errors import error_kinds
from keras_maskrcnn.evaluation.figures import BOUNDARY, coco_metrics
from keras_maskrcnn.evaluation.matching import match_detections
from keras_maskrcnn.inference.arguments import USUAL_SCORE


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Figures of one set of detections.

    Args:
        truth, detections: as given, in COCO's formats.
        metrics: dict of `coco_metrics`, with those of boundaries where masks are compared.
        errors: dict from "bbox" and "segm" to ErrorKinds at an IoU of 0.5, masks first.
        curves: dict of `precision_recall`. confusion: Confusion. histogram, reliability: dicts of `curves.py`.
            All of these compare masks where there are any.
    """

    truth: dict
    detections: list
    metrics: dict
    errors: dict
    curves: dict
    confusion: object
    histogram: dict
    reliability: dict

    @property
    def main(self):
        """The ErrorKinds of masks, or of boxes where no masks are compared."""
        return next(iter(self.errors.values()))

    def to_dict(self):
        """The figures alone, as plain numbers, lists and dicts with names of classes for their ids."""
        names = self.main.matches.names
        curves = {
            names[key]: curve | {"precision": [round(float(value), 5) for value in curve["precision"]]}
            for key, curve in self.curves.items()
        }
        return {
            "metrics": self.metrics,
            "errors": {
                iou_type: {"iou": found.matches.iou, "ap": found.ap, "counts": found.counts, "ap_lost": found.costs}
                for iou_type, found in self.errors.items()
            },
            "precision_recall": curves,
            "confusion": {
                "min_score": self.confusion.min_score,
                "classes": [names.get(key, str(key)) for key in self.confusion.categories] + ["background"],
                "counts": self.confusion.counts.tolist(),
            },
            "score_histogram": self.histogram,
            "reliability": self.reliability,
        }


def analyse(ground_truth, detections, iou_types=("bbox", "segm"), max_detections=100, metrics=None):
    """Compute all figures.

    Args:
        ground_truth, detections, max_detections: as in `coco_metrics`.
        iou_types: what the model predicts; of these "bbox" and "segm" are explained, and keypoints are not.
        metrics: dict of `coco_metrics` of these detections, if it is there already.

    Returns:
        Analysis.
    """
    explained = [iou_type for iou_type in ("segm", "bbox") if iou_type in iou_types]
    more = [] if metrics is not None else list(iou_types)
    more += [BOUNDARY] if "segm" in iou_types else []
    metrics = dict(metrics or {})
    if more:
        metrics |= coco_metrics(ground_truth, detections, max_detections, more)
    errors = {
        iou_type: error_kinds(match_detections(ground_truth, detections, iou_type, max_detections=max_detections))
        for iou_type in explained
    }
    matches = errors[explained[0]].matches
    return Analysis(
        truth=ground_truth,
        detections=detections,
        metrics=metrics,
        errors=errors,
        curves=precision_recall(matches),
        confusion=confusion_matrix(matches, USUAL_SCORE),
        histogram=score_histogram(matches),
        reliability=reliability(matches),
    )
