"""The doors that need Keras: images given to a Predictor, results to compare, run folders, files of weights.

A child builds its models when the first case needs them, after the fork.
"""

import functools
import io
import json
import pathlib
import random
import warnings
import zipfile

import numpy as np

from . import encodings, inputs, judge, seeds
from .files_of_weights import h5_bytes, pth_bytes, safetensors_bytes
from .inputs import Case
from .mutations import NUMBERS

# Predictor ------------------------------------------------------------------------------------------------------

_DTYPES = "u1 u1 u2 i1 i4 i8 u8 f2 f4 f8 ? c8 O U3 S2 M8[s] >u2 >f8".split()
_SHAPES = (
    (20, 30, 3), (20, 30), (20, 30, 1), (20, 30, 4), (3, 20, 30), (1, 1, 3), (1, 1), (0, 0, 3), (20, 0, 3), (0,), (),
    (5,), (1, 20, 30, 3), (20, 30, 0), (20, 30, 2), (20, 30, 7), (1, 400, 3), (400, 1, 3), (2, 3000, 3),
    (1, 1, 1, 1, 3),
)  # fmt: skip
_FILLS = ("noise", "zeros", "nan", "inf", "one nan", "large", "negative", "fractions", "view", "read only")


def make_pixels(seed, kept=None):
    """An array, a PIL image, or something else that somebody calls an image; and a predictor's options."""
    del kept
    rng = random.Random(f"{seed}")
    options = {
        "tile": rng.choice((None, None, None, 16, 8)),
        "image_dtype": rng.choice(("uint8", "uint8", "float32", "uint16")),
    }
    options["channels"] = rng.choice((3, 3, 1, 4))
    options["what"] = rng.choice(("array",) * 8 + ("pil", "list", "none", "number", "path", "bytes", "text"))
    options["shape"], options["dtype"] = rng.choice(_SHAPES), rng.choice(_DTYPES)
    options["fill"], options["seed"] = rng.choice(_FILLS), rng.randrange(1000)
    if rng.random() < 0.5:  # what the model takes
        options["what"] = "array"
        options["shape"] = (rng.choice((1, 2, 20, 50)), rng.choice((1, 3, 30)), options["channels"])
        options["dtype"] = {"uint8": "u1", "uint16": "u2", "float32": "f4"}[options["image_dtype"]]
    options["box"] = [rng.choice((0.0, 1.0, 5.0, 29.5, -4.0, 1e4)) for _ in range(4)]
    return Case({}, "", {"pixels": options})


def predict(case, path):
    """Predict with a model whose detections are known; what comes out fits the image."""
    del path
    model, Predictor = _known_model(case.options["pixels"])
    source = _source(case.options["pixels"])
    predictor = Predictor(model, tile=case.options["pixels"]["tile"])
    found = predictor(source)
    height, width = found.image_size
    judge.need(height > 0 and width > 0, f"size {found.image_size}")
    boxes = np.asarray(found.boxes)
    judge.need(np.isfinite(boxes).all(), f"boxes {boxes}")
    inside = (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all() and (boxes[:, [1, 3]] <= height).all()
    judge.need(inside, f"boxes {boxes} in {height} x {width}")
    judge.need(found.masks.shape == (len(found), height, width), f"masks {found.masks.shape}")
    json.dumps(found.to_coco(1), allow_nan=False)


def _known_model(options):
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.inference.predictor import Predictor

    mean = tuple(10.0 + k for k in range(options["channels"]))
    config = MaskRCNNConfig(
        num_classes=1, backbone="resnet18", norm="batch", image_scale=1.0, pixel_mean=mean,
        pixel_std=tuple(1.0 for _ in mean), image_dtype=options["image_dtype"],
    )  # fmt: skip

    class Known:
        def __init__(self):
            self.config = config

        def predict_on_batch(self, batch):
            rows = config.max_detections
            judge.need(np.isfinite(batch["images"]).all(), "pixels that are not finite reach the model")
            out = {"boxes": np.zeros((1, rows, 4), np.float32), "scores": np.zeros((1, rows), np.float32)}
            out |= {"labels": np.zeros((1, rows), np.int32), "masks": np.ones((1, rows, 28, 28), np.float32)}
            out["valid"] = np.arange(rows)[None] < 1
            x1, y1, x2, y2 = options["box"]
            out["boxes"][0, 0] = min(x1, x2), min(y1, y2), max(x1, x2) + 2, max(y1, y2) + 2
            out["scores"][0, 0] = 0.9
            return out

    return Known(), Predictor


def _source(options):
    what = options["what"]
    if what == "array":
        return _array(options)
    if what == "pil":
        return encodings.mode_image(random.Random(options["seed"]))
    if what == "list":
        return [[[1, 2, 3]] * 4] * 4
    number = NUMBERS[options["seed"] % len(NUMBERS)]
    return {"none": None, "number": number, "path": "missing.png", "bytes": b"\x89PNG", "text": ""}[what]


def _array(options):
    rng = np.random.default_rng(options["seed"])
    shape, fill = options["shape"], options["fill"]
    values = rng.random(shape) * (1 if fill == "fractions" else 250)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if fill == "zeros":
            values = np.zeros(shape)
        elif fill in ("nan", "inf"):
            values = np.full(shape, float(fill))
        elif fill == "one nan" and values.size:
            values.flat[0] = np.nan
        elif fill == "large":
            values = values * 1e300
        elif fill == "negative":
            values = values - 200
        array = np.asarray(values).astype(options["dtype"])
    if fill == "view" and array.ndim >= 2:
        array = np.ascontiguousarray(array[::-1])[::-1]
    array.flags.writeable = fill != "read only"
    return array


# Results to compare ---------------------------------------------------------------------------------------------


def make_results(seed, kept=None):
    """Ground truth and COCO results."""
    rng = random.Random(f"{seed}")
    truth = seeds.coco(random.Random(rng.randrange(50)))[0]["coco.json"]
    for annotation in truth["annotations"]:
        annotation["area"] = 80.0
    code = _compressed(seeds.disc())
    results = [
        {"image_id": 10 + k % 3, "category_id": (1, 3)[k % 2], "bbox": [5, 4, 10, 9], "score": 0.9 - k / 10}
        | {"segmentation": {"size": [seeds.HEIGHT, seeds.WIDTH], "counts": code}}
        for k in range(4)
    ]
    case = Case(
        {"truth.json": truth, "results.json": results}, "", {"types": rng.choice((("bbox",), ("bbox", "segm")))}
    )
    steps = range(inputs.steps_of(seed)) if kept is None else kept
    for step in steps:
        step_rng = random.Random(f"{seed} {step}")
        name = step_rng.choice(("truth.json", "results.json", "results.json"))
        case.files[name] = inputs.change_value(case.files[name], step_rng)
    case.files = {name: json.dumps(value) for name, value in case.files.items()}  # text and null alone are JSON, too
    case.mutated = False
    return case


def _compressed(mask):
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def compare(case, path):
    """COCO's figures: each is -1 or a share."""
    from keras_maskrcnn.evaluation.figures import coco_metrics, format_metrics

    truth, results = (json.loads((path / name).read_text()) for name in ("truth.json", "results.json"))
    metrics = coco_metrics(truth, results, iou_types=case.options["types"])
    for name, value in metrics.items():
        good = isinstance(value, float) and (value == -1 or 0 <= value <= 1.0000001 or name == "max_detections")
        judge.need(good, f"{name} {value!r}")
    judge.need("AP50" in format_metrics(metrics), "no table")


# Run folders ----------------------------------------------------------------------------------------------------


def make_run(seed, kept=None):
    """A run's folder: config.json, metrics.csv, metrics.json, last.keras with the run's state."""
    from keras_maskrcnn.config import MaskRCNNConfig

    rng = random.Random(f"{seed}")
    model = MaskRCNNConfig(num_classes=2, backbone="resnet18", norm="batch").to_dict()
    settings = {
        "epochs": 4,
        "batch_size": 2,
        "images": "a",
        "val_images": "b",
        "training_recipe": {"optimizer": "adamw"},
    }
    settings |= {"augment": "flip", "anchor_sizes": [8, 16, 32, 64, 128], "seed": 0, "minutes": None}
    versions = {"keras": "3", "tensorflow": "2", "numpy": "2"}
    config = {"model": model, "settings": settings, "backend": "tensorflow", "versions": versions, "run_id": "abc"}
    rows = ["epoch,minutes,learning_rate,loss,val_segm_AP,val_segm_AP50,val_bbox_AP,val_bbox_AP50"]
    rows += [f"{k},{k * 1.5},0.001,{2.5 / k},{k / 10},{k / 9},{k / 8},{k / 7}" for k in (1, 2, 3)]
    figures = {
        f"{kind}_{name}": 0.5 for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    }
    figures |= {"bbox_AP/cat": 0.4, "segm_AP/cat": 0.3, "segm_AP/dog": -1, "bbox_AP/dog": -1, "max_detections": 100.0}
    figures |= {"images_at_cap": 1.0}
    state = {"run_id": "abc", "epochs_done": 3, "finished": False, "seconds": 90.5, "budget": None, "best": figures}
    state["rows"] = [{"epoch": 1, "minutes": 1.5, "loss": 2.0}]
    files = {"config.json": config, "metrics.csv": "\n".join(rows) + "\n", "metrics.json": figures, "run.json": state}
    files["overlays/0.png"] = seeds.picture(0)
    case = Case(files, "", {"use": rng.choice(("resume", "page", "page", "state"))})
    inputs.mutate(case, seed, kept)
    state = case.files.pop("run.json", None)
    if state is not None:
        data = inputs.as_bytes(state, rng if case.mutated else None)
        case.files["last.keras"] = _zip_bytes({"metadata.json": b"{}", "run.json": data}, rng, case.mutated)
    return case


def _zip_bytes(members, rng, mutated):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    data = file.getvalue()
    return encodings.change_bytes(data, rng) if mutated and rng.random() < 0.2 else data


def read_run(case, path):
    """What reads a run folder: its page, its options for `--resume`, its state."""
    use = case.options["use"]
    if use == "page":
        from keras_maskrcnn.pages.run_page import write_run_page

        page = write_run_page(path)
        judge.need("</html>" in page.read_text(), "the page is not whole")
    elif use == "resume":
        from keras_maskrcnn.cli.resume import check_same_run, options_of_run

        options = options_of_run(path)
        for name, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                judge.need(one is None or type(one) in (str, bool, int, float) and one == one, f"{name} {value!r}")
        check_same_run(path, json.loads((path / "config.json").read_text())["settings"])
    else:
        from keras_maskrcnn.runs.experiment import state_to_resume

        state = state_to_resume(path)
        state = state[0] if isinstance(state, tuple) else state
        if state is None:
            return
        judge.need(type(state["epochs_done"]) is int and state["epochs_done"] > 0, f"state {state}")
        judge.need(isinstance(state["rows"], list) and isinstance(state["best"], dict), f"state {state}")
        judge.need(type(state["seconds"]) in (int, float) and 0 <= state["seconds"] < 1e12, f"state {state}")


# Files of weights -----------------------------------------------------------------------------------------------


@functools.cache
def _model(tiny):
    """A small model: of torchvision's names, or on a backbone of a few numbers."""
    import keras

    import keras_maskrcnn as km

    config = km.MaskRCNNConfig(
        num_classes=2, backbone="resnet10", norm="batch", image_scale=1.0, fpn_channels=8, box_features=8,
        mask_convs=1, mask_channels=8, anchor_sizes=(16, 32, 64, 128, 256), test_pre_nms=20, test_post_nms=20,
    )  # fmt: skip
    if not tiny:
        return km.MaskRCNN(config)
    images = maps = keras.Input((None, None, 3))
    found = []
    for number in range(5):
        maps = keras.layers.Conv2D(4, 3, 2, "same", name=f"c{number}")(maps)
        found.append(maps)
    return km.MaskRCNN(config, backbone=keras.Model(images, found[1:]))


def weights_door(kind):
    """(make, enter) of a type of file."""

    def make(seed, kept=None):
        rng = random.Random(f"{seed}")
        tensors = _table(kind, rng)
        case = Case({"weights": {"tensors": tensors, "extra": {}}}, "", {"skip_mismatch": rng.random() < 0.7})
        inputs.mutate(case, seed, kept)
        spec = case.files.pop("weights", None)
        name = {"h5": "w.weights.h5", "keras": "w.keras"}.get(kind, f"w.{kind}")
        data = _WRITERS[kind](spec, random.Random(f"{seed} file") if case.mutated else None)
        case.files, case.source = {name: data}, name
        return case

    return make, load


def load(case, path):
    """Load weights: afterwards all are finite, or after an error as they were."""
    from keras_maskrcnn.weights import load_weights

    model = _model(path.suffix in (".h5", ".keras"))
    before = [np.array(weight) for weight in model.weights]
    try:
        receipt = load_weights(model, path, skip_mismatch=case.options["skip_mismatch"])
    except BaseException:
        same = all(np.array_equal(a, np.asarray(b)) for a, b in zip(before, model.weights))
        for weight, value in zip(model.weights, before):
            weight.assign(value)
        judge.need(same, "an error, and the model has other weights")
        raise
    finite = all(np.isfinite(np.asarray(weight)).all() for weight in model.weights)
    for weight, value in zip(model.weights, before):
        weight.assign(value)
    judge.need(finite, "weights that are not finite")
    judge.need(str(receipt), "no receipt")


def _table(kind, rng):
    """A JSON table of some tensors of the model: name -> shape, type, values."""
    if kind in ("pth", "safetensors"):
        shapes = {
            "backbone.body.conv1.weight": [64, 3, 7, 7],
            "backbone.body.bn1.weight": [64],
            "backbone.body.bn1.running_var": [64],
            "backbone.body.bn1.num_batches_tracked": [],
            "rpn.head.cls_logits.bias": [3],
            "roi_heads.box_predictor.cls_score.weight": [3, 8],
            "roi_heads.box_predictor.cls_score.bias": [3],
        }
    else:
        shapes = {"rpn/objectness/vars/1": [3], "box_head/classes/vars/1": [3], "box_head/classes/vars/0": [8, 3]}
        shapes |= {"backbone/layers/c0/vars/0": [3, 3, 3, 4], "optimizer/vars/0": []}
    names = rng.sample(list(shapes), rng.randrange(1, len(shapes) + 1))
    return {name: {"shape": shapes[name], "dtype": "float32", "fill": rng.choice((0.5, 1.0, 0.0))} for name in names}


def _keras_bytes(spec, rng):
    config = {"module": "keras_maskrcnn.model", "class_name": "MaskRCNN", "config": {}, "registered_name": "x>y"}
    members = {"metadata.json": b'{"keras_version": "3.8.0"}', "config.json": json.dumps(config).encode()}
    members["model.weights.h5"] = h5_bytes(spec, rng)
    if rng is not None and rng.random() < 0.2:
        members.pop(rng.choice(list(members)))
    return _zip_bytes(members, rng or random.Random(0), rng is not None)


_WRITERS = {"pth": pth_bytes, "safetensors": safetensors_bytes, "h5": h5_bytes, "keras": _keras_bytes}


# Whole models ---------------------------------------------------------------------------------------------------


@functools.cache
def _saved_model():
    """The members of a .keras file of a small model."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        _model(True).save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def make_archive(seed, kept=None):
    """A .keras file, its config changed as JSON, its weights as bytes."""
    rng = random.Random(f"{seed}")
    case = Case({}, "model.keras")
    for name, data in _saved_model().items():
        case.files[name] = json.loads(data) if name.endswith(".json") else data
    case.mutated = bool(inputs.steps_of(seed)) if kept is None else bool(kept)
    for step in range(inputs.steps_of(seed)) if kept is None else kept:
        step_rng = random.Random(f"{seed} {step}")
        name = step_rng.choice(("config.json", "config.json", "config.json", "metadata.json", "model.weights.h5"))
        content = case.files.get(name)
        if isinstance(content, bytes):
            case.files[name] = encodings.change_bytes(content, step_rng)
        elif content is not None:
            case.files[name] = inputs.change_value(content, step_rng)
    members = {name: inputs.as_bytes(content, rng if case.mutated else None) for name, content in case.files.items()}
    case.files = {"model.keras": _zip_bytes(members, rng, case.mutated)}
    return case


def load_archive(case, path):
    """Load a whole model, as `evaluate` and `predict` do."""
    del case
    from keras_maskrcnn.cli.sources import load_model

    model = load_model(path)
    judge.need(type(model).__name__ == "MaskRCNN", f"{type(model)}")
    judge.need(all(np.isfinite(np.asarray(w)).all() for w in model.weights), "weights that are not finite")
