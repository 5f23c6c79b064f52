"""The kinds of errors of a detector and the average precision that each costs, as TIDE defines them.

Bolya et al., TIDE: a general toolbox for identifying object detection errors, ECCV 2020. Comes in: `Matches`. Goes
out: `ErrorKinds`. Called by users and by `pages/errors_page.py`. The figures equal those of the authors' package
tidecv 1.0.1 but for three cases, where this module follows COCO: `docs/errors.md` lists them with reasons.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.evaluation.curves import precision_at_recalls
from keras_maskrcnn.evaluation.matching import NONE

BACKGROUND_IOU = 0.1  # section 2.2 of the paper: an overlap up to this is none
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    "class", "localisation", "both", "duplicate", "background", "missed"
)  # fmt: skip
FALSE_POSITIVES, FALSE_NEGATIVES = "false positives", "false negatives"


@dataclasses.dataclass(frozen=True)
class ErrorKinds:
    """What is wrong with each detection and each object, and what it costs.

    Args:
        matches: Matches, with D detections and G objects.
        kind: (D,) of str: one of `KINDS` but "missed"; "" for detections that are right or ignored.
        target: int (D,), the object that the detection was meant for, or NONE: of another class for "class", of its
            own class for "localisation" and "duplicate".
        missed: bool (G,): no detection matches, and none would after its class or its place were corrected.
        ap: float, average precision at the IoU of the matches: the mean over classes with objects; -1 without any.
        costs: dict from kind to float >= 0: how much the average precision grows if this kind alone is corrected; and
            from `FALSE_POSITIVES` and `FALSE_NEGATIVES`, if all of these are.
    """

    matches: object
    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray
    ap: float
    costs: dict

    @property
    def counts(self):
        """Dict from each of `KINDS` to the number of such errors."""
        counts = {name: int((self.kind == name).sum()) for name in KINDS}
        return counts | {MISSED: int(self.missed.sum())}


def error_kinds(matches, background_iou=BACKGROUND_IOU):
    """Find the kind of each error, and correct one kind after the other to see what it costs.

    A wrong detection gets the first of these that holds. "localisation": it overlaps an object of its class with at
    least `background_iou`, but less than the IoU of a match. "class": it overlaps an object of another class enough
    for a match. "duplicate": it overlaps an object of its class enough, which a detection with a higher score has.
    "background": it overlaps any object by at most `background_iou`. "both": the rest; class and place are wrong.

    Args:
        matches: Matches.
        background_iou: float, from 0 to below the IoU of the matches.

    Returns:
        ErrorKinds.
    """
    if not 0 <= background_iou < matches.iou:
        raise ValueError(
            f"background_iou must be at least 0 and below the IoU of a match, {matches.iou}. "
            f"Received: {background_iou}. Leave it out for {BACKGROUND_IOU}."
        )
    kind, target = _classified(matches, background_iou)
    best = _best_for_objects(matches, target, np.isin(kind, (CLASS, LOCALISATION)))
    missed = (matches.gt_detection == NONE) & (best == NONE)
    table = _Table(matches, kind, target, best, missed)
    ap = table.ap()
    costs = {}
    if ap >= 0:
        costs = {name: max(0.0, table.ap(without=name) - ap) for name in (*KINDS, FALSE_POSITIVES, FALSE_NEGATIVES)}
    return ErrorKinds(matches, kind, target, missed, ap, costs)


def _classified(matches, background_iou):
    """(kind, target) of each detection, as in `ErrorKinds`."""
    own, other = matches.own_iou, matches.other_iou
    rules = {  # the first that holds
        "": matches.right | matches.ignored,
        LOCALISATION: (own >= background_iou) & (own < matches.iou) & (matches.own != NONE),
        CLASS: other >= matches.iou,
        DUPLICATE: own >= matches.iou,
        BACKGROUND: np.maximum(own, other) <= background_iou,
    }
    kind = np.select(list(rules.values()), list(rules), BOTH)
    target = np.select(
        [np.isin(kind, (LOCALISATION, DUPLICATE)), kind == CLASS], [matches.own, matches.other], default=NONE
    )
    return kind, target


def _best_for_objects(matches, target, usable):
    """Int (G,): the highest-scoring usable detection that was meant for an object that nothing matches, or NONE."""
    best = np.full(len(matches.gt_row), NONE)
    for detection in np.flatnonzero(usable):  # by image, and there by descending score
        place = target[detection]
        if matches.gt_detection[place] == NONE and best[place] == NONE:
            best[place] = detection
    return best


@dataclasses.dataclass(frozen=True)
class _Table:
    """Counts average precision as if one kind of errors were corrected."""

    matches: object
    kind: np.ndarray
    target: np.ndarray
    best: np.ndarray
    missed: np.ndarray

    def ap(self, without=None):
        """Average precision without a kind of errors, or a special one; None: as it is."""
        kept, right, category = ~self.matches.ignored, self.matches.right, self.matches.category
        if without == FALSE_POSITIVES:
            kept = kept & right
        elif without in KINDS:
            wrong = self.kind == without
            # One detection for each object is corrected, the others would be duplicates then.
            corrected = wrong & np.isin(np.arange(len(wrong)), self.best[self.best != NONE])
            kept, right = kept & (~wrong | corrected), right | corrected
            category = category.copy()
            category[corrected] = self.matches.gt_category[self.target[corrected]]
        return self._mean(category, kept, right, self._left_out(without))

    def _left_out(self, without):
        """Bool (G,): objects that do not count. Detections for them would need scores, which nobody has."""
        if without == FALSE_NEGATIVES:
            return self.matches.gt_detection == NONE
        return self.missed if without == MISSED else np.zeros(len(self.missed), bool)

    def _mean(self, category, kept, right, left_out):
        values = []
        for key, count in self.matches.num_objects.items():
            rows = kept & (category == key)
            count -= int((left_out & (self.matches.gt_category == key)).sum())
            if count:
                values.append(precision_at_recalls(self.matches.score[rows], right[rows], count).mean())
            elif rows.any():  # as wrong as before; without detections the class has no precision at all
                values.append(0.0)
        return float(np.mean(values)) if values else -1.0
