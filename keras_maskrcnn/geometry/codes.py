"""Masks of detections as COCO's compressed run lengths of the image.

Called by the mask branch. The native loops go from the squares of the mask head to the text in one pass. Where rounding
decides about a pixel, and where there is no native library, the windows of `pasting.py` are encoded one by one.
"""

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry import native, rle
from keras_maskrcnn.geometry.pasting import checked_pasting, paste_mask_windows

# Of the rules, those that the native loops have: whether it is torchvision's. Pixels near the threshold are left to the
# windows, so that the loops need not tell `>` from `>=`.
_NATIVE = {"subpixel": False, "torchvision": True, "detectron2": False}


def paste_codes(masks, boxes, image_size, threshold=0.5, pasting="subpixel"):
    """Compressed run lengths of pasted masks: those of `window_code` for each of `paste_mask_windows`.

    Args, raises: as `paste_mask_windows`, with masks (n, m, m) and boxes (n, [x1, y1, x2, y2]).

    Returns:
        list of n str, as pycocotools' `encode` writes them.
    """
    masks, boxes = checked_pasting(masks, boxes, pasting)
    height, width = (int(side) for side in image_size)
    found = None
    if pasting in _NATIVE:
        found = native.paste_codes(masks, boxes, (height, width), threshold, _NATIVE[pasting])
    codes, open_ones = ([None] * len(masks), np.ones(len(masks), bool)) if found is None else found
    rest = np.flatnonzero(open_ones)
    windows = paste_mask_windows(masks[rest], boxes[rest], (height, width), threshold, pasting)
    for index, window in zip(rest.tolist(), windows, strict=True):
        codes[index] = window_code(*window, (height, width))
    return codes


def window_code(window, x, y, image_size):
    """Compressed run lengths of an image-sized mask that is zero outside a window.

    Args:
        window: bool (h, w). x, y: int, its first column and row. image_size: (height, width), image pixels.

    Returns:
        str.
    """
    runs = rle.encode_window(window, x, y, *image_size)
    code = coco_mask.frPyObjects({"size": list(image_size), "counts": runs.tolist()}, *image_size)
    return code["counts"].decode("ascii")
