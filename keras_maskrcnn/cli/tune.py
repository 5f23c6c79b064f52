"""keras-maskrcnn tune: score thresholds by class, the NMS threshold and calibrated scores of a trained model."""

import argparse
import pathlib

from keras_maskrcnn.cli.options import SUCCESS, Option, add_options, seed
from keras_maskrcnn.cli.predict import BATCH_SIZE
from keras_maskrcnn.cli.sources import READING, load_model, open_source
from keras_maskrcnn.host.messages import in_words

METHODS = ("isotonic", "temperature", "none")  # those of evaluation/calibration.py, which imports numpy


def share(text):
    """The argparse type of numbers from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, received {text}")
    return value


share.__name__ = "float"

OPTIONS = (
    Option("--val", "labelled images that the model was not trained on: annotation file, or folder of a dataset"),
    Option("--images", "folder of the images, if the annotations do not name it"),
    *READING,
    Option(
        "--precision",
        "find the lowest thresholds with at least this precision (default: those with the best F1)",
        type=share,
        metavar="P",
    ),
    Option("--calibration", "how scores become probabilities", "isotonic", choices=METHODS),
    Option("--nms", "NMS thresholds to try beside the model's own", (0.3, 0.4, 0.5, 0.6, 0.7), share, nargs="*"),
    Option("--seed", "seed of the split into two halves: one is searched, the other gives the table", 0, seed),
    BATCH_SIZE,
    Option("--output", "write the tuned model to this .keras file, and leave MODEL as it is", metavar="FILE"),
    Option("--json", "JSON file for the table and the numbers"),
)


def tune_arguments(command):
    """Add the arguments of tune."""
    command.add_argument("model", help="a .keras file or a run folder: the numbers are written into its file")
    add_options(command, OPTIONS, required=("val",))


def check_tune(args):
    """Refuse files that tune must not write. Returns the arguments with `model` and `output` as paths of files."""
    from keras_maskrcnn.runs.folder import LAST, find_model

    args.model = pathlib.Path(find_model(args.model))
    if args.output is None and args.model.name == LAST:
        raise ValueError(
            f"tune leaves {LAST} as it is, because training resumes from it. Received: {args.model}. "
            "Name another file with --output."
        )
    args.output = pathlib.Path(args.output or args.model)
    if args.output.suffix != ".keras":
        raise ValueError(
            f"--output must name a .keras file. Received: {args.output}. Use {args.output.with_suffix('.keras')}."
        )
    return args


def tune(args):
    """Find the numbers, show what they change, and write them into the file."""
    from keras_maskrcnn.evaluation.tuning import tune as find
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.weights.keras_files import write_fields

    model = load_model(args.model)
    dataset = _open(args, model.config)
    method = None if args.calibration == "none" else args.calibration
    more = {"seed": args.seed, "batch_size": args.batch_size, "verbose": 1}
    found = find(model, dataset, args.precision, method, tuple(args.nms), **more)
    searched, checked = found.images
    nms = found.fields["nms_threshold"]
    print(f"found on {searched} images; on the {checked} others, old and new:\n{found.table()}")
    print(f"NMS threshold: {model.config.nms_threshold:g} -> {nms:g}", *found.notes, sep="\n")
    write_fields(args.model, args.output, found.fields)
    print(f"wrote {args.output}")
    if args.json:
        write_json(args.json, found.to_dict())
    return SUCCESS


def _open(args, config):
    from keras_maskrcnn.data.classes import is_named

    names = config.class_names if is_named(config.class_names) else None
    classes = {"class_names": names, "category_ids": config.category_ids}
    with in_words({"image_dir": "--images"}):
        return open_source(args, args.val, args.images, "val", **classes)
