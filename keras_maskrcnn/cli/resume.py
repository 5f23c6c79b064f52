"""`train --resume`: the options and the model of a stopped run, and a check that nothing else would be trained."""

import json
import warnings

from keras_maskrcnn.cli.train_options import OPTIONS
from keras_maskrcnn.runs.folder import COMMAND_LINE, find_run, position, read_config, state_to_resume

# Options that may differ: they change neither the order of the data nor any number by more than its rounding.
FREE = (
    "images", "annotations", "val_images", "val_annotations", "workers", "worker_type", "save_minutes", "tensorboard",
    "devices",
)  # fmt: skip
NOT_OF_THE_RUN = ("command", "debug", "resume", "overwrite", "run_dir", "config", "auto")
_RENAMED = {"recipe": "architecture"}  # settings of runs that older versions wrote


def options_of_run(run_dir):
    """The options that a run was started with. Imports no framework.

    Raises:
        ValueError: the folder holds no unfinished run of `keras-maskrcnn train`, or a damaged one, or its config.json
            has a value that its option does not accept.
    """
    found = find_run(run_dir)
    if not (found.config or found.problem):
        raise ValueError(
            f"--resume continues a run of keras-maskrcnn train. Received {run_dir}, which has no config.json. "
            "Name the run's folder by --run-dir, or start a run without --resume."
        )
    settings = _settings(found.config)
    if found.config and "training_recipe" not in settings:
        raise ValueError(
            f"--resume needs the options of a run of keras-maskrcnn train. Received {run_dir}, written by other code. "
            "Call train_model(..., resume=True) in that code."
        )
    state_to_resume(run_dir, COMMAND_LINE)
    given = {name: settings[name] for name in settings if name in OPTIONS and name not in NOT_OF_THE_RUN}
    path = found.run_dir / "config.json"
    return {name: None if value is None else OPTIONS[name].from_file(value, path) for name, value in given.items()}


def announce(run_dir):
    """Print how far the stopped run is. Errors as `state_to_resume`."""
    state, _ = _state(run_dir)
    if state is None:
        print(f"{run_dir} has no complete epoch: the run begins again, with its options")
        return
    what = "finishing the report of" if state["finished"] else "resuming"
    print(f"{what} {run_dir} after {position(state)} and {state['seconds'] / 60:.1f} minutes")


def load_last(run_dir):
    """Load the model as it was when it was last saved, not compiled; None if it was not."""
    from keras_maskrcnn.weights import models

    _, file = _state(run_dir)
    return file and models.load_model(file)


def check_same_run(run_dir, settings):
    """Refuse options that would train something else than the run did.

    Args:
        run_dir: the run's folder.
        settings: dict, the options of this call with their `training_recipe`.

    Raises:
        ValueError: naming the differences.
    """
    before, now = _settings(read_config(run_dir)), json.loads(json.dumps(settings))
    names = [name for name in before if name not in (*FREE, *NOT_OF_THE_RUN)]
    different = [f"{name} {before[name]} -> {now.get(name)}" for name in names if before[name] != now.get(name)]
    if different:
        raise ValueError(
            f"A resumed run keeps its options and its data. Received other ones: {', '.join(different)}. "
            "Leave them out, or start a new run with --start-from."
        )


def _settings(config):
    settings = config.get("settings") or {}
    return {_RENAMED.get(name, name): value for name, value in settings.items()}


def _state(run_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `options_of_run` has told of damaged files
        return state_to_resume(run_dir, COMMAND_LINE)
