"""Readers, transforms and the loader: from files to batches, in numpy, without a model."""

from keras_maskrcnn.data.appearance import ColorJitter, RandomBlur, RandomJpeg, RandomNoise
from keras_maskrcnn.data.arrays import ArrayDataset
from keras_maskrcnn.data.augmentation import preset
from keras_maskrcnn.data.coco import CocoDataset
from keras_maskrcnn.data.copy_paste import CopyPaste
from keras_maskrcnn.data.dsb import DsbDataset
from keras_maskrcnn.data.images import ImageError, read_image
from keras_maskrcnn.data.loader import DataLoader, EpochSync
from keras_maskrcnn.data.records import (
    Dataset,
    Fault,
    Instance,
    MaskWindow,
    Polygons,
    Record,
    RunLengths,
)
from keras_maskrcnn.data.sample import Sample
from keras_maskrcnn.data.shapes import generate_shapes
from keras_maskrcnn.data.transforms import (
    LargeScaleJitter,
    RandomApply,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    RandomRotation,
    Resize,
    ResizeByScale,
    ScaleJitter,
)

__all__ = [
    "ArrayDataset",
    "CocoDataset",
    "ColorJitter",
    "CopyPaste",
    "DataLoader",
    "Dataset",
    "DsbDataset",
    "EpochSync",
    "Fault",
    "ImageError",
    "Instance",
    "LargeScaleJitter",
    "MaskWindow",
    "Polygons",
    "RandomApply",
    "RandomBlur",
    "RandomCrop",
    "RandomFlip",
    "RandomJpeg",
    "RandomNoise",
    "RandomRotate90",
    "RandomRotation",
    "Record",
    "Resize",
    "ResizeByScale",
    "RunLengths",
    "Sample",
    "ScaleJitter",
    "generate_shapes",
    "preset",
    "read_image",
]
