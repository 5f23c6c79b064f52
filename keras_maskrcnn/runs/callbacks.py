"""Keras callbacks around `fit`: train for so many minutes, keep the best weights safely, time the waits for data.

Called by `experiment.py` and by users. `CocoEvaluator`, whose figures `BestCheckpoint` monitors, lives in
`evaluation.py`.
"""

import math
import pathlib
import tempfile
import time
import zipfile

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.host.files import write_atomically


class TimeBudget(keras.callbacks.Callback):
    """Spends a wall-clock budget: warm-up, then a cosine on elapsed time that ends at zero with the budget.

    A schedule counted in steps has to guess how fast the machine is; this one does not, and lands on its last
    learning rate whatever else the machine does. Time spent on evaluation counts, and the time that the last
    epoch's end took is kept free for the end of the final epoch. Put it first in the list of callbacks.

    Args:
        minutes: float, the whole budget from the start of `fit`.
        learning_rate: float, the peak. None means the optimizer's.
        warmup_steps: int, steps of linear warm-up.
        reserve: float, seconds to keep for the end of the final epoch as long as none has been measured.
    """

    def __init__(self, minutes, learning_rate=None, warmup_steps=100, reserve=0.0):
        super().__init__()
        if not minutes > 0:
            raise ValueError(f"A time budget must be positive minutes. Received: {minutes}.")
        self.seconds = 60.0 * minutes
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.reserve = reserve
        self.step = 0
        self.started = None
        self._steps_before, self._seconds_before = 0, 0.0
        self._epoch_ended = None

    def state(self):
        """What a resumed run needs to go on: JSON-ready dict of step, seconds, learning_rate, reserve."""
        return {
            "step": self.step,
            "seconds": self.elapsed(),
            "learning_rate": self.learning_rate,
            "reserve": self.reserve,
        }

    def restore(self, state):
        """Go on where a run stood that had this state; the seconds it used are gone."""
        self._steps_before, self._seconds_before = state["step"], state["seconds"]
        self.learning_rate, self.reserve = state["learning_rate"], state["reserve"]

    def on_train_begin(self, logs=None):
        """Start the clock."""
        self.started = time.monotonic()
        self.step = self._steps_before
        if self.learning_rate is None:
            self.learning_rate = _constant_learning_rate(self.model.optimizer)

    def on_train_batch_begin(self, batch, logs=None):
        """Set this step's learning rate."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # the optimizer's variables live in the step's state meanwhile
        self.model.optimizer.learning_rate = self.rate_at(self.step, self.elapsed())
        self.step += 1

    def on_train_batch_end(self, batch, logs=None):
        """End training when only the reserve is left."""
        if self.elapsed() >= self.seconds - self.reserve:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        """Note when the callbacks after this one begin; end training if they leave no time for another step."""
        self._epoch_ended = time.monotonic()
        if self.elapsed() + self.reserve >= self.seconds - self.reserve:
            self.model.stop_training = True

    def on_epoch_begin(self, epoch, logs=None):
        """Measure what they took."""
        if self._epoch_ended is not None:
            self.reserve = max(self.reserve, time.monotonic() - self._epoch_ended)
            self._epoch_ended = None

    def elapsed(self):
        """Seconds of training, those before a resumption included."""
        return self._seconds_before + time.monotonic() - self.started

    def rate_at(self, step, elapsed):
        """Learning rate of a step (counted from 0) that begins `elapsed` seconds after the start."""
        span = max(self.seconds - self.reserve, 1e-6)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, elapsed / span)))
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * cosine * warmup


class BestCheckpoint(keras.callbacks.Callback):
    """Saves the whole model whenever a monitored figure improves, so that a kill never loses the former best.

    Unlike `keras.callbacks.ModelCheckpoint` the file is written beside its place, flushed to disk, then renamed.
    Epochs without the figure are passed over.

    Args:
        path: file name ending in .keras.
        monitor: name among the logs; larger is better. `CocoEvaluator` must come earlier in the list.
    """

    def __init__(self, path, monitor="val_segm_AP"):
        super().__init__()
        self.path = pathlib.Path(path)
        self.monitor = monitor
        self.best = -math.inf

    def on_epoch_end(self, epoch, logs=None):
        """Save if this epoch is the best so far."""
        value = (logs or {}).get(self.monitor)
        if value is not None and value > self.best:
            self.best = value
            save_model(self.model, self.path)


class DataWait(keras.callbacks.Callback):
    """Puts into the logs, as `data_wait`, the share of an epoch's steps in which the model stood still for data.

    A batch that is ready when its step begins costs no wait; one that is finished later costs the time until then.
    Put it before the callbacks that read the figure.

    Args:
        loader: DataLoader given to `fit`.
    """

    def __init__(self, loader):
        super().__init__()
        self.loader = loader
        self._ahead = backend.batches_ahead()

    def on_epoch_begin(self, epoch, logs=None):
        """Start the epoch's clock."""
        self._began = self._ended = time.monotonic()
        self._waited = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Note when the step asks for its batch."""
        self._asked = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Compare with when the batch was ready."""
        self._ended = time.monotonic()
        last = batch + self._ahead  # Keras fetched up to this one within the step
        ready = [self.loader.ready_at.get(index, 0.0) for index in range(batch, last + 1)]
        self._waited += max(0.0, max(ready) - self._asked)

    def on_epoch_end(self, epoch, logs=None):
        """Put the share into the logs."""
        if logs is not None:
            logs["data_wait"] = self._waited / max(self._ended - self._began, 1e-9)


def save_model(model, path):
    """Write a `.keras` file atomically: after a crash the path holds the old file or the new one, whole."""
    write_atomically(path, model.save)


def restore_weights(model, path):
    """Load all variables of a `.keras` file of this very model, the optimizer's included.

    Keras reads the weights inside the archive, where every step back begins at the archive's start again: 9.4 s for
    ResNet-18-FPN with Adam's moments, which takes 2.6 s from a file of its own (2 cores).
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        model.load_weights(archive.extract("model.weights.h5", folder))


def _constant_learning_rate(optimizer):
    """The optimizer's learning rate, if it is one number."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss (float16)
    schedule = getattr(optimizer, "_learning_rate", None)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            "A time budget sets the learning rate itself, so the optimizer needs one number as its peak. "
            f"Received an optimizer with a {type(schedule).__name__}. Compile with learning_rate=<number>."
        )
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
