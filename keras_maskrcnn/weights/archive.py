"""Open a zip archive that somebody else wrote: `.pth` and `.keras` files are archives.

`zipfile` trusts an archive's directory. The checks here come first: the directory is small, names are unique and stay
inside, and the members together are not larger than the file allows. Called by `pth.py` and `keras_files.py`.
"""

import contextlib
import os
import re
import zipfile

from keras_maskrcnn.weights.limits import MOST_DIRECTORY_BYTES, inflated_limit

ARCHIVE_START = b"PK\x03\x04"
_END, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", 22, 1 << 16
_END64, _END64_SIZE, _LOCATOR64, _LOCATOR64_SIZE = b"PK\x06\x06", 56, b"PK\x06\x07", 20
_OUTSIDE = re.compile(r"(^|[/\\])\.\.($|[/\\])|^[/\\]|^[A-Za-z]:|\x00")
_ENCRYPTED = 1


def is_archive(path):
    """Whether a file begins as a zip archive does."""
    with open(path, "rb") as file:
        return file.read(4) == ARCHIVE_START


@contextlib.contextmanager
def open_archive(path):
    """Open an archive after checks of its directory.

    Args:
        path: the file.

    Yields:
        (zipfile.ZipFile, dict of name to zipfile.ZipInfo).

    Raises:
        ValueError, zipfile.BadZipFile: it is no archive, damaged or forged. The message does not name the file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        directory = _directory_bytes(file, size)
        if directory > MOST_DIRECTORY_BYTES:
            raise ValueError(f"an archive whose directory has {directory:,} bytes; at most {MOST_DIRECTORY_BYTES:,}")
        with zipfile.ZipFile(file) as archive:
            yield archive, _members(archive, size)


def _members(archive, size):
    members, stored, inflated = {}, 0, 0
    for info in archive.infolist():
        if info.filename in members:
            raise ValueError(f"an archive with two members {info.filename!r}")
        if _OUTSIDE.search(info.filename):
            raise ValueError(f"an archive with the member {info.filename!r}, a name outside of it")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"an archive with the encrypted member {info.filename!r}")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"an archive with two sizes of {info.filename!r}")
        members[info.filename] = info
        stored, inflated = stored + info.compress_size, inflated + info.file_size
    if stored > size:
        raise ValueError(f"an archive of {size:,} bytes whose members have {stored:,}: they overlap, or it was cut")
    if inflated > inflated_limit(size):
        raise ValueError(f"an archive of {size:,} bytes that grows to {inflated:,}; at most {inflated_limit(size):,}")
    return members


def _directory_bytes(file, size):
    """Size of the central directory that `zipfile` will read, from the record at the end of the archive."""
    start = max(size - _LONGEST_COMMENT - _END_SIZE, 0)
    file.seek(start)
    tail = file.read()
    at = len(tail) - _END_SIZE
    if at < 0 or tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
        at = tail.rfind(_END)
    if at < 0 or at + _END_SIZE > len(tail):
        raise zipfile.BadZipFile("an archive without its end: the file was cut or is damaged")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    file.seek(max(start + at - _LOCATOR64_SIZE, 0))
    locator = file.read(_LOCATOR64_SIZE)
    if locator[:4] == _LOCATOR64:
        # Versions of `zipfile` differ in which of two records they read: the one before the locator, or the one at its
        # offset.
        records = (start + at - _LOCATOR64_SIZE - _END64_SIZE, int.from_bytes(locator[8:16], "little"))
        directory = max(_long_directory_bytes(file, place, size) for place in records)
    file.seek(0)
    return directory


def _long_directory_bytes(file, place, size):
    """The size in the 64-bit record at a place; 0 where there is none."""
    if not 0 <= place <= size - _END64_SIZE:
        return 0
    file.seek(place)
    record = file.read(_END64_SIZE)
    return int.from_bytes(record[40:48], "little") if record[:4] == _END64 else 0
