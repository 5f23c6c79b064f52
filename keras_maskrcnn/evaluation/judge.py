"""Which stage of a model lost an object: the rules of `misses.py`.

Comes in: `Flow` and the objects of an image in network pixels. Goes out: the cause of each miss with its numbers.

The rules follow the data backwards, from the last stage that an object's boxes reached. One question is asked before:
would the heads have found the object, had the RPN given them a lost box that is clearly better than its proposals? Then
the RPN lost it, even if poorer boxes went on.
"""

import numpy as np

from keras_maskrcnn.evaluation.causes import (
    ANCHOR,
    BOX,
    CAP,
    CLASS,
    MASK,
    NMS,
    PROPOSAL_BOX,
    PROPOSAL_CAP,
    RANK,
    RPN_NMS,
    SHARED,
    THRESHOLD,
)
from keras_maskrcnn.evaluation.flow import Boxes, overlaps
from keras_maskrcnn.evaluation.matching import NONE

_TRIED = 8  # lost boxes of an object and a stage that the heads are asked about: those of the highest IoU
_BETTER = 0.1  # by this IoU a lost box is better than all proposals of its object; else the heads have seen its like
_UNSURE = 0.05  # objects with a higher score are found, though with a low one: the least score in the paper's code


class Judge:
    """Finds the causes in one image.

    Args:
        flow: Flow. boxes: float (G, [x1, y1, x2, y2]), the objects in network pixels.
        seen: object with `labels`, `missed`, `detections`, `mask_iou`, `would_match` and `least`, see `misses.py`.
        config: MaskRCNNConfig.
    """

    def __init__(self, flow, boxes, seen, config):
        self.flow, self.objects, self.seen, self.config = flow, np.asarray(boxes, np.float32), seen, config
        self.labels, self.least, self.names = seen.labels, seen.least, (*config.class_names, "background")
        self.thresholds = flow.thresholds[self.labels]  # of each object's class
        self.agnostic = config.class_agnostic_nms
        decoded, outputs = flow.decoded, flow.outputs
        self.decoded = Boxes(decoded["boxes"], boxes, decoded["valid"])
        self.proposals = Boxes(flow.proposals, boxes)
        self.pairs = Boxes(flow.pairs["boxes"], boxes, flow.pairs["passed"])
        self.candidates = Boxes(flow.candidates["boxes"], boxes, flow.candidates["passed"])
        self.found = Boxes(outputs["boxes"][0][outputs["valid"][0]], boxes)
        self.found_labels = outputs["labels"][0][outputs["valid"][0]]
        # Where each decoded box is among those that the RPN's NMS keeps; -1: it is not.
        self.survivor = np.full(len(decoded["boxes"]), NONE)
        self.survivor[flow.survivors] = np.arange(len(flow.survivors))

    def causes(self):
        """Dict from the place of each missed object to a dict of `cause` and the fields of `Miss` that show it."""
        lost = self._would_be_found()
        stages = (lost.get, self._mask, self._selection, self._heads, self._rpn)
        return {place: next(facts for stage in stages if (facts := stage(place))) for place in self.seen.missed}

    # The last stages -------------------------------------------------------------------------------------------

    def _mask(self, place):
        """A detection of the right class and box that matches nothing: its mask is too poor."""
        rows = self.found.of(place, self.least, self.found_labels == self.labels[place])
        rows = [row for row in rows if self.seen.detections[row] == NONE]
        overlap = {row: self.seen.mask_iou(row, place) for row in rows}
        overlap = {row: iou for row, iou in overlap.items() if iou is not None and iou < self.least}
        if not overlap:
            return None
        row = max(overlap, key=overlap.get)
        score = self.flow.outputs["scores"][0][row]
        return {"cause": MASK, "iou": overlap[row], "score": score, "limit": self.least, "lost_box": self._found(row)}

    def _selection(self, place):
        """A pair that passes the threshold: lost in the final NMS, beyond the cap, or the match of another object."""
        candidates, label = self.flow.candidates, self.labels[place]
        rows = self.candidates.of(place, self.least, candidates["labels"] == label)
        if not len(rows):
            return self._beyond_candidates(place)
        order = {row: number for number, row in enumerate(self.flow.kept.tolist())}
        kept = sorted(order[row] for row in rows.tolist() if row in order)
        if not kept:
            return self._lost_in_nms(place, rows)
        row = self.flow.kept[kept[0]]
        facts = self._of_pair(candidates, self.candidates, row, place)
        cap = self.flow.limits["max_detections"]
        if kept[0] >= cap:
            return {"cause": CAP, "rank": kept[0] + 1, "limit": cap, **facts}
        taken = self.seen.detections[kept[0]] != NONE
        return {"cause": SHARED if taken else BOX, "limit": self.least, **facts}

    def _beyond_candidates(self, place):
        pairs = self.flow.pairs
        among = (pairs["labels"] == self.labels[place]) & (pairs["scores"] > self.thresholds[place])
        rows = self.pairs.of(place, self.least, among)
        if not len(rows):
            return None
        rank, limit = rows.min() + 1, self.flow.limits["candidates"]
        return {"cause": CAP, "rank": rank, "limit": limit, **self._of_pair(pairs, self.pairs, rows.min(), place)}

    def _lost_in_nms(self, place, rows):
        candidates = self.flow.candidates
        row = rows[np.argmax(candidates["scores"][rows])]
        winner, iou = self._winner(candidates["boxes"][row], candidates["scores"][row], self.labels[place])
        return {
            "cause": NMS,
            "limit": self._nms_threshold(),
            **self._of_pair(candidates, self.candidates, row, place),
            "winner_box": candidates["boxes"][winner],
            "winner_score": candidates["scores"][winner],
            "winner_class": self.names[candidates["labels"][winner]],
            "winner_iou": iou,
        }

    def _winner(self, box, score, label):
        """(row of the candidate that suppresses a pair, their IoU): the first kept one that overlaps it too much."""
        candidates, rows = self.flow.candidates, self.flow.kept
        rivals = candidates["scores"][rows] >= score
        if not self.agnostic:
            rivals &= candidates["labels"][rows] == label
        rows = rows[rivals]
        return _first_above(rows, overlaps(box[None], candidates["boxes"][rows])[0], self._nms_threshold())

    def _nms_threshold(self):
        return float(np.ravel(self.flow.limits["nms_threshold"])[0])

    def _found(self, row):
        return self.found.boxes[row]

    @staticmethod
    def _of_pair(pairs, boxes, row, place):
        return {"score": pairs["scores"][row], "iou": boxes.iou(place)[row], "lost_box": pairs["boxes"][row]}

    # The box head ----------------------------------------------------------------------------------------------

    def _heads(self, place):
        """The best pair does not pass the threshold, or proposals reach the object and the heads fail."""
        label, pairs = self.labels[place], self.flow.pairs
        likeliest = self.flow.probabilities.argmax(axis=1)
        rows = self.pairs.of(place, self.least, pairs["labels"] == label)
        proposals = pairs["rows"][rows]
        likely = (likeliest[proposals] == label) | (self.flow.probabilities[proposals, label] > _UNSURE)
        if likely.any():
            row = rows[likely][np.argmax(pairs["scores"][rows[likely]])]
            other = likeliest[pairs["rows"][row]]
            facts = {} if other == label else {"seen_as": self.names[other]}
            return {
                "cause": THRESHOLD,
                "limit": self.thresholds[place],
                **self._of_pair(pairs, self.pairs, row, place),
                **facts,
            }
        rows = self.proposals.of(place, self.config.roi_iou)
        if not len(rows):
            return None
        scores = self.flow.probabilities[rows, label]
        lowest = float(np.ravel(self.flow.limits["score_threshold"])[0])  # of scores before calibration, as these
        right = (likeliest[rows] == label) | (scores > min(lowest, _UNSURE))
        return self._poor_box(place, rows[right]) if right.any() else self._other_class(place, rows, scores)

    def _other_class(self, place, rows, scores):
        row = rows[np.argmax(scores)]
        seen_as = self.names[self.flow.probabilities[row].argmax()]
        box, iou = self.proposals.boxes[row], self.proposals.iou(place)[row]
        return {"cause": CLASS, "seen_as": seen_as, "score": scores.max(), "iou": iou, "lost_box": box}

    def _poor_box(self, place, proposals):
        pairs = self.flow.pairs
        wanted = (pairs["labels"] == self.labels[place]) & np.isin(pairs["rows"], proposals) & (pairs["scores"] > 0)
        rows = np.flatnonzero(wanted)
        row = rows[np.argmax(self.pairs.iou(place)[rows])]
        return {"cause": BOX, "limit": self.least, **self._of_pair(pairs, self.pairs, row, place)}

    # The RPN ---------------------------------------------------------------------------------------------------

    def _rpn(self, place):
        """No proposal reaches the object: the last stage that one of its boxes reached."""
        rows = self.decoded.of(place, self.config.roi_iou)
        if not len(rows):
            return self._no_box(place)
        cause, among = next((cause, among) for cause, among in self._stages() if among[rows].any())
        rows = rows[among[rows]]
        order = {PROPOSAL_CAP: self.survivor[rows], RANK: self.flow.decoded["rank"][rows]}
        return self._rank_or_anchor(cause, place, rows[np.argmin(order[cause])] if cause in order else rows[0])

    def _rank_or_anchor(self, cause, place, row):
        """A low rank is no wonder where no anchor reaches the object: such anchors are trained to be background."""
        no_anchor = self._no_anchor(place) if cause == RANK else None
        return no_anchor or self._of_anchor(cause, place, row)

    def _stages(self):
        """[(cause, bool (N,): the decoded boxes that it takes away)], the last stage first."""
        return [
            (PROPOSAL_CAP, self.survivor >= self.flow.num_proposals),
            (RPN_NMS, self.flow.ranked & (self.survivor == NONE)),
            (RANK, ~self.flow.ranked),
        ]

    def _no_box(self, place):
        no_anchor = self._no_anchor(place)
        if no_anchor:
            return no_anchor
        on_image = self.flow.decoded["on_image"]
        row = np.flatnonzero(on_image)[self.decoded.iou(place)[on_image].argmax()]
        return self._of_anchor(PROPOSAL_BOX, place, row) | {"limit": self.config.roi_iou}

    def _no_anchor(self, place):
        decoded, limit = self.flow.decoded, self.config.rpn_negative_iou
        anchors = self.flow.anchors[decoded["order"]][decoded["on_image"]]
        iou = overlaps(anchors, self.objects[place : place + 1])[:, 0]
        if iou.max(initial=0) >= limit:
            return None
        box = anchors[iou.argmax()] if len(iou) else None
        return {"cause": ANCHOR, "iou": iou.max(initial=0), "limit": limit, "lost_box": box}

    def _of_anchor(self, cause, place, row):
        """The numbers of a decoded box that was lost."""
        decoded, limits = self.flow.decoded, self.flow.model.proposal_limits()
        facts = {
            "cause": cause,
            "iou": self.decoded.iou(place)[row],
            "score": 1 / (1 + np.exp(-float(decoded["scores"][row]))),
            "level": f"P{2 + decoded['level'][row]}",
            "lost_box": decoded["boxes"][row],
        }
        if cause == RANK:
            return facts | {"rank": decoded["rank"][row] + 1, "limit": limits["pre_nms"]}
        if cause == PROPOSAL_CAP:
            return facts | {"rank": self.survivor[row] + 1, "limit": limits["post_nms"]}
        return facts | self._proposal_that_won(row, limits["nms_threshold"]) if cause == RPN_NMS else facts

    def _proposal_that_won(self, row, threshold):
        decoded, rows = self.flow.decoded, self.flow.survivors
        rivals = (decoded["level"][rows] == decoded["level"][row]) & (decoded["scores"][rows] >= decoded["scores"][row])
        rows = rows[rivals]
        iou = overlaps(decoded["boxes"][row][None], decoded["boxes"][rows])[0]
        winner, iou = _first_above(rows, iou, threshold)
        score = 1 / (1 + np.exp(-float(decoded["scores"][winner])))
        box = decoded["boxes"][winner]
        return {"winner_box": box, "winner_score": score, "winner_iou": iou, "limit": threshold}

    # What the heads would make of boxes that the RPN lost ------------------------------------------------------

    def _would_be_found(self):
        """Dict from place to the facts of the RPN's last stage that lost a box by which the object would be found."""
        jobs = []
        for place in self.seen.missed:
            rows = self.decoded.of(place, self.config.roi_iou)
            reached = self.proposals.iou(place)[self.proposals.of(place, self.config.roi_iou)].max(initial=0)
            rows = rows[self.decoded.iou(place)[rows] > reached + _BETTER]
            for cause, among in self._stages():
                jobs += [(place, cause, row) for row in rows[among[rows]][:_TRIED]]
        if not jobs:
            return {}
        pairs = self.flow.classify(self.flow.decoded["boxes"][[row for _, _, row in jobs]])
        boxes = Boxes(pairs["boxes"], self.objects, pairs["passed"])
        good = []  # (job, its pair)
        for number, (place, *_) in enumerate(jobs):
            among = (pairs["rows"] == number) & (pairs["labels"] == self.labels[place])
            rows = boxes.of(place, self.least, among & (pairs["scores"] > self.thresholds[place]))
            if len(rows) and self._survives(pairs, rows[0], self.labels[place]):
                good.append((jobs[number], rows[0]))
        if not good:
            return {}
        chosen = [pair for _, pair in good]
        described = self.flow.describe(*(pairs[name][chosen] for name in ("boxes", "scores", "labels")))
        matching = self.seen.would_match(described, [place for (place, *_), _ in good])
        lost = {}
        for ((place, cause, row), _), matches in zip(good, matching, strict=True):
            if matches and place not in lost:
                lost[place] = self._rank_or_anchor(cause, place, row)
        return lost

    def _survives(self, pairs, row, label):
        """Whether a further pair would enter and pass the final NMS, and be among the best."""
        candidates, kept, score = self.flow.candidates, self.flow.kept, pairs["scores"][row]
        better = kept[candidates["scores"][kept] >= score]
        rivals = better if self.agnostic else better[candidates["labels"][better] == label]
        iou = overlaps(pairs["boxes"][row][None], candidates["boxes"][rivals])[0]
        surer, limits = int((self.flow.pairs["scores"] > score).sum()), self.flow.limits
        counted = surer < limits["candidates"] and len(better) < limits["max_detections"]
        return counted and not (iou > self._nms_threshold()).any()


def _first_above(rows, iou, threshold):
    """(the first row whose IoU is above a threshold, or that of the highest IoU; its IoU)."""
    above = np.flatnonzero(iou > threshold)
    place = above[0] if len(above) else int(iou.argmax())
    return rows[place], float(iou[place])
