"""Files that are written whole or not at all: first under a temporary name beside their place, then renamed.

Called by whatever writes results: callbacks, readers, exports, weights, pages, the command line and the samples.
"""

import json
import os
import pathlib

_PARTIAL = ".partial-"  # how the temporary names begin


def write_atomically(path, write):
    """Write a file so that its path never holds half of it.

    The temporary name holds the process's number, so two processes that write the same file do not disturb each other:
    the last one to finish wins.

    Args:
        path: the file's final place; its folder is made if it is missing.
        write: function that writes the file at the pathlib.Path it is given (same folder, same suffix).
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder):
    """Delete the temporary files that a killed process left in a folder. No other process may be writing there."""
    for path in pathlib.Path(folder).glob(f"{_PARTIAL}*"):
        path.unlink()


def write_text(path, text):
    """Write a text file, UTF-8."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path, values):
    """Write a JSON file, indented."""
    write_text(path, json.dumps(values, indent=2) + "\n")
