"""Files and folders that are written whole or not at all: in a temporary folder beside their place, then renamed.

At any instant a path holds the old state or the new one. A kill leaves at most a temporary folder `.partial-*`, which
the next writer in that folder removes; it is locked, so that those of processes that still run are left alone.

Called by whatever writes results: callbacks, readers, exports, weights, pages, the command line and the samples.
"""

import contextlib
import errno
import functools
import json
import os
import pathlib
import shutil
import tempfile
import threading

import filelock

from keras_maskrcnn.host.renaming import exchange, sync, sync_tree

_PARTIAL = ".partial-"  # how the names of temporary folders begin
_LOCK, _NEW, _READY, _OLD = "lock", "new", "ready", "old"  # in a temporary folder
_TRIES = 20
_CLEANING = threading.Lock()
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class WriteError(OSError):
    """A file could not be written; what was there before is unchanged."""


# Writing ---------------------------------------------------------------------------------------------------


def write_atomically(path, write):
    """Write a file so that its path never holds half of it.

    Of two processes that write the same file the last one to finish wins; `locks.locked_file` admits only one.

    Args:
        path: the file's final place; its folder is made if it is missing.
        write: function that writes the file at the pathlib.Path it is given (another folder, same name).

    Raises:
        WriteError: an OSError: no room, or no right to write there.
    """
    path = pathlib.Path(path)
    with _staging(path.parent, path) as new:
        write(new / path.name)
        sync(new / path.name)
        os.replace(new / path.name, path)
        sync(path.parent)


def write_together(folder, files):
    """Write several files of a folder that belong together: never a new one beside an old one.

    Between the first and the last rename files are missing, for a fraction of a millisecond. After a kill in it the
    next writer in this folder completes them.

    Args:
        folder: made if it is missing.
        files: dict from file name to a function as in `write_atomically`.

    Raises:
        WriteError: as `write_atomically`.
    """
    folder = pathlib.Path(folder)
    with _staging(folder, folder / next(iter(files))) as new:
        for name, write in files.items():
            write(new / name)
        sync_tree(new)
        _move_in(_commit(new), folder)


def write_folder(path, write):
    """Write a whole folder in the place of an older one, if there is one.

    Args:
        path: the folder's final place; the folder above it is made if it is missing.
        write: function that writes the folder at the pathlib.Path it is given (same name).

    Raises:
        WriteError: as `write_atomically`.
    """
    path = pathlib.Path(path)
    with _staging(path.parent, path) as new:
        write(new / path.name)
        sync_tree(new)
        if path.exists() and exchange(new / path.name, path):
            sync(path.parent)
        else:
            _move_in(_commit(new), path.parent)


def copy_file(source, path):
    """Copy a file's content, as `write_atomically`."""
    write_atomically(path, lambda place: shutil.copyfile(source, place))


def write_text(path, text):
    """Write a text file, UTF-8."""
    write_atomically(path, text_writer(text))


def write_json(path, values):
    """Write a JSON file, indented."""
    write_text(path, json_text(values))


def text_writer(text):
    """A function that writes this text to a path, for `write_atomically` and `write_together`."""
    return lambda path: path.write_text(text, encoding="utf-8")


def json_text(values):
    """The text of an indented JSON file."""
    return json.dumps(values, indent=2) + "\n"


# Temporary folders -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _staging(folder, target):
    """A new folder inside a temporary, locked one inside `folder`; removed at the end, also after an error."""
    with explained(target):
        folder.mkdir(parents=True, exist_ok=True)
        with _CLEANING:  # else it would take another thread's new folder, which is not locked yet
            _clean_once(folder.resolve())
        place, lock = _new_staging(folder)
    try:
        with explained(target, place):
            yield place / _NEW
    finally:
        _remove(place, lock)


@contextlib.contextmanager
def scratch_folder(folder):
    """A new folder inside `folder` for files that nobody needs afterwards, removed at the end or after a kill."""
    with _staging(pathlib.Path(folder), folder) as new:
        yield new


def _new_staging(folder):
    """A temporary folder with an empty `_NEW` in it, and its lock. One that cleans up may be faster: try again."""
    for _ in range(_TRIES):
        place = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        lock = _try_lock(place / _LOCK)
        if lock is None:
            shutil.rmtree(place, ignore_errors=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            (place / _NEW).mkdir()
            if (place / _LOCK).exists() or not lock.is_locked:  # else the other one removed the file that is locked
                return place, lock
        _remove(place, lock)
    raise WriteError(f"A temporary folder in {folder} must be locked. Received: {_TRIES} refusals. Try another folder.")


def _try_lock(path):
    """Lock a file. Returns the lock, or None if another process or user holds it, or has removed its folder."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, FileNotFoundError, FileExistsError, PermissionError):  # filelock makes a missing folder
        return None
    except NotImplementedError:  # a file system without locks: nothing tells which processes still run
        pass
    return lock


def clean_up(folder):
    """Remove the temporary folders of killed processes; complete what was ready to be moved into place."""
    folder = pathlib.Path(folder)
    if not os.path.isdir(folder):  # `glob` raises for a name that no disk can hold
        return
    for place in folder.glob(f"{_PARTIAL}*"):
        if not place.is_dir():  # of an older version
            place.unlink(missing_ok=True)
            continue
        lock = _try_lock(place / _LOCK)
        if lock is None or not lock.is_locked:
            continue
        try:
            if (place / _READY).is_dir():
                _move_in(place / _READY, folder)
        finally:
            _remove(place, lock)


def _remove(place, lock):
    """Remove a temporary folder and free its lock. What cannot be removed now is removed the next time."""
    ready = place / _READY
    if not (ready.is_dir() and any(ready.iterdir())):  # else an error stopped `_move_in`: the next writer completes it
        shutil.rmtree(place, ignore_errors=True)
    lock.release()
    if os.name == "nt":  # which removes no open files
        shutil.rmtree(place, ignore_errors=True)


@functools.lru_cache(maxsize=1024)
def _clean_once(folder):
    """`clean_up`, once per process: to list a folder of many files takes longer than to write one."""
    clean_up(folder)


def _commit(new):
    """From now on the new files count: a kill no longer stops them. Returns their folder."""
    ready = new.with_name(_READY)
    os.rename(new, ready)
    sync(ready.parent)
    return ready


def _move_in(ready, folder):
    """Move everything from `ready` into the folder. The old files go first, so that none is beside a new one."""
    old = pathlib.Path(tempfile.mkdtemp(prefix=_OLD, dir=ready.parent))
    names = sorted(path.name for path in ready.iterdir())
    for name in names:
        if os.path.lexists(folder / name):
            os.rename(folder / name, old / name)
    for name in names:
        os.rename(ready / name, folder / name)
    sync(folder)


# Errors ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(target, place=None):
    """Turn the errors of full disks and closed folders into one that names the target.

    Args:
        target: the file or folder that is written. place: temporary folder whose size is told, or None.

    Raises:
        WriteError: in their place. Other errors pass.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:  # h5py, TensorFlow and Pillow report a full disk by errors of their own
        code = disk_error(error, pathlib.Path(target).parent)
        if code is None:
            raise
        told = WriteError(_told(code, target, _size(place) if place else 0))
        told.errno = code
        raise told from error


def disk_error(error, folder=None):
    """The `errno` of a disk that is full or a folder that cannot be written to, behind an error; else None.

    Args:
        error: Exception. folder: whose rights count; None: only full disks count.
    """
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        number = error.errno if isinstance(error, OSError) else None
        if number in _ROOM or (number in _PLACE and folder is not None and _is_inside(error.filename, folder)):
            return number
        for code in _ROOM:
            if os.strerror(code).lower() in str(error).lower():
                return code
        error = error.__cause__ or error.__context__
    return None


def _is_inside(name, folder):
    place = os.path.abspath(os.fspath(name)) if name else ""
    return place.startswith(os.path.abspath(folder)) or (bool(place) and os.path.abspath(folder).startswith(place))


def _told(code, target, size):
    problem = os.strerror(code)
    if code in _ROOM:
        return (
            f"Writing {target} needs room on its disk. Received: {problem} after {_megabytes(size)}, "
            f"{_megabytes(_free(target))} free. Free some, or write to another disk; what was there is unchanged."
        )
    return (
        f"Writing {target} needs a folder that can be written to. Received: {problem}. "
        "Change its permissions, or write to another folder; what was there is unchanged."
    )


def _size(place):
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def _free(target):
    place = pathlib.Path(target).absolute()
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.is_dir())).free


def _megabytes(count):
    return f"{count / 1e6:.1f} MB"
