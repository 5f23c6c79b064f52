"""Reader for COCO-format instance annotations: one JSON file and a folder of images.

Reads polygons, run lengths (compressed and uncompressed), crowds and images without objects.
Category ids may have gaps; they become labels 0..K-1 (`coco_categories.py`), and `to_coco` restores
them. Boxes come from the segmentation, not from the `bbox` field. Everything except pixels is checked
when the file is read.
"""

import numpy as np

from keras_maskrcnn.data.readers.coco_categories import read_categories
from keras_maskrcnn.data.readers.folders import read_json
from keras_maskrcnn.data.readers.image_finder import ImageFinder, shown_name
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation, polygon_mask
from keras_maskrcnn.data.records import Dataset, Fault, Instance, Record, RunLengths
from keras_maskrcnn.geometry import rle

_REQUIRED = ("images", "annotations", "categories")
# Of an annotation; what else it holds becomes `Instance.attributes`.
_FIELDS = frozenset(("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"))


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
        reader = _Reader(content, ImageFinder(annotation_file, image_dir), categories.labels)
        records = reader.records()
        super().__init__(
            records,
            categories.names,
            categories.ids,
            annotation_file,
            on_error,
            reader.faults,
            image_dir,
            [*categories.notes, *reader.finder.notes],
            categories.absent,
        )


class _Reader:
    """Turns the JSON content into records and collects faults."""

    def __init__(self, content, finder, labels):
        self.content = content
        self.finder = finder
        self.labels = labels
        self.faults = []

    def records(self):
        images = self._images()
        instances = {key: [] for key in images}
        for annotation in self._unique(self.content["annotations"], "annotation"):
            found = self._instance(annotation, images)
            if found is not None:
                instances[annotation["image_id"]].append(found)
        return [
            Record(key, path, height, width, tuple(instances[key]))
            for key, (path, height, width) in images.items()
            if path is not None
        ]

    def _images(self):
        """Image id -> (path, or None if it cannot be used, height, width)."""
        images = {}
        for entry in self._unique(self.content["images"], "image"):
            name = entry.get("file_name") or entry.get("coco_url")  # LVIS has the URL alone
            where = f"image {entry['id']} ({shown_name(name)})"
            path = self._find(name, where)
            height, width = entry.get("height"), entry.get("width")
            if not _positive_integers(height, width):
                self._fault(
                    where,
                    f"needs `height` and `width` as positive integers. Received {height!r} and {width!r}.",
                    "Write the file's own size into the annotations.",
                )
                path = None
            images[entry["id"]] = (path, height, width)
        return images

    def _find(self, name, where):
        """The file of an image, or None after recording a fault."""
        try:
            return self.finder.find(name)
        except FaultyAnnotation as fault:
            self._fault(where, *fault.args)
            return None

    def _unique(self, entries, kind):
        """The entries with a unique id. A repeated id is a fault of the second entry."""
        seen = set()
        for number, entry in enumerate(entries):
            key = entry.get("id") if isinstance(entry, dict) else None
            if key is None:
                self._fault(f"{kind} number {number}", "has no `id`.", "Number all entries.")
            elif key in seen:
                self._fault(
                    f"{kind} {key} ({entry.get('file_name', 'entry ' + str(number))})",
                    f"the id {key} is used twice among the {kind}s.",
                    "Renumber one of them. This often happens when two files are joined.",
                )
            else:
                seen.add(key)
                yield entry

    def _instance(self, annotation, images):
        """Annotation -> Instance, or None after recording a fault."""
        image_id = annotation.get("image_id")
        if image_id not in images:
            self._fault(
                f"annotation {annotation['id']}",
                f"belongs to image {image_id!r}, which `images` does not list.",
                "Remove the annotation or add the image.",
            )
            return None
        path, height, width = images[image_id]
        if path is None:
            return None  # the image already has a fault
        where = f"annotation {annotation['id']} of {path}"
        try:
            label = self._label(annotation)
            mask, box = _geometry(annotation.get("segmentation"), height, width)
            stated = _stated_box(annotation.get("bbox"), height, width)
        except FaultyAnnotation as fault:
            self._fault(where, *fault.args)
            return None
        area = annotation.get("area")
        return Instance(
            label=label,
            box=box,
            mask=mask,
            crowd=bool(annotation.get("iscrowd", 0)),
            annotation_id=annotation["id"],
            area=None if area is None else float(area),
            stated_box=stated,
            attributes={key: value for key, value in annotation.items() if key not in _FIELDS} or None,
        )

    def _label(self, annotation):
        key = annotation.get("category_id")
        if key not in self.labels:
            raise FaultyAnnotation(
                f"its category must be one of {_short(self.labels)}. Received category_id {key!r}.",
                "Add the category to `categories`, or correct the id.",
            )
        return self.labels[key]

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
    return content


def _geometry(segmentation, height, width):
    """(mask, box) of an annotation: Polygons or RunLengths, float32 [x1, y1, x2, y2]."""
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise FaultyAnnotation(
            "it has no segmentation. Mask R-CNN trains on masks; a box is not enough.",
            "Outline the object, or remove the annotation.",
        )
    return polygon_mask(segmentation, height, width)


def _run_lengths(segmentation, height, width):
    size = list(segmentation.get("size", ()))
    if size != [height, width]:
        swapped = "The sides are swapped: `size` is [height, width]. " if size == [width, height] else ""
        raise FaultyAnnotation(
            f"its mask must have the size of its image, {[height, width]}. Received {size}.",
            f"{swapped}Encode the mask at the size of the image.",
        )
    try:
        runs = rle.parse_counts(segmentation.get("counts", ""))
    except ValueError as error:
        raise FaultyAnnotation("its run lengths cannot be read.", str(error)) from None
    if runs.sum() != height * width:
        raise FaultyAnnotation(
            f"its run lengths must sum to {height} x {width}. Received a sum of {runs.sum()}.",
            "Encode the mask at the size of the image.",
        )
    box = rle.extent(runs, height)
    if box is None:
        raise FaultyAnnotation("its mask is empty.", "Remove the annotation.")
    return RunLengths(runs.astype(np.int32)), box.astype(np.float32)


def _stated_box(box, height, width):
    """`bbox` as a tuple, after checking that it overlaps the image."""
    if box is None:
        return None
    try:
        x, y, w, h = (float(value) for value in box)
    except (TypeError, ValueError):
        raise FaultyAnnotation(
            f"`bbox` must be [x, y, width, height]. Received {box!r}.", "Correct or remove `bbox`."
        ) from None
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    if outside or w <= 0 or h <= 0 or not np.isfinite([x, y, w, h]).all():
        raise FaultyAnnotation(
            f"its `bbox` [x, y, width, height] must overlap its image of {height} x {width} "
            f"(height x width). Received {list(box)}.",
            "Check that it belongs to this image. The format is not [x1, y1, x2, y2].",
        )
    return (x, y, w, h)


def _positive_integers(*values):
    return all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values)


def _short(labels):
    keys = list(labels)
    return keys if len(keys) <= 10 else f"{keys[:10]}... ({len(keys)})"
