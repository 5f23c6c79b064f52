"""Names of keypoints: COCO's for persons, which of them a mirror exchanges, and how far apart annotators place them."""

import re

PERSON = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
# COCO's `skeleton`, whose numbers count from 1.
_PERSON_EDGES = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
PERSON_SKELETON = tuple((PERSON[a - 1], PERSON[b - 1]) for a, b in _PERSON_EDGES)
# Standard deviation of annotations over the object's scale, measured by COCO.
PERSON_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
SIGMA = 0.067  # where nobody measured it: the mean of COCO's
_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("l", "r"), ("L", "R"))


def mirror_pairs(names):
    """Pairs of names that differ by left and right alone: "left_eye" and "right_eye", "LeftEye", "l_eye", "eye L".

    Args:
        names: sequence of str.

    Returns:
        tuple of (str, str), in the order of the first of each.
    """
    known = set(names)
    partners = ((name, partner) for name in names for partner in _partners(name))
    return tuple((name, partner) for name, partner in partners if partner in known)


def _partners(name):
    """Names with right in the place of left; a single letter must stand alone."""
    for left, right in _SIDES:
        pattern = left if len(left) > 1 else rf"(?<![A-Za-z]){left}(?![A-Za-z])"
        other = re.sub(pattern, right, name)
        if other != name:
            yield other
            return
