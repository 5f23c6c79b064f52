"""The section of the page of errors on labels that are probably wrong, and the files about them.

Comes in: an `Analysis` and its suspects. Goes out: what the template shows, and a COCO file for a labelling tool.
Called by `errors_page.py`.
"""

import pathlib

from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.evaluation.suspects import KINDS, suspect_entry, suspicious_coco
from keras_maskrcnn.host.files import write_json
from keras_maskrcnn.pages.error_scenes import Scenes

FILE = "suspicious.json"
_PICTURES = 24
_LISTED = 1000  # suspects in the report's JSON; the COCO file has all


def write_suspects(folder, suspects, analysis):
    """Write the COCO file of suspicious labels.

    Returns:
        dict for the report's JSON: counts by kind, and the worst suspects.
    """
    tables = (analysis.main.matches, analysis.truth, analysis.detections)
    write_json(pathlib.Path(folder) / FILE, suspicious_coco(suspects, *tables))
    counts = {kind: sum(one.kind == kind for one in suspects) for kind in KINDS}
    return {"counts": counts, "labels": [suspect_entry(one, *tables) for one in suspects[:_LISTED]]}


def suspect_section(suspects, analysis, dataset):
    """What the template shows: dict of `total`, `rows` with counts by kind, `pictures` of the worst, `file`."""
    scenes = Scenes(analysis, dataset)
    shown = [(one, (one.detection, one.object)) for one in suspects[:_PICTURES]]
    scenes.draw_all([error for _, error in shown])
    counts = {kind: sum(one.kind == kind for one in suspects) for kind in KINDS}
    return {
        "name": "Suspicious labels",
        "total": len(suspects),
        "file": FILE,
        "rows": list(counts.items()),
        "pictures": [scenes.pictures[error] | {"title": _title(one, analysis)} for one, error in shown],
    }


def _title(suspect, analysis):
    entry = suspect_entry(suspect, analysis.main.matches, analysis.truth, analysis.detections)
    text = f"{suspect.kind}, {suspect.suspicion:.2f}"
    if suspect.object != NONE:
        text += f": labelled {entry['labelled']}"
    if suspect.detection != NONE:
        text += f"{',' if suspect.object != NONE else ':'} detected {entry['detected']} {entry['score']:.2f}"
    if suspect.detection != NONE and suspect.object != NONE:
        text += f", IoU {entry['iou']:.2f}"
    return f"{text} (image {entry['image_id']})"
