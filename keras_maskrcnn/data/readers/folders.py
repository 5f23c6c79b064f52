"""Find and read the files of a dataset: images in folders, text and JSON. Called by the readers."""

import collections
import json
import os
import pathlib

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif",
    ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".npy",
)  # fmt: skip
_SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # of Windows, archives from macOS, Synology
_SHOWN = 4  # kinds of files in a note


def files_in(folder, endings, deep=False):
    """The files of some types in a folder; the one way to list them.

    Hidden files are left out: names that start with a dot (macOS's `._a.png`), system files, and all in such folders.

    Args:
        folder: path. It need not exist.
        endings: tuple of str, such as (".json",), lower case.
        deep: whether to look into its subfolders.

    Returns:
        List of Path, sorted.
    """
    return _listed(folder, endings, deep)[0]


def image_files(folder, deep=False):
    """The image files in a folder, by the ends of their names. Args, returns: as for `files_in`."""
    return files_in(folder, IMAGE_SUFFIXES, deep)


def image_files_and_others(folder, deep=False, known=()):
    """The image files in a folder, and a note on its other files.

    Args:
        folder, deep: as for `files_in`.
        known: tuple of endings of files that belong there, such as labels.

    Returns:
        (list of Path, sorted; str, or None if there are no other files).
    """
    images, others, hidden = _listed(folder, IMAGE_SUFFIXES, deep)
    others = [file for file in others if file.suffix.lower() not in known]
    if not others and not hidden:
        return images, None
    kinds = collections.Counter(file.suffix.lower() for file in others)
    parts = [
        f"{count} of type {kind}" if kind else f"{count} without an ending" for kind, count in kinds.most_common(_SHOWN)
    ]
    parts += ["others"] if len(kinds) > _SHOWN else []
    parts = [f"{hidden} hidden"] * bool(hidden) + parts
    return images, f"Passed over {len(others) + hidden} files in {folder} that are no images: {', '.join(parts)}."


def folders_in(folder):
    """The folders directly inside a folder that are not hidden, sorted. It need not exist. List of Path."""
    folder = pathlib.Path(folder)
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_dir() and not _is_hidden(path.name)]


def _listed(folder, endings, deep):
    """(files of these endings, other files, number of hidden files), both lists sorted."""
    chosen, others, hidden = [], [], 0
    for place, folders, names in os.walk(folder):
        shown = [name for name in names if not _is_hidden(name)]
        hidden += len(names) - len(shown)
        for name in shown:
            # Cellpose keeps its project beside an image, as .npy.
            fits = name.lower().endswith(endings) and not name.endswith("_seg.npy")
            (chosen if fits else others).append(pathlib.Path(place, name))
        folders[:] = [name for name in folders if deep and not _is_hidden(name)]
    return sorted(chosen), sorted(others), hidden


def _is_hidden(name):
    """Whether a file or folder is hidden or the system's."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


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
