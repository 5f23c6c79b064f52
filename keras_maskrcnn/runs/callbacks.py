"""Keras callbacks for `fit`: train for a number of minutes, save the best weights safely, measure the waits for data.

Called by `experiment.py` and by users. `BestCheckpoint` monitors the figures of `CocoEvaluator` (evaluation/coco.py).
"""

import math
import pathlib
import tempfile
import time
import zipfile

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.host.files import scratch_folder, write_atomically


class TimeBudget(keras.callbacks.Callback):
    """Trains for a wall-clock budget: the learning rate warms up, then follows a cosine that ends at zero with it.

    A schedule counted in steps needs to know the machine's speed in advance. This one follows the elapsed time, so it
    reaches the end of its cosine on any machine. Time spent on evaluation counts. The longest end of an epoch measured
    so far (evaluation, saving) is reserved for the end of the final epoch. Put this callback first in the list.

    Args:
        minutes: float, the whole budget from the start of `fit`.
        learning_rate: float, the peak. None takes the optimizer's.
        warmup_steps: int, steps of linear warm-up.
        reserve: float, seconds reserved for the end of the final epoch until an epoch's end has been measured.
    """

    def __init__(self, minutes, learning_rate=None, warmup_steps=100, reserve=0.0):
        super().__init__()
        if not minutes > 0:
            raise ValueError(f"A time budget must be a positive number of minutes. Received: {minutes}. Try 5.")
        self.seconds = 60.0 * minutes
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.reserve = reserve
        self.step = 0
        self.started = None
        self._steps_before, self._seconds_before = 0, 0.0
        self._epoch_ended = None

    def state(self):
        """Return what a resumed run needs: JSON-ready dict of step, seconds, learning_rate, reserve."""
        return {
            "step": self.step,
            "seconds": self.elapsed(),
            "learning_rate": self.learning_rate,
            "reserve": self.reserve,
        }

    def restore(self, state):
        """Continue from this state of an earlier run. The seconds that it used count."""
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
            self.model.jax_state_sync()  # in `fit` on JAX the variables are outdated until this call
        self.model.optimizer.learning_rate = self.rate_at(self.step, self.elapsed())
        self.step += 1

    def on_train_batch_end(self, batch, logs=None):
        """End training when only the reserved time is left."""
        if self.elapsed() >= self.seconds - self.reserve:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        """Note when the callbacks after this one begin. End training if they leave no time for another step."""
        self._epoch_ended = time.monotonic()
        if self.elapsed() + self.reserve >= self.seconds - self.reserve:
            self.model.stop_training = True

    def on_epoch_begin(self, epoch, logs=None):
        """Measure how long those callbacks took."""
        if self._epoch_ended is not None:
            self.reserve = max(self.reserve, time.monotonic() - self._epoch_ended)
            self._epoch_ended = None

    def elapsed(self):
        """Seconds of training, including those before the run was resumed."""
        return self._seconds_before + time.monotonic() - self.started

    def rate_at(self, step, elapsed):
        """Compute the learning rate of a step (counted from 0) that begins `elapsed` seconds after the start."""
        span = max(self.seconds - self.reserve, 1e-6)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, elapsed / span)))
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * cosine * warmup


class BestCheckpoint(keras.callbacks.Callback):
    """Saves the whole model whenever a monitored figure improves.

    Unlike `keras.callbacks.ModelCheckpoint` it replaces the file as a whole: it writes to a temporary file, flushes it
    to disk, then renames it. So the former best survives a kill. Epochs without the figure are skipped, and so are
    those with an AP of -1, which stands for none (no such ground truth).

    Args:
        path: file name ending in .keras.
        monitor: name among the logs; larger is better. None takes the AP of masks, or of boxes if no masks were
            measured (`main_figure`). `CocoEvaluator` must come earlier in the list.
    """

    def __init__(self, path, monitor=None):
        super().__init__()
        self.path = pathlib.Path(path)
        self.monitor = monitor
        self.best = -math.inf

    def on_epoch_end(self, epoch, logs=None):
        """Save if this epoch is the best so far."""
        logs = logs or {}
        value = logs.get(self.monitor or main_figure(logs))
        if self.monitor is None and value is not None and value < 0:
            return
        if value is not None and value > self.best:
            self.best = value
            save_model(self.model, self.path)


class DataWait(keras.callbacks.Callback):
    """Adds `data_wait` to the logs: the share of an epoch's time in which the model waited for data.

    A batch that is ready when its step begins causes no wait. A later one causes a wait until it is ready. Put this
    callback before those that read the figure.

    Args:
        loader: the DataLoader given to `fit`.
    """

    def __init__(self, loader):
        super().__init__()
        self.loader = loader
        self._ahead = backend.batches_ahead()

        self._before = None

    def state(self):
        """Return what a run needs that is resumed within this epoch: JSON-ready dict of waited and seconds."""
        return {"waited": self._waited, "seconds": self._ended - self._began}

    def restore(self, state):
        """Count these seconds of the epoch that begins next."""
        self._before = state

    def on_epoch_begin(self, epoch, logs=None):
        """Start the epoch's clock."""
        before, self._before = self._before or {"waited": 0.0, "seconds": 0.0}, None
        self._ended = time.monotonic()
        self._began = self._ended - before["seconds"]
        self._waited = before["waited"]

    def on_train_batch_begin(self, batch, logs=None):
        """Note when the step begins."""
        self._asked = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Add the time from the step's beginning until its batch was ready."""
        self._ended = time.monotonic()
        first = batch + getattr(self.loader, "skipped", 0)
        last = first + self._ahead  # Keras fetches this far ahead within the step
        ready = [self.loader.ready_at.get(index, 0.0) for index in range(first, last + 1)]
        self._waited += max(0.0, max(ready) - self._asked)

    def on_epoch_end(self, epoch, logs=None):
        """Add the share to the logs."""
        if logs is not None:
            logs["data_wait"] = self._waited / max(self._ended - self._began, 1e-9)


class RestOfEpoch(keras.callbacks.Callback):
    """Resumes within an epoch: its first steps were taken before the run was stopped. Put it last.

    Args:
        loader: DataLoader given to `fit`; EpochSync must come earlier in the list.
        epoch: int, from 0: the epoch to go on with.
        midway: dict of `folder.read_state`: `batches` taken and the values of the `metrics`.
    """

    def __init__(self, loader, epoch, midway):
        super().__init__()
        self.loader, self.metrics, self.first = loader, midway["metrics"], epoch
        loader.start_at(epoch, midway["batches"])

    def on_epoch_begin(self, epoch, logs=None):
        """Put the running means where they were, after Keras has reset them."""
        if epoch == self.first:
            for variable, value in zip(self.model.metrics_variables, self.metrics, strict=True):
                variable.assign(value)  # the sum over all replicas, which TensorFlow divides among them

    def on_train_batch_end(self, batch, logs=None):
        """End the epoch after the last of its batches: Keras counts on as many in each."""
        if self.loader.skipped and batch + 1 >= self.loader.num_batches and not backend.ENDS_WITH_DATA:
            raise StopIteration  # Keras takes it as the end of the data


def running_means(model):
    """The values of the model's metrics so far in this epoch, for RestOfEpoch: a JSON-ready list."""
    return [keras.ops.convert_to_numpy(variable).tolist() for variable in model.metrics_variables]


def save_model(model, path, finish=None):
    """Write a `.keras` file atomically: after a crash the path holds either the old file or the new one.

    Of several processes the first one's file is kept. All of them save: to read variables they wait for each other.

    Args:
        model: MaskRCNN. path: where. finish: None, or a function that adds to the file at the path it is given.
    """

    def write(place):
        model.save(place)
        if finish is not None:
            finish(place)

    if backend.team_of(model).first:
        write_atomically(path, write)
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save(pathlib.Path(folder) / "unused.keras")


def restore_weights(model, path):
    """Load all variables from a `.keras` file of this same model, including the optimizer's.

    The weights are extracted first. Keras reads them inside the archive, where each seek backwards starts again at the
    beginning: 9.4 s for ResNet-18-FPN with Adam's moments, against 2.6 s from an extracted file (2 cores).
    """
    with scratch_folder(pathlib.Path(path).parent) as folder, zipfile.ZipFile(path) as archive:
        model.load_weights(archive.extract("model.weights.h5", folder))


def _constant_learning_rate(optimizer):
    """The optimizer's learning rate, which must be one number."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # float16: wrapped by one that scales the loss
    schedule = getattr(optimizer, "_learning_rate", None)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            "A time budget sets the learning rate itself, so the optimizer needs one number as its peak. "
            f"Received an optimizer with a {type(schedule).__name__}. Compile with learning_rate=<number>."
        )
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
