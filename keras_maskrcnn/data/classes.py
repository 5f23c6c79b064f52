"""Join the classes of two sources by name: a file's with the training set's, a dataset's with a model's.

Annotation tools number and order categories as they meet them, so only the names say which classes are the same. Called
by the readers (`class_names=`), the loader, the evaluation and the command line.
"""

import collections
import copy
import dataclasses
import warnings

_LISTED = 100  # names in a message


class ClassesDiffer(ValueError):
    """Two sources that belong together have different classes."""


@dataclasses.dataclass(frozen=True)
class JoinedClasses:
    """How the classes of a file correspond to those that are wanted.

    Args:
        labels: dict from each name that both have to its label, its position among the wanted names.
        unused: tuple of names in the file alone, which no object has.
        absent: tuple of wanted names that the file does not have.
    """

    labels: dict
    unused: tuple
    absent: tuple

    def notes(self, source):
        """Sentences for the user about classes that only one side has: a list of str."""
        found = []
        if self.unused:
            found.append(f"{source}: left out the classes {shown(self.unused)}, which no object has.")
        if self.absent:
            found.append(f"{source}: it does not list the classes {shown(self.absent)}; no object has them.")
        return found


def join_classes(found, wanted, used, source):
    """Join by name, in any order.

    Args:
        found: the source's class names, each once.
        wanted: class names by label, such as the training set's.
        used: those of `found` that objects have.
        source: str, the file or dataset in messages.

    Returns:
        JoinedClasses.

    Raises:
        ClassesDiffer: objects have a class that is not wanted, or no name is in both lists.
        ValueError: a name is wanted twice.
    """
    check_unique(wanted, "class_names")
    label_of = {name: label for label, name in enumerate(wanted)}
    strange = [name for name in found if name not in label_of and name in used]
    if strange or (found and not set(found) & set(wanted)):
        raise ClassesDiffer(differing(source, found, wanted, strange))
    return JoinedClasses(
        {name: label_of[name] for name in found if name in label_of},
        tuple(name for name in found if name not in label_of),
        tuple(name for name in wanted if name not in set(found)),
    )


def with_classes(dataset, class_names):
    """The dataset with its labels in the order of other class names; itself where they agree already.

    Args:
        dataset: Dataset. class_names: names by label.

    Returns:
        (dataset or a copy with other labels, whose category ids stay those of the dataset; notes: list of str).

    Raises:
        ClassesDiffer: as `join_classes`.
    """
    if tuple(class_names) == tuple(dataset.class_names):
        return dataset, []
    own = tuple(dataset.class_names)
    used = {own[label] for label in dataset.records.used_labels()}
    joined = join_classes(own, class_names, used, dataset.name)
    other = copy.copy(dataset)  # shares the list of faults
    other.class_names = tuple(class_names)
    other.absent_classes = joined.absent
    other.category_ids = ids_by_label(
        {
            joined.labels[name]: key
            for name, key in zip(own, dataset.category_ids, strict=True)
            if name in joined.labels
        },
        len(class_names),
    )
    label_of = {label: joined.labels.get(name) for label, name in enumerate(own)}
    other.records = dataset.records.with_labels(label_of)
    return other, joined.notes(dataset.name)


def for_config(dataset, config):
    """The dataset with the labels of a model's config: joined by name, or as it is where one side has no real names.

    Args:
        dataset: Dataset. config: MaskRCNNConfig.

    Returns:
        A Dataset with `config.num_classes` classes. Notes about classes that only one side has become warnings.

    Raises:
        ClassesDiffer: objects have classes that the config lacks, or no name is in both.
        ValueError: without real names, another number of classes or other category ids.
    """
    if is_named(config.class_names) and is_named(dataset.class_names):
        joined, notes = with_classes(dataset, config.class_names)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return joined
    _check_numbers(dataset, config)
    return dataset


def _check_numbers(dataset, config):
    count = len(dataset.class_names)
    if config.num_classes != count:
        raise ValueError(
            f"num_classes must be the dataset's number of classes without background: {count}. "
            f"Received num_classes={config.num_classes} for {dataset.name} with "
            f"{shown(dataset.class_names)}. Set num_classes={count} in the config, or read the "
            "data with the category_ids of the training set."
        )
    if tuple(config.category_ids) not in (tuple(range(1, count + 1)), tuple(dataset.category_ids)):
        raise ValueError(
            "category_ids of config and dataset must agree in order where the config names no classes. "
            f"Received {shown(config.category_ids)} and {shown(dataset.category_ids)} "
            f"of {dataset.name}. Give the config class_names=dataset.class_names, or read the data with "
            "category_ids=config.category_ids."
        )


def ids_by_label(known, count, proposed=None, taken=()):
    """Category ids by label: the known ones, and for labels without one the proposed id or the next free number.

    Args:
        known: dict from label to the file's own id. count: number of labels. proposed: ids by label, or None.
        taken: ids that no other label may get.
    """
    taken = {*known.values(), *taken}
    free = 1 + max([key for key in (*taken, *(proposed or ())) if isinstance(key, int)], default=0)
    ids = []
    for label in range(count):
        if label in known:
            ids.append(known[label])
            continue
        key = None if proposed is None else proposed[label]
        if key is None or key in taken:
            key, free = free, free + 1
        taken.add(key)
        ids.append(key)
    return tuple(ids)


def ids_of_labels(config, names, ids, used, source):
    """A dataset's category ids of a model's labels, joined by name; in order where one side has no real names.

    Args:
        config: MaskRCNNConfig. names, ids: the dataset's class names and category ids. used: the names that its objects
            have. source: str, the dataset in messages.

    Returns:
        (tuple of ids, by the model's label; labels that the dataset lacks get ids that it lacks, notes: list of str).

    Raises:
        ClassesDiffer: as `join_classes`.
        ValueError: without real names, fewer ids than labels.
    """
    names, ids = tuple(names), tuple(ids)
    if is_named(config.class_names) and is_named(names):
        joined = join_classes(names, config.class_names, used, source)
        known = {joined.labels[name]: key for name, key in zip(names, ids, strict=True) if name in joined.labels}
        return ids_by_label(known, config.num_classes, taken=ids), joined.notes(source)
    if len(ids) < config.num_classes:
        raise ValueError(
            f"Without class names the model's {config.num_classes} labels take the categories of {source} in order. "
            f"Received {len(ids)} categories: {shown(names)}. Open it with category_ids=config.category_ids."
        )
    return ids, []


def is_named(class_names):
    """Whether class names say something: not "class 0", "class 1", ..., which stand for names that nobody gave."""
    return tuple(class_names) != tuple(f"class {k}" for k in range(len(class_names)))


def check_unique(names, source):
    """Raise a ValueError if a class name occurs twice: classes could not be told apart."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{source}: every class must have a name of its own. Received {shown(twice)} more than once in "
            f"{shown(names)}. Rename the classes, or join those that mean the same."
        )


def differing(source, found, wanted, strange):
    """The message for class names that differ: both lists."""
    those = f"Objects have {shown(strange)}, which are not expected. " if strange else "No name is in both. "
    return (
        f"{source}: its classes must be those that it is read with (the training data's or the model's); ids and "
        f"order may differ, names may not.\n  expected: {shown(wanted)}\n  received: {shown(found)}\n{those}"
        "Rename the classes in one of the files, or remove objects of other classes."
    )


def shown(names):
    """Names in a message, as a list."""
    names = list(names)
    return repr(names) if len(names) <= _LISTED else f"{names[:_LISTED]!r}... ({len(names)})"
