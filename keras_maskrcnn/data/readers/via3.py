"""Reader for projects of VGG Image Annotator 3 (.json).

A project holds `file` {fid: name, location}, `view` {vid: files}, `attribute` {aid: name, options} and `metadata`
{mid: {"vid", "z" times, "xy" [shape number, coordinates...], "av" {aid: value}}}. Views without metadata are images
without objects. For VIA 1 and 2 see `via`.
"""

import base64

import numpy as np

from keras_maskrcnn.data.images.reading import image_size
from keras_maskrcnn.data.limits import OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import fields, outlines
from keras_maskrcnn.data.readers.annotation_cache import as_options, remembered
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import read_json
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.via import choose_attribute
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.addresses import as_path

_REQUIRED = ("project", "attribute", "file", "metadata", "view")
_IN_IMAGE = "FILE1_Z0_XY1"  # VIA's anchor id for attributes of image regions
_IMAGE, _INLINE = 2, 4  # VIA's file type and location


class Via3Dataset(Dataset):
    """Images annotated with VIA 3.

    Args:
        annotation_file: path of the project (.json).
        image_dir: folder of the images; None searches near the file, see `image_finder`. Not used for images stored in
            the project itself (added as base64).
        attribute: name of the region attribute that holds the class, as for ViaDataset.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes the attribute's options, else the values found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: as for ViaDataset.
    """

    def __init__(
        self, annotation_file, image_dir=None, attribute=None, on_error="raise", class_names=None, category_ids=None
    ):
        path, options = as_path(annotation_file), (attribute, *as_options(class_names, category_ids))
        arguments = remembered(
            path, image_dir, ("via3", *options), lambda digest: _reading(path, image_dir, *options, digest)
        )
        super().__init__(**arguments, name=path, on_error=on_error)


def _reading(path, image_dir, attribute, class_names, category_ids, digest):
    """The Reading of a project."""
    content = _read(path, digest)
    described = {
        key: about
        for key, about in content["attribute"].items()
        if isinstance(about, dict) and about.get("anchor_id") == _IN_IMAGE
    }
    names = {str(about.get("aname")): key for key, about in described.items()}
    attribute = choose_attribute(list(names), attribute, path)
    collector = Collector(path, class_names)
    reader = _Reader(content, collector, ImageFinder(path, image_dir))
    if attribute is not None:
        reader.attribute, reader.key = attribute, names[attribute]
        reader.options = _options(described[reader.key], path)
        collector.declare(reader.options.values())
    reader.collect()
    return collector.reading(reader.finder, category_ids)


class _Reader:
    def __init__(self, content, collector, finder):
        self.content = content
        self.collector = collector
        self.finder = finder
        self.attribute = self.key = None
        self.options = {}

    def collect(self):
        """Every view with its regions."""
        regions = {vid: [] for vid in self.content["view"]}
        for key, entry in self.content["metadata"].items():
            if not isinstance(entry, dict) or not entry.get("xy"):
                continue  # metadata of the file or of a time span
            if str(entry.get("vid")) in regions:
                regions[str(entry["vid"])].append((key, entry))
            else:
                problem = f"belongs to view {fields.shown(entry.get('vid'))}, which does not exist."
                self.collector.fault(f"region {key}", problem, "Remove it.")
        listed = self.content["project"].get("vid_list")
        order = [str(vid) for vid in (listed if isinstance(listed, list) and listed else regions)]
        for vid in dict.fromkeys(order):
            if vid in regions:
                self._view(vid, regions[vid])

    def _view(self, vid, regions):
        view = self.content["view"][vid]
        files = view.get("fid_list") if isinstance(view, dict) else None
        entry = self.content["file"].get(str(files[0])) if isinstance(files, list) and len(files) == 1 else None
        if not isinstance(entry, dict) or entry.get("type", _IMAGE) != _IMAGE:
            self.collector.fault(
                f"view {vid}",
                f"a view must show one image. Received {fields.shown(entry or files)}.",
                "Remove videos and views with several files.",
            )
            return
        source, size, name = self._image(entry)
        if size is None:
            return
        instances = [self._instance(key, region, name, size) for key, region in regions]
        self.collector.record(source, size, instances)

    def _image(self, entry):
        """(source, size or None after recording a fault, name in messages)."""
        name = entry.get("fname")
        if entry.get("loc") != _INLINE:
            path = self.finder.locate(self.collector, name)
            return path, None if path is None else self.collector.image_size(path), path
        try:
            data = base64.b64decode(str(entry.get("src")).split(",", 1)[-1], validate=True)
            return data, image_size(data), name
        except ValueError as error:  # ImageError, binascii.Error, text that is no ASCII
            self.collector.fault(
                f"image {name}", f"the copy of it in the project is damaged: {error}.", "Add it again."
            )
            return None, None, name

    def _instance(self, key, entry, name, size):
        def make():
            values = entry.get("av")
            label = (
                None if self.key is None else self._class(values.get(self.key) if isinstance(values, dict) else None)
            )
            return label, _mask(entry["xy"], *size)

        return self.collector.instance(f"region {key} of {name}", make, key)

    def _class(self, value):
        """The class. Radio, dropdown and checkbox values are option numbers; text values are the name itself."""
        text = str(value).strip() if isinstance(value, (str, int, float)) else ""
        label = self.options.get(text) if self.options else text
        if not label:
            known = f" of {dict(list(self.options.items())[:10])}" if self.options else ""
            raise FaultyAnnotation(
                f"its attribute {self.attribute!r} must name one class{known}. Received {fields.shown(value)}.",
                "Choose a class for it in VIA.",
            )
        return label


def _read(path, digest):
    content = read_json(path, digest)
    missing = [key for key in _REQUIRED if not isinstance(content, dict) or not isinstance(content.get(key), dict)]
    if missing:
        raise ValueError(
            f"A VIA 3 project must contain {list(_REQUIRED)}. Received {path} without {missing}. Save it in VIA again."
        )
    return content


def _options(about, path):
    """{number as text: name} of an attribute's options."""
    options = about.get("options") or {}
    if not isinstance(options, dict):
        raise ValueError(
            f"{path}: the options of the attribute {about.get('aname')!r} must be a dictionary. "
            f"Received {fields.shown(options)}. Save the project in VIA again."
        )
    return {str(key): str(name) for key, name in options.items()}


def _mask(xy, height, width):
    if not isinstance(xy, list):
        raise FaultyAnnotation(f"`xy` must be a list. Received {fields.shown(xy)}.", "Draw it again.")
    check_count(len(xy), 2 * OUTLINE_POINTS, "numbers in an outline")
    kind, *values = outlines.numbers(*xy)
    name, count, outline = _SHAPES.get(kind, (None, None, None))
    if name is None:
        raise FaultyAnnotation(
            f"its shape must be one of {[name for name, _, _ in _SHAPES.values()]}. Received shape number {kind:g} "
            "(1 is a point, 5 a line), which encloses nothing.",
            "Outline the object, or remove the region.",
        )
    if count is not None and len(values) != count:
        raise FaultyAnnotation(f"a {name} needs {count} numbers. Received {values[:10]}.", "Draw it again.")
    return outlines.polygon_mask([outline(*values)], height, width)


def _rectangle(x, y, width, height):
    return outlines.rectangle(x, y, x + width, y + height)


def _flat(*values):
    return list(values)


def _extreme_rectangle(*values):
    """The rectangle around four extreme points of an object."""
    points = np.reshape(values, (4, 2))
    return outlines.rectangle(*points.min(0), *points.max(0))


def _extreme_circle(*values):
    """The circle through three points."""
    first, *others = np.reshape(values, (3, 2))
    with np.errstate(over="ignore", invalid="ignore"):  # `circle` refuses what is not finite
        equations = 2 * (np.array(others) - first)
        right = (np.array(others) ** 2 - first**2).sum(axis=1)
        try:
            centre = np.linalg.solve(equations, right)
        except np.linalg.LinAlgError:
            raise FaultyAnnotation("its three points lie on a line, not on a circle.", "Draw it again.") from None
        radius = np.hypot(*(centre - first))
    return outlines.circle(*centre.tolist(), radius.item())


# VIA's shape number -> (name, count of numbers, outline). 1 is a point and 5 a line.
_SHAPES = {
    2: ("rectangle", 4, _rectangle),
    3: ("circle", 3, outlines.circle),
    4: ("ellipse", 4, outlines.ellipse),
    6: ("polyline", None, _flat),
    7: ("polygon", None, _flat),
    8: ("extreme rectangle", 8, _extreme_rectangle),
    9: ("extreme circle", 6, _extreme_circle),
}
