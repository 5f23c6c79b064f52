"""One training run in one folder: its settings, its course, its weights and its pictures.

In: a compiled model, a training loader, a validation dataset. Out: the final COCO figures, and

    config.json   the model's config, the run's settings, package versions
    metrics.csv   one line per epoch: losses, learning rate, share of time spent waiting for data, COCO figures if they
                  were measured
    curves.png    the same as a plot
    metrics.json  the figures of the best epoch, with those of each class
    best.keras    the model of the best epoch, by mask AP (by box AP if the model predicts no masks)
    last.keras    the model after the last epoch, with everything that `resume=True` needs
    midway.keras  the same within an epoch, every `save_minutes`; removed at the epoch's end
    overlays/     validation images: ground truth beside the detections of the best model
    tensorboard/  event files, if they were asked for
    index.html    all of it on one page, by pages/run_page.py

Every file is replaced as a whole, so a run that is killed leaves a readable folder at any moment, and only one process
at a time writes there. `folder.py` tells how far a run is. Called by the command line and the samples.
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
import pathlib
import secrets
import warnings

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import DataLoader, EpochSync
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.evaluation.coco import CocoEvaluator
from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.host.caches import compiled_folder
from keras_maskrcnn.host.files import copy_file, write_atomically, write_json
from keras_maskrcnn.host.locks import locked_folder
from keras_maskrcnn.host.memory import keep_for_models
from keras_maskrcnn.host.messages import messages_shown
from keras_maskrcnn.inference.overlays import draw_overlays
from keras_maskrcnn.pages.run_page import write_run_page
from keras_maskrcnn.runs.callbacks import DataWait, RestOfEpoch, TimeBudget, restore_weights
from keras_maskrcnn.runs.devices import check_shares
from keras_maskrcnn.runs.folder import (
    BEST,
    CONFIG,
    LAST,
    check_new_run,
    damage_of,
    find_model,
    find_run,
    position,
    read_config,
    read_state,
    state_to_resume,
)
from keras_maskrcnn.runs.options import run_options
from keras_maskrcnn.runs.recorder import RunRecorder, write_course

ENDLESS = 1_000_000  # epochs of a run that its time budget ends

_LOG = logging.getLogger(__name__)


def train_model(model, train_loader, val_dataset, run_dir, options=None, **fields):
    """Train, evaluate, keep the best weights, and write the run folder.

    Either `epochs` or `minutes` ends training. With `minutes` the learning rate warms up, then follows a cosine over
    the elapsed time down from the optimizer's constant rate. With `epochs` the optimizer's own schedule holds
    (`choose_recipe` makes one). If the optimizer has `use_ema`, the averaged weights are evaluated and saved. In the
    end the model holds the best weights.

    `resume=True` continues a run that was killed, or writes its missing report: with the batch after the last save
    within an epoch (`save_minutes`), else from its last whole epoch. With the same model, optimizer and arguments it
    computes the same numbers as a run without interruption. Your own callbacks must keep their own state; in an epoch
    that is resumed they get its remaining batches, numbered from 0.

    Of several processes (`use_devices`) each calls this with the same arguments; the first one writes the folder, which
    all must see. If one of them dies, start all again with `resume`.

    Training keeps freed memory in the process (`host/memory.py`), unless the environment has
    KERAS_MASKRCNN_KEEP_MEMORY=0. On JAX it keeps compiled programs in the user's cache folder (`host/caches.py`),
    unless the environment has KERAS_MASKRCNN_KEEP_COMPILED=0 or JAX's own JAX_COMPILATION_CACHE_DIR.

    Args:
        model: MaskRCNN, compiled.
        train_loader: DataLoader, or what `fit` takes.
        val_dataset: dataset or DataLoader as in `evaluate_coco`; None trains without evaluation.
        run_dir: folder, made if it is missing. A finished run in it is replaced; an unfinished one needs `resume` or
            `overwrite`.
        options: RunOptions.
        **fields: fields of RunOptions as keywords, such as epochs=10. They override those of `options`.

    Returns:
        The COCO figures of the best epoch (`evaluate_coco`'s dictionary); empty without a val_dataset.

    Raises:
        ValueError: an unknown or wrong option (see RunOptions); an unfinished run and neither `resume` nor `overwrite`;
            nothing to resume, a run of another model, or one that is damaged.
        OSError: another process trains in this folder, or the folder cannot be written to.
    """
    options = run_options(options, **fields)
    run_dir, team = pathlib.Path(run_dir), backend.team_of(model)
    check_shares(team, train_loader, options)
    if not team.first:
        options = dataclasses.replace(options, verbose=0)
    with messages_shown(bool(options.verbose)), _held(run_dir, team):
        keep_for_models()
        backend.keep_compiled(compiled_folder())
        val_dataset = _measurable(val_dataset)
        _forget_tuning(model)
        data = (model, train_loader, val_dataset, run_dir, options)
        if options.resume:
            state = _resume(model, run_dir, team)
            best = state["best"] if state and state["finished"] else _fit(*data, state)
        else:
            former = team.agree(lambda: _begin(model, run_dir, options))
            best = _fit_new(*data, former)
        if isinstance(train_loader, DataLoader):
            train_loader.close()  # its worker processes
        _report(model, val_dataset, run_dir, options, team)
    return best


@contextlib.contextmanager
def _held(run_dir, team):
    """Hold the run folder: the first process does it for all, and an error of it is raised in all."""
    with contextlib.ExitStack() as held:

        def hold():
            held.enter_context(locked_folder(run_dir))

        team.agree(hold)
        yield


def _measurable(val_dataset):
    """The validation data; None, with a message, where they have no object: each figure would be -1, and none best."""
    problem = nothing_to_learn(val_dataset) if hasattr(val_dataset, "records") else None
    if problem is None:
        return val_dataset
    _LOG.info("%s Average precision is undefined: nothing is measured, and last.keras is the model.", problem)
    return None


def _forget_tuning(model):
    """Thresholds and calibration were found for the weights as they are now."""
    if model.config.tuned:
        model.change_detection(class_thresholds=None, calibration=None)
        _LOG.info("The thresholds of classes and the calibration are dropped: tune the trained model again.")


def _begin(model, run_dir, options):
    """Write the config of a new run; what else an earlier run left stays until the new one has an epoch.

    Returns:
        The earlier config.json, bytes, or None.
    """
    _announce_replacement(run_dir, check_new_run(run_dir, options.overwrite))
    path = run_dir / CONFIG
    former = path.read_bytes() if path.is_file() else None
    _write_config(model, run_dir, options.settings)
    return former


def _fit_new(model, train_loader, val_dataset, run_dir, options, former):
    """`_fit`; if an error ends it before anything was saved, the folder is as it was before this run."""
    try:
        return _fit(model, train_loader, val_dataset, run_dir, options, None)
    except Exception:
        if not backend.team_of(model).first:
            raise
        path, found = run_dir / CONFIG, find_run(run_dir)
        saved = found.state or found.midway
        if not saved and former is None:
            path.unlink()
        elif not saved:
            write_atomically(path, lambda place: place.write_bytes(former))
        raise


def _resume(model, run_dir, team):
    """Put the model where the old run stood. Returns the old run's state, or None if nothing of it was saved."""
    state, file = team.agree(lambda: state_to_resume(run_dir))
    _check_model(model, run_dir)
    if state is None:
        return None
    _restore_model(model, file, averaged=not state.get("midway"))
    return team.agree(lambda: _restore_folder(run_dir, state, file))


def _restore_folder(run_dir, state, file):
    """Make the files of the folder those of the state that was in `file`. Returns the state."""
    if file.name == BEST:
        copy_file(file, run_dir / LAST)  # in the place of the damaged one
    if state["best"]:
        _restore_best(run_dir, state)
    if state["rows"]:
        write_course(run_dir, state["rows"], state["best"])
    return state


def _restore_best(run_dir, state):
    """Make best.keras that of the state: a kill may have come between the two files, or it may be damaged."""
    best, number = run_dir / BEST, state.get("best_epoch")
    problem = damage_of(best) if best.is_file() else "it is missing"
    kept = None if problem else read_state(best)
    if kept is None and problem is None:
        return  # by an older version, which wrote it before last.keras
    if problem is None and (kept["run_id"], kept["epochs_done"]) == (state["run_id"], number):
        return
    if number == state["epochs_done"]:
        copy_file(run_dir / LAST, best)
        return
    rest = "The best of the epochs to come replaces it."
    if state["finished"]:
        rest = "The figures of the best epoch stay, its weights are lost."
    warnings.warn(f"{best} is damaged: {problem or 'it is of another epoch'}. {rest}")
    if not state["finished"]:
        state["best"] = {}


def _report(model, val_dataset, run_dir, options, team):
    """Leave the model with the best weights; draw its detections; write the page, which ends the run."""

    def choose():
        measured = val_dataset is not None and (run_dir / BEST).is_file()
        return find_model(run_dir) if measured else run_dir / LAST

    restore_weights(model, team.agree(choose))

    def write():
        if val_dataset is not None:
            draw_overlays(model, val_dataset, run_dir / "overlays", options.num_overlays)
        write_run_page(run_dir)

    team.agree(write)


def _fit(model, train_loader, val_dataset, run_dir, options, state):
    """Run `fit` with the run's callbacks. Returns the figures of the best epoch."""
    evaluator = None if val_dataset is None else CocoEvaluator(val_dataset, options.evaluate_every)
    budget = None if options.minutes is None else TimeBudget(options.minutes, warmup_steps=options.warmup_steps)
    run_id = read_config(run_dir)["run_id"]
    ours = isinstance(train_loader, DataLoader)
    loader = train_loader if ours and options.steps_per_epoch is None else None  # one that can go on within an epoch
    wait = DataWait(train_loader) if ours else None
    place = (options.save_minutes, loader, wait)
    recorder = RunRecorder(run_dir, evaluator, budget, options.epochs, options.verbose, run_id, *place)
    if state:
        recorder.restore(state)
        if budget is not None:
            budget.restore(state["budget"])
    checks = [] if evaluator is None else [evaluator]
    if options.tensorboard and backend.team_of(model).first:
        checks.append(_board(run_dir, val_dataset, options.num_overlays, state))
    first = _first_callbacks(model, train_loader, budget, wait)
    rest = _rest_of_epoch(loader, state, wait)
    with _end_of_data_expected(rest), _own_errors(train_loader):
        model.fit(
            train_loader,
            epochs=options.epochs or ENDLESS,
            initial_epoch=state["epochs_done"] if state else 0,
            steps_per_epoch=options.steps_per_epoch,
            shuffle=False,  # the loader shuffles, by its own seed
            callbacks=[*first, *options.callbacks, *checks, recorder, *rest],
            verbose=0,
        )
    return recorder.best


def _first_callbacks(model, train_loader, budget, wait):
    """Callbacks that act before the others look: learning rate, the loader's epoch, averaged weights."""
    first = [] if budget is None else [budget]
    if wait is not None:
        first += [EpochSync(train_loader), wait]
    if backend.uses_average(model.optimizer):
        first.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    return first


def _rest_of_epoch(loader, state, wait):
    """The callback that resumes a run within an epoch, in a list; no callback if it stopped between two epochs."""
    midway = state and state.get("midway")
    if not midway:
        return []
    if loader is None:
        raise ValueError(
            f"A run that stopped after {position(state)} goes on with a DataLoader, without steps_per_epoch. "
            "Received another one. Pass the arguments that the run began with."
        )
    if midway["data_wait"]:
        wait.restore(midway["data_wait"])
    return [RestOfEpoch(loader, state["epochs_done"], midway)]


@contextlib.contextmanager
def _end_of_data_expected(rest):
    """Silence Keras' warning about an epoch that ends early, if the rest of one is trained."""
    with warnings.catch_warnings() if rest else contextlib.nullcontext():
        if rest:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


@contextlib.contextmanager
def _own_errors(loader):
    """Raise the loader's own error where the backend raises one of its kind in its place."""
    try:
        yield
    except Exception as error:
        failure = getattr(loader, "failure", None)
        if failure is None or failure is error:
            raise
        raise failure from error


def _check_model(model, run_dir):
    """Refuse a model of another config than the run's."""
    saved = MaskRCNNConfig.from_dict(read_config(run_dir)["model"]).to_dict()  # fields that are new get their defaults
    if saved != model.config.to_dict():
        different = sorted(key for key, value in model.config.to_dict().items() if saved.get(key) != value)
        raise ValueError(
            f"A run is resumed with the model it began with. Received another config than {run_dir / CONFIG}: "
            f"{', '.join(different)}. Load the model from last.keras."
        )


def _restore_model(model, file, averaged):
    """Load weights, sampler and optimizer as they were when the file was written.

    Args:
        model: MaskRCNN, compiled. file: pathlib.Path. averaged: whether it was written at an epoch's end.
    """
    model.optimizer.build(model.trainable_variables)  # makes the variables that the file's moments are loaded into
    model.load_weights(file)
    if averaged and backend.uses_average(model.optimizer):
        # SwapEMAWeights had swapped weights and averages when the file was written: swap them back.
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(model)
        swap.on_test_begin()


def _announce_replacement(run_dir, found):
    """Log which earlier run this one replaces, if there is one; warn of its damaged files."""
    if found.problem:
        warnings.warn(f"{found.problem} The new run replaces it.")
    files = [name for name in (BEST, LAST, "metrics.csv", "overlays") if (run_dir / name).exists()]
    if not files:
        return
    end = ""
    if found.state is not None:
        main = main_figure(found.state["best"])
        figure = "" if main is None else f", best {main.replace('_', ' ')} {found.state['best'][main]:.3f}"
        kind = "finished" if found.finished else "unfinished"
        end = f" of {found.state['epochs_done']} epochs, {kind}{figure}"
    _LOG.info("%s holds an earlier run%s; this run replaces its %s", run_dir, end, ", ".join(files))


def _board(run_dir, val_dataset, num_pictures, state):
    from keras_maskrcnn.runs.tensorboard import BoardWriter

    return BoardWriter(run_dir / "tensorboard", val_dataset, num_pictures, state["epochs_done"] if state else 0)


def _write_config(model, run_dir, settings):
    packages = ("keras", "tensorflow", "numpy")
    write_json(
        run_dir / CONFIG,
        {
            "model": model.config.to_dict(),
            "settings": settings or {},
            "backend": keras.backend.backend(),
            "versions": {name: _version(name) for name in packages},
            "run_id": secrets.token_hex(8),  # also in last.keras: an earlier run's file is not resumed by mistake
        },
    )


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
