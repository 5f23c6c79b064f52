"""Finding and reading the files of a dataset: images in folders, JSON, and writing so that no half file is left.

Called by the readers.
"""

import json
import os
import pathlib

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")


def image_files(folder):
    """The image files directly inside a folder, by name; none if it does not exist. List of Path."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and _is_shown(file))


def files_by_stem(files):
    """{name without its ending: [files]}, in the order given."""
    found = {}
    for file in files:
        found.setdefault(file.stem, []).append(file)
    return found


def common_folder(files):
    """The deepest folder that holds all files, absolute; None without files."""
    folders = {str(pathlib.Path(file).absolute().parent) for file in files}
    return pathlib.Path(os.path.commonpath(folders)) if folders else None


def need_folder(path, holding):
    """The path, if it is a folder.

    Raises:
        ValueError: it is not.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise ValueError(f"A folder of {holding} must exist. Received {path}, which is none. Check the path.")
    return path


def read_text(path):
    """A text file's content, in UTF-8 with or without a byte order mark.

    Raises:
        ValueError: the file does not exist, or is no UTF-8.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"An annotation file must exist. Received {path}, which does not. Check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"An annotation file must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error


def read_json(path):
    """The content of a JSON file.

    Raises:
        ValueError: the file does not exist, or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"An annotation file must be JSON. Received {path}: {error}. Export it again.") from error


def _is_shown(file):
    """Whether it is a file, none of those that systems hide, such as macOS's `._a.png`, and no Cellpose project."""
    return not file.name.startswith(".") and not file.name.endswith("_seg.npy") and file.is_file()
