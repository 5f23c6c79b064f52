"""keras-maskrcnn train | preview-augmentation: from a dataset to a run folder, and what training will see."""

import pathlib

from keras_maskrcnn.cli import data
from keras_maskrcnn.cli.options import (
    SUCCESS,
    augmentation_arguments,
    dataset_arguments,
    load_model,
    open_dataset,
    pixel_arguments,
    pixel_fields,
    positive,
    sampling_arguments,
    size_arguments,
)
from keras_maskrcnn.cli.recipe import prepare_model, recipe_arguments, recipe_of
from keras_maskrcnn.cli.resume import check_same_run, load_last, options_to_resume

RECIPES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")

# train -----------------------------------------------------------------------------------------------------


def train_arguments(command):
    """Arguments of train."""
    data = command.add_argument_group("data")
    dataset_arguments(data, required=False)
    data.add_argument("--val-images", help="folder of the validation images")
    data.add_argument("--val-annotations", help="their annotations, if they are not where the images are")
    sampling_arguments(data)
    run = command.add_argument_group("run")
    run.add_argument("--run-dir", default="run", help="folder for weights, metrics and pictures")
    run.add_argument("--config", help="options from check-data's report.json; what is given here as well goes first")
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --run-dir that was stopped, from its last whole epoch and with its options; only "
        "where the data lies, --workers and --tensorboard may be given anew",
    )
    run.add_argument(
        "--tensorboard",
        action="store_true",
        help="write losses, rates, AP and pictures into RUN_DIR/tensorboard (needs tensorboardX, the extra "
        "'tensorboard'; show them with: tensorboard --logdir RUN_DIR/tensorboard)",
    )
    run.add_argument("--auto", action="store_true", help="check the data first and take what check-data proposes")
    length = run.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=positive(float), help="wall-clock budget, evaluations included")
    length.add_argument("--epochs", type=positive(int), help="passes over the training images")
    run.add_argument("--evaluate-every", type=positive(int), default=1, help="epochs between COCO evaluations")
    run.add_argument("--start-from", help="a .keras file or run folder to fine-tune; it brings its config")
    run.add_argument("--seed", type=int, default=0)
    recipe_arguments(command.add_argument_group("optimization (what is chosen is printed and kept in config.json)"))
    model = command.add_argument_group("model (not with --start-from)")
    model.add_argument(
        "--weights",
        help="start from torchvision's published weights, coco or imagenet, or from a .pth or .safetensors file of "
        "torchvision's; the last layers are made anew for the classes at hand",
    )
    model.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="what --weights coco is for")
    model.add_argument(
        "--backbone",
        help="resnet10 (without published weights), resnet18, 34, 50, 101, 152, or keras:NAME for a model of "
        "keras.applications, as keras:ConvNeXtTiny, with --weights imagenet or none (default: resnet50)",
    )
    model.add_argument("--norm", help="batch, group or frozen_batch (default: batch; with --weights the recipe's)")
    size_arguments(model)
    pixel_arguments(model)
    model.add_argument("--anchor-sizes", type=int, nargs=5, default=[32, 64, 128, 256, 512])
    model.add_argument("--max-instances", type=positive(int), help="objects of an image trained on (default: all)")
    model.add_argument("--max-detections", type=positive(int), help="of an image (default: the data's, at least 100)")
    model.add_argument(
        "--roi-samples",
        type=positive(int),
        help="RoIs an image that the box head learns from (default: 512, the paper's, for GPUs; try 128 on CPUs)",
    )
    model.add_argument(
        "--mask-samples",
        type=positive(int),
        help="at most so many of them for the mask head (default: all that hold objects, up to a quarter)",
    )
    augmentation_arguments(command.add_argument_group("augmentation (preview-augmentation draws it)"), "flip")


def train(args):
    """Train into a run folder."""
    import dataclasses

    import keras

    from keras_maskrcnn.data import DataLoader, preset
    from keras_maskrcnn.evaluation.coco import format_metrics
    from keras_maskrcnn.runs.experiment import train_model

    keras.utils.set_random_seed(args.seed)
    train = open_dataset(args, args.images, args.annotations, "train")
    model = prepare_model(args, load_last(args.run_dir) if args.resume else _model_to_train(args, train))
    val = open_dataset(args, args.val_images, args.val_annotations, "val", model.config)
    augmentation = preset(args.augment, model.config, args.crop, args.any_way_up)
    loader = DataLoader(
        train,
        model.config,
        args.batch_size,
        shuffle=True,
        seed=args.seed,
        workers=args.workers,
        augmentation=augmentation,
        repeat_threshold=args.repeat_threshold,
        negatives=args.negatives,
    )
    print(
        f"{len(train)} training and {len(val)} validation images; an epoch shows {len(loader.order)} images "
        f"in {len(loader)} batches"
    )
    recipe = recipe_of(args, loader)
    model.compile(recipe.make_optimizer())
    settings = {key: value for key, value in vars(args).items() if key != "run"}
    settings["training_recipe"] = dataclasses.asdict(recipe)
    if args.resume:
        check_same_run(args.run_dir, settings)
    metrics = train_model(
        model,
        loader,
        val,
        args.run_dir,
        epochs=args.epochs,
        minutes=args.minutes,
        warmup_steps=recipe.warmup_steps,
        evaluate_every=args.evaluate_every,
        settings=settings,
        resume=args.resume,
        tensorboard=args.tensorboard,
    )
    run_dir = pathlib.Path(args.run_dir)
    print(f"\nbest epoch, kept as {run_dir / 'best.keras'}:\n{format_metrics(metrics)}")
    print(f"report: {run_dir / 'index.html'}")
    return SUCCESS


def with_proposal(parser, args, argv):
    """The arguments once more, with the options of a run, a file or a proposal for those that are not given."""
    if args.resume:
        options = options_to_resume(args.run_dir)
    else:
        _check_places(args)
        options = _proposed_options(parser, args)
    parser.commands["train"].set_defaults(**options)
    return parser.parse_args(argv)


def _check_places(args):
    missing = [f"--{name.replace('_', '-')}" for name in ("images", "val_images") if getattr(args, name) is None]
    if missing:
        raise ValueError(
            f"Training needs images to train on and to validate with. Received no {' and '.join(missing)}."
        )


def _proposed_options(parser, args):
    """The options of `--config` or `--auto`, where there is one."""
    if args.config and args.auto:
        raise ValueError("--config reads options and --auto makes them. Received both. Give one.")
    options = {}
    if args.config:
        options = data.read_options(args.config)
    elif args.auto:
        from keras_maskrcnn.checkup import propose

        source, images = (args.images, None) if args.annotations is None else (args.annotations, args.images)
        options = propose(data.inspect_source(args, source, images, "train"))
    if args.minutes:
        options.pop("epochs", None)
    elif not (args.epochs or "epochs" in options):
        raise ValueError("Training needs a length. Received none. Give --epochs, --minutes, --auto or --config.")
    if any(getattr(args, name) != parser.commands["train"].get_default(name) for name in ("min_size", "max_size")):
        options.pop("image_scale", None)  # it would replace the sizes that are given
    if args.auto:
        print("proposed:", ", ".join(f"{name} {value}" for name, value in options.items()))
    return options


def _model_to_train(args, dataset):
    """A new model for the dataset's classes, or the one to fine-tune."""
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.model import MaskRCNN

    if args.start_from:
        return load_model(args.start_from)
    caps = max(100, dataset.max_instances)  # caps come from the data: dense images need more than COCO's 100
    fields = {
        "num_classes": len(dataset.class_names),
        "class_names": dataset.class_names,
        "category_ids": dataset.category_ids,
        "min_size": args.min_size,
        "max_size": args.max_size,
        "image_scale": args.image_scale,
        "anchor_sizes": tuple(args.anchor_sizes),
        "max_instances": args.max_instances or caps,
        "max_detections": args.max_detections or caps,
        **pixel_fields(args),
    }
    optional = ("backbone", "norm", "roi_samples", "mask_samples")
    fields |= {name: getattr(args, name) for name in optional if getattr(args, name)}
    if args.weights is None:
        return MaskRCNN(MaskRCNNConfig(**{"norm": "batch", **fields}), seed=args.seed)
    return _pretrained_model(args, fields)


def _pretrained_model(args, fields):
    """A model with published weights, for other classes."""
    from keras_maskrcnn.weights import load_weights, read_state, zoo

    if fields.get("backbone", "").startswith("keras:"):
        return _keras_model(args, fields)
    if args.weights in ("coco", "imagenet"):
        return getattr(zoo, args.recipe)(weights=args.weights, seed=args.seed, **fields)
    model = zoo.model_for_state(read_state(args.weights), **fields)
    print(load_weights(model, args.weights, heads=False))
    return model


def _keras_model(args, fields):
    """A model on a backbone of keras.applications with its ImageNet weights."""
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.model import MaskRCNN
    from keras_maskrcnn.network.backbones import load_imagenet

    if args.weights != "imagenet":
        raise ValueError(
            "A backbone of keras.applications starts from --weights imagenet, or from random weights without "
            f"--weights. Received --weights {args.weights} --backbone {args.backbone}. For a trained detector use "
            "--start-from."
        )
    config = MaskRCNNConfig(**{"trainable_layers": 3, **fields})
    model = MaskRCNN(config, seed=args.seed)
    load_imagenet(model.backbone, config)
    return model


# preview-augmentation --------------------------------------------------------------------------------------


def preview_arguments(command):
    """Arguments of preview-augmentation."""
    dataset_arguments(command)
    augmentation_arguments(command, "strong")
    size_arguments(command)
    pixel_arguments(command)
    command.add_argument("--count", type=positive(int), default=4, help="images, taken evenly from all")
    command.add_argument("--variants", type=positive(int), default=3, help="epochs shown of each image")
    command.add_argument("--seed", type=int, default=0, help="train with the same seed sees the same images")
    command.add_argument("--output", default="augmentation.png", help="the picture to write, PNG")


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
