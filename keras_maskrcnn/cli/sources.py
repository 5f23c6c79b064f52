"""The dataset or the model that arguments mean. Keras is imported only where a model is loaded."""

import warnings

from keras_maskrcnn.cli.options import Option

FORMATS = (  # those of data/readers/opener.py, which takes long to import
    "coco", "via", "via3", "labelme", "voc", "yolo", "csv", "dsb", "label-images", "instance-files"
)  # fmt: skip

FORMAT = Option("--format", "format of the annotations (default: recognised from the files)", choices=FORMATS)
CLASS_ATTRIBUTE = Option("--class-attribute", "VIA's region attribute that holds the class", metavar="NAME")
SKIP_FAULTY = Option("--skip-faulty", "skip faulty entries with a warning instead of stopping", False, bool)
READING = (FORMAT, CLASS_ATTRIBUTE, SKIP_FAULTY)
DATASET = (
    Option("--images", "folder of the images, or of a whole dataset; for YOLO the data.yaml"),
    Option("--annotations", "annotation file or folder (COCO, VIA, labelme, ...), unless --images holds it"),
    *READING,
)


def open_source(args, source, image_dir=None, part=None, **classes):
    """Open the dataset at a path.

    Args:
        args: parsed arguments with the options of `READING`.
        source: annotation file or folder. image_dir: folder of the images, or None. part: as in `open_dataset`.
        **classes: class_names and category_ids of another dataset, or None.

    Returns:
        A Dataset.
    """
    from keras_maskrcnn.data import open_dataset as open_any

    return open_any(
        source,
        image_dir,
        format=args.format,
        part=part,
        attribute=args.class_attribute,
        on_error="skip" if args.skip_faulty else "raise",
        **classes,
    )


def open_dataset(args, images, annotations, part, config=None):
    """Open the dataset of `--images` and `--annotations`, with the classes of a model's config if there is one."""
    classes = {}
    if config is not None:
        named = config.class_names != tuple(f"class {k}" for k in range(config.num_classes))
        classes = {"class_names": config.class_names if named else None, "category_ids": config.category_ids}
    if annotations is None:
        return open_source(args, images, None, part, **classes)
    return open_source(args, annotations, images, part, **classes)


def inspect_source(args, source, images, part, **classes):
    """Read a whole dataset with a progress bar. Returns an Inspection, which lists faults instead of raising them."""
    from keras_maskrcnn.checkup import inspect_dataset
    from keras_maskrcnn.host.progress import progress_bar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report names the entries that the reader skips
        dataset = open_source(args, source, images, part, **classes)
    progress = progress_bar(len(dataset), unit_name="image")
    return inspect_dataset(dataset, progress=lambda done: progress.update(done))


def load_model(path):
    """Load the model in a .keras file or run folder, not compiled."""
    import keras

    from keras_maskrcnn import model  # noqa: F401 (registers the classes that the file names)
    from keras_maskrcnn.runs.experiment import find_model

    return keras.saving.load_model(find_model(path), compile=False)
