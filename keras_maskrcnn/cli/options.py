"""What the commands share: exit statuses, groups of arguments, and the dataset or model that arguments mean."""

import argparse

from keras_maskrcnn.cli import data

SUCCESS, DISAPPOINTED, MISTAKE = 0, 1, 2  # exit status; 2 as argparse's own


def positive(kind):
    """An argparse type: a number of this kind above zero."""

    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, received {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def dataset_arguments(group, required=True):
    """--images and --annotations, and how they are read."""
    group.add_argument(
        "--images", required=required, help="folder of the images, or of a whole dataset; YOLO's data.yaml"
    )
    group.add_argument(
        "--annotations", help="annotation file or folder (COCO, VIA, labelme, ...), if it is not in --images"
    )
    data.dataset_options(group)


def sampling_arguments(group):
    """How often images come up in training, and who reads them."""
    group.add_argument(
        "--repeat-threshold",
        type=positive(float),
        metavar="SHARE",
        help="show images of rare classes more often: a class in a share f of the images, f below SHARE, comes up "
        "sqrt(SHARE / f) times as often (repeat factors of LVIS, Gupta et al. 2019, who take 0.001; try 0.1 in small "
        "datasets; default: each image once an epoch)",
    )
    group.add_argument(
        "--negatives",
        type=float,
        metavar="SHARE",
        help="share of images without objects in an epoch, 0 to below 1; 0 leaves them out (default: as in the data)",
    )
    group.add_argument("--workers", type=positive(int), default=2, help="threads that read and augment images")


def size_arguments(group):
    """The network's image size."""
    group.add_argument("--min-size", type=positive(int), default=800, help="short side, network pixels")
    group.add_argument("--max-size", type=positive(int), default=1333, help="limit of the long side")
    group.add_argument("--image-scale", type=positive(float), help="network over source pixels; replaces the sizes")


def pixel_arguments(group):
    """What images hold, where it is not RGB of 8 bits; check-data measures it."""
    group.add_argument("--pixel-mean", type=float, nargs="+", metavar="VALUE", help="of each channel (default: RGB's)")
    group.add_argument("--pixel-std", type=float, nargs="+", metavar="VALUE", help="standard deviation of each channel")
    group.add_argument("--image-dtype", choices=("uint8", "uint16", "float32"), default="uint8", help="read images as")


def pixel_fields(args):
    """Fields of the config that these arguments give."""
    fields = {name: tuple(getattr(args, name)) for name in ("pixel_mean", "pixel_std") if getattr(args, name)}
    return fields | {"image_dtype": args.image_dtype}


def augmentation_arguments(group, default):
    """--augment, --crop and --any-way-up."""
    group.add_argument(
        "--augment",
        choices=("none", "flip", "light", "strong"),
        default=default,
        help="flip: left and right; light: and scales and colours, moderately; strong: and scales from 0.1 to 2, "
        "copy-paste, hue, blur, noise, JPEG",
    )
    group.add_argument("--crop", type=positive(int), help="train on random squares of so many network pixels")
    group.add_argument(
        "--any-way-up",
        action="store_true",
        help="the images have no top: quarter turns and vertical flips too, with strong free turns",
    )


def open_dataset(args, images, annotations, part, config=None):
    """The dataset of `--images` and `--annotations`, with the classes of a model's config where there is one."""
    classes = {}
    if config is not None:
        named = config.class_names != tuple(f"class {k}" for k in range(config.num_classes))
        classes = {"class_names": config.class_names if named else None, "category_ids": config.category_ids}
    if annotations is None:
        return data.open_source(args, images, None, part, **classes)
    return data.open_source(args, annotations, images, part, **classes)


def load_model(path):
    """The model in a .keras file or run folder, not compiled."""
    import keras

    from keras_maskrcnn import model  # noqa: F401 (registers the classes that the file names)
    from keras_maskrcnn.runs.experiment import find_model

    return keras.saving.load_model(find_model(path), compile=False)
