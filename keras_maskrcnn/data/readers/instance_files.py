"""Reader for folders with one black-and-white mask file per object.

Layouts: `images/a.jpg` with `masks/a/*.png`; with `masks/a_1.png`, `masks/a_2.png`; or with the class in the name,
`annotations/a_cat_1.png` (pycococreator). For the layout of the Data Science Bowl see `dsb`.
"""

import string

from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import class_name
from keras_maskrcnn.data.readers.folders import (
    IMAGE_FOLDERS,
    by_unique_stem,
    folders_in,
    image_files,
    named_folders,
    need_folder,
)
from keras_maskrcnn.data.readers.label_images import find_image_folder, read_labels
from keras_maskrcnn.data.records import Dataset

MASK_FOLDERS = ("masks", "annotations", "instances", "labels")


class InstanceFilesDataset(Dataset):
    """Images with one mask file per object. All pixels that are not black belong to the object.

    The mask files of `images/a.jpg` lie in `masks/a/` (or `annotations/`, `instances/`, `labels/`), with one subfolder
    per class if there are several classes; or they are named `a_<number>` or `a_<class>_<number>`. An image without
    mask files has no objects.

    Args:
        folder: path of the folder that holds `images/` and `masks/`.
        image_dir: folder of the images, if it is a different one.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes those found, sorted, or the single class "object".
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: the folders do not exist; or there are faults and on_error="raise": a mask file without an image, of
            another size, or empty.
    """

    def __init__(self, folder, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        folder = need_folder(folder, "images and masks")
        images = find_image_folder(folder, image_dir)
        masks = next(iter(named_folders(folder, MASK_FOLDERS)), None)
        if images is None or masks is None:
            raise ValueError(
                f"A folder with {' or '.join(name + '/' for name in IMAGE_FOLDERS)} and "
                f"{' or '.join(name + '/' for name in MASK_FOLDERS)} is needed. Received {folder} without them."
            )
        collector = Collector(folder, class_names)
        collector.note_others([images, masks])
        files = by_unique_stem(collector, image_files(images))
        found = _by_image(collector, masks, set(files))
        for stem, path in files.items():
            _collect(collector, path, found.get(stem, ()))
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def _by_image(collector, masks, stems):
    """{name of the image: [(class or None, mask file)]}."""
    found = {}
    for path in image_files(masks):
        owner, name = _split_name(path.stem, stems)
        _assign(collector, found, owner, path, [(name, path)])
    for folder in folders_in(masks):
        files = [(None, file) for file in image_files(folder)]
        files += [(sub.name, file) for sub in folders_in(folder) for file in image_files(sub)]
        _assign(collector, found, folder.name if folder.name in stems else None, folder, files)
    return found


def _assign(collector, found, owner, path, files):
    if owner is None and files:
        collector.fault(f"mask {path}", "its name matches no image.", "Add the image, or remove it.")
    found.setdefault(owner, []).extend(files)


def _split_name(name, stems):
    """`a_cat_1` -> ("a", "cat") and `a_1` -> ("a", None), where "a" is the longest matching image name."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] in "_-" and name[:end] in stems:
            without_number = name[end + 1 :].rstrip(string.digits)
            numbered = without_number != name[end + 1 :] and without_number[-1:] in ("_", "-")
            return name[:end], (without_number[:-1] if numbered else without_number) or None
    return (name, None) if name in stems else (None, None)


def _collect(collector, path, files):
    size = collector.image_size(path)
    if size is None:
        return
    instances = [
        collector.instance(f"mask {file}", lambda n=name, f=file: (_class(n), _mask(f, size, collector.name)), number)
        for number, (name, file) in enumerate(files)
    ]
    collector.record(path, size, instances)


def _class(name):
    """The class in the name of a file or folder, or None."""
    return None if name is None else class_name(name, "the class in its file's name")


def _mask(file, size, name):
    return outlines.pixels_mask(read_labels(file, size, name) != 0)
