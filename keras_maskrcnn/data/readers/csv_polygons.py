"""Reader for a table of polygons (.csv), with one row per polygon or one row per point.

Columns are recognised by name (see `COLUMNS`). Cells are separated by commas, semicolons or tabs. For VIA's own CSV
see `via`.
"""

from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.annotation_cache import as_options, remembered
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.polygon_text import outline_mask
from keras_maskrcnn.data.readers.tables import read_table
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.addresses import as_path

COLUMNS = {  # content -> accepted column names, lower case
    "image": ("image", "filename", "file_name", "file", "image_path", "path", "image_name", "imageid", "image_id"),
    "polygon": ("polygon", "polygons", "points", "segmentation", "geometry", "wkt", "polygonwkt"),
    "x": ("x",),
    "y": ("y",),
    "label": ("label", "class", "class_name", "classname", "category", "category_name"),
    "instance": ("instance", "instance_id", "object", "object_id", "polygon_id", "annotation_id"),
}


class CsvDataset(Dataset):
    """Images with the polygons of a table.

    One row per polygon: columns `image` and `polygon`, optionally `label` (without it there is one class) and
    `instance` (rows of an image with the same value are parts of one object). A polygon is a list of numbers
    `x1 y1 x2 y2 ...` with any separators; a JSON list of numbers, points or polygons; or WKT (POLYGON with holes,
    MULTIPOLYGON). An empty polygon marks an image without objects; images that the table does not name are left out.
    One row per point: columns `image`, `instance`, `x`, `y`, optionally `label`; points in row order.

    Args:
        annotation_file: path of the table.
        image_dir: folder of the images; None searches near the table, see `image_finder`. Names need no extension.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes those found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: columns are missing; or there are faults and on_error="raise".
    """

    def __init__(self, annotation_file, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        path, classes = as_path(annotation_file), as_options(class_names, category_ids)
        arguments = remembered(
            path, image_dir, ("csv", *classes), lambda digest: _reading(path, image_dir, *classes, digest)
        )
        super().__init__(**arguments, name=path, on_error=on_error)


def _reading(path, image_dir, class_names, category_ids, digest):
    """The Reading of a table."""
    collector, finder = Collector(path, class_names), ImageFinder(path, image_dir)
    for name, objects in _read(path, digest).items():
        _collect(collector, finder.locate(collector, name), objects)
    return collector.reading(finder, category_ids)


def find_columns(header):
    """{content: name of the column}, for the columns that exist.

    Args:
        header: list of str.
    """
    lower = {str(name).strip().lower(): name for name in reversed(header)}
    found = {what: next((lower[name] for name in names if name in lower), None) for what, names in COLUMNS.items()}
    return {what: name for what, name in found.items() if name is not None}


def _read(path, digest):
    """{image: {object: [(line, label or None, outline)]}}; an outline is a cell's text or a list of points."""
    table, rows = read_table(path, digest=digest)
    columns = {what: table[name] for what, name in find_columns(list(table)).items()}
    by_point = {"x", "y", "instance"} <= set(columns) and "polygon" not in columns
    if "image" not in columns or not (by_point or "polygon" in columns):
        raise ValueError(
            "A table of polygons needs columns `image` and `polygon`, or `image`, `instance`, `x` and `y`. "
            f"Received {path} with {list(table)[:30]}. Rename columns; `image` may be called "
            f"{', '.join(COLUMNS['image'][1:])}, `polygon` {', '.join(COLUMNS['polygon'][1:])}."
        )
    images = {}
    for line, row in rows:
        cell = {what: row[position].strip() for what, position in columns.items()}
        objects = images.setdefault(cell["image"], {})
        if by_point:
            _add_point(objects, line, cell)
        elif cell["polygon"]:
            key = cell.get("instance") or f"line {line}"
            objects.setdefault(key, []).append((line, cell.get("label"), cell["polygon"]))
    return images


def _add_point(objects, line, cell):
    if not (cell["instance"] or cell["x"] or cell["y"]):
        return  # an image without objects
    parts = objects.setdefault(cell["instance"], [(line, cell.get("label"), [])])
    parts[0][2].append((cell["x"], cell["y"]))


def _collect(collector, path, objects):
    size = None if path is None else collector.image_size(path)
    if size is None:
        return
    instances = []
    for key, parts in objects.items():
        first, last = parts[0][0], parts[-1][0]
        lines = f"line {first}" if first == last else f"lines {first} to {last}"
        where = f"{lines} of {collector.name} ({path.name})"
        instances.append(collector.instance(where, lambda p=parts: _class_and_mask(p, *size), key))
    collector.record(path, size, instances)


def _class_and_mask(parts, height, width):
    labels = {label for _, label, _ in parts}
    if len(labels) > 1 or "" in labels:
        raise FaultyAnnotation(f"an object needs one label. Received {sorted(map(str, labels))}.", "Correct the rows.")
    masks = [outline_mask(outline, height, width) for _, _, outline in parts]
    mask = masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)
    return labels.pop(), mask
