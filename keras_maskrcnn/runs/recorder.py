"""Writes the run folder during training: metrics.csv, curves.png, metrics.json, last.keras for resuming, best.keras.

last.keras is a Keras archive with one more member, `run.json`, which holds the state of the run (`folder.read_state`
reads it). So the states of the model, the optimizer and the run are replaced in one step. Within long epochs
midway.keras does the same. Called by `experiment.py`.
"""

import csv
import json
import logging
import pathlib
import time
import zipfile

import keras
import numpy as np

from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.host.files import copy_file, write_atomically, write_json
from keras_maskrcnn.host.progress import progress_bar
from keras_maskrcnn.runs.callbacks import running_means
from keras_maskrcnn.runs.folder import BEST, LAST, MIDWAY, PAGE, STATE

SLOW_LOADER = 0.2  # share of an epoch spent waiting for data above which the user gets a hint

_LOG = logging.getLogger(__name__)


class RunRecorder(keras.callbacks.Callback):
    """Writes metrics.csv, curves.png, metrics.json, last.keras and best.keras at each epoch's end, and shows progress.

    Put it last, because it records what other callbacks add to the logs. best.keras is the last.keras of the epoch with
    the best `main_figure`. It comes after it, so that after a kill between them it can be made from it.

    Args:
        run_dir: existing folder.
        evaluator: CocoEvaluator earlier in the list, or None.
        budget: TimeBudget earlier in the list, or None.
        epochs: int, the length of a run without a budget.
        verbose: 0 draws no progress bar, 1 does. Messages go to the log in both cases.
        run_id: str of the run, as in its config.json.
        save_minutes: float, time between two saves within an epoch; None saves at its end alone.
        loader: DataLoader given to `fit`; without one nothing is saved within an epoch.
        wait: DataWait earlier in the list, or None.
    """

    def __init__(
        self,
        run_dir,
        evaluator=None,
        budget=None,
        epochs=None,
        verbose=1,
        run_id=None,
        save_minutes=None,
        loader=None,
        wait=None,
    ):
        super().__init__()
        self.run_dir = pathlib.Path(run_dir)
        self.evaluator = evaluator
        self.budget = budget
        self.epochs = epochs
        self.verbose = verbose
        self.run_id = run_id
        self.save_seconds = None if save_minutes is None or loader is None else 60.0 * save_minutes
        self.loader, self.wait = loader, wait
        self.rows = []
        self.best, self.best_epoch = {}, None
        self._seconds_before = 0.0
        self._hinted = False
        self._bar = None

    def restore(self, state):
        """Continue from this state of an earlier run."""
        self.rows, self.best, self.best_epoch = state["rows"], state["best"], state.get("best_epoch")
        self._seconds_before = state["seconds"]

    def on_train_begin(self, logs=None):
        """Start the clock."""
        self._started = self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Announce the epoch and start its progress bar."""
        self._epoch, self._newest_loss = epoch, None
        minutes = self.budget and f", {self._seconds() / 60:.1f} of {self.budget.seconds / 60:g} minutes"
        compiles = "; the first step also compiles the model" if self._bar is None else ""
        _LOG.info("epoch %d%s%s", epoch + 1, minutes or f" of {self.epochs}", compiles)
        self._bar = progress_bar(self.params["steps"], verbose=self.verbose)

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar; save if it is time, and if the epoch does not end with this batch.

        The bar shows the loss of the step before: to read this step's, the process would wait for the device, which
        would then wait for the next batch. So two steps are under way at most.
        """
        done = batch + 1 + getattr(self.loader, "skipped", 0)
        newest = (logs or {}).get("loss", np.nan)
        loss, self._newest_loss = newest if self._newest_loss is None else self._newest_loss, newest
        self._bar.update(done, loss=float(loss))
        due = self.save_seconds is not None and time.monotonic() - self._saved >= self.save_seconds
        if due and done < self.params["steps"] and not self.model.stop_training:
            self._save_midway(done)

    def on_epoch_end(self, epoch, logs=None):
        """Write every file that this epoch changes."""
        self._bar.close()
        logs = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "minutes": self._seconds() / 60, "learning_rate": rate} | logs
        self.rows.append({key: float(f"{value:.6g}") for key, value in row.items()})
        figure = main_figure(logs)
        if figure is not None and 0 <= logs[figure] > self.best.get(main_figure(self.best), -np.inf):
            self.best, self.best_epoch = self.evaluator.metrics, epoch + 1
        first = len(self.rows) == 1
        if first:
            (self.run_dir / PAGE).unlink(missing_ok=True)  # an earlier run's: with it this run would count as finished
        write_course(self.run_dir, self.rows, self.best)
        self._write_checkpoint(epoch)
        if first:
            self._remove_former()
        if self.best_epoch == epoch + 1:
            copy_file(self.run_dir / LAST, self.run_dir / BEST)
        (self.run_dir / MIDWAY).unlink(missing_ok=True)
        self._saved = time.monotonic()
        _LOG.info("%s", _summary(logs))
        self._hint(logs.get("data_wait", 0.0))

    def _write_checkpoint(self, epoch):
        finished = bool(self.model.stop_training or epoch + 1 == self.params.get("epochs"))
        self._write_model(LAST, epoch + 1, finished, midway=None)

    def _save_midway(self, batches):
        """Write the model within an epoch. Its weights are not swapped with their averages, as they are at the end."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # otherwise the variables are those of the epoch's start
        midway = {
            "batches": batches,
            "metrics": running_means(self.model),
            "data_wait": self.wait and self.wait.state(),
        }
        self._write_model(MIDWAY, self._epoch, finished=False, midway=midway)
        self._saved = time.monotonic()

    def _write_model(self, name, epochs_done, finished, midway):
        state = {
            "run_id": self.run_id,
            "epochs_done": epochs_done,
            "finished": finished,
            "seconds": self._seconds(),
            "budget": self.budget and self.budget.state(),
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "midway": midway,
        }

        def write(path):
            self.model.save(path)
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(STATE, json.dumps(state))

        write_atomically(self.run_dir / name, write)

    def _remove_former(self):
        """Remove what an earlier run left and this one has not replaced: from now on the folder is this run's."""
        if not self.best:
            for name in (BEST, "metrics.json"):
                (self.run_dir / name).unlink(missing_ok=True)
        for path in (self.run_dir / "overlays").glob("[0-9][0-9]-*.png"):
            path.unlink()

    def _hint(self, waited):
        if waited > SLOW_LOADER and not self._hinted:
            self._hinted = True
            _LOG.info(
                "  the loader is slower than the model, which waited for data %.0f%% of the time: raise --workers "
                "(DataLoader's workers) towards the number of cores with --worker-type process (worker_type), augment "
                "less, or store smaller images",
                100 * waited,
            )

    def _seconds(self):
        return self._seconds_before + time.monotonic() - self._started


def write_course(run_dir, rows, best):
    """Write what follows from the epochs so far: metrics.csv, curves.png, and metrics.json if anything was measured."""
    if best:
        write_json(run_dir / "metrics.json", best)
    write_atomically(run_dir / "metrics.csv", lambda path: _write_csv(path, rows))
    write_atomically(run_dir / "curves.png", lambda path: _plot(path, rows))


def _write_csv(path, rows):
    """Write rows as CSV. The columns are the union of all rows' names, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _plot(path, rows):
    """Plot losses on the left and COCO figures on the right, over minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))  # no pyplot: no global state, no display
    # Fixed margins: to compute them, matplotlib draws twice, half a second at every epoch.
    margins = {"left": 0.06, "right": 0.985, "bottom": 0.12, "top": 0.92, "wspace": 0.14}
    losses, accuracy = figure.subplots(1, 2, gridspec_kw=margins)
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
    """Describe an epoch in one line: the losses, AP if it was measured, and the time spent waiting for data."""
    parts = [f"{key} {value:.4g}" for key, value in logs.items() if key.endswith("loss")]
    figure = main_figure(logs)
    measured = [key for key in (figure, f"{figure}50") if logs.get(key, -1) >= 0]
    parts += [f"{key.removeprefix('val_')} {logs[key]:.3f}" for key in measured]
    parts += [f"waited for data {logs['data_wait']:.0%} of the time"] if "data_wait" in logs else []
    return "  " + ", ".join(parts)
