"""Labels that are probably wrong, as a model sees them: ranked by one number, so that the worst are corrected first.

Comes in: `Matches` of detections by a model that was not trained on these images (or at least not for long enough to
learn their labels by heart). Goes out: a list of `Suspect`, and a COCO dictionary for a labelling tool. Called by
`pages/suspect_section.py` and by users. `docs/errors.md` gives the rules.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.evaluation.calibration import calibrated, isotonic_table
from keras_maskrcnn.evaluation.errors import BACKGROUND_IOU
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.geometry.rle import parse_counts
from keras_maskrcnn.inference.arguments import USUAL_SCORE

UNLABELLED, WRONG_CLASS, OUTLINE, UNSEEN = KINDS = ("unlabelled", "wrong class", "poor outline", "not predicted")
LEAST = 0.3  # suspicion from which on a label is listed
_USUAL_IOUS = 0.6, 0.85  # 5th percentile and median, of a class without right detections
_LEAST_DISTANCE = 0.05  # of the two: outlines are never exact
_NOTHING = 0.5  # see "not predicted"


@dataclasses.dataclass(frozen=True)
class Suspect:
    """One label that may be wrong, or missing.

    Args:
        kind: one of `KINDS`. suspicion: float in 0..1, about the probability that the label is wrong.
        detection, object: positions in the columns of the matches, or NONE.
    """

    kind: str
    suspicion: float
    detection: int
    object: int


def find_suspects(matches, least=LEAST):
    """Find labels that a model contradicts. Each label is listed once, for the reason with the highest suspicion.

    With `s` the share of right ones among detections of such scores, by isotonic regression over all of them:

    - "unlabelled": a detection that overlaps no label by more than 0.1. Suspicion: s.
    - "wrong class": a detection at the place of a label of another class (IoU of a match). Suspicion: s, times one
      minus the highest s of a detection with the label's own class there.
    - "poor outline": the detection of a label has a lower IoU than is usual. Suspicion: s, times how far the IoU is
      below the median of right detections of the class, in threefold distances of the 5th percentile, at most 1.
    - "not predicted": no detection matches the label. Suspicion: half the share of labels of the class that are found
      with a score of at least 0.5, times one minus the highest s of a detection of the class that overlaps the label by
      more than 0.1, or of another class that is at its place. Half, because detectors overlook objects more often than
      people label nothing.

    Args:
        matches: Matches. least: float, suspicions below it are left out.

    Returns:
        List of Suspect, the highest suspicion first.
    """
    of_labels, sure = {}, _sureness(matches)
    for found in (_wrong_classes(matches, sure), _outlines(matches, sure), _unseen(matches, sure)):
        for suspect in found:
            known = of_labels.get(suspect.object)
            if known is None or suspect.suspicion > known.suspicion:
                of_labels[suspect.object] = suspect
    suspects = [*_unlabelled(matches, sure), *of_labels.values()]
    return sorted((one for one in suspects if one.suspicion >= least), key=lambda one: -one.suspicion)


def _sureness(matches):
    """Float (D,): the share of right ones among detections of such scores."""
    counted = ~matches.ignored
    if not counted.any():
        return np.zeros(len(matches.score))
    return calibrated(matches.score, isotonic_table(matches.score[counted], matches.right[counted]))


def _unlabelled(matches, sure):
    overlap = np.maximum(matches.own_iou, matches.other_iou)
    rows = np.flatnonzero((overlap <= BACKGROUND_IOU) & ~matches.ignored & ~matches.right)
    return [Suspect(UNLABELLED, float(sure[row]), int(row), NONE) for row in rows]


def _wrong_classes(matches, sure):
    own = np.zeros(len(matches.gt_row))  # what speaks for the label's own class
    there = (matches.own != NONE) & (matches.own_iou >= matches.iou)
    np.maximum.at(own, matches.own[there], sure[there])
    rows = np.flatnonzero((matches.other_iou >= matches.iou) & ~matches.right & ~matches.ignored)
    return [
        Suspect(WRONG_CLASS, float(sure[row] * (1 - own[place])), int(row), int(place))
        for row, place in zip(rows, matches.other[rows], strict=True)
    ]


def _outlines(matches, sure):
    usual = _usual_ious(matches)
    suspects = []
    for row, place in _detections_of_labels(matches).items():
        median, distance = usual[int(matches.category[row])]
        lacking = np.clip((median - matches.own_iou[row]) / (3 * distance), 0, 1)
        suspects.append(Suspect(OUTLINE, float(sure[row] * lacking), row, place))
    return suspects


def _usual_ious(matches):
    """Dict from category id to (median IoU of right detections, how far the 5th percentile is below it)."""
    usual = {}
    for key in set(matches.category.tolist()):
        ious = matches.own_iou[matches.right & (matches.category == key)]
        low, median = np.percentile(ious, [5, 50]) if len(ious) else _USUAL_IOUS
        usual[key] = float(median), max(_LEAST_DISTANCE, float(median - low))
    return usual


def _detections_of_labels(matches):
    """Dict from detection to label: those that match, and for labels without one the surest that overlaps it most."""
    chosen = {int(detection): place for place, detection in enumerate(matches.gt_detection) if detection != NONE}
    free = matches.gt_detection == NONE
    near = (matches.own != NONE) & (matches.own_iou > BACKGROUND_IOU) & ~matches.right & ~matches.ignored
    for row in np.flatnonzero(near):  # by descending score in each image
        place = int(matches.own[row])
        if free[place]:
            free[place] = False
            chosen[int(row)] = place
    return chosen


def _unseen(matches, sure):
    seen = np.where(matches.gt_detection == NONE, 0.0, 1.0)
    near = (matches.own != NONE) & (matches.own_iou > BACKGROUND_IOU)
    other = (matches.other != NONE) & (matches.other_iou >= matches.iou)
    np.maximum.at(seen, matches.own[near], sure[near])
    np.maximum.at(seen, matches.other[other], sure[other])
    found, matched = np.zeros(len(seen), bool), matches.gt_detection != NONE
    found[matched] = matches.score[matches.gt_detection[matched]] >= USUAL_SCORE
    shares = {key: float(found[matches.gt_category == key].mean()) for key in matches.num_objects}
    return [
        Suspect(UNSEEN, _NOTHING * shares[int(matches.gt_category[place])] * float(1 - seen[place]), NONE, int(place))
        for place in np.flatnonzero(seen < 1)
    ]


def suspect_entry(suspect, matches, truth, detections):
    """What a list of suspects says about one: dict of plain values, boxes in image pixels as COCO has them."""
    image = matches.image[suspect.detection] if suspect.detection != NONE else matches.gt_image[suspect.object]
    entry = {"suspicion": round(suspect.suspicion, 4), "kind": suspect.kind, "image_id": matches.image_ids[image]}
    if suspect.object != NONE:
        label = truth["annotations"][matches.gt_row[suspect.object]]
        entry |= {"annotation_id": label.get("id"), "labelled": matches.names[int(label["category_id"])]}
        entry |= {"labelled_box": list(label["bbox"])}
    if suspect.detection != NONE:
        found = detections[matches.row[suspect.detection]]
        key = int(found["category_id"])
        own = matches.own[suspect.detection] == suspect.object
        iou = (matches.own_iou if own else matches.other_iou)[suspect.detection] if suspect.object != NONE else 0.0
        entry |= {"detected": matches.names.get(key, str(key)), "score": found["score"], "iou": round(float(iou), 4)}
        entry |= {"detected_box": list(found["bbox"])}
    return entry


def suspicious_coco(suspects, matches, truth, detections):
    """A COCO dictionary of the images with suspects, to open in a labelling tool.

    It holds all labels of these images. Suspicious ones have three more keys: `suspicion`, `suspicion_kind` and, for a
    wrong class, `suggested_category_id`. An unlabelled object is an annotation of its own with these keys and `score`.

    Args:
        suspects: list of Suspect. matches: Matches. truth, detections: those that were matched.

    Returns:
        dict with images, annotations and categories. The order of images is that of their worst suspect.
    """
    notes, added, order = {}, [], {}
    ids = [entry["id"] for entry in truth["annotations"] if isinstance(entry.get("id"), int)]
    for suspect in suspects:
        entry = suspect_entry(suspect, matches, truth, detections)
        order.setdefault(entry["image_id"], len(order))
        keys = {"suspicion": entry["suspicion"], "suspicion_kind": suspect.kind}
        found = detections[matches.row[suspect.detection]] if suspect.detection != NONE else None
        if suspect.object == NONE:
            added.append(_as_annotation(found, truth) | keys | {"id": max(ids, default=0) + len(added) + 1})
        else:
            more = {"suggested_category_id": int(found["category_id"])} if suspect.kind == WRONG_CLASS else {}
            notes[int(matches.gt_row[suspect.object])] = keys | more
    labels = [
        entry | notes.get(row, {}) for row, entry in enumerate(truth["annotations"]) if entry["image_id"] in order
    ]
    images = [image for image in truth["images"] if image["id"] in order]
    return {
        "images": sorted(images, key=lambda image: order[image["id"]]),
        "annotations": [*labels, *added],
        "categories": truth["categories"],
    }


def _as_annotation(found, truth):
    """A COCO result as an annotation."""
    area = found["bbox"][2] * found["bbox"][3]
    entry = {"image_id": found["image_id"], "category_id": int(found["category_id"]), "bbox": list(found["bbox"])}
    code = found.get("segmentation")
    if isinstance(code, dict):
        counts = code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"]
        entry["segmentation"] = {"size": [int(side) for side in code["size"]], "counts": counts}
        area = int(parse_counts(counts)[1::2].sum())
    else:
        x, y, width, height = found["bbox"]
        box = [x, y, x + width, y, x + width, y + height, x, y + height]
        entry["segmentation"] = code or [box]
    return entry | {"area": area, "iscrowd": 0, "score": found["score"]}
