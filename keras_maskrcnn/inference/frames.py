"""From network pixels to image pixels: boxes, and what the branches find."""

import numpy as np


def boxes_in_image(boxes, scale, image_size):
    """Boxes in image pixels, clipped to the image.

    Args:
        boxes: float (n, [x1, y1, x2, y2]), network pixels.
        scale: float (1, [x, y]), image pixels per network pixel. image_size: (height, width), image pixels.

    Returns:
        float32 (n, 4).
    """
    limits = np.array([image_size[1], image_size[0]] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * np.tile(scale, (1, 2)).astype(np.float32), 0, limits)


def moved_values(rows, config, scale=((1, 1),), offset=((0, 0),)):
    """What the branches found, in image pixels.

    Args:
        rows: dict of keys of the branches' `found` to arrays (n, ...); other keys are left out. config: MaskRCNNConfig.
        scale: (1, [x, y]), image pixels per network pixel. offset: (1, [x, y]), image pixels.

    Returns:
        dict of the branches' keys to arrays (n, ...).
    """
    scale, offset = np.asarray(scale, np.float32), np.asarray(offset, np.float32)
    moved = {}
    for branch in config.branches:
        values = {key: rows[key] for key in branch.found(config) if key in rows}
        moved |= {key: np.asarray(value) for key, value in branch.move(values, scale, offset).items()}
    return moved
