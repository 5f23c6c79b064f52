"""Files that are whole or not there at all: written beside their place, then renamed. Knows nothing of the package.

Called by whatever writes results: callbacks, readers, exports, the command line and the samples.
"""

import json
import os
import pathlib


def write_atomically(path, write):
    """Write a file so that its path never holds half of it.

    Args:
        path: the file's final place; its folder is made where missing.
        write: function that writes the file at the pathlib.Path it is given (same folder, same ending).
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, UTF-8."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path, values):
    """Write a JSON file, indented."""
    write_text(path, json.dumps(values, indent=2) + "\n")
