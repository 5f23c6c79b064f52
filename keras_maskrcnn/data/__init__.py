"""Readers, transforms and the loader: from files to batches, in numpy, independent of the model.

Names are imported when they are first used: reading a dataset needs neither Keras, which `DataLoader` needs, nor the
other readers and transforms.
"""

import importlib

_MODULES = {  # public name -> its module in the package
    "ArrayDataset": "data.readers.arrays",
    "CocoDataset": "data.readers.coco",
    "ColorJitter": "data.transforms.appearance",
    "CopyPaste": "data.transforms.copy_paste",
    "CsvDataset": "data.readers.csv_polygons",
    "DataLoader": "data.loading.loader",
    "Dataset": "data.records",
    "DsbDataset": "data.readers.dsb",
    "EpochSync": "data.loading.loader",
    "Fault": "data.records",
    "from_matterport": "data.readers.matterport",
    "generate_figures": "data.figures",
    "generate_shapes": "data.shapes",
    "ImageError": "data.images.reading",
    "Instance": "data.records",
    "InstanceFilesDataset": "data.readers.instance_files",
    "LabelImageDataset": "data.readers.label_images",
    "LabelmeDataset": "data.readers.labelme",
    "LargeScaleJitter": "data.transforms.moves",
    "MaskWindow": "data.records",
    "open_dataset": "data.readers.opener",
    "Polygons": "data.records",
    "preset": "data.transforms.presets",
    "RandomApply": "data.transforms.moves",
    "RandomBlur": "data.transforms.appearance",
    "RandomCrop": "data.transforms.moves",
    "RandomFlip": "data.transforms.moves",
    "RandomJpeg": "data.transforms.appearance",
    "RandomNoise": "data.transforms.appearance",
    "RandomRotate90": "data.transforms.moves",
    "RandomRotation": "data.transforms.moves",
    "read_image": "data.images.reading",
    "Record": "data.records",
    "Resize": "data.transforms.moves",
    "ResizeByScale": "data.transforms.moves",
    "RunLengths": "data.records",
    "Sample": "data.samples.sample",
    "ScaleJitter": "data.transforms.moves",
    "Via3Dataset": "data.readers.via3",
    "ViaDataset": "data.readers.via",
    "VocDataset": "data.readers.voc",
    "YoloDataset": "data.readers.yolo",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"keras_maskrcnn.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
