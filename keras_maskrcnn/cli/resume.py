"""`train --resume`: the options and the model of a stopped run, and a check that nothing else would be trained."""

import json
import pathlib

from keras_maskrcnn.cli.train_options import OPTIONS

# Options that may differ: they change neither the order of the data nor any number.
FREE = ("images", "annotations", "val_images", "val_annotations", "workers", "tensorboard")
NOT_OF_THE_RUN = ("command", "debug", "resume", "run_dir", "config", "auto")
_RENAMED = {"recipe": "architecture"}  # settings of runs that older versions wrote


def options_of_run(run_dir):
    """The options that a run was started with. Imports no framework.

    Raises:
        ValueError: the folder holds no run of `keras-maskrcnn train`.
    """
    path = pathlib.Path(run_dir) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"--resume continues a run of keras-maskrcnn train. Received {run_dir}, which has no config.json. "
            "Name the run's folder by --run-dir, or start a run without --resume."
        )
    settings = _settings(run_dir)
    if "training_recipe" not in settings:
        raise ValueError(
            f"--resume needs the options of a run of keras-maskrcnn train. Received {run_dir}, written by other code. "
            "Call train_model(..., resume=True) in that code."
        )
    return {name: settings[name] for name in settings if name in OPTIONS and name not in NOT_OF_THE_RUN}


def announce(run_dir):
    """Print how far the stopped run is.

    Raises:
        ValueError: the folder holds no unfinished run.
    """
    from keras_maskrcnn.runs.experiment import state_to_resume

    state = state_to_resume(run_dir)
    print(f"resuming {run_dir} after {state['epochs_done']} epochs and {state['seconds'] / 60:.1f} minutes")


def load_last(run_dir):
    """Load the model as it was after the last complete epoch, not compiled."""
    from keras_maskrcnn.weights import models

    return models.load_model(pathlib.Path(run_dir) / "last.keras")


def check_same_run(run_dir, settings):
    """Refuse options that would train something else than the run did.

    Args:
        run_dir: the run's folder.
        settings: dict, the options of this call with their `training_recipe`.

    Raises:
        ValueError: naming the differences.
    """
    before, now = _settings(run_dir), json.loads(json.dumps(settings))
    names = [name for name in before if name not in (*FREE, *NOT_OF_THE_RUN)]
    different = [f"{name} {before[name]} -> {now.get(name)}" for name in names if before[name] != now.get(name)]
    if different:
        raise ValueError(
            f"A resumed run keeps its options and its data. Received other ones: {', '.join(different)}. "
            "Leave them out, or start a new run with --start-from."
        )


def _settings(run_dir):
    path = pathlib.Path(run_dir) / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")).get("settings") or {}
    return {_RENAMED.get(name, name): value for name, value in settings.items()}
