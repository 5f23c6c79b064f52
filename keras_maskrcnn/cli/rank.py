"""keras-maskrcnn rank: which images to label next."""

import pathlib
import sys

from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, Option, add_options, finite, positive
from keras_maskrcnn.cli.predict import BATCH_SIZE, TOOLS
from keras_maskrcnn.cli.results import image_paths
from keras_maskrcnn.cli.sources import load_model

OPTIONS = (
    Option("--model", "a .keras file or a run folder"),
    Option("--count", "how many images to list (default: all)", type=positive(int)),
    Option("--labelled", "images that have labels, files or folders: what is like them comes later", nargs="+"),
    Option("--to", "write the detections as files that this labelling tool opens, into OUTPUT/TOOL", choices=TOOLS),
    Option(
        "--score",
        "leave out detections with a lower score in these files (default: 0.5; after tune that of each class)",
        type=finite,
    ),
    BATCH_SIZE,
    Option("--output", "folder for index.html, rank.csv and rank.json", "ranking"),
)


def rank_arguments(command):
    """Add the arguments of rank."""
    command.add_argument("images", nargs="+", help="image files or folders without labels")
    add_options(command, OPTIONS, required=("model",))


def check_rank(args):
    """The arguments with images as paths. Raises ValueError if there is none."""
    args.images = image_paths(args.images)
    args.labelled = image_paths(args.labelled) if args.labelled else []
    return args


def rank(args):
    """Write the list, the page and the files for the labelling tool. The status says if an image could not be read."""
    from keras_maskrcnn.evaluation.ranking import rank as order
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.pages.rank_page import write_rank_page

    model, output = load_model(args.model), pathlib.Path(args.output)
    with progress_bar(2 * len(args.images), unit_name="image") as progress:
        ranked, failures = order(model, args.images, args.count, args.labelled, args.batch_size, progress.update)
    _write_lists(output, ranked)
    write_rank_page(output / "index.html", ranked, model.config, f"Images to label next, by {args.model}")
    print(f"{len(ranked)} images in {output / 'rank.csv'}, with pictures in {output / 'index.html'}")
    if args.to:
        _write_drafts(args, output / args.to, ranked, model.config)
    if failures:
        told = [f"{source}: {error}" for source, error in failures]
        print(f"{len(failures)} of {len(args.images)} images failed:", *told, sep="\n  ", file=sys.stderr)
    return CHECK_FAILED if failures else SUCCESS


def _write_lists(output, ranked):
    import csv
    import io

    from keras_maskrcnn.host.files import write_json, write_text

    rows = [
        {
            "rank": number,
            "file": str(image.source),
            "uncertainty": round(image.uncertainty, 4),
            "distance": None if image.distance == float("inf") else round(image.distance, 4),
            "detections": len(image.results),
        }
        for number, image in enumerate(ranked, start=1)
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(output / "rank.csv", text.getvalue())
    write_json(output / "rank.json", rows)


def _write_drafts(args, folder, ranked, config):
    from keras_maskrcnn.inference.arguments import thresholds_of
    from keras_maskrcnn.labelling import write_labels
    from keras_maskrcnn.scale.models import usual_score

    score = usual_score(config.tuned) if args.score is None else args.score
    least = dict(zip(config.category_ids, thresholds_of(config, score), strict=True))
    images = [
        {"id": image.position, "file_name": str(image.source), "height": image.size[0], "width": image.size[1]}
        for image in ranked
    ]
    results = [one for image in ranked for one in image.results if one["score"] >= least[one["category_id"]]]
    names = zip(config.category_ids, config.class_names, strict=True)
    categories = [{"id": int(key), "name": name} for key, name in names]
    write_labels(args.to, folder, images, results, categories)
    print(f"files for {args.to} in {folder}")
