"""A run that is killed within an epoch goes on with the very next batch, and gives the numbers of one left alone."""

import json
import re
import shutil
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras import ops
from test_resume import CONFIG, Clock, Killed, cut, images, rows_of, start, whole_runs

import keras_maskrcnn as km
from keras_maskrcnn.cli import resume as cli_resume
from keras_maskrcnn.data import DataLoader
from keras_maskrcnn.runs.experiment import train_model
from keras_maskrcnn.runs.folder import find_model, find_run, read_state, state_to_resume
from keras_maskrcnn.runs.options import RunOptions

pytestmark = pytest.mark.usefixtures("quick_curves")


class Steps(keras.callbacks.Callback):
    """Counts the steps of each epoch; a kill comes after so many of them all."""

    def __init__(self, kill_after=None):
        super().__init__()
        self.left, self.epochs, self.finished = kill_after, {}, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.epochs[epoch] = []

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[self.epoch].append(batch)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    def on_epoch_end(self, epoch, logs=None):
        self.finished.append((epoch, dict(logs)))


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables, model.seed_generator.state]
    return [ops.convert_to_numpy(variable) for variable in variables]


def assert_same_state(model, other):
    for ours, theirs in zip(state_of(model), state_of(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ema", [pytest.param(None, marks=pytest.mark.slow), 0.9])  # without it: the tests below
def test_runs_killed_within_epochs_end_like_one_that_was_left_alone(tmp_path, ema):
    recipe = km.choose_recipe(2, 4, epochs=4, learning_rate=0.05, accumulate=3, ema=ema)
    straight, loader = start(recipe)
    assert len(loader) == 4
    train_model(straight, loader, None, tmp_path / "straight", epochs=4, verbose=0)
    run, resume, seen = tmp_path / "run", False, []
    # Killed in the first epoch, in the same one again in its last step, in the third epoch twice, and left alone.
    for kill_after, position in ((3, (0, 2)), (2, (0, 3)), (7, (2, 1)), (2, (2, 2)), (None, None)):
        model, loader = start(recipe, seed=3 + len(seen))
        watch = Steps(kill_after)
        options = {"epochs": 4, "callbacks": [watch], "verbose": 0, "save_minutes": 0.0, "resume": resume}
        if kill_after is None:
            train_model(model, loader, None, run, **options)
        else:
            with pytest.raises(Killed):
                train_model(model, loader, None, run, **options)
            found = find_run(run).midway
            assert (found["epochs_done"], found["midway"]["batches"]) == position
            assert ("last.keras" in {path.name for path in run.iterdir()}) == (position[0] > 0)
        seen.append({epoch: len(batches) for epoch, batches in watch.epochs.items()})
        resume = True
    assert seen == [{0: 3}, {0: 2}, {0: 1, 1: 4, 2: 2}, {2: 2}, {2: 2, 3: 4}]
    assert rows_of(run) == rows_of(tmp_path / "straight") and len(rows_of(run)) == 4
    assert_same_state(model, straight)
    assert read_state(run / "last.keras")["finished"] and not (run / "midway.keras").exists()
    assert not list(run.glob(".partial*"))


@pytest.mark.slow  # that the batches of processes are those of threads is in test_workers.py
def test_it_is_the_same_with_worker_processes(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=2, learning_rate=0.05)
    straight, loader = start(recipe)
    train_model(straight, loader, None, tmp_path / "straight", epochs=2, verbose=0)
    run = tmp_path / "run"
    for kill_after in (3, None):
        model, loader = start(recipe)
        processes = DataLoader(
            images(10), CONFIG, 2, loader.transforms, loader.options, workers=2, worker_type="process"
        )
        options = {"epochs": 2, "verbose": 0, "save_minutes": 0.0, "callbacks": [Steps(kill_after)]}
        if kill_after:
            with pytest.raises(Killed):
                train_model(model, processes, None, run, **options)
        else:
            train_model(model, processes, None, run, resume=True, **options)
        processes.close()
    assert rows_of(run) == rows_of(tmp_path / "straight")
    assert_same_state(model, straight)


@pytest.mark.tensorflow  # one backend is enough
def test_minutes_and_the_rate_go_on_within_an_epoch(tmp_path, monkeypatch):
    recipe = km.choose_recipe(2, 4, optimizer="sgd", learning_rate=0.1)
    options = {"minutes": 20 / 60, "warmup_steps": 2, "verbose": 0, "save_minutes": 3 / 60}
    model, loader = start(recipe)
    first = Clock(monkeypatch)
    with pytest.raises(Killed):
        train_model(model, loader, None, tmp_path, callbacks=[first, Steps(8)], **options)
    found = find_run(tmp_path).midway
    # A second a step. The first epoch of four steps ends at 4, where the time to the next save starts again.
    assert (found["epochs_done"], found["midway"]["batches"], found["seconds"]) == (1, 3, 7.0)
    second = Clock(monkeypatch)
    second.now = 1000.0  # the pause does not count
    model, loader = start(recipe)
    train_model(model, loader, None, tmp_path, callbacks=[second], resume=True, **options)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20)) * np.minimum(1, np.arange(1, 21) / 2)
    np.testing.assert_allclose(first.rates[:7] + second.rates, cosine, rtol=1e-5)
    assert not (tmp_path / "midway.keras").exists()


def killed_run(tmp_path, steps, **options):
    recipe = km.choose_recipe(2, 4, epochs=3, learning_rate=0.05)
    model, loader = start(recipe)
    options = {"epochs": 3, "verbose": 0, "save_minutes": 0.0, **options}
    with pytest.raises(Killed):
        train_model(model, loader, None, tmp_path, callbacks=[Steps(steps)], **options)
    return recipe


@pytest.mark.tensorflow
def test_what_is_said_of_a_run_that_stopped_within_an_epoch(tmp_path, capsys):
    recipe = killed_run(tmp_path, 8)
    model, loader = start(recipe)
    with pytest.raises(ValueError, match="a run stopped after 1 epochs, 3 batches. Add resume=True"):
        train_model(model, loader, None, tmp_path, epochs=3, verbose=0)
    cli_resume.announce(tmp_path)
    assert re.search("resuming .* after 1 epochs, 3 batches and [0-9.]+ minutes", capsys.readouterr().out)
    assert state_to_resume(tmp_path)[1] == tmp_path / "midway.keras"
    assert find_model(tmp_path) == tmp_path / "last.keras"  # models are those of whole epochs


@pytest.mark.tensorflow
def test_a_midway_file_that_is_damaged_old_or_of_another_run_does_not_count(tmp_path):
    recipe = killed_run(tmp_path / "run", 8)
    straight, loader = start(recipe)
    train_model(straight, loader, None, tmp_path / "straight", epochs=3, verbose=0)
    midway = tmp_path / "run" / "midway.keras"
    kept = midway.read_bytes()

    def resume(folder, count):
        shutil.copytree(tmp_path / "run", folder)
        (folder / "midway.keras").write_bytes(midway.read_bytes())
        model, loader = start(recipe)
        watch = Steps()
        train_model(model, loader, None, folder, epochs=3, verbose=0, resume=True, callbacks=[watch])
        assert_same_state(model, straight)
        assert rows_of(folder) == rows_of(tmp_path / "straight") and len(watch.epochs[1]) == count
        assert not (folder / "midway.keras").exists()

    resume(tmp_path / "whole", 1)
    cut(midway)
    with pytest.warns(UserWarning, match="midway.keras is damaged: .* goes on after its last complete epoch"):
        resume(tmp_path / "damaged", 4)
    flipped = bytearray(kept)
    flipped[kept.index(b"model.weights.h5") + 200] ^= 1  # the state in it can be read
    midway.write_bytes(flipped)
    with pytest.warns(UserWarning, match="midway.keras is damaged: model.weights.h5 in it is not as it was written"):
        assert state_to_resume(tmp_path / "run")[1] == tmp_path / "run" / "last.keras"
    for change in ({"midway": None}, {"epochs_done": 0}, {"run_id": "another"}):
        midway.write_bytes(kept)
        change_state(midway, change)
        assert find_run(tmp_path / "run").midway is None
        assert state_to_resume(tmp_path / "run")[1] == tmp_path / "run" / "last.keras"
    resume(tmp_path / "another", 4)


def change_state(path, change):
    """Write another state into a file of a run."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["run.json"] = json.dumps(json.loads(members["run.json"]) | change).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "midway",
    [
        [],
        {"batches": 0},
        {"batches": 2.5},
        {"batches": 2, "metrics": 3},
        {"batches": 2, "metrics": [[1.0], ["high"]]},
        {"batches": 2, "metrics": [10**400]},
        {"batches": 2, "metrics": [], "data_wait": {"waited": "long", "seconds": 1.0}},
        "half",
    ],
)
def test_a_state_that_no_run_writes_is_named(tmp_path, midway):
    state = {"run_id": "x", "finished": False, "epochs_done": 2, "seconds": 90.0, "rows": [], "best": {}}
    with zipfile.ZipFile(tmp_path / "midway.keras", "w") as archive:
        archive.writestr("run.json", json.dumps(state | {"midway": midway}))
    with pytest.raises(ValueError, match="midway.keras is damaged: `midway` in its run.json"):
        read_state(tmp_path / "midway.keras")


@pytest.mark.tensorflow
def test_an_error_after_a_save_leaves_a_run_that_can_be_resumed(tmp_path):
    recipe = km.choose_recipe(2, 4, epochs=2)

    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise RuntimeError("the loader lost a worker")

    model, loader = start(recipe)
    options = {"epochs": 2, "verbose": 0, "save_minutes": 0.0}
    with pytest.raises(RuntimeError, match="lost a worker"):
        train_model(model, loader, None, tmp_path, callbacks=[Broken()], **options)
    assert find_run(tmp_path).midway["midway"]["batches"] == 3
    model, loader = start(recipe)
    train_model(model, loader, None, tmp_path, resume=True, **options)
    assert len(rows_of(tmp_path)) == 2


@pytest.mark.tensorflow
def test_a_run_goes_on_within_an_epoch_with_its_own_loader_only(tmp_path):
    recipe = killed_run(tmp_path, 4)
    model, loader = start(recipe)
    options = {"epochs": 3, "verbose": 0, "resume": True}
    with pytest.raises(ValueError, match="stopped after 0 epochs, 3 batches goes on with a DataLoader, without steps"):
        train_model(model, loader, None, tmp_path, steps_per_epoch=2, **options)
    short = DataLoader(images(6), CONFIG, 2, canvas=(32, 32))
    with pytest.raises(ValueError, match="from 0 to 2. Received 3. Resume with the data"):
        train_model(model, short, None, tmp_path, **options)


@pytest.mark.tensorflow
def test_short_epochs_and_none_save_nothing_within_an_epoch(tmp_path, monkeypatch):
    for number, minutes in enumerate((None, 1.0)):
        recipe = killed_run(tmp_path / str(number), 4, save_minutes=minutes)
        assert recipe and not (tmp_path / str(number) / "midway.keras").exists()
    with pytest.raises(ValueError, match="save_minutes must not be negative. Received save_minutes=-1"):
        RunOptions(epochs=1, save_minutes=-1)


@pytest.mark.tensorflow
def test_the_loader_offers_the_rest_of_an_epoch():
    _, loader = start(km.choose_recipe(2, 4, epochs=2))
    loader.set_epoch(1)
    whole = [batch["images"] for batch in loader]
    loader.start_at(1, 2)
    loader.set_epoch(0)
    assert loader.num_batches == 4
    loader.set_epoch(1)
    rest = [batch["images"] for batch in loader]
    assert loader.num_batches == 2 and len(loader) == 4
    for ours, theirs in zip(rest, whole[2:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    loader.on_epoch_end()
    assert (loader.epoch, loader.num_batches) == (2, 4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("good", [0, 4])  # after the first batch TensorFlow raises an error of its own kind
def test_the_loaders_own_error_ends_the_run(tmp_path, good):
    samples = []

    def stop(sample, rng):
        samples.append(sample)
        if len(samples) > good:
            raise FileNotFoundError("a file server went away")
        return sample

    model, loader = start(km.choose_recipe(2, 4, epochs=1))
    loader.transforms.append(stop)
    with warnings.catch_warnings(), pytest.raises(FileNotFoundError, match="^a file server went away$"):
        train_model(model, loader, None, tmp_path, epochs=1, verbose=0)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_whole_mask_rcnn_goes_on_within_an_epoch_to_the_bit(tmp_path):
    begin = whole_runs(tmp_path, batches=4)
    options = {"epochs": 2, "verbose": 0, "save_minutes": 0.0}
    straight, loader = begin()
    train_model(straight, loader, None, tmp_path / "straight", **options)
    killed, loader = begin()
    with pytest.raises(Killed):
        train_model(killed, loader, None, tmp_path / "run", callbacks=[Steps(7)], **options)
    assert find_run(tmp_path / "run").midway["midway"]["batches"] == 2
    resumed, loader = begin(seed=1)
    train_model(resumed, loader, None, tmp_path / "run", resume=True, **options)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "straight")
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
