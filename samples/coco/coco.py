"""COCO: train and evaluate on the 2017 layout, with all images or a few.

    python samples/coco/coco.py evaluate --data coco --weights coco
    python samples/coco/coco.py train --data coco --weights imagenet --epochs 12

The README beside this file says where to get the data.
"""

import argparse
import pathlib

from keras_maskrcnn_launcher import quiet_tensorflow

with quiet_tensorflow():
    import keras

    import keras_maskrcnn as km
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.runs.experiment import find_model
    from keras_maskrcnn.weights import read_state, zoo
    from keras_maskrcnn.weights.convert import build_model

ARCHITECTURES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet101_fpn", "maskrcnn_resnet18_fpn")
RATE_FALLS = (8 / 12, 11 / 12)  # of all steps: Detectron's "1x" schedule of 12 epochs drops to a tenth after 8 and 11


def main(arguments=None):
    """Parse the command line, then train or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, add_arguments in ((train, _train_arguments), (evaluate, _evaluate_arguments)):
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.add_argument("--data", required=True, help="folder with annotations/, train2017/ and val2017/")
        command.add_argument(
            "--architecture",
            "--recipe",  # the old name
            choices=ARCHITECTURES,
            default=ARCHITECTURES[0],
            help="the model, named as in torchvision",
        )
        command.add_argument("--limit", type=int, help="number of validation images (default: all)")
        command.add_argument("--min-size", type=int, default=800, help="short side of the image, network pixels")
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    options.run(options)


def read_part(folder, part, limit=None, classes_of=None):
    """`train2017` or `val2017`, or its first images; with the classes of a config or dataset, if given."""
    folder = pathlib.Path(folder)
    annotations = folder / "annotations" / f"instances_{part}.json"
    names = () if classes_of is None else ("class_names", "category_ids")
    dataset = km.CocoDataset(annotations, folder / part, **{name: getattr(classes_of, name) for name in names})
    if limit is None:
        return dataset
    return km.data.Dataset(
        dataset.records[:limit], dataset.class_names, dataset.category_ids, dataset.name, image_dir=dataset.image_dir
    )


# train -----------------------------------------------------------------------------------------------------


def _train_arguments(command):
    command.add_argument("--output", default="runs/coco", help="run folder")
    command.add_argument(
        "--weights", default="imagenet", help="imagenet, coco (to continue training), random (default: imagenet)"
    )
    command.add_argument("--epochs", type=int, default=12)
    command.add_argument("--steps", type=int, help="stop after this many steps instead (for a quick test)")
    command.add_argument("--batch-size", type=int, default=2)
    command.add_argument("--seed", type=int, default=0)


def train(options):
    """Train with the paper's SGD on train2017, evaluate on val2017 after each epoch."""
    keras.utils.set_random_seed(options.seed)
    data = read_part(options.data, "train2017")
    model = make_model(options, data)
    val = read_part(options.data, "val2017", options.limit, data)
    loader = km.DataLoader(data, model.config, options.batch_size, shuffle=True, seed=options.seed, augmentation="flip")
    steps = options.steps or options.epochs * len(loader)
    milestones = [round(share * steps) for share in RATE_FALLS]
    model.compile(km.sgd(options.batch_size, milestones))
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


def make_model(options, dataset):
    """The model for the dataset's classes, with published or random weights."""
    weights = None if options.weights == "random" else options.weights
    labels = {"class_names": dataset.class_names, "category_ids": dataset.category_ids}
    if weights == "coco" and dataset.category_ids == zoo.COCO_CATEGORY_IDS:
        labels = {}  # COCO's 80 classes: load the last layers too
    elif weights is None:
        labels["norm"] = "batch"  # frozen statistics would not come from any data
    sizes = {"min_size": options.min_size, "max_size": round(options.min_size * 5 / 3)}
    fields = {**sizes, **labels, "max_instances": dataset.max_instances, "seed": options.seed}
    return getattr(zoo, options.architecture)(len(dataset.class_names), weights=weights, **fields)


# evaluate --------------------------------------------------------------------------------------------------


def _evaluate_arguments(command):
    command.add_argument("--weights", default="coco", help="coco, a run folder, a .keras or a torchvision .pth file")
    command.add_argument("--json", help="file for the metrics, including those per class")


def evaluate(options):
    """Compute COCO AP on val2017."""
    model = load_model(options)
    dataset = read_part(options.data, "val2017", options.limit, model.config)
    metrics = km.evaluate_coco(model, dataset, verbose=1)
    print(km.format_metrics(metrics))
    if options.json:
        write_json(options.json, metrics)


def load_model(options):
    """The model selected by `--weights`: published, from a run, or from a torchvision file."""
    sizes = {"min_size": options.min_size, "max_size": round(options.min_size * 5 / 3)}
    if options.weights == "coco":
        return getattr(zoo, options.architecture)(weights="coco", **sizes)
    if pathlib.Path(options.weights).suffix in (".pth", ".safetensors"):
        model, receipt = build_model(read_state(options.weights), options.weights, **sizes)
        print(receipt)
        return model
    return keras.saving.load_model(find_model(options.weights), compile=False)


if __name__ == "__main__":
    main()
