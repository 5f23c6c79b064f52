"""COCO's categories, for the loaders of this folder; the table itself is `families/coco.py`."""

from keras_maskrcnn.families.coco import COCO_CATEGORIES, COCO_CATEGORY_IDS, COCO_CLASS_NAMES, COCO_SLOTS

__all__ = ["COCO_CATEGORIES", "COCO_CATEGORY_IDS", "COCO_CLASS_NAMES", "COCO_SLOTS"]
