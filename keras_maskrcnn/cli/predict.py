"""keras-maskrcnn predict: what a trained model finds in images."""

import functools
import sys

from keras_maskrcnn.cli import predict_on_ray
from keras_maskrcnn.cli.engines import Engine, add_engines, check_engine
from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, Option, finite, positive
from keras_maskrcnn.cli.results import ResultFiles, image_paths, read_known_images
from keras_maskrcnn.cli.sources import load_model

BATCH_SIZE = Option(
    "--batch-size",
    "most images that the model sees at once (default: 8 on a GPU or TPU, 1 on CPUs, 1 with --saved-model)",
    type=positive(int),
)

# predict ---------------------------------------------------------------------------------------------------


def predict_arguments(command):
    """Add the arguments of predict."""
    command.add_argument("model", nargs="?", help="a .keras file or a run folder; not with --saved-model")
    command.add_argument(
        "images",
        nargs="+",
        help="image files or folders, or addresses of them (s3://, gs://, http://, ...); with --engine ray folders "
        "with their subfolders, .txt files that list images, and .parquet files",
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
    command.add_argument("--score", type=finite, default=0.5, help="leave out detections with a lower score")
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
    if args.saved_model and args.tile:
        raise ValueError(
            f"--tile works with a model, not with an export. Received: --saved-model {args.saved_model} and --tile "
            f"{args.tile}. Name the .keras file or run folder that was exported."
        )
    if not (args.saved_model or args.model):
        raise ValueError(
            "predict needs a model and images. "
            f"Received: {args.images} alone. Name a .keras file or run folder first, or an export by --saved-model."
        )
    if args.saved_model and args.model:  # argparse took the first image for the model
        args.images, args.model = [args.model, *args.images], None
    return check_engine(args, ENGINES)


def predict(args):
    """Find instances, as the engine does. Returns the exit status."""
    return ENGINES[args.engine].run(args)


def needs_keras(args):
    """Whether this process needs Keras for the engine."""
    return ENGINES[args.engine].uses_models


def _check_here(args):
    """The arguments with `images` as paths. Raises ValueError if there is no image."""
    args.images = image_paths(args.images)
    args.known = None if args.annotations is None else read_known_images(args.annotations, args.images)
    return args


def _predict_here(open_predictor, args):
    """Find instances; write pictures and COCO results. The status says if an image could not be read.

    Args:
        open_predictor: function from arguments to a predictor with `stream` and `config`.
    """
    from keras_maskrcnn.host.progress import progress_bar

    predictor = open_predictor(args)
    progress = progress_bar(len(args.images), unit_name="image")
    failures = []
    with ResultFiles(args.output, predictor.config, args.known) as files:
        finish = lambda index, image, found: files.draw(index, args.images[index], image, found)  # noqa: E731
        for answer in predictor.stream(args.images, finish, args.batch_size):
            if answer.error is None:
                files.add(answer.result)
            else:
                failures.append(f"{answer.source}: {str(answer.error) or type(answer.error).__name__}")
            progress.update(answer.index + 1)
    print(files.summary())
    if failures:
        print(f"{len(failures)} of {len(args.images)} images failed:", *failures, sep="\n  ", file=sys.stderr)
    return CHECK_FAILED if failures else SUCCESS


def _predictor(args):
    from keras_maskrcnn.inference.predictor import Predictor
    from keras_maskrcnn.serving import SavedModelPredictor

    if args.saved_model:
        return SavedModelPredictor(args.saved_model, args.score)
    return Predictor(load_model(args.model), args.score, args.tile, args.overlap)


# The engines of `predict`. One that runs in this process needs a function that opens its predictor.
ENGINES = {
    "keras": Engine(
        "in this process, with pictures",
        _check_here,
        functools.partial(_predict_here, lambda args: _predictor(args)),
    ),
    "ray": predict_on_ray.ENGINE,
}
