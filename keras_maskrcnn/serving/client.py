"""For clients of `serve_rle`: convert run-length codes to masks. Needs numpy and pycocotools, not TensorFlow.

In: the row of one image in a response (gRPC or REST). Out: masks in image pixels. Called by clients.
"""

import numpy as np
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.rle import parse_counts


def coco_rle(mask_rle, image_size):
    """COCO run-length dicts, for annotation files and pycocotools.

    Args:
        mask_rle: sequence of n str or bytes, the image's row of `mask_rle`, with or without its empty entries at the
            end.
        image_size: [height, width], the image's row of `image_sizes`.

    Returns:
        list of dicts with `size` [height, width] and `counts` str, one for each entry that is not empty.

    Raises:
        ValueError: a code does not belong to an image of this size.
    """
    height, width = (int(side) for side in image_size)
    texts = [text.decode("ascii") if isinstance(text, bytes) else str(text) for text in mask_rle]
    for text in filter(None, texts):
        pixels = int(parse_counts(text).sum())
        if pixels != height * width:  # otherwise pycocotools reads and writes out of bounds
            raise ValueError(
                f"A run-length code must cover its image. Received {pixels} pixels for an image of {height} x {width} "
                "(height x width). Take image_sizes from the same row of the same response."
            )
    return [{"size": [height, width], "counts": text} for text in texts if text]


def masks_from_rle(mask_rle, image_size):
    """Decode run-length codes to masks.

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
