"""Reader for COCO-format instance annotations: one JSON file and a folder of images.

Reads polygons, run lengths (compressed and uncompressed), crowds and images without objects.
Category ids may have gaps; they become labels 0..K-1 (`coco_categories.py`), and `to_coco` restores
them. Boxes come from the segmentation, not from the `bbox` field. Everything except pixels is checked
when the file is read.
"""

import math

import numpy as np

from keras_maskrcnn.data.limits import UNCHECKED_PIXELS
from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.annotation_cache import Reading, as_options, remembered
from keras_maskrcnn.data.readers.coco_categories import read_categories
from keras_maskrcnn.data.readers.coco_content import read_content
from keras_maskrcnn.data.readers.coco_keypoints import keypoint_scheme
from keras_maskrcnn.data.readers.coco_polygons import FIELDS, rows_in_images
from keras_maskrcnn.data.readers.collector import check_stated_size
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.image_names import shown_name
from keras_maskrcnn.data.readers.segmentations import read_segmentation
from keras_maskrcnn.data.records import Dataset, Fault, Instance
from keras_maskrcnn.host.memory import no_search_for_cycles

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
        classes = as_options(category_ids, class_names)
        arguments = remembered(
            annotation_file,
            image_dir,
            ("coco", *classes),
            lambda digest: _read(annotation_file, image_dir, *classes, digest),
        )
        super().__init__(**arguments, name=annotation_file, image_dir=image_dir, on_error=on_error)


@no_search_for_cycles()
def _read(annotation_file, image_dir, category_ids, class_names, digest):
    """The Reading of a file."""
    source = str(annotation_file)
    content = read_content(annotation_file, digest)
    categories = read_categories(content.categories, content.ordinary.category_ids, source, category_ids, class_names)
    keypoints, notes = keypoint_scheme(content.categories, source)
    reader = _Reader(content, source, ImageFinder(annotation_file, image_dir), categories)
    arguments = {
        "records": reader.table(),
        "class_names": categories.names,
        "category_ids": categories.ids,
        "faults": reader.faults,
        "notes": [*categories.notes, *notes, *reader.finder.notes, *reader.notes.sentences(source)],
        "absent_classes": categories.absent,
        "keypoints": keypoints,
    }
    return Reading(arguments, reader.finder, content.in_pieces and reader.reads_no_images)


class _Reader:
    """Turns the content into a table of records. Collects faults and notes."""

    def __init__(self, content, source, finder, categories):
        self.content = content
        self.source = source
        self.finder = finder
        self.categories = categories
        self.builder = content.builder
        self.faults = list(categories.faults)
        self.notes = fields.Notes()
        self.image_ids = fields.Identifiers("images")
        self.images = {}  # id -> position in the table, or None after a fault
        self.reads_no_images = True

    def table(self):
        """RecordTable of the images; the objects of each are in the order of the file."""
        for number, entry in enumerate(self.content.images):
            key = self._key("image", number, entry, self.image_ids)
            if key is not None:
                self.images[key] = self._image(key, entry)
        self.content.images.clear()
        columns = self.content.ordinary.columns()
        sizes = np.array(self.builder.columns["size"], np.int64).reshape(-1, 2)
        good, lost, found = rows_in_images(columns, self.images, sizes, self.categories.labels)
        del columns["corners"], columns["image_id"], columns["category_id"]
        numbers, positions = self._one_at_a_time(columns, good, good | lost)
        rows = np.flatnonzero(good)
        numbers, positions = (
            np.append(np.array(one, np.int64), other[rows])
            for one, other in ((numbers, columns["number"]), (positions, found["position"]))
        )
        columns.update(found)
        del found
        self.builder.add_rows(columns, rows)
        return self.builder.table(positions, np.lexsort((numbers, positions)))

    def _one_at_a_time(self, columns, good, plain):
        """Add the annotations that are not ordinary, in the order of the file.

        Args:
            columns: dict, of the ordinary ones. good: bool (n,), which of these count; it is set to False where an id
                is there twice. plain: bool (n,), which need not be read again.

        Returns:
            (numbers, positions): lists of int, of each object that was added.
        """
        ordinary, entries = self.content.ordinary, self.content.annotations
        row_of = np.full(ordinary.count, -1)
        row_of[columns["number"]] = np.arange(len(plain))
        known = row_of >= 0
        known[known] = plain[row_of[known]]
        numbers = np.arange(ordinary.count) if ordinary.ids_may_recur(columns) else np.flatnonzero(~known)
        ids, found, positions = fields.Identifiers("annotations"), [], []
        for number, entry in zip(numbers.tolist(), entries.some(numbers.tolist()), strict=True):
            key = self._key("annotation", number, entry, ids)
            if known[number]:
                good[row_of[number]] &= key is not None
            elif key is not None:
                position, instance = self._instance(key, entry)
                if instance is not None:
                    self.builder.add_instance(instance)
                    found.append(number)
                    positions.append(position)
        return found, positions

    def _key(self, kind, number, entry, ids):
        """The id of an entry that is a dictionary with an id of its own; None after recording a fault."""
        try:
            if not isinstance(entry, dict):
                raise FaultyAnnotation(f"it must be a dictionary. Received {fields.shown(entry)}.", "Remove it.")
            return ids.add(entry.get("id"))
        except FaultyAnnotation as fault:
            self._fault(_where(kind, number, entry), *fault.args)
            return None

    def _image(self, key, entry):
        """The position of an image in the table, or None after recording a fault."""
        name = entry.get("file_name") or entry.get("coco_url")  # LVIS has the URL alone
        where = f"image {key} ({_plain(name)})"
        try:
            size = self._size(entry, where)
            path = self.finder.find(name)
            self.reads_no_images &= size[0] * size[1] <= UNCHECKED_PIXELS
            check_stated_size(path, size, self.source)
        except FaultyAnnotation as fault:
            self._fault(where, *fault.args)
            return None
        self.builder.add_image(key, path, *size)
        return len(self.builder) - 1

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

    def _instance(self, key, annotation):
        """(position of the image, Instance) of an annotation; the Instance is None after recording a fault."""
        image_id = annotation.get("image_id")
        if type(image_id) is not int or image_id not in self.images:
            image_id = self._image_of(key, image_id)
        position = None if image_id is None else self.images[image_id]
        if position is None:
            return None, None  # the image or the annotation already has a fault
        path, height, width = self.builder.image(position)

        def note(what):
            self.notes.add(what, f"annotation {key} of {path}")

        try:
            mask, box = read_segmentation(annotation.get("segmentation"), height, width, note)
            return position, Instance(
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
        return position, None

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
    if annotation.keys() <= FIELDS:
        return None
    if annotation.get("score") is not None:
        fields.number(annotation["score"], "`score`")
    other = {key: value for key, value in annotation.items() if key not in FIELDS}
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
