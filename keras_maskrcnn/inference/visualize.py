"""Pictures of instances: translucent masks with an outline, boxes, names and scores, drawn with Pillow.

Comes in: an image and what was found in it (`FoundInstances`) or its ground truth, in image pixels. Goes out:
uint8 RGB. Called by users, by the run folder's overlays and by the command line. Nothing is shown on a screen.

Images of other channels and dtypes are drawn on what `as_picture` shows of them: the first three channels
as red, green and blue; dtypes other than uint8 stretched, channel by channel.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle

from keras_maskrcnn.data.images.showing import as_picture
from keras_maskrcnn.geometry.pasting import paste_mask_windows

GOLDEN_RATIO = 0.618034  # successive hues stay far apart, however many there are
OPACITY = 0.45
SMALLEST_TEXT = 10  # pixels; smaller is not readable
SEPARATOR = 8  # pixels between the pictures of a panel


def draw_instances(image, found, min_score=0.0, captions=True, boxes=True, enlarge=1):
    """Draw what was found: masks, boxes, what the branches draw, class names with scores.

    Args:
        image: (H, W, C), the image that `found` belongs to.
        found: FoundInstances (boxes and mask windows in image pixels).
        min_score: float, instances below it are left out.
        captions: whether names and scores are written; leave them out for hundreds of small objects.
        boxes: whether boxes are drawn.
        enlarge: int, the picture's size over the image's; outlines and text stay thin. 2 to 4 for small images.

    Returns:
        uint8 (H * enlarge, W * enlarge, 3).
    """
    kept = [i for i in range(len(found)) if found.scores[i] >= min_score]
    windows = _windows_of(found)

    def draw_branches(pen, colors):
        for i, color in zip(kept, colors, strict=True):
            for branch in found.config.branches:
                branch.draw(pen, found, i, enlarge, color)

    return _draw(
        image,
        [windows[i] for i in kept],
        [found.boxes[i] for i in kept] if boxes else None,
        _captions(found, kept) if captions else None,
        enlarge,
        finish=draw_branches,
    )


def draw_tracks(image, found, kept, numbers):
    """Draw the objects of a video's frame, each track in a colour of its own: their masks, or boxes if they have none.

    Args:
        image: (H, W, C). found: FoundInstances.
        kept: list of n int, positions of the instances to draw. numbers: list of n int, of their tracks; 0 is none.

    Returns:
        uint8 (H, W, 3).
    """
    windows = _windows_of(found)
    texts = [f"{found.class_names[int(found.labels[k])]} {found.scores[k]:.2f}" for k in kept]
    return _draw(
        image,
        [windows[k] for k in kept],
        None if hasattr(found, "mask_windows") else [found.boxes[k] for k in kept],
        [f"#{number} {text}" if number else text for number, text in zip(numbers, texts, strict=True)],
        enlarge=1,
        colors=[instance_color(number or k) for number, k in zip(numbers, kept, strict=True)],
    )


def draw_ground_truth(image, annotations, class_names=None, captions=True, boxes=True, enlarge=1):
    """Draw the annotated objects in the same manner, without scores. Crowd regions are drawn gray.

    Args:
        image: (H, W, C).
        annotations: the image's annotations from a dataset's `to_coco()`: bbox [x, y, width, height] and
            segmentation (RLE or polygons) in image pixels, category_id, iscrowd.
        class_names: dict from category id to name; None leaves captions out.
        captions, boxes, enlarge: as in `draw_instances`.

    Returns:
        uint8 (H * enlarge, W * enlarge, 3).
    """
    corners = [np.array([x, y, x + w, y + h]) for x, y, w, h in (a["bbox"] for a in annotations)]
    names = None
    if captions and class_names is not None:
        names = [class_names[a["category_id"]] for a in annotations]
    return _draw(
        image,
        [_annotation_window(a, box, image.shape[:2]) for a, box in zip(annotations, corners, strict=True)],
        corners if boxes else None,
        names,
        enlarge,
        gray=[bool(a.get("iscrowd", 0)) for a in annotations],
    )


def draw_batch_row(batch, row, class_names, scale=1.0, captions=True):
    """Draw one image of a training batch as the model is given it; regions to ignore are gray.

    Args:
        batch: dict as in `batch.py`, of numpy arrays.
        row: int, position in the batch.
        class_names: names by label.
        scale: the picture's size over network pixels.
        captions: whether class names are written.

    Returns:
        uint8 (h, w, 3), the part of the canvas that is image, times `scale`.
    """
    height, width = (int(side) for side in batch["image_sizes"][row])
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = Image.fromarray(as_picture(batch["images"][row, :height, :width]))
    kept = np.flatnonzero(batch["gt_valid"][row])
    boxes = batch["gt_boxes"][row][kept] * scale
    if "gt_masks" in batch:
        windows = paste_mask_windows(batch["gt_masks"][row][kept], boxes, size)
    else:
        windows = [_no_window(box) for box in boxes]
    return _draw(
        np.asarray(image.resize(size[::-1])),
        windows,
        boxes,
        [class_names[label] for label in batch["gt_labels"][row][kept]] if captions else None,
        enlarge=1,
        gray=batch["gt_crowd"][row][kept].tolist(),
    )


def draw_boxes(image, boxes, captions, colors, enlarge=1):
    """Draw boxes alone.

    Args:
        image: (H, W, C).
        boxes: list of n (x, y, width, height) in image pixels. captions: list of n str, or None for none.
        colors: list of n (red, green, blue) in 0..255.
        enlarge: as in `draw_instances`.

    Returns:
        uint8 (H * enlarge, W * enlarge, 3).
    """
    corners = [np.array([x, y, x + width, y + height]) for x, y, width, height in boxes]
    windows = [_no_window(box) for box in corners]
    return _draw(image, windows, corners, captions, enlarge, colors=colors)


def beside(pictures, titles=None):
    """Put pictures side by side on white, each with its title above.

    Args:
        pictures: list of uint8 (h, w, 3).
        titles: list of as many str, or None.

    Returns:
        uint8 (h, w, 3), as high as the highest picture and its title.
    """
    font = ImageFont.load_default(16)
    head = 24 if titles else 0
    height = head + max(p.shape[0] for p in pictures)
    width = sum(p.shape[1] for p in pictures) + SEPARATOR * (len(pictures) - 1)
    panel = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(panel)
    x = 0
    for i, picture in enumerate(pictures):
        panel.paste(Image.fromarray(picture), (x, head))
        if titles:
            pen.text((x + 2, 3), titles[i], fill="black", font=font)
        x += picture.shape[1] + SEPARATOR
    return np.asarray(panel)


def above(pictures):
    """Put pictures one above the other on white: uint8 (h, w, 3), as wide as the widest."""
    height = sum(p.shape[0] for p in pictures) + SEPARATOR * (len(pictures) - 1)
    sheet = np.full((height, max(p.shape[1] for p in pictures), 3), 255, np.uint8)
    y = 0
    for picture in pictures:
        sheet[y : y + picture.shape[0], : picture.shape[1]] = picture
        y += picture.shape[0] + SEPARATOR
    return sheet


def instance_color(index):
    """A colour for the index-th instance: (red, green, blue) in 0..255; neighbours differ strongly."""
    hue = (0.02 + index * GOLDEN_RATIO) % 1
    lightness = (0.52, 0.62, 0.44)[index % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.9))


def _windows_of(found):
    """The masks of instances in their windows; of a model without masks, empty windows at the boxes' corners."""
    return found.mask_windows if hasattr(found, "mask_windows") else [_no_window(box) for box in found.boxes]


def _no_window(box):
    """The window of an object without a mask: no pixels, at the box's corner, where its caption goes."""
    return np.zeros((0, 0), bool), max(0, int(box[0])), max(0, int(box[1]))


def _draw(image, windows, boxes, captions, enlarge, gray=None, finish=None, colors=None):
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype.kind not in "buif" or not image.size:
        raise ValueError(
            "The image to draw on must be (H, W, C), of numbers: uint8 RGB, or what the model took. "
            f"Received {image.dtype} {image.shape}. Read it with keras_maskrcnn.data.read_image."
        )
    image = as_picture(image)
    canvas = np.repeat(np.repeat(image, enlarge, axis=0), enlarge, axis=1)
    colors = colors or [instance_color(i) for i in range(len(windows))]
    if gray is not None:
        colors = [(150, 150, 150) if crowd else color for crowd, color in zip(gray, colors, strict=True)]
    # The last is drawn on top: the surest detection comes first in `found`, so go backwards.
    for (window, x0, y0), color in reversed(list(zip(windows, colors, strict=True))):
        _paint(canvas, window, x0, y0, color, enlarge)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    thickness = max(1, min(picture.size) // 250)
    for i in reversed(range(len(windows))):
        if boxes is not None:
            # Lines far outside the picture would take Pillow minutes.
            beyond = [side + 2 * thickness for side in (*picture.size, *picture.size)]
            x1, y1, x2, y2 = np.clip(np.multiply(boxes[i], float(enlarge)), -2 * thickness, beyond).tolist()
            pen.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], outline=colors[i], width=thickness)
    if finish is not None:
        finish(pen, colors)
    if captions is not None:
        _write_captions(picture, pen, windows, captions, colors, enlarge)
    return np.asarray(picture)


def _paint(canvas, window, x0, y0, color, enlarge):
    """Blend one mask into the canvas, in place, and trace its outline."""
    mask = np.repeat(np.repeat(window, enlarge, axis=0), enlarge, axis=1)
    if not mask.size:
        return
    y, x = y0 * enlarge, x0 * enlarge
    area = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    color = np.array(color, np.float32)
    area[mask] = (area[mask] * (1 - OPACITY) + color * OPACITY).astype(np.uint8)
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    area[mask & ~inner] = color.astype(np.uint8)


def _captions(found, kept):
    return [f"{found.class_names[found.labels[i]]} {found.scores[i]:.2f}" for i in kept]


def _write_captions(picture, pen, windows, captions, colors, enlarge):
    """Write each caption on a plate of its colour, at the top left of its mask's window, inside the picture."""
    font = ImageFont.load_default(max(SMALLEST_TEXT, min(picture.size) // 45))
    for (_, x0, y0), caption, color in reversed(list(zip(windows, captions, colors, strict=True))):
        if caption is None:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), caption, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = max(0, min(x0 * enlarge, picture.width - width))
        y = max(0, min(y0 * enlarge - height, picture.height - height))
        pen.rectangle([x, y, x + width, y + height], fill=color)
        dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 140
        pen.text((x + 2 - left, y + 2 - top), caption, fill="black" if dark else "white", font=font)


def _annotation_window(annotation, box, image_size):
    """The annotation's mask, cut to its box: (bool (h, w), x0, y0)."""
    mask = segmentation_mask(annotation["segmentation"], image_size)
    x0, y0 = (max(0, int(np.floor(v))) for v in box[:2])
    x1, y1 = (int(np.ceil(v)) + 1 for v in box[2:])
    return mask[y0:y1, x0:x1], x0, y0


def segmentation_mask(segmentation, image_size):
    """Bool (H, W) from COCO polygons or run lengths."""
    height, width = (int(side) for side in image_size)
    code = segmentation
    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    return rle.decode(code).astype(bool)
