"""keras-maskrcnn evaluate | predict: what a trained model is worth, and what it finds."""

import pathlib

from keras_maskrcnn.cli.options import SUCCESS, dataset_arguments, load_model, open_dataset, positive

# evaluate --------------------------------------------------------------------------------------------------


def evaluate_arguments(command):
    """Arguments of evaluate."""
    command.add_argument("model", help="a .keras file or a run folder")
    dataset_arguments(command)
    command.add_argument("--max-detections", type=positive(int), help="detections an image that count")
    command.add_argument("--json", help="file for the figures, classes included")


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
    """Arguments of predict."""
    command.add_argument("model", nargs="?", help="a .keras file or a run folder; not with --saved-model")
    command.add_argument("images", nargs="+", help="image files or folders")
    command.add_argument("--saved-model", metavar="DIR", help="an export instead: its folder, or that of its versions")
    command.add_argument("--output", default="predictions", help="folder for pictures and detections.json")
    command.add_argument("--score", type=float, default=0.5, help="detections below are left out")
    command.add_argument(
        "--tile", type=positive(int), help="image pixels: cut larger images into overlapping squares of this side"
    )
    command.add_argument("--overlap", type=float, default=0.2, help="share of a tile's side; not below the objects'")


def predict(args):
    """Find instances; write pictures and COCO results."""
    from PIL import Image

    from keras_maskrcnn.data import read_image
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.inference.visualize import draw_instances

    paths, predictor = _paths_and_predictor(args)
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


def _paths_and_predictor(args):
    from keras_maskrcnn.inference.predictor import Predictor
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
    return paths, Predictor(load_model(args.model), args.score, args.tile, args.overlap)


def _image_paths(names):
    """Files, and the image files directly inside folders."""
    from PIL import Image

    endings = {*Image.registered_extensions(), ".npy"}
    paths = []
    for path in map(pathlib.Path, names):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings) if path.is_dir() else [path]
        paths += inside
    if not paths:
        raise ValueError(f"There must be an image to predict on. Received {names}: no image files in there.")
    return paths
