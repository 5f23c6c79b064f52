"""One pass over a dataset that reads every image and checks every object once.

In: a Dataset opened with on_error="skip", so that its `faults` list what the reader rejected. Out: an Inspection.
"""

import dataclasses
import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_maskrcnn.checkup.findings import ERROR, NOTE, WARNING, Finding, examine_objects, name_of
from keras_maskrcnn.checkup.pixels import measure, pixel_findings
from keras_maskrcnn.data.duplicates import NEAR_BITS, near_pairs, perceptual_hash
from keras_maskrcnn.data.images.reading import ImageError, image_orientation, stored_image
from keras_maskrcnn.data.images.showing import picture_of
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.data.readers.folders import image_files
from keras_maskrcnn.data.records import size_message

_LISTED = 5  # largest number of file names in a message
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
    instances = [instance for record in dataset.records for instance in record.instances]
    counts = [len(record.instances) for record in dataset.records]
    inspection = Inspection(
        dataset,
        findings,
        np.repeat(np.arange(len(dataset)), counts),
        np.array([instance.label for instance in instances], np.int64),
        np.array([instance.crowd for instance in instances], bool),
        np.array([instance.box for instance in instances], float).reshape(-1, 4),
        np.concatenate([*areas, np.zeros(0, np.int64)]),
        digests,
        hashes,
        pixels,
    )
    findings += pixel_findings(pixels, [name_of(record) for record in dataset.records])
    findings += _copies(inspection) + _class_findings(inspection) + _unlisted(dataset) + _nothing_to_learn(inspection)
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
    records = train.dataset.records + val.dataset.records
    found = []
    for first, second, how in _copy_pairs(digests, hashes):
        if first < offset <= second:
            message = f"it is {how} {name_of(records[first])} of the training part. Keep both in the same part."
            found.append(Finding(WARNING, "copy in both parts", name_of(records[second]), message, second - offset))
    missing = sorted(set(val.labels.tolist()) - set(train.labels.tolist()))
    for label in missing:
        name = val.dataset.class_names[label]
        message = "is in the validation part but not in the training part, so it cannot be learned. Split again."
        found.append(Finding(WARNING, "class without training data", f"class {name!r}", message))
    return found


def _examine(dataset, position):
    """(findings, areas, digest, perceptual hash, Pixels) of one image."""
    record = dataset[position]
    found, areas = examine_objects(record, position, dataset.class_names)
    try:
        digest, image, bits = _read(record)
    except (ImageError, OSError) as error:
        return (
            [Finding(ERROR, "unreadable image", name_of(record), str(error), position), *found],
            areas,
            *(None, None, None),
        )
    stated, size = (record.height, record.width), image.pixels.shape[:2]
    if size != stated:
        message = size_message(name_of(record), dataset.name, stated, size)
        swapped = "sides swapped" if size == stated[::-1] else "wrong size"
        found.insert(0, Finding(ERROR, f"image of another size: {swapped}", name_of(record), message, position))
    turn = _turn(record)
    if turn != 1:
        message = f"orientation {turn}: it is rotated when read. Check that its objects were drawn on the rotated one."
        found.insert(0, Finding(NOTE, "EXIF turn", name_of(record), message, position))
    return found, areas, digest, bits, measure(image)


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


def _turn(record):
    if not isinstance(record.source, (str, pathlib.Path)):
        return 1
    return image_orientation(record.source)


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
        if second not in told:
            told.add(second)
            message = f"it is {how} {name_of(records[first])}. Remove one, or keep both in the same part of a split."
            found.append(Finding(WARNING, "image twice", name_of(records[second]), message, second))
    return found


def _class_findings(inspection):
    counts = np.bincount(inspection.labels, minlength=len(inspection.dataset.class_names))
    names = [name for name, count in zip(inspection.dataset.class_names, counts, strict=True) if count == 0]
    if not names:
        return []
    message = f"{len(names)} of {len(counts)} classes have no object: {_some(names)}. Remove them, or annotate some."
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


def _unlisted(dataset):
    """Finding about image files in the dataset's folders that it does not list."""
    listed = {os.path.abspath(r.source) for r in dataset.records if isinstance(r.source, (str, pathlib.Path))}
    folders = sorted({os.path.dirname(path) for path in listed})
    mentioned = " ".join(f"{fault.where} {fault.problem}" for fault in dataset.faults)
    there = [str(file) for folder in folders for file in image_files(folder)]
    missing = [path for path in there if path not in listed and os.path.basename(path) not in mentioned]
    if not missing:
        return []
    message = (
        f"{len(missing)} images in its folders are not listed: {_some(os.path.basename(path) for path in missing)}."
    )
    return [Finding(NOTE, "images without entry", dataset.name, message)]


def _some(names):
    names = list(names)
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
