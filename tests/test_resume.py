"""A run that is killed and resumed gives the numbers of one left alone; the share of time spent waiting for data."""

import csv
import json
import time
import types

import keras
import numpy as np
import pytest
from keras import ops
from tiny import tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, DataLoader, RandomCrop, RandomFlip
from keras_maskrcnn.runs import callbacks, recorder
from keras_maskrcnn.runs.callbacks import DataWait
from keras_maskrcnn.runs.experiment import train_model
from keras_maskrcnn.runs.recorder import read_state

CONFIG = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=2, gt_mask_size=14)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends everything in the middle of an epoch (counted from 0)."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.last and batch == 1:
            raise Killed


class Noisy(keras.Model):
    """Brightness of an image from one layer, with noise from a generator that is saved as MaskRCNN saves its own."""

    def __init__(self):
        super().__init__()
        self.config = CONFIG
        self.seed_generator = keras.random.SeedGenerator(7)
        self.dense = keras.layers.Dense(3)
        self.dense.build((None, 3))
        self.built = True

    def call(self, inputs):
        colors = ops.mean(ops.cast(inputs["images"], "float32"), axis=(1, 2)) / 255
        noise = keras.random.normal(ops.shape(colors), seed=self.seed_generator)
        return self.dense(colors) - colors + 0.1 * noise

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y_pred))

    def save_own_variables(self, store):
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(store["seed_state"])


def images(count):
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 32, 32), np.uint8)
    masks[0, 4:20, 6:30] = 1
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(count)]
    return ArrayDataset(pictures, [masks if k % 3 else [] for k in range(count)])


def start(recipe, seed=3):
    """A new process would begin like this: model, loader, optimizer from the same numbers."""
    keras.utils.set_random_seed(seed)
    model = Noisy()
    transforms = [RandomCrop(32), RandomFlip(True, True)]
    loader = DataLoader(images(10), CONFIG, 2, transforms, shuffle=True, seed=4, canvas=(32, 32), negatives=0.3)
    model.compile(recipe.make_optimizer())
    return model, loader


def rows_of(run):
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("minutes", "data_wait")} for row in csv.DictReader(file)]


def test_two_epochs_a_kill_and_two_more_are_four(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=4, learning_rate=0.05, accumulate=3, ema=0.9)
    straight, loader = start(recipe)
    train_model(straight, loader, None, tmp_path / "straight", epochs=4, verbose=0)

    killed, loader = start(recipe)
    run = tmp_path / "killed"
    with pytest.raises(Killed):
        train_model(killed, loader, None, run, epochs=4, callbacks=[Kill(2)], verbose=0)
    assert read_state(run / "last.keras")["epochs_done"] == 2 and len(rows_of(run)) == 2
    resumed, loader = start(recipe, seed=5)  # what the process began with does not matter
    train_model(resumed, loader, None, run, epochs=4, verbose=0, resume=True)

    assert rows_of(run) == rows_of(tmp_path / "straight") and len(rows_of(run)) == 4
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(resumed.optimizer.variables, straight.optimizer.variables):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))
    seeds = [ops.convert_to_numpy(model.seed_generator.state).tolist() for model in (resumed, straight)]
    assert seeds[0] == seeds[1] and read_state(run / "last.keras")["finished"]
    assert not list(run.glob(".partial*"))


class Clock(keras.callbacks.Callback):
    """A second a step, for callbacks and recorder alike."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now, self.rates = 0.0, []
        for module in (callbacks, recorder):
            monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.now += 1


def test_minutes_before_the_kill_count_and_the_rate_goes_on(tmp_path, monkeypatch):
    recipe = km.choose_recipe(2, 4, optimizer="sgd", learning_rate=0.1)
    options = {"minutes": 20 / 60, "warmup_steps": 2, "verbose": 0}
    killed, loader = start(recipe)
    first = Clock(monkeypatch)
    with pytest.raises(Killed):
        train_model(killed, loader, None, tmp_path, callbacks=[first, Kill(2)], **options)
    second = Clock(monkeypatch)
    second.now = 1000.0  # the pause does not count
    resumed, loader = start(recipe)
    train_model(resumed, loader, None, tmp_path, callbacks=[second], resume=True, **options)
    # A step a second: twenty steps in all, eight of them before the kill's epoch.
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20)) * np.minimum(1, np.arange(1, 21) / 2)
    np.testing.assert_allclose(first.rates[:8] + second.rates, cosine, rtol=1e-5)
    assert float(read_rows(tmp_path)[-1]["minutes"]) == pytest.approx(20 / 60, rel=1e-4)


def read_rows(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.tensorflow  # one backend is enough
def test_best_figure_and_file_outlive_the_kill(tmp_path, monkeypatch):
    figures = iter([0.4, 0.3, 0.2, 0.35])

    class Figures(keras.callbacks.Callback):
        def __init__(self, val, every):
            super().__init__()

        def on_epoch_end(self, epoch, logs=None):
            self.metrics = {"segm_AP": next(figures)}
            logs["val_segm_AP"] = self.metrics["segm_AP"]

    monkeypatch.setattr("keras_maskrcnn.runs.experiment.CocoEvaluator", Figures)
    monkeypatch.setattr("keras_maskrcnn.runs.experiment.draw_overlays", lambda *_: None)
    monkeypatch.setattr(
        "keras_maskrcnn.runs.experiment.write_run_page", lambda *_: None
    )  # shows more than these figures
    recipe = km.choose_recipe(2, 4, epochs=4)
    model, loader = start(recipe)
    with pytest.raises(Killed):
        train_model(model, loader, loader, tmp_path, epochs=4, callbacks=[Kill(2)], verbose=0)
    best = (tmp_path / "best.keras").read_bytes()
    model, loader = start(recipe)
    assert train_model(model, loader, loader, tmp_path, epochs=4, verbose=0, resume=True) == {"segm_AP": 0.4}
    assert (tmp_path / "best.keras").read_bytes() == best
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"segm_AP": 0.4}
    assert [row["val_segm_AP"] for row in read_rows(tmp_path)] == ["0.4", "0.3", "0.2", "0.35"]


@pytest.mark.tensorflow  # one backend is enough
def test_what_cannot_be_resumed_is_refused(tmp_path, capsys):
    recipe = km.choose_recipe(2, 4, epochs=1)
    model, loader = start(recipe)

    def train(**options):
        train_model(model, loader, None, tmp_path, **{"epochs": 1, "verbose": 0} | options)

    with pytest.raises(ValueError, match="last run finished none. Start it again"):
        train(resume=True)
    train()
    with pytest.raises(ValueError, match="finished after 1 epochs.*start-from"):
        train(resume=True)
    with pytest.raises(Killed):
        train(epochs=3, callbacks=[Kill(1)], verbose=1)
    assert f"{tmp_path} holds an earlier run of 1 epochs, finished; " in capsys.readouterr().out
    with pytest.raises(Killed):  # before its first epoch ends: last.keras is still the former run's
        train(epochs=3, callbacks=[Kill(0)], verbose=1)
    told = capsys.readouterr().out
    assert "unfinished (--resume would have continued it)" in told and "replaces its last.keras, metrics.csv" in told
    with pytest.raises(ValueError, match="last run finished none"):
        train(epochs=3, resume=True)
    with pytest.raises(Killed):
        train(epochs=3, callbacks=[Kill(1)])
    model.config = MaskRCNNConfig(num_classes=1, image_scale=2.0)
    with pytest.raises(ValueError, match="another config.*: gt_mask_size, image_scale, max_instances"):
        train(epochs=3, resume=True)


@pytest.mark.parametrize(("read", "step", "low", "high"), [(0.1, 0.0, 0.6, 1.0), (0.0, 0.05, 0.0, 0.15)])
def test_the_share_of_waiting_is_that_of_the_slower_side(tmp_path, capsys, read, step, low, high):
    def slowly(sample, rng):
        time.sleep(read)
        return sample

    class Work(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(step)

    model, _ = start(km.choose_recipe(1, 8, epochs=2))
    loader = DataLoader(images(8), CONFIG, 1, [slowly], canvas=(32, 32))
    train_model(model, loader, None, tmp_path, epochs=2, callbacks=[Work()], verbose=1)
    shares = [float(row["data_wait"]) for row in read_rows(tmp_path)]
    assert low <= shares[1] <= high
    told = capsys.readouterr().out
    assert f"waited for data {shares[1]:.0%}" in told
    assert ("raise --workers" in told) == (low > 0.2)


def test_waiting_by_hand(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    loader = types.SimpleNamespace(ready_at={})
    wait = DataWait(loader)
    wait.on_epoch_begin(0)
    # Three steps of ten seconds: the first batch is ready 4 seconds late, the second in time, the third 1 second late.
    for batch, ready in enumerate([4.0, 9.0, 21.0]):
        now[0] = 10.0 * batch
        wait.on_train_batch_begin(batch)
        loader.ready_at[batch] = ready
        now[0] += 10
        wait.on_train_batch_end(batch)
    now[0] = 100.0  # the epoch's end does not count
    logs = {}
    wait.on_epoch_end(0, logs)
    assert logs["data_wait"] == pytest.approx(5 / 30)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_whole_mask_rcnn_resumes_to_the_bit(tmp_path):
    annotations = km.data.generate_shapes(tmp_path, num_images=6, image_size=64, seed=0, max_shapes=2)
    dataset = km.CocoDataset(annotations, tmp_path / "images")
    config = tiny_config(norm="batch", class_names=dataset.class_names)
    recipe = km.choose_recipe(2, 3, epochs=2, learning_rate=1e-3, ema=0.9)

    def begin(seed=0):
        keras.utils.set_random_seed(seed)
        model = km.MaskRCNN(config)
        loader = DataLoader(dataset, config, 2, shuffle=True, seed=1, augmentation="light", canvas=(64, 64))
        model.compile(recipe.make_optimizer())
        return model, loader

    straight, loader = begin()
    train_model(straight, loader, None, tmp_path / "straight", epochs=2, verbose=0)
    killed, loader = begin()
    with pytest.raises(Killed):
        train_model(killed, loader, None, tmp_path / "run", epochs=2, callbacks=[Kill(1)], verbose=0)
    resumed, loader = begin(seed=1)
    train_model(resumed, loader, None, tmp_path / "run", epochs=2, verbose=0, resume=True)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "straight")
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
