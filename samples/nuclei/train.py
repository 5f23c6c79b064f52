"""Train a Mask R-CNN on microscopy nuclei from random weights, for a given number of minutes, and evaluate it.

    python samples/nuclei/train.py --train DATA/train --val DATA/val --minutes 60 --output runs/nuclei

A folder contains either `annotations.json` (COCO) with `images/`, or the layout of the Data Science Bowl 2018:
`<id>/images/*.png` and `<id>/masks/*.png`. Without `--val`, every eighth training image is used for validation.

With `--config`, scale, anchors and limits come from the proposal of `keras-maskrcnn check-data`:

    keras-maskrcnn check-data DATA/train --val DATA/val --output check
    python samples/nuclei/train.py --train DATA/train --val DATA/val --config check/report.json
"""

import argparse
import pathlib

from keras_maskrcnn_launcher import quiet_tensorflow

with quiet_tensorflow():
    import keras

    import keras_maskrcnn as km
    from keras_maskrcnn.cli.settling import read_options
    from keras_maskrcnn.data.transforms.presets import PRESETS

# One pixel has about the same size in all images, so use one factor for all: half of the nuclei are below 19 pixels.
SCALE = 2.0
ANCHORS = (12, 24, 48, 96, 192)  # nuclei measure 10 to 200 network pixels
MAX_DETECTIONS = 400  # the largest number in a training image is 375
PROPOSED = ("image_scale", "min_size", "max_size", "anchor_sizes", "max_instances", "max_detections")  # set by --config


def read_folder(folder):
    """A dataset from a COCO folder or a folder in the layout of the Data Science Bowl."""
    folder = pathlib.Path(folder)
    annotations = folder / "annotations.json"
    if annotations.is_file():
        return km.CocoDataset(annotations, folder / "images")
    return km.data.DsbDataset(folder)


def split(dataset, every=8):
    """Training and validation part of a dataset: every eighth image goes to validation."""
    parts = [record for i, record in enumerate(dataset.records) if i % every], dataset.records[::every]
    return [km.data.Dataset(part, dataset.class_names, dataset.category_ids, dataset.name) for part in parts]


def read_proposal(report):
    """The proposal of check-data as config fields, without its crop: --crop is chosen for two cores."""
    proposal = read_options(report)
    fields = {name: proposal[name] for name in PROPOSED if name in proposal}
    fields.setdefault("image_scale", None)  # the proposal has sizes instead
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def make_model(dataset, proposed):
    """ResNet-18-FPN with narrow heads, for two CPU cores."""
    fields = {
        "image_scale": SCALE,
        "anchor_sizes": ANCHORS,
        "max_instances": dataset.max_instances,
        "max_detections": MAX_DETECTIONS,
    }
    config = km.MaskRCNNConfig(
        num_classes=1,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        backbone="resnet18",
        norm="batch",
        fpn_channels=128,
        box_features=512,
        mask_channels=64,
        train_pre_nms=500,
        train_post_nms=500,
        roi_samples=128,
        mask_samples=24,
        **(fields | proposed),
    )
    return km.MaskRCNN(config)


def make_loader(dataset, config, batch_size, seed, augment, crop):
    """Crops, by default in all eight orientations, scaled by 0.7 to 1.4, with colour changes."""
    if augment != "nuclei":
        augmentation = km.data.preset(augment, config, crop, any_way_up=True)
    else:
        augmentation = [
            km.data.ScaleJitter(0.7, 1.4),
            km.data.RandomCrop(crop),
            km.data.RandomFlip(horizontal=True, vertical=True),
            km.data.RandomRotate90(),
            km.data.ColorJitter(0.2, 0.2, 0.2),
        ]
    return km.DataLoader(dataset, config, batch_size, shuffle=True, seed=seed, augmentation=augmentation)


def decaying(rate, steps, warmup=100):
    """A learning rate with warm-up and cosine decay to zero; `minutes` does the same by elapsed time."""
    return keras.optimizers.schedules.CosineDecay(0.0, max(steps - warmup, 1), warmup_target=rate, warmup_steps=warmup)


def main(arguments=None):
    """Parse the command line, train, print the AP table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="folder with the training images")
    parser.add_argument("--val", help="folder with the validation images")
    parser.add_argument("--minutes", type=float, default=60, help="training time, including evaluations")
    parser.add_argument("--output", default="runs/nuclei", help="run folder")
    parser.add_argument("--config", help="report.json of check-data, for scale, anchors and limits")
    parser.add_argument("--crop", type=int, default=320, help="side of the training crops, network pixels")
    parser.add_argument(
        "--augment",
        choices=("nuclei", *PRESETS),
        default="nuclei",
        help="the sample's own augmentation, or one of `keras-maskrcnn train --augment` (none: only random crops)",
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--evaluate-every", type=int, default=4, help="epochs between evaluations")
    parser.add_argument("--epochs", type=int, help="stop after this many passes over the training images instead")
    parser.add_argument("--steps", type=int, help="stop after this many steps of the first epoch (for a quick test)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(options.seed)

    train = read_folder(options.train)
    train, val = (train, read_folder(options.val)) if options.val else split(train)
    model = make_model(train, read_proposal(options.config) if options.config else {})
    loader = make_loader(train, model.config, options.batch_size, options.seed, options.augment, options.crop)
    rate = decaying(options.learning_rate, options.epochs * len(loader)) if options.epochs else options.learning_rate
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=10.0))
    epochs = 1 if options.steps else options.epochs
    metrics = km.train_model(
        model,
        loader,
        val,
        options.output,
        minutes=None if epochs else options.minutes,
        epochs=epochs,
        steps_per_epoch=options.steps,
        evaluate_every=options.evaluate_every,
        settings=vars(options),
    )
    print(km.format_metrics(metrics))


if __name__ == "__main__":
    main()
