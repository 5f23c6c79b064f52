"""Curves of matched detections: precision over recall, scores of right and wrong ones, reliability of scores.

Comes in: `Matches`. Goes out: small arrays and dictionaries of plain numbers, for pages and JSON. Called by
`errors.py` and `pages/errors_page.py`. Detections that are ignored (crowd regions) count nowhere.
"""

import numpy as np

RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


def precision_at_recalls(scores, right, num_objects):
    """COCO's precision at each of `RECALLS`: the highest one at this recall or a higher one.

    Args:
        scores: float (N,), detections of one class; of equal scores the first given counts first.
        right: bool (N,). num_objects: int, at least 1.

    Returns:
        float64 (101,), 0 beyond the recall that is reached. The mean is the average precision.
    """
    right = np.asarray(right, bool)[np.argsort(-np.asarray(scores, np.float64), kind="stable")]
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / num_objects, RECALLS, side="left")
    return np.append(precision, 0.0)[places]


def precision_recall(matches):
    """The precision-recall curve of each class with objects, at the IoU of the matches.

    Returns:
        Dict from category id to a dict: `precision` (101 floats, at `RECALLS`), `ap` (their mean), `objects` (int),
        `best_f1` and `best_score`: the highest F1 that a score threshold gives, and that threshold (0 without
        detections).
    """
    curves = {}
    for key, count in matches.num_objects.items():
        rows = (matches.category == key) & ~matches.ignored
        scores, right = matches.score[rows], matches.right[rows]
        precision = precision_at_recalls(scores, right, count)
        f1, score = _best_f1(scores, right, count)
        curves[key] = {
            "precision": precision,
            "ap": float(precision.mean()),
            "objects": count,
            "best_f1": f1,
            "best_score": score,
        }
    return curves


def _best_f1(scores, right, num_objects):
    """(F1, least score that is kept) at the best threshold; detections of equal scores are kept together."""
    if not len(scores):
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    last = np.append(scores[1:] != scores[:-1], True)  # of the detections with this score
    f1 = np.where(last, 2 * hits / (np.arange(1, len(hits) + 1) + num_objects), -1.0)
    best = int(f1.argmax())
    return float(f1[best]), float(scores[best])


def score_histogram(matches, bins=20):
    """How many detections are right and wrong, by score.

    Returns:
        Dict of lists: `edges` (bins + 1 floats, from 0 to 1), `right` and `wrong` (bins ints). Scores outside 0..1
        count in the first or the last bin.
    """
    counted = ~matches.ignored
    place = _places(matches.score, bins)
    counts = [np.bincount(place[counted & which], minlength=bins) for which in (matches.right, ~matches.right)]
    return {"edges": np.linspace(0, 1, bins + 1).tolist(), "right": counts[0].tolist(), "wrong": counts[1].tolist()}


def reliability(matches, bins=10):
    """Whether scores are probabilities: in each bin of scores, the mean score beside the share that is right.

    What is right depends on the IoU of the matches.

    Returns:
        Dict: `edges` (bins + 1 floats), `count` (bins ints), `score` and `right` (bins floats, None where the bin is
        empty), `calibration_error` (float, None without detections: see the function).
    """
    counted = ~matches.ignored
    place, scores, right = _places(matches.score, bins)[counted], matches.score[counted], matches.right[counted]
    count = np.bincount(place, minlength=bins)
    score, share = (_means(values, place, count) for values in (scores, right.astype(np.float64)))
    return {
        "edges": np.linspace(0, 1, bins + 1).tolist(),
        "count": count.tolist(),
        "score": score,
        "right": share,
        "calibration_error": calibration_error(scores, right, bins),
    }


def calibration_error(scores, right, bins=10):
    """The expected calibration error: how far scores are from the share that is right, on average.

    In each bin of scores the distance of the mean score and the share, weighted by the number of detections (Guo et
    al., On calibration of modern neural networks, 2017, eq. 5; for detections Kueppers et al., 2020, without the
    place).

    Args:
        scores: float (N,). right: bool (N,).

    Returns:
        float, or None without detections.
    """
    if not len(scores):
        return None
    place = _places(scores, bins)
    gaps = np.bincount(place, scores, bins) - np.bincount(place, np.asarray(right, np.float64), bins)
    return float(np.abs(gaps).sum() / len(scores))


def _places(scores, bins):
    """The bin of each score: int (N,). A score on an edge belongs to the bin above it, 1 to the last."""
    return np.clip(np.floor(scores * bins), 0, bins - 1).astype(np.int64)


def _means(values, place, count):
    sums = np.bincount(place, values, minlength=len(count))
    return [float(total / n) if n else None for total, n in zip(sums, count, strict=True)]
