"""What folders hold, listed once: the names of files, the files below a folder, and the state of a file.

In: folders on this machine or at an address. Out: names and paths. Called by `image_finder.py`.
"""

import os

from keras_maskrcnn.data.limits import SEARCH_DEPTH, SEARCH_FILES
from keras_maskrcnn.host.addresses import as_path, held_by, is_address, walk


class Listings(dict):
    """{folder: names of its files}; each folder is listed when it is first asked for."""

    def __missing__(self, folder):
        self[folder] = names = _file_names(folder)
        return names


class AllNames(frozenset):
    """Holds every name: only reading a file can tell whether it is there."""

    def __contains__(self, name):
        return True


def _file_names(folder):
    """Names of the files in a folder; none if it is no folder that can be read, all of a server that lists none."""
    if is_address(folder):
        folder = as_path(folder)
        files = frozenset(name for name, is_folder in held_by(folder).items() if not is_folder)
        return files if files or not folder.is_unlisted() else AllNames()
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def files_below(folder):
    """The files in a folder and its sub-folders, without hidden ones, sorted; None if there are too many."""
    found, count = [], 0
    for place, folders, files in walk(folder):
        depth = str(place)[len(str(folder)) :].count("/" if is_address(folder) else os.sep)
        folders[:] = [] if depth >= SEARCH_DEPTH else sorted(name for name in folders if not name.startswith("."))
        count += len(files) + len(folders)
        if count > SEARCH_FILES:
            return None
        found += [as_path(place) / name for name in sorted(files) if not name.startswith(".")]
    return found


def state(file):
    """The size and times of a file, as text."""
    try:
        found = os.stat(file)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
