"""Predictions by image, as the writers of all tools take them: class name, score, and the mask in its window.

Comes in: COCO's tables of images, results and categories. Goes out: a list of `Draft`. Called by `writing.py`.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.contours import bridged, mask_rings, simplified_rings, window_of_code
from keras_maskrcnn.host.addresses import is_address


@dataclasses.dataclass(frozen=True)
class DraftObject:
    """One predicted object.

    Args:
        name: str, its class. score: float.
        window: bool (h, w), its mask in its box. x, y: int, the upper left pixel of the window in the image.
    """

    name: str
    score: float
    window: np.ndarray
    x: int
    y: int

    @functools.cached_property
    def rings(self):
        """(outer, holes): lists of float64 (k, [x, y]), the simplified outlines in image pixels."""
        return tuple([ring + (self.x, self.y) for ring in rings] for rings in simplified_rings(self.window))

    @property
    def has_holes(self):
        """Whether the mask has a hole."""
        return bool(mask_rings(self.window)[1])

    @property
    def outline(self):
        """float64 (k, [x, y]), image pixels: one ring for all parts and holes, joined by bridges without width."""
        outer, holes = self.rings
        return bridged(outer + holes)


@dataclasses.dataclass(frozen=True)
class Draft:
    """The predictions of one image.

    Args:
        file: str, path or address of the image. name: str, file name that no other image has.
        height, width: int. objects: list of DraftObject, highest score first.
    """

    file: str
    name: str
    height: int
    width: int
    objects: list

    @property
    def stem(self):
        """The name without its ending."""
        return pathlib.PurePath(self.name).stem


def make_drafts(images, results, categories):
    """Group predictions by image.

    Args:
        images: list of dict with id, file_name (path or address), height, width.
        results: list of COCO results; boxes without a mask are filled. Empty masks are left out.
        categories: list of dict with id and name.

    Returns:
        List of Draft, in the order of the images.
    """
    names = {category["id"]: str(category["name"]) for category in categories}
    groups = {image["id"]: [] for image in images}
    for result in sorted(results, key=lambda result: -result["score"]):
        groups[result["image_id"]].append(result)
    files = [str(image["file_name"]) for image in images]
    drafts = []
    for image, file, name in zip(images, files, _distinct(files), strict=True):
        size = int(image["height"]), int(image["width"])
        objects = [_object(result, names[result["category_id"]], size) for result in groups[image["id"]]]
        drafts.append(Draft(file, name, *size, [one for one in objects if one is not None]))
    return drafts


def _object(result, name, size):
    code = result.get("segmentation")
    if code is None:
        x1, y1, width, height = result["bbox"]
        x2, y2 = x1 + width, y1 + height
        code = coco_mask.merge(coco_mask.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], *size))
    window = window_of_code(code)
    return None if window is None else DraftObject(name, float(result["score"]), *window)


def _distinct(files):
    """A file name for each image: its own, with a number where several, also without their endings, are alike."""
    names, taken = [], set()
    for file in files:
        path = pathlib.PurePath(file)
        stem, number = path.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.lower())
        names.append(stem + path.suffix)
    return names


def local_root(drafts):
    """The folder that all images lie in, an absolute path.

    Raises:
        ValueError: an image is not on this machine.
    """
    remote = [draft.file for draft in drafts if is_address(draft.file)]
    if remote:
        raise ValueError(
            "Labelling tools open images of this machine. "
            f"Received predictions of {remote[0]}. Copy the images here, and predict the copies."
        )
    folders = {os.path.dirname(os.path.abspath(draft.file)) for draft in drafts}
    return os.path.commonpath(folders) if folders else os.getcwd()


def from_root(draft, root):
    """The path of an image from a folder, with slashes."""
    return pathlib.Path(os.path.relpath(os.path.abspath(draft.file), root)).as_posix()
