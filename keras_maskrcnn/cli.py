"""The command line: keras-maskrcnn demo | train | evaluate | predict | export | convert | ... | doctor.

Each command is a function from parsed arguments to an exit status; what it does lives in the package. Called
through `keras_maskrcnn_launcher`, which quiets TensorFlow first.
"""

import argparse
import pathlib
import sys

from keras_maskrcnn import cli_data

SUCCESS, DISAPPOINTED, MISTAKE = 0, 1, 2  # exit status; 2 as argparse's own
RECIPES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")
DEMO_AP50, DEMO_BOX_ERROR, DEMO_SCORE_ERROR = 0.80, 1e-3, 1e-5  # what a healthy installation reaches


def main(argv=None):
    """Run the command line.

    Args:
        argv: list of str, or None for the process's own.

    Returns:
        Exit status: 0 done, 1 done but not as good as it should be, 2 a mistake in what was given.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        if args.command == "train":
            args = _with_proposal(parser, args, argv)
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:  # the package's word for "what you gave me is not right"
        if args.debug:
            raise
        print(f"keras-maskrcnn {args.command}: {error}\n(--debug shows where)", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("\nstopped; files written so far are whole", file=sys.stderr)
        return 130


def build_parser():
    """The argparse parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-maskrcnn", description="Mask R-CNN for Keras 3: train, measure, predict, export."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, add_arguments, summary, examples in _COMMANDS:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  keras-maskrcnn {e}" for e in examples),
            formatter_class=_HelpFormatter,
        )
        add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run)
    parser.commands = commands.choices
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help, line breaks of the examples kept."""


# demo ------------------------------------------------------------------------------------------------------


def _demo_arguments(command):
    command.add_argument("--directory", default="demo", help="folder for everything it writes")
    command.add_argument("--minutes", type=_positive(float), default=3.0, help="training time")


def _demo(args):
    from keras_maskrcnn.demo import run_demo
    from keras_maskrcnn.evaluation import format_metrics

    result = run_demo(args.directory, args.minutes)
    ap50 = result["metrics"].get("segm_AP50", 0.0)
    print(f"\nCOCO AP on validation shapes:\n{format_metrics(result['metrics'])}\n")
    checks = [
        (ap50 >= DEMO_AP50, f"segm AP50 {ap50:.3f} (at least {DEMO_AP50})"),
        (
            result["box_error"] <= DEMO_BOX_ERROR and result["score_error"] <= DEMO_SCORE_ERROR,
            f"the export, reloaded in a new process, agrees in {result['compared']} detections: boxes to "
            f"{result['box_error']:.1e} pixels, scores to {result['score_error']:.1e}",
        ),
        (result["compared"] > 0, "there were detections to compare"),
    ]
    for good, what in checks:
        print("ok  " if good else "FAIL", what)
    folder = pathlib.Path(args.directory)
    print(f"pictures: {folder / 'run' / 'overlays'}, curves: {folder / 'run' / 'curves.png'}")
    return SUCCESS if all(good for good, _ in checks) else DISAPPOINTED


# train -----------------------------------------------------------------------------------------------------


def _train_arguments(command):
    data = command.add_argument_group("data")
    _dataset_arguments(data)
    data.add_argument("--val-images", required=True, help="folder of the validation images")
    data.add_argument("--val-annotations", help="their annotations, if they are not where the images are")
    run = command.add_argument_group("run")
    run.add_argument("--run-dir", default="run", help="folder for weights, metrics and pictures")
    run.add_argument("--config", help="options from check-data's report.json; what is given here as well goes first")
    run.add_argument("--auto", action="store_true", help="check the data first and take what check-data proposes")
    length = run.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_positive(float), help="wall-clock budget, evaluations included")
    length.add_argument("--epochs", type=_positive(int), help="passes over the training images")
    run.add_argument("--batch-size", type=_positive(int), default=4)
    run.add_argument("--learning-rate", type=_positive(float), default=5e-4, help="AdamW's peak")
    run.add_argument("--weight-decay", type=float, default=1e-4)
    run.add_argument("--evaluate-every", type=_positive(int), default=1, help="epochs between COCO evaluations")
    run.add_argument("--start-from", help="a .keras file or run folder to fine-tune; it brings its config")
    run.add_argument("--seed", type=int, default=0)
    model = command.add_argument_group("model (not with --start-from)")
    model.add_argument(
        "--weights",
        help="start from torchvision's published weights, coco or imagenet, or from a .pth or .safetensors file of "
        "torchvision's; the last layers are made anew for the classes at hand",
    )
    model.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="what --weights coco is for")
    model.add_argument("--backbone", help="resnet18 to resnet152 (default: resnet50)")
    model.add_argument("--norm", help="batch, group or frozen_batch (default: batch; with --weights the recipe's)")
    _size_arguments(model)
    model.add_argument("--anchor-sizes", type=int, nargs=5, default=[32, 64, 128, 256, 512])
    model.add_argument("--max-instances", type=_positive(int), help="objects of an image trained on (default: all)")
    model.add_argument("--max-detections", type=_positive(int), help="of an image (default: the data's, at least 100)")
    _augmentation_arguments(command.add_argument_group("augmentation (preview-augmentation draws it)"), "flip")


def _train(args):
    import keras

    from keras_maskrcnn.data import DataLoader, preset
    from keras_maskrcnn.evaluation import format_metrics
    from keras_maskrcnn.experiment import train_model

    keras.utils.set_random_seed(args.seed)
    train = _open_dataset(args, args.images, args.annotations, "train")
    model = _model_to_train(args, train)
    val = _open_dataset(args, args.val_images, args.val_annotations, "val", model.config)
    augmentation = preset(args.augment, model.config, args.crop, args.any_way_up)
    loader = DataLoader(train, model.config, args.batch_size, shuffle=True, seed=args.seed, augmentation=augmentation)
    model.compile(keras.optimizers.AdamW(args.learning_rate, weight_decay=args.weight_decay, global_clipnorm=5.0))
    print(f"{len(train)} training and {len(val)} validation images, {len(loader)} batches an epoch")
    settings = {key: value for key, value in vars(args).items() if key != "run"}
    metrics = train_model(
        model,
        loader,
        val,
        args.run_dir,
        epochs=args.epochs,
        minutes=args.minutes,
        evaluate_every=args.evaluate_every,
        settings=settings,
    )
    print(f"\nbest epoch, kept as {pathlib.Path(args.run_dir) / 'best.keras'}:\n{format_metrics(metrics)}")
    return SUCCESS


def _with_proposal(parser, args, argv):
    """The arguments once more, with the options of `--config` or `--auto` for those that are not given."""
    if args.config and args.auto:
        raise ValueError("--config reads options and --auto makes them. Received both. Give one.")
    options = {}
    if args.config:
        options = cli_data.read_options(args.config)
    elif args.auto:
        from keras_maskrcnn.checkup import propose

        source, images = (args.images, None) if args.annotations is None else (args.annotations, args.images)
        options = propose(cli_data.inspect_source(args, source, images, "train"))
        print("proposed:", ", ".join(f"{name} {value}" for name, value in options.items()))
    if args.minutes:
        options.pop("epochs", None)
    elif not (args.epochs or "epochs" in options):
        raise ValueError("Training needs a length. Received none. Give --epochs, --minutes, --auto or --config.")
    if any(getattr(args, name) != parser.commands["train"].get_default(name) for name in ("min_size", "max_size")):
        options.pop("image_scale", None)  # it would replace the sizes that are given
    parser.commands["train"].set_defaults(**options)
    return parser.parse_args(argv)


def _model_to_train(args, dataset):
    """A new model for the dataset's classes, or the one to fine-tune."""
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.model import MaskRCNN

    if args.start_from:
        return _load_model(args.start_from)
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
    }
    fields |= {name: getattr(args, name) for name in ("backbone", "norm") if getattr(args, name)}
    if args.weights is None:
        return MaskRCNN(MaskRCNNConfig(**{"norm": "batch", **fields}), seed=args.seed)
    return _pretrained_model(args, fields)


def _pretrained_model(args, fields):
    """A model of torchvision's architecture with its weights, for other classes."""
    from keras_maskrcnn import zoo
    from keras_maskrcnn.weights import load_weights, read_state

    if args.weights in ("coco", "imagenet"):
        return getattr(zoo, args.recipe)(weights=args.weights, seed=args.seed, **fields)
    model = zoo.model_for_state(read_state(args.weights), **fields)
    print(load_weights(model, args.weights, heads=False))
    return model


# preview-augmentation --------------------------------------------------------------------------------------


def _preview_arguments(command):
    _dataset_arguments(command)
    _augmentation_arguments(command, "strong")
    _size_arguments(command)
    command.add_argument("--count", type=_positive(int), default=4, help="images, taken evenly from all")
    command.add_argument("--variants", type=_positive(int), default=3, help="epochs shown of each image")
    command.add_argument("--seed", type=int, default=0, help="train with the same seed sees the same images")
    command.add_argument("--output", default="augmentation.png", help="the picture to write, PNG")


def _preview(args):
    from PIL import Image

    from keras_maskrcnn.callbacks import write_atomically
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.data import preset
    from keras_maskrcnn.preview import preview_augmentation

    dataset = _open_dataset(args, args.images, args.annotations, "train")
    config = MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        min_size=args.min_size,
        max_size=args.max_size,
        image_scale=args.image_scale,
        max_instances=max(100, dataset.max_instances),
    )
    augmentation = preset(args.augment, config, args.crop, args.any_way_up)
    sheet = preview_augmentation(dataset, config, augmentation, args.count, args.variants, args.seed)
    write_atomically(pathlib.Path(args.output), lambda path: Image.fromarray(sheet).save(path, format="PNG"))
    print(f"{args.augment}:", *augmentation, sep="\n  ")
    print(f"wrote {args.output}; gray masks are regions that training ignores")
    return SUCCESS


# evaluate --------------------------------------------------------------------------------------------------


def _evaluate_arguments(command):
    command.add_argument("model", help="a .keras file or a run folder")
    _dataset_arguments(command)
    command.add_argument("--max-detections", type=_positive(int), help="detections an image that count")
    command.add_argument("--json", help="file for the figures, classes included")


def _evaluate(args):
    from keras_maskrcnn.evaluation import evaluate_coco, format_metrics
    from keras_maskrcnn.experiment import write_json

    model = _load_model(args.model)
    dataset = _open_dataset(args, args.images, args.annotations, "val", model.config)
    metrics = evaluate_coco(model, dataset, args.max_detections, verbose=1)
    print(format_metrics(metrics))
    if args.json:
        write_json(args.json, metrics)
    return SUCCESS


# predict ---------------------------------------------------------------------------------------------------


def _predict_arguments(command):
    command.add_argument("model", nargs="?", help="a .keras file or a run folder; not with --saved-model")
    command.add_argument("images", nargs="+", help="image files or folders")
    command.add_argument("--saved-model", metavar="DIR", help="an export instead: its folder, or that of its versions")
    command.add_argument("--output", default="predictions", help="folder for pictures and detections.json")
    command.add_argument("--score", type=float, default=0.5, help="detections below are left out")
    command.add_argument(
        "--tile", type=_positive(int), help="image pixels: cut larger images into overlapping squares of this side"
    )
    command.add_argument("--overlap", type=float, default=0.2, help="share of a tile's side; not below the objects'")


def _predict(args):
    import keras
    from PIL import Image

    from keras_maskrcnn.data import read_image
    from keras_maskrcnn.experiment import write_json
    from keras_maskrcnn.visualize import draw_instances

    paths, predictor = _paths_and_predictor(args)
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    results = []
    progress = keras.utils.Progbar(len(paths), unit_name="image")
    for i, path in enumerate(paths):
        image = read_image(path)
        found = predictor(image)
        # Numbered: two folders may hold files of the same name.
        Image.fromarray(draw_instances(image, found)).save(output / f"{i:04d}-{path.stem}.png")
        results += [result | {"file": str(path)} for result in found.to_coco(image_id=i)]
        progress.update(i + 1)
    write_json(output / "detections.json", results)
    print(f"{len(results)} instances in {len(paths)} images; pictures and detections.json in {output}")
    return SUCCESS


def _paths_and_predictor(args):
    from keras_maskrcnn.predictor import Predictor
    from keras_maskrcnn.serving import SavedModelPredictor

    names = [args.model, *args.images] if args.saved_model and args.model else args.images
    paths = _image_paths(names)
    if args.saved_model and args.tile:
        raise ValueError(
            f"Tiles are cut for a model, not for an export. Received: --saved-model {args.saved_model} and --tile "
            f"{args.tile}. Name the .keras file or run folder that was exported."
        )
    if args.saved_model:
        return paths, SavedModelPredictor(args.saved_model, args.score)
    if not args.model:
        raise ValueError(
            "A model and images are needed. "
            f"Received: {args.images} alone. Name a .keras file or run folder first, or an export by --saved-model."
        )
    return paths, Predictor(_load_model(args.model), args.score, args.tile, args.overlap)


def _image_paths(names):
    """Files, and the image files directly inside folders."""
    from PIL import Image

    endings = set(Image.registered_extensions())
    paths = []
    for path in map(pathlib.Path, names):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings) if path.is_dir() else [path]
        paths += inside
    if not paths:
        raise ValueError(f"There must be an image to predict on. Received {names}: no image files in there.")
    return paths


# export ----------------------------------------------------------------------------------------------------


def _export_arguments(command):
    command.add_argument("model", help="a .keras file or a run folder")
    command.add_argument(
        "target", help="savedmodel: the model's folder, which gets a folder for each version; others: a file to write"
    )
    command.add_argument("--format", choices=sorted(_EXPORTS), default="savedmodel", help="what to write")
    command.add_argument("--overwrite", action="store_true", help="replace a version or file that exists")
    saved_model = command.add_argument_group("savedmodel")
    saved_model.add_argument(
        "--version", type=_positive(int), help="number of the version; the next free one if left out"
    )
    saved_model.add_argument(
        "--bfloat16", action="store_true", help="convolutions in bfloat16: faster where the processor has it"
    )
    litert = command.add_argument_group("litert")
    litert.add_argument(
        "--image-size", type=_positive(int), nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels of the images to come"
    )
    litert.add_argument("--quantization", choices=["float16", "dynamic_range"], help="smaller weights, less exact")


def _export(args):
    own = {"savedmodel": ("version", "bfloat16"), "litert": ("image_size", "quantization")}
    for name, options in own.items():
        given = [option for option in options if getattr(args, option)]
        if given and name != args.format:
            raise ValueError(
                f"--{given[0].replace('_', '-')} is an option of --format {name}. Received: --format {args.format}. "
                "Leave it out: ONNX and LiteRT files always hold batch norm folded, in float32."
            )
    written, hint = _EXPORTS[args.format](args, _load_model(args.model))
    print(f"wrote {written}; {hint}")
    return SUCCESS


def _export_saved_model(args, model):
    from keras_maskrcnn.serving import export_saved_model

    written = export_saved_model(
        model,
        args.target,
        version=args.version,
        overwrite=args.overwrite,
        dtype="bfloat16" if args.bfloat16 else None,
    )
    return written, f"look at it with: saved_model_cli show --dir {written} --all"


def _export_onnx(args, model):
    from keras_maskrcnn.serving import export_onnx

    return export_onnx(model, args.target, overwrite=args.overwrite), "run it with onnxruntime"


def _export_litert(args, model):
    from keras_maskrcnn.serving import export_litert

    size = None if args.image_size is None else tuple(args.image_size)
    written = export_litert(model, args.target, size, quantization=args.quantization, overwrite=args.overwrite)
    return written, "run it with ai_edge_litert.interpreter.Interpreter"


_EXPORTS = {"savedmodel": _export_saved_model, "onnx": _export_onnx, "litert": _export_litert}


# convert ---------------------------------------------------------------------------------------------------


def _convert_arguments(command):
    command.add_argument("source", help="torchvision's .pth, .pt or .safetensors; or a .keras file or run folder")
    command.add_argument(
        "target", help=".keras or .weights.h5; from a model of ours .safetensors under torchvision's names"
    )
    command.add_argument("--all-rows", action="store_true", help="keep COCO's 90 rows instead of its 80 categories")
    command.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def _convert(args):
    from keras_maskrcnn.weights.convert import convert_file

    print(convert_file(args.source, args.target, args.all_rows, args.overwrite))
    print(f"wrote {args.target}")
    return SUCCESS


# doctor ----------------------------------------------------------------------------------------------------


def _doctor_arguments(command):
    del command  # it has none


def _doctor(args):
    from keras_maskrcnn.doctor import examine, format_report

    print("a few seconds: running the fixed model", flush=True)
    report = examine()
    print(format_report(report))
    return SUCCESS if report.trusted else DISAPPOINTED


# shared by the commands ------------------------------------------------------------------------------------


def _positive(kind):
    """An argparse type: a number of this kind above zero."""

    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, received {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def _dataset_arguments(group):
    group.add_argument("--images", required=True, help="folder of the images, or of a whole dataset; YOLO's data.yaml")
    group.add_argument(
        "--annotations", help="annotation file or folder (COCO, VIA, labelme, ...), if it is not in --images"
    )
    cli_data.dataset_options(group)


def _size_arguments(group):
    group.add_argument("--min-size", type=_positive(int), default=800, help="short side, network pixels")
    group.add_argument("--max-size", type=_positive(int), default=1333, help="limit of the long side")
    group.add_argument("--image-scale", type=_positive(float), help="network over source pixels; replaces the sizes")


def _augmentation_arguments(group, default):
    group.add_argument(
        "--augment",
        choices=("none", "flip", "light", "strong"),
        default=default,
        help="flip: left and right; light: and scales and colours, moderately; strong: and scales from 0.1 to 2, "
        "copy-paste, hue, blur, noise, JPEG",
    )
    group.add_argument("--crop", type=_positive(int), help="train on random squares of so many network pixels")
    group.add_argument(
        "--any-way-up",
        action="store_true",
        help="the images have no top: quarter turns and vertical flips too, with strong free turns",
    )


def _open_dataset(args, images, annotations, part, config=None):
    """The dataset of `--images` and `--annotations`, with the classes of a model's config where there is one."""
    classes = {}
    if config is not None:
        named = config.class_names != tuple(f"class {k}" for k in range(config.num_classes))
        classes = {"class_names": config.class_names if named else None, "category_ids": config.category_ids}
    if annotations is None:
        return cli_data.open_source(args, images, None, part, **classes)
    return cli_data.open_source(args, annotations, images, part, **classes)


def _load_model(path):
    import keras

    from keras_maskrcnn import model  # noqa: F401 (registers the classes that the file names)
    from keras_maskrcnn.experiment import find_model

    return keras.saving.load_model(find_model(path), compile=False)


_COMMANDS = (
    (
        "demo",
        _demo,
        _demo_arguments,
        "train on generated shapes, measure, export, reload the export, draw; no data needed",
        ["demo", "demo --directory /tmp/shapes --minutes 5"],
    ),
    (
        "train",
        _train,
        _train_arguments,
        "train on annotated images into a run folder",
        [
            "train --images train/ --annotations train.json --val-images val/ --val-annotations val.json --epochs 12",
            "train --images bowl/train --val-images bowl/val --minutes 60 --backbone resnet18 --image-scale 1 "
            "--crop 256 --any-way-up --run-dir runs/nuclei",
            "train --weights coco --learning-rate 1e-4 --images train/ --annotations train.json --val-images val/ "
            "--val-annotations val.json --epochs 12",
        ],
    ),
    (
        "preview-augmentation",
        _preview,
        _preview_arguments,
        "draw what augmentation makes of some training images, before and after, with boxes and masks",
        ["preview-augmentation --images train/ --annotations train.json --augment strong --output sheet.png"],
    ),
    (
        "evaluate",
        _evaluate,
        _evaluate_arguments,
        "measure the COCO AP of a model",
        ["evaluate run --images val/ --annotations val.json", "evaluate model.keras --images bowl/val --json ap.json"],
    ),
    (
        "predict",
        _predict,
        _predict_arguments,
        "find instances in images; write pictures and COCO results",
        [
            "predict run photo.jpg",
            "predict model.keras photos/ --score 0.7 --output found",
            "predict --saved-model saved_model photos/",
        ],
    ),
    (
        "export",
        _export,
        _export_arguments,
        "write a SavedModel for TensorFlow Serving, an ONNX file or a LiteRT file",
        [
            "export run saved_model",
            "export model.keras saved_model --version 3 --bfloat16",
            "export run model.onnx --format onnx",
            "export run model.tflite --format litert --image-size 480 640 --quantization float16",
        ],
    ),
    (
        "convert",
        _convert,
        _convert_arguments,
        "turn torchvision's weights into a model, or a model into torchvision's weights",
        ["convert maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth coco.keras", "convert runs/first torchvision.safetensors"],
    ),
    (
        "check-data",
        cli_data.check,
        cli_data.check_arguments,
        "find what is wrong with a dataset before training, and propose a config; writes a page and JSON",
        ["check-data train.json --images train/", "check-data balloon/train --val balloon/val --output check"],
    ),
    (
        "convert-data",
        cli_data.convert,
        cli_data.convert_arguments,
        "write a dataset of any format (VIA, labelme, Pascal VOC, YOLO, label images, CSV, ...) as COCO JSON",
        ["convert-data balloon/train balloon.json", "convert-data data.yaml val.json --part val"],
    ),
    (
        "split",
        cli_data.split,
        cli_data.split_arguments,
        "divide a dataset into training and validation data, copies of an image kept together",
        ["split project.json parts --images photos", "split cells/ parts --fractions 0.7 0.15 0.15 --seed 1"],
    ),
    (
        "doctor",
        _doctor,
        _doctor_arguments,
        "say whether this installation computes what it should",
        ["doctor"],
    ),
)
