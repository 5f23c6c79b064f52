"""The report on a model's errors as a page: what each kind costs, with pictures, and the figures behind it.

In: an `Analysis` and the dataset. Out: `index.html`, one file that contains its pictures, `report.json` with the
numbers, and `suspicious.json`, a COCO file of labels that are probably wrong. The number and the size of the pictures
are bounded, so the page of any dataset stays below 12 MB.
"""

import pathlib

import numpy as np

from keras_maskrcnn.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    FALSE_NEGATIVES,
    FALSE_POSITIVES,
    KINDS,
    LOCALISATION,
    MISSED,
)
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.evaluation.suspects import find_suspects
from keras_maskrcnn.host.files import write_json
from keras_maskrcnn.pages import charts
from keras_maskrcnn.pages.error_scenes import Scenes, overlap_with
from keras_maskrcnn.pages.html import write_page_file
from keras_maskrcnn.pages.miss_section import miss_figures, miss_section
from keras_maskrcnn.pages.suspect_section import suspect_section, write_suspects

PICTURES = 20  # of each kind
_CLASSES = 100  # in the table of classes, worst first; the JSON has all
_MATRIX = 20  # classes of a confusion matrix that a page can show
_MISTAKEN = 40  # pairs of classes that are listed
_LISTED = 1000  # errors of each kind in the JSON
_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TITLES = {"segm": "masks", "boundary": "boundaries", "bbox": "boxes", "keypoints": "keypoints"}
_MEANING = {
    CLASS: ("Wrong class", "The place is right, the class is wrong."),
    LOCALISATION: ("Poor outline", "The class is right, but the overlap with the object is below {iou}."),
    BOTH: ("Wrong class and poor outline", "The detection overlaps an object, but neither class nor place is right."),
    DUPLICATE: ("Duplicate", "A second detection of an object that a detection with a higher score has."),
    BACKGROUND: ("Background", "A detection where nothing is labelled. Some may be objects that lack a label."),
    MISSED: ("Missed", "An object without any detection at its place, not even a poor one."),
}


def write_errors_page(folder, analysis, dataset, title, misses=None):
    """Write `index.html`, `report.json` and `suspicious.json` into a folder. What an earlier call wrote is replaced.

    Args:
        folder: made if it is missing.
        analysis: Analysis of detections on the dataset.
        dataset: Dataset, for the images.
        title: str, of the page.
        misses: MissTable, where a model is at hand; or None.

    Returns:
        pathlib.Path of the page.
    """
    folder = pathlib.Path(folder)
    errors = {kind: _sorted_errors(analysis, kind) for kind in KINDS}
    listed = {kind: [_entry(analysis, error) for error in found[:_LISTED]] for kind, found in errors.items()}
    why = {} if misses is None else {"why_missed": miss_figures(misses)}
    suspects = find_suspects(analysis.main.matches)
    why |= {"suspicious_labels": write_suspects(folder, suspects, analysis)}
    write_json(folder / "report.json", analysis.to_dict() | {"worst_errors": listed} | why)
    page = folder / "index.html"
    write_page_file(
        page,
        "errors.html",
        title=title,
        summary=_summary(analysis),
        accuracy=_accuracy(analysis.metrics),
        iou=f"{analysis.main.matches.iou:g}",
        compared=_TITLES[analysis.main.matches.iou_type],
        costs=_costs(analysis),
        totals=_totals(analysis),
        kinds=_pictured(analysis, dataset, errors),
        misses=None if misses is None else miss_section(misses, analysis, dataset),
        suspects=suspect_section(suspects, analysis, dataset),
        classes=_classes(analysis)[:_CLASSES],
        num_classes=len(analysis.curves),
        mean_curve=_mean_curve(analysis),
        confusion=_confusion(analysis),
        histogram=_histogram(analysis.histogram),
        reliability=_reliability(analysis.reliability),
    )
    return page


# Errors ----------------------------------------------------------------------------------------------------


def _sorted_errors(analysis, kind):
    """[(detection or NONE, object or NONE)] of a kind, worst first: positions in the columns of the matches.

    The worst detections are the surest ones, the worst missed objects the largest.
    """
    found = analysis.main
    if kind == MISSED:
        annotations = analysis.truth["annotations"]
        places = np.flatnonzero(found.missed)
        return [
            (NONE, int(place))
            for place in sorted(places, key=lambda place: -annotations[found.matches.gt_row[place]]["area"])
        ]
    rows = np.flatnonzero(found.kind == kind)
    rows = rows[np.argsort(-found.matches.score[rows], kind="stable")]
    return [(int(row), int(found.target[row])) for row in rows]


def _entry(analysis, error):
    """What the JSON has of an error."""
    detection, place = error
    matches = analysis.main.matches
    position = matches.image[detection] if detection != NONE else matches.gt_image[place]
    entry = {"image_id": matches.image_ids[position]}
    if detection != NONE:
        found = analysis.detections[matches.row[detection]]
        names = matches.names
        entry |= {"detected": names.get(found["category_id"], str(found["category_id"])), "score": found["score"]}
        entry |= {"detected_box": list(found["bbox"])}
    if place != NONE:
        annotation = analysis.truth["annotations"][matches.gt_row[place]]
        entry |= {"labelled": matches.names[annotation["category_id"]], "labelled_box": list(annotation["bbox"])}
        entry |= {"annotation_id": annotation.get("id"), "iou": overlap_with(matches, detection, place)}
    return entry


def _summary(analysis):
    main, matches = analysis.metrics, analysis.main.matches
    figures = [
        ("images", len(matches.image_ids)),
        ("objects", len(matches.gt_row)),
        ("detections", len(matches.row)),
    ]
    for kind in ("segm", "boundary", "bbox"):
        if f"{kind}_AP" in main:
            figures.append((f"AP of {_TITLES[kind]}", _ap(main[f"{kind}_AP"])))
    error = analysis.reliability["calibration_error"]
    return [*figures, ("calibration error", "-" if error is None else f"{error:.3f}")]


def _ap(value):
    return "-" if value < 0 else f"{value:.3f}"


def _accuracy(metrics):
    kinds = [kind for kind in _TITLES if f"{kind}_AP" in metrics]
    return {
        "columns": _COLUMNS,
        "rows": [(_TITLES[kind], [_ap(metrics.get(f"{kind}_{name}", -1)) for name in _COLUMNS]) for kind in kinds],
        "cap": int(metrics["max_detections"]),
    }


def _costs(analysis):
    """The table of kinds: a list of dicts, and a column of AP for each of masks and boxes."""
    most = max((cost for found in analysis.errors.values() for cost in found.costs.values()), default=0) or 1
    rows = []
    for kind in KINDS:
        lost = [found.costs.get(kind) for found in analysis.errors.values()]
        rows.append(
            {
                "key": kind,
                "name": _MEANING[kind][0],
                "meaning": _meaning(analysis, kind),
                "count": analysis.main.counts[kind],
                "lost": ["-" if cost is None else f"{cost:.3f}" for cost in lost],
                "share": (lost[0] or 0) / most,
            }
        )
    return {"columns": [_TITLES[iou_type] for iou_type in analysis.errors], "rows": rows}


def _meaning(analysis, kind):
    return _MEANING[kind][1].format(iou=f"{analysis.main.matches.iou:g}")


def _totals(analysis):
    """(AP, and what all false positives and all false negatives cost), as text."""
    found = analysis.main
    return [_ap(found.ap)] + [f"{found.costs.get(name, 0):.3f}" for name in (FALSE_POSITIVES, FALSE_NEGATIVES)]


# Pictures --------------------------------------------------------------------------------------------------


def _pictured(analysis, dataset, errors):
    """The sections of the kinds: a list of dicts with the pictures of each, dearest kind first."""
    costs, scene = analysis.main.costs, Scenes(analysis, dataset)
    wanted = {kind: found[:PICTURES] for kind, found in errors.items()}
    scene.draw_all([error for found in wanted.values() for error in found])
    return [
        {
            "key": kind,
            "name": _MEANING[kind][0],
            "meaning": _meaning(analysis, kind),
            "count": len(errors[kind]),
            "pictures": [scene.pictures[error] | {"title": scene.caption(kind, error)} for error in wanted[kind]],
        }
        for kind in sorted(KINDS, key=lambda kind: -costs.get(kind, 0))
    ]


# Charts ----------------------------------------------------------------------------------------------------


def _classes(analysis):
    """Rows of the table of classes, worst first."""
    names, (kind, found) = analysis.main.matches.names, next(iter(analysis.errors.items()))
    rows = []
    for key, curve in sorted(analysis.curves.items(), key=lambda item: item[1]["ap"]):
        precision = curve["precision"]
        rows.append(
            {
                "name": names[key],
                "objects": curve["objects"],
                "missed": int((found.missed & (found.matches.gt_category == key)).sum()),
                "ap": _ap(analysis.metrics.get(f"{kind}_AP/{names[key]}", -1)),
                "ap50": f"{curve['ap']:.3f}",
                "f1": f"{curve['best_f1']:.2f}",
                "score": f"{curve['best_score']:.2f}",
                "points": charts.line(np.linspace(0, 1, 26), precision[::4], 100, 30),
            }
        )
    return rows


def _mean_curve(analysis):
    curves = [curve["precision"] for curve in analysis.curves.values()]
    if not curves:
        return None
    mean = np.mean(curves, axis=0)
    rows = [(f"{recall:.1f}", f"{mean[round(recall * 100)]:.3f}") for recall in np.linspace(0, 1, 11)]
    return {"points": charts.line(np.linspace(0, 1, 101), mean), "rows": rows}


def _confusion(analysis):
    """The matrix of few classes, and the most frequent pairs of any number."""
    found, names = analysis.confusion, analysis.main.matches.names
    classes = [names.get(key, str(key)) for key in found.categories]
    pairs = [(names[a], names.get(b, str(b)), count) for a, b, count in found.mistaken()[:_MISTAKEN]]
    matrix = None
    if 0 < len(classes) <= _MATRIX:
        heads = [*classes, "background"]
        totals = found.counts.sum(axis=1)
        rows = [
            [{"count": int(n), "share": f"{n / max(1, total):.2f}"} for n in row]
            for row, total in zip(found.counts, totals, strict=True)
        ]
        matrix = {"heads": heads, "rows": list(zip(heads, rows, strict=True))}
    return {"matrix": matrix, "pairs": pairs, "min_score": f"{found.min_score:g}"}


def _histogram(histogram):
    right, wrong, edges = histogram["right"], histogram["wrong"], histogram["edges"]
    rows = [(f"{low:.2f}", a, b) for low, a, b in zip(edges, right, wrong)]
    most = max((a + b for a, b in zip(right, wrong, strict=True)), default=0)
    return {"bars": charts.stacked_bars(right, wrong), "rows": rows, "most": most}


def _reliability(result):
    points = [(a, b, n) for a, b, n in zip(result["score"], result["right"], result["count"], strict=True) if n]
    return {
        "points": charts.line([a for a, _, _ in points], [b for _, b, _ in points]),
        "dots": [charts.line([a], [b]).split(",") for a, b, _ in points],
        "rows": [(f"{a:.2f}", f"{b:.2f}", n) for a, b, n in points],
        "error": None if result["calibration_error"] is None else f"{result['calibration_error']:.3f}",
    }
