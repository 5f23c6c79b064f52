"""Find and read the files of a dataset: images in folders, text and JSON. Called by the readers."""

import json
import os
import pathlib

from keras_maskrcnn.data.limits import check_count

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
IMAGE_FOLDERS = ("images", "image", "imgs")


def image_files(folder):
    """The image files directly inside a folder, sorted by name; [] if the folder does not exist. List of Path."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and _is_shown(file))


def files_with(folder, *suffixes):
    """The files directly inside a folder with one of these endings (lower case), in any case; sorted, none hidden."""
    return sorted(
        file
        for file in pathlib.Path(folder).iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def named_folders(folder, names):
    """The folders directly inside a folder that have one of these names, in upper or lower case.

    Args:
        folder: path; it need not exist. names: lower-case names.

    Returns:
        List of Path, in the order of the names; an exact name goes before the same one in other case.
    """
    try:
        found = [path for path in sorted(pathlib.Path(folder).iterdir()) if path.name.lower() in names]
    except OSError:
        return []
    found.sort(key=lambda path: (names.index(path.name.lower()), path.name not in names))
    return [path for path in found if path.is_dir()]


def by_unique_stem(collector, files, owner=str):
    """{name without extension: file}; a second file of the same name is a fault.

    Args:
        collector: Collector.
        files: list of Path.
        owner: function from a file's name without extension to the name that counts.
    """
    found = {}
    for file in files:
        first = found.setdefault(owner(file.stem), file)
        if first != file:
            collector.fault(
                f"file {file}",
                f"its name without extension must be its own. Received {first.name}, too.",
                "Remove or rename one of them.",
            )
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
        ValueError: the file does not exist, cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"An annotation file must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error


def read_bytes(path, most=None):
    """The content of an annotation file.

    Args:
        path: str or Path. most: largest number of bytes, or None.

    Raises:
        ValueError: the file does not exist, cannot be read or is too large.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(-1 if most is None else most + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"An annotation file must exist. Received {path}, which does not exist. Check the path."
        ) from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a zero byte in the path
        raise ValueError(
            f"An annotation file must be readable. Received {path}: {error}. Check its name and its permissions."
        ) from error
    check_count(len(data), most or len(data), f"bytes of {path}")
    return data


def read_json(path):
    """The content of a JSON file.

    Raises:
        ValueError: the file does not exist or is not JSON, or is nested too deep.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"An annotation file must be JSON of few levels. Received {path}, with brackets nested too deep to read. "
            "Export it again."
        ) from error
    except (ValueError, OverflowError, MemoryError) as error:  # ValueError: a number of 5000 digits, too
        raise ValueError(f"An annotation file must be JSON. Received {path}: {error}. Export it again.") from error


def _is_shown(file):
    """Whether the path is a file, but neither hidden (such as macOS's `._a.png`) nor a Cellpose project."""
    return not file.name.startswith(".") and not file.name.endswith("_seg.npy") and file.is_file()
