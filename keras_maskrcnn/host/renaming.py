"""Renames that outlast a power failure, and the exchange of two paths in one step. Called by `files.py`."""

import ctypes
import errno
import os
import pathlib
import sys

_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE


def sync(path):
    """Wait until a file or folder, its names included, is on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot do this for folders
            raise
    finally:
        os.close(handle)


def sync_tree(path):
    """`sync` for a file, or for a folder with everything in it."""
    path = pathlib.Path(path)
    for inside in path.rglob("*") if path.is_dir() else ():
        sync(inside)
    sync(path)


def exchange(one, other):
    """Swap what two paths name, in one step.

    Returns:
        bool: False where the system or the file system cannot do it; then nothing has changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return function is not None and function(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
