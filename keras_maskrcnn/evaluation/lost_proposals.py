"""Where the RPN lost the boxes of an object: below its cut, in its NMS, beyond its cap; or it has none for it.

Comes in: `Flow` and the objects of an image in network pixels. Goes out: for each decoded box the stage that lost it,
and the numbers that show it. Called by `judge.py`.
"""

import numpy as np

from keras_maskrcnn.evaluation.causes import ANCHOR, PROPOSAL_BOX, PROPOSAL_CAP, RANK, RPN_NMS
from keras_maskrcnn.evaluation.flow import Boxes, first_above, overlaps
from keras_maskrcnn.evaluation.matching import NONE


class LostProposals:
    """The decoded boxes of an image beside its objects.

    Args:
        flow: Flow. objects: float (G, 4), network pixels. config: MaskRCNNConfig.

    Attributes:
        boxes: Boxes of `flow.decoded`.
    """

    def __init__(self, flow, objects, config):
        self.flow, self.objects, self.config = flow, objects, config
        self.boxes = Boxes(flow.decoded["boxes"], objects, flow.decoded["valid"])
        # Where each decoded box is among those that the RPN's NMS keeps; NONE: it is not.
        self._survivor = np.full(len(flow.decoded["boxes"]), NONE)
        self._survivor[flow.survivors] = np.arange(len(flow.survivors))

    def stages(self):
        """[(cause, bool (N,): the decoded boxes that it takes away)], the last stage first."""
        return [
            (PROPOSAL_CAP, self._survivor >= self.flow.num_proposals),
            (RPN_NMS, self.flow.ranked & (self._survivor == NONE)),
            (RANK, ~self.flow.ranked),
        ]

    def survives(self, cause, row):
        """Whether a box that one stage of the RPN took away would pass the stages that follow, if it were spared."""
        if cause == PROPOSAL_CAP:
            return True
        better = self.flow.decoded["scores"][self.flow.survivors] >= self.flow.decoded["scores"][row]
        limits = self.flow.model.proposal_limits()
        if better.sum() >= limits["post_nms"]:
            return False
        if cause == RPN_NMS:
            return True
        suppressed = (self._rivals(row)[1] > limits["nms_threshold"]).any()
        return not suppressed and not self._newcomers(row, limits["nms_threshold"]).any()

    def _newcomers(self, row, threshold):
        """Bool: the boxes between the RPN's cut and a lower one that would suppress it, if a lower cut lets them in.

        Those that a box above the cut suppresses are none.
        """
        decoded, kept = self.flow.decoded, self.flow.survivors
        level = decoded["level"] == decoded["level"][row]
        between = np.flatnonzero(
            level & ~self.flow.ranked & self.boxes.valid & (decoded["rank"] < decoded["rank"][row])
        )
        rows = between[overlaps(decoded["boxes"][row][None], decoded["boxes"][between])[0] > threshold]
        kept = kept[level[kept]]
        return ~(overlaps(decoded["boxes"][rows], decoded["boxes"][kept]) > threshold).any(axis=1)

    def nearest(self, place, among, count):
        """The boxes that the heads may still move onto an object: those nearest to it, and those nearest to being kept.

        Args:
            place: int, of the object. among: bool (N,), boxes to choose from. count: int, of each of the two.

        Returns:
            int, at most 2 * count rows with an IoU of at least `rpn_negative_iou`, whatever object they overlap most.
        """
        iou, scores = self.boxes.iou(place), self.flow.decoded["scores"]
        rows = np.flatnonzero(among & self.boxes.valid & (iou >= self.config.rpn_negative_iou))
        chosen = [rows[np.argsort(-values[rows], kind="stable")][:count] for values in (iou, scores)]
        return list(dict.fromkeys(np.concatenate(chosen).tolist()))

    def last_stage(self, place):
        """The facts of the last stage that a box of an object reached which no proposal reaches."""
        rows = self.boxes.of(place, self.config.roi_iou)
        if not len(rows):
            return self._no_box(place)
        cause, among = next((cause, among) for cause, among in self.stages() if among[rows].any())
        rows = rows[among[rows]]
        order = {PROPOSAL_CAP: self._survivor[rows], RANK: self.flow.decoded["rank"][rows]}
        return self.facts(cause, rows[np.argmin(order[cause])] if cause in order else rows[0], place)

    def facts(self, cause, row, place):
        """The fields of `Miss` for a decoded box that a stage lost.

        A low rank is no wonder where no anchor reaches the object: such anchors are trained to be background.
        """
        no_anchor = self._no_anchor(place) if cause == RANK else None
        return no_anchor or self._of_anchor(cause, place, row)

    def _no_box(self, place):
        no_anchor = self._no_anchor(place)
        if no_anchor:
            return no_anchor
        on_image = self.flow.decoded["on_image"]
        row = np.flatnonzero(on_image)[self.boxes.iou(place)[on_image].argmax()]
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
        decoded, limits = self.flow.decoded, self.flow.model.proposal_limits()
        facts = {
            "cause": cause,
            "iou": self.boxes.iou(place)[row],
            "score": _sigmoid(decoded["scores"][row]),
            "level": f"P{2 + decoded['level'][row]}",
            "lost_box": decoded["boxes"][row],
        }
        if cause == RANK:
            return facts | {"rank": decoded["rank"][row] + 1, "limit": limits["pre_nms"]}
        if cause == PROPOSAL_CAP:
            return facts | {"rank": self._survivor[row] + 1, "limit": limits["post_nms"]}
        return facts | self._winner(row, limits["nms_threshold"]) if cause == RPN_NMS else facts

    def _winner(self, row, threshold):
        """The first box of the level that suppresses a decoded one."""
        decoded = self.flow.decoded
        winner, iou = first_above(*self._rivals(row), threshold)
        return {
            "winner_box": decoded["boxes"][winner],
            "winner_score": _sigmoid(decoded["scores"][winner]),
            "winner_iou": iou,
            "limit": threshold,
        }

    def _rivals(self, row):
        """(rows of the better boxes of the level that the RPN's NMS keeps, their IoU with a decoded one)."""
        decoded, rows = self.flow.decoded, self.flow.survivors
        rivals = (decoded["level"][rows] == decoded["level"][row]) & (decoded["scores"][rows] >= decoded["scores"][row])
        rows = rows[rivals]
        return rows, overlaps(decoded["boxes"][row][None], decoded["boxes"][rows])[0]


def _sigmoid(logit):
    return 1 / (1 + np.exp(-float(logit)))
