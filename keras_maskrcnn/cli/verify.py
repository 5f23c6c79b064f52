"""keras-maskrcnn verify: how far an export differs from its model, on the user's images."""

import pathlib

from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, Option, add_options, finite, positive

LIMITS = (
    Option("--max-boxes", "largest difference of a box coordinate that passes, image pixels", 0.05, positive(float)),
    Option("--max-scores", "largest difference of a score that passes", 1e-3, positive(float)),
    Option("--min-masks", "least share of equal mask pixels that passes, in percent", 99.9, finite),
    Option(
        "--max-unpaired",
        "number of detections without a partner that passes; those as near to the score threshold as scores may differ "
        "do not count",
        0,
        int,
    ),
)
OPTIONS = (Option("--json", "JSON file for all figures, those of each pair included", metavar="FILE"),)


def verify_arguments(command):
    """Add the arguments of verify."""
    command.add_argument("export", help="a SavedModel's folder, an .onnx file, a .tflite file, ...")
    command.add_argument("--against", required=True, metavar="MODEL", help="its model: a .keras file or a run folder")
    command.add_argument("--images", required=True, nargs="+", metavar="PATH", help="image files or folders of them")
    add_options(command, OPTIONS)
    add_options(command.add_argument_group("limits"), LIMITS)


def check_verify(args):
    """Look for the files before Keras is imported. Returns the arguments, with `images` as paths."""
    from keras_maskrcnn.cli.results import image_paths

    for name, path in (("EXPORT", args.export), ("--against", args.against)):
        if not pathlib.Path(path).exists():
            raise ValueError(f"{name} must name a file or folder. Received: {path}, which does not exist.")
    if not 0 <= args.min_masks <= 100:
        raise ValueError(f"--min-masks is a percentage, 0 to 100. Received: {args.min_masks}. The default is 99.9.")
    if args.max_unpaired < 0:
        raise ValueError(f"--max-unpaired is a number of detections. Received: {args.max_unpaired}. The default is 0.")
    args.images = image_paths(args.images)
    return args


def verify(args):
    """Compare an export with its model. The status says whether the differences are within the limits."""
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.scale.models import open_predictor
    from keras_maskrcnn.serving.verifying import Limits, verify

    export, model = open_predictor(args.export), open_predictor(args.against)
    if getattr(export, "image_size", None):
        print("images are resized to {} x {} pixels, the only size of the export".format(*export.image_size))
    compared = verify(export, model, args.images, progress_bar(len(args.images), unit_name="image").update)
    limits = Limits(args.max_boxes, args.max_scores, args.min_masks / 100, args.max_unpaired)
    print(compared.report(limits))
    if args.json:
        _write_figures(args.json, compared, limits)
    if compared.passes(limits):
        return SUCCESS
    print("\nThe differences are above the limits. Exports in float16, bfloat16 or int8 differ by design: set limits.")
    return CHECK_FAILED


def _write_figures(path, compared, limits):
    from keras_maskrcnn.host.files import write_json

    figures = {name: value for name, value in vars(compared).items() if name != "unpaired"}
    unpaired = [one._asdict() for one in compared.unpaired]
    write_json(path, {"passes": compared.passes(limits), "limits": limits._asdict(), **figures, "unpaired": unpaired})
