"""The run folder and its callbacks, on a model small enough to fit in a moment."""

import csv
import importlib.metadata
import json
import logging
import platform
import types

import keras
import numpy as np
import pytest
from known_answers import KnownDataset, answers_from, small_config
from PIL import Image

from keras_maskrcnn.data import ArrayDataset
from keras_maskrcnn.host import memory
from keras_maskrcnn.runs import callbacks, experiment
from keras_maskrcnn.runs.callbacks import BestCheckpoint, TimeBudget
from keras_maskrcnn.runs.experiment import find_model, train_model
from keras_maskrcnn.runs.options import RunOptions, run_options
from keras_maskrcnn.runs.recorder import RunRecorder

DRAWS = "test_a_run_leaves_config_metrics_weights_curves_and_overlays"


@pytest.fixture(autouse=True)
def curves_once(request):
    """One test looks at the picture of the curves; drawing it takes longer than a run of the others."""
    if request.node.name != DRAWS:
        request.getfixturevalue("quick_curves")


class Line(keras.Model):
    """y = w x, with a config and known detections: enough for a run."""

    def __init__(self, config=None, answers=(), **kwargs):
        super().__init__(**kwargs)
        self.config = config or small_config()
        self.answers = list(answers)
        self.asked = 0
        self.dense = keras.layers.Dense(1, use_bias=False)
        self.dense.build((None, 1))
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)

    def predict_on_batch(self, batch):
        from known_answers import KnownModel

        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        return KnownModel(self.config, [answer]).predict_on_batch(batch)

    def get_config(self):
        return {}


def test_without_an_object_nothing_is_measured_and_no_epoch_is_best(tmp_path, caplog):
    model, batches = line_and_data(KnownDataset([[]]))
    black = ArrayDataset([np.zeros((20, 20, 3), np.uint8)], [[]])
    with caplog.at_level(logging.INFO):
        assert train_model(model, batches, black, tmp_path, epochs=2, verbose=1) == {}
    assert (tmp_path / "last.keras").is_file() and (tmp_path / "index.html").is_file()
    assert not (tmp_path / "best.keras").exists() and not (tmp_path / "metrics.json").exists()
    assert "-1" not in (tmp_path / "metrics.csv").read_text().replace("e-1", "")
    told = [record.getMessage() for record in caplog.records if "Average precision is undefined" in record.getMessage()]
    assert len(told) == 1 and "Received 1 images with 0 objects" in told[0]


def test_an_average_precision_of_minus_one_is_never_the_best(tmp_path):
    model, _ = line_and_data()
    best = BestCheckpoint(tmp_path / "best.keras")
    best.set_model(model)
    best.on_epoch_end(0, {"val_segm_AP": -1.0, "val_bbox_AP": -1.0})
    assert not (tmp_path / "best.keras").exists() and best.best == -np.inf
    best.on_epoch_end(1, {"val_segm_AP": 0.0})
    assert (tmp_path / "best.keras").exists() and best.best == 0


def line_and_data(dataset=None, **optimizer):
    model = Line(answers=answers_from(dataset) if dataset else ())
    model.compile(keras.optimizers.SGD(**{"learning_rate": 0.01} | optimizer), loss="mse")
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    return model, keras_batches(x)


class keras_batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = self.x[8 * index : 8 * index + 8]
        return part, 3 * part


def test_a_run_leaves_config_metrics_weights_curves_and_overlays(tmp_path):
    dataset = KnownDataset([[(10, 10, 30, 30, 0)], [(50, 50, 90, 80, 0)], [(5, 5, 25, 60, 0)]])
    model, data = line_and_data(dataset)
    for name in ("07-100.png", "notes.png"):  # of an earlier run of more pictures, and the user's own
        (tmp_path / "overlays").mkdir(exist_ok=True)
        (tmp_path / "overlays" / name).write_bytes(b"")
    metrics = train_model(
        model, data, dataset, tmp_path, epochs=3, evaluate_every=2, num_overlays=2, settings={"a": 1}, verbose=0
    )
    assert metrics["segm_AP"] == pytest.approx(1.0)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0", "3.0"]
    assert [row["val_segm_AP"] for row in rows] == ["", "1.0", "1.0"]
    losses = [float(row["loss"]) for row in rows]
    assert losses[0] > losses[1] > losses[2]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model"] == small_config().to_dict() and saved["settings"] == {"a": 1}
    assert json.loads((tmp_path / "metrics.json").read_text())["segm_AP/kind 1"] == pytest.approx(1.0)
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 0
    pictures = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert pictures == ["01-100.png", "02-102.png", "notes.png"]
    experiment.draw_overlays(model, dataset, tmp_path / "overlays", 1)  # fewer: none of those before is left
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == ["01-100.png", "notes.png"]
    assert not list(tmp_path.rglob(".partial*"))
    assert find_model(tmp_path) == tmp_path / "best.keras"


def test_the_model_ends_with_the_best_weights_not_the_last(tmp_path, monkeypatch):
    dataset = KnownDataset([[(10, 10, 30, 30, 0)]])
    model, data = line_and_data(dataset)
    model.answers = [model.answers[0], ([], [], [])]  # perfect after epoch 1, blind after epoch 2
    weights = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(model.get_weights()[0].copy()))
    monkeypatch.setattr(experiment, "draw_overlays", lambda *_: None)
    train_model(model, data, dataset, tmp_path, epochs=2, callbacks=[note], verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])
    model.load_weights(find_model(tmp_path).with_name("last.keras"))
    np.testing.assert_array_equal(model.get_weights()[0], weights[1])


def test_averaged_weights_are_what_is_measured_and_kept(tmp_path):
    model, data = line_and_data(use_ema=True, ema_momentum=0.5)
    kept = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            kept.append(float(keras.ops.convert_to_numpy(self.model.dense.kernel)[0, 0]))

    train_model(model, data, None, tmp_path, epochs=1, callbacks=[Watch()], verbose=0)
    average = kept[0]  # Keras starts the average at the first step's weights
    for weight in kept[1:]:
        average = 0.5 * average + 0.5 * weight
    assert float(model.get_weights()[0][0, 0]) == pytest.approx(average, abs=1e-6)
    assert abs(average - kept[-1]) > 1e-3


def test_budget_ends_training_in_time_and_takes_the_rate_to_zero(tmp_path, monkeypatch):
    # A clock of our own: a step takes 1 second, the end of an epoch (4 steps) 3 seconds, the budget is 30.
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    rates = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
            now[0] += 1

        def on_epoch_end(self, epoch, logs=None):
            now[0] += 3

    model, data = line_and_data(learning_rate=0.04)
    train_model(model, data, None, tmp_path, minutes=0.5, warmup_steps=2, callbacks=[Clock()], verbose=0)
    # Epochs begin at 0, 7, 14, 21; the last step may end at 27, which leaves the 3 seconds of an epoch's end.
    assert len(rates) == 4 * 4 and now[0] == 28
    assert rates[0] == pytest.approx(0.02) and rates[1] == pytest.approx(0.04 * 0.5 * (1 + np.cos(np.pi / 30)))
    assert rates[-1] == pytest.approx(0.04 * 0.5 * (1 + np.cos(np.pi * 24 / 27)))


def test_budget_stops_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    model, data = line_and_data()
    steps = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            steps.append(batch)
            now[0] += 1

    train_model(model, data, None, tmp_path, minutes=0.1, callbacks=[Clock()], verbose=0)
    assert steps == [0, 1, 2, 3, 0, 1]


def test_rate_warms_up_and_follows_the_cosine_of_elapsed_time():
    budget = TimeBudget(minutes=1, learning_rate=0.1, warmup_steps=4)
    assert budget.rate_at(0, 0) == pytest.approx(0.025)
    assert budget.rate_at(3, 0) == pytest.approx(0.1)
    assert budget.rate_at(99, 30) == pytest.approx(0.05)
    assert budget.rate_at(99, 20) == pytest.approx(0.075)
    assert budget.rate_at(99, 61) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_budget_without_time_is_refused(minutes):
    with pytest.raises(ValueError, match=f"must be a positive number of minutes. Received: {minutes}. Try 5."):
        TimeBudget(minutes)


def test_event_files_are_written_if_they_are_asked_for(tmp_path):
    pytest.importorskip("tensorboardX")
    from test_tensorboard import values

    model, data = line_and_data()
    train_model(model, data, None, tmp_path, epochs=2, verbose=0, tensorboard=True)
    with open(tmp_path / "metrics.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    written = values(tmp_path / "tensorboard")
    assert [written["loss/loss", step].simple_value for step in (1, 2)] == pytest.approx(losses, rel=1e-5)


def test_a_schedule_under_a_budget_is_refused():
    model, data = line_and_data(learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 10))
    with pytest.raises(ValueError, match="learning_rate=<number>"):
        model.fit(data, callbacks=[TimeBudget(1)], verbose=0)


@pytest.mark.parametrize("ends", [{}, {"epochs": 1, "minutes": 1}])
def test_a_run_needs_one_end(tmp_path, ends):
    model, data = line_and_data()
    with pytest.raises(ValueError, match="exactly one"):
        train_model(model, data, None, tmp_path, **ends)


def test_restored_weights_are_the_files_with_the_optimizer(tmp_path):
    model, data = line_and_data(momentum=0.9)
    train_model(model, data, None, tmp_path, epochs=1, verbose=0)
    kept = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    model.fit(data, verbose=0, shuffle=False)
    callbacks.restore_weights(model, tmp_path / "last.keras")
    now = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    assert len(kept) == len(now) > 3
    for before, after in zip(kept, now, strict=True):
        np.testing.assert_array_equal(before, after)


def test_best_checkpoint_passes_over_worse_and_unmeasured_epochs(tmp_path):
    model, _ = line_and_data()
    checkpoint = BestCheckpoint(tmp_path / "best.keras")
    checkpoint.set_model(model)
    saved = []
    for epoch, logs in enumerate([{"val_segm_AP": 0.2}, {}, {"val_segm_AP": 0.1}, {"val_segm_AP": 0.3}]):
        model.dense.kernel.assign([[float(epoch)]])
        checkpoint.on_epoch_end(epoch, logs)
        other, _ = line_and_data()
        other.load_weights(tmp_path / "best.keras")
        saved.append(float(other.get_weights()[0][0, 0]))
    assert saved == [0, 0, 0, 3]


def test_without_masks_the_best_checkpoint_is_that_of_the_boxes(tmp_path):
    model, _ = line_and_data()
    checkpoint = BestCheckpoint(tmp_path / "best.keras")
    checkpoint.set_model(model)
    values = []
    for logs in ({"val_bbox_AP": 0.2, "loss": 9.0}, {"val_bbox_AP": 0.1}, {"val_bbox_AP": 0.4}):
        checkpoint.on_epoch_end(0, logs)
        values.append(checkpoint.best)
    assert values == [0.2, 0.2, 0.4]
    named = BestCheckpoint(tmp_path / "other.keras", "val_bbox_AP")
    named.set_model(model)
    named.on_epoch_end(0, {"val_segm_AP": 0.9, "val_bbox_AP": 0.3})
    assert named.best == 0.3


def test_a_run_without_masks_keeps_and_reports_the_best_boxes(tmp_path, monkeypatch):
    figures = iter([0.25, 0.75, 0.5])

    class Boxes(keras.callbacks.Callback):
        def __init__(self, val, every):
            super().__init__()

        def on_epoch_end(self, epoch, logs=None):
            value = next(figures)
            self.metrics = {"bbox_AP": value, "bbox_AP50": value, "bbox_AP/thing": value, "max_detections": 100.0}
            logs |= {"val_bbox_AP": value, "val_bbox_AP50": value}

    monkeypatch.setattr(experiment, "CocoEvaluator", Boxes)
    monkeypatch.setattr(experiment, "draw_overlays", lambda *_: None)
    model, data = line_and_data()
    weights = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(model.get_weights()[0].copy()))
    metrics = train_model(model, data, "unused", tmp_path, RunOptions(epochs=3, callbacks=[note], verbose=0))
    assert metrics["bbox_AP"] == 0.75 and json.loads((tmp_path / "metrics.json").read_text()) == metrics
    np.testing.assert_array_equal(model.get_weights()[0], weights[1])
    page = (tmp_path / "index.html").read_text()
    assert "<b>0.750</b>box AP<" in page and "mask AP" not in page


def test_options_are_an_object_keywords_or_both(tmp_path, monkeypatch):
    def without_tensorflow(name):
        if name == "tensorflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(importlib.metadata, "version", without_tensorflow)
    model, data = line_and_data()
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    options = RunOptions(epochs=3, callbacks=[note], verbose=0)
    train_model(model, data, None, tmp_path, options, epochs=2, settings={"a": 1})
    assert seen == [0, 1] and options.epochs == 3 and options.settings is None
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["settings"] == {"a": 1}
    assert written["versions"] == {"keras": "1.2", "tensorflow": None, "numpy": "1.2"}  # as with JAX alone
    assert run_options(5, verbose=0) == RunOptions(epochs=5, verbose=0)  # where epochs stood before there were options
    assert run_options(minutes=0.5) == RunOptions(minutes=0.5)


def test_an_unknown_option_is_refused_with_the_known_ones(tmp_path):
    model, data = line_and_data()
    with pytest.raises(ValueError, match="epochs, minutes, .*tensorboard. Received: epoch, lr. Check the spelling"):
        train_model(model, data, None, tmp_path / "run", epoch=3, lr=0.1)
    with pytest.raises(ValueError, match="Received dict: .*RunOptions.epochs=10."):
        train_model(model, data, None, tmp_path / "run", {"epochs": 3})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1. Received epochs=0"),
        ({"epochs": 2.5}, "Received epochs=2.5"),
        ({"minutes": 0}, "minutes must be positive. Received minutes=0"),
        ({"minutes": float("nan")}, "Received minutes=nan"),
        ({"epochs": 1, "warmup_steps": -1}, "warmup_steps .* at least 0. Received warmup_steps=-1. The default is 100"),
        ({"epochs": 1, "evaluate_every": 0}, "evaluate_every .* at least 1"),
        ({"epochs": 1, "steps_per_epoch": 0}, "steps_per_epoch .* at least 1"),
        ({"epochs": 1, "num_overlays": -1}, "num_overlays .* at least 0"),
    ],
)
def test_options_out_of_range_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        RunOptions(**fields)


def test_the_bar_does_not_wait_for_the_step_under_way(tmp_path, monkeypatch):
    """It reads the losses of the steps before; that of an epoch's first step, which is the only one, it waits for."""
    read, shown = [], []

    class Loss:
        def __init__(self, value):
            self.value = value

        def __float__(self):
            read.append(self.value)
            return self.value

    recorder = RunRecorder(tmp_path, verbose=0, epochs=1)
    recorder.set_params({"steps": 3})
    recorder.on_train_begin()
    recorder.on_epoch_begin(0)
    monkeypatch.setattr(recorder._bar, "update", lambda done, loss: shown.append((done, loss)))
    for batch, loss in enumerate([0.5, 0.25, 0.125]):
        recorder.on_train_batch_end(batch, {"loss": Loss(loss)})
    assert read == [0.5, 0.5, 0.25] and shown == [(1, 0.5), (2, 0.5), (3, 0.25)]


@pytest.mark.parametrize(("verbose", "shown"), [(0, False), (1, True)])
def test_a_run_logs_and_shows_its_lines_only_if_it_is_told_to(tmp_path, capsys, verbose, shown):
    model, data = line_and_data()
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.name, record.levelname, record.getMessage()))
    logger = logging.getLogger("keras_maskrcnn.runs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        train_model(model, data, None, tmp_path, epochs=2, verbose=verbose)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    messages = [message for _, _, message in lines]
    assert {name for name, _, _ in lines} == {"keras_maskrcnn.runs.recorder"}
    assert {level for _, level, _ in lines} == {"INFO"}
    assert messages[0] == "epoch 1 of 2; the first step also compiles the model" and messages[2] == "epoch 2 of 2"
    assert messages[1].startswith("  loss ")
    told = capsys.readouterr()
    assert all((message in told.out) is shown for message in messages)
    assert (told.out == "") is not shown and told.err == ""


@pytest.mark.parametrize(("switch", "kept"), [("1", True), ("0", False)])
def test_training_keeps_freed_memory_and_says_so(tmp_path, monkeypatch, capsys, switch, kept):
    calls = []
    monkeypatch.setenv(memory.SWITCH, switch)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(1) or True)
    memory.keep_for_models.cache_clear()
    model, data = line_and_data()
    try:
        for _ in range(2):
            train_model(model, data, None, tmp_path, epochs=1, verbose=1)
    finally:
        memory.keep_for_models.cache_clear()
    told = capsys.readouterr().out
    assert calls == [1] * kept and told.count("keeps freed memory") == kept
    assert (f"{memory.SWITCH}=0 turns this off" in told) is kept


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / ".partial-1-last.keras").write_bytes(b"half")
    model, data = line_and_data()
    train_model(model, data, None, tmp_path, epochs=1, verbose=0)
    assert not list(tmp_path.glob(".partial*")) and (tmp_path / "last.keras").is_file()


def test_a_path_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="best.keras"):
        find_model(tmp_path)


@pytest.mark.parametrize("switch", ["1", "0"])
def test_training_keeps_compiled_programs_unless_the_environment_says_no(tmp_path, monkeypatch, switch):
    kept, folder = [], tmp_path / "home" / "keras_maskrcnn" / "compiled" / platform.node()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_MASKRCNN_KEEP_COMPILED", switch)
    monkeypatch.setattr(experiment.backend, "keep_compiled", kept.append)
    monkeypatch.setattr(experiment, "_measurable", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        experiment.train_model(None, [], None, tmp_path / "run", epochs=1)
    assert kept == [folder if switch == "1" else None]
