"""Readers, transforms and the loader: from files to batches, in numpy, without a model.

Names are imported when they are first used: reading a dataset needs neither Keras, which `DataLoader` needs, nor the
other readers and transforms.
"""

import importlib

_NAMES = {  # module -> the public names that it defines
    "images.reading": ("ImageError", "read_image"),
    "loading.loader": ("DataLoader", "EpochSync"),
    "readers.arrays": ("ArrayDataset",),
    "readers.coco": ("CocoDataset",),
    "readers.csv_polygons": ("CsvDataset",),
    "readers.dsb": ("DsbDataset",),
    "readers.instance_files": ("InstanceFilesDataset",),
    "readers.label_images": ("LabelImageDataset",),
    "readers.labelme": ("LabelmeDataset",),
    "readers.opener": ("open_dataset",),
    "readers.via": ("ViaDataset",),
    "readers.via3": ("Via3Dataset",),
    "readers.voc": ("VocDataset",),
    "readers.yolo": ("YoloDataset",),
    "records": ("Dataset", "Fault", "Instance", "MaskWindow", "Polygons", "Record", "RunLengths"),
    "samples.sample": ("Sample",),
    "shapes": ("generate_shapes",),
    "transforms.appearance": ("ColorJitter", "RandomBlur", "RandomJpeg", "RandomNoise"),
    "transforms.copy_paste": ("CopyPaste",),
    "transforms.moves": (
        "LargeScaleJitter",
        "RandomApply",
        "RandomCrop",
        "RandomFlip",
        "RandomRotate90",
        "RandomRotation",
        "Resize",
        "ResizeByScale",
        "ScaleJitter",
    ),
    "transforms.presets": ("preset",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name):
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
