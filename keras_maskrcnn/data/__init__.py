"""Readers, transforms and the loader: from files to batches, in numpy, independent of the model."""

from keras_maskrcnn.data.images.reading import ImageError, read_image
from keras_maskrcnn.data.loading.loader import DataLoader, EpochSync
from keras_maskrcnn.data.readers.arrays import ArrayDataset
from keras_maskrcnn.data.readers.coco import CocoDataset
from keras_maskrcnn.data.readers.csv_polygons import CsvDataset
from keras_maskrcnn.data.readers.dsb import DsbDataset
from keras_maskrcnn.data.readers.instance_files import InstanceFilesDataset
from keras_maskrcnn.data.readers.label_images import LabelImageDataset
from keras_maskrcnn.data.readers.labelme import LabelmeDataset
from keras_maskrcnn.data.readers.opener import open_dataset
from keras_maskrcnn.data.readers.via import ViaDataset
from keras_maskrcnn.data.readers.via3 import Via3Dataset
from keras_maskrcnn.data.readers.voc import VocDataset
from keras_maskrcnn.data.readers.yolo import YoloDataset
from keras_maskrcnn.data.records import (
    Dataset,
    Fault,
    Instance,
    MaskWindow,
    Polygons,
    Record,
    RunLengths,
)
from keras_maskrcnn.data.samples.sample import Sample
from keras_maskrcnn.data.shapes import generate_shapes
from keras_maskrcnn.data.transforms.appearance import ColorJitter, RandomBlur, RandomJpeg, RandomNoise
from keras_maskrcnn.data.transforms.copy_paste import CopyPaste
from keras_maskrcnn.data.transforms.moves import (
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
from keras_maskrcnn.data.transforms.presets import preset

__all__ = [
    "ArrayDataset",
    "CocoDataset",
    "ColorJitter",
    "CsvDataset",
    "CopyPaste",
    "DataLoader",
    "Dataset",
    "DsbDataset",
    "EpochSync",
    "Fault",
    "ImageError",
    "Instance",
    "InstanceFilesDataset",
    "LabelImageDataset",
    "LabelmeDataset",
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
    "Via3Dataset",
    "ViaDataset",
    "VocDataset",
    "YoloDataset",
    "generate_shapes",
    "open_dataset",
    "preset",
    "read_image",
]
