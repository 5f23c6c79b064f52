"""The confusion matrix of a detector: which class is taken for which, what is overlooked, what is invented.

Comes in: `Matches`. Goes out: `Confusion`. Called by `pages/errors_page.py`.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.evaluation.matching import NONE


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of objects and detections by class.

    Args:
        categories: list of category ids: those with objects or detections, ascending.
        counts: int (K + 1, K + 1): rows are classes of objects, columns those of detections, in the order of
            `categories`; the last row and column are the background: invented detections, and overlooked objects.
            The last cell is 0.
        min_score: float, detections below it were left out.
    """

    categories: list
    counts: np.ndarray
    min_score: float

    def mistaken(self):
        """[(category id of the object, that of the detection, count)], most frequent first; without the background."""
        inner = self.counts[:-1, :-1] * (1 - np.eye(len(self.categories), dtype=np.int64))
        rows, columns = np.nonzero(inner)
        found = [(self.categories[r], self.categories[c], int(inner[r, c])) for r, c in zip(rows, columns)]
        return sorted(found, key=lambda entry: -entry[2])


def confusion_matrix(matches, min_score=0.5):
    """Count which class was detected as which.

    A detection that matches an object of its class counts with it. Any other one counts with the object of another
    class that it overlaps most, if that is enough for a match and the object is still free; else with the background,
    as duplicates and poorly placed detections do. Detections are taken by descending score.

    Args:
        matches: Matches.
        min_score: float, detections with a lower score are left out, as a user of the model would.

    Returns:
        Confusion.
    """
    shown = (matches.score >= min_score) & ~matches.ignored
    partner = np.where(matches.right & shown, matches.object, NONE)
    taken = np.zeros(len(matches.gt_row), bool)
    taken[partner[partner != NONE]] = True
    for detection in np.flatnonzero(shown & ~matches.right & (matches.other_iou >= matches.iou)):
        if not taken[matches.other[detection]]:
            partner[detection] = matches.other[detection]
            taken[partner[detection]] = True
    categories = np.unique(np.concatenate([matches.gt_category, matches.category[shown]]))
    background = len(categories)
    counts = np.zeros((background + 1, background + 1), np.int64)
    gt_place, place = (np.searchsorted(categories, keys) for keys in (matches.gt_category, matches.category))
    rows = np.where(partner == NONE, background, np.append(gt_place, background)[partner])
    np.add.at(counts, (rows[shown], place[shown]), 1)
    np.add.at(counts, (gt_place[~taken], background), 1)
    return Confusion(categories.tolist(), counts, float(min_score))
