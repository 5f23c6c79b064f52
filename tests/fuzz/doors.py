"""The package's doors: each makes a case of a seed, hands it to the package, and judges what is accepted."""

import contextlib
import dataclasses
import json
import pathlib
import random
import warnings

from . import encodings, inputs, judge, model_doors, seeds
from .inputs import Case


@dataclasses.dataclass(frozen=True)
class Door:
    """One door.

    Args:
        make: function of (seed, kept) that returns a Case.
        enter: function of (case, path) that hands it to the package; raises what the package raises, or Wrong.
        models: whether it needs Keras.
        share: how many cases it gets, relative to the others.
        named: whether a clear error names the file.
    """

    make: object
    enter: object
    models: bool = False
    share: float = 1.0
    named: bool = True


def mentions(case, path):
    """Texts of which a clear message holds one."""
    names = {name.rsplit("/", 1)[-1] for name in case.files} | {
        name.rsplit("/", 1)[-1].split(".")[0] for name in case.files
    }
    return (str(path), *(name for name in names if len(name) > 3), *case.files, "bytes>", "fractions")


# Datasets -------------------------------------------------------------------------------------------------------


def _open(case, path, **options):
    from keras_maskrcnn.data.readers.opener import open_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_dataset(path, **{**case.options, **options})


def _dataset_door(kind):
    def make(seed, kept=None):
        return inputs.make_dataset(kind, seed, kept)[0]

    def enter(case, path):
        dataset = _open(case, path)
        judge.check_dataset(dataset)
        check_faults(dataset.faults)
        if kind == "coco":
            judge.check_coco(dataset, path)
        _read_images(dataset, case, path)
        json.dumps(dataset.to_coco(), allow_nan=False)

    return Door(make, enter)


def check_faults(faults):
    """Faults are told as clearly as errors."""
    for fault in faults:
        outcome, reason = judge.clear_text(f"{fault.where}: {fault.problem} Received. {fault.remedy}", ())
        if outcome != "clear":
            raise Unclear(reason, None)
        if judge._RAW.search(fault.problem) and "eceived" not in fault.problem:
            raise Unclear(f"a library's text: {fault}", None)


class Unclear(Exception):
    """Something was told unclearly, other than by an exception."""


def _read_images(dataset, case, path):
    for position, record in enumerate(dataset.records[:3]):
        pixels = dataset.load_image(position)
        judge.check_image(pixels, (record.height, record.width))


# Commands on datasets -------------------------------------------------------------------------------------------


def _any_dataset(seed, kept=None):
    case, _ = inputs.make_dataset(None, seed, kept)
    case.options["seed"] = str(seed)
    return case


def _command_line(case, path, name, *arguments):
    from keras_maskrcnn import cli

    words = [name, str(path), *map(str, arguments), "--debug"]
    if case.options.get("format"):
        words += ["--format", case.options["format"]]
    if case.options.get("on_error") == "skip" and name != "check-data":
        words.append("--skip-faulty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cli.main(words)


def _reopened(case, path):
    return _open(Case({}, options={k: case.options[k] for k in ("format", "on_error")}), path)


def _check_data(case, path):
    output = _beside(path, case) / "check"
    status = _command_line(case, path, "check-data", "--output", output)
    judge.need(status in (0, 1), f"status {status}")
    report = json.loads((output / "report.json").read_text(), parse_constant=_no_constant)
    judge.need("</html>" in (output / "index.html").read_text(), "the page is not whole")
    errors = sum(finding["severity"] == "error" for finding in report["findings"])
    judge.need(bool(errors) == (status == 1), f"status {status} with {errors} errors")
    for finding in report["findings"]:
        if judge._RAW.search(finding["message"]) and "eceived" not in finding["message"]:
            raise Unclear(f"a library's text: {finding['message']}", None)


def _no_constant(name):
    raise judge.Wrong(f"{name} in report.json")


def _convert_data(case, path):
    from keras_maskrcnn.data.coco_output import coco_image_dir
    from keras_maskrcnn.data.readers.coco import CocoDataset

    output = _beside(path, case) / "out.json"
    status = _command_line(case, path, "convert-data", output)
    dataset = _reopened(case, path)
    again = CocoDataset(output, coco_image_dir(dataset, output))
    judge.check_same(dataset, again)
    crowds = all(i.crowd for record in dataset.records for i in record.instances)
    judge.need((status == 1) == crowds, f"status {status}")


def _split(case, path):
    from keras_maskrcnn.data.coco_output import coco_image_dir
    from keras_maskrcnn.data.readers.coco import CocoDataset

    output = _beside(path, case) / "parts"
    _command_line(case, path, "split", output, "--fractions", "0.5", "0.5")
    dataset, parts = _reopened(case, path), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("train", "val"):
            parts.append(CocoDataset(output / f"{name}.json", coco_image_dir(dataset, output / f"{name}.json")))
    ids = [str(key) for part in parts for key in part.image_ids]
    judge.need(sorted(ids) == sorted(str(key) for key in dataset.image_ids), f"images {ids}")
    objects = sum(len(record.instances) for part in parts for record in part.records)
    judge.need(objects == sum(len(record.instances) for record in dataset.records), f"{objects} objects")


def _beside(path, case):
    """A folder for output that is not inside the input."""
    return pathlib.Path(case.options["output"])


# Images and arrays ----------------------------------------------------------------------------------------------


def _make_image(seed, kept=None):
    rng = random.Random(f"{seed}")
    ending, data = encodings.make_image(rng)
    case = Case({f"picture.{ending}": data}, f"picture.{ending}", {"as": rng.choice(("path", "path", "bytes"))})
    for step in range(inputs.steps_of(seed)) if kept is None else kept:
        name = case.source
        case.files[name] = inputs.change_content(case.files[name], random.Random(f"{seed} {step}"), name)
    return case


def _read_image(case, path):
    from keras_maskrcnn.data.images.reading import image_size, read_image

    data = path.read_bytes()
    source = path if case.options["as"] == "path" else data
    size = image_size(source)
    judge.check_image(read_image(source), size, path)


# Run lengths ----------------------------------------------------------------------------------------------------


def _make_runs(seed, kept=None):
    from pycocotools import mask as coco_mask

    rng = random.Random(f"{seed}")
    import numpy as np

    mask = (np.random.default_rng(rng.randrange(1000)).random((seeds.HEIGHT, seeds.WIDTH)) < rng.random()).astype("u1")
    counts = seeds.counts(mask) if rng.random() < 0.4 else coco_mask.encode(np.asfortranarray(mask))["counts"]
    if isinstance(counts, bytes) and rng.random() < 0.7:
        counts = counts.decode()
    for step in range(inputs.steps_of(seed)) if kept is None else kept:
        step_rng = random.Random(f"{seed} {step}")
        if isinstance(counts, bytes):
            counts = inputs.change_bytes(counts, step_rng)
        else:
            counts = inputs.change_value(counts, step_rng)
    return Case({}, "", {"counts": counts})


def _read_runs(case, path):
    import numpy as np
    from pycocotools import mask as coco_mask

    from keras_maskrcnn.geometry import rle

    counts = case.options["counts"]
    runs = rle.parse_counts(counts)
    judge.need(runs.ndim == 1 and runs.dtype == np.int64 and (runs >= 0).all(), f"runs {runs}")
    height, width = seeds.HEIGHT, seeds.WIDTH
    if int(runs.sum()) != height * width or len(runs) > 10**6:
        return
    box = rle.extent(runs, height)
    if box is None:
        return
    found = rle.decode_window(runs, height, (0, 0, width, height))
    code = {"size": [height, width], "counts": [int(n) for n in runs]}
    expected = coco_mask.decode(coco_mask.frPyObjects(code, height, width))
    judge.need((found == expected).all(), "other pixels than pycocotools'")


# Options and configs --------------------------------------------------------------------------------------------


def _make_proposal(seed, kept=None):
    content = {
        "min_size": 256, "max_size": 512, "image_scale": None, "crop": 128, "anchor_sizes": [8, 16, 32, 64, 128],
        "max_instances": 100, "max_detections": 120, "batch_size": 2, "epochs": 10, "pixel_mean": [1.0, 2.5, 3.0],
        "pixel_std": [2, 3, 4.5], "image_dtype": "uint8",
    }  # fmt: skip
    rng = random.Random(f"{seed}")
    if rng.random() < 0.5:
        content = {"proposal": content, "findings": [], "images": 3}
    case = Case({"report.json": content}, "report.json")
    inputs.mutate(case, seed, kept)
    return case


def _read_proposal(case, path):
    from keras_maskrcnn.cli.settling import read_options
    from keras_maskrcnn.cli.train_options import OPTIONS

    for name, value in read_options(path).items():
        many = isinstance(value, (list, tuple))
        judge.need(many == (OPTIONS[name].nargs not in (None, "?")), f"{name} {value!r}")
        for item in value if many else [value]:
            good = isinstance(item, str) if name == "image_dtype" else type(item) in (int, float) and item == item
            judge.need(good and (isinstance(item, str) or abs(item) != float("inf")), f"{name} {value!r}")


def _make_config(seed, kept=None):
    from keras_maskrcnn.config import MaskRCNNConfig

    rng = random.Random(f"{seed}")
    config = MaskRCNNConfig(num_classes=rng.choice((1, 2)), backbone="resnet18", norm="batch")
    case = Case({"config.json": config.to_dict()}, "config.json")
    for step in range(inputs.steps_of(seed)) if kept is None else kept:
        values = case.files["config.json"]
        case.files["config.json"] = inputs.change_value(values, random.Random(f"{seed} {step}"))
    return case


def _read_config(case, path):
    from keras_maskrcnn.config import MaskRCNNConfig

    config = MaskRCNNConfig.from_dict(case.files["config.json"])
    values = config.to_dict()
    judge.need(
        MaskRCNNConfig.from_dict(json.loads(json.dumps(values, allow_nan=False))) == config, "does not round-trip"
    )
    for field in dataclasses.fields(MaskRCNNConfig):
        value, kind = getattr(config, field.name), str(field.type)
        kinds = {"int": (int,), "float": (int, float), "str": (str,), "tuple": (tuple,), "bool": (bool,)}
        wanted = tuple(k for name, types in kinds.items() if name in kind for k in types)
        wanted += (type(None),) if "None" in kind else ()
        good = isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
        judge.need(good, f"{field.name} {value!r} is no {kind}")
    names = config.class_names
    judge.need(all(isinstance(n, str) and n for n in names) and len(set(names)) == len(names), f"class_names {names}")
    for name in ("anchor_sizes", "anchor_ratios", "pixel_mean", "pixel_std", "box_weights", "rpn_box_weights"):
        numbers = getattr(config, name)
        judge.need(all(type(n) in (int, float) for n in numbers), f"{name} {numbers}")


# Arguments ------------------------------------------------------------------------------------------------------


class _Reached(Exception):
    """The command got as far as needing a model: its arguments were accepted."""


def _make_arguments(seed, kept=None):
    from keras_maskrcnn.cli import _COMMANDS, build_parser

    del kept
    rng = random.Random(f"{seed}")
    command = rng.choice([c for c in _COMMANDS if c.uses_models]).name
    parser = build_parser()._subparsers._group_actions[0].choices[command]
    words = [command]
    for action in rng.sample(parser._actions, min(len(parser._actions), rng.randrange(8))):
        if action.dest in ("help", "debug"):
            continue
        if action.option_strings:
            words.append(rng.choice(action.option_strings))
        count = {None: 1, 0: 0, "+": rng.randrange(1, 3), "*": 1, "?": rng.randrange(2)}.get(action.nargs, action.nargs)
        words += [_argument(action, rng) for _ in range(count + (rng.random() < 0.03))]
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), inputs.TEXTS[rng.randrange(len(inputs.TEXTS))])
    words = [word.replace("\x00", "") for word in words]
    return Case(
        {"train/a.png": seeds.picture(0), "options.json": {"epochs": 3}, "run/config.json": {}}, "", {"argv": words}
    )


def _argument(action, rng):
    from .mutations import NUMBERS

    if action.choices and rng.random() < 0.7:
        return str(rng.choice(list(action.choices)))
    kind = rng.randrange(5)
    if kind < 2 and action.type in (None, str):
        return rng.choice(("train", "run", "options.json", "train/a.png", "missing", "out", "model.keras", "."))
    return str(rng.choice(NUMBERS)) if kind < 3 else rng.choice(("1", "2", "0.5", "3", rng.choice(inputs.TEXTS)))


def _enter_arguments(case, path):
    import io

    from keras_maskrcnn import cli

    def reached():
        raise _Reached

    told = io.StringIO()
    with contextlib.chdir(path), contextlib.redirect_stderr(told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cli.main([*case.options["argv"], "--debug"], prepare_models=reached)
        except _Reached:
            return
        except SystemExit as stop:
            if stop.code == 2 and "error: " not in told.getvalue():
                raise Unclear(told.getvalue()[:200], None) from None
            if stop.code not in (0, 2):
                raise
            if stop.code == 2:
                raise


# Annotations of predict ------------------------------------------------------------------------------------------


def _coco_tables(seed, kept=None):
    return inputs.make_dataset("coco", seed, kept)[0]


def _read_known(case, path):
    from keras_maskrcnn.cli.results import read_known_images

    images = [path.parent / name for name in case.files if not name.endswith(".json")]
    known = read_known_images(path, images)
    judge.need(len(set(map(str, known.ids.values()))) == len(known.ids), f"ids {known.ids}")
    judge.need(all(type(key) in (int, str) for key in known.ids.values()), f"ids {known.ids}")
    judge.need(all(type(key) in (int, str) for key in known.category_ids), f"category ids {known.category_ids}")
    judge.need(all(name.strip() for name in known.category_names), f"categories {known.category_names}")


DOORS = {
    **{kind: _dataset_door(kind) for kind in seeds.DATASETS},
    "check-data": Door(_any_dataset, _check_data),
    "convert-data": Door(_any_dataset, _convert_data),
    "split": Door(_any_dataset, _split),
    "image": Door(_make_image, _read_image, share=4),
    "rle": Door(_make_runs, _read_runs, share=2, named=False),
    "proposal": Door(_make_proposal, _read_proposal),
    "config": Door(_make_config, _read_config, named=False),
    "arguments": Door(_make_arguments, _enter_arguments, named=False),
    "annotations": Door(_coco_tables, _read_known),
    "predictor": Door(model_doors.make_pixels, model_doors.predict, models=True, share=2, named=False),
    "results": Door(model_doors.make_results, model_doors.compare, models=True, share=2, named=False),
    "run-folder": Door(model_doors.make_run, model_doors.read_run, models=True, share=1),
    "pth": Door(*model_doors.weights_door("pth"), models=True, share=0.3),
    "safetensors": Door(*model_doors.weights_door("safetensors"), models=True, share=0.3),
    "h5": Door(*model_doors.weights_door("h5"), models=True, share=0.1),
    "keras": Door(*model_doors.weights_door("keras"), models=True, share=0.1),
    "model": Door(model_doors.make_archive, model_doors.load_archive, models=True, share=0.1),
}
