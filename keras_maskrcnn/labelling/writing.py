"""Write predictions in the format of a labelling tool. Called by users and by the command line."""

import pathlib
import shutil
import typing

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.labelling import analysis_files, image_folders, json_files
from keras_maskrcnn.labelling.drafts import make_drafts


class Tool(typing.NamedTuple):
    """A format that predictions can be written in.

    Args:
        files: function from (list of Draft, class names, folder) to {path in the folder: text, bytes or Path to copy}.
        keeps: str, what the format holds, and what it does not, for the help and the message after writing.
    """

    files: typing.Callable
    keeps: str


TOOLS = {
    "coco": Tool(json_files.coco_files, "masks pixel by pixel, scores"),
    "labelme": Tool(
        json_files.labelme_files, "polygons, parts as groups, objects with holes as masks, scores; IoU at least 0.98"
    ),
    "yolo": Tool(
        image_folders.yolo_files,
        "one polygon an object, parts and holes joined by lines; no scores; IoU at least 0.98; copies the images",
    ),
    "voc": Tool(
        image_folders.voc_files,
        "masks pixel by pixel, but where objects overlap only the surest; scores in the XML; copies the images",
    ),
    "via": Tool(
        json_files.via_files, "one polygon an object, parts and holes joined by lines, scores; IoU at least 0.98"
    ),
    "cvat": Tool(image_folders.cvat_files, "masks pixel by pixel, scores as an attribute"),
    "label-studio": Tool(
        json_files.label_studio_files,
        "predictions: one polygon an object, parts and holes joined by lines, scores; IoU at least 0.98",
    ),
    "labels": Tool(
        analysis_files.label_files,
        "label images, 16-bit PNG: masks pixel by pixel, but where objects overlap only the surest; class and score in "
        "objects.tsv",
    ),
    "labels-tiff": Tool(analysis_files.label_tiff_files, "the same as 32-bit TIFF"),
    "geojson": Tool(
        analysis_files.geojson_files, "QuPath's detections: masks pixel by pixel with parts and holes, scores"
    ),
}


def write_labels(tool, folder, images, results, categories):
    """Write predictions as files that a labelling tool opens for correction.

    Args:
        tool: a key of `TOOLS`.
        folder: for the files, made if it is missing. Files of the same names are replaced.
        images: list of dict with id, file_name (path), height, width.
        results: list of COCO results of these images; boxes without a mask are written as filled.
        categories: list of dict with id and name.

    Returns:
        List of pathlib.Path, what was written.

    Raises:
        ValueError: an unknown tool, images that are not on this machine, or names that the format cannot hold.
    """
    if tool not in TOOLS:
        raise ValueError(f"A labelling tool must be one of {list(TOOLS)}. Received {tool!r}. Choose one of them.")
    folder = pathlib.Path(folder)
    names = list(dict.fromkeys(str(category["name"]) for category in categories))
    files = TOOLS[tool].files(make_drafts(images, results, categories), names, folder)
    for name, content in files.items():
        write_atomically(folder / name, _writer(content))
    return [folder / name for name in files]


def _writer(content):
    """A function that writes text or bytes, or copies a file, to a path."""
    if isinstance(content, pathlib.Path):
        return lambda place: shutil.copyfile(content, place)
    if isinstance(content, bytes):
        return lambda place: place.write_bytes(content)
    return lambda place: place.write_text(content, encoding="utf-8")
