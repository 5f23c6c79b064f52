"""One process at a time writes a folder or a file: the second is told which process is there, or waits.

The system frees a lock when its process ends, however it ends; the lock file that a killed process leaves is taken over
by the next one. Called by whatever writes results: runs, exports, weights, datasets, the command line.
"""

import contextlib
import logging
import os
import pathlib
import socket
import time
import warnings

import filelock

from keras_maskrcnn.host.files import clean_up, explained

_LOCK, _OWNER = ".lock", ".pid"
_TRIES = 20
_PATIENCE = 0.5  # seconds in which a process that has just taken a lock writes its number

_LOG = logging.getLogger(__name__)


class InUse(OSError):
    """Another process is writing there."""


@contextlib.contextmanager
def locked_folder(folder, wait=False):
    """Hold a folder, and remove what killed processes left in it.

    Args:
        folder: made if it is missing, and removed again if it stays empty.
        wait: whether to wait until another process has ended, instead of an error.

    Raises:
        InUse: an OSError: another process holds it.
    """
    folder = pathlib.Path(folder)
    made = not folder.exists()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder / _LOCK, folder, wait):
            clean_up(folder)
            yield folder
    finally:
        if made:
            with contextlib.suppress(OSError):  # the usual case: it is not empty
                folder.rmdir()


@contextlib.contextmanager
def locked_file(path, wait=False):
    """Hold a file that is to be written, by a lock beside it. Args and errors as `locked_folder`; makes its folder."""
    path = pathlib.Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f".{path.name}{_LOCK}"), path, wait):
        clean_up(path.parent)
        yield path


@contextlib.contextmanager
def _held(place, target, wait):
    """Hold the lock file `place`; write who holds it beside it. Both are removed at the end."""
    owner = place.with_name(place.name + _OWNER)
    with explained(target):
        lock = _acquired(place, owner, target, wait)
    try:
        with explained(target):
            owner.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        if os.name != "nt":  # Windows removes no open files
            place.unlink(missing_ok=True)  # while it is held: whoever opened it before notices, and tries again
        lock.release()


def _acquired(place, owner, target, wait):
    lock = filelock.FileLock(place)
    try:
        _acquire(lock, timeout=0)
    except filelock.Timeout:
        holder = _holder(owner)
        if not wait:
            raise InUse(
                f"One process at a time can write {target}. Received: process {holder} is writing it. "
                "Wait until it has ended, or write to another place."
            ) from None
        _LOG.info("waiting for process %s, which is writing %s", holder, target)
        _acquire(lock)
    except NotImplementedError:
        warnings.warn(f"The file system of {target} has no locks: do not let two processes write there.")
    return lock


def _acquire(lock, timeout=-1):
    """Acquire a lock whose folder another process may be removing: filelock makes it anew, which can fail just then."""
    for left in reversed(range(_TRIES)):
        try:
            return lock.acquire(timeout=timeout)
        except (FileNotFoundError, FileExistsError):
            if not left:
                raise


def _holder(owner):
    """The number and the machine of the process that holds a lock, str."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if text := owner.read_text(encoding="utf-8"):
                return text
        time.sleep(_PATIENCE / 10)
    return "(number unknown)"
