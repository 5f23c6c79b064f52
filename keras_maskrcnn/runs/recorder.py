"""The run folder's bookkeeping: metrics.csv, curves.png, metrics.json, and last.keras, which a run can go on from.

last.keras is a Keras archive with one more member, `run.json`: the run's state beside the model's and the optimizer's,
so that all three are replaced in one step. Called by `experiment.py`.
"""

import csv
import json
import pathlib
import time
import zipfile

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_maskrcnn.host.files import write_atomically, write_json
from keras_maskrcnn.host.progress import progress_bar

STATE = "run.json"  # member of last.keras
SLOW_LOADER = 0.2  # share of an epoch spent waiting for data from which a hint is due


class RunRecorder(keras.callbacks.Callback):
    """Writes metrics.csv, curves.png, metrics.json and last.keras at each epoch's end, and shows progress.

    Put it last, so that it sees what other callbacks add to the logs.

    Args:
        run_dir: existing folder.
        evaluator: CocoEvaluator earlier in the list, or None.
        budget: TimeBudget earlier in the list, or None.
        epochs: int, what ends the run without a budget.
        verbose: 0 or 1.
        run_id: str of the run, as in its config.json.
    """

    def __init__(self, run_dir, evaluator=None, budget=None, epochs=None, verbose=1, run_id=None):
        super().__init__()
        self.run_dir = pathlib.Path(run_dir)
        self.evaluator = evaluator
        self.budget = budget
        self.epochs = epochs
        self.verbose = verbose
        self.run_id = run_id
        self.rows = []
        self.best = {}
        self._seconds_before = 0.0
        self._hinted = False
        self._bar = None

    def restore(self, state):
        """Go on where a run stood that wrote this state."""
        self.rows, self.best = state["rows"], state["best"]
        self._seconds_before = state["seconds"]

    def on_train_begin(self, logs=None):
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Open the epoch's progress bar."""
        compiles = self._bar is None
        self._bar = progress_bar(self.params["steps"], verbose=self.verbose, stateful_metrics=["loss"])
        if self.verbose:
            minutes = self.budget and f", {self._seconds() / 60:.1f} of {self.budget.seconds / 60:g} minutes"
            line = f"epoch {epoch + 1}" + (minutes or f" of {self.epochs}")
            print(line + ("; its first step also compiles the model" if compiles else ""), flush=True)

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar."""
        self._bar.update(batch + 1, [("loss", float((logs or {}).get("loss", np.nan)))])

    def on_epoch_end(self, epoch, logs=None):
        """Write everything that this epoch changes."""
        logs = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "minutes": self._seconds() / 60, "learning_rate": rate} | logs
        self.rows.append({key: float(f"{value:.6g}") for key, value in row.items()})
        if "val_segm_AP" in logs and logs["val_segm_AP"] > self.best.get("segm_AP", -np.inf):
            self.best = self.evaluator.metrics
            write_json(self.run_dir / "metrics.json", self.best)
        write_atomically(self.run_dir / "metrics.csv", lambda path: _write_csv(path, self.rows))
        write_atomically(self.run_dir / "curves.png", lambda path: _plot(path, self.rows))
        self._write_checkpoint(epoch)
        if self.verbose:
            print(_summary(logs))
            self._hint(logs.get("data_wait", 0.0))

    def _write_checkpoint(self, epoch):
        state = {
            "run_id": self.run_id,
            "epochs_done": epoch + 1,
            "finished": bool(self.model.stop_training or epoch + 1 == self.params.get("epochs")),
            "seconds": self._seconds(),
            "budget": self.budget and self.budget.state(),
            "rows": self.rows,
            "best": self.best,
        }

        def write(path):
            self.model.save(path)
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(STATE, json.dumps(state))

        write_atomically(self.run_dir / "last.keras", write)

    def _hint(self, waited):
        if waited > SLOW_LOADER and not self._hinted:
            self._hinted = True
            print(
                f"  the loader is slower than the model, which waited for data {waited:.0%} of the time: raise "
                "--workers (DataLoader's workers) towards the number of cores, augment less, or store smaller images"
            )

    def _seconds(self):
        return self._seconds_before + time.monotonic() - self._started


def read_state(checkpoint):
    """The run's state in a last.keras; None where there is no such file, or one without a run.

    Returns:
        dict of run_id, epochs_done, finished, seconds, budget (`TimeBudget.state`, or None), rows, best.
    """
    if not pathlib.Path(checkpoint).is_file():
        return None
    with zipfile.ZipFile(checkpoint) as archive:
        return json.loads(archive.read(STATE)) if STATE in archive.namelist() else None


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
    """One line on an epoch: the losses, AP where it was measured, and how long the model stood still."""
    parts = [f"{key} {value:.4g}" for key, value in logs.items() if key.endswith("loss")]
    parts += [f"{key[4:]} {logs[key]:.3f}" for key in ("val_segm_AP", "val_segm_AP50") if key in logs]
    parts += [f"waited for data {logs['data_wait']:.0%} of the time"] if "data_wait" in logs else []
    return "  " + ", ".join(parts)
