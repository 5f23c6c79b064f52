"""Which stage of a model lost an object: the rules of `misses.py`.

Comes in: `Flow` and the objects of an image in network pixels. Goes out: the cause of each miss with its numbers.

An object whose own detection matches another one at the same place has lost nothing. Of the others, the first
question is which single limit lost the object: one of its boxes that a stage took away is spared, and goes through
all stages that follow. If the object is found then, that stage is the cause; the last such stage if there are
several. Where no single limit explains the miss, the cause is the last stage that one of the object's boxes reached.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.evaluation.causes import BOX, CLASS, MASK, SHARED
from keras_maskrcnn.evaluation.flow import Boxes
from keras_maskrcnn.evaluation.lost_pairs import UNSURE, LostPairs
from keras_maskrcnn.evaluation.lost_proposals import LostProposals
from keras_maskrcnn.evaluation.matching import NONE

# Boxes of an object that are spared in each stage: those of the highest score, in the RPN also of the highest IoU.
_TRIED = 8


@dataclasses.dataclass(frozen=True)
class _Chance:
    """A detection that would have been there, had a stage not taken its box away; `facts` makes the record."""

    place: int
    box: np.ndarray
    score: float
    label: int
    facts: object


class Judge:
    """Finds the causes in one image.

    Args:
        flow: Flow. boxes: float (G, [x1, y1, x2, y2]), the objects in network pixels.
        seen: object with `labels`, `missed`, `detections`, `mask_iou`, `would_match`, `least` and `reach`, see
            `misses.py`.
        config: MaskRCNNConfig.
    """

    def __init__(self, flow, boxes, seen, config):
        self.flow, self.seen, self.config, self.labels, self.least = flow, seen, config, seen.labels, seen.least
        objects, outputs, self.names = np.asarray(boxes, np.float32), flow.outputs, (*config.class_names, "background")
        self.lost_proposals = LostProposals(flow, objects, config)
        self.lost_pairs = LostPairs(flow, objects, seen, self.names)
        self.objects, self.proposals = objects, Boxes(flow.proposals, objects)
        self.found = Boxes(outputs["boxes"][0][outputs["valid"][0]], objects)
        self.found_labels = outputs["labels"][0][outputs["valid"][0]]

    def causes(self):
        """Dict from the place of each missed object to a dict of `cause` and the fields of `Miss` that show it."""
        missed = self.seen.missed
        known = {place: facts for place in missed if (facts := self._shared(place))}
        for spared in (self._spared_pairs, self._spared_proposals):
            known |= self._found_by(spared([place for place in missed if place not in known]))
        stages = (known.get, self._mask, self.lost_pairs.last_stage, self._heads, self.lost_proposals.last_stage)
        return {place: next(facts for stage in stages if (facts := stage(place))) for place in missed}

    def _shared(self, place):
        """A detection that would do, but matches another object at the same place: nothing was lost."""
        for row in self._detections_near(place):
            overlap = self.seen.mask_iou(row, place)
            if self.seen.detections[row] != NONE and (overlap is None or overlap >= self.least):
                return {"cause": SHARED, "iou": self.found.iou(place)[row], **self._of_detection(row)}
        return None

    def _detections_near(self, place):
        """Detections of the right class whose boxes reach the object, its own first."""
        return self.found.near(place, self.seen, self.found_labels == self.labels[place])

    def _of_detection(self, row):
        score, box = self.flow.outputs["scores"][0][row], self.found.boxes[row]
        return {"score": score, "limit": self.least, "lost_box": box}

    # Which single limit? -----------------------------------------------------------------------------------------

    def _spared_pairs(self, places):
        """Chances of pairs that the choice of detections took away, of each object the last stage first."""
        lost, chances = self.lost_pairs, []
        for place in places:
            own = lost.of(place)
            others = np.setdiff1d(lost.near(place), own)  # by score, as all pairs
            for cause, among in lost.stages():
                rows = [*own[among[own]][:_TRIED], *others[among[others]][:_TRIED]]
                tried = [row for row in rows if lost.found_if_spared(cause, row, place)]
                chances += [self._chance(place, lost.pairs, row, (lost.facts, cause, row)) for row in tried]
        return chances

    def _spared_proposals(self, places):
        """Chances of boxes that the RPN took away, of each object the last stage first."""
        lost = self.lost_proposals
        jobs = []
        for place in places:
            for cause, among in lost.stages():
                rows = lost.nearest(place, among, _TRIED)
                jobs += [(place, cause, row) for row in rows if lost.survives(cause, row)]
        if not jobs:
            return []
        pairs = self.flow.classify(self.flow.decoded["boxes"][[row for _, _, row in jobs]])
        boxes = Boxes(pairs["boxes"], self.objects, pairs["passed"])
        chances = []
        for number, (place, cause, row) in enumerate(jobs):
            among = (pairs["rows"] == number) & (pairs["labels"] == self.labels[place])
            among &= pairs["scores"] > self.flow.thresholds[self.labels[place]]
            for pair in boxes.near(place, self.seen, among):
                chance = self._chance(place, pairs, pair, (lost.facts, cause, row))
                if self.lost_pairs.survives(chance.box, chance.score, chance.label):
                    chances.append(chance)
        return chances

    @staticmethod
    def _chance(place, pairs, row, facts):
        make, cause, lost = facts
        values = (pairs[name][row] for name in ("boxes", "scores", "labels"))
        return _Chance(place, *values, lambda: make(cause, lost, place))

    def _found_by(self, chances):
        """Dict from place to the facts of its first chance whose mask matches, too."""
        if not chances:
            return {}
        boxes, labels = (np.stack([getattr(chance, name) for chance in chances]) for name in ("box", "label"))
        scores = np.ones(len(chances), np.float32)  # those below the threshold are described as well
        described = self.flow.describe(boxes, scores, labels)
        matching = self.seen.would_match(described, [chance.place for chance in chances])
        found = {}
        for chance, matches in zip(chances, matching, strict=True):
            if matches and chance.place not in found:
                found[chance.place] = chance.facts()
        return found

    # The last stage that a box of the object reached -------------------------------------------------------------

    def _mask(self, place):
        """A detection of the right class and box that matches nothing: its mask is too poor.

        Where the box alone would not match, the mask is to blame if it has nothing of the object.
        """
        rows = [row for row in self._detections_near(place) if self.seen.detections[row] == NONE]
        overlap = {row: self.seen.mask_iou(row, place) for row in rows}
        own = self.found.iou(place) >= self.least
        overlap = {
            row: iou for row, iou in overlap.items() if iou is not None and (iou < self.least if own[row] else iou == 0)
        }
        if not overlap:
            return None
        row = max(overlap, key=overlap.get)
        return {"cause": MASK, "iou": overlap[row], **self._of_detection(row)}

    def _heads(self, place):
        """Proposals reach the object, and the heads make no good pair of them."""
        rows = self.proposals.of(place, self.config.roi_iou)
        if not len(rows):
            return None
        label, probabilities = self.labels[place], self.flow.probabilities[rows]
        scores = probabilities[:, label]
        lowest = float(np.ravel(self.flow.limits["score_threshold"])[0])  # of scores before calibration, as these
        right = (probabilities.argmax(axis=1) == label) | (scores > min(lowest, UNSURE))
        return self._poor_box(place, rows[right]) if right.any() else self._other_class(place, rows, scores)

    def _other_class(self, place, rows, scores):
        row = rows[np.argmax(scores)]
        seen_as = self.names[self.flow.probabilities[row].argmax()]
        box, iou = self.proposals.boxes[row], self.proposals.iou(place)[row]
        return {"cause": CLASS, "seen_as": seen_as, "score": scores.max(), "iou": iou, "lost_box": box}

    def _poor_box(self, place, proposals):
        pairs, boxes = self.lost_pairs.pairs, self.lost_pairs.boxes
        wanted = (pairs["labels"] == self.labels[place]) & np.isin(pairs["rows"], proposals) & (pairs["scores"] > 0)
        rows = np.flatnonzero(wanted)
        row = rows[np.argmax(boxes.iou(place)[rows])]
        return {"cause": BOX, "limit": self.least, **self.lost_pairs.numbers(row, place)}
