"""The commands that deal with datasets alone: keras-maskrcnn check-data | convert-data | split. No framework needed."""

import argparse
import collections
import dataclasses
import pathlib
import shlex
import sys

from keras_maskrcnn.cli.options import CHECK_FAILED, SUCCESS, add_options, seed
from keras_maskrcnn.cli.sources import (
    CLASS_ATTRIBUTE,
    FORMAT,
    READING,
    SKIP_FAULTY,
    inspect_source,
    open_source,
    unused_in_both,
)
from keras_maskrcnn.host.messages import in_words

FEW_IMAGES = 5000  # with fewer, the proposed command starts from COCO's weights
_NOT_OF_ENTRIES = ("nothing to learn", "other classes in validation")  # errors that --skip-faulty does not help with


def _source_arguments(command):
    command.add_argument("source", help="annotation file, or the folder that holds the dataset")
    command.add_argument("--images", help="folder of the images, if the annotations do not name it")
    command.add_argument(
        "--part",
        help="part to read of YOLO or Pascal VOC data: train, val or test (default: train for YOLO, all for VOC)",
    )
    add_options(command, READING)


# convert-data ----------------------------------------------------------------------------------------------


def convert_arguments(command):
    """Add the arguments of convert-data."""
    _source_arguments(command)
    command.add_argument("output", help="COCO file to write, .json")


def convert(args):
    """Write a dataset of any format as COCO JSON. The status says if it has no object to learn from."""
    from keras_maskrcnn.data.coco_output import coco_image_dir
    from keras_maskrcnn.data.learnable import nothing_to_learn

    output = pathlib.Path(args.output)
    if output.suffix.lower() != ".json":
        raise ValueError(f"convert-data writes a .json file. Received {output}. Name it {output.with_suffix('.json')}.")
    dataset = open_source(args, args.source, args.images, args.part)
    content = dataset.to_coco(output)
    print(f"{len(dataset)} images, {len(content['annotations'])} objects of {len(dataset.class_names)} classes")
    print(f"wrote {output}; use it with: --images {coco_image_dir(dataset, output)} --annotations {output}")
    problem = nothing_to_learn(dataset)
    if problem:
        print(problem, file=sys.stderr)
    return CHECK_FAILED if problem else SUCCESS


# split -----------------------------------------------------------------------------------------------------


def split_arguments(command):
    """Add the arguments of split."""
    _source_arguments(command)
    command.add_argument("output", help="folder for the COCO files, one for each part")
    command.add_argument(
        "--fractions",
        type=_fraction,
        nargs="+",
        default=[0.8, 0.2],
        help="share of the images in each part (default: 0.8 0.2)",
    )
    command.add_argument(
        "--names", nargs="+", help="names of the parts (default: train, val and, for a third part, test)"
    )
    command.add_argument("--seed", type=seed, default=0, help="seed of the random split")
    command.add_argument(
        "--exact-copies-only",
        action="store_true",
        help="do not search for re-saved copies of an image, only for identical files",
    )


def split(args):
    """Divide a dataset into parts: classes in proportion, all copies of an image in the same part."""
    from keras_maskrcnn.data.coco_output import coco_image_dir
    from keras_maskrcnn.data.duplicates import NEAR_BITS, duplicate_groups
    from keras_maskrcnn.data.split import split_dataset, write_parts
    from keras_maskrcnn.host.progress import progress_bar

    names = args.names or ["train", "val", "test"][: len(args.fractions)]
    if len(names) != len(args.fractions) or len(set(names)) != len(names):
        raise ValueError(f"Every fraction needs a name of its own. Received {args.fractions} and {names}. Use --names.")
    dataset = open_source(args, args.source, args.images, args.part)
    progress = progress_bar(len(dataset), unit_name="image")
    groups = duplicate_groups(
        dataset, None if args.exact_copies_only else NEAR_BITS, progress=lambda done: progress.update(done)
    )
    parts = split_dataset(dataset, args.fractions, args.seed, groups)
    output = pathlib.Path(args.output)
    write_parts(output, dict(zip(names, parts, strict=True)), _copies(dataset, groups))
    print(_table(dataset, names, parts))
    print(f"{len(groups)} groups of copies, each kept in one part ({output / 'copies.json'})")
    for name, part in zip(names, parts, strict=True):
        path = output / f"{name}.json"
        print(f"{name}: --images {coco_image_dir(part, path)} --annotations {path}")
    return SUCCESS


# check-data ------------------------------------------------------------------------------------------------


def check_arguments(command):
    """Add the arguments of check-data."""
    command.add_argument("source", help="annotation file, or the folder that holds the dataset")
    command.add_argument("--images", help="folder of the images, if the annotations do not name it")
    command.add_argument("--val", help="validation data: checked, too, and compared to find images that are in both")
    command.add_argument("--val-images", help="folder of the validation images, if their annotations do not name it")
    command.add_argument(
        "--every-image",
        action="store_true",
        help="read all pixels and masks of more than 20000 images, too, where else their headers and a sample are read",
    )
    command.add_argument("--output", default="check", help="folder to write index.html and report.json into")
    add_options(command, (FORMAT, CLASS_ATTRIBUTE))
    command.set_defaults(skip_faulty=True)


def check(args):
    """Inspect every image and object; write the findings as a page and as JSON. The status says if any is an error."""
    import time

    from keras_maskrcnn import checkup
    from keras_maskrcnn.checkup.findings import ERROR
    from keras_maskrcnn.host.files import write_json
    from keras_maskrcnn.host.locks import locked_folder

    started = time.monotonic()
    train = inspect_source(args, args.source, args.images, "train", args.every_image)
    extra = _val_findings(args, train) if args.val else []
    report = checkup.make_report(train, checkup.propose(train), extra, time.monotonic() - started)
    output = pathlib.Path(args.output)
    errors = [finding for finding in report["findings"] if finding["severity"] == ERROR]
    command = _training_command(args, output / "report.json", len(train.dataset), errors)
    with locked_folder(output):
        write_json(output / "report.json", report)
        checkup.write_page(report, train.dataset, output / "index.html", command)
    print(_summary(report))
    then = "mend the errors, then train" if errors else "train"
    print(f"wrote {output / 'index.html'} and {output / 'report.json'}; {then} with: {command}")
    return CHECK_FAILED if errors else SUCCESS


def _val_findings(args, train):
    """Findings about the validation data, with the training data's classes, joined by name."""
    from keras_maskrcnn.checkup.findings import ERROR, NOTE, Finding
    from keras_maskrcnn.checkup.inspection import leaks
    from keras_maskrcnn.data.classes import ClassesDiffer, is_named

    names = train.dataset.class_names
    classes = {"class_names": names if is_named(names) else None, "category_ids": train.dataset.category_ids}
    try:
        with in_words({"image_dir": "--val-images"}):
            val = inspect_source(args, args.val, args.val_images, "val", args.every_image, **classes)
    except ClassesDiffer as error:
        return [Finding(ERROR, "other classes in validation", f"validation: {args.val}", str(error))]
    unused = unused_in_both(train.dataset, val.dataset)
    message = f"{unused}: no object has them and the validation data lack them, so `train` leaves them out."
    left_out = [Finding(NOTE, "class in neither part", train.dataset.name, message)] if unused else []
    return [*(_of_val(finding) for finding in val.findings), *left_out, *leaks(train, val)]


def _training_command(args, report, num_images, errors):
    """The command that trains with a report's proposal: with the options that reading the data needed, too."""
    words = ["keras-maskrcnn", "train", "--config", str(report)]
    for prefix, source, images in (("", args.source, args.images), ("val-", args.val or "VALIDATION", args.val_images)):
        words += [f"--{prefix}images", images or source]
        words += [f"--{prefix}annotations", source] if images else []
    for option in (FORMAT, CLASS_ATTRIBUTE):
        value = getattr(args, option.name)
        words += [] if value is None else [option.flag, value]
    words += [SKIP_FAULTY.flag] if any(finding["kind"] not in _NOT_OF_ENTRIES for finding in errors) else []
    words += ["--weights", "coco"] if num_images < FEW_IMAGES else []  # too few to train random weights
    return shlex.join(words)


def _of_val(finding):
    """Mark a finding as one of the validation data, whose images the page does not show."""
    return dataclasses.replace(finding, where=f"validation: {finding.where}", image=None)


def _summary(report):
    kinds = collections.Counter((finding["severity"], finding["kind"]) for finding in report["findings"])
    lines = [f"{report['images']} images, {report['objects']} objects, {report['seconds']:.1f} s"]
    lines += [f"  {severity}: {kind}: {count}" for (severity, kind), count in kinds.items()]
    recall = report["anchor_recall"][-1]["recall_50"]
    lines += (
        []
        if recall is None
        else [f"anchors overlap {recall:.1%} of the objects by at least half at the proposed input size"]
    )
    lines += [f"pixels: {_pixel_line(kind)}" for kind in report["pixels"]]
    return "\n".join(lines)


def _pixel_line(kind):
    alpha = " and transparency" if kind["alpha"] else ""
    figures = [f"{name} {', '.join(f'{value:g}' for value in kind[name])}" for name in ("mean", "std")]
    span = f"{min(kind['least']):g} to {max(kind['most']):g}"
    return (
        f"{kind['images']} images, {kind['channels']} channels{alpha} of {kind['dtype']}, {span}; {'; '.join(figures)}"
    )


def _fraction(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, received {text}")
    return value


def _copies(dataset, groups):
    """The groups of copies as lists of file names."""
    from keras_maskrcnn.data.coco_output import file_names

    pairs = zip(file_names(dataset), dataset.image_ids, strict=True)
    names = [name or f"image {image_id}" for name, image_id in pairs]
    return [[names[position] for position in group] for group in groups]


def _table(dataset, names, parts):
    """Images and objects of each class in each part."""
    from keras_maskrcnn.host.tables import text_table

    rows = [("", *names), ("images", *(str(len(part)) for part in parts))]
    empty = [str((part.records.counts == 0).sum()) for part in parts]
    rows.append(("images without objects", *empty))
    for label, name in enumerate(dataset.class_names):
        found = [(part.records.labels == label).sum() for part in parts]
        rows.append((name, *(str(count) for count in found)))
    return text_table(rows)
