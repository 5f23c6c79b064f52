"""One image on its way through a model, stage by stage: what every stage was given, and what it kept.

Comes in: a MaskRCNN and one image as its batch. Goes out: `Flow`, numpy arrays in network pixels. The stages are the
model's own functions, run eagerly with the model's own numbers. Called by `misses.py`.
"""

import numpy as np
from keras import ops

from keras_maskrcnn.geometry.boxes import pairwise_iou
from keras_maskrcnn.network.detections import rank_pairs, select_detections, suppress_pairs
from keras_maskrcnn.network.rpn import NEVER, rank_anchors, suppress_ranked

_CHUNK = 8192  # boxes compared with all objects at once
_TIE = 1e-5  # of IoU: objects with the same box have the same boxes
_OF_PAIRS = ("calibration", "box_weights", "min_box_size", "max_log_scale")  # limits that thresholds do not change
_ROWS = 64  # boxes that are classified later come in multiples of this: JAX compiles each number of them


class Boxes:
    """Boxes of one stage beside the objects of an image: how they overlap, and whose each is.

    A box belongs to the object that it overlaps most, as in training.

    Args:
        boxes: float (n, [x1, y1, x2, y2]). objects: float (G, 4), the same frame. valid: bool (n,), or None for all.
    """

    def __init__(self, boxes, objects, valid=None):
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self.objects = np.asarray(objects, np.float32).reshape(-1, 4)
        self.valid = np.ones(len(self.boxes), bool) if valid is None else np.asarray(valid, bool)
        parts = [overlaps(part, self.objects) for part in _chunks(self.boxes)]
        self.highest = np.concatenate([part.max(axis=1, initial=0) for part in parts] or [np.zeros(0)])

    def iou(self, place):
        """Float (n,), with one object."""
        return overlaps(self.boxes, self.objects[place : place + 1])[:, 0]

    def of(self, place, least, among=None):
        """The rows of an object's own boxes with at least this IoU, best first; among: bool (n,), rows to look at."""
        iou = self.iou(place)
        wanted = self.valid & (iou >= least) & (iou >= self.highest - _TIE)
        rows = np.flatnonzero(wanted if among is None else wanted & among)
        return rows[np.argsort(-iou[rows], kind="stable")]

    def near(self, place, seen, among):
        """The object's own rows of `among` that match it, best first, then the others that reach it, in order.

        Args:
            place: int. seen: object with `least` and `reach`, the IoU from which a box matches and may match. among:
                bool (n,), rows to look at.
        """
        own = self.of(place, seen.least, among)
        rows = np.flatnonzero(self.valid & among & (self.iou(place) >= seen.reach))
        return np.concatenate([own, rows[~np.isin(rows, own)]])


def overlaps(boxes, others):
    """Float (n, m), the IoU of every pair of boxes."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)), np.float32)
    return ops.convert_to_numpy(pairwise_iou(boxes, others))


def first_above(rows, iou, threshold):
    """(the first row whose IoU is above a threshold, or that of the highest IoU; its IoU)."""
    above = np.flatnonzero(iou > threshold)
    place = above[0] if len(above) else int(iou.argmax())
    return rows[place], float(iou[place])


def _chunks(boxes):
    return [boxes[start : start + _CHUNK] for start in range(0, len(boxes), _CHUNK)]


class Flow:
    """What the stages of a model do with one image. Boxes are in network pixels; n differs from stage to stage.

    Args:
        model: MaskRCNN.
        inputs: dict of images (1, H, W, C) and image_sizes (1, 2), as `NetworkBatch` makes them.
        options: None, or dict as for `MaskRCNN.call`.

    Attributes:
        anchors: float (N, 4). decoded: dict of all anchors after the RPN moved them: boxes (N, 4), scores (N,) logits,
            order (N,) rows of `anchors`, valid (N,), on_image (N,): valid but for the least size, level (N,), rank
            (N,) on the level, from 0.
        thresholds: float (K,), the score that detections of each class must exceed.
        ranked: bool (N,), rows of `decoded` above the RPN's cut. survivors: int, rows of `decoded` that the RPN's NMS
            keeps, best first. num_proposals: int: so many of these become proposals.
        proposals: float (P, 4). probabilities: float (P, K + 1), background last.
        pairs: dict of all pairs of a proposal and a class, refined: boxes, scores, labels, rows, passed.
        candidates: the same, of those that enter the final NMS. kept: int, rows of `candidates` that it keeps, best
            first. outputs: dict of numpy arrays, what `MaskRCNN.call` returns.
    """

    def __init__(self, model, inputs, options=None):
        self.model, self.limits = model, model.detection_limits(options)
        self.thresholds = _thresholds(self.limits, model.config.num_classes)
        images, sizes = inputs["images"], ops.cast(inputs["image_sizes"], "int32")
        self.features = model.extract_features(ops.convert_to_tensor(images), sizes)
        proposals = model.propose(self.features)
        self._look_at_rpn(proposals)
        classified = model.classify(self.features, proposals)
        self._look_at_heads(proposals, classified)
        detections = select_detections(**classified, **self.limits)  # `MaskRCNN.detect`, without a second `classify`
        outputs = model.describe(self.features, detections)
        self.outputs = {name: ops.convert_to_numpy(value) for name, value in outputs.items()}

    def _look_at_rpn(self, proposals):
        limits, rpn = self.model.proposal_limits(), ("logits", "deltas", "anchors", "anchors_valid")
        given = {name: proposals[name] for name in rpn} | self.model.frame.canvas_limits(self.features["image_sizes"])
        given |= {name: limits[name] for name in ("min_size", "box_weights", "max_log_scale")}
        sizes = [int(level.shape[1]) for level in proposals["logits"]]
        decoded = _of_image(rank_anchors(**given, pre_nms=max(sizes)))
        level = np.repeat(np.arange(len(sizes)), sizes)
        rank = np.concatenate([np.arange(size) for size in sizes])
        on_image = decoded["scores"] > NEVER / 2
        self.anchors = ops.convert_to_numpy(ops.concatenate(proposals["anchors"], axis=0))
        self.decoded = decoded | {"level": level, "rank": rank, "on_image": on_image}
        ranked = rank_anchors(**given, pre_nms=limits["pre_nms"])
        self.ranked = rank < limits["pre_nms"]
        kept, keep = suppress_ranked(ranked, limits["nms_threshold"], sum(int(size) for size in ranked["sizes"]))
        kept = ops.convert_to_numpy(kept)[0][ops.convert_to_numpy(keep)[0]]
        self.survivors = np.flatnonzero(self.ranked)[kept]
        valid = ops.convert_to_numpy(proposals["valid"])[0]
        self.num_proposals = int(valid.sum())
        self.proposals = ops.convert_to_numpy(proposals["boxes"])[0][valid]

    def _look_at_heads(self, proposals, classified):
        valid = ops.convert_to_numpy(proposals["valid"])[0]
        self.probabilities = ops.convert_to_numpy(ops.softmax(classified["class_logits"], axis=-1))[0][valid]
        self.pairs = self._all_pairs(classified)
        names = ("score_threshold", "class_thresholds", "candidates", *_OF_PAIRS)
        candidates = rank_pairs(**classified, **{name: self.limits[name] for name in names})
        agnostic = self.limits["class_agnostic_nms"] or self.model.config.num_classes == 1
        count = int(candidates["scores"].shape[1])
        kept, keep = suppress_pairs(candidates, self.limits["nms_threshold"], agnostic, count)
        self.candidates = without_padding(_of_image(candidates))
        self.kept = ops.convert_to_numpy(kept)[0][ops.convert_to_numpy(keep)[0]]

    def _all_pairs(self, classified):
        num_pairs = int(np.prod(classified["class_logits"].shape[1:]))
        numbers = {name: self.limits[name] for name in _OF_PAIRS}
        pairs = rank_pairs(**classified, **numbers, score_threshold=0.0, candidates=num_pairs)
        return without_padding(_of_image(pairs))

    def classify(self, boxes):
        """What the heads would make of other boxes: pairs as in `pairs`, `rows` of these boxes (n, 4)."""
        count = len(boxes)
        padded = np.zeros((1, -(-count // _ROWS) * _ROWS, 4), np.float32)
        padded[0, :count] = boxes
        valid = np.arange(padded.shape[1])[None] < count
        given = {"boxes": ops.convert_to_tensor(padded), "valid": ops.convert_to_tensor(valid)}
        return self._all_pairs(self.model.classify(self.features, given))

    def describe(self, boxes, scores, labels):
        """What the branches would find in n other detections: as `outputs`. boxes: (n, 4); scores, labels: (n,)."""
        most, parts = self.model.config.max_detections, []
        for start in range(0, len(boxes), most):
            rows = slice(start, start + most)
            part = {"boxes": boxes[rows], "scores": scores[rows], "labels": labels[rows]}
            part["valid"] = np.ones(len(part["boxes"]), bool)
            padding = most - len(part["boxes"])  # JAX compiles each number of boxes
            for name, values in part.items():
                part[name] = np.pad(values, [(0, padding), *[(0, 0)] * (values.ndim - 1)])[None]
            described = self.model.describe(self.features, {k: ops.convert_to_tensor(v) for k, v in part.items()})
            parts.append(
                {name: ops.convert_to_numpy(values)[:, : most - padding] for name, values in described.items()}
            )
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _thresholds(limits, num_classes):
    """Float (K,): what the final scores of the only image must exceed."""
    lowest = limits["score_threshold"]
    if limits["calibration"] is not None:
        lowest = [
            np.interp(np.ravel(ops.convert_to_numpy(lowest))[0], *np.transpose(table))
            for table in limits["calibration"]
        ]
    thresholds = np.broadcast_to(np.ravel(ops.convert_to_numpy(lowest)), num_classes)
    if limits["class_thresholds"] is not None:
        thresholds = np.maximum(thresholds, np.ravel(ops.convert_to_numpy(limits["class_thresholds"])))
    return thresholds


def without_padding(pairs):
    """Pairs up to the last that has a score, at least one: on JAX, sizes are fixed and padded proposals have pairs."""
    count = max(1, int((pairs["scores"] > 0).sum()))
    return {name: values[:count] for name, values in pairs.items()}


def _of_image(ranked):
    """The arrays of the only image, as numpy."""
    return {name: ops.convert_to_numpy(values)[0] for name, values in ranked.items() if name != "sizes"}
