"""Follows objects from frame to frame by the overlap of their masks.

Comes in: the masks, classes and scores of one frame after the other. Goes out: a number for each, the same for the
same object. The association has two stages, as ByteTrack's (Zhang et al., 2022): first sure objects are matched with
all tracks, then unsure ones with the tracks of the last frame that are left, so that an object that is hard to see for
a moment keeps its number; an unsure object begins no track. Called by `engine.py` and users.
"""

import dataclasses

import numpy as np

_SMOOTH = 0.5  # weight of the last step in a track's velocity
_LOST = (
    0.8  # weight of the overlap with a track that was not in the last frame: where two cross, the visible one goes on
)


@dataclasses.dataclass
class _Track:
    """One object: its last mask, as a window and the corner of that, where it is expected next, and since when."""

    number: int
    label: int
    window: np.ndarray
    corner: np.ndarray  # float [x, y], pixels
    velocity: np.ndarray  # float [x, y], pixels a frame
    missed: int = 0

    def expected(self):
        """(window, x, y): the last mask moved on by the velocity, for each frame since then."""
        x, y = np.rint(self.corner + self.velocity * (self.missed + 1)).astype(int).tolist()
        return self.window, x, y


class Tracker:
    """Gives objects of successive frames the numbers of their tracks.

    Args:
        high: score of a sure object: only those begin tracks. low: those with lower scores are left out.
        first_iou, second_iou: the least overlap of a mask with the one that its track expects, of sure and of unsure
            objects.
        patience: frames in which a track is not found until it ends.
    """

    def __init__(self, high=0.5, low=0.1, first_iou=0.2, second_iou=0.5, patience=30):
        self.high, self.low = high, low
        self.first_iou, self.second_iou, self.patience = first_iou, second_iou, patience
        self._tracks = []
        self._count = 0

    def update(self, windows, labels, scores):
        """Take in the objects of the next frame.

        Args:
            windows: list of n (bool (h, w), x, y): masks in their windows, with the upper left corners of these.
            labels: int (n,). scores: float (n,).

        Returns:
            list of n: the number of the object's track, from 1; None of an unsure object without a track.
        """
        scores = np.asarray(scores, float)
        sure = [k for k, score in enumerate(scores) if score >= self.high and windows[k][0].any()]
        unsure = [k for k, score in enumerate(scores) if self.low <= score < self.high and windows[k][0].any()]
        pairs = self._matched(self._tracks, sure, windows, labels, self.first_iou)
        found = {id(track) for track, _ in pairs}
        left = [track for track in self._tracks if id(track) not in found and not track.missed]
        pairs += self._matched(left, unsure, windows, labels, self.second_iou)
        numbers = [None] * len(windows)
        for track in self._tracks:
            track.missed += 1
        for track, k in pairs:
            _move(track, windows[k])
            numbers[k] = track.number
        for k in sure:
            if numbers[k] is None:
                numbers[k] = self._begin(windows[k], int(labels[k]))
        self._tracks = [track for track in self._tracks if track.missed <= self.patience]
        return numbers

    def _matched(self, tracks, objects, windows, labels, least):
        """Pairs (track, object) of one class with the largest sum of overlaps, each of at least `least`."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        if not tracks or not objects:
            return []
        expected = [track.expected() for track in tracks]
        overlaps = np.array([[mask_iou(one, windows[k]) for k in objects] for one in expected])
        overlaps *= np.array([[track.label == int(labels[k]) for k in objects] for track in tracks])
        overlaps[overlaps < least] = 0
        overlaps *= np.array([[_LOST if track.missed else 1.0] for track in tracks])
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
        return [(tracks[i], objects[j]) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] > 0]

    def _begin(self, place, label):
        window, x, y = place
        self._count += 1
        self._tracks.append(_Track(self._count, label, window, np.array([x, y], float), np.zeros(2)))
        return self._count


def mask_iou(one, other):
    """Overlap (intersection over union) of two masks, (bool (h, w), x, y) each."""
    (a, ax, ay), (b, bx, by) = one, other
    x1, y1 = max(ax, bx), max(ay, by)
    x2, y2 = min(ax + a.shape[1], bx + b.shape[1]), min(ay + a.shape[0], by + b.shape[0])
    if x2 <= x1 or y2 <= y1:
        return 0.0
    both = np.count_nonzero(a[y1 - ay : y2 - ay, x1 - ax : x2 - ax] & b[y1 - by : y2 - by, x1 - bx : x2 - bx])
    return both / max(1, np.count_nonzero(a) + np.count_nonzero(b) - both)


def _move(track, place):
    """Put a track where its object is now. The velocity is that of the mask's centre, smoothed."""
    window, x, y = place
    step = _centre(window, x, y) - _centre(track.window, *track.corner)
    speed = step / track.missed
    known = track.velocity.any()
    track.velocity = _SMOOTH * speed + (1 - _SMOOTH) * track.velocity if known else speed
    track.window, track.corner, track.missed = window, np.array([x, y], float), 0


def _centre(window, x, y):
    """[x, y] of the centre of a mask, pixels."""
    rows, columns = np.nonzero(window)
    return np.array([x + columns.mean(), y + rows.mean()])
