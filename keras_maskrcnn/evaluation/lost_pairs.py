"""Where the choice of detections lost the pairs of a proposal and a class: at the threshold, in NMS, beyond a cap.

Comes in: `Flow` and the objects of an image in network pixels. Goes out: for each pair the stage that lost it, and the
numbers that show it. Called by `judge.py`.
"""

import functools

import numpy as np
from keras import ops

from keras_maskrcnn.evaluation.causes import BOX, CAP, NMS, SHARED, THRESHOLD
from keras_maskrcnn.evaluation.flow import Boxes, first_above, overlaps
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.network.detections import suppress_pairs

UNSURE = 0.05  # objects with a higher score are found, though with a low one: the least score in the paper's code

_HIGHER = tuple(step / 20 for step in range(1, 20)) + (1.0,)  # limits of NMS that are tried, as the remedies name them


class LostPairs:
    """The pairs of an image beside its objects.

    Args:
        flow: Flow. objects: float (G, 4), network pixels. seen: as for `Judge`. names: of the classes, background last.

    Attributes:
        pairs: `flow.pairs`, by descending score. boxes: Boxes of them. kept: int, the pairs that NMS keeps, best first.
        likely: bool (n,), whether the box head sees the class at all: it prefers it, or gives it more than `UNSURE`.
    """

    def __init__(self, flow, objects, seen, names):
        self.flow, self.pairs, self.seen, self.names = flow, flow.pairs, seen, names
        self.boxes = Boxes(self.pairs["boxes"], objects, self.pairs["passed"])
        num_classes = flow.model.config.num_classes
        self.agnostic = flow.model.config.class_agnostic_nms or num_classes == 1
        # Without any proposal the pairs are padding, which is background.
        probabilities = flow.probabilities if len(flow.probabilities) else np.eye(1, num_classes + 1, num_classes)
        self.favourite = probabilities.argmax(axis=1)[self.pairs["rows"]]
        own = probabilities[self.pairs["rows"], self.pairs["labels"]]
        self.likely = (self.favourite == self.pairs["labels"]) | (own > UNSURE)
        candidates = self._rows_of(flow.candidates)
        self.kept = candidates[flow.kept]
        self._entered = np.zeros(len(own), bool)
        self._entered[candidates[flow.candidates["passed"]]] = True
        self._rank = np.full(len(own), NONE)
        self._rank[self.kept] = np.arange(len(self.kept))
        self._at = {}  # limit of the final NMS -> what it would keep
        self._above = self.pairs["scores"] > flow.thresholds[self.pairs["labels"]]

    def _rows_of(self, candidates):
        """Which pair each candidate is; NONE for padding."""
        num_classes = self.flow.probabilities.shape[1] - 1
        keys = [pairs["rows"] * num_classes + pairs["labels"] for pairs in (self.pairs, candidates)]
        places = np.full(max((each.max(initial=0) for each in keys), default=0) + 1, NONE)
        places[keys[0]] = np.arange(len(keys[0]))
        return places[keys[1]]

    def stages(self):
        """[(cause, bool (n,): the pairs that it takes away)], the last stage first."""
        return [
            (CAP, self._rank >= self.flow.limits["max_detections"]),
            (NMS, self._entered & (self._rank == NONE)),
            (CAP, self._above & ~self._entered),
            (THRESHOLD, ~self._above & self.likely),
        ]

    def of(self, place):
        """An object's pairs of the right class whose boxes match it, the one of the highest score first."""
        return np.sort(self.boxes.of(place, self.seen.least, self._of_class(place)))

    def near(self, place):
        """All pairs of the right class whose boxes reach the object, the one of the highest score first."""
        return np.sort(self.boxes.near(place, self.seen, self._of_class(place)))

    def _of_class(self, place):
        return self.pairs["labels"] == self.seen.labels[place]

    def last_stage(self, place):
        """The facts of the last stage that a pair of the object reached, or None: the box head has none for it."""
        rows = self.of(place)
        ranks = self._rank[rows]
        if ((ranks != NONE) & (ranks < self.flow.limits["max_detections"])).any():
            rank = ranks[ranks != NONE].min()
            cause = SHARED if self.seen.detections[rank] != NONE else BOX
            return {"cause": cause, "limit": self.seen.least, **self.numbers(self.kept[rank], place)}
        for cause, among in self.stages():
            if among[rows].any():
                return self.facts(cause, rows[among[rows]][0], place)
        return None

    # Would it be found? ------------------------------------------------------------------------------------------

    def found_if_spared(self, cause, row, place):
        """Whether a pair that this stage lost would have become a detection of the object without that loss.

        What NMS suppresses beside a good box of the same object is a duplicate, and no loss. With a higher limit of NMS
        others are kept as well, and the cap may leave it out.
        """
        if cause == THRESHOLD:  # with a lower threshold others enter as well, and may suppress it
            return row in self._kept_below_threshold
        if cause == NMS:
            winner, iou = self._suppressor(row)
            return winner not in self.of(place) and any(row in self._kept_at(limit) for limit in _HIGHER if limit > iou)
        if self._rank[row] != NONE:  # beyond the cap
            return True
        return self.survives(*(self.pairs[name][row] for name in ("boxes", "scores", "labels")), entered=True)

    def survives(self, box, score, label, entered=False):
        """Whether a further pair would pass the final NMS, and be among the best.

        Args:
            box: float (4,), network pixels. score: float. label: int.
            entered: whether `detection_candidates` does not count.
        """
        kept, limits = self.kept, self.flow.limits
        better = kept[self.pairs["scores"][kept] >= score]
        rivals = better if self.agnostic else better[self.pairs["labels"][better] == label]
        iou = overlaps(box[None], self.pairs["boxes"][rivals])[0]
        surer = 0 if entered else int((self.pairs["scores"] > score).sum())
        counted = surer < limits["candidates"] and len(better) < limits["max_detections"]
        return bool(counted and not (iou > self._nms_threshold()).any())

    @functools.cached_property
    def _kept_below_threshold(self):
        """The pairs that become detections if every likely one enters the final NMS: a set."""
        wanted = np.flatnonzero((self.likely | self._above) & self.pairs["passed"])
        return self._selected(wanted[: self.flow.limits["candidates"]], self._nms_threshold())

    def _kept_at(self, nms_threshold):
        """The pairs that become detections with another limit of the final NMS: a set."""
        if nms_threshold not in self._at:
            self._at[nms_threshold] = self._selected(np.flatnonzero(self._entered), nms_threshold)
        return self._at[nms_threshold]

    def _selected(self, rows, nms_threshold):
        """The rows that NMS with this limit and the cap keep: a set."""
        count = max(len(rows), min(self.flow.limits["candidates"], len(self.likely)))  # JAX compiles each number
        padded = np.zeros(count, np.int64)
        padded[: len(rows)] = rows
        ranked = {name: ops.convert_to_tensor(self.pairs[name][padded][None]) for name in ("boxes", "scores", "labels")}
        ranked["passed"] = ops.convert_to_tensor(np.arange(count)[None] < len(rows))
        kept, keep = suppress_pairs(ranked, nms_threshold, self.agnostic, self.flow.limits["max_detections"])
        return set(padded[ops.convert_to_numpy(kept)[0][ops.convert_to_numpy(keep)[0]]].tolist())

    # The numbers -------------------------------------------------------------------------------------------------

    def numbers(self, row, place):
        """What every record of a pair has."""
        box, score = self.pairs["boxes"][row], self.pairs["scores"][row]
        return {"score": score, "iou": self.boxes.iou(place)[row], "lost_box": box}

    def facts(self, cause, row, place):
        """The fields of `Miss` for a pair that a stage lost."""
        facts, limits = {"cause": cause, **self.numbers(row, place)}, self.flow.limits
        if cause == NMS:
            return facts | self._winner(row)
        if cause == THRESHOLD:
            favourite, label = self.favourite[row], self.pairs["labels"][row]
            seen = {} if favourite == label else {"seen_as": self.names[favourite]}
            return facts | {"limit": self.flow.thresholds[label], **seen}
        if self._rank[row] != NONE:
            return facts | {"rank": self._rank[row] + 1, "limit": limits["max_detections"]}
        return facts | {"rank": row + 1, "limit": limits["candidates"]}

    def _suppressor(self, row):
        """(the first detection that suppresses a pair, their IoU)."""
        pairs, rows = self.pairs, self.kept
        rivals = pairs["scores"][rows] >= pairs["scores"][row]
        if not self.agnostic:
            rivals &= pairs["labels"][rows] == pairs["labels"][row]
        rows = rows[rivals]
        return first_above(rows, overlaps(pairs["boxes"][row][None], pairs["boxes"][rows])[0], self._nms_threshold())

    def _winner(self, row):
        pairs = self.pairs
        winner, iou = self._suppressor(row)
        return {
            "limit": self._nms_threshold(),
            "winner_box": pairs["boxes"][winner],
            "winner_score": pairs["scores"][winner],
            "winner_class": self.names[pairs["labels"][winner]],
            "winner_iou": iou,
        }

    def _nms_threshold(self):
        return float(np.ravel(self.flow.limits["nms_threshold"])[0])
