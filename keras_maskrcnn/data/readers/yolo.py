"""Reader for YOLO segmentation: data.yaml, images, and one text file per image.

Each line of a text file is one object: `class x1 y1 x2 y2 ...`. Coordinates are fractions of the image's width and
height. The labels of `.../images/a.jpg` are in `.../labels/a.txt`; if none are there, `yolo_labels.py` looks
elsewhere. An image without such a file has no objects.
"""

import numpy as np

from keras_maskrcnn.data.limits import OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import fields, outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import files_with, image_files, need_folder, read_text
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.image_names import name_forms
from keras_maskrcnn.data.readers.yaml_files import read_yaml
from keras_maskrcnn.data.readers.yolo_labels import find_labels, label_file
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.addresses import as_path
from keras_maskrcnn.host.messages import argument

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
        folders, images = _images(collector, content, path, part)
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
    source = as_path(source)
    if source.is_file():
        return source
    files = files_with(need_folder(source, "data.yaml and images"), ".yaml", ".yml")
    named = [file for file in files if file.stem in ("data", "dataset")] or files
    if len(named) != 1:
        raise ValueError(
            f"A data.yaml is needed. Received {source} with {[file.name for file in files]}. Name the file itself."
        )
    return named[0]


def _names(content, path):
    """{number: name}, by ascending number."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        if not isinstance(names, dict) or not names:
            raise FaultyAnnotation("`names` must not be empty.")
        names = {fields.number(key, "a number", 0, 10**9, whole=True): fields.class_name(names[key]) for key in names}
    except FaultyAnnotation as fault:
        raise ValueError(
            f"{path}: `names` must be a list of names or a dictionary of number: name. {fault.args[0]} "
            f"Received {fields.shown(content.get('names'))}. Correct it."
        ) from None
    return {key: names[key] for key in sorted(names)}


def _entries(content, part):
    """What data.yaml says of a part. Some files call the part val "valid"."""
    return content.get(part) or (content.get("valid") if part == "val" else None)


def _images(collector, content, path, part):
    """(folders that were searched, image files of a part)."""
    entries = _entries(content, part)
    if not entries:
        there = [name for name in PARTS if _entries(content, name)]
        raise ValueError(f"{path}: {argument('part')} must be one of its parts, {there}. Received {part!r}.")
    folders, images = [], []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, str):
            raise ValueError(
                f"{path}: `{part}` must be a folder, a text file or a list of these. Received {fields.shown(entry)}."
            )
        place = _resolve(content, path, entry)
        if place.is_dir():
            folders.append(place)
            images += image_files(place, deep=True)
        else:
            images += _listed(collector, content, path, place)
    return folders, list(dict.fromkeys(images))


def _listed(collector, content, path, file):
    """The images that a text file lists: relative to the file if they begin with `.`, else to data.yaml's `path`."""
    beside, root = ImageFinder(file), ImageFinder(path.parent / str(content.get("path") or ""))
    images = []
    for line in (line.strip() for line in read_text(file).splitlines()):
        if line:
            first, second = (beside, root) if line.startswith(".") else (root, beside)
            images.append(_found(first, second, line, collector))
    collector.notes += beside.notes + root.notes
    return [image.resolve() for image in images if image is not None]


def _found(first, second, name, collector):
    """The image that one of two finders finds; None after recording a fault."""
    try:
        return first.look_up(name) or second.find(name)
    except FaultyAnnotation as fault:
        collector.fault(f"image {fields.shown(name)}", *fault.args)
        return None


def _resolve(content, path, entry):
    """Path of an entry of data.yaml: relative to `path`, which is relative to the file."""
    root = path.parent / str(content.get("path") or "")
    places = []
    for form in (entry, *name_forms(entry)):
        # Roboflow writes ../train/images for train/images, and `path` may come from another machine.
        for folder in (root, path.parent):
            places += [folder / form, folder / form.removeprefix("../")]
    found = next((place for place in places if _exists(place)), None)
    if found is None:
        looked = ", ".join(str(place) for place in list(dict.fromkeys(places))[:4])
        raise ValueError(
            f"{path}: {fields.shown(entry)} must exist. Looked for {looked}. "
            f"Check `path`, which is {fields.shown(content.get('path'))}."
        )
    return found.resolve()


def _exists(path):
    try:
        return path.exists()
    except (OSError, ValueError):  # a name of more than 255 bytes, a zero byte
        return False


def _collect(collector, image, file, names):
    size = collector.image_size(image)
    if size is None:
        return
    try:
        lines = read_text(file).splitlines() if file.is_file() else []
    except ValueError as error:
        collector.fault(f"file {file}", str(error), "Or remove it.")
        return
    instances = [
        collector.instance(f"line {number} of {file}", lambda t=text: _class_and_mask(t, names, *size), number)
        for number, text in enumerate(lines, start=1)
        if text.strip()
    ]
    collector.record(image, size, instances)


def _class_and_mask(text, names, height, width):
    first, *rest = text.split()
    check_count(len(rest), 2 * OUTLINE_POINTS, "numbers in an outline")
    try:
        number = fields.number(first, "a class")
        values = np.array([fields.number(value, "a coordinate") for value in rest])
    except FaultyAnnotation:
        raise FaultyAnnotation(
            f"a line must hold numbers that are finite. Received {fields.shown(text)}.", "Export it again."
        ) from None
    if number not in names:
        known = list(names.items())
        raise FaultyAnnotation(
            f"its class must be one of {dict(known[:10])}{'...' if len(known) > 10 else ''}. Received {first[:20]}.",
            "Correct the number, or `names`.",
        )
    if len(values) == 4:
        raise FaultyAnnotation(
            f"it is a box (5 numbers). Mask R-CNN trains on masks. Received {fields.shown(text)}.",
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
        for file in files_with(place, ".txt", deep=True) if place != folder else []:
            if file not in used and file.name != "classes.txt":
                collector.fault(f"file {file}", "its image does not exist.", "Add the image, or remove the file.")
