"""The command line: keras-maskrcnn demo | train | evaluate | predict | export | convert | ... | doctor.

This file holds the list of the commands. A command is a function from parsed arguments to an exit status; the others
are in the other files of this folder. Importing them imports no framework: `keras_maskrcnn_launcher` imports Keras when
a command needs it.
"""

import argparse
import collections.abc
import contextlib
import pathlib
import sys
import typing
import warnings

from keras_maskrcnn.cli import data, evaluate, export, labels, predict, preview, rank, train, tune, verify
from keras_maskrcnn.cli.options import CHECK_FAILED, MISTAKE, SUCCESS, positive
from keras_maskrcnn.cli.settling import settle
from keras_maskrcnn.cli.words import WORDS
from keras_maskrcnn.host.messages import in_words, messages_shown

# Limits that a working installation keeps. Two slow cores reach an AP50 of 0.80 in the demo's 2.5 minutes, give or take
# 0.02 from run to run; quick ones more.
DEMO_AP50, DEMO_BOX_ERROR, DEMO_SCORE_ERROR = 0.70, 1e-3, 1e-5


class Command(typing.NamedTuple):
    """One command.

    Args:
        name: as typed.
        run: function from arguments to an exit status.
        add_arguments: function that adds its arguments to a parser.
        summary: what it does, for the help.
        examples: argument lines.
        uses_models: whether it builds or loads a model, and so needs Keras; or a function of the arguments.
        settle: None, or a function from parsed to checked arguments, called before Keras is imported.
    """

    name: str
    run: collections.abc.Callable
    add_arguments: collections.abc.Callable
    summary: str
    examples: tuple
    uses_models: bool | collections.abc.Callable = True
    settle: collections.abc.Callable | None = None


def main(argv=None, prepare_models=None):
    """Run the command line.

    Args:
        argv: list of str, or None for the arguments of the process.
        prepare_models: function called before the first command that builds or loads a model; None: Keras and the
            package are imported already.

    Returns:
        Exit status: `SUCCESS`, `CHECK_FAILED` (the command ran, but what it checked has faults) or `MISTAKE` (wrong
        arguments or data); 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    command = next(command for command in _COMMANDS if command.name == args.command)
    _accept_all_names()
    try:
        with in_words(WORDS), _plain_warnings():
            if command.settle is not None:
                args = command.settle(args)
            needed = command.uses_models(args) if callable(command.uses_models) else command.uses_models
            if needed and prepare_models is not None:
                prepare_models()
            with messages_shown():
                return command.run(args)
    except (ValueError, OSError, ImportError) as error:  # raised for the user's mistakes
        if args.debug:
            raise
        print(f"keras-maskrcnn {args.command}: {error}\n(add --debug for a traceback)", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("\nstopped; all files written so far are complete", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _plain_warnings():
    """Show warnings to users as sentences, without the line of code that they come from."""
    before = warnings.formatwarning

    def format_one(message, category, *place):
        own = issubclass(category, UserWarning)
        return f"warning: {message}\n" if own else before(message, category, *place)

    warnings.formatwarning = format_one
    try:
        yield
    finally:
        warnings.formatwarning = before


def _accept_all_names():
    """Let the screen show names that its encoding lacks, escaped: file names that are not UTF-8, or Japanese ones."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def build_parser():
    """Build the argparse parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-maskrcnn", description="Mask R-CNN for Keras 3: train, measure, predict, export."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  keras-maskrcnn {example}" for example in command.examples),
            formatter_class=_HelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, once, and keeps the line breaks of the examples."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False
        if silent or "(default: " in action.help:
            return action.help
        return super()._get_help_string(action)


# demo ------------------------------------------------------------------------------------------------------


def _demo_arguments(command):
    command.add_argument("--directory", default="demo", help="folder for all files of the demo")
    command.add_argument("--minutes", type=positive(float), default=2.5, help="training time, minutes")


def _demo(args):
    from keras_maskrcnn.cli.demo import run_demo
    from keras_maskrcnn.evaluation import format_metrics

    result = run_demo(args.directory, args.minutes)
    ap50 = result["metrics"]["segm_AP50"]
    print(f"\nCOCO AP on validation shapes:\n{format_metrics(result['metrics'])}\n")
    checks = [
        (ap50 >= DEMO_AP50, f"segm AP50 {ap50:.3f} (at least {DEMO_AP50})"),
        (
            result["box_error"] <= DEMO_BOX_ERROR and result["score_error"] <= DEMO_SCORE_ERROR,
            f"the export, loaded in a new process, gives the same {result['compared']} detections: boxes within "
            f"{result['box_error']:.1e} pixels, scores within {result['score_error']:.1e}",
        ),
        (result["compared"] > 0, "the model detects something"),
    ]
    for good, what in checks:
        print("ok  " if good else "FAIL", what)
    folder = pathlib.Path(args.directory)
    print(f"pictures: {folder / 'run' / 'overlays'}, curves: {folder / 'run' / 'curves.png'}")
    return SUCCESS if all(good for good, _ in checks) else CHECK_FAILED


# doctor ----------------------------------------------------------------------------------------------------


def _doctor_arguments(command):
    del command  # none


def _doctor(args):
    from keras_maskrcnn.cli.doctor import examine, format_report

    print("running the test model, a few seconds", flush=True)
    report = examine()
    print(format_report(report))
    return SUCCESS if report.trusted else CHECK_FAILED


_COMMANDS = (
    Command(
        "demo",
        _demo,
        _demo_arguments,
        "train on generated shapes, measure, export, load the export again, draw; needs no data",
        ("demo", "demo --directory /tmp/shapes --minutes 5"),
    ),
    Command(
        "train",
        train.train,
        train.train_arguments,
        "train on annotated images; weights, metrics and pictures go into a run folder",
        (
            "train --images train/ --annotations train.json --val-images val/ --val-annotations val.json --epochs 12",
            "train --images bowl/train --val-images bowl/val --minutes 60 --backbone resnet18 --image-scale 1 "
            "--crop 256 --any-way-up --run-dir runs/nuclei",
            "train --weights coco --images train/ --annotations train.json --val-images val/ "
            "--val-annotations val.json --epochs 12 --accumulate 4 --ema",
            "train --resume --run-dir runs/nuclei",
        ),
        settle=settle,
    ),
    Command(
        "preview-augmentation",
        preview.preview,
        preview.preview_arguments,
        "draw some training images before and after augmentation, with boxes and masks",
        ("preview-augmentation --images train/ --annotations train.json --augment strong --output sheet.png",),
        uses_models=False,
    ),
    Command(
        "evaluate",
        evaluate.evaluate,
        evaluate.evaluate_arguments,
        "measure the COCO AP of a model, and explain its errors",
        (
            "evaluate run --images val/ --annotations val.json",
            "evaluate model.keras --images bowl/val --json ap.json --report errors",
            "evaluate --results detections.json --images val/ --annotations val.json --report errors",
        ),
        uses_models=evaluate.needs_keras,
        settle=evaluate.check_evaluate,
    ),
    Command(
        "tune",
        tune.tune,
        tune.tune_arguments,
        "find score thresholds by class, the NMS threshold and calibrated scores; write them into the model",
        (
            "tune run --val val.json --images val/",
            "tune model.keras --val bowl/val --precision 0.9 --output tuned.keras",
        ),
        settle=tune.check_tune,
    ),
    Command(
        "predict",
        predict.predict,
        predict.predict_arguments,
        "find instances in images; write pictures and COCO results",
        (
            "predict run photo.jpg",
            "predict model.keras photos/ --score 0.7 --output found",
            "predict --saved-model saved_model photos/",
            "predict --engine ray run photos/ s3://bucket/more.parquet --output found --actors 2",
        ),
        uses_models=predict.needs_keras,
        settle=predict.check_predict,
    ),
    Command(
        "rank",
        rank.rank,
        rank.rank_arguments,
        "order images without labels by what their labels would teach; write a list, a page and drafts",
        ("rank unlabelled/ --model run --labelled train/ --count 50 --to labelme --output next",),
        settle=rank.check_rank,
    ),
    Command(
        "export",
        export.export,
        export.export_arguments,
        "write a SavedModel for TF Serving, an ONNX or LiteRT file, or a folder for OpenVINO, browsers or Triton",
        (
            "export run saved_model",
            "export model.keras saved_model --version 3 --bfloat16",
            "export run model.onnx --format onnx",
            "export run openvino --format openvino --int8 --calibrate photos/ --val bowl/val",
            "export run page --format web",
            "export run repository/nuclei --format triton",
            "export run model.tflite --format litert --image-size 480 640 --quantization float16",
        ),
        settle=export.check_export,
    ),
    Command(
        "verify",
        verify.verify,
        verify.verify_arguments,
        "run an export and its model on images, and tell how far they differ",
        (
            "verify model.onnx --against run --images photos/",
            "verify model.tflite --against best.keras --images photos/ --max-boxes 0.5 --max-scores 0.01",
        ),
        settle=verify.check_verify,
    ),
    Command(
        "convert",
        export.convert,
        export.convert_arguments,
        "convert weights of torchvision, Detectron2, MMDetection, tensorpack or matterport to a model, or a model to "
        "torchvision's weights",
        ("convert maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth coco.keras", "convert runs/first torchvision.safetensors"),
    ),
    Command(
        "check-data",
        data.check,
        data.check_arguments,
        "find the faults of a dataset before training and propose options for train; writes a page and JSON",
        ("check-data train.json --images train/", "check-data balloon/train --val balloon/val --output check"),
        uses_models=False,
    ),
    Command(
        "check-labels",
        labels.check_labels,
        labels.check_labels_arguments,
        "find labels that are probably wrong, by models that were not trained on them",
        (
            "check-labels train.json --images train/ --folds 3 --train '--weights coco --epochs 12' --output labels",
            "check-labels val.json --images val/ --model run --output labels",
        ),
        settle=labels.settle_check_labels,
    ),
    Command(
        "convert-data",
        data.convert,
        data.convert_arguments,
        "convert a dataset of any format (VIA, labelme, Pascal VOC, YOLO, label images, CSV, ...) to COCO JSON",
        ("convert-data balloon/train balloon.json", "convert-data data.yaml val.json --part val"),
        uses_models=False,
    ),
    Command(
        "split",
        data.split,
        data.split_arguments,
        "divide a dataset into training and validation data, with all copies of an image in the same part",
        ("split project.json parts --images photos", "split cells/ parts --fractions 0.7 0.15 0.15 --seed 1"),
        uses_models=False,
    ),
    Command(
        "doctor",
        _doctor,
        _doctor_arguments,
        "check whether this installation computes what torchvision computes",
        ("doctor",),
    ),
)
