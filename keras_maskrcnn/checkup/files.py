"""Checks of a dataset's image files: listed twice, names that differ in the ending alone, pages, missing entries.

In: a Dataset. Out: lists of Finding. Called by `inspection.py`.
"""

import collections
import os

import numpy as np
from PIL import Image

from keras_maskrcnn.checkup.findings import NOTE, WARNING, Finding, name_of
from keras_maskrcnn.data.coco_output import is_file
from keras_maskrcnn.data.readers.folders import image_names
from keras_maskrcnn.host.addresses import as_path, folder_of, full_name, is_address, open_image

_LISTED = 5  # largest number of file names in a message
_ORIENTATION = 0x0112  # EXIF tag; 1 means upright
_ANIMATED = ("GIF", "PNG", "WEBP")
_HEADER = 4096  # bytes read of a JPEG
_PIXELS = 2**26  # above it Pillow may have something to say
_FRAMES = (0xC0, 0xC2)  # baseline and progressive
# Other segments of a JPEG's usual header: how they start, and their least length.
_USUAL = {
    0xC4: (b"", 17),  # Huffman tables
    0xDD: (b"", 2),  # restart interval
    0xE0: (b"JFIF\0", 14),
    0xE2: (b"ICC_PROFILE\0", 14),
    0xEE: (b"Adobe", 12),
    0xFE: (b"", 0),  # comment
}
_UNUSUAL = (b"", 2**16)  # longer than any


def file_findings(dataset):
    """Findings about the files of a dataset as a whole.

    Args:
        dataset: Dataset.
    """
    paths = [None if file is None else full_name(file) for file in dataset.records.files()]
    listed = collections.defaultdict(set)  # folder -> names
    for path in paths:
        if path is not None:
            listed[folder_of(path)].add(os.path.basename(path))
    unlisted = [
        str(as_path(folder) / name)
        for folder, names in sorted(listed.items())
        for name in image_names(folder)
        if name not in names
    ]
    return [*_several_ids(dataset, paths), *_same_stems(dataset, paths, unlisted), *_without_entry(dataset, unlisted)]


def header_findings(record, position, channels):
    """Findings about what an image's header says: its orientation, and further pages or frames.

    Args:
        record: Record. position: int, of the image in its dataset.
        channels: int, those that are read of it.
    """
    if not is_file(record):
        return []
    turn, pages, animated = _header(record.source)
    found = []
    if turn != 1:
        message = f"orientation {turn}: it is rotated when read. Check that its objects were drawn on the rotated one."
        found.append((NOTE, "EXIF turn", message))
    if pages > 1 and pages == channels:
        message = f"its {pages} pages are read as channels. If they are several images, save each in its own file."
        found.append((NOTE, "pages", message))
    elif pages > 1 or animated:
        several = f"{pages} pages" if pages > 1 else "several frames"
        message = f"it has {several}, of which the first is read. Save each image in a file of its own."
        found.append((WARNING, "pages", message))
    return [Finding(severity, kind, name_of(record), message, position) for severity, kind, message in found]


def jpeg_size(file):
    """(height, width) of an upright JPEG, from its header; None of anything else, or if something is wrong.

    Args:
        file: str, a path or an address; or None.
    """
    if file is None:
        return None
    try:
        with open_image(file) if is_address(file) else open(file, "rb", buffering=0) as opened:
            size = _size_in_usual_header(opened.read(_HEADER))
            if size is not None:
                return size
            opened.seek(0)
            with Image.open(opened, formats=("JPEG",)) as image:
                upright = image.format == "JPEG" and image.getexif().get(_ORIENTATION, 1) == 1
                return image.size[::-1] if upright else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _size_in_usual_header(head):
    """(height, width) in the first bytes of a JPEG, if they are a header as nearly all have; else None.

    That is up to the first scan: JFIF's or Adobe's mark, a colour profile, comments, tables of 8 bits, one baseline or
    progressive frame of 8 bits with one or three components. No EXIF. All else is left to Pillow, which is slower.
    """
    at, size = 2, None
    if head[:2] != b"\xff\xd8":
        return None
    while at + 4 <= len(head) and head[at] == 0xFF:
        kind, end = head[at + 1], at + 2 + int.from_bytes(head[at + 2 : at + 4], "big")
        body, at = head[at + 4 : end], end
        if kind == 0xDA:
            return size if end <= len(head) else None
        if kind in _FRAMES and size is None and len(body) > 5 and body[0] == 8:
            size, components = (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")), body[5]
            usual = components in (1, 3) and len(body) == 6 + 3 * components and 0 < size[0] * size[1] <= _PIXELS
        elif kind == 0xDB:  # quantization tables
            usual = body and len(body) % 65 == 0 and max(body[::65]) < 4
        else:
            start, least = _USUAL.get(kind, _UNUSUAL)
            usual = body.startswith(start) and len(body) >= least
        if not usual:
            return None
    return None


def some(names):
    """The first names of many, in a message."""
    names = list(names)
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _header(path):
    """(EXIF orientation, pages of a TIFF, whether there are several frames)."""
    try:
        with open_image(path) as file, Image.open(file) as image:
            pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            animated = image.format in _ANIMATED and getattr(image, "is_animated", False)
            return image.getexif().get(_ORIENTATION, 1), pages, animated
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1, 1, False  # not a file of Pillow's; these are not photos


def _several_ids(dataset, paths):
    """Findings about files that several images of the annotations name."""
    counts, positions = collections.Counter(paths), collections.defaultdict(list)
    for position, path in enumerate(paths) if len(counts) < len(paths) else ():
        if path is not None and counts[path] > 1:
            positions[path].append(position)
    found = []
    for path, those in positions.items():
        ids = some(str(dataset[position].image_id) for position in those)
        message = (
            f"{len(those)} images of the annotations name it (ids {ids}). In each, the objects of the others count "
            "as background. Give it one id, with all its objects."
        )
        found.append(Finding(WARNING, "one file under several ids", path, message, those[0]))
    return found


def _same_stems(dataset, paths, unlisted):
    """Findings about images in one folder whose names differ in the ending alone: a.jpg and a.png."""
    listed = {path for path in paths if path is not None}
    counts = collections.Counter(os.path.splitext(path)[0] for path in (*listed, *unlisted))
    by_stem = collections.defaultdict(list)
    for position, path in (
        [*enumerate(paths), *((None, path) for path in unlisted)] if len(counts) < counts.total() else ()
    ):
        if path is not None and counts[stem := os.path.splitext(path)[0]] > 1:
            by_stem[stem].append((position, path))
    found = []
    for those in by_stem.values():
        (first, path), others = those[0], [entry for entry in those if entry[1] != those[0][1]]
        if first is None or not others:
            continue
        names = some(os.path.basename(other) for _, other in others)
        shared = any(other is None or _same_objects(dataset[first], dataset[other]) for other, _ in others)
        message = (
            f"{names} has the same name but for its ending. Where labels are found by an image's name, as in YOLO, VOC "
            "and mask files, both get the same ones, or one gets none. Rename one, or remove it."
        )
        kind = "two images of one name"
        found.append(Finding(WARNING if shared else NOTE, kind, path, message, first))
    return found


def _same_objects(one, other):
    """Whether two records have the same objects, relative to the sides of the images; not where there are none."""
    if not one.instances or [i.label for i in one.instances] != [i.label for i in other.instances]:
        return False
    boxes = [
        np.array([i.box for i in record.instances]) / (record.width, record.height, record.width, record.height)
        for record in (one, other)
    ]
    return bool(np.allclose(*boxes, atol=0.01))


def _without_entry(dataset, unlisted):
    """Finding about image files in the dataset's folders that it does not list."""
    mentioned = " ".join(f"{fault.where} {fault.problem}" for fault in dataset.faults)
    missing = [name for name in map(os.path.basename, unlisted) if name not in mentioned]
    if not missing:
        return []
    message = f"{len(missing)} images in its folders are not listed: {some(missing)}."
    return [Finding(NOTE, "images without entry", dataset.name, message)]
