"""keras-maskrcnn evaluate | predict: the accuracy of a trained model, and what it finds in images."""

import pathlib

from keras_maskrcnn.cli.options import SUCCESS, add_options, positive
from keras_maskrcnn.cli.sources import DATASET, load_model, open_dataset

# evaluate --------------------------------------------------------------------------------------------------


def evaluate_arguments(command):
    """Add the arguments of evaluate."""
    command.add_argument("model", help="a .keras file or a run folder")
    add_options(command, DATASET, required=("images",))
    command.add_argument(
        "--max-detections",
        type=positive(int),
        help="highest-scoring detections in an image to evaluate (default: the larger of 100 and the model's limit)",
    )
    command.add_argument("--json", help="JSON file for all figures, those of each class included")


def evaluate(args):
    """Measure COCO AP."""
    from keras_maskrcnn.evaluation import evaluate_coco, format_metrics
    from keras_maskrcnn.host.files import write_json

    model = load_model(args.model)
    dataset = open_dataset(args, args.images, args.annotations, "val", model.config)
    metrics = evaluate_coco(model, dataset, args.max_detections, verbose=1)
    print(format_metrics(metrics))
    if args.json:
        write_json(args.json, metrics)
    return SUCCESS


# predict ---------------------------------------------------------------------------------------------------


def predict_arguments(command):
    """Add the arguments of predict."""
    command.add_argument("model", nargs="?", help="a .keras file or a run folder; not with --saved-model")
    command.add_argument("images", nargs="+", help="image files or folders")
    command.add_argument(
        "--saved-model",
        metavar="DIR",
        help="use this exported SavedModel instead of a model: the folder of one version, or of all versions",
    )
    command.add_argument("--output", default="predictions", help="folder for pictures and detections.json")
    command.add_argument("--score", type=float, default=0.5, help="leave out detections with a lower score")
    command.add_argument(
        "--tile", type=positive(int), help="cut larger images into overlapping squares of this side, image pixels"
    )
    command.add_argument(
        "--overlap",
        type=float,
        default=0.2,
        help="share of a tile's side that neighbours overlap by; choose at least the size of the objects",
    )


def check_predict(args):
    """Refuse arguments that do not belong together or name no image. Returns them with `images` as paths."""
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
    args.images = _image_paths(args.images)
    return args


def predict(args):
    """Find instances; write pictures and COCO results."""
    from PIL import Image

    from keras_maskrcnn.data import read_image
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.inference.visualize import draw_instances

    paths, predictor = args.images, _predictor(args)
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    results = []
    progress = progress_bar(len(paths), unit_name="image")
    for i, path in enumerate(paths):
        image = read_image(path, predictor.config.num_channels, predictor.config.image_dtype)
        found = predictor(image)
        # Numbered: two folders may hold files of the same name.
        Image.fromarray(draw_instances(image, found)).save(output / f"{i:04d}-{path.stem}.png")
        results += [result | {"file": str(path)} for result in found.to_coco(image_id=i)]
        progress.update(i + 1)
    write_json(output / "detections.json", results)
    print(f"{len(results)} instances in {len(paths)} images; pictures and detections.json in {output}")
    return SUCCESS


def _predictor(args):
    from keras_maskrcnn.inference.predictor import Predictor
    from keras_maskrcnn.serving import SavedModelPredictor

    if args.saved_model:
        return SavedModelPredictor(args.saved_model, args.score)
    return Predictor(load_model(args.model), args.score, args.tile, args.overlap)


def _image_paths(names):
    """The files that are named, and the image files directly inside the folders that are named."""
    from PIL import Image

    endings = {*Image.registered_extensions(), ".npy"}
    paths = []
    for path in map(pathlib.Path, names):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings) if path.is_dir() else [path]
        paths += inside
    if not paths:
        raise ValueError(
            f"predict needs at least one image. Received {names}, without an image file. Name image files or folders."
        )
    return paths
