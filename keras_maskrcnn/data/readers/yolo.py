"""Reader for YOLO segmentation: data.yaml, images, and a text file an image.

A line of a text file is an object: `class x1 y1 x2 y2 ...`. Coordinates are fractions of the image's width and height.
The labels of `.../images/a.jpg` are `.../labels/a.txt`; an image without such a file has no objects.
"""

import pathlib

import numpy as np

from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import IMAGE_SUFFIXES, read_text
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.records import Dataset

PARTS = ("train", "val", "test")
_BEYOND = 0.01  # of a side: what tools exceed the image by when they round


class YoloDataset(Dataset):
    """Images with YOLO segmentation labels.

    Args:
        source: path of data.yaml, or of a folder that holds one.
        part: "train", "val" or "test": the entry of data.yaml to read. It is a folder of images (sub-folders included),
            a text file that lists images, or a list of these, relative to `path`, which is relative to data.yaml.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes `names` of data.yaml, a list or {number: name}.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: no data.yaml, or one without `names` or this part; or faults while on_error="raise": lines that are
            boxes, coordinates that are no fractions, unknown classes, labels without image.
    """

    def __init__(self, source, part="train", on_error="raise", class_names=None, category_ids=None):
        path = find_yaml(source)
        content = read_yaml(path)
        names = _names(content, path)
        collector = Collector(f"{path} ({part})", class_names)
        collector.declare(names.values())
        folders, images = _images(content, path, part)
        for image in images:
            _collect(collector, image, names)
        _check_orphans(collector, folders, images)
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def find_yaml(source):
    """The data.yaml that a path means.

    Raises:
        ValueError: there is none, or there are several.
    """
    source = pathlib.Path(source)
    if source.is_file():
        return source
    files = [file for pattern in ("*.yaml", "*.yml") for file in sorted(source.glob(pattern))]
    named = [file for file in files if file.stem in ("data", "dataset")] or files
    if len(named) != 1:
        raise ValueError(
            f"A data.yaml is needed. Received {source} with {[file.name for file in files]}. Name the file itself."
        )
    return named[0]


def read_yaml(path):
    """The dictionary in a YAML file.

    Raises:
        ValueError: missing, no YAML, or no dictionary.
    """
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"data.yaml must be YAML. Received {path}: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"data.yaml holds `names`, `train` and `val`. Received {path}, which does not. Add them.")
    return content


def _names(content, path):
    """{number: name}, by rising number."""
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
        raise ValueError(f"{path}: `part` must be one that it has, {there}. Received {part!r}.")
    folders, images = [], []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _resolve(content, path, str(entry))
        if place.is_dir():
            folders.append(place)
            images += sorted(f for f in place.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != ".")
        else:
            lines = [line.strip() for line in read_text(place).splitlines()]
            images += [
                place.parent / line if line.startswith(".") else _resolve(content, path, line) for line in lines if line
            ]
    return folders, images


def _resolve(content, path, entry):
    """Where an entry of data.yaml is: relative to `path`, which is relative to the file."""
    root = path.parent / str(content.get("path") or "")
    found = root / entry
    # Roboflow writes ../train/images and means train/images; and `path` may be of another machine.
    others = [root / entry.removeprefix("../"), path.parent / entry, path.parent / entry.removeprefix("../")]
    existing = next((place for place in (found, *others) if place.exists()), None)
    if existing is None and pathlib.PurePath(entry).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: {entry!r} must exist. Looked for {found}. Check `path`, which is {content.get('path')!r}."
        )
    return (existing or found).resolve()


def label_file(image):
    """The text file of an image: `labels` for the last folder called `images` in its path, else beside it."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return pathlib.Path(*parts).with_suffix(".txt")


def _collect(collector, image, names):
    size = collector.image_size(image)
    if size is None:
        return
    file = label_file(image)
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
        raise FaultyAnnotation(f"a line holds numbers. Received {text[:60]!r}.", "Export it again.") from None
    if number not in names:
        raise FaultyAnnotation(f"its class must be one of {names}. Received {first}.", "Correct it, or `names`.")
    if len(values) == 4:
        raise FaultyAnnotation(
            f"it is a box (5 numbers); Mask R-CNN learns from masks. Received {text[:60]!r}.",
            "Export segmentation labels, not detection labels.",
        )
    if len(values) < 6 or len(values) % 2:
        raise FaultyAnnotation(
            f"a line is a class and at least three points x y. Received {len(values)} numbers after the class.",
            "Export it again.",
        )
    if not ((values >= -_BEYOND) & (values <= 1 + _BEYOND)).all():
        raise FaultyAnnotation(
            f"coordinates are fractions of width and height, 0 to 1. Received {values.min():g} to {values.max():g}.",
            "Divide pixels by the image's width and height.",
        )
    points = np.clip(values, 0, 1).reshape(-1, 2) * (width, height)
    return names[int(number)], outlines.polygon_mask([points], height, width)


def _check_orphans(collector, folders, images):
    """A fault for each label file of the folders whose image is missing."""
    used = {label_file(image) for image in images}
    for folder in folders:
        place = label_file(folder / "a.jpg").parent
        for file in sorted(place.rglob("*.txt")) if place != folder else []:
            if file not in used and file.name != "classes.txt":
                collector.fault(f"file {file}", "its image does not exist.", "Add the image, or remove the file.")
