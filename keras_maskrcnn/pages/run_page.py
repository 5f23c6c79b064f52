"""The report of a training run as a page: the result, its course, example detections, and all settings.

In: a run folder that `experiment.py` wrote. Out: `index.html` in it. The page shows the folder's own pictures by
relative links, so the folder can be moved or mailed as a whole. Everything on it is read from the folder's files.
`evaluate --report` with a folder inside the run folder writes it anew, with a link.
"""

import dataclasses
import pathlib
import shlex

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.pages.html import write_page_file
from keras_maskrcnn.pages.run_files import read_course, read_figures, read_run_config
from keras_maskrcnn.pages.suspect_section import FILE as SUSPICIOUS

_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the COCO figures that are shown
_OPEN_CLASSES = 100  # up to this many classes are shown without a click
_KINDS = {  # names in the order shown: singular, plural
    "segm": ("mask", "masks"),
    "keypoints": ("keypoint", "keypoints"),
    "bbox": ("box", "boxes"),
}


def write_run_page(run_dir):
    """Write `index.html` into a run folder, whole or not at all.

    Args:
        run_dir: folder with config.json and metrics.csv. If the run measured anything, metrics.json and the pictures
            in overlays/ are shown as well.

    Returns:
        pathlib.Path of the page.

    Raises:
        DamagedReport: a file is missing or damaged (`run_files.py`).
    """
    run_dir = pathlib.Path(run_dir)
    config, epochs = read_run_config(run_dir), read_course(run_dir)
    best = _best(epochs)
    # Without a measurement, the figures and pictures in the folder are those of an earlier run.
    metrics = read_figures(run_dir) if best else None
    model = run_dir / ("best.keras" if best else "last.keras")
    page = run_dir / "index.html"
    write_page_file(
        page,
        "run.html",
        title=f"Training run: {run_dir.resolve().name}",
        summary=_summary(epochs, best),
        accuracy=_accuracy(metrics) if metrics else None,
        reports=sorted(path.parent.name for path in run_dir.glob(f"*/{SUSPICIOUS}")),
        overlays=sorted(path.name for path in (run_dir / "overlays").glob("*.png")) if metrics else [],
        command_path=shlex.quote(str(model)),
        python_path=repr(str(model)),
        settings=_given(config["settings"]),
        versions={"backend": config["backend"], **_given(config["versions"])},
        changed=_changed(config["model"]),
        model=config["model"],
        epochs=_epochs(epochs),
    )
    return page


def _best(epochs):
    """The row of the epoch with the best main figure; None if nothing was measured."""
    measured = [row for row in epochs if main_figure(row) and row[main_figure(row)] >= 0]
    return max(measured, key=lambda row: row[main_figure(row)], default=None)


def _summary(epochs, best):
    """List of (name, value): the figures at the top of the page."""
    last = epochs[-1]
    loss = f"{last['loss']:.3g}" if "loss" in last else "-"
    figures = [("epochs", len(epochs)), ("minutes", f"{last['minutes']:.1f}"), ("loss", loss)]
    if best is None:
        return figures
    main = main_figure(best)
    for name in (main, f"{main}50", *(f"val_{kind}_AP" for kind in _KINDS)):
        kind, _, figure = name.removeprefix("val_").partition("_")
        if name in best and (_title(kind, figure), f"{best[name]:.3f}") not in figures:
            figures.append((_title(kind, figure), f"{best[name]:.3f}"))
    return [*figures, ("best epoch, kept", int(best["epoch"]))]


def _title(kind, figure):
    return f"{_KINDS.get(kind, (kind,))[0]} {figure}"


def _accuracy(metrics):
    """COCO's figures for the page, with those of each class, worst first because it needs attention."""
    main = main_figure(metrics)
    kinds = [key.removesuffix("_AP") for key in metrics if key.endswith("_AP") and "/" not in key]
    kinds.sort(key=lambda kind: list(_KINDS).index(kind) if kind in _KINDS else len(_KINDS))
    names = [key.split("/", 1)[1] for key in metrics if key.startswith(f"{main}/")]
    names.sort(key=lambda name: (metrics[f"{main}/{name}"] < 0, metrics[f"{main}/{name}"]))
    return {
        "columns": _COLUMNS,
        "rows": [
            (_KINDS.get(kind, (kind, kind))[1], [_ap(metrics.get(f"{kind}_{column}", -1)) for column in _COLUMNS])
            for kind in kinds
        ],
        "cap": int(metrics["max_detections"]),
        "at_cap": int(metrics.get("images_at_cap", 0)),
        "open": len(names) <= _OPEN_CLASSES,
        "kinds": [_KINDS.get(kind, (kind,))[0] for kind in kinds],
        "classes": [
            {
                "name": name,
                "values": [_ap(metrics.get(f"{kind}_AP/{name}", -1)) for kind in kinds],
                "share": max(0.0, metrics[f"{main}/{name}"]),
            }
            for name in names
        ],
    }


def _ap(value):
    return "-" if value < 0 else f"{value:.3f}"


def _given(settings):
    return {name: value for name, value in settings.items() if value is not None}


def _changed(model):
    """The config's fields that differ from the defaults of `MaskRCNNConfig`, or have no default."""
    defaults = {field.name: field.default for field in dataclasses.fields(MaskRCNNConfig)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: value for name, value in model.items() if name not in plain or value != plain[name]}


def _epochs(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "columns": columns,
        "rows": [[f"{row[name]:.4g}" if name in row else "" for name in columns] for row in rows],
    }
