"""Balloons: fine-tune on a folder of VIA annotations, evaluate, and make colour splash images.

    python samples/balloon/balloon.py train --data balloon
    python samples/balloon/balloon.py evaluate --data balloon --model runs/balloon
    python samples/balloon/balloon.py splash --model runs/balloon photo.jpg

The README beside this file says where to get the data.
"""

import argparse
import pathlib

from keras_maskrcnn_launcher import quiet_tensorflow

with quiet_tensorflow():
    import keras
    import numpy as np
    from PIL import Image

    import keras_maskrcnn as km
    from keras_maskrcnn.host.files import write_atomically
    from keras_maskrcnn.runs.experiment import find_model

CLASSES = ("balloon",)


def main(arguments=None):
    """Parse the command line, then train, evaluate or splash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, add_arguments in ((train, _train_arguments), (evaluate, _evaluate_arguments), (splash, _splash_arguments)):
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    options.run(options)


def read_part(folder, part):
    """The "train" or "val" folder of the dataset. Its VIA file has no classes, so all objects are balloons."""
    return km.data.ViaDataset(pathlib.Path(folder) / part / "via_region_data.json", class_names=CLASSES)


# train -----------------------------------------------------------------------------------------------------


def _train_arguments(command):
    command.add_argument("--data", required=True, help="folder with train/ and val/")
    command.add_argument("--output", default="runs/balloon", help="run folder")
    command.add_argument(
        "--weights",
        default="coco",
        help="coco (downloaded once), random, or a file with weights of the same architecture (default: coco)",
    )
    command.add_argument("--backbone", default="resnet50", help="backbone for --weights random or a weights file")
    command.add_argument("--min-size", type=int, default=800, help="short side of the image, network pixels")
    command.add_argument("--epochs", type=int, default=20)
    command.add_argument("--steps", type=int, help="stop after this many steps instead (for a quick test)")
    command.add_argument("--batch-size", type=int, default=2)
    command.add_argument(
        "--learning-rate", type=float, help="peak rate of AdamW (default: 1e-4; from random weights 5e-4)"
    )
    command.add_argument("--seed", type=int, default=0)


def train(options):
    """Fine-tune on train/, evaluate on val/ after each epoch."""
    keras.utils.set_random_seed(options.seed)
    data, val = read_part(options.data, "train"), read_part(options.data, "val")
    model = make_model(options.weights, options.backbone, options.min_size, data.max_instances)
    rate = options.learning_rate or (5e-4 if options.weights == "random" else 1e-4)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4, global_clipnorm=5.0))
    loader = km.DataLoader(
        data, model.config, options.batch_size, shuffle=True, seed=options.seed, augmentation="light"
    )
    metrics = km.train_model(
        model,
        loader,
        val,
        options.output,
        epochs=1 if options.steps else options.epochs,
        steps_per_epoch=options.steps,
        settings={name: value for name, value in vars(options).items() if name != "run"},
    )
    print(km.format_metrics(metrics))


def make_model(weights, backbone, min_size, max_instances):
    """A model for one class: with COCO weights or weights of a file, except the last layers; or with random weights.

    Args:
        weights: "coco", "random", or a file that `km.load_weights` reads.
        backbone: "resnet18" to "resnet152".
        min_size: short side, network pixels; the long side is at most 5/3 of it, as 1333 to 800.
        max_instances: largest number of objects in an image.
    """
    fields = {
        "backbone": backbone,
        "class_names": CLASSES,
        "min_size": min_size,
        "max_size": round(min_size * 5 / 3),
        "max_instances": max_instances,
    }
    if weights == "random":
        return km.MaskRCNN(km.MaskRCNNConfig(num_classes=1, norm="batch", **fields))
    if weights == "coco":
        return km.maskrcnn_resnet50_fpn(1, weights="coco", **fields)
    model = km.maskrcnn_resnet50_fpn(1, **fields)
    print(km.load_weights(model, weights, heads=False))
    return model


# evaluate --------------------------------------------------------------------------------------------------


def _evaluate_arguments(command):
    command.add_argument("--data", required=True, help="folder with train/ and val/")
    command.add_argument("--model", default="runs/balloon", help="run folder or .keras file")


def evaluate(options):
    """Compute COCO AP on val/."""
    print(km.format_metrics(km.evaluate_coco(load_model(options.model), read_part(options.data, "val"), verbose=1)))


def load_model(path):
    """The model of a run folder or .keras file."""
    return keras.saving.load_model(find_model(path), compile=False)


# splash ----------------------------------------------------------------------------------------------------


def _splash_arguments(command):
    command.add_argument("images", nargs="+", help="image files")
    command.add_argument("--model", default="runs/balloon", help="run folder or .keras file")
    command.add_argument("--output", default="splash", help="folder for the pictures")
    command.add_argument("--score", type=float, default=0.7, help="balloons below stay gray")


def splash(options):
    """Turn photos gray except for the balloons."""
    predictor = km.Predictor(load_model(options.model), options.score)
    for path in map(pathlib.Path, options.images):
        image = km.data.read_image(path)
        found = predictor(image)
        target = pathlib.Path(options.output) / f"{path.stem}.png"
        write_atomically(target, Image.fromarray(color_splash(image, found)).save)
        print(f"{path}: {len(found)} balloons -> {target}")


def color_splash(image, found):
    """The image, gray outside the instances found in it.

    Args:
        image: uint8 (H, W, 3) RGB.
        found: FoundInstances of the image.

    Returns:
        uint8 (H, W, 3).
    """
    gray = np.asarray(Image.fromarray(image).convert("L"))
    picture = np.repeat(gray[..., None], 3, axis=-1)
    for window, x, y in found.mask_windows:
        rows, columns = slice(y, y + window.shape[0]), slice(x, x + window.shape[1])
        picture[rows, columns][window] = image[rows, columns][window]
    return picture


if __name__ == "__main__":
    main()
