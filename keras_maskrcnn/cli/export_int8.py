"""export --int8: the images that give the ranges, and a report on what int8 costs in average precision."""

import contextlib
import math
import pathlib

from keras_maskrcnn.cli.options import Option, positive

CALIBRATE = Option("--calibrate", "images for --int8: a folder, or one image file", metavar="IMAGES")
COUNT = Option(
    "--calibration-images", "how many of them, evenly spread (default: 100)", type=positive(int), metavar="N"
)
VAL = Option("--val", "measure AP before and after --int8 on these images, or on a whole dataset", metavar="IMAGES")
VAL_ANNOTATIONS = Option("--val-annotations", "annotation file of --val, unless that holds it", metavar="FILE")
INT8 = (
    Option("--int8", "compute convolutions and dense layers in int8; needs --calibrate", type=bool),
    CALIBRATE,
    COUNT,
    VAL,
    VAL_ANNOTATIONS,
)
_DEFAULT_COUNT = 100
_FIGURES = ("segm_AP", "segm_AP50", "bbox_AP", "bbox_AP50")


def check_int8(args):
    """Refuse options of int8 that lack the others they need. Returns the arguments."""
    needs = ((args.calibrate, INT8[0]), (args.int8, CALIBRATE))
    if bool(args.int8) != bool(args.calibrate):
        missing = next(option for given, option in needs if given)
        raise ValueError(
            f"int8 needs images, for the ranges of its layers: --int8 --calibrate IMAGES. Received: no {missing.flag}. "
            f"Add {missing.flag}; images like those to come, with objects, are best."
        )
    for option, basis in ((COUNT, INT8[0]), (VAL, INT8[0]), (VAL_ANNOTATIONS, VAL)):
        if getattr(args, option.name) and not getattr(args, basis.name):
            raise ValueError(
                f"{option.flag} goes with {basis.flag}. Received: {option.flag} alone. Add {basis.flag}, or leave "
                f"{option.flag} out."
            )
    if args.int8 and args.fp16:
        raise ValueError("Weights become int8 or float16, not both. Received: --int8 --fp16. Leave one of them out.")
    return args


@contextlib.contextmanager
def calibrated(args, model):
    """What `--int8` adds to an export.

    Args:
        args: parsed arguments, checked. model: MaskRCNN.

    Yields:
        The calibration images or None, and a function of the export that prints its size and the average precision.
    """
    if not args.int8:
        yield None, lambda written: None
        return
    from keras_maskrcnn.cli.results import image_paths
    from keras_maskrcnn.host.progress import progress_bar

    paths = spread(image_paths([args.calibrate]), args.calibration_images or _DEFAULT_COUNT)
    dataset = _open_val(args, model.config)
    print(f"calibration with {len(paths)} images")
    with progress_bar(len(paths), unit_name="image", verbose=1) as progress:
        yield _told(paths, progress), lambda written: _report(written, model, dataset)


def _told(paths, progress):
    """The paths one by one; the bar shows how many are done."""
    for number, path in enumerate(paths):
        progress.update(number)
        yield path
    progress.update(len(paths))


def spread(paths, count):
    """At most `count` of the paths, evenly spread."""
    return [paths[number * len(paths) // count] for number in range(count)] if len(paths) > count else paths


def _open_val(args, config):
    if not args.val:
        return None
    from keras_maskrcnn.cli.words import words_of_dataset
    from keras_maskrcnn.data import open_dataset
    from keras_maskrcnn.data.classes import is_named
    from keras_maskrcnn.host.messages import in_words

    names = config.class_names if is_named(config.class_names) else None
    source, folder = (args.val, None) if args.val_annotations is None else (args.val_annotations, args.val)
    words = words_of_dataset("val-", args.val_annotations)
    with in_words({name: text.replace("--val-images", "--val") for name, text in words.items()}):
        return open_dataset(source, folder, part="val", class_names=names, category_ids=config.category_ids)


def _report(written, model, dataset):
    """Print the export's size beside that of the weights in float32, and the AP of both on the dataset."""
    from keras_maskrcnn import evaluation
    from keras_maskrcnn.inference.predictor import Predictor
    from keras_maskrcnn.scale.models import open_predictor

    files = [written] if pathlib.Path(written).is_file() else [file for file in written.rglob("*") if file.is_file()]
    weights = sum(4 * math.prod(weight.shape) for weight in model.weights)
    print(f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB; weights in float32: {weights / 1e6:.1f} MB")
    if dataset is None:
        return
    sides = Predictor(model), open_predictor(written)  # both with the thresholds of the model
    before, after = (evaluation.evaluate_coco(each, dataset, verbose=1) for each in sides)
    print(f"{'':10} {'float32':>8} {'int8':>8} {'change':>8}   on {len(dataset)} images of {dataset.name}")
    for name in (name for name in _FIGURES if name in before):
        print(f"{name:10} {before[name]:8.4f} {after[name]:8.4f} {after[name] - before[name]:+8.4f}")
