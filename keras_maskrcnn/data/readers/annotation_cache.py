"""What was read from a large annotation file, kept for the next process: in the user's cache folder, memory-mapped.

In: a file, the reader's options, and a function that reads it. Out: the arguments of `Dataset.__init__`. A cache counts
while these are the same: the file's bytes, its path and the options, the code of the readers, and the image files in
the folders where images were looked for. Else, or if the cache itself is damaged, the file is read again and a new
cache takes the place of the old one. Faults and notes are kept, too, so that messages are the same; those in the words
of the command line apart from those of Python.

A cache is one file: `_MAGIC`, the length of a JSON header, the header, the arrays of a `RecordTable`, and the SHA-256
of all that. Nothing in it is executed. Called by the readers of formats with one file for many images.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import mmap
import os
import pathlib
import time

import numpy as np

from keras_maskrcnn.data.readers.folders import read_blocks
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.record_table import COLUMNS, RecordTable
from keras_maskrcnn.data.records import Fault
from keras_maskrcnn.host.caches import annotations_folder
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.messages import words_in_use

SMALLEST = 2**20  # bytes: smaller files are read in a tenth of a second
MOST = 4 * 2**30  # bytes of all caches; those that were not used for longest go first
_MAGIC = b"keras-maskrcnn annotations 1\n"
_ALIGNED = 64  # bytes
_YOUNG = 2 * 10**9  # nanoseconds
_DIGEST = hashlib.sha256().digest_size
_ENDING = ".annotations"
_READING = ("data/readers/*.py", "data/images/*.py", "geometry/*.py", "geometry/native/*.py")
_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Reading:
    """What a reader found.

    Args:
        arguments: dict, of `Dataset.__init__`: records (RecordTable), class_names, category_ids, faults, notes,
            absent_classes and perhaps keypoints; not its name and image_dir.
        finder: ImageFinder that found the images.
        keep: whether a cache can hold it: it depends on nothing else, and the digest saw all bytes of the file.
        read_images: whether it depends on the image files themselves, such as their sizes, and not on names alone.
    """

    arguments: dict
    finder: ImageFinder
    keep: bool
    read_images: bool = False


def as_options(*lists):
    """Optional lists of class names or ids, as `remembered` takes them among the options: tuples, or None."""
    return tuple(None if values is None else tuple(values) for values in lists)


def remembered(path, image_dir, options, read):
    """The arguments of `Dataset.__init__` for a file: from the cache, or read and then kept.

    Args:
        path: the annotation file. image_dir: folder of the images, or None.
        options: tuple of whatever else determines the result; its `repr` counts.
        read: function of a hashlib object, which it gives the file's bytes, or None; it returns a Reading.

    Returns:
        dict. `records` is a RecordTable; from the cache with memory-mapped arrays, which processes share.

    Raises:
        Whatever `read` raises.
    """
    place = _place(path, image_dir, options)
    if place is None:
        return read(None).arguments
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no cache, or not a sound one
        return _load(place, path, image_dir)
    digest, about = hashlib.sha256(), _about(path)
    reading = read(digest)
    if reading.keep and about == _about(path) and not any(reading.arguments["records"].odd.values()):
        try:
            _store(place, reading, about, digest.hexdigest())
        except (OSError, ValueError, TypeError) as error:
            _log.debug("The annotations of %s were not kept: %s", path, error)
    return reading.arguments


def _place(path, image_dir, options):
    """The cache's own path, or None: the file is small or missing, or caches are not wanted or have no place."""
    try:
        if os.path.getsize(path) < SMALLEST:
            return None
        folder, code = annotations_folder(), _code()
    except (OSError, ValueError, TypeError):
        return None
    if folder is None:
        return None
    absolute = os.path.isabs(path) and (image_dir is None or os.path.isabs(image_dir))
    given = (str(path), image_dir if image_dir is None else str(image_dir), None if absolute else os.getcwd(), options)
    key = repr((given, code, words_in_use()))
    return folder / (hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40] + _ENDING)


@functools.cache
def _code():
    """A digest of the code that reads annotations: another version may read another meaning."""
    digest, here = hashlib.sha256(), pathlib.Path(__file__).parent
    files = [*here.parent.glob("*.py"), *(file for folder in _READING for file in here.parents[1].glob(folder))]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _is_current(header, path, image_dir):
    """Whether the annotation file and the image files are those that were read."""
    about = _about(path)
    if about[0] != header["about"][0]:
        return False
    # As git does: a file with the times of before may be another one if it is as young as what was written about it.
    if about != header["about"] or header["written"] - max(about[1:3]) < _YOUNG:
        digest = hashlib.sha256()
        for block in read_blocks(path):
            digest.update(block)
        if digest.hexdigest() != header["sha256"]:
            return False
    return ImageFinder(path, image_dir).state_of(**header["looked_at"]) == header["state"]


def _about(path):
    """[bytes, time of the content, time of the last change of any kind, inode] of a file: a list of int."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _store(place, reading, about, sha256):
    arguments, looked_at = dict(reading.arguments), reading.finder.looked_at() | {"contents": reading.read_images}
    columns, layout, end = arguments.pop("records").columns, {}, 0
    for name, values in columns.items():
        layout[name] = [end, list(values.shape)]
        end += -(-values.nbytes // _ALIGNED) * _ALIGNED
    header = {
        "about": about,
        "written": time.time_ns(),
        "sha256": sha256,
        "looked_at": looked_at,
        "state": reading.finder.state_of(**looked_at),
        "columns": layout,
        "arguments": {
            "class_names": list(arguments["class_names"]),
            "category_ids": list(arguments["category_ids"]),
            "faults": [dataclasses.astuple(fault) for fault in arguments["faults"]],
            "notes": list(arguments["notes"]),
            "absent_classes": list(arguments["absent_classes"]),
            "keypoints": arguments.get("keypoints"),
        },
    }
    write_atomically(place, lambda new: _write(new, json.dumps(header).encode(), columns))
    _remove_oldest(place)


def _write(path, header, columns):
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def put(data):
            digest.update(data)
            file.write(data)

        put(_MAGIC + len(header).to_bytes(8, "little") + header)
        put(bytes(-file.tell() % _ALIGNED))
        for values in columns.values():
            put(values.reshape(-1).view(np.uint8).data if values.size else b"")
            put(bytes(-file.tell() % _ALIGNED))
        file.write(digest.digest())


def _load(place, path, image_dir):
    """The arguments in a cache.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none that is sound and current.
    """
    with open(place, "rb") as file:
        begin = file.read(len(_MAGIC) + 8)
        if begin[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not a cache")
        _check_digest(file)
        file.seek(len(begin))
        header = json.loads(file.read(int.from_bytes(begin[len(_MAGIC) :], "little")))
        if not _is_current(header, path, image_dir):
            raise ValueError("not current")
        first = -(-file.tell() // _ALIGNED) * _ALIGNED
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.utime(place)
    columns = {}
    for name, (code, _) in COLUMNS.items():
        offset, shape = header["columns"][name]
        columns[name] = np.frombuffer(memory, np.dtype(code), int(np.prod(shape)), first + offset).reshape(shape)
    arguments = header["arguments"]
    return {
        **arguments,
        "records": RecordTable(columns),
        "faults": [Fault(*fault) for fault in arguments["faults"]],
    }


def _check_digest(file):
    """Raise ValueError unless a file ends with the SHA-256 of what is before."""
    left = os.fstat(file.fileno()).st_size - _DIGEST
    digest = hashlib.sha256()
    file.seek(0)
    while left > 0 and (block := file.read(min(left, SMALLEST))):
        digest.update(block)
        left -= len(block)
    if left or file.read() != digest.digest():
        raise ValueError("damaged")


def _remove_oldest(newest):
    """Remove the caches that were not used for longest, until all take at most `MOST` bytes."""
    found = [(path, path.stat()) for path in newest.parent.glob(f"*{_ENDING}") if path != newest]
    left = MOST - newest.stat().st_size
    for path, about in sorted(found, key=lambda entry: -entry[1].st_mtime_ns):
        left -= about.st_size
        if left < 0:
            with contextlib.suppress(OSError):  # another process was faster, or has it open on Windows
                path.unlink()
