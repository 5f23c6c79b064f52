"""Whether a dataset has anything to learn from: at least one object that is not a crowd region.

Called by the loader, `check-data`, `convert-data` and `train`.
"""


def nothing_to_learn(dataset):
    """Why nothing can be learned from a dataset, or measured on it.

    Args:
        dataset: Dataset.

    Returns:
        str with what was expected, what was received and the remedy; None if there is an object that counts.
    """
    crowd = dataset.records.crowd
    return None if not crowd.all() else lacking(dataset.name, len(dataset.records), len(crowd), dataset.notes)


def lacking(name, images, crowds, notes=()):
    """The sentence of `nothing_to_learn` for a number of images with only so many crowd regions."""
    expected = f"{name}: at least one object that is no crowd region is needed to learn from or to measure. "
    if crowds:
        return (
            f"{expected}Received {images} images with {crowds} objects, all of them crowd regions (iscrowd = 1), which "
            "training and evaluation ignore. Set iscrowd to 0 where an annotation is a single object; exports of "
            "masks as run lengths often set it to 1."
        )
    hints = "".join(f" {note}" for note in notes)
    return (
        f"{expected}Received {images} images with 0 objects.{hints} Check that the annotations were exported and that "
        "they belong to these images."
    )
