"""The files of a run folder that its page shows, read and checked: config.json, metrics.csv, metrics.json.

A file that is missing, damaged or edited gives one error that names it. Called by `run_page.py`.
"""

import csv
import json
import math

from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.host.values import is_number

_CONFIG = {"settings": dict, "backend": str, "versions": dict, "model": dict}


class DamagedReport(ValueError):
    """A file of a run folder does not hold what a run writes."""

    def __init__(self, path, problem):
        super().__init__(
            f"The page of a run is made of the run's own files. Received {path}: {problem}. "
            "Restore the file from a copy, or train again."
        )


def read_run_config(run_dir):
    """config.json: dict of at least settings, versions, model (dicts) and backend (str)."""
    path = run_dir / "config.json"
    config = _read_object(path)
    for name, kind in _CONFIG.items():
        if not isinstance(config.get(name), kind):
            raise DamagedReport(path, f"`{name}` is no {kind.__name__}")
    return config


def read_course(run_dir):
    """metrics.csv: one dict of column name to float for each epoch, all with epoch and minutes."""
    path = run_dir / "metrics.csv"
    rows = list(csv.DictReader(_read_text(path).splitlines()))
    try:
        epochs = [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, ValueError) as error:
        raise DamagedReport(path, f"a cell is no number ({error})") from error
    if not epochs:
        raise DamagedReport(path, "it has no epoch")
    for epoch in epochs:
        if not all(math.isfinite(epoch.get(name, math.nan)) for name in ("epoch", "minutes")):
            raise DamagedReport(path, "a row has no `epoch` or no `minutes`")
    return epochs


def read_figures(run_dir):
    """metrics.json: dict of the figures of `evaluate_coco`, with a main figure and the cap on detections."""
    path = run_dir / "metrics.json"
    figures = _read_object(path)
    for name, value in figures.items():
        if not is_number(value):
            raise DamagedReport(path, f"`{name}` is no number")
    if main_figure(figures) is None or "max_detections" not in figures:
        raise DamagedReport(path, "it has no AP, or no `max_detections`")
    return figures


def _read_object(path):
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedReport):
            raise
        raise DamagedReport(path, f"it is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedReport(path, "it holds no JSON object")
    return content


def _read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise DamagedReport(path, f"it cannot be read ({problem})") from error
