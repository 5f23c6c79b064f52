"""keras-maskrcnn predict --engine ray: many images, several processes or machines, results as Parquet."""

import sys

from keras_maskrcnn.cli.engines import Engine
from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, Option, positive

OPTIONS = (
    Option(
        "--actors", "processes with the model (default: one for each GPU, or for every four CPUs)", type=positive(int)
    ),
    Option("--gpus", "of each actor (default: 1 where Ray finds one, else 0)", type=float),
    Option("--image-column", "column of Parquet files that holds the encoded images (default: the one with bytes)"),
    Option("--coco", "write detections.json and images.json as well", type=bool),
)


def check(args):
    """Refuse arguments that do not belong together."""
    if args.annotations:
        raise ValueError(
            f"--annotations works with --engine keras. Received: --engine ray and --annotations {args.annotations}. "
            "Leave it out: each row of the results has the path of its image."
        )
    if args.to:
        raise ValueError(
            f"--to works with the other engines. Received: --engine ray and --to {args.to}. Leave it out, and add "
            "--coco: keras_maskrcnn.labelling.write_labels makes the files from detections.json and images.json."
        )
    for flag, value in (
        ("--measure", args.measure),
        ("--pixel-size", args.pixel_size),
        ("--gigapixel", args.gigapixel),
        ("--track", args.track),
    ):
        if value:
            raise ValueError(
                f"{flag} works with the other engines. Received: --engine ray and {flag}. Leave it out; in Python "
                "km.measure takes instances and their image."
            )
    if args.gpus is not None and not 0 <= args.gpus < float("inf"):
        raise ValueError(f"--gpus must be a finite number, at least 0. Received: {args.gpus}. 0 uses CPUs alone.")
    return args


def run(args):
    """Find instances; write Parquet files. The status says if an image could not be read."""
    from keras_maskrcnn.host.progress import progress_bar
    from keras_maskrcnn.scale.models import read_fields, usual_score
    from keras_maskrcnn.scale.on_ray import need_ray, predict_on_ray

    need_ray()  # before files are read
    model = args.saved_model or args.model
    score = usual_score(read_fields(model).tuned) if args.score is None else args.score
    progress = progress_bar(None, unit_name="image")
    with progress:
        store = predict_on_ray(
            model,
            args.images,
            args.output,
            score,
            args.tile,
            args.overlap,
            args.batch_size,
            actors=args.actors,
            gpus=args.gpus,
            image_column=args.image_column,
            coco=bool(args.coco),
            progress=progress.update,
        )
    print(f"{store.instances} instances in {store.images - store.num_faulty} images; Parquet files in {store.place}")
    if store.num_faulty:
        told = [f"{path}: {error}" for path, error in store.faulty]
        told += [f"... and {store.num_faulty - len(told)} more"] if store.num_faulty > len(told) else []
        print(f"{store.num_faulty} of {store.images} images failed:", *told, sep="\n  ", file=sys.stderr)
    return CHECK_FAILED if store.num_faulty else SUCCESS


ENGINE = Engine(
    "Ray, on all CPUs, GPUs and machines of its cluster; restartable, for any number of images",
    check,
    run,
    OPTIONS,
    uses_models=False,
)
