"""Files by their address: `s3://bucket/a.json`, `http://host/images`, `memory://a.png`, beside those on a disk.

In: what a user calls a file or folder. Out: a `pathlib.Path`, or a `RemotePath` with the same methods. `simplecache::`
before an address keeps a copy of each file that is read in the user's cache folder, and reads that from then on.

A `RemotePath` is no `os.PathLike`: a function of the standard library that is given one raises a TypeError, instead of
looking for a local file. Called by whatever reads files of users.
"""

import os
import pathlib
import re
import urllib.parse

from keras_maskrcnn.host.remote_paths import CACHED, RemotePath

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


def is_address(source):
    """Whether a str or path is an address with a protocol, `file://` included."""
    if isinstance(source, RemotePath):
        return True
    return isinstance(source, str) and _ADDRESS.match(source.removeprefix(CACHED)) is not None


def as_path(source):
    """The file or folder that a user names.

    Args:
        source: str, pathlib.Path or RemotePath.

    Returns:
        RemotePath of an address, else pathlib.Path; also of a `file://` address.

    Raises:
        ValueError: fsspec, or its package for this protocol, is not installed; or there is no such protocol.
    """
    if isinstance(source, RemotePath) or not is_address(source):
        return source if isinstance(source, RemotePath) else pathlib.Path(source)
    plain = source.removeprefix(CACHED)
    if plain.lower().startswith("file://"):
        return pathlib.Path(urllib.parse.unquote(plain[len("file://") :]))
    return RemotePath(source)


def local_file(path):
    """The pathlib.Path where a file is on this machine; None of one that is elsewhere.

    Args:
        path: str, pathlib.Path or RemotePath. With `simplecache::` a copy is made, unless there is one.
    """
    path = as_path(path)
    if not isinstance(path, RemotePath):
        return path
    return path.local_copy() if path.is_cached else None


def open_file(path):
    """Open a file for reading bytes, from the start to the end or anywhere.

    Args:
        path: str, pathlib.Path or RemotePath.

    Raises:
        OSError, ValueError: as `open`, and as `as_path`.
    """
    local = local_file(path)
    return as_path(path).open() if local is None else open(local, "rb")


def open_image(path):
    """As `open_file`, for an image of which perhaps only the header is read."""
    local = local_file(path)
    return as_path(path).open_head() if local is None else open(local, "rb")


def folder_of(path):
    """The folder of a file, str. Args: str, a path or an address."""
    if not is_address(path):
        return os.path.dirname(path)
    folder = path.rpartition("/")[0]
    return f"{folder}/" if folder.endswith(":/") else folder


def full_name(path):
    """The absolute path of a file, or its address: the same for the same file. Args: str."""
    return str(path) if is_address(path) else os.path.abspath(path)


def relative_name(path, folder):
    """The name of a file inside a folder, with forward slashes, as annotations name it.

    Args:
        path, folder: str, pathlib.Path or RemotePath.

    Returns:
        str. A file elsewhere gets a name with `..`; of an address that is not inside the folder, the whole address.
    """
    if not is_address(path):
        return pathlib.Path(os.path.relpath(path, folder)).as_posix()
    try:
        return as_path(path).relative_to(as_path(folder)).as_posix()
    except (ValueError, AttributeError):
        return str(path)


def walk(folder):
    """Folders from the top down, as `os.walk`; of a remote one the place is a RemotePath.

    Args:
        folder: str, pathlib.Path or RemotePath. It need not exist.

    Yields:
        (folder, names of folders in it, which may be changed, names of files in it).
    """
    folder = as_path(folder)
    if not isinstance(folder, RemotePath):
        yield from os.walk(folder)
        return
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        names = held_by(place)
        folders = [name for name, is_folder in names.items() if is_folder]
        yield place, folders, [name for name, is_folder in names.items() if not is_folder]
        waiting += [place / name for name in reversed(folders)]


def held_by(folder):
    """{name: whether it is a folder} of a RemotePath; empty if it is no folder or its server lists none."""
    try:
        return folder.names() or {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
