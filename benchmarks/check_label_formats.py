"""Write predictions in every labelling format, and read them back with the tools' own libraries and with this package.

    pip install labelme label-studio-sdk datumaro shapely          # in an environment of their own
    python benchmarks/check_label_formats.py

Prints for each format and reader the least IoU of a mask that was written and the one that was read, after checking that
classes and numbers of objects agree. A library that is missing is named. Imports no framework.
"""

import argparse
import base64
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

if importlib.util.find_spec("keras_maskrcnn_launcher"):
    from keras_maskrcnn_launcher import register_package

    register_package()

from keras_maskrcnn.geometry import rle  # noqa: E402
from keras_maskrcnn.labelling import TOOLS, write_labels  # noqa: E402

SIZE = (90, 120)
NAMES = ("cat", "Röhre <b>")
CATEGORIES = [{"id": 7, "name": NAMES[0]}, {"id": 9, "name": NAMES[1]}]
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]


# What is written ---------------------------------------------------------------------------------------------


def disc(x, y, radius):
    """Bool (H, W)."""
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def scene(seed):
    """Masks that do not overlap: a disc, a ring, two parts, one at the border, a tiny one, a noisy one, a cut disc."""
    rng = np.random.default_rng(seed)
    return [
        disc(20, 20, 15),
        disc(60, 20, 16) & ~disc(62, 22, 7),
        disc(95, 12, 8) | disc(105, 32, 6),
        disc(0, 89, 20),
        (abs(X - 50) <= 1) & (abs(Y - 50) <= 1),
        disc(95, 65, 18) & (rng.random(SIZE) < 0.9),
        disc(50, 72, 14) & (X + Y < 130),
    ]


def make_predictions(folder, count=3):
    """(images, results, expected): photos in a folder, COCO results, and {file name: [(class, mask)]}; the last is empty."""
    folder.mkdir(parents=True)
    images, results, expected = [], [], {}
    for number in range(1, count + 1):
        path = folder / f"photo-{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        images.append({"id": number, "file_name": str(path), "height": SIZE[0], "width": SIZE[1]})
        masks = scene(number) if number < count else []
        expected[path.name] = [(NAMES[k % 2], mask) for k, mask in enumerate(masks)]
        for k, mask in enumerate(masks):
            code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            code = {"size": list(SIZE), "counts": code["counts"].decode()}
            result = {"image_id": number, "category_id": (7, 9)[k % 2], "score": 0.3 + k / 10}
            results.append(result | {"bbox": coco_mask.toBbox(code).tolist(), "segmentation": code})
    return images, results, expected


# What is read ------------------------------------------------------------------------------------------------


def filled(rings):
    """Bool (H, W): polygons filled by COCO's rule, joined. `rings`: lists of flat coordinates."""
    codes = coco_mask.frPyObjects([np.asarray(ring, float).ravel().tolist() for ring in rings], *SIZE)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def with_labelme(folder):
    """By labelme's own LabelFile; parts of a group are joined, as its exporters do."""
    from labelme._label_file import LabelFile

    found = {}
    for path in sorted(folder.glob("*.json")):
        groups = {}
        content = LabelFile(str(path))
        for number, shape in enumerate(content.shapes):
            key = (shape["label"], number if shape["group_id"] is None else f"group {shape['group_id']}")
            groups[key] = groups.get(key, np.zeros(SIZE, bool)) | labelme_mask(shape)
        found[pathlib.Path(content.imagePath).name] = [(name, mask) for (name, _), mask in groups.items()]
    return found


def labelme_mask(shape):
    """Bool (H, W) of a shape, by labelme's own rule for polygons; a mask lies at its first corner."""
    from labelme.utils import shape_to_mask

    if shape["shape_type"] != "mask":
        return shape_to_mask(SIZE, shape["points"], shape["shape_type"]).astype(bool)
    mask, (x, y) = np.zeros(SIZE, bool), map(int, shape["points"][0])
    height, width = shape["mask"].shape
    mask[y : y + height, x : x + width] = shape["mask"]
    return mask
