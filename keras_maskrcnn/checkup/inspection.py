"""One pass over a dataset that reads every image and checks every object once; of very many images the headers.

In: a Dataset opened with on_error="skip", so that its `faults` list what the reader rejected. Out: an Inspection.
"""

import dataclasses
import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_maskrcnn.checkup.files import file_findings, header_findings, jpeg_size, some
from keras_maskrcnn.checkup.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    box_areas,
    doubtful_objects,
    examine_objects,
    name_of,
)
from keras_maskrcnn.checkup.pixels import measure, pixel_findings
from keras_maskrcnn.data.duplicates import NEAR_BITS, near_pairs, perceptual_hash
from keras_maskrcnn.data.images.reading import ImageError, stored_image
from keras_maskrcnn.data.images.showing import picture_of
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.data.records import size_message
from keras_maskrcnn.host.addresses import full_name, open_file

MOST_IMAGES = 20_000  # of which all is examined
SAMPLE = 1000  # images examined of more
_BLOCK = 2**22  # bytes read at once
_BLOCKS = 2000  # tasks for the threads


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


def inspect_dataset(dataset, workers=None, progress=None, every_image=False):
    """Check the images and objects of a dataset.

    Of more than `MOST_IMAGES` the headers of all are read, and the boxes of all are checked; the pixels and outlines of
    `SAMPLE` images, evenly spread, and of those whose boxes look wrong.

    Args:
        dataset: Dataset, opened with on_error="skip".
        workers: threads; None takes the machine's cores.
        progress: function called with the number of finished images, or None.
        every_image: whether to examine all of every image, however many there are.

    Returns:
        Inspection.
    """
    findings = [
        Finding(ERROR, "rejected by the reader", fault.where, f"{fault.problem} {fault.remedy}".strip())
        for fault in dataset.faults
    ]
    findings += [Finding(WARNING, "decided by the reader", dataset.name, note) for note in dataset.notes]
    records, names = dataset.records, _names(dataset)
    whole = np.ones(len(dataset), bool) if every_image or len(dataset) <= MOST_IMAGES else _sample(records)
    findings += [] if whole.all() else [_examined_in_part(dataset, int(whole.sum()))]
    digests, hashes, pixels, areas = ([None] * len(dataset) for _ in range(4))
    blocks = np.array_split(np.arange(len(dataset)), min(len(dataset), _BLOCKS))  # a task for each image takes memory
    files = list(records.files())
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for results in pool.map(lambda block: [_look(dataset, k, files[k], whole[k]) for k in block.tolist()], blocks):
            for position, (found, area, digest, bits, measured) in results:
                findings += found
                areas[position], digests[position], hashes[position], pixels[position] = area, digest, bits, measured
            if progress is not None:
                progress(results[-1][0] + 1)
    inspection = Inspection(
        dataset,
        findings,
        records.positions,
        records.labels.astype(np.int64),
        records.crowd,
        records.boxes.astype(float),
        _all_areas(records, areas),
        digests,
        hashes,
        pixels,
    )
    findings += pixel_findings(pixels, names)
    findings += (
        _copies(inspection) + _class_findings(inspection) + file_findings(dataset) + _nothing_to_learn(inspection)
    )
    return inspection


def _names(dataset):
    """Names of the images in messages, by position."""
    pairs = zip(dataset.records.files(), dataset.image_ids, strict=True)
    return [f"image {image_id}" if file is None else file for file, image_id in pairs]


def _sample(records):
    """Which images are examined whole: bool (images,)."""
    whole = np.zeros(len(records), bool)
    whole[np.linspace(0, len(records) - 1, SAMPLE).round().astype(int)] = True
    doubtful = np.unique(records.positions[doubtful_objects(records)])
    whole[doubtful[:: -(-len(doubtful) // SAMPLE) or 1]] = True
    return whole


def _examined_in_part(dataset, count):
    message = (
        f"the headers and boxes of all {len(dataset)} images were checked; the pixels, outlines and masks of {count}: "
        "some evenly spread, and some whose boxes look wrong. Copies are found among these alone. --every-image "
        "examines all."
    )
    return Finding(NOTE, "examined in part", dataset.name, message)


def _all_areas(records, areas):
    """int64 (objects,): pixels of the masks that were made; else the stated area, or the box's."""
    boxes = records.boxes.astype(float)
    found = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stated = records.columns["area"]
    if len(stated):
        found = np.where(np.isnan(stated), found, stated)
    found, first = found.astype(np.int64), records.columns["first"].tolist()
    for position, area in enumerate(areas):
        if area is not None:
            found[first[position] : first[position + 1]] = area
    return found


def _look(dataset, position, file, whole):
    """(position, what `_examine` returns) of an image; without pixels and masks unless it is examined as a whole."""
    if not whole:
        size = jpeg_size(file)
        if size == tuple(dataset.records.columns["size"][position].tolist()):
            return position, ([], None, None, None, None)
    return position, _examine(dataset, position)


def leaks(train, val):
    """Findings about validation images that are in the training part too.

    Args:
        train, val: Inspection.

    Returns:
        List of Finding about `val`.
    """
    offset = len(train.digests)
    digests, hashes = train.digests + val.digests, train.hashes + val.hashes
    names = _names(train.dataset) + _names(val.dataset)
    found = []
    for first, second, how in _copy_pairs(digests, hashes):
        if first < offset <= second:
            message = f"it is {how} {names[first]} of the training part. Keep both in the same part."
            found.append(Finding(WARNING, "copy in both parts", names[second], message, second - offset))
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
        with open_file(source) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    else:
        digest.update(image.pixels.tobytes())
    return digest.hexdigest(), image, perceptual_hash(picture_of(image))


def _copy_pairs(digests, hashes):
    """(i, j, how) of images that are identical or look the same, i < j: each j once, with the first such i."""
    known = np.array([k for k, bits in enumerate(hashes) if bits is not None], np.int64)
    if len(known) < 2:
        return []
    packed = np.packbits(np.stack([hashes[k] for k in known]), axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    partner = first.copy()  # of each group of equal hashes: the first image that looks the same
    for a, b in near_pairs(np.stack([hashes[known[k]] for k in first]), NEAR_BITS):
        partner[a], partner[b] = min(partner[a], first[b]), min(partner[b], first[a])
    pairs = zip(known[partner[group.reshape(-1)]].tolist(), known.tolist(), strict=True)
    return [(i, j, "the same file as" if digests[i] == digests[j] else "a re-saved copy of") for i, j in pairs if i < j]


def _copies(inspection):
    """Findings about copies within a dataset: each copy once, with the first image that it equals."""
    names, paths, found = _names(inspection.dataset), list(inspection.dataset.records.files()), []
    for first, second, how in sorted(_copy_pairs(inspection.digests, inspection.hashes)):
        same_file = paths[first] is not None and _path(paths[first]) == _path(paths[second])
        if not same_file:  # listed twice: a finding of its own
            message = f"it is {how} {names[first]}. Remove one, or keep both in the same part of a split."
            found.append(Finding(WARNING, "image twice", names[second], message, second))
    return found


def _path(file):
    return None if file is None else full_name(file)


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
