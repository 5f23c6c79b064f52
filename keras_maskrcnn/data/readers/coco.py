"""Reader for COCO-format instance annotations: one JSON file and a folder of images.

Reads polygons, run lengths (compressed and uncompressed), crowds and images without objects.
Category ids may have gaps; they become labels 0..K-1 (`coco_categories.py`), and `to_coco` restores
them. Boxes come from the segmentation, not from the `bbox` field. Everything except pixels is checked
when the file is read.
"""

import math

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.coco_categories import read_categories
from keras_maskrcnn.data.readers.collector import check_stated_size
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import read_json
from keras_maskrcnn.data.readers.image_finder import ImageFinder, shown_name
from keras_maskrcnn.data.readers.segmentations import read_segmentation
from keras_maskrcnn.data.records import Dataset, Fault, Instance, Record

_REQUIRED = ("images", "annotations", "categories")
# Of an annotation; what else it holds becomes `Instance.attributes`.
_FIELDS = frozenset(("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"))
_OTHER_FORM = "`{}` is text where the ids of `{}` are numbers, or the reverse; equal ones were taken for the same"


class CocoDataset(Dataset):
    """Images with COCO-format annotations.

    Args:
        annotation_file: path of the JSON file.
        image_dir: folder that the `file_name`s are relative to; None searches near the file. `image_finder` says how
            names are matched.
        on_error: "raise" raises an error that lists the faults; "skip" drops faulty images and
            annotations, warns how many there are and lists them in `.faults`.
        category_ids: ids of labels 0..K-1, in order; None takes all `categories` by ascending id. With
            `class_names` they only serve classes that the file does not list.
        class_names: names of labels 0..K-1, such as those of the training set. The file's categories are
            joined with them by name, whatever their ids and order; `category_ids` keeps the file's own ids.

    Raises:
        ClassesDiffer: a ValueError: objects have classes that are not among `class_names`.
        ValueError: the file is missing, is not COCO JSON, lists no image or a class name twice; or it has
            faults and on_error="raise".
    """

    def __init__(self, annotation_file, image_dir=None, on_error="raise", category_ids=None, class_names=None):
        content = _read_content(annotation_file)
        categories = read_categories(content, str(annotation_file), category_ids, class_names)
        reader = _Reader(content, str(annotation_file), ImageFinder(annotation_file, image_dir), categories)
        records = reader.records()
        super().__init__(
            records,
            categories.names,
            categories.ids,
            annotation_file,
            on_error,
            reader.faults,
            image_dir,
            [*categories.notes, *reader.finder.notes, *reader.notes.sentences(str(annotation_file))],
            categories.absent,
        )


class _Reader:
    """Turns the JSON content into records. Collects faults and notes."""

    def __init__(self, content, source, finder, categories):
        self.content = content
        self.source = source
        self.finder = finder
        self.categories = categories
        self.faults = list(categories.faults)
        self.notes = fields.Notes()
        self.image_ids = fields.Identifiers("images")

    def records(self):
        images = {key: self._image(key, entry) for key, entry in self._entries("image", self.image_ids)}
        instances = {key: [] for key in images}
        for key, annotation in self._entries("annotation", fields.Identifiers("annotations")):
            image_id, found = self._instance(key, annotation, images)
            if found is not None:
                instances[image_id].append(found)
        return [
            Record(key, *place, tuple(instances[key]))  # path, height, width
            for key, place in images.items()
            if place is not None
        ]

    def _entries(self, kind, ids):
        """(id, entry) of each entry that is a dictionary with an id of its own; another one is a fault."""
        for number, entry in enumerate(self.content[f"{kind}s"]):
            try:
                if not isinstance(entry, dict):
                    raise FaultyAnnotation(f"it must be a dictionary. Received {fields.shown(entry)}.", "Remove it.")
                key = ids.add(entry.get("id"))
            except FaultyAnnotation as fault:
                self._fault(_where(kind, number, entry), *fault.args)
            else:
                yield key, entry

    def _image(self, key, entry):
        """(path, height, width) of an image, or None after recording a fault."""
        name = entry.get("file_name") or entry.get("coco_url")  # LVIS has the URL alone
        where = f"image {key} ({_plain(name)})"
        try:
            size = self._size(entry, where)
            path = self.finder.find(name)
            check_stated_size(path, size, self.source)
        except FaultyAnnotation as fault:
            self._fault(where, *fault.args)
            return None
        return path, *size

    def _size(self, entry, where):
        """(height, width) of an image."""
        height, width = entry.get("height"), entry.get("width")
        if type(height) is int and type(width) is int and height > 0 and width > 0:
            return height, width
        try:
            return tuple(
                fields.number(side, "a side", 1, whole=True, note=lambda what: self.notes.add(what, where))
                for side in (height, width)
            )
        except FaultyAnnotation:
            raise FaultyAnnotation(
                "needs `height` and `width` as positive integers. "
                f"Received {fields.shown(height)} and {fields.shown(width)}.",
                "Write the file's own size into the annotations.",
            ) from None

    def _instance(self, key, annotation, images):
        """(image id, Instance) of an annotation; the Instance is None after recording a fault."""
        image_id = annotation.get("image_id")
        if type(image_id) is not int or image_id not in images:
            image_id = self._image_of(key, image_id)
        if image_id is None or images[image_id] is None:
            return image_id, None  # the image or the annotation already has a fault
        path, height, width = images[image_id]

        def note(what):
            self.notes.add(what, f"annotation {key} of {path}")

        try:
            mask, box = read_segmentation(annotation.get("segmentation"), height, width, note)
            return image_id, Instance(
                label=self._label(annotation.get("category_id"), note),
                box=box,
                mask=mask,
                crowd=_crowd(annotation.get("iscrowd"), note),
                annotation_id=key,
                area=_area(annotation.get("area"), note),
                stated_box=_stated_box(annotation.get("bbox"), height, width, note),
                attributes=_attributes(annotation, note),
            )
        except FaultyAnnotation as fault:
            self._fault(f"annotation {key} of {path}", *fault.args)
        except ValueError as error:
            self._fault(f"annotation {key} of {path}", str(error), "Or remove it.")
        return image_id, None

    def _image_of(self, key, stated):
        """The id of the image that an annotation names in another form, as text or as a number; None is a fault."""
        found = self.image_ids.find(stated)
        if found is None:
            self._fault(
                f"annotation {key}",
                f"its image must be one that `images` lists. Received image {fields.shown(stated)}.",
                "Remove the annotation or add the image.",
            )
        elif type(found) is not type(stated):
            self.notes.add(_OTHER_FORM.format("image_id", "images"), f"annotation {key}")
        return found

    def _label(self, key, note):
        """The label of a category id."""
        labels = self.categories.labels
        if type(key) is int and key in labels:
            return labels[key]
        found = self.categories.known.find(key)
        if found not in labels:
            raise FaultyAnnotation(
                f"its category must be one of {_short(labels)}. Received category_id {fields.shown(key)}.",
                "Add the category to `categories`, or correct the id.",
            )
        if type(found) is not type(key):
            note(_OTHER_FORM.format("category_id", "categories"))
        return labels[found]

    def _fault(self, where, problem, remedy):
        self.faults.append(Fault(where, problem, remedy))


def _read_content(path):
    content = read_json(path)
    missing = [key for key in _REQUIRED if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"COCO annotations must contain {list(_REQUIRED)}. Received {path} without {missing}. "
            "Use an instances file, not captions or results."
        )
    for key in _REQUIRED:
        if not isinstance(content[key], list):
            raise ValueError(
                f"{path}: `{key}` must be a list. Received {fields.shown(content[key])}. Export the annotations again."
            )
    return content


def _where(kind, number, entry):
    """An entry in messages, by its id if it has one."""
    entry = entry if isinstance(entry, dict) else {}
    key = entry.get("id")
    if not isinstance(key, (int, str)) or isinstance(key, bool):
        return f"{kind} number {number}"
    return f"{kind} {key} ({_plain(entry['file_name']) if 'file_name' in entry else f'entry {number}'})"


def _plain(name):
    """A file name in the place of a fault: as it is written, if it is a name."""
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 else shown_name(name)


def _crowd(value, note):
    return value == 1 if type(value) is int and 0 <= value <= 1 else fields.flag(value, "`iscrowd`", note)


def _area(value, note):
    """`area` if it is a positive finite number; None otherwise, which takes the area of the mask."""
    if value is None or type(value) is float and 0 < value < math.inf:
        return value
    try:
        found = fields.number(value, "`area`", 0, note=note)
    except FaultyAnnotation:
        found = 0.0
    if found > 0:
        return found
    note("`area` is no positive finite number; the area of the mask is used")
    return None


def _stated_box(box, height, width, note):
    """`bbox` as a tuple, after checking that it overlaps the image."""
    if box is None:
        return None
    try:
        if not isinstance(box, list) or len(box) != 4:
            raise FaultyAnnotation
        x, y, w, h = (
            float(value) if type(value) is float else fields.number(value, "`bbox`", note=note) for value in box
        )
    except FaultyAnnotation:
        raise FaultyAnnotation(
            f"`bbox` must be [x, y, width, height]. Received {fields.shown(box)}.", "Correct or remove `bbox`."
        ) from None
    overlaps = x < width and y < height and x + w > 0 and y + h > 0 and 0 < w < math.inf and 0 < h < math.inf
    if not overlaps or x == -math.inf or y == -math.inf:
        raise FaultyAnnotation(
            f"its `bbox` [x, y, width, height] must overlap its image of {height} x {width} "
            f"(height x width). Received {list(box)}.",
            "Check that it belongs to this image. The format is not [x1, y1, x2, y2].",
        )
    return (x, y, w, h)


def _attributes(annotation, note):
    """All other fields, or None. A `score` must be a finite number; other fields with NaN or infinity are left out."""
    if annotation.keys() <= _FIELDS:
        return None
    if annotation.get("score") is not None:
        fields.number(annotation["score"], "`score`")
    other = {key: value for key, value in annotation.items() if key not in _FIELDS}
    for key in [key for key, value in other.items() if not _is_json(value)]:
        note(f"the field {fields.shown(key)} holds NaN or infinity, which JSON does not have; it is left out")
        del other[key]
    return other or None


def _is_json(value):
    """Whether a value read by Python's json is one of standard JSON."""
    if type(value) is float:
        return math.isfinite(value)
    if isinstance(value, (list, dict)):
        return all(map(_is_json, value.values() if isinstance(value, dict) else value))
    return True


def _short(labels):
    keys = list(labels)
    return keys if len(keys) <= 10 else f"{keys[:10]}... ({len(keys)})"
