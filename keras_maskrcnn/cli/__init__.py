"""The command line: keras-maskrcnn demo | train | evaluate | predict | export | convert | ... | doctor.

Each command is a function from parsed arguments to an exit status; what it does lives in the package. The list of them
is here, the functions in `train.py`, `predict.py`, `export.py` and `data.py`. Called through `keras_maskrcnn_launcher`,
which quiets TensorFlow first.
"""

import argparse
import pathlib
import sys

from keras_maskrcnn.cli import data, export, predict, train
from keras_maskrcnn.cli.options import DISAPPOINTED, MISTAKE, SUCCESS, positive

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
            args = train.with_proposal(parser, args, argv)
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
    """Defaults in the help where they say something, line breaks of the examples kept."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


# demo ------------------------------------------------------------------------------------------------------


def _demo_arguments(command):
    command.add_argument("--directory", default="demo", help="folder for everything it writes")
    command.add_argument("--minutes", type=positive(float), default=2.5, help="training time")


def _demo(args):
    from keras_maskrcnn.cli.demo import run_demo
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


# doctor ----------------------------------------------------------------------------------------------------


def _doctor_arguments(command):
    del command  # it has none


def _doctor(args):
    from keras_maskrcnn.cli.doctor import examine, format_report

    print("a few seconds: running the fixed model", flush=True)
    report = examine()
    print(format_report(report))
    return SUCCESS if report.trusted else DISAPPOINTED


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
        train.train,
        train.train_arguments,
        "train on annotated images into a run folder",
        [
            "train --images train/ --annotations train.json --val-images val/ --val-annotations val.json --epochs 12",
            "train --images bowl/train --val-images bowl/val --minutes 60 --backbone resnet18 --image-scale 1 "
            "--crop 256 --any-way-up --run-dir runs/nuclei",
            "train --weights coco --images train/ --annotations train.json --val-images val/ "
            "--val-annotations val.json --epochs 12 --accumulate 4 --ema",
            "train --resume --run-dir runs/nuclei",
        ],
    ),
    (
        "preview-augmentation",
        train.preview,
        train.preview_arguments,
        "draw what augmentation makes of some training images, before and after, with boxes and masks",
        ["preview-augmentation --images train/ --annotations train.json --augment strong --output sheet.png"],
    ),
    (
        "evaluate",
        predict.evaluate,
        predict.evaluate_arguments,
        "measure the COCO AP of a model",
        ["evaluate run --images val/ --annotations val.json", "evaluate model.keras --images bowl/val --json ap.json"],
    ),
    (
        "predict",
        predict.predict,
        predict.predict_arguments,
        "find instances in images; write pictures and COCO results",
        [
            "predict run photo.jpg",
            "predict model.keras photos/ --score 0.7 --output found",
            "predict --saved-model saved_model photos/",
        ],
    ),
    (
        "export",
        export.export,
        export.export_arguments,
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
        export.convert,
        export.convert_arguments,
        "turn torchvision's weights into a model, or a model into torchvision's weights",
        ["convert maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth coco.keras", "convert runs/first torchvision.safetensors"],
    ),
    (
        "check-data",
        data.check,
        data.check_arguments,
        "find what is wrong with a dataset before training, and propose a config; writes a page and JSON",
        ["check-data train.json --images train/", "check-data balloon/train --val balloon/val --output check"],
    ),
    (
        "convert-data",
        data.convert,
        data.convert_arguments,
        "write a dataset of any format (VIA, labelme, Pascal VOC, YOLO, label images, CSV, ...) as COCO JSON",
        ["convert-data balloon/train balloon.json", "convert-data data.yaml val.json --part val"],
    ),
    (
        "split",
        data.split,
        data.split_arguments,
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
