"""What a client of `serve_rle` needs: run-length codes to masks. numpy and pycocotools only, no TensorFlow.

Comes in: one image's row of an answer, as gRPC or REST brought it. Goes out: masks in the image's pixels. Called by
clients.
"""

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.rle import parse_counts


def coco_rle(mask_rle, image_size):
    """COCO's run-length dicts, as annotation files and pycocotools take them.

    Args:
        mask_rle: sequence of n str or bytes, an image's row of `mask_rle`, without or with its empty rows at the end.
        image_size: [height, width], that image's row of `image_sizes`.

    Returns:
        list of dicts with `size` [height, width] and `counts` str, one for each row that is not empty.

    Raises:
        ValueError: a code does not belong to an image of this size.
    """
    height, width = (int(side) for side in image_size)
    texts = [text.decode("ascii") if isinstance(text, bytes) else str(text) for text in mask_rle]
    for text in filter(None, texts):
        pixels = int(parse_counts(text).sum())
        if pixels != height * width:  # pycocotools would read and write beyond its arrays
            raise ValueError(
                f"A run-length code must cover its image. Received one of {pixels} pixels for {height} x {width} "
                "(height x width). Take image_sizes from the same row of the same answer."
            )
    return [{"size": [height, width], "counts": text} for text in texts if text]


def masks_from_rle(mask_rle, image_size):
    """The masks behind run-length codes.

    Args, errors: as `coco_rle`.

    Returns:
        bool (n, height, width), image pixels.
    """
    codes = coco_rle(mask_rle, image_size)
    height, width = (int(side) for side in image_size)
    masks = np.zeros((len(codes), height, width), bool)
    for plane, code in zip(masks, codes, strict=True):
        plane[:] = coco_mask.decode(code)
    return masks
