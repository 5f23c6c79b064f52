"""The dataset or the model that arguments mean. Keras is imported only where a model is loaded."""

import warnings

from keras_maskrcnn.cli.options import Option
from keras_maskrcnn.cli.words import words_of_dataset
from keras_maskrcnn.host.messages import in_words

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
        **classes: class_names and category_ids of another dataset, or None. Classes are joined by name.

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


def open_dataset(args, images, annotations, part, like=None, prefix=""):
    """Open the dataset of `--images` and `--annotations`, or of those for validation.

    Args:
        args: parsed arguments with the options of `READING`.
        images, annotations: paths, or None. part: as in `open_dataset`.
        like: None, or a model's config or a Dataset, whose classes it gets: by name, or by id if those have no names.
        prefix: of the two options, for messages: "" or "val-".

    Returns:
        A Dataset.
    """
    from keras_maskrcnn.data.classes import is_named

    classes = {}
    if like is not None:
        names = like.class_names if is_named(like.class_names) else None
        classes = {"class_names": names, "category_ids": like.category_ids}
    source, folder = (images, None) if annotations is None else (annotations, images)
    with in_words(words_of_dataset(prefix, annotations)):
        return open_source(args, source, folder, part, **classes)


def open_parts(args, config=None):
    """Open the training and the validation data of `train`, with the same labels for the same class names.

    Args:
        args: arguments of `train`.
        config: MaskRCNNConfig of a model that is trained further, or None: a new model takes the training data's
            classes, without those that have no object and that the validation data lack.

    Returns:
        (Dataset, Dataset).

    Raises:
        ValueError: one has no object to learn from or to measure, and there is no `--allow-empty`.
    """
    train = open_dataset(args, args.images, args.annotations, "train")
    val = open_dataset(args, args.val_images, args.val_annotations, "val", train if config is None else config, "val-")
    unused = unused_in_both(train, val) if config is None else []
    if unused:
        from keras_maskrcnn.data.classes import with_classes

        print(f"left out the classes {unused}: no object has them, and the validation data lack them")
        names = [name for name in train.class_names if name not in unused]
        train, val = with_classes(train, names)[0], with_classes(val, names)[0]
    for dataset in () if args.allow_empty else (train, val):
        _check_learnable(dataset)
    return train, val


def _check_learnable(dataset):
    from keras_maskrcnn.data.learnable import nothing_to_learn

    problem = nothing_to_learn(dataset)
    if problem:
        raise ValueError(f"{problem} To train all the same, add --allow-empty.")


def unused_in_both(train, val):
    """Classes of the training data without an object that the validation data do not list: a list of names."""
    used = train.records.used_labels()
    unused = [name for k, name in enumerate(train.class_names) if k not in used and name in val.absent_classes]
    return unused if len(unused) < len(train.class_names) else []


def inspect_source(args, source, images, part, every_image=False, **classes):
    """Check a whole dataset with a progress bar. Returns an Inspection, which lists faults instead of raising them."""
    from keras_maskrcnn.checkup import inspect_dataset
    from keras_maskrcnn.host.progress import progress_bar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report names the entries that the reader skips
        dataset = open_source(args, source, images, part, **classes)
    progress = progress_bar(len(dataset), unit_name="image")
    return inspect_dataset(dataset, progress=lambda done: progress.update(done), every_image=every_image)


def load_model(path):
    """Load the model in a .keras file or run folder, not compiled."""
    from keras_maskrcnn.runs.experiment import find_model
    from keras_maskrcnn.weights import models

    return models.load_model(find_model(path))
