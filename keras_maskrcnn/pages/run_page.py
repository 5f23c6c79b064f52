"""The report of a training run as a page: what came out, how it went, what the model finds, what was asked for.

Comes in: a run folder as `experiment.py` leaves it. Goes out: `index.html` in it, which shows the folder's own pictures
by relative links: the folder can be moved or mailed as a whole. Everything on the page is read from the folder's files.
"""

import csv
import dataclasses
import json
import pathlib

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.pages.html import bar, details, escape, options_table, tiles, write_html

_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # of COCO's figures, as far as they were measured
_OPEN_CLASSES = 100  # classes shown without a click
_COCO_LIMITS = "small, medium and large (s, m, l) end at 32 and 96 pixels squared; - where there are no such objects"


def write_run_page(run_dir):
    """Write `index.html` into a run folder, whole or not at all.

    Args:
        run_dir: folder with config.json and metrics.csv; metrics.json, curves.png and overlays/ are shown where they
            are there and the run measured anything.

    Returns:
        pathlib.Path of the page.
    """
    run_dir = pathlib.Path(run_dir)
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    with open(run_dir / "metrics.csv", newline="", encoding="utf-8") as file:
        epochs = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    best = max((row for row in epochs if "val_segm_AP" in row), key=lambda row: row["val_segm_AP"], default=None)
    # Without a measurement, figures and pictures in the folder are those of an earlier run.
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8")) if best else None
    parts = [
        _summary(epochs, best),
        "<h2>Accuracy on the validation images</h2>",
        _accuracy(metrics) if metrics else "<p>Not measured: the run had no validation images.",
        "<h2>Losses and accuracy over time</h2><p><img src=curves.png alt='losses and AP over minutes' width=1000>",
        _overlays(run_dir) if metrics else "",
        "<h2>What to do with it</h2>",
        _commands(run_dir, bool(metrics)),
        "<h2>Settings</h2><div class=side>",
        f"<div>{options_table(_given(config['settings']))}</div><div>{options_table(_versions(config))}</div></div>",
        details("The model's numbers that are not the default", options_table(_changed(config["model"]))),
        details("All of the model's numbers", options_table(config["model"])),
        details("Every epoch", _epochs(epochs)),
    ]
    page = run_dir / "index.html"
    write_html(page, f"Training run: {run_dir.resolve().name}", parts)
    return page


def _summary(epochs, best):
    figures = [("epochs", len(epochs)), ("minutes", f"{epochs[-1]['minutes']:.1f}"), ("loss", _number(epochs[-1]))]
    if best:
        figures += [
            ("mask AP", f"{best['val_segm_AP']:.3f}"),
            ("mask AP50", f"{best['val_segm_AP50']:.3f}"),
            ("box AP", f"{best['val_bbox_AP']:.3f}"),
            ("best epoch, kept", int(best["epoch"])),
        ]
    return tiles(figures)


def _number(row):
    return f"{row['loss']:.3g}" if "loss" in row else "-"


def _accuracy(metrics):
    """COCO's figures, and those of each class, worst first: it is the one to look at."""
    head = "".join(f"<th class=n>{column}" for column in _COLUMNS)
    rows = "".join(
        f"<tr><td>{name}" + "".join(f"<td class=n>{_ap(metrics[f'{kind}_{column}'])}" for column in _COLUMNS)
        for kind, name in (("segm", "masks"), ("bbox", "boxes"))
    )
    names = [key.split("/", 1)[1] for key in metrics if key.startswith("segm_AP/")]
    names.sort(key=lambda name: (metrics[f"segm_AP/{name}"] < 0, metrics[f"segm_AP/{name}"]))
    classes = "".join(
        f"<tr><td>{escape(name)}<td class=n>{_ap(metrics[f'segm_AP/{name}'])}"
        f"<td class=n>{_ap(metrics[f'bbox_AP/{name}'])}<td class=b>{bar(max(0.0, metrics[f'segm_AP/{name}']))}"
        for name in names
    )
    table = f"<table><tr><th>class<th class=n>mask AP<th class=n>box AP<th>{classes}</table>"
    cap = int(metrics["max_detections"])
    return (
        f"<table><tr><th>{head}{rows}</table><p>COCO average precision, at most {cap} detections an image; "
        f"{_COCO_LIMITS}.{_at_cap(metrics)}" + details("By class", table, opened=len(names) <= _OPEN_CLASSES)
    )


def _at_cap(metrics):
    count = int(metrics.get("images_at_cap", 0))
    if not count:
        return ""
    return (
        f" <b class=warning>{count} images have as many detections as max_detections allows.</b> If they hold so many "
        "objects, raise it."
    )


def _ap(value):
    return "-" if value < 0 else f"{value:.3f}"


def _overlays(run_dir):
    pictures = sorted((run_dir / "overlays").glob("*.png"))
    figures = "".join(f"<p><img src='overlays/{escape(path.name)}' alt='' style='max-width:100%'>" for path in pictures)
    return f"<h2>Validation images: ground truth, and what the best model finds</h2>{figures}"


def _commands(run_dir, measured):
    model = escape(run_dir / ("best.keras" if measured else "last.keras"))
    return (
        f"<pre>keras-maskrcnn predict {model} photo.jpg\nkeras-maskrcnn export {model} exported</pre>"
        f"<pre>found = km.Predictor(keras.saving.load_model({model!r}, compile=False))('photo.jpg')</pre>"
    )


def _given(settings):
    return {name: value for name, value in settings.items() if value is not None}


def _versions(config):
    return {"backend": config["backend"], **_given(config["versions"])}


def _changed(model):
    """The config's fields that differ from `MaskRCNNConfig`'s defaults, or have none."""
    defaults = {field.name: field.default for field in dataclasses.fields(MaskRCNNConfig)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: value for name, value in model.items() if name not in plain or value != plain[name]}


def _epochs(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th class=n>{escape(name.replace('_', ' '))}" for name in columns)
    cells = "".join(
        "<tr>" + "".join(f"<td class=n>{row[name]:.4g}" if name in row else "<td>" for name in columns) for row in rows
    )
    return f"<div style='overflow-x:auto'><table><tr>{head}{cells}</table></div>"
