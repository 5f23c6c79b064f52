"""The content of a COCO file: its images, its annotations in columns or as they are, its categories.

The file is read in pieces (`json_stream.py`). One that is out of the ordinary (no JSON, a list that is missing or there
twice, ...) is read as a whole, as small files of other formats are, so that the messages are the same. Called by
`coco.py`.
"""

import dataclasses

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.coco_polygons import OrdinaryAnnotations
from keras_maskrcnn.data.readers.coco_text import scan
from keras_maskrcnn.data.readers.folders import read_json
from keras_maskrcnn.data.readers.json_stream import Entries, JsonStream, Unusual
from keras_maskrcnn.data.table_builder import TableBuilder

_REQUIRED = ("images", "annotations", "categories")
_OF_IMAGES = ("id", "file_name", "coco_url", "height", "width")  # the other fields are not kept


@dataclasses.dataclass
class Content:
    """What a COCO file holds.

    Args:
        images: list, the entries of `images`; of those that are dictionaries the fields that are read.
        annotations: an object whose `some(numbers)` yields entries of `annotations`.
        ordinary: OrdinaryAnnotations, most of these in columns, and the numbers of the others.
        categories: list, the entries of `categories`.
        builder: TableBuilder that holds the coordinates of `ordinary`.
        in_pieces: whether it was read in pieces, each byte once.
    """

    images: list
    annotations: object
    ordinary: OrdinaryAnnotations
    categories: list
    builder: TableBuilder
    in_pieces: bool


def read_content(path, digest=None):
    """Read a COCO file.

    Args:
        path: str or Path. digest: object with `update`, given the file's bytes unless it is out of the ordinary; or
            None.

    Returns:
        Content.

    Raises:
        ValueError: the file is missing, or no COCO JSON.
    """
    try:
        return _in_pieces(path, digest)
    except Unusual:
        return _as_a_whole(path)


def _in_pieces(path, digest):
    builder, images, categories, firsts, places = TableBuilder(), [], None, [], []
    ordinary, seen = OrdinaryAnnotations(builder), set()
    with JsonStream(path, digest) as stream:
        for key in stream.members():
            if key in seen and key in _REQUIRED:  # the last one counts
                raise Unusual
            seen.add(key)
            if key == "images":
                for entries, _ in stream.batches(quick=True):
                    images += map(_of_image, entries)
            elif key == "annotations":
                for entries, place in stream.batches(quick=True, scan=scan):
                    firsts.append(ordinary.count)
                    places.append(place)
                    ordinary.add(entries)
                firsts.append(ordinary.count)
                places.append(stream.place)
            else:
                value = stream.value()
                categories = value if key == "categories" else categories
    if not seen.issuperset(_REQUIRED) or not isinstance(categories, list):
        raise Unusual
    return Content(images, Entries(path, firsts, places), ordinary, categories, builder, True)


def _as_a_whole(path):
    content = _checked(read_json(path), path)
    builder = TableBuilder()
    ordinary = OrdinaryAnnotations(builder)
    ordinary.add(content["annotations"])
    return Content(content["images"], _List(content["annotations"]), ordinary, content["categories"], builder, False)


class _List:
    """As `Entries`, of a list."""

    def __init__(self, entries):
        self._entries = entries

    def some(self, numbers):
        return (self._entries[number] for number in numbers)


def _of_image(entry):
    """The fields of an image that are read. Raises Unusual of one that may be a whole number beyond 64 bits."""
    if not isinstance(entry, dict):
        return entry
    kept = {key: entry[key] for key in _OF_IMAGES if key in entry}
    if any(type(value) is float and abs(value) >= 2**63 for value in kept.values()):
        raise Unusual
    return kept


def _checked(content, path):
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
