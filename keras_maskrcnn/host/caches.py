"""The user's cache folder: downloaded files, converted weights, compiled programs, annotations."""

import contextlib
import os
import pathlib
import platform

SWITCH = "KERAS_MASKRCNN_KEEP_COMPILED"  # environment: 0 keeps no compiled programs
ANNOTATIONS_SWITCH = "KERAS_MASKRCNN_KEEP_ANNOTATIONS"  # environment: 0 keeps no annotations


def cache_folder():
    """The folder `$KERAS_HOME/keras_maskrcnn`, by default `~/.keras/keras_maskrcnn`.

    Created if it is missing and its place can be written to.
    """
    home = os.environ.get("KERAS_HOME")
    user = os.path.expanduser("~")
    if not home and user == "~":
        raise OSError(_not_writable("~/.keras", "this user has no home folder"))
    folder = pathlib.Path(home or pathlib.Path(user) / ".keras") / "keras_maskrcnn"
    with contextlib.suppress(OSError):  # nothing needs to be written where the weights are; `need_writable` tells
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def need_writable(folder):
    """Raise an OSError if files cannot be written into the cache."""
    if not folder.is_dir():
        raise OSError(_not_writable(folder, "it cannot be created"))
    if not os.access(folder, os.W_OK):
        raise OSError(_not_writable(folder, "it is read-only for this user"))


def _not_writable(folder, problem):
    return (
        f"Downloaded files need a folder that can be written to. Received {folder}: {problem}. Set the environment "
        "variable KERAS_HOME to a folder that can be written to."
    )


def compiled_folder():
    """The folder of this machine's compiled programs, or None if the environment says no or there is no place.

    One folder for each machine: programs for a CPU run on that CPU alone, and homes are shared.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return None
    try:
        folder = cache_folder() / "compiled" / platform.node()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # then each process compiles, as it did before
    return folder if os.access(folder, os.W_OK) else None


def annotations_folder():
    """The folder of annotations that were read before, or None if the environment says no or there is no place."""
    if os.environ.get(ANNOTATIONS_SWITCH, "1") == "0":
        return None
    try:
        folder = cache_folder() / "annotations"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # then each process reads the file, as it did before
    return folder if os.access(folder, os.W_OK) else None
