"""keras-maskrcnn preview-augmentation: a picture of what training will be given. Imports no framework."""

import dataclasses
import pathlib

from keras_maskrcnn.cli.options import SUCCESS, Option, add_options, positive
from keras_maskrcnn.cli.sources import DATASET, open_dataset
from keras_maskrcnn.cli.train_options import AUGMENT, AUGMENTATION, PIXELS, SIZES, pixel_fields

OPTIONS = (
    *(dataclasses.replace(AUGMENT, default="strong") if option is AUGMENT else option for option in AUGMENTATION),
    *SIZES,
    *PIXELS,
    Option("--count", "number of images, taken at equal distances from the whole dataset", 4, positive(int)),
    Option("--variants", "number of epochs to show of each image", 3, positive(int)),
    Option("--seed", "seed of the random numbers; train with the same seed gets these images", 0, int),
    Option("--output", "PNG file to write", "augmentation.png"),
)


def preview_arguments(command):
    """Add the arguments of preview-augmentation."""
    add_options(command, DATASET, required=("images",))
    add_options(command, OPTIONS)


def preview(args):
    """Draw images before and after augmentation."""
    from PIL import Image

    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.data import preset
    from keras_maskrcnn.host.files import write_atomically
    from keras_maskrcnn.inference.preview import preview_augmentation

    dataset = open_dataset(args, args.images, args.annotations, "train")
    config = MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        min_size=args.min_size,
        max_size=args.max_size,
        image_scale=args.image_scale,
        max_instances=max(100, dataset.max_instances),
        **pixel_fields(args),
    )
    augmentation = preset(args.augment, config, args.crop, args.any_way_up)
    sheet = preview_augmentation(dataset, config, augmentation, args.count, args.variants, args.seed)
    write_atomically(pathlib.Path(args.output), lambda path: Image.fromarray(sheet).save(path, format="PNG"))
    print(f"{args.augment}:", *augmentation, sep="\n  ")
    print(f"wrote {args.output}; gray masks are regions that training ignores")
    return SUCCESS
