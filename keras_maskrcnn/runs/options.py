"""The options of a training run, checked before anything is computed. Called by `experiment.train_model`."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What varies between training runs. Exactly one of `epochs` and `minutes` ends the run.

    Args:
        epochs: int, or None.
        minutes: float, wall-clock budget of training and its evaluations, or None. Time before a kill counts.
        warmup_steps: int, steps of linear warm-up under a time budget.
        evaluate_every: int, epochs between COCO evaluations. The last epoch is always evaluated.
        steps_per_epoch: int, or None for the loader's length. Meant for a quick try of one epoch: in longer runs Keras
            cuts some epochs short where the loader's data ends.
        num_overlays: int, validation images drawn at the end.
        callbacks: further Keras callbacks, called before evaluation and saving.
        settings: JSON-ready dict, written into config.json.
        verbose: 0 is silent, 1 shows a progress bar and the run's messages.
        resume: whether to continue the unfinished run in the run folder.
        overwrite: whether a new run may replace an unfinished one in the run folder.
        save_minutes: float, minutes between two saves within an epoch, from which `resume` goes on with the very next
            batch; None saves at the end of epochs alone. Needs a DataLoader, and no steps_per_epoch.
        tensorboard: whether to write losses, rates, COCO figures and `num_overlays` pictures for TensorBoard.

    Raises:
        ValueError: not exactly one of epochs and minutes, a number out of range, or both resume and overwrite.
    """

    epochs: int | None = None
    minutes: float | None = None
    warmup_steps: int = 100
    evaluate_every: int = 1
    steps_per_epoch: int | None = None
    num_overlays: int = 6
    callbacks: Sequence[Any] = ()
    settings: dict | None = None
    verbose: int = 1
    resume: bool = False
    overwrite: bool = False
    save_minutes: float | None = 10.0
    tensorboard: bool = False

    def __post_init__(self):
        """Check what can be checked without a model."""
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError(
                "Training ends after `epochs` or after `minutes`; give exactly one. "
                f"Received epochs={self.epochs}, minutes={self.minutes}."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(
                f"minutes must be positive. Received minutes={self.minutes}. A first try on a CPU takes about 5."
            )
        if self.save_minutes is not None and not self.save_minutes >= 0:
            raise ValueError(
                f"save_minutes must not be negative. Received save_minutes={self.save_minutes}. The default is 10."
            )
        if self.resume and self.overwrite:
            raise ValueError(
                "resume continues a run and overwrite replaces it. Received resume=True, overwrite=True. "
                "Give one of them."
            )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (value < least or int(value) != value):
                raise ValueError(
                    f"{name} must be a whole number of at least {least}. Received {name}={value}. "
                    f"The default is {_FIELDS[name].default}."
                )


_LEAST = {"epochs": 1, "warmup_steps": 0, "evaluate_every": 1, "steps_per_epoch": 1, "num_overlays": 0}
_FIELDS = {field.name: field for field in dataclasses.fields(RunOptions)}


def run_options(options=None, **fields):
    """Put the options of a call together.

    Args:
        options: RunOptions, or None. A number is taken as `epochs`, which stood in this place of `train_model` before.
        **fields: fields of RunOptions. They override those of `options`.

    Returns:
        RunOptions.

    Raises:
        ValueError: an unknown name; another type; what RunOptions refuses.
    """
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"train_model takes the fields of RunOptions as keywords: {', '.join(_FIELDS)}. "
            f"Received: {', '.join(unknown)}. Check the spelling."
        )
    if isinstance(options, RunOptions):
        return dataclasses.replace(options, **fields)
    if options is None or isinstance(options, (int, float)):
        return RunOptions(**({} if options is None else {"epochs": options}) | fields)
    raise ValueError(
        f"The options of a run are RunOptions. Received {type(options).__name__}: {options!r}. "
        "Pass options=RunOptions(epochs=10), or epochs=10 and the other fields as keywords."
    )
