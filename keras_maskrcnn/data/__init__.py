"""Readers, transforms and the loader: from files to batches, in numpy, without a model."""

from keras_maskrcnn.data.arrays import ArrayDataset
from keras_maskrcnn.data.coco import CocoDataset
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
    ColorJitter,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    Resize,
    ResizeByScale,
    ScaleJitter,
)

__all__ = [
    "ArrayDataset",
    "CocoDataset",
    "ColorJitter",
    "DataLoader",
    "Dataset",
    "DsbDataset",
    "EpochSync",
    "Fault",
    "ImageError",
    "Instance",
    "MaskWindow",
    "Polygons",
    "RandomCrop",
    "RandomFlip",
    "RandomRotate90",
    "Record",
    "Resize",
    "ResizeByScale",
    "RunLengths",
    "Sample",
    "ScaleJitter",
    "generate_shapes",
    "read_image",
]
