"""One training run in one folder: its settings, its course, its weights and its pictures.

In: a compiled model, a training loader, a validation dataset. Out: the final COCO figures, and

    config.json   the model's config, the run's settings, package versions
    metrics.csv   one line per epoch: losses, learning rate, share of time spent waiting for data, COCO figures if they
                  were measured
    curves.png    the same as a plot
    metrics.json  the figures of the best epoch, with those of each class
    best.keras    the model of the best epoch, by mask AP (by box AP if the model predicts no masks)
    last.keras    the model after the last epoch, with everything that `resume=True` needs
    overlays/     validation images: ground truth beside the detections of the best model
    tensorboard/  event files, if they were asked for
    index.html    all of it on one page, by pages/run_page.py

Every file is replaced as a whole, so a run that is killed leaves a readable folder at any moment. Called by the command
line and the samples.
"""

import importlib.metadata
import json
import logging
import pathlib
import secrets

import keras

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import DataLoader, EpochSync
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.evaluation.coco import CocoEvaluator
from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.host.files import remove_partial_files, write_json
from keras_maskrcnn.host.memory import keep_for_models
from keras_maskrcnn.host.messages import messages_shown
from keras_maskrcnn.inference.overlays import draw_overlays
from keras_maskrcnn.pages.run_page import write_run_page
from keras_maskrcnn.runs.callbacks import BestCheckpoint, DataWait, TimeBudget, restore_weights
from keras_maskrcnn.runs.options import run_options
from keras_maskrcnn.runs.recorder import RunRecorder, read_state

ENDLESS = 1_000_000  # epochs of a run that its time budget ends

_LOG = logging.getLogger(__name__)


def train_model(model, train_loader, val_dataset, run_dir, options=None, **fields):
    """Train, evaluate, keep the best weights, and write the run folder.

    Either `epochs` or `minutes` ends training. With `minutes` the learning rate warms up, then follows a cosine over
    the elapsed time down from the optimizer's constant rate. With `epochs` the optimizer's own schedule holds
    (`choose_recipe` makes one). If the optimizer has `use_ema`, the averaged weights are evaluated and saved. In the
    end the model holds the best weights.

    `resume=True` continues a run that was killed, from its last whole epoch. With the same model, optimizer and
    arguments it computes the same numbers as a run without interruption. Your own callbacks must keep their own state.

    Training keeps freed memory in the process (`host/memory.py`), unless the environment has
    KERAS_MASKRCNN_KEEP_MEMORY=0.

    Args:
        model: MaskRCNN, compiled.
        train_loader: DataLoader, or what `fit` takes.
        val_dataset: dataset or DataLoader as in `evaluate_coco`; None trains without evaluation.
        run_dir: folder, made if it is missing. Files of an earlier run in it are replaced, unless `resume`.
        options: RunOptions.
        **fields: fields of RunOptions as keywords, such as epochs=10. They override those of `options`.

    Returns:
        The COCO figures of the best epoch (`evaluate_coco`'s dictionary); empty without a val_dataset.

    Raises:
        ValueError: an unknown or wrong option (see RunOptions); nothing to resume, or a run of another model.
    """
    options = run_options(options, **fields)
    run_dir = pathlib.Path(run_dir)
    with messages_shown(bool(options.verbose)):
        keep_for_models()
        state = _prepare_folder(model, run_dir, options)
        val_dataset = _measurable(val_dataset)
        recorder = _fit(model, train_loader, val_dataset, run_dir, options, state)
        if val_dataset is None:
            restore_weights(model, run_dir / "last.keras")
        else:
            restore_weights(model, run_dir / "best.keras")
            draw_overlays(model, val_dataset, run_dir / "overlays", options.num_overlays)
        write_run_page(run_dir)
    return recorder.best


def _measurable(val_dataset):
    """The validation data; None, with a message, where they have no object: each figure would be -1, and none best."""
    problem = nothing_to_learn(val_dataset) if hasattr(val_dataset, "records") else None
    if problem is None:
        return val_dataset
    _LOG.info("%s Average precision is undefined: nothing is measured, and last.keras is the model.", problem)
    return None


def _prepare_folder(model, run_dir, options):
    """Write the config of a new run, or put the model where the old one stood. Returns the old run's state, or None."""
    state = state_to_resume(run_dir) if options.resume else None
    remove_partial_files(run_dir)
    if options.resume:
        _restore_model(model, run_dir)
    else:
        _announce_replacement(run_dir)
        _write_config(model, run_dir, options.settings)
    return state


def _fit(model, train_loader, val_dataset, run_dir, options, state):
    """Run `fit` with the run's callbacks. Returns the RunRecorder."""
    evaluator = None if val_dataset is None else CocoEvaluator(val_dataset, options.evaluate_every)
    budget = None if options.minutes is None else TimeBudget(options.minutes, warmup_steps=options.warmup_steps)
    recorder = RunRecorder(run_dir, evaluator, budget, options.epochs, options.verbose, _run_id(run_dir))
    best = BestCheckpoint(run_dir / "best.keras")
    if state:
        recorder.restore(state)
        best.best = state["best"].get(main_figure(state["best"]), best.best)
        if budget is not None:
            budget.restore(state["budget"])
    checks = [] if evaluator is None else [evaluator, best]
    if options.tensorboard:
        checks.append(_board(run_dir, val_dataset, options.num_overlays, state))
    model.fit(
        train_loader,
        epochs=options.epochs or ENDLESS,
        initial_epoch=state["epochs_done"] if state else 0,
        steps_per_epoch=options.steps_per_epoch,
        shuffle=False,  # the loader shuffles, by its own seed
        callbacks=[*_first_callbacks(model, train_loader, budget), *options.callbacks, *checks, recorder],
        verbose=0,
    )
    return recorder


def _first_callbacks(model, train_loader, budget):
    """Callbacks that act before the others look: learning rate, the loader's epoch, averaged weights."""
    first = [] if budget is None else [budget]
    if isinstance(train_loader, DataLoader):
        first += [EpochSync(train_loader), DataWait(train_loader)]
    if uses_average(model.optimizer):
        first.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    return first


def state_to_resume(run_dir):
    """Read the state of the unfinished run in a folder (`recorder.read_state`).

    Raises:
        ValueError: there is none, or it is finished.
    """
    run_dir = pathlib.Path(run_dir)
    state = read_state(run_dir / "last.keras")
    if state is None or state["run_id"] != _run_id(run_dir):
        raise ValueError(
            "Only a run that finished at least one epoch can be resumed. "
            f"Received {run_dir}, whose last run finished none. Start it again without resuming."
        )
    if state["finished"]:
        raise ValueError(
            f"Only an unfinished run can be resumed. Received {run_dir}, whose run finished after "
            f"{state['epochs_done']} epochs. To train its model further, start a new run from it (--start-from)."
        )
    return state


def uses_average(optimizer):
    """Whether an optimizer keeps averaged weights, also if it is wrapped by one that scales the loss (float16)."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False)


def find_model(path):
    """Find the `.keras` file that a path stands for: the file itself, or the best (else last) model of a run folder.

    Raises:
        ValueError: there is no such file.
    """
    path = pathlib.Path(path)
    candidates = [path / "best.keras", path / "last.keras"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".keras":
            return candidate
    raise ValueError(
        "A model is a .keras file, or a run folder that holds best.keras or last.keras. "
        f"Received: {path}, where there is no such file. `keras-maskrcnn train` writes one."
    )


def _restore_model(model, run_dir):
    """Load weights, sampler and optimizer as they were after the run's last epoch."""
    saved = MaskRCNNConfig.from_dict(_read_config(run_dir)["model"]).to_dict()  # fields that are new get their defaults
    if saved != model.config.to_dict():
        different = sorted(key for key, value in model.config.to_dict().items() if saved.get(key) != value)
        raise ValueError(
            f"A run is resumed with the model it began with. Received another config than {run_dir / 'config.json'}: "
            f"{', '.join(different)}. Load the model from last.keras."
        )
    model.optimizer.build(model.trainable_variables)  # makes the variables that the file's moments are loaded into
    model.load_weights(run_dir / "last.keras")
    if uses_average(model.optimizer):
        # SwapEMAWeights had swapped weights and averages when the file was written: swap them back.
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(model)
        swap.on_test_begin()


def _announce_replacement(run_dir):
    """Log which earlier run this one replaces, if there is one."""
    state = read_state(run_dir / "last.keras")
    found = [name for name in ("best.keras", "last.keras", "metrics.csv", "overlays") if (run_dir / name).exists()]
    if not found:
        return
    end = ""
    if state is not None:
        kind = "finished" if state["finished"] else "unfinished (--resume would have continued it)"
        main = main_figure(state["best"])
        figure = "" if main is None else f", best {main.replace('_', ' ')} {state['best'][main]:.3f}"
        end = f" of {state['epochs_done']} epochs, {kind}{figure}"
    _LOG.info("%s holds an earlier run%s; this run replaces its %s", run_dir, end, ", ".join(found))


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
            "run_id": secrets.token_hex(8),  # also in last.keras: an earlier run's file is not resumed by mistake
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
