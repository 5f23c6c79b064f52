"""Train a Mask R-CNN on microscopy nuclei from random weights, for a given number of minutes, and measure it.

    python samples/nuclei/train.py --train DATA/train --val DATA/val --minutes 60 --output runs/nuclei

A folder holds either `annotations.json` (COCO) with `images/`, or the layout of the Data Science Bowl 2018:
`<id>/images/*.png` and `<id>/masks/*.png`. With `--val` left out, every eighth training image is kept for validation.

With `--config`, scale, anchors and caps are those that `keras-maskrcnn check-data` proposes:

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

# One pixel has about the same size in all images, so all are enlarged alike: half of the nuclei are under 19 pixels.
SCALE = 2.0
ANCHORS = (12, 24, 48, 96, 192)  # nuclei measure 10 to 200 network pixels
MAX_DETECTIONS = 400  # the fullest training image holds 375 nuclei
PROPOSED = ("image_scale", "min_size", "max_size", "anchor_sizes", "max_instances", "max_detections")  # by --config


def read_folder(folder):
    """A dataset from a COCO folder or from one in the layout of the Data Science Bowl."""
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
    """What check-data's report proposes, as fields of the config, without its crop: --crop is sized for two cores."""
    proposal = read_options(report)
    fields = {name: proposal[name] for name in PROPOSED if name in proposal}
    fields.setdefault("image_scale", None)  # sizes are proposed instead
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def make_model(dataset, proposed):
    """ResNet-18-FPN, narrow heads: sized for two CPU cores."""
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
    """Crops, by default in all eight orientations, at 0.7 to 1.4 times the scale, with other colours."""
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
    """A rate that warms up and follows a cosine down to zero; `minutes` does the same on elapsed time."""
    return keras.optimizers.schedules.CosineDecay(0.0, max(steps - warmup, 1), warmup_target=rate, warmup_steps=warmup)


def main(arguments=None):
    """Parse, train, print the AP table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="folder with the training images")
    parser.add_argument("--val", help="folder with the validation images")
    parser.add_argument("--minutes", type=float, default=60, help="training time, evaluations included")
    parser.add_argument("--output", default="runs/nuclei", help="run folder")
    parser.add_argument("--config", help="report.json of check-data, for scale, anchors and caps")
    parser.add_argument("--crop", type=int, default=320, help="network pixels a side of what is trained on")
    parser.add_argument(
        "--augment",
        choices=("nuclei", *km.data.augmentation.PRESETS),
        default="nuclei",
        help="the sample's own, or one of `keras-maskrcnn train --augment` (none: random crops only)",
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--evaluate-every", type=int, default=4, help="epochs between evaluations")
    parser.add_argument("--epochs", type=int, help="stop after so many passes over the training images instead")
    parser.add_argument("--steps", type=int, help="stop after so many steps of the first epoch (for a quick try)")
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
