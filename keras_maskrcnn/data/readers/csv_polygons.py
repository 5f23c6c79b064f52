"""Reader for a table of polygons (.csv), with one row per polygon or one row per point.

Columns are recognised by name (see `COLUMNS`). Cells are separated by commas, semicolons or tabs. For VIA's own CSV
see `via`.
"""

import csv
import io
import json
import pathlib
import re

from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import files_by_stem, image_files, read_text
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.readers.via import find_image
from keras_maskrcnn.data.records import Dataset

COLUMNS = {  # content -> accepted column names, lower case
    "image": ("image", "filename", "file_name", "file", "image_path", "path", "image_name", "imageid", "image_id"),
    "polygon": ("polygon", "polygons", "points", "segmentation", "geometry", "wkt", "polygonwkt"),
    "x": ("x",),
    "y": ("y",),
    "label": ("label", "class", "class_name", "classname", "category", "category_name"),
    "instance": ("instance", "instance_id", "object", "object_id", "polygon_id", "annotation_id"),
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PLAIN = re.compile(rf"[\s,;]*(?:{_NUMBER}[\s,;]*)*")


class CsvDataset(Dataset):
    """Images with the polygons of a table.

    One row per polygon: columns `image` and `polygon`, optionally `label` (without it there is one class) and
    `instance` (rows of an image with the same value are parts of one object). A polygon is a list of numbers
    `x1 y1 x2 y2 ...` with any separators; a JSON list of numbers, points or polygons; or WKT (POLYGON with holes,
    MULTIPOLYGON). An empty polygon marks an image without objects; images that the table does not name are left out.
    One row per point: columns `image`, `instance`, `x`, `y`, optionally `label`; points in row order.

    Args:
        annotation_file: path of the table.
        image_dir: folder of the images; None means `images/` beside the table if it exists, else the table's folder.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes those found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: columns are missing; or there are faults and on_error="raise".
    """

    def __init__(self, annotation_file, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        path = pathlib.Path(annotation_file)
        beside = path.parent / "images"
        folder = pathlib.Path(image_dir or (beside if beside.is_dir() else path.parent))
        collector = Collector(path, class_names)
        stems = files_by_stem(image_files(folder))
        for name, objects in _read(path).items():
            image = find_image(folder, name)
            if not image.is_file():
                image = stems.get(pathlib.PurePosixPath(name).name, [image])[0]  # a name without extension
            _collect(collector, image, objects)
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def find_columns(header):
    """{content: name of the column}, for the columns that exist."""
    lower = {str(name).strip().lower(): name for name in reversed(header)}
    found = {what: next((lower[name] for name in names if name in lower), None) for what, names in COLUMNS.items()}
    return {what: name for what, name in found.items() if name is not None}


def read_rows(path):
    """(header, [(line number, row as a dict)]) of a table. The delimiter is the commonest of `,;tab` in the header."""
    text = read_text(path)
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]


def _read(path):
    """{image: {object: [(line, label or None, outline)]}}; an outline is a cell's text or a list of points."""
    header, rows = read_rows(path)
    columns = find_columns(header)
    by_point = {"x", "y", "instance"} <= set(columns) and "polygon" not in columns
    if "image" not in columns or not (by_point or "polygon" in columns):
        raise ValueError(
            "A table of polygons needs columns `image` and `polygon`, or `image`, `instance`, `x` and `y`. "
            f"Received {path} with {header}. Rename columns; `image` may be called {', '.join(COLUMNS['image'][1:])}, "
            f"`polygon` {', '.join(COLUMNS['polygon'][1:])}."
        )
    images = {}
    for line, row in rows:
        cell = {what: (row.get(name) or "").strip() for what, name in columns.items()}
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
    size = collector.image_size(path)
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
    masks = [_mask(outline, height, width) for _, _, outline in parts]
    mask = masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)
    return labels.pop(), mask


def _mask(outline, height, width):
    if not isinstance(outline, str):
        return outlines.polygon_mask([outline], height, width)
    if re.match(r"\s*(MULTI)?POLYGON", outline, re.IGNORECASE):
        return _wkt_mask(outline, height, width)
    return outlines.polygon_mask(_parts(outline), height, width)


def _parts(text):
    """Lists of coordinates from plain numbers or JSON (tuples of Python included)."""
    if _PLAIN.fullmatch(text):
        return [[float(value) for value in re.findall(_NUMBER, text)]]
    try:
        content = json.loads(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        content = None
    if not isinstance(content, list) or not content:
        raise FaultyAnnotation(
            f"a polygon must be numbers x1 y1 x2 y2 ..., a JSON list or WKT. Received {text[:60]!r}.",
            "Correct the cell.",
        )
    depth = _depth(content)
    flat_parts = depth == 2 and all(len(part) > 2 for part in content if isinstance(part, list))
    return content if depth == 3 or flat_parts else [content]  # [x, y, ...] and [[x, y], ...] are one polygon


def _depth(content):
    return 1 + _depth(content[0]) if isinstance(content, list) and content else 0


def _wkt_mask(text, height, width):
    """POLYGON ((outline), (hole), ...) or MULTIPOLYGON (((outline), ...), ...); a third coordinate is ignored."""
    masks = []
    for rings in re.findall(r"\(\s*(\([^()]*\)(?:\s*,\s*\([^()]*\))*)\s*\)", text):
        outline, *holes = [_ring(ring) for ring in re.findall(r"\(([^()]*)\)", rings)]
        masks.append(outlines.polygon_mask([outline], height, width, holes))
    if not masks:
        raise FaultyAnnotation(f"a WKT polygon must have points. Received {text[:60]!r}.", "Correct the cell.")
    return masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)


def _ring(text):
    points = [re.findall(_NUMBER, point)[:2] for point in text.split(",")]
    points = [outlines.numbers(*point) for point in points]
    return points[:-1] if len(points) > 3 and points[0] == points[-1] else points  # WKT repeats the first point
