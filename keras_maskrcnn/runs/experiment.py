"""One training run in one folder: what was asked, what happened, the weights, the pictures.

Comes in: a compiled model, a training loader, a validation dataset. Goes out: the final COCO figures, and

    config.json   the model's config, the run's settings, package versions
    metrics.csv   one line an epoch: losses, learning rate, share of time spent waiting for data, COCO figures where
                  they were measured
    curves.png    the same as a plot
    metrics.json  the figures of the best epoch, classes included
    best.keras    the model with the highest segm AP
    last.keras    after the last epoch, with all that `resume=True` goes on from
    overlays/     validation images, ground truth beside what the best model finds
    tensorboard/  event files, where they were asked for
    index.html    all of it on one page, by run_page.py

Every file is replaced as a whole, so a run killed at any moment leaves a readable folder. Called by the
command line and the samples.
"""

import importlib.metadata
import json
import pathlib
import secrets

import keras

from keras_maskrcnn.data import DataLoader, EpochSync
from keras_maskrcnn.evaluation import CocoEvaluator
from keras_maskrcnn.host.files import write_json
from keras_maskrcnn.inference.overlays import draw_overlays
from keras_maskrcnn.pages.run_page import write_run_page
from keras_maskrcnn.runs.callbacks import BestCheckpoint, DataWait, TimeBudget, restore_weights
from keras_maskrcnn.runs.recorder import RunRecorder, read_state

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
    resume=False,
    tensorboard=False,
):
    """Train, measure, keep the best, draw: everything a run leaves behind.

    Either `epochs` or `minutes` ends training. With `minutes` the learning rate warms up and follows a cosine
    on elapsed time down from the optimizer's constant rate; with `epochs` it is the optimizer's own affair
    (`choose_recipe`). If the optimizer has `use_ema`, the averaged weights are evaluated and saved. Afterwards the
    model holds the best weights.

    A run that was killed goes on with `resume=True` from its last whole epoch: the same model, optimizer and arguments
    give the numbers that the run would have given. Callbacks of your own keep their state themselves.

    Args:
        model: MaskRCNN, compiled.
        train_loader: DataLoader, or what `fit` takes.
        val_dataset: dataset or DataLoader as in `evaluate_coco`; None trains without measuring.
        run_dir: folder, made if missing. Files of an earlier run in it are replaced, unless `resume`.
        epochs: int, or None.
        minutes: float wall-clock budget of training and its evaluations, or None. Time before a kill counts.
        warmup_steps: int, steps of linear warm-up under a time budget.
        evaluate_every: int, epochs between COCO evaluations; the last epoch is always evaluated.
        steps_per_epoch: int, or None for the loader's length. For a quick try of one epoch: with more, Keras cuts
            some of them short where the loader's data ends.
        num_overlays: int, validation images drawn at the end.
        callbacks: further Keras callbacks, called before evaluation and saving.
        settings: JSON-ready dict, written into config.json.
        verbose: 0 silent, 1 a progress bar and a line an epoch.
        resume: whether to go on with the unfinished run in `run_dir`.
        tensorboard: whether to write losses, rates, COCO figures and `num_overlays` pictures for TensorBoard.

    Returns:
        The COCO figures of the best epoch (`evaluate_coco`'s dictionary); empty without a val_dataset.

    Raises:
        ValueError: not exactly one of epochs and minutes; nothing to resume, or a run of another model.
    """
    if (epochs is None) == (minutes is None):
        raise ValueError(
            "Training ends after `epochs` or after `minutes`; give exactly one. "
            f"Received epochs={epochs}, minutes={minutes}."
        )
    run_dir = pathlib.Path(run_dir)
    state = state_to_resume(run_dir) if resume else None
    if resume:
        _restore_model(model, run_dir)
    else:
        if verbose:
            _announce_replacement(run_dir)
        _write_config(model, run_dir, settings)
    evaluator = None if val_dataset is None else CocoEvaluator(val_dataset, evaluate_every)
    budget = None if minutes is None else TimeBudget(minutes, warmup_steps=warmup_steps)
    recorder = RunRecorder(run_dir, evaluator, budget, epochs, verbose, _run_id(run_dir))
    best = BestCheckpoint(run_dir / "best.keras")
    if state:
        recorder.restore(state)
        best.best = state["best"].get("segm_AP", best.best)
        if budget is not None:
            budget.restore(state["budget"])
    checks = [] if evaluator is None else [evaluator, best]
    if tensorboard:
        checks.append(_board(run_dir, val_dataset, num_overlays, state))
    model.fit(
        train_loader,
        epochs=epochs or ENDLESS,
        initial_epoch=state["epochs_done"] if state else 0,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the loader shuffles, by its own seed
        callbacks=[*_first_callbacks(model, train_loader, budget), *callbacks, *checks, recorder],
        verbose=0,
    )
    if evaluator is None:
        restore_weights(model, run_dir / "last.keras")
    else:
        restore_weights(model, run_dir / "best.keras")
        draw_overlays(model, val_dataset, run_dir / "overlays", num_overlays)
    write_run_page(run_dir)
    return recorder.best


def _first_callbacks(model, train_loader, budget):
    """What must act before others look: the rate, the loader's epoch, averaged weights in place of the last ones."""
    first = [] if budget is None else [budget]
    if isinstance(train_loader, DataLoader):
        first += [EpochSync(train_loader), DataWait(train_loader)]
    if uses_average(model.optimizer):
        first.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    return first


def state_to_resume(run_dir):
    """The state of the unfinished run in a folder (`recorder.read_state`).

    Raises:
        ValueError: there is none, or it is finished.
    """
    run_dir = pathlib.Path(run_dir)
    state = read_state(run_dir / "last.keras")
    if state is None or state["run_id"] != _run_id(run_dir):
        raise ValueError(
            "Resuming needs a run folder in which a training finished at least one epoch. "
            f"Received {run_dir}, where none of the last run did. Start it again without resuming."
        )
    if state["finished"]:
        raise ValueError(
            f"Resuming goes on with a run that was stopped. Received {run_dir}, whose run is finished after "
            f"{state['epochs_done']} epochs. To train its model further, start a new run from it (--start-from)."
        )
    return state


def uses_average(optimizer):
    """Whether an optimizer keeps averaged weights; it may stand inside one that scales the loss (float16)."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False)


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


def _restore_model(model, run_dir):
    """Weights, sampler and optimizer of the run's last epoch, as they stood while it trained."""
    saved = _read_config(run_dir)["model"]
    if saved != model.config.to_dict():
        different = sorted(key for key, value in model.config.to_dict().items() if saved.get(key) != value)
        raise ValueError(
            f"A run goes on with the model it began with. Received another config than {run_dir / 'config.json'}: "
            f"{', '.join(different)}. Load the model from last.keras."
        )
    model.optimizer.build(model.trainable_variables)  # a no-op where compile did; it gives the file's moments a place
    model.load_weights(run_dir / "last.keras")
    if uses_average(model.optimizer):
        # The file was written with the averages in the model's place and the weights in theirs.
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(model)
        swap.on_test_begin()


def _announce_replacement(run_dir):
    """Say which run's files will be replaced, as far as there is one."""
    state = read_state(run_dir / "last.keras")
    found = [name for name in ("best.keras", "last.keras", "metrics.csv", "overlays") if (run_dir / name).exists()]
    if not found:
        return
    end = ""
    if state is not None:
        kind = "finished" if state["finished"] else "unfinished (--resume would have gone on with it)"
        best = state["best"].get("segm_AP")
        end = f" of {state['epochs_done']} epochs, {kind}" + ("" if best is None else f", best segm AP {best:.3f}")
    print(f"{run_dir} holds an earlier run{end}; as this one goes on it replaces {', '.join(found)}", flush=True)


def _board(run_dir, val_dataset, num_pictures, state):
    from keras_maskrcnn.runs.tensorboard import BoardWriter

    return BoardWriter(run_dir / "tensorboard", val_dataset, num_pictures, state["epochs_done"] if state else 0)


def _write_config(model, run_dir, settings):
    packages = ("keras", "tensorflow", "numpy")
    write_json(
        run_dir / "config.json",
        {
            "model": model.config.to_dict(),
            "settings": settings or {},
            "backend": keras.backend.backend(),
            "versions": {name: _version(name) for name in packages},
            "run_id": secrets.token_hex(8),  # ties last.keras to this file: an earlier run's is not resumed by mistake
        },
    )


def _read_config(run_dir):
    path = pathlib.Path(run_dir) / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _run_id(run_dir):
    return _read_config(run_dir).get("run_id")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
