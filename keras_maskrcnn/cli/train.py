"""keras-maskrcnn train: from a dataset to a run folder."""

import dataclasses
import pathlib

from keras_maskrcnn.cli.options import SUCCESS, add_options
from keras_maskrcnn.cli.recipe import prepare_model, recipe_of, settle_precision
from keras_maskrcnn.cli.resume import announce, check_same_run, load_last
from keras_maskrcnn.cli.sources import load_model, open_parts
from keras_maskrcnn.cli.train_options import GROUPS, LENGTH, pixel_fields


def train_arguments(command):
    """Add the arguments of train; `settling.settle` gives them their values."""
    for title, options in GROUPS.items():
        group = command.add_argument_group(title)
        if options is LENGTH:
            group = group.add_mutually_exclusive_group()
        add_options(group, options, late_defaults=True)


def train(args):
    """Train into a run folder. `args` are settled arguments."""
    from keras_maskrcnn.runs.devices import first_tells, use_devices

    with use_devices(args.devices) as team, first_tells(team):
        if team.replicas > 1:
            processes = f", in {team.count} processes" if team.count > 1 else ""
            print(f"{team.replicas} devices share each batch{processes}")
        return _train(args, team)


def _train(args, team):
    from keras_maskrcnn import backend
    from keras_maskrcnn.data import DataLoader, preset
    from keras_maskrcnn.evaluation import format_metrics
    from keras_maskrcnn.runs.experiment import train_model

    settle_precision(args)
    if args.resume:
        announce(args.run_dir)
    backend.set_seed(args.seed)
    model = _given_model(args)
    train, val = open_parts(args, None if model is None else model.config)
    model = prepare_model(args, model or _model_to_train(args, train))
    augmentation = preset(args.augment, model.config, args.crop, args.any_way_up)
    loader = DataLoader(
        train,
        model.config,
        args.batch_size,
        shuffle=True,
        seed=args.seed,
        workers=args.workers,
        worker_type=args.worker_type,
        augmentation=augmentation,
        repeat_threshold=args.repeat_threshold,
        negatives=args.negatives,
        shard=team.shard,
    )
    print(
        f"{len(train)} training and {len(val)} validation images; an epoch has {len(loader.order)} images in "
        f"{len(loader)} batches"
    )
    print(loader.workers_chosen)
    recipe = recipe_of(args, loader)
    model.compile(recipe.make_optimizer())
    settings = {**vars(args), "training_recipe": dataclasses.asdict(recipe)}
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
        overwrite=args.overwrite,
        tensorboard=args.tensorboard,
        save_minutes=args.save_minutes,
    )
    run_dir = pathlib.Path(args.run_dir)
    if metrics:
        print(f"\nbest epoch, saved as {run_dir / 'best.keras'}:\n{format_metrics(metrics)}")
    else:
        print(f"\nno accuracy was measured; the model of the last epoch: {run_dir / 'last.keras'}")
    print(f"report: {run_dir / 'index.html'}")
    return SUCCESS


def _given_model(args):
    """The model of the run to resume or the one to fine-tune; None for a new one."""
    stopped = load_last(args.run_dir) if args.resume else None
    if stopped is not None:
        return stopped
    return load_model(args.start_from) if args.start_from else None


def _model_to_train(args, dataset):
    """A new model for the dataset's classes."""
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.model import MaskRCNN

    fields = _config_fields(args, dataset)
    if args.weights is None:
        return MaskRCNN(MaskRCNNConfig(**{"norm": "batch", **fields}), seed=args.seed)
    return _pretrained_model(args, fields)


def _config_fields(args, dataset):
    """The fields of MaskRCNNConfig that options and dataset set."""
    from keras_maskrcnn.config import CASCADE_IOUS

    most = max(100, dataset.max_instances)  # dense images need more than COCO's 100
    optional = ("backbone", "norm", "roi_samples", "mask_samples")
    return {
        "num_classes": len(dataset.class_names),
        "class_names": dataset.class_names,
        "category_ids": dataset.category_ids,
        "min_size": args.min_size,
        "max_size": args.max_size,
        "image_scale": args.image_scale,
        "anchor_sizes": tuple(args.anchor_sizes),
        "max_instances": args.max_instances or most,
        "max_detections": args.max_detections or most,
        **pixel_fields(args),
        **_branch_field(args, dataset),
        **({"cascade_ious": CASCADE_IOUS} if args.cascade else {}),
        **{name: getattr(args, name) for name in optional if getattr(args, name)},
    }


def _branch_field(args, dataset):
    """The field `branches`, where --branches is given: a dict."""
    from keras_maskrcnn.config import branches_for_dataset

    return {"branches": branches_for_dataset(args.branches, dataset)} if args.branches else {}


def _pretrained_model(args, fields):
    """A model with published weights, for other classes."""
    from keras_maskrcnn.model import MaskRCNN
    from keras_maskrcnn.weights import load_weights, published, read_state, zoo

    if fields.get("backbone", "").startswith("keras:"):
        return _keras_model(args, fields)
    if args.weights == "coco":
        _check_heads(args)
    if args.weights in ("coco", "imagenet"):
        return getattr(zoo, args.architecture)(weights=args.weights, seed=args.seed, **fields)
    path = published.local_path(args.weights)
    config, notes = zoo.config_for_state(read_state(path), fields, source=path)
    model = MaskRCNN(config, seed=args.seed)
    receipt = load_weights(model, path, heads=False)
    print(dataclasses.replace(receipt, notes=(*notes, *receipt.notes)))
    return model


def _check_heads(args):
    """Torchvision's published detectors have one box head and one branch each."""
    if args.cascade:
        raise ValueError(
            "--weights coco is of a model with one box head. Received --cascade. For a cascade start from --weights "
            "imagenet, or from a .pkl of Detectron2's cascade_mask_rcnn."
        )
    theirs = ["keypoints" if args.architecture.startswith("keypoint") else "mask"]
    if args.branches and args.branches != theirs:
        raise ValueError(
            f"--weights coco --architecture {args.architecture} is of a model with --branches {theirs[0]}. Received "
            f"--branches {' '.join(args.branches)}. For keypoints alone give --architecture keypointrcnn_resnet50_fpn; "
            "for others start from --weights imagenet."
        )


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
