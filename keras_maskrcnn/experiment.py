"""One training run in one folder: what was asked, what happened, the weights, the pictures.

Comes in: a compiled model, a training loader, a validation dataset. Goes out: the final COCO figures, and

    config.json   the model's config, the run's settings, package versions
    metrics.csv   one line an epoch: losses, learning rate, COCO figures where they were measured
    curves.png    the same as a plot
    metrics.json  the figures of the best epoch, classes included
    best.keras    the model with the highest segm AP          last.keras   after the last epoch
    overlays/     validation images, ground truth beside what the best model finds
    index.html    all of it on one page, by run_page.py

Every file is replaced as a whole, so a run killed at any moment leaves a readable folder. Called by the
command line and the samples.
"""

import csv
import importlib.metadata
import pathlib
import time

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_maskrcnn.callbacks import BestCheckpoint, TimeBudget, restore_weights, save_model
from keras_maskrcnn.data import DataLoader, EpochSync
from keras_maskrcnn.evaluation import CocoEvaluator
from keras_maskrcnn.files import write_atomically, write_json
from keras_maskrcnn.predictor import Predictor
from keras_maskrcnn.run_page import write_run_page
from keras_maskrcnn.visualize import beside, draw_ground_truth, draw_instances

OVERLAY_SCORE = 0.5  # detections drawn: the ones a user would take
OVERLAY_SIDE = 512  # pixels; smaller images are enlarged by whole factors up to about this
CAPTIONED = 20  # with more instances than this, names and boxes would hide the image
ENDLESS = 1_000_000  # epochs of a run that its time budget ends


def train_model(
    model,
    train_loader,
    val_dataset,
    run_dir,
    epochs=None,
    minutes=None,
    warmup_steps=100,
    evaluate_every=1,
    steps_per_epoch=None,
    num_overlays=6,
    callbacks=(),
    settings=None,
    verbose=1,
):
    """Train, measure, keep the best, draw: everything a run leaves behind.

    Either `epochs` or `minutes` ends training. With `minutes` the learning rate warms up and follows a cosine
    on elapsed time down from the optimizer's constant rate. If the optimizer has `use_ema`, the averaged weights
    are evaluated and saved. Afterwards the model holds the best weights.

    Args:
        model: MaskRCNN, compiled.
        train_loader: DataLoader, or what `fit` takes.
        val_dataset: dataset or DataLoader as in `evaluate_coco`; None trains without measuring.
        run_dir: folder, made if missing. Files of an earlier run in it are replaced.
        epochs: int, or None.
        minutes: float wall-clock budget of training and its evaluations, or None.
        warmup_steps: int, steps of linear warm-up under a time budget.
        evaluate_every: int, epochs between COCO evaluations; the last epoch is always evaluated.
        steps_per_epoch: int, or None for the loader's length. For a quick try of one epoch: with more, Keras cuts
            some of them short where the loader's data ends.
        num_overlays: int, validation images drawn at the end.
        callbacks: further Keras callbacks, called before evaluation and saving.
        settings: JSON-ready dict, written into config.json.
        verbose: 0 silent, 1 a progress bar and a line an epoch.

    Returns:
        The COCO figures of the best epoch (`evaluate_coco`'s dictionary); empty without a val_dataset.
    """
    if (epochs is None) == (minutes is None):
        raise ValueError(
            "Training ends after `epochs` or after `minutes`; give exactly one. "
            f"Received epochs={epochs}, minutes={minutes}."
        )
    run_dir = pathlib.Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_config(model, run_dir, settings)
    evaluator = None if val_dataset is None else CocoEvaluator(val_dataset, evaluate_every)
    recorder = RunRecorder(run_dir, evaluator, minutes, epochs, verbose)
    first = [] if minutes is None else [TimeBudget(minutes, warmup_steps=warmup_steps)]
    if isinstance(train_loader, DataLoader):
        first.append(EpochSync(train_loader))
    if getattr(model.optimizer, "use_ema", False):
        first.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    checks = [] if evaluator is None else [evaluator, BestCheckpoint(run_dir / "best.keras")]
    model.fit(
        train_loader,
        epochs=epochs or ENDLESS,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the loader shuffles, by its own seed
        callbacks=[*first, *callbacks, *checks, recorder],
        verbose=0,
    )
    if evaluator is None:
        restore_weights(model, run_dir / "last.keras")
    else:
        restore_weights(model, run_dir / "best.keras")
        draw_overlays(model, val_dataset, run_dir / "overlays", num_overlays)
    write_run_page(run_dir)
    return recorder.best


class RunRecorder(keras.callbacks.Callback):
    """Writes metrics.csv, curves.png, metrics.json and last.keras at each epoch's end, and shows progress.

    Put it last, so that it sees what other callbacks add to the logs.

    Args:
        run_dir: existing folder.
        evaluator: CocoEvaluator earlier in the list, or None.
        minutes, epochs: what will end the run, for the progress line; the other one is None.
        verbose: 0 or 1.
    """

    def __init__(self, run_dir, evaluator=None, minutes=None, epochs=None, verbose=1):
        super().__init__()
        self.run_dir = pathlib.Path(run_dir)
        self.evaluator = evaluator
        self.minutes = minutes
        self.epochs = epochs
        self.verbose = verbose
        self.rows = []
        self.best = {}

    def on_train_begin(self, logs=None):
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Open the epoch's progress bar."""
        self._bar = keras.utils.Progbar(self.params["steps"], verbose=self.verbose, stateful_metrics=["loss"])
        if self.verbose:
            done = f"{self._minutes():.1f} of {self.minutes} minutes"
            print(f"epoch {epoch + 1}" + (f", {done}" if self.minutes else f" of {self.epochs}"))

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar."""
        self._bar.update(batch + 1, [("loss", float((logs or {}).get("loss", np.nan)))])

    def on_epoch_end(self, epoch, logs=None):
        """Write everything that this epoch changes."""
        logs = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "minutes": self._minutes(), "learning_rate": rate} | logs
        self.rows.append({key: float(f"{value:.6g}") for key, value in row.items()})
        write_atomically(self.run_dir / "metrics.csv", lambda path: _write_csv(path, self.rows))
        write_atomically(self.run_dir / "curves.png", lambda path: _plot(path, self.rows))
        save_model(self.model, self.run_dir / "last.keras")
        if "val_segm_AP" in logs and logs["val_segm_AP"] > self.best.get("segm_AP", -np.inf):
            self.best = self.evaluator.metrics
            write_json(self.run_dir / "metrics.json", self.best)
        if self.verbose:
            print(_summary(logs))

    def _minutes(self):
        return (time.monotonic() - self._started) / 60


def draw_overlays(model, dataset, directory, count, score_threshold=OVERLAY_SCORE):
    """Draw images of a dataset, ground truth beside what the model finds, as PNG files.

    Args:
        model: MaskRCNN.
        dataset: dataset or DataLoader as in `evaluate_coco`.
        directory: folder, made if missing. Overlays of an earlier run in it (`01-*.png` and so on) are removed.
        count: int, how many images, taken evenly from the whole dataset.
        score_threshold: float, detections below it are not drawn.

    Returns:
        List of the files' paths.
    """
    dataset = getattr(dataset, "dataset", dataset)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("[0-9][0-9]-*.png"):
        path.unlink()
    predictor = Predictor(model, max(score_threshold, model.config.score_threshold))
    truth = dataset.to_coco()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    files = {entry["id"]: entry.get("file_name") for entry in truth["images"]}
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    paths = []
    for i in chosen:
        image_id = dataset.image_ids[i]
        annotations = [a for a in truth["annotations"] if a["image_id"] == image_id]
        panel = _overlay(dataset.load_image(i), annotations, predictor, names)
        paths.append(
            directory / f"{len(paths) + 1:02d}-{pathlib.PurePath(files.get(image_id) or str(image_id)).stem}.png"
        )
        write_atomically(paths[-1], Image.fromarray(panel).save)
    return paths


def find_model(path):
    """The `.keras` file that a path means: the file itself, or the best (else last) model of a run folder.

    Raises:
        ValueError: when there is neither.
    """
    path = pathlib.Path(path)
    candidates = [path / "best.keras", path / "last.keras"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".keras":
            return candidate
    raise ValueError(
        "A model is a .keras file or a run folder that holds best.keras or last.keras. "
        f"Received: {path}, where there is no such file. `keras-maskrcnn train` writes one."
    )


def _overlay(image, annotations, predictor, names):
    found = predictor(image)
    enlarge = max(1, OVERLAY_SIDE // max(image.shape[:2]))
    few = max(len(found), len(annotations)) <= CAPTIONED
    style = {"captions": few, "boxes": few, "enlarge": enlarge}
    pictures = [
        draw_ground_truth(image, annotations, names, **style),
        draw_instances(image, found, **style),
    ]
    found_title = f"found: {len(found)} (score >= {predictor.score_threshold:g})"
    return beside(pictures, [f"ground truth: {len(annotations)}", found_title])


def _write_config(model, run_dir, settings):
    packages = ("keras", "tensorflow", "numpy")
    write_json(
        run_dir / "config.json",
        {
            "model": model.config.to_dict(),
            "settings": settings or {},
            "backend": keras.backend.backend(),
            "versions": {name: _version(name) for name in packages},
        },
    )


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write_csv(path, rows):
    """Rows as CSV; the columns are the union of all rows' names, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _plot(path, rows):
    """Losses on the left, COCO figures on the right, over minutes."""
    figure = Figure(figsize=(11, 4), layout="constrained")  # no pyplot: no global state, no display
    losses, accuracy = figure.subplots(1, 2)
    for name in dict.fromkeys(key for row in rows for key in row):
        axis = losses if name.endswith("loss") else accuracy if name.startswith("val_") else None
        shown = axis is losses or name.split("_")[-1] in ("AP", "AP50", "AP75")
        if axis is None or not shown:
            continue
        points = [(row["minutes"], row[name]) for row in rows if row.get(name, -1) >= 0]
        if points:
            style = {"linewidth": 2.5, "color": "black"} if name == "loss" else {}
            axis.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "), **style)
    losses.set(title="training losses", xlabel="minutes", yscale="log")
    accuracy.set(title="COCO AP on validation images", xlabel="minutes", ylim=(0, 1))
    for axis in (losses, accuracy):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _summary(logs):
    """One line on an epoch: the losses, and AP where it was measured."""
    parts = [f"{key} {value:.4g}" for key, value in logs.items() if key.endswith("loss")]
    parts += [f"{key[4:]} {logs[key]:.3f}" for key in ("val_segm_AP", "val_segm_AP50") if key in logs]
    return "  " + ", ".join(parts)
