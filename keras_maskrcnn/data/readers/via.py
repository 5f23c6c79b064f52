"""Reader for VGG Image Annotator 1 and 2: annotation exports and projects (.json), annotation exports as .csv.

VIA 1 writes the `regions` of an image as {"0": region, ...}, VIA 2 as a list. A VIA 2 project keeps the same images
under `_via_img_metadata`, and the attributes with their options under `_via_attributes`. The class of a region is the
value of one of its attributes. VIA 3 has another format, see `via3`.
"""

import json

import numpy as np

from keras_maskrcnn.data.limits import OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import fields, outlines
from keras_maskrcnn.data.readers.annotation_cache import as_options, remembered
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import read_json
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.tables import read_table
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.addresses import as_path
from keras_maskrcnn.host.messages import argument

CSV_COLUMNS = ("filename", "region_id", "region_shape_attributes", "region_attributes")
_USUAL_NAMES = (
    "class",
    "label",
    "category",
    "type",
    "name",
    "object",
)  # usual names of the attribute that holds the class


class ViaDataset(Dataset):
    """Images annotated with VIA 1 or 2.

    A polygon or polyline covers the area inside its points; the last point is joined to the first. Rectangles, circles
    and ellipses (with their angle) become polygons. An image without regions has no objects.

    Args:
        annotation_file: path of the .json (export or project) or .csv file.
        image_dir: folder of the images; None searches near the file, see `image_finder`.
        attribute: name of the region attribute that holds the class: a dropdown, radio, checkbox (one ticked) or text.
            None takes the only attribute, or the only one with a usual name such as "class". A file without region
            attributes has one class.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes the attribute's options, else the values found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: the file is not a VIA file; `attribute` is unknown or ambiguous; or there are faults and
            on_error="raise".
    """

    def __init__(
        self, annotation_file, image_dir=None, attribute=None, on_error="raise", class_names=None, category_ids=None
    ):
        path, options = as_path(annotation_file), (attribute, *as_options(class_names, category_ids))
        arguments = remembered(
            path, image_dir, ("via", *options), lambda digest: _reading(path, image_dir, *options, digest)
        )
        super().__init__(**arguments, name=path, on_error=on_error)


def _reading(path, image_dir, attribute, class_names, category_ids, digest):
    """The Reading of a file."""
    collector, finder = Collector(path, class_names), ImageFinder(path, image_dir)
    entries, options = _read(path, collector, digest)
    names = dict.fromkeys([*options, *(key for _, region in _regions(entries) for key in _attributes(region))])
    attribute = choose_attribute(list(names), attribute, path)
    collector.declare(options.get(attribute, ()))
    for entry in entries:
        _collect(collector, entry, finder, attribute)
    return collector.reading(finder, category_ids)


def choose_attribute(names, asked, path):
    """The attribute that holds the class, or None if there are no attributes.

    Args:
        names: list of str, the attributes of regions.
        asked: the user's choice, or None.
        path: the annotation file, for messages.

    Raises:
        ValueError: the choice is unknown, or there is no choice and the attribute is ambiguous.
    """
    if asked is not None and asked not in names:
        raise ValueError(
            f"{path}: {argument('attribute')} must name one of the region attributes {names}. Received {asked!r}."
        )
    if asked is not None or not names:
        return asked
    usual = [name for name in names if str(name).lower() in _USUAL_NAMES]
    if len(names) == 1 or len(usual) == 1:
        return (usual or names)[0]
    raise ValueError(
        f"{path}: one region attribute must hold the class. Received {names}. Name it: {argument('attribute')}."
    )


def _read(path, collector, digest):
    """(entries of images, {attribute: [options]})."""
    if path.suffix.lower() == ".csv":
        return _read_csv(path, digest), {}
    content = read_json(path, digest)
    found = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not any(isinstance(e, dict) and "filename" in e for e in found.values()):
        raise ValueError(
            f'VIA annotations must hold {{"<name><size>": {{"filename", "regions", ...}}}}. Received {path}. '
            "In VIA choose Annotation > Export Annotations (as json), or save the project."
        )
    listed = content.get("_via_image_id_list")
    order = [key for key in (listed if isinstance(listed, list) else ()) if isinstance(key, str)]
    entries = []
    for key in dict.fromkeys([*order, *found]):
        if isinstance(found.get(key), dict) and "filename" in found[key]:
            entries.append(found[key])
        elif key in found:
            collector.fault(f"entry {fields.shown(key)}", "it has no `filename`.", "Remove it.")
    return entries, _options(content, path)


def _options(content, path):
    """{region attribute: its options, in VIA's order} of a project."""
    described = content.get("_via_attributes")
    described = described.get("region") if isinstance(described, dict) else None
    options = {}
    for name, about in described.items() if isinstance(described, dict) else ():
        listed = about.get("options") if isinstance(about, dict) else None
        if listed is not None and not isinstance(listed, (dict, list)):
            raise ValueError(
                f"{path}: the options of the attribute {name!r} must be a list or a dictionary. "
                f"Received {fields.shown(listed)}. Save the project in VIA again."
            )
        options[name] = [str(option) for option in listed or ()]
    return options


def _read_csv(path, digest):
    """The same entries from a CSV export: one row per region; {} is the shape of images without regions."""
    columns, rows = read_table(path, ",", digest)
    missing = [column for column in CSV_COLUMNS if column not in columns]
    if missing:
        raise ValueError(
            f"A VIA CSV file needs columns {list(CSV_COLUMNS)}. Received {path} without {missing}. Export it again."
        )
    entries = {}
    for line, row in rows:
        name, number, shape, attributes = (row[columns[column]] for column in CSV_COLUMNS)
        entry = entries.setdefault(name, {"filename": name, "regions": {}})
        shape = _loads(shape)
        if shape != {}:
            region = {"shape_attributes": shape, "region_attributes": _loads(attributes)}
            entry["regions"][f"{number} in line {line}"] = region
    return list(entries.values())


def _loads(text):
    """Parse a JSON cell. Text that is not JSON stays text and becomes a fault of its region."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError, OverflowError):
        return text


def _regions(entries):
    """(number, region) of all images."""
    for entry in entries:
        yield from _numbered(entry.get("regions"))


def _numbered(regions):
    """[(number, region)] from VIA 1's dictionary or VIA 2's list; [] for anything else."""
    if isinstance(regions, dict):
        return list(regions.items())
    return list(enumerate(regions)) if isinstance(regions, list) else []


def _attributes(region):
    found = region.get("region_attributes") if isinstance(region, dict) else None
    return found if isinstance(found, dict) else {}


def _collect(collector, entry, finder, attribute):
    path = finder.locate(collector, entry["filename"])
    size = None if path is None else collector.image_size(path)
    if size is None:
        return
    regions = entry.get("regions")
    if regions and not isinstance(regions, (dict, list)):
        problem = f"`regions` must be a list or a dictionary. Received {fields.shown(regions)}."
        collector.fault(f"image {path}", problem, "Export it again.")
        return
    instances = [
        collector.instance(f"region {number} of {path}", lambda r=region: _class_and_mask(r, attribute, *size), number)
        for number, region in _numbered(regions)
    ]
    collector.record(path, size, instances)


def _class_and_mask(region, attribute, height, width):
    name = None if attribute is None else _class(attribute, _attributes(region).get(attribute))
    return name, _mask(region, height, width)


def _class(attribute, value):
    """The class named by an attribute's value."""
    if isinstance(value, dict):  # a checkbox: {"cat": true, "dog": false}
        value = {name: bool(on) for name, on in value.items()}
        ticked = [name for name, on in value.items() if on]
        if len(ticked) == 1:
            return ticked[0]
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    raise FaultyAnnotation(
        f"its attribute {attribute!r} must name one class. Received {repr(value)[:100]}.",
        "Choose a class for it in VIA.",
    )


def _mask(region, height, width):
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    kind = shape.get("name") if isinstance(shape, dict) else None
    if not isinstance(kind, str) or kind not in _OUTLINES:
        raise FaultyAnnotation(
            f"its shape must be one of {sorted(_OUTLINES)}. Received {fields.shown(kind)}, which encloses nothing.",
            "Outline the object, or remove the region.",
        )
    return outlines.polygon_mask([_OUTLINES[kind](shape)], height, width)


def _points(shape):
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise FaultyAnnotation(
            "`all_points_x` and `all_points_y` must be lists of equal length. "
            f"Received {fields.shown(xs)} and {fields.shown(ys)}.",
            "Draw it again.",
        )
    check_count(len(xs), OUTLINE_POINTS, "points in an outline")
    return np.stack([outlines.numbers(*xs), outlines.numbers(*ys)], axis=1)


def _rectangle(shape):
    x, y, width, height = outlines.numbers(*(shape.get(key) for key in ("x", "y", "width", "height")))
    return outlines.rectangle(x, y, x + width, y + height)


def _circle(shape):
    return outlines.circle(*outlines.numbers(*(shape.get(key) for key in ("cx", "cy", "r"))))


def _ellipse(shape):
    values = outlines.numbers(*(shape.get(key) for key in ("cx", "cy", "rx", "ry")), shape.get("theta", 0))
    return outlines.ellipse(*values)  # VIA passes theta unchanged to the canvas: radians, clockwise


_OUTLINES = {
    "polygon": _points,
    "polyline": _points,
    "rect": _rectangle,
    "circle": _circle,
    "ellipse": _ellipse,
}
