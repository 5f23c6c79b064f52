"""A dataset from arrays in memory: for tests, notebooks and formats without a reader."""

import numpy as np

from keras_maskrcnn.data.images.reading import image_size
from keras_maskrcnn.data.records import Dataset, Instance, MaskWindow, Record
from keras_maskrcnn.geometry.extents import filled_box


class ArrayDataset(Dataset):
    """Images with their masks and labels, all in memory.

    Args:
        images: list of arrays (H, W, C), or anything `read_image` takes.
        masks: for each image a list of bool or 0/1 arrays (H, W), one per object; may be empty. Only
            the part inside each object's box is kept.
        labels: for each image the labels 0..K-1 of its objects; None means all 0.
        crowds: for each image a list of bool; None means none.
        class_names: names by label; None means one class called "object".
        attributes: for each image a list of dicts, one an object, for branches of the model; None means none.
        keypoints: dict of names and skeleton, as of Dataset; their places are among the attributes. None means none.

    Raises:
        ValueError: counts differ, a mask is empty or differs in size from its image, or a label is not in
            0..K-1.
    """

    def __init__(self, images, masks, labels=None, crowds=None, class_names=None, attributes=None, keypoints=None):
        names = ("object",) if class_names is None else tuple(class_names)
        labels = [[0] * len(m) for m in masks] if labels is None else labels
        crowds = [[False] * len(m) for m in masks] if crowds is None else crowds
        attributes = [[None] * len(m) for m in masks] if attributes is None else attributes
        counts = {len(images), len(masks), len(labels), len(crowds), len(attributes)}
        if len(counts) > 1:
            raise ValueError(
                "images, masks, labels, crowds and attributes must have one entry per image. "
                f"Received {len(images)}, {len(masks)}, {len(labels)}, {len(crowds)} and {len(attributes)} entries. "
                "Give [] for an image without objects."
            )
        records = [
            _record(number, *entry, len(names))
            for number, entry in enumerate(zip(images, masks, labels, crowds, attributes, strict=True), start=1)
        ]
        super().__init__(records, names, range(1, len(names) + 1), "the given arrays", keypoints=keypoints)


def _record(number, image, masks, labels, crowds, attributes, num_classes):
    height, width = image_size(image)
    if not len(masks) == len(labels) == len(crowds) == len(attributes):
        raise ValueError(
            f"Each mask needs a label. Received {len(masks)} masks, {len(labels)} labels, {len(crowds)} crowd flags "
            f"and {len(attributes)} dicts of attributes for image {number}. Give one of each per object."
        )
    instances = []
    for position, (mask, label, crowd, own) in enumerate(zip(masks, labels, crowds, attributes, strict=True)):
        where = f"object {position} of image {number}"
        whole = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
        if not whole or not 0 <= label < num_classes:
            raise ValueError(
                f"Labels must lie in 0..{num_classes - 1}. Received {label!r} for {where}. "
                "Background is not counted; pass class_names to name more classes."
            )
        box, window = crop_mask(np.asarray(mask), (height, width), where)
        instances.append(Instance(int(label), box, window, bool(crowd), position, attributes=own))
    return Record(number, image, height, width, tuple(instances))


def crop_mask(mask, image_size, where):
    """The box of a full-size mask and the pixels in it.

    Args:
        mask: bool or number (H, W); non-zero is object.
        image_size: the required (H, W).
        where: str, name of the mask in error messages.

    Returns:
        (box float32 [x1, y1, x2, y2], MaskWindow), image pixels.

    Raises:
        ValueError: the size differs, or the mask is empty.
    """
    if mask.shape != tuple(image_size):
        raise ValueError(
            f"{where}: a mask must have the size of its image, {tuple(image_size)} (height, width). "
            f"Received {mask.shape}. Resize it with nearest-neighbour interpolation, or choose the right image."
        )
    if mask.dtype.kind not in "biuf" or mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError(
            f"{where}: a mask must hold finite numbers. Received {mask.dtype} with others. Set its background to 0."
        )
    box = filled_box(mask)
    if box is None:
        raise ValueError(f"{where}: a mask must have at least one pixel. Received an empty mask. Remove it.")
    x1, y1, x2, y2 = box
    pixels = np.ascontiguousarray(mask[y1:y2, x1:x2] != 0).view(np.uint8)
    return np.array(box, np.float32), MaskWindow(pixels, x1, y1)
