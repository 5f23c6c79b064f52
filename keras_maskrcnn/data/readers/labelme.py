"""Reader for labelme: one .json file per image, with the image beside it or inside it (`imageData`, base64).

Shapes with the same label and the same `group_id` are parts of one object, as in labelme's own exporters.
"""

import base64
import functools
import math

import numpy as np

from keras_maskrcnn.data.images.reading import image_size, stored_image
from keras_maskrcnn.data.limits import LABEL_PIXELS, OUTLINE_POINTS, check_count
from keras_maskrcnn.data.readers import fields, outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import files_with, read_json
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.image_names import shown_name
from keras_maskrcnn.data.records import Dataset, size_message
from keras_maskrcnn.host.addresses import as_path

_NO_OBJECT = ("__ignore__", "_background_")  # labels that labelme's exporters skip


class LabelmeDataset(Dataset):
    """Images annotated with labelme.

    Reads polygons, rectangles, circles (centre and a point on the rim), oriented rectangles and masks. Skips the labels
    `__ignore__` and `_background_`. The image is the file named by `imagePath`, looked for in `image_dir`, then beside
    the .json (`image_finder` says how), else `imageData`. A file without shapes is an image without objects. Images
    without a .json file are left out.

    Args:
        source: folder of the .json files, or one .json file.
        image_dir: folder of the images, needed if they are not where `imagePath` says, nor near the .json files.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes the labels found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: there is no .json file; or there are faults and on_error="raise".
    """

    def __init__(self, source, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        source = as_path(source)
        files = files_with(source, ".json") if source.is_dir() else [source]
        if not files:
            raise ValueError(f"A folder with labelme .json files is needed. Received {source}, which has none.")
        collector = Collector(source, class_names)
        finders = [ImageFinder(source)] if image_dir is None else [ImageFinder(source, image_dir), ImageFinder(source)]
        for file in files:
            _collect(collector, file, finders)
        collector.notes += [note for finder in finders for note in finder.notes]
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def _collect(collector, file, finders):
    try:
        content = read_json(file)
    except ValueError as error:
        collector.fault(f"file {file.name}", str(error), "Or remove it.")
        return
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        collector.fault(
            f"file {file.name}",
            "a labelme file must contain a list `shapes`.",
            "Remove .json files that labelme did not write.",
        )
        return
    source, size = _image(collector, file, content, finders)
    if size is None:
        return
    groups = {}
    for number, shape in enumerate(content["shapes"]):
        label, group = (_hashable(shape.get(key)) if isinstance(shape, dict) else None for key in ("label", "group_id"))
        if label not in _NO_OBJECT:
            key = (label, "shape", number) if group is None else (label, "group", group)
            groups.setdefault(key, []).append((number, shape))
    instances = [
        collector.instance(_where(parts, file), lambda p=parts: _class_and_mask(p, *size), parts[0][0])
        for parts in groups.values()
    ]
    collector.record(source, size, instances)


def _where(parts, file):
    numbers = ", ".join(str(number) for number, _ in parts)
    return f"shape{'s' if len(parts) > 1 else ''} {numbers} of {file}"


def _hashable(value):
    """The value, or text that stands for a list or a dictionary."""
    return value if isinstance(value, (str, int, float, type(None))) else fields.shown(value)


def _image(collector, file, content, finders):
    """(source, size); the size is None after recording a fault."""
    try:
        stated = _stated_size(content)
        path = _image_path(file, content, finders)
        if path is not None:
            return path, collector.image_size(path, stated)
        if not content.get("imageData"):
            raise FaultyAnnotation(*_no_image(file, content, finders[0]))
        size = _embedded_size(content, file, stated)
    except FaultyAnnotation as fault:
        collector.fault(f"file {file}", *fault.args)
        return None, None
    return functools.partial(_read_embedded, file), size


def _stated_size(content):
    """(height, width) of the image in the file, or None."""
    stated = [content.get(key) for key in ("imageHeight", "imageWidth")]
    if None in stated:
        return None
    return tuple(fields.number(value, "`imageHeight` and `imageWidth`", 1, whole=True) for value in stated)


def _image_path(file, content, finders):
    """The image file, or None."""
    name = content.get("imagePath") or file.stem
    return next((path for path in (finder.look_up(name) for finder in finders) if path is not None), None)


def _no_image(file, content, finder):
    """(problem, remedy) of a file whose image is missing."""
    name = content.get("imagePath") or file.stem
    problem, remedy = finder.not_found(name)
    return f"its image {shown_name(name)}: {problem}", remedy


def _embedded_size(content, file, stated):
    try:
        size = image_size(_embedded(content))
    except (TypeError, ValueError) as error:  # ImageError, binascii.Error
        raise FaultyAnnotation(f"its imageData is damaged: {error}.", "Save it in labelme again.") from None
    if stated is not None and stated != size:
        raise FaultyAnnotation(size_message(f"imageData of {file.name}", file.name, stated, size), "")
    return size


def _embedded(content):
    return base64.b64decode(content["imageData"], validate=True)


def _read_embedded(file):
    """The encoded image inside a .json file. Read again on each use, because all images may not fit in memory."""
    return _embedded(read_json(file))


def _class_and_mask(parts, height, width):
    masks = []
    for _, shape in parts:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
            raise FaultyAnnotation(f"a shape needs a label. Received {fields.shown(shape)}.", "Name it in labelme.")
        masks.append(_mask(shape, height, width))
    label = parts[0][1]["label"]
    return label, masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)


def _mask(shape, height, width):
    kind = shape.get("shape_type") or "polygon"  # labelme 3 does not write shape_type
    points = shape.get("points")
    if kind == "mask":
        return _pixel_mask(shape, height, width)
    if not isinstance(points, list):
        raise FaultyAnnotation(f"`points` must be a list. Received {fields.shown(points)}.", "Draw it again.")
    check_count(len(points), OUTLINE_POINTS, "points in an outline")
    if kind in ("polygon", "oriented_rectangle") or (kind == "rectangle" and len(points) == 4):
        return outlines.polygon_mask([points], height, width)
    if kind not in ("rectangle", "circle"):
        raise FaultyAnnotation(
            "its shape_type must be polygon, rectangle, oriented_rectangle, circle or mask. "
            f"Received {fields.shown(kind)}, which encloses nothing.",
            "Outline the object, or remove the shape.",
        )
    (ax, ay), (bx, by) = _two_points(points, kind)
    if kind == "rectangle":
        return outlines.polygon_mask([outlines.rectangle(ax, ay, bx, by)], height, width)
    return outlines.polygon_mask([outlines.circle(ax, ay, np.hypot(bx - ax, by - ay))], height, width)


def _two_points(points, kind):
    try:
        (ax, ay), (bx, by) = points
    except (TypeError, ValueError):
        raise FaultyAnnotation(
            f"a {kind} needs two points. Received {fields.shown(points)}.", "Draw it again."
        ) from None
    ax, ay, bx, by = outlines.numbers(ax, ay, bx, by)
    return (ax, ay), (bx, by)


def _pixel_mask(shape, height, width):
    """A labelme mask: a black-and-white PNG in base64. Its top-left pixel is at the first point."""
    (x, y), _ = _two_points(shape.get("points"), "mask")
    x, y = round(x), round(y)
    pixels = _decoded_mask(shape.get("mask"))
    whole = np.zeros((height, width), bool)
    top, left = max(y, 0), max(x, 0)
    part = pixels[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return outlines.pixels_mask(whole)


def _decoded_mask(text):
    """Bool (h, w)."""
    try:
        data = base64.b64decode(text or "", validate=True)
        check_count(math.prod(image_size(data)), LABEL_PIXELS, "pixels of a mask")
        stored = stored_image(data)
    except (ValueError, TypeError) as error:  # ImageError, too
        raise FaultyAnnotation(f"its mask cannot be read: {error}", "Draw it again.") from None
    return (stored.pixels[..., :-1] if stored.alpha else stored.pixels).any(axis=2)
