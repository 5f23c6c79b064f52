"""Names and ids of the classes of a published model: COCO's where it has 80."""

from keras_maskrcnn.families.coco import COCO_CATEGORY_IDS, COCO_CLASS_NAMES


def labels_of(num_classes, overrides=()):
    """The fields of MaskRCNNConfig about classes.

    Args:
        num_classes: K, background not counted. overrides: names of the fields that the caller sets.

    Returns:
        dict of num_classes, and for 80 classes COCO's names and ids, unless the caller sets one of them.
    """
    own = {"num_classes": num_classes}
    if num_classes != len(COCO_CLASS_NAMES) or {"class_names", "category_ids"} & set(overrides):
        return own
    return {**own, "class_names": COCO_CLASS_NAMES, "category_ids": COCO_CATEGORY_IDS}
