"""Why objects are missed, in words: the causes in the order of the data flow, sentences and remedies.

Comes in: records of `misses.py`. Goes out: text. Called by `misses.py` and by pages.
"""

import collections
import math

import numpy as np

(
    ANCHOR, PROPOSAL_BOX, RANK, RPN_NMS, PROPOSAL_CAP, CLASS, BOX, THRESHOLD, NMS, CAP, MASK, SHARED
) = CAUSES = (
    "no anchor", "poor proposal", "RPN rank", "RPN NMS", "proposal cap", "class", "poor box", "threshold", "NMS", "cap",
    "poor mask", "shared",
)  # fmt: skip
_PLACES = {  # where a cause loses objects
    "before the heads": (ANCHOR, PROPOSAL_BOX, RANK, RPN_NMS, PROPOSAL_CAP),
    "in the box head": (CLASS, BOX),
    "when detections are chosen": (THRESHOLD, NMS, CAP, SHARED),
    "in the mask head": (MASK,),
}
MEANING = {
    ANCHOR: "No anchor reaches the object.",
    PROPOSAL_BOX: "Anchors reach the object, but the RPN moves none of them onto it.",
    RANK: "Its boxes rank below the RPN's cut before NMS.",
    RPN_NMS: "Its boxes are lost in the RPN's NMS.",
    PROPOSAL_CAP: "Its boxes rank below the RPN's cut after NMS.",
    CLASS: "The box head takes its proposals for background or another class.",
    BOX: "Its class is right, but its refined box is too poor.",
    THRESHOLD: "Its score is not above the threshold.",
    NMS: "Its detection is lost in the final NMS.",
    CAP: "Its detection ranks beyond the cap.",
    MASK: "Its box is right, but its mask is too poor.",
    SHARED: "Its only detection matches another object at the same place.",
}


def explanation(miss):
    """One sentence with the numbers that show the cause of a Miss."""
    winner = f"{miss.winner_class or 'a box'} at {_place(miss.winner_box)}, score {_number(miss.winner_score)}"
    overlap = f"IoU {_number(miss.winner_iou)}, limit {_number(miss.limit)}"
    return {
        ANCHOR: f"no anchor reaches it: the best IoU is {_number(miss.iou)}, needed {_number(miss.limit)}",
        PROPOSAL_BOX: f"the RPN moves no anchor onto it: the best IoU is {_number(miss.iou)}",
        RANK: f"its best box ranks {miss.rank} on {miss.level}, the RPN keeps {_number(miss.limit)}",
        RPN_NMS: f"its box was lost in the RPN's NMS to {winner} ({overlap})",
        PROPOSAL_CAP: f"its best box ranks {miss.rank} after the RPN's NMS, {_number(miss.limit)} are kept",
        CLASS: f"it was taken for {miss.seen_as}; its own class scores {_number(miss.score)}",
        BOX: f"its refined box is too poor: IoU {_number(miss.iou)}",
        THRESHOLD: f"its score {_number(miss.score)} is not above {_number(miss.limit)}"
        + (f"; {miss.seen_as} scores more" if miss.seen_as else ""),
        NMS: f"it was lost in the final NMS to {winner} ({overlap})",
        CAP: f"its detection ranks {miss.rank}, {_number(miss.limit)} are kept",
        MASK: f"its mask is too poor: IoU {_number(miss.iou)}",
        SHARED: f"its detection, IoU {_number(miss.iou)}, matches another object",
    }[miss.cause]


def remedy(misses, config):
    """What to do about objects that were missed for the same cause.

    Args:
        misses: list of Miss with one cause, at least one. config: MaskRCNNConfig.

    Returns:
        str, an imperative without a full stop.
    """
    most = lambda name: max((getattr(miss, name) or 0 for miss in misses), default=0)  # noqa: E731
    limit = _number(misses[0].limit)
    cause = misses[0].cause
    if cause == ANCHOR:
        return _anchor_to_add(misses, config)
    if cause in (RPN_NMS, NMS):
        return _nms_remedy(cause, misses, config, f"{min(1, math.ceil(most('winner_iou') * 20 + 0.01) / 20):g}")
    if cause == CLASS:
        return _class_remedy(misses)
    if cause == THRESHOLD:
        return _lower_threshold(misses, config)
    if cause == CAP:
        field = "max_detections" if misses[0].limit == config.max_detections else "detection_candidates"
        return f"raise {field} from {limit} to {most('rank')}"
    return {
        PROPOSAL_BOX: _too_small(misses, "rpn_min_size", config.roi_iou)
        or f"train the RPN longer, on more objects of about {_side(misses)} pixels",
        RANK: f"raise test_pre_nms from {limit} to {most('rank')}, or train the RPN longer",
        PROPOSAL_CAP: f"raise test_post_nms from {limit} to {most('rank')}, or train the RPN longer",
        BOX: _too_small(misses, "min_box_size", misses[0].limit)
        or "train longer, and check that boxes of such objects are drawn tightly",
        MASK: "train longer or raise gt_mask_size, and check the outlines of such objects",
        SHARED: "look whether the object is labelled twice",
    }[cause]


def _lower_threshold(misses, config):
    """Which threshold to lower, and to what. `class_thresholds` are of calibrated scores, `score_threshold` is not."""
    first = misses[0]
    of_class = dict(zip(config.class_names, config.class_thresholds or ())).get(first.class_name)
    own = of_class is not None and math.isclose(of_class, first.limit, rel_tol=1e-6)
    tables = {} if own else dict(zip(config.class_names, config.calibration or ()))

    def in_the_field(miss, score):
        points = tables.get(miss.class_name)
        return score if points is None else float(np.interp(score, *np.transpose(points)[::-1]))

    lowest = min(in_the_field(miss, miss.score) for miss in misses)
    field, limit = "class_thresholds" if own else "score_threshold", _number(in_the_field(first, first.limit))
    return f"lower {field} from {limit} to {math.floor(lowest * 1000 - 1e-6) / 1000:g}, or train longer"


def summary(misses, config):
    """The sentence about a dataset: where most are lost, for which cause, and what helps.

    Args:
        misses: list of Miss. config: MaskRCNNConfig.

    Returns:
        str, such as "31 of 54 are lost before the heads: add an anchor of 8 pixels."
    """
    if not misses:
        return "No object is missed."
    counts = collections.Counter(miss.cause for miss in misses)
    place = max(_PLACES, key=lambda name: sum(counts[cause] for cause in _PLACES[name]))
    cause = max(_PLACES[place], key=lambda name: counts[name])
    lost, of_cause = sum(counts[name] for name in _PLACES[place]), counts[cause]
    advice = remedy([miss for miss in misses if miss.cause == cause], config)
    which = "" if of_cause == lost else f" {of_cause} of these: {MEANING[cause]}"
    return f"{lost} of {len(misses)} are lost {place}: {advice}.{which}"


def _anchor_to_add(misses, config):
    side, sizes, ratios = _side(misses), config.anchor_sizes, config.anchor_ratios
    if side < min(sizes) or side > max(sizes) * 2:
        return f"add an anchor of {side} pixels (anchor_sizes: {', '.join(f'{size:g}' for size in sizes)})"
    shapes = sorted(miss.network_size[1] / max(miss.network_size[0], 1e-6) for miss in misses)
    ratio = shapes[len(shapes) // 2]
    if not min(ratios) / 1.5 <= ratio <= max(ratios) * 1.5:
        return f"add an anchor ratio of {ratio:.2g} (anchor_ratios: {', '.join(f'{one:g}' for one in ratios)})"
    if all(max(side / size, size / side) > 1.5 for size in sizes):
        return f"add an anchor of {side} pixels (anchor_sizes: {', '.join(f'{size:g}' for size in sizes)})"
    return "give the model larger images (image_scale or min_size): its anchors stand too far apart for such objects"


def _side(misses):
    """The usual side of objects in network pixels, a power of two."""
    sides = sorted(math.sqrt(miss.network_size[0] * miss.network_size[1]) for miss in misses)
    return max(2, 2 ** round(math.log2(max(sides[len(sides) // 2], 1))))


def _nms_remedy(cause, misses, config, needed):
    limit = _number(misses[0].limit)
    foreign = [miss for miss in misses if miss.winner_class not in (None, miss.class_name)]
    if cause == NMS and config.class_agnostic_nms and 2 * len(foreign) > len(misses):
        return "set class_agnostic_nms=False: objects of other classes suppress it"
    return f"raise {'rpn_nms_threshold' if cause == RPN_NMS else 'nms_threshold'} from {limit} to {needed}"


def _class_remedy(misses):
    seen = collections.Counter((miss.class_name, miss.seen_as) for miss in misses)
    (name, taken_for), _ = seen.most_common(1)[0]
    if taken_for == "background":
        return f"train longer, and on more images of {name}; check that no {name} lacks a label"
    return f"train on more images of {name} and {taken_for}, and check their labels"


def _too_small(misses, field, least):
    """The boxes would do, but are smaller than the config allows."""
    return f"lower {field}" if least is not None and all((miss.iou or 0) >= least for miss in misses) else None


def _number(value):
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _place(box):
    return "-" if box is None else f"({', '.join(f'{side:.0f}' for side in box)})"
