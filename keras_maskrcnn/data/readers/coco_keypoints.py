"""The names of keypoints in a COCO file: `keypoints` and `skeleton` of its categories.

The keypoints of annotations stay among `Instance.attributes`; the keypoint branch of a model reads them.
"""

from keras_maskrcnn.data.readers import fields


def keypoint_scheme(categories, source):
    """The names and the skeleton of a file's keypoints.

    Args:
        categories: list, the entries of `categories`. source: str, the file in messages.

    Returns:
        (dict of names, a list of str, and skeleton, a list of [name, name]; or None), list of notes.
    """
    named = [entry for entry in categories if isinstance(entry, dict) and entry.get("keypoints")]
    schemes, notes = [], []
    for entry in named:
        scheme = _scheme(entry)
        if scheme is None:
            notes.append(
                f"{source}: the keypoints of the category {fields.shown(entry.get('name'))} were left out: `keypoints` "
                "must be a list of different names, `skeleton` one of pairs of their numbers, which count from 1."
            )
        elif scheme not in schemes:
            schemes.append(scheme)
    if len(schemes) > 1:
        notes.append(
            f"{source}: the categories have {len(schemes)} different lists of keypoints. A model has one list, so none "
            "was taken. Give the categories the same list, with all names."
        )
    return (schemes[0] if len(schemes) == 1 else None), notes


def _scheme(entry):
    """{"names", "skeleton"} of a category; None where they cannot be read."""
    names, edges = entry["keypoints"], entry.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return None
    pairs = isinstance(edges, list) and all(isinstance(edge, list) and len(edge) == 2 for edge in edges)
    if len(set(names)) < len(names) or not pairs:
        return None
    ends = [end for edge in edges for end in edge]
    if not all(type(end) is int and 1 <= end <= len(names) for end in ends) or any(a == b for a, b in edges):
        return None
    return {"names": names, "skeleton": [[names[a - 1], names[b - 1]] for a, b in edges]}
