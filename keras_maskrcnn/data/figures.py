"""Synthetic images of stick figures with six named joints, to try keypoints without data.

Writes PNG images and COCO annotations with masks and keypoints, so a run on them uses the same code as a run on real
data.
"""

import json
import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry import rle
from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.host.files import write_text

JOINTS = ("head", "hip", "left_hand", "right_hand", "left_foot", "right_foot")
SKELETON = (("head", "hip"), ("head", "left_hand"), ("head", "right_hand"), ("hip", "left_foot"), ("hip", "right_foot"))
_ATTEMPTS = 20
_MOST = 0.4  # IoU of the boxes of two figures
_FINE = 4  # figures are drawn so many times larger, then sampled


def generate_figures(directory, num_images, image_size=128, seed=0, max_figures=2):
    """Write a dataset of stick figures. The same arguments give the same files.

    Each figure faces the viewer, so that its left hand and foot are at the right of its body's axis. It is leaned by up
    to 35 degrees; sizes, limbs and colours vary; colours can be told apart. Joints that a later figure
    hides have visibility 1. Figures lie inside the image, and the boxes of two have an IoU of at most 0.4.

    Args:
        directory: output folder for `annotations.json` and `images/*.png`; created if needed.
        num_images: int >= 1.
        image_size: pixels of a side, >= 64.
        seed: int.
        max_figures: int >= 1, largest number of figures in an image.

    Returns:
        pathlib.Path of `annotations.json`; the images are in `images` beside it.
    """
    if num_images < 1 or max_figures < 1 or image_size < 64:
        raise ValueError(
            "At least one image, one figure per image and 64 pixels per side are needed. Received "
            f"num_images={num_images}, max_figures={max_figures}, image_size={image_size}. Raise them."
        )
    directory = pathlib.Path(directory)
    path = directory / "annotations.json"
    path.unlink(missing_ok=True)
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, num_images + 1):
        picture, masks, joints = draw_figures(image_size, max_figures, np.random.default_rng([seed, number]))
        name = f"{number:05d}.png"
        Image.fromarray(picture).save(directory / "images" / name, compress_level=1)
        images.append({"id": number, "file_name": name, "height": image_size, "width": image_size})
        for mask, points in zip(masks, joints, strict=True):
            annotations.append(_annotation(len(annotations) + 1, number, mask, points))
    numbers = [[1 + JOINTS.index(end) for end in edge] for edge in SKELETON]
    category = {"id": 1, "name": "figure", "keypoints": list(JOINTS), "skeleton": numbers}
    write_text(path, json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


def draw_figures(side, max_figures, rng):
    """One image of figures.

    Args:
        side: pixels. max_figures: int, largest number of figures. rng: numpy Generator.

    Returns:
        (uint8 (side, side, 3), masks: list of bool (side, side), the visible part of each figure, joints: list of
        float64 (6, [x, y, visibility]), image pixels).
    """
    background = rng.uniform(0, 255, 3)
    picture = background + rng.normal(0, 12, (side, side, 3))
    masks, joints, colors = [], [], [background]
    for _ in range(rng.integers(1, max_figures + 1)):
        mask, points = _place(side, masks, rng)
        if mask is None:
            continue
        masks = [earlier & ~mask for earlier in masks] + [mask]
        joints.append(points)
        colors.append(_color_unlike(colors, rng))
        picture[mask] = colors[-1] + rng.normal(0, 12, (mask.sum(), 3))
    joints = [np.column_stack([points, _visibility(points, mask)]) for points, mask in zip(joints, masks, strict=True)]
    return np.clip(picture, 0, 255).astype(np.uint8), masks, joints


def _place(side, masks, rng):
    """(mask, joints (6, [x, y])) of a figure that has room beside the earlier ones, or (None, None).

    It hides at most a quarter of each, and their boxes have an IoU of at most 0.4: of more, NMS leaves one figure.
    """
    for _ in range(_ATTEMPTS):
        points, width = _figure(side, rng)
        mask = _drawn(points, width, side)
        if all((earlier & mask).sum() <= earlier.sum() / 4 and _box_iou(earlier, mask) <= _MOST for earlier in masks):
            return mask, points
    return None, None


def _box_iou(one, other):
    """IoU of the boxes of two masks, bool (side, side)."""
    corners = np.array([filled_box(one), filled_box(other)], np.float64)
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    return coco_mask.iou(boxes[:1], boxes[1:], [0])[0, 0]


def _figure(side, rng):
    """The joints of one figure, float64 (6, [x, y]), image pixels, and the width of its limbs."""
    height = rng.uniform(0.4, 0.65) * side
    trunk, width = 0.45 * height, max(3.0, 0.1 * height)
    head, hip = np.zeros(2), np.array([0, trunk])
    ends = [head, hip]
    for root, length, low, high in ((head, 0.42, 0.15, 0.75), (hip, 0.5, 0.06, 0.3)):
        for direction in (1, -1):  # the left limb is at the viewer's right
            angle = math.pi * rng.uniform(low, high)  # from straight down
            reach = length * height * rng.uniform(0.8, 1)
            ends.append(root + reach * np.array([direction * math.sin(angle), math.cos(angle)]))
    lean = math.radians(rng.uniform(-35, 35))
    turn = np.array([[math.cos(lean), -math.sin(lean)], [math.sin(lean), math.cos(lean)]])
    points = np.array(ends) @ turn.T
    margin = 0.13 * height + 2  # of the head
    low, high = margin - points.min(axis=0), side - margin - points.max(axis=0)
    return points + rng.uniform(np.minimum(low, high), np.maximum(low, high)), width


def _drawn(points, width, side):
    """The pixels of a figure, bool (side, side): limbs, and a disc for the head."""
    picture = Image.new("L", (side * _FINE, side * _FINE))
    pen, places = ImageDraw.Draw(picture), dict(zip(JOINTS, (points * _FINE).tolist()))
    radius = width * _FINE / 2
    for a, b in SKELETON:
        pen.line([*places[a], *places[b]], fill=255, width=round(2 * radius))
    for name, (x, y) in places.items():
        reach = 2.5 * radius if name == "head" else radius
        pen.ellipse([x - reach, y - reach, x + reach, y + reach], fill=255)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX)) >= 128


def _visibility(points, mask):
    """2 for joints whose pixel is the figure's own, else 1: a later figure hides it."""
    columns, rows = np.clip(points.astype(int), 0, len(mask) - 1).T
    return np.where(mask[rows, columns], 2, 1)


def _color_unlike(others, rng):
    """A colour that differs from each of the others, (n, 3), by at least 80 of 255 in some channel.

    With many others, there may be none: after some attempts the one that differs most.
    """
    colors = rng.uniform(0, 255, (_ATTEMPTS, 3))
    least = np.abs(colors[:, None] - np.array(others)).max(axis=-1).min(axis=1)
    return colors[np.argmax(np.minimum(least, 80))]


def _annotation(number, image_id, mask, joints):
    x, y, x2, y2 = filled_box(mask)
    code = rle.encode_window(mask[y:y2, x:x2], x, y, *mask.shape).tolist()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, x2 - x, y2 - y],
        "segmentation": {"size": list(mask.shape), "counts": code},
        "num_keypoints": int((joints[:, 2] > 0).sum()),
        "keypoints": joints.round(2).ravel().tolist(),
    }
