"""The commands that deal with datasets alone: keras-maskrcnn check-data | convert-data | split.

`cli/__init__.py` holds the list of all commands.
"""

import argparse
import collections
import dataclasses
import pathlib
import shlex
import warnings

PROPOSED = (  # options of `train` that a proposal may set
    "min_size", "max_size", "image_scale", "crop", "anchor_sizes", "max_instances", "max_detections", "batch_size",
    "epochs", "pixel_mean", "pixel_std", "image_dtype",
)  # fmt: skip

FEW_IMAGES = 5000  # below this, the command that is proposed starts from COCO's weights


def dataset_options(group):
    """Arguments that say how a dataset is read, whatever the command."""
    group.add_argument("--format", choices=format_names(), help="of the annotations (default: recognised)")
    group.add_argument("--class-attribute", metavar="NAME", help="VIA's region attribute that holds the class")
    group.add_argument("--skip-faulty", action="store_true", help="leave faulty entries out instead of stopping")


def format_names():
    """The formats that can be named."""
    from keras_maskrcnn.data.readers.opener import FORMATS

    return list(FORMATS)


def open_source(args, source, image_dir=None, part=None, **classes):
    """The dataset that arguments mean; `classes` are class_names and category_ids of another one, or None."""
    from keras_maskrcnn.data import open_dataset

    return open_dataset(
        source,
        image_dir,
        format=args.format,
        part=part,
        attribute=args.class_attribute,
        on_error="skip" if args.skip_faulty else "raise",
        **classes,
    )


def _source_arguments(command):
    command.add_argument("source", help="annotation file, or the folder that holds the dataset")
    command.add_argument("--images", help="folder of the images, where the annotations do not lead to them")
    command.add_argument("--part", help="train, val or test, for YOLO and Pascal VOC (default: YOLO train, VOC all)")
    dataset_options(command)


# convert-data ----------------------------------------------------------------------------------------------


def convert_arguments(command):
    """Arguments of convert-data."""
    _source_arguments(command)
    command.add_argument("output", help="COCO file (.json) to write")


def convert(args):
    """Write a dataset of any format as COCO JSON."""
    from keras_maskrcnn.data.coco_output import image_folder

    output = pathlib.Path(args.output)
    if output.suffix.lower() != ".json":
        raise ValueError(f"The output is a .json file. Received {output}. Name it {output.with_suffix('.json')}.")
    dataset = open_source(args, args.source, args.images, args.part)
    content = dataset.to_coco(output)
    print(f"{len(dataset)} images, {len(content['annotations'])} objects of {len(dataset.class_names)} classes")
    print(f"wrote {output}; use it with: --images {image_folder(dataset, output)} --annotations {output}")
    return 0


# split -----------------------------------------------------------------------------------------------------


def split_arguments(command):
    """Arguments of split."""
    _source_arguments(command)
    command.add_argument("output", help="folder for the COCO files, one a part")
    command.add_argument("--fractions", type=_fraction, nargs="+", default=[0.8, 0.2], help="shares of the images")
    command.add_argument("--names", nargs="+", help="of the parts (default: train val, and test for a third)")
    command.add_argument("--seed", type=int, default=0, help="another one gives another split")
    command.add_argument("--exact-copies-only", action="store_true", help="do not look for re-saved copies of images")


def split(args):
    """Divide a dataset into parts, classes in proportion and copies of an image in one part."""
    from keras_maskrcnn.data.coco_output import image_folder
    from keras_maskrcnn.data.duplicates import NEAR_BITS, duplicate_groups
    from keras_maskrcnn.data.split import split_dataset
    from keras_maskrcnn.host.files import write_json
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
    for name, part in zip(names, parts, strict=True):
        part.to_coco(output / f"{name}.json")
    write_json(output / "copies.json", _copies(dataset, groups))
    print(_table(dataset, names, parts))
    print(f"{len(groups)} groups of copies kept together ({output / 'copies.json'})")
    for name, part in zip(names, parts, strict=True):
        print(f"{name}: --images {image_folder(part, output / f'{name}.json')} --annotations {output / f'{name}.json'}")
    return 0


# check-data ------------------------------------------------------------------------------------------------


def check_arguments(command):
    """Arguments of check-data."""
    command.add_argument("source", help="annotation file, or the folder that holds the dataset")
    command.add_argument("--images", help="folder of the images, where the annotations do not lead to them")
    command.add_argument("--val", help="validation data, to find images that are in both parts")
    command.add_argument("--val-images", help="folder of its images")
    command.add_argument("--output", default="check", help="folder for index.html and report.json")
    command.add_argument("--format", choices=format_names(), help="of the annotations (default: recognised)")
    command.add_argument("--class-attribute", metavar="NAME", help="VIA's region attribute that holds the class")
    command.set_defaults(skip_faulty=True)


def check(args):
    """Look at every image and object, write what was found as a page and as JSON. Status 1 where there are errors."""
    import time

    from keras_maskrcnn import checkup
    from keras_maskrcnn.checkup.inspection import leaks
    from keras_maskrcnn.host.files import write_json

    started = time.monotonic()
    train = inspect_source(args, args.source, args.images, "train")
    extra = []
    if args.val:
        classes = {"class_names": train.dataset.class_names, "category_ids": train.dataset.category_ids}
        val = inspect_source(args, args.val, args.val_images, "val", **classes)
        extra = [*(_of_val(finding) for finding in val.findings), *leaks(train, val)]
    report = checkup.make_report(train, checkup.propose(train), extra, time.monotonic() - started)
    output = pathlib.Path(args.output)
    write_json(output / "report.json", report)
    command = _training_command(args, output / "report.json")
    if len(train.dataset) < FEW_IMAGES:
        command += " --weights coco"  # random weights learn little from so few
    checkup.write_page(report, train.dataset, output / "index.html", command)
    print(_summary(report))
    print(f"wrote {output / 'index.html'} and {output / 'report.json'}; train with: {command}")
    return int(any(finding["severity"] == "error" for finding in report["findings"]))


def _training_command(args, report):
    """What to type to train with a report's proposal."""
    words = ["keras-maskrcnn", "train", "--config", str(report)]
    for prefix, source, images in (("", args.source, args.images), ("val-", args.val or "VALIDATION", args.val_images)):
        words += [f"--{prefix}images", images or source]
        words += [f"--{prefix}annotations", source] if images else []
    return shlex.join(words)


def inspect_source(args, source, images, part, **classes):
    """Read a whole dataset with a progress bar. Returns an Inspection; faults are in it, not raised."""
    from keras_maskrcnn.checkup import inspect_dataset
    from keras_maskrcnn.host.progress import progress_bar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report names what the reader leaves out
        dataset = open_source(args, source, images, part, **classes)
    progress = progress_bar(len(dataset), unit_name="image")
    return inspect_dataset(dataset, progress=lambda done: progress.update(done))


def _of_val(finding):
    """A finding of the validation data: its image is not among the pictures."""
    return dataclasses.replace(finding, where=f"validation: {finding.where}", image=None)


def _summary(report):
    kinds = collections.Counter((finding["severity"], finding["kind"]) for finding in report["findings"])
    lines = [f"{report['images']} images, {report['objects']} objects, {report['seconds']:.1f} s"]
    lines += [f"  {severity}: {kind}: {count}" for (severity, kind), count in kinds.items()]
    recall = report["anchor_recall"][-1]["recall_50"]
    lines += [] if recall is None else [f"anchors reach {recall:.1%} of the objects at the proposed input size"]
    lines += [f"pixels: {_pixel_line(kind)}" for kind in report["pixels"]]
    return "\n".join(lines)


def _pixel_line(kind):
    alpha = " and transparency" if kind["alpha"] else ""
    figures = [f"{name} {', '.join(f'{value:g}' for value in kind[name])}" for name in ("mean", "std")]
    span = f"{min(kind['least']):g} to {max(kind['most']):g}"
    return (
        f"{kind['images']} images, {kind['channels']} channels{alpha} of {kind['dtype']}, {span}; {'; '.join(figures)}"
    )


def read_options(path):
    """The training options in a file of check-data, or in a JSON with nothing else.

    Raises:
        ValueError: no JSON, or options that `train` does not have.
    """
    from keras_maskrcnn.data.readers.folders import read_json

    content = read_json(path)
    options = content.get("proposal", content) if isinstance(content, dict) else None
    unknown = [str(name) for name in options if name not in PROPOSED] if options is not None else [repr(content)[:40]]
    if unknown:
        raise ValueError(f"A config for training holds some of {list(PROPOSED)}. Received {path} with {unknown}.")
    return options


def _fraction(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, received {text}")
    return value


def _copies(dataset, groups):
    """The groups, lists of file names."""
    names = [entry["file_name"] or f"image {entry['id']}" for entry in dataset.to_coco()["images"]]
    return [[names[position] for position in group] for group in groups]


def _table(dataset, names, parts):
    """Images and objects of each class in each part."""
    from keras_maskrcnn.host.tables import text_table

    rows = [("", *names), ("images", *(str(len(part)) for part in parts))]
    empty = [str(sum(not record.instances for record in part.records)) for part in parts]
    rows.append(("images without objects", *empty))
    for label, name in enumerate(dataset.class_names):
        found = [sum(i.label == label for record in part.records for i in record.instances) for part in parts]
        rows.append((name, *(str(count) for count in found)))
    return text_table(rows)
