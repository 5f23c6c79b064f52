"""The categories of a COCO file as labels 0..K-1: by ascending id, by given ids, or joined with given names."""

import collections
import dataclasses

from keras_maskrcnn.data.classes import check_unique, ids_by_label, join_classes, shown


@dataclasses.dataclass(frozen=True)
class Categories:
    """What a file's categories become.

    Args:
        labels: dict from the file's category id to the label.
        names: tuple of str, by label. ids: tuple, the file's own ids by label.
        notes: tuple of str, for the user. absent: tuple, those of `names` that the file does not list.
    """

    labels: dict
    names: tuple
    ids: tuple
    notes: tuple = ()
    absent: tuple = ()


def read_categories(content, source, ids=None, names=None):
    """Give the categories of a COCO file labels.

    Args:
        content: dict, the file. source: str, its name in messages.
        ids: category ids by label, or None. names: class names by label, or None. Where names are given, categories
            are joined by name, and ids only serve those that the file does not list or name.

    Returns:
        Categories.

    Raises:
        ClassesDiffer: the file's objects have classes that are not among `names`.
        ValueError: no category, a name twice, or another number of ids than of names.
    """
    if ids is not None and names is not None and len(ids) != len(names):
        raise ValueError(
            f"{source}: class_names must hold one name per category id. Received {len(names)} names and "
            f"category_ids={tuple(ids)}. Take both from the training set, or leave category_ids out."
        )
    given = dict(zip(ids, names, strict=True)) if ids is not None and names is not None else {}
    listed = {c["id"]: c.get("name", given.get(c["id"], f"category {c['id']}")) for c in content["categories"]}
    if not listed and ids is None:
        raise ValueError(
            f"{source}: at least one category is needed. Received an empty list. "
            'Add entries such as {"id": 1, "name": "cell"}.'
        )
    used = _used_ids(content["annotations"], listed)
    listed, notes = _without_unused_twins(listed, used, source)
    if names is None:
        order = sorted(listed) if ids is None else list(ids)
        labels = {key: label for label, key in enumerate(order)}
        return Categories(labels, tuple(listed.get(k, f"category {k}") for k in order), tuple(order), tuple(notes))
    joined = join_classes(list(listed.values()), names, {listed[key] for key in used}, source)
    labels = {key: joined.labels[name] for key, name in listed.items() if name in joined.labels}
    own = {label: key for key, label in labels.items()}
    notes += joined.notes(source)
    return Categories(labels, tuple(names), ids_by_label(own, len(names), ids), tuple(notes), joined.absent)


def _used_ids(annotations, listed):
    """Those of the listed ids that annotations have."""
    keys = {a.get("category_id") for a in annotations if isinstance(a, dict) and not _unhashable(a.get("category_id"))}
    return keys & set(listed)


def _unhashable(key):
    return isinstance(key, (list, dict))


def _without_unused_twins(listed, used, source):
    """Leave out categories without objects that share their name with the one that has objects (Roboflow's root)."""
    counts = collections.Counter(listed.values())
    with_objects = collections.Counter(listed[key] for key in used)
    twins = [key for key, name in listed.items() if counts[name] > 1 and with_objects[name] == 1 and key not in used]
    kept = {key: name for key, name in listed.items() if key not in twins}
    check_unique(kept.values(), source)
    if not twins:
        return kept, []
    about = shown([f"{listed[key]} (id {key})" for key in twins])
    return kept, [f"{source}: left out the categories {about}: no object has them, and another one has their name."]
