"""keras-maskrcnn predict: what a trained model finds in images."""

import functools
import sys

from keras_maskrcnn.cli import predict_on_ray
from keras_maskrcnn.cli.engines import Engine, add_engines, check_engine
from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, Option, finite, positive
from keras_maskrcnn.cli.predict_large import (
    GIGAPIXEL,
    MEASURING,
    check_measuring,
    divide_images,
    open_table,
    predict_large_images,
)
from keras_maskrcnn.cli.predict_video import TRACK, predict_videos, take_videos, tracking_arguments
from keras_maskrcnn.cli.results import ResultFiles, read_known_images
from keras_maskrcnn.host.messages import in_words

BATCH_SIZE = Option(
    "--batch-size",
    "most images that the model sees at once (default: 8 on a GPU or TPU, 1 on CPUs, 1 with --saved-model)",
    type=positive(int),
)

PROVIDER = Option("--provider", "onnxruntime's execution provider: CPU, CUDA, TensorRT, ... (default: CPU)")
DEVICE = Option("--device", "OpenVINO's device: CPU, GPU, AUTO, ... (default: CPU)")

TOOLS = (  # those of labelling/, which imports numpy
    "labelme", "coco", "cvat", "via", "yolo", "voc", "label-studio", "labels", "labels-tiff", "geojson"
)  # fmt: skip

# predict ---------------------------------------------------------------------------------------------------


def predict_arguments(command):
    """Add the arguments of predict."""
    command.add_argument(
        "model",
        nargs="?",
        help="a .keras file, a run folder, an .onnx or .tflite file or an export for OpenVINO; not with --saved-model",
    )
    command.add_argument(
        "images",
        nargs="+",
        help="image files or folders, addresses of them (s3://, gs://, http://, ...), or videos; with --engine ray "
        "folders with their subfolders, .txt files that list images, and .parquet files",
    )
    command.add_argument(
        "--saved-model",
        metavar="DIR",
        help="use this exported SavedModel instead of a model: the folder of one version, or of all versions",
    )
    command.add_argument(
        "--output",
        default="predictions",
        help="folder for pictures, detections.json and images.json; with --engine ray a folder or address for "
        "Parquet files",
    )
    command.add_argument(
        "--annotations",
        metavar="FILE",
        help="take image ids and category ids from this dataset, so that pycocotools compares detections.json with it "
        "(default: images are numbered from 1, and images.json lists them)",
    )
    command.add_argument(
        "--to",
        choices=TOOLS,
        metavar="TOOL",
        help="write files that a labelling tool opens for correction as well, label images, or GeoJSON for QuPath, "
        f"into OUTPUT/TOOL: {', '.join(TOOLS)}",
    )
    for option in (GIGAPIXEL, *MEASURING, TRACK):
        option.add_to(command)
    command.add_argument(
        "--score",
        type=finite,
        help="leave out detections with a lower score (default: 0.5; after tune the threshold of each class)",
    )
    command.add_argument(
        "--tile", type=positive(int), help="cut larger images into overlapping squares of this side, image pixels"
    )
    command.add_argument(
        "--overlap",
        type=finite,
        default=0.2,
        help="share of a tile's side that neighbours overlap by; choose at least the size of the objects",
    )
    BATCH_SIZE.add_to(command)
    add_engines(command, ENGINES)


def check_predict(args):
    """Refuse arguments that do not belong together. Returns them as the engine takes them."""
    if not (args.saved_model or args.model):
        raise ValueError(
            "predict needs a model and images. "
            f"Received: {args.images} alone. Name a .keras file, a run folder or an .onnx file first, or a SavedModel "
            "by --saved-model."
        )
    if args.saved_model and args.model:  # argparse took the first image for the model
        args.images, args.model = [args.model, *args.images], None
    if args.saved_model and not _is_saved_model(args.saved_model):
        raise ValueError(
            "--saved-model must name the folder of an export, with saved_model.pb or with numbered versions. Received: "
            f"{args.saved_model}. A .keras file or run folder goes first, without --saved-model."
        )
    return check_engine(args, ENGINES)


def predict(args):
    """Find instances, as the engine does. Returns the exit status."""
    return ENGINES[args.engine].run(args)


def needs_keras(args):
    """Whether this process needs Keras for the engine."""
    return ENGINES[args.engine].uses_models


def _check_here(args):
    """The arguments with `images` as paths, `large`, those that are read in parts, and `videos`.

    Raises ValueError if there is no image, or about options that do not belong together.
    """
    take_videos(args)
    divide_images(args)
    check_measuring(args)
    args.known = None if args.annotations is None else read_known_images(args.annotations, args.images)
    return args


def _predict_here(make_predictor, args):
    """Find instances in all images. The status says if one could not be read.

    Args:
        make_predictor: function from arguments to a predictor with `stream` and `config`.
    """
    predictor = make_predictor(tracking_arguments(args))
    with open_table(args) as table:
        failures = _predict_whole(predictor, args, table) if args.images else []
        failures += predict_large_images(predictor, args, table)
    failures += predict_videos(predictor, args)
    if args.measure:
        print(f"measurements of {table.num_rows} objects in {args.measure}")
    if failures:
        count = len(args.images) + len(args.large) + len(args.videos)
        print(f"{len(failures)} of {count} images failed:", *failures, sep="\n  ", file=sys.stderr)
    return CHECK_FAILED if failures else SUCCESS


def _predict_whole(predictor, args, table):
    """Predict the images that are read whole; write pictures, COCO results and files for a tool.

    Returns a list of str: what went wrong with which image.
    """
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.measuring.measurements import measured_rows

    progress = progress_bar(len(args.images), unit_name="image")
    failures = []
    with ResultFiles(args.output, predictor.config, args.known) as files:

        def finish(index, image, found):
            path = args.images[index]
            rows = [] if table is None else measured_rows(found, path, args.pixel_size)
            return files.draw(index, path, image, found), rows

        for answer in predictor.stream(args.images, finish, args.batch_size):
            if answer.error is None:
                drawn, rows = answer.result
                files.add(drawn)
                if table is not None:
                    table.add(rows)
            else:
                failures.append(f"{answer.source}: {str(answer.error) or type(answer.error).__name__}")
            progress.update(answer.index + 1)
    print(files.summary())
    if args.to:
        from keras_maskrcnn.labelling import write_labels

        place = files.output / args.to
        write_labels(args.to, place, files.images, files.results, files.categories())
        print(f"files for {args.to} in {place}")
    return failures


def _is_saved_model(path):
    from keras_maskrcnn.scale.models import is_saved_model

    return is_saved_model(path)


def _predictor(args, **options):
    from keras_maskrcnn.scale.models import open_predictor

    path = args.saved_model or args.model
    return open_predictor(path, args.score, args.tile, args.overlap, usual=not args.track, **options)


def _runtime(name, device, also=None):
    """The engine that runs an .onnx file in this runtime.

    Args:
        name: of the runtime. device: the Option that says where it computes.
        also: None, or (name of a function of `scale/models.py` that tells its own exports, what they are).
    """

    def check(args):
        from keras_maskrcnn.scale import models

        path = args.saved_model or args.model
        if not models.is_onnx(path) and not (also and getattr(models, also[0])(path)):
            files = " and ".join([".onnx files", *([also[1]] if also else [])])
            raise ValueError(
                f"--engine {name} runs {files}. Received: {path}. "
                "Make one: keras-maskrcnn export MODEL model.onnx --format onnx."
            )
        return _check_here(args)

    def make_predictor(args):
        from keras_maskrcnn.scale.models import is_onnx

        options = {"runtime": name} if is_onnx(args.model) else {}
        place = getattr(args, device.name)
        with in_words({"device": device.flag}):
            return _predictor(args, **options, **({} if place is None else {"device": place}))

    run = functools.partial(_predict_here, make_predictor)
    return Engine(f"an .onnx file{f' or {also[1]}' if also else ''} in {name}", check, run, (device,))


# The engines of `predict`. One that runs in this process needs a function that opens its predictor.
ENGINES = {
    "keras": Engine(
        "in this process, with pictures; .onnx files in onnxruntime, exports for OpenVINO in OpenVINO",
        _check_here,
        functools.partial(_predict_here, lambda args: _predictor(args)),
    ),
    "onnxruntime": _runtime("onnxruntime", PROVIDER),
    "openvino": _runtime("openvino", DEVICE, ("is_openvino", "exports for OpenVINO")),
    "ray": predict_on_ray.ENGINE,
}
