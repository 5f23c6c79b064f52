"""Find and read the files of a dataset: images in folders, text and JSON. Called by the readers."""

import collections
import contextlib
import json
import os
import pathlib

from keras_maskrcnn.data.limits import check_count
from keras_maskrcnn.host.addresses import as_path, folder_of, held_by, is_address, open_file, walk

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif",
    ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".npy",
)  # fmt: skip
_SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # of Windows, archives from macOS, Synology
_BLOCK = 2**20  # bytes
_SHOWN = 4  # kinds of files in a note
IMAGE_FOLDERS = ("images", "image", "imgs")


def files_with(folder, *endings, deep=False):
    """The files of some types in a folder; the one way to list them.

    Hidden files are left out: names that start with a dot (macOS's `._a.png`), system files, and all in such folders.

    Args:
        folder: path. It need not exist.
        endings: str, such as ".json", lower case.
        deep: whether to look into its subfolders.

    Returns:
        List of Path, sorted.
    """
    return _listed(folder, endings, deep)[0]


def image_files(folder, deep=False):
    """The image files in a folder, by the ends of their names. Args, returns: as for `files_with`."""
    return files_with(folder, *IMAGE_SUFFIXES, deep=deep)


def image_names(folder):
    """The names of the image files directly in a folder, by their ends, sorted: `image_files` without paths."""
    names = next((names for _, _, names in walk(folder)), ())
    return sorted(name for name in names if not _is_hidden(name) and _fits(name, IMAGE_SUFFIXES))


def image_files_and_others(folder, deep=False, known=()):
    """The image files in a folder, and a note on its other files.

    Args:
        folder, deep: as for `files_with`.
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
    folder = as_path(folder)
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_dir() and not _is_hidden(path.name)]


def _listed(folder, endings, deep):
    """(files of these endings, other files, number of hidden files), both lists sorted."""
    chosen, others, hidden = [], [], 0
    for place, folders, names in walk(folder):
        in_place = as_path(place).joinpath
        shown = [name for name in names if not _is_hidden(name)]
        hidden += len(names) - len(shown)
        for name in shown:
            (chosen if _fits(name, endings) else others).append(in_place(name))
        folders[:] = [name for name in folders if deep and not _is_hidden(name)]
    return sorted(chosen), sorted(others), hidden


def walk_images(folder):
    """Yield the image files in a folder and its subfolders, as str, sorted within each folder. One is in memory."""
    for place, folders, names in walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        place = as_path(place)
        yield from (str(place / n) for n in sorted(names) if not _is_hidden(n) and _fits(n, IMAGE_SUFFIXES))


def _fits(name, endings):
    """Whether a name has one of the endings; Cellpose keeps its project beside an image, as .npy."""
    return name.lower().endswith(endings) and not name.endswith("_seg.npy")


def _is_hidden(name):
    """Whether a file or folder is hidden or the system's."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def named_folders(folder, names):
    """The folders directly inside a folder that have one of these names, in upper or lower case.

    Args:
        folder: path; it need not exist. names: lower-case names.

    Returns:
        List of Path, in the order of the names; an exact name goes before the same one in other case.
    """
    folder = as_path(folder)
    try:
        held = held_by(folder) if is_address(folder) else os.listdir(folder)
    except OSError:
        return []
    found = sorted(folder / name for name in held if name.lower() in names)
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
    folders = {folder_of(file) for file in files}
    remote = [folder for folder in folders if is_address(folder)]
    if remote:
        return _common_address([as_path(folder) for folder in remote]) if len(remote) == len(folders) else None
    folders = {str(pathlib.Path(folder).absolute()) for folder in folders}
    return pathlib.Path(os.path.commonpath(folders)) if folders else None


def _common_address(folders):
    """The deepest folder that contains these, or is the only one; None if they are on different servers."""
    common = folders[0]
    while not all(folder.parts[: len(common.parts)] == common.parts for folder in folders):
        if common == common.parent:
            return None
        common = common.parent
    return common


def need_folder(path, holding):
    """The path, after checking that it is a folder.

    Raises:
        ValueError: it is not a folder.
    """
    path = as_path(path)
    if not path.is_dir() and not (is_address(path) and path.is_unlisted()):
        raise ValueError(f"A folder of {holding} must exist. Received {path}, which is not a folder. Check the path.")
    return path


def read_text(path, digest=None):
    """The content of a UTF-8 text file, with or without a byte order mark.

    Args:
        path: str, Path or RemotePath. digest: object with `update`, given the file's bytes; or None.

    Raises:
        ValueError: the file does not exist, cannot be read or is not UTF-8.
    """
    data = read_bytes(path)
    if digest is not None:
        digest.update(data)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"An annotation file must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error


def read_bytes(path, most=None):
    """The content of an annotation file.

    Args:
        path: str, Path or RemotePath. most: largest number of bytes, or None.

    Raises:
        ValueError: the file does not exist, cannot be read or is too large.
    """
    path = as_path(path)
    with _named_faults(path), open_file(path) as file:
        data = file.read(-1 if most is None else most + 1)
    check_count(len(data), most or len(data), f"bytes of {path}")
    return data


def read_blocks(path, overlap=0):
    """The content of an annotation file in blocks, each after the last `overlap` bytes of the one before. Yields bytes.

    Raises:
        ValueError: as `read_bytes`.
    """
    path, end = as_path(path), b""
    with _named_faults(path), open_file(path) as file:
        while block := file.read(_BLOCK):
            yield end + block
            end = block[-overlap:] if overlap else b""


@contextlib.contextmanager
def _named_faults(path):
    """What goes wrong in reading a file becomes a ValueError that names it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"An annotation file must exist. Received {path}, which does not exist. Check the path."
        ) from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a zero byte in the path
        raise ValueError(
            f"An annotation file must be readable. Received {path}: {error}. Check its name and its permissions."
        ) from error


def read_json(path, digest=None):
    """The content of a JSON file. Args: as for `read_text`.

    Raises:
        ValueError: the file does not exist or is not JSON, or is nested too deep.
    """
    text = read_text(path, digest)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"An annotation file must be JSON of few levels. Received {path}, with brackets nested too deep to read. "
            "Export it again."
        ) from error
    except (ValueError, OverflowError, MemoryError) as error:  # ValueError: a number of 5000 digits, too
        raise ValueError(f"An annotation file must be JSON. Received {path}: {error}. Export it again.") from error
