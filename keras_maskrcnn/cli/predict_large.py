"""predict: images that are read in parts, and the options of measurements, which both kinds of images have."""

import contextlib
import importlib.util
import pathlib

from keras_maskrcnn.cli.options import Option, positive
from keras_maskrcnn.cli.results import image_paths, short_stem

GIGAPIXEL = Option(
    "--gigapixel",
    "read the images tile by tile, without holding one; write objects.csv, objects.geojson and labels.zarr of each "
    "into OUTPUT/NUMBER-NAME, so that a killed run goes on. It is not needed for zarr folders, slides and TIFF files "
    "of more than 67 million pixels",
    type=bool,
)
MEASURING = (
    Option(
        "--measure",
        "write size, shape, place and brightness of each object into this .csv or .parquet file as well",
        metavar="FILE",
    ),
    Option(
        "--pixel-size",
        "width and height of a pixel in micrometres, or one number for both, for measurements (default: what each "
        "image's metadata say)",
        type=positive(float),
        nargs="+",
        metavar="UM",
    ),
)
_TILE = 1024  # image pixels, without --tile


def divide_images(args):
    """Put the images that are read whole into `images`, as paths, and those that are read in parts into `large`.

    Raises:
        ValueError: there is no image, or an option does not go with large ones.
        ImportError: there are large ones, and zarr is not installed.
    """
    from keras_maskrcnn.gigapixels.sources import is_large, is_zarr

    folders = [name for name in args.images if is_large(name) and is_zarr(name)]
    others = [name for name in args.images if name not in folders]
    paths = image_paths(others) if others else []
    in_parts = [bool(args.gigapixel) or is_large(path) for path in paths]
    args.images = [path for path, large in zip(paths, in_parts, strict=True) if not large]
    args.large = [path for path, large in zip(paths, in_parts, strict=True) if large]
    args.large += [pathlib.Path(name) for name in folders]
    for option, value in (("--annotations", args.annotations), ("--to", args.to)) if args.large else ():
        if value:
            raise ValueError(
                f"{option} works with images that are read whole. Received: {option} {value} and {args.large[0]}. "
                "Leave it out: objects.geojson and labels.zarr are always written of large images."
            )
    if args.large and importlib.util.find_spec("zarr") is None:
        raise ImportError(
            f"Reading {args.large[0]} in parts needs zarr. Received: it is not installed. "
            "Install it: pip install 'keras-maskrcnn[wsi]'."
        )


def check_measuring(args):
    """Raise ValueError about --measure and --pixel-size. After `divide_images`."""
    if args.pixel_size is not None and not (args.measure or args.large):
        raise ValueError(
            f"--pixel-size is for --measure. Received: --pixel-size {' '.join(map(str, args.pixel_size))} alone. "
            "Add --measure FILE.csv, or leave it out."
        )
    from keras_maskrcnn.measuring.measurements import checked_pixel_size
    from keras_maskrcnn.measuring.table_files import check_table_file

    checked_pixel_size(args.pixel_size)
    if args.measure:
        check_table_file(args.measure)


def open_table(args):
    """A context manager of the TableFile of --measure, or of None."""
    if not args.measure:
        return contextlib.nullcontext()
    from keras_maskrcnn.measuring.table_files import TableFile

    return TableFile(args.measure)


def predict_large_images(predictor, args, table):
    """Predict the images of `args.large`, one after the other. Returns a list of str: what went wrong with which.

    Args:
        predictor: ImagePredictor. args: checked arguments. table: TableFile of --measure, or None.
    """
    from keras_maskrcnn.gigapixels import predict_large
    from keras_maskrcnn.scale.models import digest_of

    identity = {"digest": digest_of(args.saved_model or args.model), "score": args.score} if args.large else None
    failures = []
    for number, path in enumerate(args.large):
        folder = pathlib.Path(args.output) / f"{number:04d}-{short_stem(path.stem)}"
        settings = {"tile": args.tile or _TILE, "overlap": args.overlap, "batch_size": args.batch_size}
        settings |= {"pixel_size": args.pixel_size, "identity": identity, "progress": bar_of("tile")}
        try:
            done = predict_large(predictor, path, folder, **settings)
        except (ValueError, MemoryError) as error:
            failures.append(f"{path}: {str(error) or type(error).__name__}")
            continue
        print(f"{done.objects} objects of {path} in {folder}: objects.csv, objects.geojson and labels.zarr")
        if table is not None:
            table.add_csv(folder / "objects.csv")
    return failures


def bar_of(unit):
    """A function of (finished tiles, all tiles) that shows a bar. `unit`: str, what it counts."""
    from keras_maskrcnn.host.progress import progress_bar

    bars = []

    def show(done, total):
        if not bars:
            bars.append(progress_bar(total, unit_name=unit))
        bars[0].update(done)

    return show
