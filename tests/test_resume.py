"""A run that is killed and resumed gives the numbers of one left alone; the share of time spent waiting for data."""

import csv
import errno
import json
import os
import types
import zipfile

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
from keras_maskrcnn.runs.folder import find_model, read_state

pytestmark = pytest.mark.usefixtures("quick_curves")

CONFIG = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=2, gt_mask_size=14)


class Killed(BaseException):
    """As a kill: the run cannot tidy up, as it does after an Exception."""


def kill(*_):
    raise Killed


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


def start(recipe, seed=3, graphs=False):
    """A new process would begin like this: model, loader, optimizer from the same numbers.

    On TensorFlow without graphs, unless they are asked for: tracing takes longer than the steps.
    """
    eager = keras.backend.backend() == "tensorflow" and not graphs
    keras.utils.set_random_seed(seed)
    model = Noisy()
    transforms = [RandomCrop(32), RandomFlip(True, True)]
    loader = DataLoader(images(10), CONFIG, 2, transforms, shuffle=True, seed=4, canvas=(32, 32), negatives=0.3)
    model.compile(recipe.make_optimizer(), run_eagerly=eager)
    return model, loader


def rows_of(run):
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("minutes", "data_wait")} for row in csv.DictReader(file)]


def test_two_epochs_a_kill_and_two_more_are_four(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=4, learning_rate=0.05, accumulate=3, ema=0.9)
    straight, loader = start(recipe, graphs=True)
    train_model(straight, loader, None, tmp_path / "straight", epochs=4, verbose=0)

    killed, loader = start(recipe, graphs=True)
    run = tmp_path / "killed"
    with pytest.raises(Killed):
        train_model(killed, loader, None, run, epochs=4, callbacks=[Kill(2)], verbose=0)
    assert read_state(run / "last.keras")["epochs_done"] == 2 and len(rows_of(run)) == 2
    resumed, loader = start(recipe, seed=5, graphs=True)  # what the process began with does not matter
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
        train_model(model, loader, None, tmp_path / "run", **{"epochs": 1, "verbose": 0} | options)

    with pytest.raises(ValueError, match="that was started.*holds none. Leave out resume=True"):
        train(resume=True)
    assert not (tmp_path / "run").exists()
    train()
    with pytest.raises(ValueError, match="finished after 1 epochs.*another run_dir"):
        train(resume=True)
    with pytest.raises(Killed):
        train(epochs=3, callbacks=[Kill(1)], verbose=1)
    assert f"{tmp_path / 'run'} holds an earlier run of 1 epochs, finished; " in capsys.readouterr().out
    with pytest.raises(ValueError, match="resume continues a run and overwrite replaces it"):
        train(resume=True, overwrite=True)
    model.config = MaskRCNNConfig(num_classes=1, image_scale=2.0)
    with pytest.raises(ValueError, match="another config.*: gt_mask_size, image_scale, max_instances"):
        train(epochs=3, resume=True)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.tensorflow  # one backend is enough
def test_an_unfinished_run_is_replaced_only_if_asked_for(tmp_path, capsys):
    recipe = km.choose_recipe(2, 4, epochs=3)
    model, loader = start(recipe)

    def train(**options):
        train_model(model, loader, None, tmp_path, **{"epochs": 3, "verbose": 0} | options)

    for epoch, how_far in ((0, "without a complete epoch"), (1, "stopped after 1 epochs")):
        with pytest.raises(Killed):
            train(callbacks=[Kill(epoch)], overwrite=True)
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=f"{how_far}. Add resume=True to continue it, or overwrite=True"):
            train()
        assert contents(tmp_path) == before
    with pytest.raises(Killed):
        train(callbacks=[Kill(0)], overwrite=True, verbose=1)
    assert "an earlier run of 1 epochs, unfinished; this run replaces its last.keras" in capsys.readouterr().out
    train(resume=True)  # the new run, not the older one whose last.keras is still there
    assert read_state(tmp_path / "last.keras")["epochs_done"] == 3
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.tensorflow  # one backend is enough
def test_a_run_killed_in_its_first_epoch_begins_again(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=2, learning_rate=0.05)
    straight, loader = start(recipe)
    train_model(straight, loader, None, tmp_path / "straight", epochs=2, verbose=0)
    killed, loader = start(recipe)
    with pytest.raises(Killed):
        train_model(killed, loader, None, tmp_path / "run", epochs=2, callbacks=[Kill(0)], verbose=0)
    resumed, loader = start(recipe)
    train_model(resumed, loader, None, tmp_path / "run", epochs=2, verbose=0, resume=True)
    np.testing.assert_array_equal(resumed.get_weights()[0], straight.get_weights()[0])
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "straight")


@pytest.mark.tensorflow  # one backend is enough
def test_an_error_in_the_first_epoch_leaves_the_folder_as_it_was(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=1)

    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("out of memory")

    model, loader = start(recipe)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            train_model(model, loader, None, tmp_path / "run", epochs=1, callbacks=[Broken()], verbose=0)
        assert not (tmp_path / "run").exists()
    train_model(model, loader, None, tmp_path / "run", epochs=1, verbose=0)
    before = contents(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_model(model, loader, None, tmp_path / "run", epochs=1, callbacks=[Broken()], verbose=0)
    assert contents(tmp_path) == before


@pytest.mark.tensorflow  # one backend is enough
def test_a_run_that_fills_the_disk_names_the_file_and_is_resumed(tmp_path, monkeypatch):
    recipe = km.choose_recipe(2, 4, epochs=2, learning_rate=0.05)
    model, loader = start(recipe)
    save, calls = model.save, []

    def full_the_second_time(path):
        calls.append(path)
        save(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model, "save", full_the_second_time)
    with pytest.raises(OSError, match=f"Writing {tmp_path / 'last.keras'} needs room on its disk. Received: No space"):
        train_model(model, loader, None, tmp_path, epochs=2, verbose=0)
    assert read_state(tmp_path / "last.keras")["epochs_done"] == 1 and not list(tmp_path.glob(".*"))
    model, loader = start(recipe)
    train_model(model, loader, None, tmp_path, epochs=2, verbose=0, resume=True)
    assert read_state(tmp_path / "last.keras")["finished"] and len(rows_of(tmp_path)) == 2


class Figures(keras.callbacks.Callback):
    """Stands for CocoEvaluator: an epoch's AP from a list."""

    values = ()

    def __init__(self, val, every):
        super().__init__()

    def on_epoch_end(self, epoch, logs=None):
        value = self.values[epoch]
        self.metrics = {"segm_AP": value, "max_detections": 100.0}
        logs["val_segm_AP"] = value


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr("keras_maskrcnn.runs.experiment.CocoEvaluator", Figures)
    monkeypatch.setattr("keras_maskrcnn.runs.experiment.draw_overlays", lambda *_: None)
    monkeypatch.setattr(Figures, "values", (0.2, 0.4, 0.3))


@pytest.mark.tensorflow  # one backend is enough
@pytest.mark.parametrize("values", [(0.2, 0.4, 0.3), (0.2, 0.3, 0.4)])
def test_a_kill_before_the_report_leaves_a_run_whose_report_can_be_written(tmp_path, monkeypatch, measured, values):
    monkeypatch.setattr(Figures, "values", values)
    recipe = km.choose_recipe(2, 4, epochs=3)
    model, loader = start(recipe)
    with monkeypatch.context() as patch:
        patch.setattr("keras_maskrcnn.runs.experiment.write_run_page", kill)
        with pytest.raises(Killed):
            train_model(model, loader, loader, tmp_path, epochs=3, verbose=0)
    weights = model.get_weights()[0]
    with pytest.raises(ValueError, match="a run of 3 epochs without its report. Add resume=True"):
        train_model(model, loader, loader, tmp_path, epochs=3, verbose=0)
    (tmp_path / "metrics.csv").write_text("cut")
    if values[1] == 0.4:  # the best epoch is not the last one: nothing else has its weights
        whole = (tmp_path / "best.keras").read_bytes()
        cut(tmp_path / "best.keras")
        again, loader = start(recipe, seed=9)
        with monkeypatch.context() as patch, pytest.warns(UserWarning) as told:
            patch.setattr(again, "fit", None)
            assert train_model(again, loader, loader, tmp_path, epochs=3, verbose=0, resume=True)["segm_AP"] == 0.4
        told = [str(warning.message) for warning in told]
        assert (
            "The figures of the best epoch stay, its weights are lost." in told[0] and "last.keras is used" in told[1]
        )
        (tmp_path / "best.keras").write_bytes(whole)
        (tmp_path / "index.html").unlink()
    again, loader = start(recipe, seed=9)
    monkeypatch.setattr(again, "fit", None)  # nothing is trained
    metrics = train_model(again, loader, loader, tmp_path, epochs=3, verbose=0, resume=True)
    assert metrics["segm_AP"] == 0.4 and "<b>0.400</b>mask AP<" in (tmp_path / "index.html").read_text()
    np.testing.assert_array_equal(again.get_weights()[0], weights)
    assert len(rows_of(tmp_path)) == 3
    with pytest.raises(ValueError, match="run finished after 3 epochs"):
        train_model(again, loader, loader, tmp_path, epochs=3, verbose=0, resume=True)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.tensorflow  # one backend is enough
def test_of_two_files_of_a_run_the_whole_one_gives_the_same_numbers(tmp_path, measured):
    recipe = km.choose_recipe(2, 4, epochs=3, learning_rate=0.05)
    straight, loader = start(recipe)
    train_model(straight, loader, loader, tmp_path / "straight", epochs=3, verbose=0)
    killed, loader = start(recipe)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train_model(killed, loader, loader, run, epochs=3, callbacks=[Kill(2)], verbose=0)
    kept = contents(run)

    def resume():
        model, loader = start(recipe, seed=5)
        train_model(model, loader, loader, run, epochs=3, verbose=0, resume=True)
        np.testing.assert_array_equal(model.get_weights()[0], straight.get_weights()[0])
        assert rows_of(run) == rows_of(tmp_path / "straight")

    cut(run / "last.keras")
    with pytest.warns(UserWarning, match="last.keras is damaged: .* goes on from .*best.keras, after 2 epochs"):
        resume()
    put_back(run, kept)
    cut(run / "best.keras")
    resume()  # the best epoch is the last one: best.keras is made from last.keras
    put_back(run, kept)
    cut(run / "last.keras")
    cut(run / "best.keras")
    with pytest.raises(ValueError, match="last.keras is damaged: .* Start anew with overwrite=True instead of resume"):
        resume()


def put_back(run, kept):
    for name, content in kept.items():
        (run / name).write_bytes(content)
    (run / "index.html").unlink(missing_ok=True)


@pytest.mark.tensorflow  # one backend is enough
def test_a_best_file_of_an_earlier_epoch_is_replaced_if_damaged_and_kept_if_of_an_old_version(
    tmp_path, measured, monkeypatch
):
    monkeypatch.setattr(Figures, "values", (0.4, 0.2, 0.3))
    recipe = km.choose_recipe(2, 4, epochs=3, learning_rate=0.05)

    def train(**options):
        model, loader = start(recipe, seed=5)
        return train_model(model, loader, loader, tmp_path, epochs=3, verbose=0, **options)

    with pytest.raises(Killed):
        train(callbacks=[Kill(2)])
    kept = contents(tmp_path)
    cut(tmp_path / "best.keras")
    with pytest.warns(UserWarning, match="best.keras is damaged: .+. The best of the epochs to come replaces it"):
        assert train(resume=True)["segm_AP"] == 0.3
    assert read_state(tmp_path / "best.keras")["epochs_done"] == 3
    put_back(tmp_path, kept)
    with zipfile.ZipFile(tmp_path / "best.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "run.json"}
    with zipfile.ZipFile(tmp_path / "best.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    old = (tmp_path / "best.keras").read_bytes()  # without the state of a run
    assert train(resume=True)["segm_AP"] == 0.4
    assert (tmp_path / "best.keras").read_bytes() == old and len(rows_of(tmp_path)) == 3


@pytest.mark.tensorflow  # one backend is enough
def test_a_damaged_config_is_named_and_does_not_stop_a_new_run(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=3)
    model, loader = start(recipe)
    with pytest.raises(Killed):
        train_model(model, loader, None, tmp_path, epochs=3, callbacks=[Kill(2)], verbose=0)
    (tmp_path / "config.json").write_text('{"model"')
    with pytest.raises(ValueError, match="config.json is damaged: Expecting .* overwrite=True .*, or load .*last"):
        train_model(model, loader, None, tmp_path, epochs=3, verbose=0, resume=True)
    with pytest.warns(UserWarning, match="config.json is damaged"):
        train_model(model, loader, None, tmp_path, epochs=3, verbose=0)
    assert read_state(tmp_path / "last.keras")["finished"]


@pytest.mark.tensorflow  # one backend is enough
def test_the_best_file_of_an_earlier_run_is_not_taken_for_the_new_one(tmp_path, measured, monkeypatch):
    recipe = km.choose_recipe(2, 4, epochs=3)
    model, loader = start(recipe)
    train_model(model, loader, loader, tmp_path, epochs=3, verbose=0)
    earlier = (tmp_path / "best.keras").read_bytes()
    with pytest.raises(Killed):  # without a measurement
        train_model(model, loader, None, tmp_path, epochs=3, callbacks=[Kill(1)], verbose=0)
    assert not (tmp_path / "best.keras").exists() and not (tmp_path / "index.html").exists()
    assert not (tmp_path / "metrics.json").exists()
    (tmp_path / "best.keras").write_bytes(earlier)  # as after a kill before it was removed
    assert find_model(tmp_path) == tmp_path / "last.keras"


@pytest.mark.tensorflow  # one backend is enough
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=1)
    model, loader = start(recipe)

    class Second(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(OSError, match=f"write {tmp_path}. Received: process {os.getpid()} on .* is writing"):
                train_model(model, loader, None, tmp_path, epochs=1, verbose=0, overwrite=True)

    train_model(model, loader, None, tmp_path, epochs=1, callbacks=[Second()], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "curves.png",
        "index.html",
        "last.keras",
        "metrics.csv",
    ]


@pytest.mark.parametrize(("share", "hinted"), [(0.6, True), (0.2, False)])
def test_the_share_of_waiting_is_told_and_leads_to_a_hint(tmp_path, capsys, share, hinted):
    measured = []

    class Waited(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured.append(logs["data_wait"])
            logs["data_wait"] = share

    model, _ = start(km.choose_recipe(1, 8, epochs=1))
    loader = DataLoader(images(8), CONFIG, 1, canvas=(32, 32))
    train_model(model, loader, None, tmp_path, epochs=1, callbacks=[Waited()], verbose=1)
    assert 0 <= measured[0] < 1 and float(read_rows(tmp_path)[0]["data_wait"]) == share
    told = capsys.readouterr().out
    assert f"waited for data {share:.0%}" in told and ("raise --workers" in told) == hinted


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


def whole_runs(folder, batches):
    """A function of a seed: a compiled Mask R-CNN for generated shapes and its loader, two images in a batch."""
    annotations = km.data.generate_shapes(folder, num_images=2 * batches, image_size=64, seed=0, max_shapes=2)
    dataset = km.CocoDataset(annotations, folder / "images")
    config = tiny_config(norm="batch", class_names=dataset.class_names)
    recipe = km.choose_recipe(2, batches, epochs=2, learning_rate=1e-3, ema=0.9)

    def begin(seed=0):
        keras.utils.set_random_seed(seed)
        model = km.MaskRCNN(config)
        loader = DataLoader(dataset, config, 2, shuffle=True, seed=1, augmentation="light", canvas=(64, 64))
        model.compile(recipe.make_optimizer())
        return model, loader

    return begin


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_whole_mask_rcnn_resumes_to_the_bit(tmp_path):
    begin = whole_runs(tmp_path, batches=3)
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
