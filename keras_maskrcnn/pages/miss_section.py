"""The section of the page of errors on objects that no detection matches: the stage that lost each.

Comes in: a `MissTable`. Goes out: what the template shows, and what the JSON holds. Called by `errors_page.py`.
"""

import numpy as np

from keras_maskrcnn.evaluation.causes import MEANING
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.pages.error_scenes import Scenes

_PICTURES = 2  # of each cause
_LISTED = 1000  # objects in the JSON


def miss_figures(misses):
    """The numbers as a dict for JSON."""
    return {
        "summary": misses.summary,
        "counts": misses.counts,
        "remedies": misses.remedies,
        "unreadable_images": list(misses.unreadable),
        "objects": [{"image_id": image_id} | miss.to_dict() for image_id, miss in misses.misses[:_LISTED]],
    }


def miss_section(misses, analysis, dataset):
    """What the template shows: dict of `summary`, `total`, `images` and `rows`, one of each cause in flow order."""
    remedies, most = misses.remedies, max([1, *misses.counts.values()])
    shown = {cause: _largest(misses, cause) for cause in remedies}
    pictures = _drawn(shown, analysis, dataset)
    return {
        "summary": misses.summary,
        "total": len(misses.misses),
        "images": misses.num_images,
        "rows": [
            {
                "name": cause,
                "meaning": MEANING[cause],
                "count": count,
                "share": count / most,
                "remedy": remedies.get(cause, ""),
                "pictures": pictures.get(cause, []),
            }
            for cause, count in misses.counts.items()
        ],
    }


def _largest(misses, cause):
    """The largest objects of a cause, each with its image id."""
    found = [miss for _, miss in misses.misses if miss.cause == cause]
    return sorted(found, key=lambda miss: -miss.box[2] * miss.box[3])[:_PICTURES]


def _drawn(shown, analysis, dataset):
    """Dict from cause to a list of pictures, dicts of `data` and `title`."""
    scenes = Scenes(analysis, dataset)
    places = {int(row): place for place, row in enumerate(np.asarray(analysis.main.matches.gt_row))}
    errors = {miss.position: (NONE, places[miss.position]) for found in shown.values() for miss in found}
    scenes.draw_all(list(errors.values()))
    return {
        cause: [
            scenes.pictures[errors[miss.position]]
            | {"title": f"{miss.class_name}, {miss.box[2]:.0f} x {miss.box[3]:.0f} pixels: {miss.explanation}"}
            for miss in found
        ]
        for cause, found in shown.items()
    }
