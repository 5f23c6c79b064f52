"""Split a dataset into training, validation and test parts. Keep class proportions, and copies of an image together.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): distribute the rarest class first, each image to the
part that still needs most images of it. Images without objects count as a class. Called by the command line.
"""

import json
import math
import pathlib

import numpy as np

from keras_maskrcnn.data.coco_output import coco_with_images
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.files import json_text, text_writer, write_together
from keras_maskrcnn.host.locks import locked_folder


def split_dataset(dataset, fractions, seed=0, groups=()):
    """Split a dataset.

    Args:
        dataset: Dataset.
        fractions: list of float, the share of images in each part; they sum to 1.
        seed: int; the same seed gives the same parts.
        groups: lists of positions that must stay together, such as `duplicates.duplicate_groups`.

    Returns:
        List of Dataset, one per fraction; images keep their order and ids.

    Raises:
        ValueError: the fractions are invalid, or a part gets no image.
    """
    fractions = [float(fraction) for fraction in fractions]
    if len(fractions) < 2 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"Fractions must be two or more positive numbers that sum to 1. Received {fractions}.")
    together = {position for group in groups for position in group}
    units = [list(group) for group in groups] + [[k] for k in range(len(dataset)) if k not in together]
    flags = _class_flags(dataset)
    counts = np.stack([flags[unit].sum(axis=0) for unit in units])
    parts = _deal(counts, np.array([len(unit) for unit in units]), np.array(fractions), np.random.default_rng(seed))
    positions = [
        sorted(k for unit, part in zip(units, parts, strict=True) if part == p for k in unit)
        for p in range(len(fractions))
    ]
    empty = [fraction for fraction, chosen in zip(fractions, positions, strict=True) if not chosen]
    if empty:
        raise ValueError(
            f"Every part must get at least one image. Received {len(dataset)} images in {len(units)} groups; none is "
            f"left for the fractions {empty}. Increase these fractions, or add images."
        )
    name = dataset.name
    return [subset(dataset, chosen, f"part {number} of {name}") for number, chosen in enumerate(positions, start=1)]


def write_parts(folder, parts, copies):
    """Write the parts of a dataset as COCO files, and their copies: all of this split, or all of an earlier one.

    Args:
        folder: made if it is missing. parts: dict from name to Dataset; NAME.json is written.
        copies: list of groups of file names, for copies.json.

    Raises:
        OSError: another process writes there, or it cannot be written to.
    """
    folder = pathlib.Path(folder)
    with locked_folder(folder):
        texts = {
            f"{name}.json": json.dumps(coco_with_images(part, folder / f"{name}.json")) for name, part in parts.items()
        }
        texts["copies.json"] = json_text(copies)
        write_together(folder, {name: text_writer(text) for name, text in texts.items()})


def subset(dataset, positions, name):
    """The Dataset of some of the images, with their ids; name: str, for messages."""
    return Dataset(
        dataset.records.take(positions),
        dataset.class_names,
        dataset.category_ids,
        name,
        dataset.on_error,
        image_dir=dataset.image_dir,
        keypoints=dataset.keypoints,
    )


def _class_flags(dataset):
    """Int (images, K + 1): 1 for each class in an image; the last column is for images without objects."""
    records = dataset.records
    flags = np.zeros((len(records), len(dataset.class_names) + 1), np.int64)
    flags[records.positions, records.labels] = 1
    flags[records.counts == 0, -1] = 1
    return flags


def _deal(counts, sizes, fractions, rng):
    """Assign each unit to a part.

    Args:
        counts: int (units, classes), number of images in a unit that contain a class.
        sizes: int (units,), number of images in a unit.
        fractions: float (parts,).
        rng: numpy Generator.

    Returns:
        int (units,).
    """
    parts = np.full(len(counts), -1)
    need = np.outer(counts.sum(0), fractions)  # images of each class that each part still needs
    room = sizes.sum() * fractions
    order = rng.permutation(len(counts))
    while (parts < 0).any():
        left = counts[parts < 0].sum(0)
        kind = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        waiting = [unit for unit in order if parts[unit] < 0 and counts[unit, kind] > 0]
        for unit in sorted(waiting, key=lambda unit: -sizes[unit]):  # large units first, while there is room; stable
            best = np.lexsort((rng.random(len(fractions)), -room, -need[kind]))[0]
            parts[unit] = best
            need[:, best] -= counts[unit]
            room[best] -= sizes[unit]
    return parts
