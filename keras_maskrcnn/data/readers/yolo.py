"""Reader for YOLO segmentation: data.yaml, images, and one text file per image.

Each line of a text file is one object: `class x1 y1 x2 y2 ...`. Coordinates are fractions of the image's width and
height. The labels of `.../images/a.jpg` are in `.../labels/a.txt`; if none are there, `yolo_labels.py` looks
elsewhere. An image without such a file has no objects.
"""

import pathlib

import numpy as np

from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import IMAGE_SUFFIXES, files_in, image_files, read_text
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.readers.yolo_labels import find_labels, label_file
from keras_maskrcnn.data.records import Dataset

PARTS = ("train", "val", "test")
_BEYOND = 0.01  # of a side: tools exceed the image by this much when they round


class YoloDataset(Dataset):
    """Images with YOLO segmentation labels.

    Args:
        source: path of data.yaml, or of its folder.
        part: "train", "val" or "test": the entry of data.yaml to read. It is a folder of images (with subfolders), a
            text file that lists images, or a list of these, relative to `path`, which is relative to data.yaml.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes `names` of data.yaml, a list or {number: name}.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: data.yaml is missing or lacks `names` or this part; or there are faults and on_error="raise": lines
            that are boxes, coordinates that are not fractions, unknown classes, labels without an image.
    """

    def __init__(self, source, part="train", on_error="raise", class_names=None, category_ids=None):
        path = find_yaml(source)
        content = read_yaml(path)
        names = _names(content, path)
        collector = Collector(f"{path} ({part})", class_names)
        collector.declare(names.values())
        folders, images = _images(content, path, part)
        labels, notes = find_labels(images, collector.name)
        collector.notes += notes
        for image in images:
            _collect(collector, image, labels[image], names)
        _check_orphans(collector, folders, labels)
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def find_yaml(source):
    """The data.yaml at a path: the file itself, or the one in the folder.

    Raises:
        ValueError: there is none, or there are several.
    """
    source = pathlib.Path(source)
    if source.is_file():
        return source
    files = files_in(source, (".yaml", ".yml"))
    named = [file for file in files if file.stem in ("data", "dataset")] or files
    if len(named) != 1:
        raise ValueError(
            f"A data.yaml is needed. Received {source} with {[file.name for file in files]}. Name the file itself."
        )
    return named[0]


def read_yaml(path):
    """The dictionary in a YAML file.

    Raises:
        ValueError: the file is missing, is not YAML or does not hold a dictionary.
    """
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"data.yaml must be YAML. Received {path}: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"data.yaml must contain `names`, `train` and `val`. Received {path} without them. Add them.")
    return content


def _names(content, path):
    """{number: name}, by ascending number."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise ValueError(
            f"{path}: `names` must be a list of names or a dictionary of number: name. Received {names!r}. Add it."
        )
    return {key: str(names[key]) for key in sorted(names)}


def _images(content, path, part):
    """(folders that were searched, image files of a part)."""
    entries = content.get(part)
    if part == "val" and not entries:
        entries = content.get("valid")
    if not entries:
        there = [name for name in PARTS if content.get(name)]
        raise ValueError(f"{path}: `part` must be one of its parts, {there}. Received {part!r}.")
    folders, images = [], []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _resolve(content, path, str(entry))
        if place.is_dir():
            folders.append(place)
            images += image_files(place, deep=True)
        else:
            lines = [line.strip() for line in read_text(place).splitlines()]
            images += [
                place.parent / line if line.startswith(".") else _resolve(content, path, line) for line in lines if line
            ]
    return folders, images


def _resolve(content, path, entry):
    """Path of an entry of data.yaml: relative to `path`, which is relative to the file."""
    root = path.parent / str(content.get("path") or "")
    found = root / entry
    # Roboflow writes ../train/images for train/images, and `path` may come from another machine.
    others = [root / entry.removeprefix("../"), path.parent / entry, path.parent / entry.removeprefix("../")]
    existing = next((place for place in (found, *others) if place.exists()), None)
    if existing is None and pathlib.PurePath(entry).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: {entry!r} must exist. Looked for {found}. Check `path`, which is {content.get('path')!r}."
        )
    return (existing or found).resolve()


def _collect(collector, image, file, names):
    size = collector.image_size(image)
    if size is None:
        return
    lines = read_text(file).splitlines() if file.is_file() else []
    instances = [
        collector.instance(f"line {number} of {file}", lambda t=text: _class_and_mask(t, names, *size), number)
        for number, text in enumerate(lines, start=1)
        if text.strip()
    ]
    collector.record(image, size, instances)


def _class_and_mask(text, names, height, width):
    first, *rest = text.split()
    try:
        number, values = float(first), np.array([float(value) for value in rest])
    except ValueError:
        raise FaultyAnnotation(f"a line must hold numbers. Received {text[:60]!r}.", "Export it again.") from None
    if number not in names:
        raise FaultyAnnotation(
            f"its class must be one of {names}. Received {first}.", "Correct the number, or `names`."
        )
    if len(values) == 4:
        raise FaultyAnnotation(
            f"it is a box (5 numbers). Mask R-CNN trains on masks. Received {text[:60]!r}.",
            "Export segmentation labels, not detection labels.",
        )
    if len(values) < 6 or len(values) % 2:
        raise FaultyAnnotation(
            f"a line must be a class and at least three points x y. Received {len(values)} numbers after the class.",
            "Export it again.",
        )
    if not ((values >= -_BEYOND) & (values <= 1 + _BEYOND)).all():
        raise FaultyAnnotation(
            f"coordinates must be fractions of width and height (0..1). Received {values.min():g} to {values.max():g}.",
            "Divide pixel coordinates by the image's width and height.",
        )
    points = np.clip(values, 0, 1).reshape(-1, 2) * (width, height)
    return names[int(number)], outlines.polygon_mask([points], height, width)


def _check_orphans(collector, folders, labels):
    """Record a fault for each label file whose image is missing."""
    used = set(labels.values())
    for folder in folders:
        place = label_file(folder / "a.jpg").parent
        for file in files_in(place, (".txt",), deep=True) if place != folder else []:
            if file not in used and file.name != "classes.txt":
                collector.fault(f"file {file}", "its image does not exist.", "Add the image, or remove the file.")
