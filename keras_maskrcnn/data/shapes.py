"""Synthetic images of circles, squares and triangles with exact masks, to try the package without data.

Writes PNG images and COCO annotations, so a run on them uses the same code as a run on real data.
"""

import json
import pathlib

import numpy as np
from PIL import Image

from keras_maskrcnn.geometry import rle
from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.host.files import write_text

CLASS_NAMES = ("circle", "square", "triangle")
_MIN_VISIBLE = 0.4  # a later shape may hide at most the rest of an earlier one
_ATTEMPTS = 20


def generate_shapes(directory, num_images, image_size=128, seed=0, max_shapes=5):
    """Write a dataset of shapes. The same arguments give the same files.

    Each image has one to `max_shapes` shapes of random size, rotation and colour on a noisy background.
    Later shapes cover earlier ones; masks hold the visible parts.

    Args:
        directory: output folder for `annotations.json` and `images/*.png`; created if needed.
        num_images: int >= 1.
        image_size: pixels, int or (height, width), sides >= 32.
        seed: int.
        max_shapes: int >= 1, largest number of shapes in an image.

    Returns:
        pathlib.Path of `annotations.json`; the images are in `images` beside it.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if num_images < 1 or max_shapes < 1 or min(height, width) < 32:
        raise ValueError(
            "At least one image, one shape per image and 32 pixels per side are needed. Received "
            f"num_images={num_images}, max_shapes={max_shapes}, image_size={image_size}."
        )
    directory = pathlib.Path(directory)
    path = directory / "annotations.json"
    path.unlink(missing_ok=True)  # images without annotations are no dataset: after a kill none of both is mixed
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, num_images + 1):
        picture, labels, masks = draw_shapes((height, width), max_shapes, np.random.default_rng([seed, number]))
        name = f"{number:05d}.png"
        Image.fromarray(picture).save(directory / "images" / name, compress_level=1)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, mask in zip(labels, masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, number, label, mask))
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(path, json.dumps(content))
    return path


def draw_shapes(image_size, max_shapes, rng):
    """One image of shapes.

    Args:
        image_size: (height, width), pixels.
        max_shapes: int, largest number of shapes.
        rng: numpy Generator.

    Returns:
        (uint8 (H, W, 3), labels: list of int, masks: list of bool (H, W), the visible part of each shape).
    """
    background = rng.uniform(0, 255, 3)
    picture = background + rng.normal(0, 12, (*image_size, 3))
    labels, masks, areas = [], [], []
    for _ in range(rng.integers(1, max_shapes + 1)):
        label, mask = _place(image_size, masks, areas, rng)
        if mask is None:
            continue
        masks = [earlier & ~mask for earlier in masks] + [mask]
        labels.append(label)
        areas.append(mask.sum())
        picture[mask] = _color_unlike(background, rng) + rng.normal(0, 12, (mask.sum(), 3))
    return np.clip(picture, 0, 255).astype(np.uint8), labels, masks


def _place(image_size, masks, areas, rng):
    """A shape that leaves enough of the earlier shapes visible, or None after several attempts."""
    for _ in range(_ATTEMPTS):
        label = int(rng.integers(len(CLASS_NAMES)))
        mask = _shape(label, image_size, rng)
        left = [(earlier & ~mask).sum() for earlier in masks]
        if all(seen >= _MIN_VISIBLE * area for seen, area in zip(left, areas, strict=True)):
            return label, mask
    return None, None


def _shape(label, image_size, rng):
    """The pixels of one shape: bool (H, W). The shape is completely inside the image."""
    short = min(image_size)
    radius = rng.uniform(0.1, 0.25) * short
    y0, x0 = (rng.uniform(radius, side - radius) for side in image_size)
    y, x = np.mgrid[: image_size[0], : image_size[1]] + 0.5
    x, y = x - x0, y - y0
    if label == 0:
        return x**2 + y**2 < radius**2
    # A point is inside a regular polygon if its distance along every edge normal is below the inner radius.
    corners = 4 if label == 1 else 3
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * (2 * np.pi / corners)
    inner = radius * np.cos(np.pi / corners)
    return np.all([x * np.cos(a) + y * np.sin(a) < inner for a in angles], axis=0)


def _color_unlike(background, rng):
    """A colour that differs from the background by at least 80 of 255 in some channel."""
    while True:
        color = rng.uniform(0, 255, 3)
        if np.abs(color - background).max() > 80:
            return color


def _annotation(number, image_id, label, mask):
    x, y, x2, y2 = filled_box(mask)
    window = mask[y:y2, x:x2]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": label + 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, x2 - x, y2 - y],
        "segmentation": {
            "size": list(mask.shape),
            "counts": rle.encode_window(window, x, y, *mask.shape).tolist(),
        },
    }
