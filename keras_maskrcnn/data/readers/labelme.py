"""Reader for labelme: one .json file per image, with the image beside it or inside it (`imageData`, base64).

Shapes with the same label and the same `group_id` are parts of one object, as in labelme's own exporters.
"""

import base64
import binascii
import functools
import io
import pathlib

import numpy as np
from PIL import Image

from keras_maskrcnn.data.images.reading import ImageError, image_size
from keras_maskrcnn.data.readers import outlines
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import files_in, image_files, read_json
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.records import Dataset, size_message

_NO_OBJECT = ("__ignore__", "_background_")  # labels that labelme's exporters skip


class LabelmeDataset(Dataset):
    """Images annotated with labelme.

    Reads polygons, rectangles, circles (centre and a point on the rim), oriented rectangles and masks. Skips the labels
    `__ignore__` and `_background_`. The image is the file named by `imagePath`, else a file of the same name in
    `image_dir` or beside the .json, else `imageData`. A file without shapes is an image without objects. Images
    without a .json file are left out.

    Args:
        source: folder of the .json files, or one .json file.
        image_dir: folder of the images, needed if `imagePath` is wrong; None means the folder of the .json files.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes the labels found, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: there is no .json file; or there are faults and on_error="raise".
    """

    def __init__(self, source, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        source = pathlib.Path(source)
        files = files_in(source, (".json",)) if source.is_dir() else [source]
        if not files:
            raise ValueError(f"A folder with labelme .json files is needed. Received {source}, which has none.")
        collector = Collector(source, class_names)
        for file in files:
            _collect(collector, file, None if image_dir is None else pathlib.Path(image_dir))
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def _collect(collector, file, image_dir):
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
    source, size = _image(collector, file, content, image_dir)
    if size is None:
        return
    groups = {}
    for number, shape in enumerate(content["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        group = shape.get("group_id") if isinstance(shape, dict) else None
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


def _image(collector, file, content, image_dir):
    """(source, size); the size is None after recording a fault."""
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    stated = None if None in stated else stated
    path = _image_path(file, content, image_dir)
    if path is not None:
        return path, collector.image_size(path, stated)
    if not content.get("imageData"):
        problem = f"its image {content.get('imagePath')!r} does not exist, and the file has no imageData."
        collector.fault(f"file {file}", problem, "Pass the folder of the images.")
        return None, None
    try:
        size = image_size(_embedded(content))
    except (ImageError, binascii.Error) as error:
        collector.fault(f"file {file}", f"its imageData is damaged: {error}.", "Save it in labelme again.")
        return None, None
    if stated is not None and tuple(stated) != size:
        collector.fault(f"file {file}", size_message(f"imageData of {file.name}", file.name, stated, size), "")
        return None, None
    return functools.partial(_read_embedded, file), size


def _image_path(file, content, image_dir):
    """The image file, or None."""
    named = str(content.get("imagePath") or "").replace("\\", "/")  # labelme on Windows writes backslashes
    folders = [file.parent] if image_dir is None else [image_dir, file.parent]
    candidates = [file.parent / named] if named else []
    candidates += [folder / named.rsplit("/", 1)[-1] for folder in folders if named]
    candidates += [path for folder in folders for path in image_files(folder) if path.stem == file.stem and not named]
    return next((path for path in candidates if path.is_file()), None)


def _embedded(content):
    return base64.b64decode(content["imageData"], validate=True)


def _read_embedded(file):
    """The encoded image inside a .json file. Read again on each use, because all images may not fit in memory."""
    return _embedded(read_json(file))


def _class_and_mask(parts, height, width):
    masks = []
    for _, shape in parts:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
            raise FaultyAnnotation(f"a shape needs a label. Received {str(shape)[:60]}.", "Name it in labelme.")
        masks.append(_mask(shape, height, width))
    label = parts[0][1]["label"]
    return label, masks[0] if len(masks) == 1 else outlines.union([mask for mask, _ in masks], height, width)


def _mask(shape, height, width):
    kind = shape.get("shape_type") or "polygon"  # labelme 3 does not write shape_type
    points = shape.get("points")
    if kind == "mask":
        return _pixel_mask(shape, height, width)
    if kind in ("polygon", "oriented_rectangle") or (kind == "rectangle" and len(points or ()) == 4):
        return outlines.polygon_mask([points], height, width)
    if kind not in ("rectangle", "circle"):
        raise FaultyAnnotation(
            "its shape_type must be polygon, rectangle, oriented_rectangle, circle or mask. "
            f"Received {kind!r}, which encloses nothing.",
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
        raise FaultyAnnotation(f"a {kind} needs two points. Received {str(points)[:60]}.", "Draw it again.") from None
    ax, ay, bx, by = outlines.numbers(ax, ay, bx, by)
    return (ax, ay), (bx, by)


def _pixel_mask(shape, height, width):
    """A labelme mask: a black-and-white PNG in base64. Its top-left pixel is at the first point."""
    (x, y), _ = _two_points(shape.get("points"), "mask")
    x, y = round(x), round(y)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except (OSError, binascii.Error) as error:
        raise FaultyAnnotation(f"its mask cannot be read: {error}.", "Draw it again.") from None
    whole = np.zeros((height, width), bool)
    top, left = max(y, 0), max(x, 0)
    part = pixels[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return outlines.pixels_mask(whole)
