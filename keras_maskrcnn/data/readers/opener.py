"""Open a dataset of any supported format: detect the format of a file or folder and call its reader.

Called by the command line and by users.
"""

import inspect
import os

from keras_maskrcnn.data.readers import via
from keras_maskrcnn.data.readers.coco import CocoDataset
from keras_maskrcnn.data.readers.csv_polygons import CsvDataset
from keras_maskrcnn.data.readers.dsb import DsbDataset
from keras_maskrcnn.data.readers.folders import (
    files_with,
    folders_in,
    image_files,
    named_folders,
    read_blocks,
)
from keras_maskrcnn.data.readers.instance_files import MASK_FOLDERS, InstanceFilesDataset
from keras_maskrcnn.data.readers.label_images import (
    LABEL_FOLDERS,
    LabelImageDataset,
    find_image_folder,
    without_label_ending,
)
from keras_maskrcnn.data.readers.labelme import LabelmeDataset
from keras_maskrcnn.data.readers.tables import read_header
from keras_maskrcnn.data.readers.via import ViaDataset
from keras_maskrcnn.data.readers.via3 import Via3Dataset
from keras_maskrcnn.data.readers.voc import VocDataset
from keras_maskrcnn.data.readers.yolo import YoloDataset
from keras_maskrcnn.host.addresses import as_path, is_address
from keras_maskrcnn.host.files import clean_up
from keras_maskrcnn.host.messages import argument

FORMATS = {  # name -> (description, reader)
    "coco": ("COCO instances: .json with images, annotations, categories", CocoDataset),
    "via": ("VGG Image Annotator 1 and 2: .json or .csv", ViaDataset),
    "via3": ("VGG Image Annotator 3: project .json", Via3Dataset),
    "labelme": ("labelme: a folder of .json files", LabelmeDataset),
    "voc": ("Pascal VOC: a folder with SegmentationObject", VocDataset),
    "yolo": ("YOLO segmentation: data.yaml, or its folder", YoloDataset),
    "csv": ("polygons: .csv with columns image and polygon, or image, instance, x, y", CsvDataset),
    "dsb": ("Data Science Bowl 2018: <id>/images and <id>/masks", DsbDataset),
    "label-images": (
        "label images: images/ and labels/ with the same names, or a.tif and a_masks.tif",
        LabelImageDataset,
    ),
    "instance-files": (
        "one mask file per object: images/ and masks/<image>/ or masks/<image>_<n>",
        InstanceFilesDataset,
    ),
}
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "jsons")  # that hold annotation files beside images
_END = 2**20  # bytes at each end of a large file that tell whether it is COCO's
_SNIFFED = 5  # .json files per folder that are inspected


def open_dataset(
    source,
    image_dir=None,
    format=None,
    part=None,
    attribute=None,
    on_error="raise",
    class_names=None,
    category_ids=None,
):
    """Open a dataset of any supported format.

    Args:
        source: annotation file or folder.
        image_dir: folder of the images; None means the format's usual place.
        format: a key of `FORMATS`; None detects it.
        part: "train", "val" or "test", for YOLO and Pascal VOC datasets, which hold several parts. None means all of
            VOC, or the training part of YOLO.
        attribute: the VIA region attribute that holds the class.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label, such as those of the training set; None takes the dataset's. The dataset's classes
            are joined with them by name, whatever their ids and order.
        category_ids: ids by label; None takes the dataset's. With `class_names` a COCO file keeps its own ids.

    Returns:
        A Dataset.

    Raises:
        ClassesDiffer: a ValueError: objects have classes that are not among `class_names`; it has both lists.
        ValueError: no format fits, or several do; or the reader raises.
    """
    if format is None:
        format, source = recognise(source)
    if format not in FORMATS:
        raise ValueError(f"{argument('format')} must be one of {list(FORMATS)}. Received {format!r}.")
    _, reader = FORMATS[format]
    accepted = inspect.signature(reader).parameters
    if attribute is not None and "attribute" not in accepted:
        raise ValueError(
            f"{argument('attribute')} is only for VIA files. Received {attribute!r} with format {format}, {source}. "
            "Leave it out."
        )
    options = {
        "image_dir": image_dir,
        "part": part,
        "attribute": attribute,
        "class_names": class_names,
        "category_ids": category_ids,
    }
    options = {name: value for name, value in options.items() if value is not None and name in accepted}
    return reader(source, on_error=on_error, **options)


def recognise(source):
    """The format of a file or folder.

    Args:
        source: path.

    Returns:
        (key of `FORMATS`, path to pass to its reader).

    Raises:
        ValueError: the path does not exist, no format fits, or several do.
    """
    source = as_path(source)
    if not _exists(source):
        if not is_address(source):
            clean_up(source.parent)  # a killed `split` may have left its files ready, but not yet in place
    if not _exists(source):
        raise ValueError(
            f"A dataset must be a file or a folder. Received {source}, which does not exist. Check the path."
        )
    found = _recognise_folder(source) if source.is_dir() else (_recognise_file(source), source)
    if found is None or found[0] is None:
        raise ValueError(_nothing_found(source))
    return found


def _exists(path):
    """Whether there is a file or folder; not of a name that no disk can hold, for which pathlib raises."""
    return path.exists() if is_address(path) else os.path.exists(path)


def _recognise_file(path):
    """The format of a file, or None."""
    ending = path.suffix.lower()
    if ending in (".yaml", ".yml"):
        return "yolo"
    if ending == ".csv":
        return "via" if set(via.CSV_COLUMNS[1:]) <= set(read_header(path)) else "csv"
    return _recognise_json(path) if ending == ".json" else None


def _recognise_json(path):
    """The tool that wrote a .json file, by its keys. Searching the bytes is much faster than parsing large files."""
    if _is_large_coco(path):
        return "coco"
    missing = {
        "labelme": [b'"shapes"', b'"imagePath"'],
        "via3": [b'"vid_list"', b'"fname"', b'"metadata"'],
        "via": [b'"filename"', b'"regions"'],
        "coco": [b'"images"', b'"annotations"', b'"categories"'],
    }
    for block in read_blocks(path, overlap=16):
        for keys in missing.values():
            keys[:] = [key for key in keys if key not in block]
        if not missing["labelme"]:
            break
    return next((name for name, keys in missing.items() if not keys), None)


def _is_large_coco(path):
    """Whether a file is so large that searching takes seconds, and both its ends are of COCO instances."""
    if is_address(path) or os.path.getsize(path) < 8 * _END:
        return False
    with open(path, "rb") as file:
        ends = file.read(_END)
        file.seek(-_END, os.SEEK_END)
        ends += file.read()
    others = (b'"shapes"', b'"imagePath"', b'"vid_list"', b'"regions"')
    return b'"images"' in ends and b'"categories"' in ends and not any(key in ends for key in others)


def _recognise_folder(folder):
    """(format, path to pass to its reader), or None."""
    if (folder / "SegmentationObject").is_dir():
        return "voc", folder
    if files_with(folder, ".yaml", ".yml"):
        return "yolo", folder
    for place in (folder, *named_folders(folder, ANNOTATION_FOLDERS)):
        for suffix in (".json", ".csv"):
            found = _recognise_files(place, files_with(place, suffix))
            if found is not None:
                return found
    if any((path / "images").is_dir() and (path / "masks").is_dir() for path in folders_in(folder)):
        return "dsb", folder
    name = _recognise_masks(folder)
    return None if name is None else (name, folder)


def _recognise_files(folder, files):
    """The format of a folder by its annotation files: many labelme files, or one file of another tool."""
    known = [(name, file) for file in files[:_SNIFFED] if (name := _recognise_file(file)) is not None]
    if any(name == "labelme" for name, _ in known):
        return "labelme", folder
    if len(known) > 1:
        raise ValueError(
            f"One annotation file is needed. Received {folder} with {[file.name for _, file in known]}. Name the file."
        )
    return known[0] if known else None


def _recognise_masks(folder):
    """Label images, one mask file per object, or None."""
    images = find_image_folder(folder)
    stems = {path.stem for path in image_files(images or folder)}
    if images is None:
        own = any(without_label_ending(stem) in stems for stem in stems if without_label_ending(stem) != stem)
        return "label-images" if own else None
    for masks in named_folders(folder, (*LABEL_FOLDERS, *MASK_FOLDERS)):
        files = image_files(masks)
        if any(without_label_ending(path.stem) in stems or path.stem in stems for path in files):
            return "label-images"
        if files or folders_in(masks):
            return "instance-files"
    return None


def _nothing_found(source):
    looked_for = "\n".join(f"  {name}: {about}" for name, (about, _) in FORMATS.items())
    if source.is_dir():
        names = sorted(path.name + "/" * path.is_dir() for path in source.iterdir())
        holds = f"the folder {source} with {names[:10]}{'...' if len(names) > 10 else ''}"
    else:
        holds = f"the file {source}"
    return (
        f"A dataset must have one of these formats:\n{looked_for}\nReceived {holds}, which matches none of them. "
        f"Name the annotation file or the folder itself, or the format ({argument('format')})."
    )
