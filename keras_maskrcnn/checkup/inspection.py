"""One pass over a dataset that reads every image and checks every object once.

In: a Dataset opened with on_error="skip", so that its `faults` list what the reader rejected. Out: an Inspection.
"""

import dataclasses
import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_maskrcnn.checkup.files import file_findings, header_findings, some
from keras_maskrcnn.checkup.findings import ERROR, NOTE, WARNING, Finding, box_areas, examine_objects, name_of
from keras_maskrcnn.checkup.pixels import measure, pixel_findings
from keras_maskrcnn.data.coco_output import is_file
from keras_maskrcnn.data.duplicates import NEAR_BITS, near_pairs, perceptual_hash
from keras_maskrcnn.data.images.reading import ImageError, stored_image
from keras_maskrcnn.data.images.showing import picture_of
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.data.records import size_message

_BLOCK = 2**22  # bytes read at once


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Results of the pass over a dataset.

    Args:
        dataset: Dataset.
        findings: list of Finding.
        positions: int (n,), the image of each object.
        labels: int (n,).
        crowd: bool (n,).
        boxes: float (n, [x1, y1, x2, y2]), image pixels.
        areas: int (n,), pixels of the masks.
        digests: list of str, hash of each image's bytes; None for unreadable images.
        hashes: list of bool (255,), perceptual hashes; None for unreadable images.
        pixels: list of Pixels; None for unreadable images.
    """

    dataset: object
    findings: list
    positions: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    digests: list
    hashes: list
    pixels: list


def inspect_dataset(dataset, workers=None, progress=None):
    """Check every image and object of a dataset.

    Args:
        dataset: Dataset, opened with on_error="skip".
        workers: threads; None takes the machine's cores.
        progress: function called with the number of finished images, or None.

    Returns:
        Inspection.
    """
    findings = [
        Finding(ERROR, "rejected by the reader", fault.where, f"{fault.problem} {fault.remedy}".strip())
        for fault in dataset.faults
    ]
    findings += [Finding(WARNING, "decided by the reader", dataset.name, note) for note in dataset.notes]
    digests, hashes, areas, pixels = [], [], [], []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda position: _examine(dataset, position), range(len(dataset)))
        for done, (found, area, digest, bits, measured) in enumerate(results, start=1):
            findings += found
            pixels.append(measured)
            areas.append(area)
            digests.append(digest)
            hashes.append(bits)
            if progress is not None:
                progress(done)
    records = dataset.records
    inspection = Inspection(
        dataset,
        findings,
        records.positions,
        records.labels.astype(np.int64),
        records.crowd,
        records.boxes.astype(float),
        np.concatenate([*areas, np.zeros(0, np.int64)]),
        digests,
        hashes,
        pixels,
    )
    findings += pixel_findings(pixels, [name_of(record) for record in dataset.records])
    findings += (
        _copies(inspection) + _class_findings(inspection) + file_findings(dataset) + _nothing_to_learn(inspection)
    )
    return inspection


def leaks(train, val):
    """Findings about validation images that are in the training part too.

    Args:
        train, val: Inspection.

    Returns:
        List of Finding about `val`.
    """
    offset = len(train.digests)
    digests, hashes = train.digests + val.digests, train.hashes + val.hashes
    records = [*train.dataset.records, *val.dataset.records]
    found = []
    for first, second, how in _copy_pairs(digests, hashes):
        if first < offset <= second:
            message = f"it is {how} {name_of(records[first])} of the training part. Keep both in the same part."
            found.append(Finding(WARNING, "copy in both parts", name_of(records[second]), message, second - offset))
    return found + _classes_of_one_part(train, val)


def _classes_of_one_part(train, val):
    """Findings about classes with objects, other than crowd regions, in the training or the validation part alone."""
    names = val.dataset.class_names
    used = [set(part.labels[~part.crowd].tolist()) for part in (train, val)]
    unlearned = (
        "class without training data",
        "is in the validation part but not in the training part, so it cannot be learned. Split again.",
    )
    unmeasured = (
        "class without validation data",
        "is in the training part but not in the validation part, so its accuracy is not measured. Split again.",
    )
    return [
        Finding(WARNING, kind, f"class {names[label]!r}", message)
        for labels, (kind, message) in ((used[1] - used[0], unlearned), (used[0] - used[1], unmeasured))
        for label in sorted(labels)
    ]


def _examine(dataset, position):
    """(findings, areas, digest, perceptual hash, Pixels) of one image."""
    record = dataset[position]
    try:
        digest, image, bits = _read(record)
    except (ImageError, OSError) as error:
        found, areas = examine_objects(record, position, dataset.class_names)
        unreadable = Finding(ERROR, "unreadable image", name_of(record), str(error), position)
        return [unreadable, *found], areas, None, None, None
    headers = header_findings(record, position, image.pixels.shape[2])
    stated, size = (record.height, record.width), image.pixels.shape[:2]
    if size != stated:  # masks of the stated size could be of any size
        message = size_message(name_of(record), dataset.name, stated, size)
        swapped = "sides swapped" if size == stated[::-1] else "wrong size"
        wrong = Finding(ERROR, f"image of another size: {swapped}", name_of(record), message, position)
        return [*headers, wrong], box_areas(record), digest, bits, measure(image)
    found, areas = examine_objects(record, position, dataset.class_names)
    return [*headers, *found], areas, digest, bits, measure(image)


def _read(record):
    """(digest of the image's bytes or pixels, Stored, perceptual hash)."""
    source = record.source() if callable(record.source) else record.source
    image = stored_image(source)
    digest = hashlib.sha256()
    if isinstance(source, (str, pathlib.Path)):
        with open(source, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    else:
        digest.update(image.pixels.tobytes())
    return digest.hexdigest(), image, perceptual_hash(picture_of(image))


def _copy_pairs(digests, hashes):
    """(i, j, how) of images that are identical or look the same, i < j. Exact copies appear in one pair each."""
    known = [k for k, bits in enumerate(hashes) if bits is not None]
    near = near_pairs(np.stack([hashes[k] for k in known]), NEAR_BITS) if len(known) > 1 else []
    near = [(known[a], known[b]) for a, b in near]
    return [(a, b, "the same file as" if digests[a] == digests[b] else "a re-saved copy of") for a, b in near]


def _copies(inspection):
    """Findings about copies within a dataset: each copy once, with the first image that it equals."""
    records, told, found = inspection.dataset.records, set(), []
    for first, second, how in sorted(_copy_pairs(inspection.digests, inspection.hashes)):
        same_file = is_file(records[first]) and _path(records[first]) == _path(records[second])
        if second not in told and not same_file:  # listed twice: a finding of its own
            told.add(second)
            message = f"it is {how} {name_of(records[first])}. Remove one, or keep both in the same part of a split."
            found.append(Finding(WARNING, "image twice", name_of(records[second]), message, second))
    return found


def _path(record):
    return os.path.abspath(record.source) if is_file(record) else None


def _class_findings(inspection):
    counts = np.bincount(inspection.labels, minlength=len(inspection.dataset.class_names))
    names = [name for name, count in zip(inspection.dataset.class_names, counts, strict=True) if count == 0]
    if not names:
        return []
    message = f"{len(names)} of {len(counts)} classes have no object: {some(names)}. Remove them, or annotate some."
    return [Finding(NOTE, "class without object", inspection.dataset.name, message)]


def _nothing_to_learn(inspection):
    """Finding that there is no object that training uses, or about classes with crowd regions alone."""
    dataset = inspection.dataset
    problem = nothing_to_learn(dataset)
    if problem:
        return [Finding(ERROR, "nothing to learn", dataset.name, problem)]
    single = set(inspection.labels[~inspection.crowd].tolist())
    names = [dataset.class_names[label] for label in sorted(set(inspection.labels.tolist()) - single)]
    message = (
        "every object is a crowd region (iscrowd = 1), which training ignores. Set iscrowd to 0 for single objects."
    )
    return [Finding(WARNING, "class with crowd regions alone", f"class {name!r}", message) for name in names]
