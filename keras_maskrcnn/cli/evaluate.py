"""keras-maskrcnn evaluate: the accuracy of a trained model, or of detections in a file, and a page on its errors."""

import pathlib

from keras_maskrcnn.cli.options import SUCCESS, Option, add_options, positive
from keras_maskrcnn.cli.predict import BATCH_SIZE
from keras_maskrcnn.cli.sources import DATASET, load_model, open_dataset

OPTIONS = (
    Option(
        "--results",
        "measure the detections in this file of COCO results, not a model's; their ids are those of --annotations",
        metavar="FILE",
    ),
    Option(
        "--max-detections",
        "highest-scoring detections in an image to evaluate (default: the larger of 100 and the model's limit)",
        type=positive(int),
    ),
    BATCH_SIZE,
    Option("--json", "JSON file for all figures, those of each class included"),
    Option(
        "--report",
        "folder for index.html, a page that shows what each kind of error costs, with the worst of each as pictures, "
        "and report.json with the numbers",
        metavar="DIR",
    ),
)
_MOST_EXPLAINED = 500  # images; the model runs again in each, step by step
_COCO_CAP = 100  # COCO's own number of detections that count


def evaluate_arguments(command):
    """Add the arguments of evaluate."""
    command.add_argument("model", nargs="?", help="a .keras file or a run folder; not with --results")
    add_options(command, DATASET, required=("images",))
    add_options(command, OPTIONS)


def check_evaluate(args):
    """Refuse arguments that do not belong together. Returns them."""
    if bool(args.model) == bool(args.results):
        received = f"the model {args.model} and --results {args.results}" if args.model else "neither"
        raise ValueError(
            f"evaluate needs a model or detections that one has made. Received: {received}. "
            "Name a .keras file or run folder, or a file of COCO results with --results."
        )
    if args.results and args.batch_size is not None:
        raise ValueError(
            f"--batch-size belongs to a model. Received: --batch-size {args.batch_size} with --results {args.results}. "
            "Leave it out."
        )
    return args


def needs_keras(args):
    """Whether a model will be loaded."""
    return not args.results


def evaluate(args):
    """Measure COCO AP. Several processes share the images; the first one tells and writes."""
    if args.results:
        return _evaluate_results(args)
    from keras_maskrcnn.runs.devices import first_tells, use_devices

    with use_devices(None) as team, first_tells(team):
        return _evaluate_model(args, team)


def _evaluate_model(args, team):
    from keras_maskrcnn.evaluation.coco import detect_dataset
    from keras_maskrcnn.evaluation.misses import can_explain

    model = load_model(args.model)
    dataset = _open(args, model.config)
    found = detect_dataset(model, dataset, args.max_detections, int(team.first), args.batch_size)
    # Stages are looked at where one process has the whole model.
    explained = model if team.count == 1 and can_explain(model.config) else None
    results = (found.truth, found.detections, found.iou_types)
    team.agree(lambda: _tell(args, dataset, *results, found.metrics(), explained))
    return SUCCESS


def _evaluate_results(args):
    from keras_maskrcnn.data.readers.folders import read_json
    from keras_maskrcnn.evaluation.figures import coco_metrics

    dataset = _open(args, None)
    truth, detections = dataset.to_coco(), read_json(args.results)
    if not isinstance(detections, list):
        raise ValueError(
            f"--results needs a list of COCO results. Received {args.results}, which holds a "
            f"{type(detections).__name__}. predict writes one as detections.json."
        )
    iou_types, options = _compared(dataset, truth, detections)
    if args.max_detections:
        options.pop("keypoint_detections", None)
    metrics = coco_metrics(truth, detections, args.max_detections or _COCO_CAP, iou_types, **options)
    _tell(args, dataset, truth, detections, iou_types, metrics)
    return SUCCESS


def _compared(dataset, truth, detections):
    """(What can be compared of results, `iou_types`, and further arguments of `coco_metrics`); completes the truth."""
    from keras_maskrcnn.config import branches_for_dataset

    def all_have(key):
        return all(isinstance(found, dict) and key in found for found in detections)

    iou_types = ("bbox", "segm") if all_have("segmentation") else ("bbox",)
    if dataset.keypoints is None or not all_have("keypoints"):
        return iou_types, {}
    (branch,) = branches_for_dataset(("keypoints",), dataset)
    for annotation in truth["annotations"]:
        annotation.update(branch.coco_truth(annotation))
    return (*iou_types, "keypoints"), branch.coco_options()


def _open(args, like):
    from keras_maskrcnn.data.learnable import nothing_to_learn

    dataset = open_dataset(args, args.images, args.annotations, "val", like)
    problem = nothing_to_learn(dataset)
    if problem:
        raise ValueError(f"Without objects to find, average precision is undefined. {problem}")
    return dataset


def _tell(args, dataset, truth, detections, iou_types, metrics, model=None):
    """Print the figures and write the files that were asked for; a model tells why it misses objects."""
    from keras_maskrcnn.evaluation.figures import format_metrics
    from keras_maskrcnn.host.files import write_json

    print(format_metrics(metrics))
    if args.json:
        write_json(args.json, metrics)
    if args.report:
        from keras_maskrcnn.evaluation.analysis import analyse
        from keras_maskrcnn.pages.errors_page import write_errors_page

        analysis = analyse(truth, detections, iou_types, int(metrics["max_detections"]), metrics)
        title = f"Errors of {args.results or args.model} on {dataset.name}"
        misses = None if model is None else _explain(model, dataset, analysis)
        print(f"what the errors are: {write_errors_page(args.report, analysis, dataset, title, misses)}")
        _link(args)


def _link(args):
    """Write the page of the run anew, with a link to a report that lies in the run's folder."""
    from keras_maskrcnn.pages.run_page import write_run_page
    from keras_maskrcnn.runs.folder import PAGE

    run_dir = pathlib.Path(args.report).resolve().parent
    of_run = args.model and pathlib.Path(args.model).resolve() in (run_dir, *run_dir.glob("*.keras"))
    if of_run and (run_dir / PAGE).is_file():
        print(f"linked in {write_run_page(run_dir)}")


def _explain(model, dataset, analysis):
    """MissTable of the images with objects that no detection matches: of all, or of evenly spread ones."""
    from keras_maskrcnn.evaluation.matching import NONE
    from keras_maskrcnn.evaluation.misses import explain_dataset
    from keras_maskrcnn.host.progress import progress_bar

    matches = analysis.main.matches
    images = sorted({int(image) for image in matches.gt_image[matches.gt_detection == NONE]})
    images = images[:: -(-len(images) // _MOST_EXPLAINED) or 1]
    with progress_bar(len(images), unit_name="image", verbose=1) as progress:
        misses = explain_dataset(model, dataset, [matches.image_ids[k] for k in images], on_image=progress.update)
    print(f"why objects were missed: {misses.summary}")
    return misses
