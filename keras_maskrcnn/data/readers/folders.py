"""Find and read the files of a dataset: images in folders, text and JSON. Called by the readers."""

import json
import os
import pathlib

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")


def image_files(folder):
    """The image files directly inside a folder, sorted by name; [] if the folder does not exist. List of Path."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and _is_shown(file))


def files_by_stem(files):
    """{name without extension: [files]}, in the given order."""
    found = {}
    for file in files:
        found.setdefault(file.stem, []).append(file)
    return found


def common_folder(files):
    """The deepest folder that contains all files, absolute; None if there are no files."""
    folders = {str(pathlib.Path(file).absolute().parent) for file in files}
    return pathlib.Path(os.path.commonpath(folders)) if folders else None


def need_folder(path, holding):
    """The path, after checking that it is a folder.

    Raises:
        ValueError: it is not a folder.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise ValueError(f"A folder of {holding} must exist. Received {path}, which is not a folder. Check the path.")
    return path


def read_text(path):
    """The content of a UTF-8 text file, with or without a byte order mark.

    Raises:
        ValueError: the file does not exist or is not UTF-8.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"An annotation file must exist. Received {path}, which does not exist. Check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"An annotation file must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error


def read_json(path):
    """The content of a JSON file.

    Raises:
        ValueError: the file does not exist or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"An annotation file must be JSON. Received {path}: {error}. Export it again.") from error


def _is_shown(file):
    """Whether the path is a file, but neither hidden (such as macOS's `._a.png`) nor a Cellpose project."""
    return not file.name.startswith(".") and not file.name.endswith("_seg.npy") and file.is_file()
