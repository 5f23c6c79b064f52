"""keras-maskrcnn check-labels: labels that are probably wrong, by models that were not trained on them."""

import argparse
import pathlib
import shlex
import typing

from keras_maskrcnn.cli import train as training
from keras_maskrcnn.cli.options import SUCCESS, Option, add_options, positive, seed
from keras_maskrcnn.cli.predict import BATCH_SIZE
from keras_maskrcnn.cli.settling import settle
from keras_maskrcnn.cli.sources import READING, load_model, open_source

_SHOWN = 10  # labels on the screen
_DETECTIONS = "detections.json"
_GIVEN = ("images", "annotations", "val_images", "val_annotations", "run_dir", "resume", "overwrite")

OPTIONS = (
    Option("--images", "folder of the images, if the annotations do not name it"),
    Option("--part", "part to read of YOLO or Pascal VOC data: train, val or test"),
    *READING,
    Option("--model", "a .keras file or run folder that was trained on other images: nothing is trained"),
    Option(
        "--folds",
        "divide the images into so many parts, and look at each with a model that is trained on the others",
        3,
        positive(int),
    ),
    Option(
        "--train",
        "options of train for these models, in quotes: '--epochs 12 --backbone resnet18'",
        metavar="OPTIONS",
    ),
    Option("--seed", "seed of the division", 0, seed),
    BATCH_SIZE,
    Option("--output", "folder for index.html, suspicious.json, report.json and the models", metavar="DIR"),
)


def check_labels_arguments(command):
    """Add the arguments of check-labels."""
    command.add_argument("source", help="annotation file, or the folder that holds the dataset")
    add_options(command, OPTIONS, required=("output",))


def settle_check_labels(args):
    """Refuse options that do not belong together. Returns the arguments; `train` is a list then."""
    if args.model and args.train:
        raise ValueError(
            f"--model looks at all images and --train trains models. Received: --model {args.model} and --train "
            f"{args.train!r}. Give one of them."
        )
    if not args.model and args.folds < 2:
        raise ValueError(f"--folds must be at least 2. Received: {args.folds}. Leave it out for 3.")
    args.train = shlex.split(args.train or "")
    names = {name: f"--{name.replace('_', '-')}" for name in _GIVEN}
    refused = [option for option in names.values() if any(one.split("=")[0] == option for one in args.train)]
    if refused:
        raise ValueError(
            f"check-labels gives {', '.join(names.values())} to train itself. Received: {', '.join(refused)} in "
            "--train. Leave them out."
        )
    if not args.model:
        given = _train_arguments(args.train, {})  # wrong options end it here
        if not (given.epochs or given.minutes or given.auto or given.config):
            raise ValueError(
                "check-labels needs a trained model, or a length of training. Received neither. Give --model, or "
                "--train with --epochs, --minutes, --auto or --config."
            )
    return args


def check_labels(args):
    """Find suspicious labels; write the page and the files."""
    from keras_maskrcnn.evaluation.analysis import analyse
    from keras_maskrcnn.evaluation.suspects import find_suspects, suspect_entry
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.pages.errors_page import write_errors_page

    output = pathlib.Path(args.output)
    dataset = open_source(args, args.source, args.images, args.part)
    look = _with_model if args.model else _out_of_fold
    truth, detections, iou_types = look(args, dataset, output)
    write_json(output / _DETECTIONS, detections)
    analysis = analyse(truth, detections, iou_types)
    title = f"Labels of {dataset.name}"
    page = write_errors_page(output, analysis, dataset, title)
    matches = analysis.main.matches
    suspects = find_suspects(matches)
    print(f"{len(suspects)} of {len(matches.gt_row)} labels are suspicious")
    for suspect in suspects[:_SHOWN]:
        print(f"  {_told(suspect_entry(suspect, matches, truth, detections))}")
    print(f"with pictures: {page}; for a labelling tool: {output / 'suspicious.json'}")
    return SUCCESS


def _told(entry):
    what = f"labelled {entry['labelled']}" if "labelled" in entry else "not labelled"
    seen = f", detected {entry['detected']} {entry['score']:.2f}" if "detected" in entry else ""
    return f"{entry['suspicion']:.2f}  {entry['kind']}, image {entry['image_id']}: {what}{seen}"


def _with_model(args, dataset, output):
    """(ground truth, detections, what is compared) by a given model."""
    from keras_maskrcnn.evaluation.coco import detect_dataset

    del output
    found = detect_dataset(load_model(args.model), dataset, None, 1, args.batch_size)
    return found.truth, found.detections, found.iou_types


def _out_of_fold(args, dataset, output):
    """The same by models that were trained on the other folds. What an earlier call finished is not done again."""
    from keras_maskrcnn.data.readers.folders import read_json
    from keras_maskrcnn.host.files import write_json

    output = output / f"{args.folds} folds, seed {args.seed}"
    detections, with_masks = [], True
    for number, (learn, look) in enumerate(_folds(args, dataset, output), start=1):
        kept = output / f"detections-{number}.json"
        if not kept.is_file():
            print(f"fold {number} of {args.folds}", flush=True)
            write_json(kept, _detected(args, learn, look, output / f"run-{number}"))
        found = read_json(kept)
        detections += found
        with_masks &= all("segmentation" in one for one in found)
    return dataset.to_coco(), detections, ("bbox", "segm") if with_masks else ("bbox",)


class _Part(typing.NamedTuple):
    """Some of the images, and their COCO file."""

    dataset: object
    path: pathlib.Path

    def options(self, prefix=""):
        """The options of train that name the file."""
        from keras_maskrcnn.data.coco_output import coco_image_dir

        return {f"{prefix}images": coco_image_dir(self.dataset, self.path), f"{prefix}annotations": self.path}


def _folds(args, dataset, folder):
    """[(_Part to learn from, _Part to look at)]."""
    from keras_maskrcnn.data.duplicates import duplicate_groups
    from keras_maskrcnn.data.split import split_dataset, subset, write_parts

    parts, folds = {}, []
    look_at = split_dataset(dataset, [1 / args.folds] * args.folds, args.seed, duplicate_groups(dataset))
    for number, part in enumerate(look_at, start=1):
        own = set(part.image_ids)
        others = [position for position, key in enumerate(dataset.image_ids) if key not in own]
        pair = {f"learn-{number}": subset(dataset, others, f"all but fold {number}"), f"look-{number}": part}
        parts |= pair
        folds.append(tuple(_Part(one, folder / f"{name}.json") for name, one in pair.items()))
    write_parts(folder, parts, [])
    return folds


def _detected(args, learn, look, run_dir):
    """Train on one part, or go on with it, and detect in the other one."""
    from keras_maskrcnn.evaluation.coco import detect_dataset
    from keras_maskrcnn.runs.folder import find_run

    run = find_run(run_dir)
    if not run.finished:
        more = ["--resume"] if run.unfinished else []
        places = learn.options() | look.options("val-") | {"run-dir": run_dir}
        training.train(settle(_train_arguments([*args.train, *more], places)))
    return detect_dataset(load_model(run_dir), look.dataset, None, 1, args.batch_size).detections


def _train_arguments(options, places):
    """Parsed arguments of train. Wrong options end the process with argparse's message."""
    parser = argparse.ArgumentParser(prog="keras-maskrcnn check-labels --train", add_help=False, allow_abbrev=False)
    training.train_arguments(parser)
    given = [text for name, value in places.items() for text in (f"--{name}", str(value))]
    return parser.parse_args([*given, *options])
