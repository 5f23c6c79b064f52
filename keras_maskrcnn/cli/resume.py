"""`train --resume`: the options and the model of a run that was stopped, and a check that it is the same run."""

import json
import pathlib

# What may be given anew: it changes neither the data's order nor any number.
FREE = ("images", "annotations", "val_images", "val_annotations", "workers", "tensorboard")
NOT_OF_THE_RUN = ("command", "debug", "resume", "run_dir", "config", "auto")


def options_to_resume(run_dir):
    """The options that a stopped run was started with, for those that are not given.

    Raises:
        ValueError: the folder holds no unfinished run of `keras-maskrcnn train`.
    """
    from keras_maskrcnn.runs.experiment import state_to_resume

    state = state_to_resume(run_dir)
    settings = _settings(run_dir)
    if "training_recipe" not in settings:
        raise ValueError(
            f"Only a run of keras-maskrcnn train knows its options. Received {run_dir}, written by other code. "
            "Call train_model(..., resume=True) there."
        )
    print(f"going on with {run_dir} after {state['epochs_done']} epochs and {state['seconds'] / 60:.1f} minutes")
    return {name: value for name, value in settings.items() if name not in (*NOT_OF_THE_RUN, "training_recipe")}


def load_last(run_dir):
    """The model as it stood after the last whole epoch, not compiled."""
    import keras

    from keras_maskrcnn import model  # noqa: F401 (registers the classes that the file names)

    return keras.saving.load_model(pathlib.Path(run_dir) / "last.keras", compile=False)


def check_same_run(run_dir, settings):
    """Refuse options that would make another run of it.

    Args:
        run_dir: the run's folder.
        settings: dict, the options of this call with their `training_recipe`.

    Raises:
        ValueError: naming what differs.
    """
    before, now = _settings(run_dir), json.loads(json.dumps(settings))
    names = [name for name in before if name not in (*FREE, *NOT_OF_THE_RUN)]
    different = [f"{name} {before[name]} -> {now.get(name)}" for name in names if before[name] != now.get(name)]
    if different:
        raise ValueError(
            f"A run goes on with the options and the data that it began with. Received: {', '.join(different)}. "
            "Leave them out, or start a new run with --start-from."
        )


def _settings(run_dir):
    path = pathlib.Path(run_dir) / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["settings"]
