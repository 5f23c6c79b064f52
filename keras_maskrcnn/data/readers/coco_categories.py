"""The categories of a COCO file as labels 0..K-1: by ascending id, by given ids, or joined with given names."""

import collections
import dataclasses
import re

from keras_maskrcnn.data.classes import check_unique, ids_by_label, join_classes, shown
from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.records import Fault


@dataclasses.dataclass(frozen=True)
class Categories:
    """What a file's categories become.

    Args:
        labels: dict from the file's category id to the label.
        names: tuple of str, by label. ids: tuple of int, by label: the file's own, or numbers in place of text.
        notes: tuple of str, for the user. absent: tuple, those of `names` that the file does not list.
        known: fields.Identifiers, the file's own ids.
        faults: tuple of Fault, entries that cannot be used.
    """

    labels: dict
    names: tuple
    ids: tuple
    notes: tuple = ()
    absent: tuple = ()
    known: object = None
    faults: tuple = ()


def read_categories(entries, used, source, ids=None, names=None):
    """Give the categories of a COCO file labels.

    Args:
        entries: list, the file's `categories`. used: the different ids that annotations have. source: str, the file in
            messages.
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
    known, written, faults = _listed(entries, given)
    if not written and ids is None:
        received = f"none that can be used: {faults[0]}" if faults else "an empty list."
        raise ValueError(
            f"{source}: at least one category is needed. Received {received} "
            'Add entries such as {"id": 1, "name": "cell"}.'
        )
    numbers, notes = _numbered(written, source)
    listed = {numbers[key]: name for key, name in written.items()}
    found = {known.find(key) for key in used}
    used = {numbers[key] for key in found if key in numbers}
    listed, twins = _without_unused_twins(listed, used, source)
    notes += twins
    if names is None:
        order = sorted(listed) if ids is None else list(ids)
        labels = {key: label for label, key in enumerate(order)}
        names, ids, absent = tuple(listed.get(k, f"category {k}") for k in order), tuple(order), ()
    else:
        joined = join_classes(list(listed.values()), names, {listed[key] for key in used}, source)
        labels = {key: joined.labels[name] for key, name in listed.items() if name in joined.labels}
        own = {label: key for key, label in labels.items()}
        notes += joined.notes(source)
        ids, absent = ids_by_label(own, len(names), ids), joined.absent
    labels |= {key: labels[number] for key, number in numbers.items() if number in labels}
    return Categories(labels, tuple(names), ids, tuple(notes), absent, known, tuple(faults))


def _listed(entries, given):
    """The entries of `categories`.

    Args:
        entries: list. given: {id: name} of categories without a name.

    Returns:
        (fields.Identifiers, {id: name}, list of Fault).
    """
    known, names, faults = fields.Identifiers("categories"), {}, []
    for number, entry in enumerate(entries):
        where = f"category number {number}"
        try:
            if not isinstance(entry, dict):
                raise FaultyAnnotation(f"it must be a dictionary. Received {fields.shown(entry)}.", "Remove it.")
            where = f"category {fields.shown(entry.get('id'))}"
            name = entry.get("name")
            named = None if name is None else fields.class_name(name, "a category")
            key = known.add(entry.get("id"))
            names[key] = given.get(key, f"category {key}") if named is None else named
        except FaultyAnnotation as fault:
            faults.append(Fault(where, *fault.args))
    return known, names, faults


def _numbered(written, source):
    """({id: number}, notes): ids that are numbers stay; text becomes the number that it shows, or the next free one."""
    texts = [key for key in written if isinstance(key, str)]
    numbers = {key: key for key in written if not isinstance(key, str)}
    taken = set(numbers)
    for key in texts:
        number = int(key) if re.fullmatch(r"\d{1,9}", key, re.ASCII) else None
        if number is None or number in taken:
            number = 1 + max([value for value in taken if value < 10**9], default=0)
        numbers[key] = number
        taken.add(number)
    changed = ", ".join(f"{key!r} became {numbers[key]}" for key in texts[:10])
    return numbers, [f"{source}: category ids that are text became numbers: {changed}."] if texts else []


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
