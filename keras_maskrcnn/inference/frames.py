"""From network pixels to image pixels: boxes, and what the branches find."""

import numpy as np


def boxes_in_image(boxes, network_size, image_size, canvas="tight", scaling="sides"):
    """Boxes in image pixels, clipped to the image.

    Args:
        boxes: float (n, [x1, y1, x2, y2]), network pixels.
        network_size, image_size: (height, width) of the image, network and image pixels.
        canvas, scaling: the config's canvas and box_scaling; on the "square" canvas boxes become whole numbers.

    Returns:
        float32 (n, 4).
    """
    return _BOXES[canvas](boxes, network_size, image_size, scaling)


def _scaled_boxes(boxes, network_size, image_size, scaling):
    scale = np.array([[image_size[1] / network_size[1], image_size[0] / network_size[0]]], np.float32)
    if scaling == "mean":
        scale[:] = np.sqrt(image_size[1] / network_size[1] * image_size[0] / network_size[0])
    limits = np.array([image_size[1], image_size[0]] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * np.tile(scale, (1, 2)).astype(np.float32), 0, limits)


def _whole_boxes(boxes, network_size, image_size, _):
    """Matterport's `unmold_detections`: the last pixel of a box moves, not its end; then rounding, half to even."""
    last = np.array([[0, 0, 1, 1]], np.float32)
    network, image = (
        np.maximum(np.array([width, height] * 2, np.float32) - 1, 1) for height, width in (network_size, image_size)
    )
    moved = np.around((boxes.astype(np.float32) - last) / network * image + last)
    return np.clip(moved, 0, np.array([image_size[1], image_size[0]] * 2, np.float32))


_BOXES = {"tight": _scaled_boxes, "square": _whole_boxes}


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
