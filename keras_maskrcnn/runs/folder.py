"""What a run folder holds: which run, how far it is, what is damaged. Imports no framework.

The member `run.json` of `last.keras` holds the state of the run: an epoch counts from the moment its `last.keras` is in
place. `best.keras` is a copy of it, so that a run can also go on from there. `midway.keras` is the same within an
epoch, and counts until the epoch ends. A run is finished when its report, `index.html`, is written. Called by
`experiment.py` and the command line.
"""

import dataclasses
import json
import pathlib
import types
import warnings
import zipfile

from keras_maskrcnn.host.values import is_number

CONFIG, BEST, LAST, MIDWAY, PAGE = "config.json", "best.keras", "last.keras", "midway.keras", "index.html"
STATE = "run.json"  # member of last.keras and midway.keras
_LONGEST = 1e10  # seconds; no run lasts three hundred years

# What the messages name: arguments, or options of the command line.
PYTHON = types.SimpleNamespace(
    resume="resume=True",
    overwrite="overwrite=True",
    start="load {} by keras.saving.load_model and train it in another run_dir",
)
COMMAND_LINE = types.SimpleNamespace(
    resume="--resume", overwrite="--overwrite", start="add --start-from {} and another --run-dir"
)


class Damaged(ValueError):
    """A file of a run is damaged."""


@dataclasses.dataclass(frozen=True)
class FoundRun:
    """The run in a folder.

    Args:
        run_dir: pathlib.Path.
        config: dict, its config.json; empty if there is none or it is damaged.
        state: dict of its last complete epoch (`read_state`), or None. A last.keras of an earlier run does not count.
        problem: str that names config.json or last.keras, if one of them is damaged; else empty.
        midway: dict, as `state`, of the epoch that the run was stopped in, or None. It is at the same `epochs_done`.
        midway_problem: str that names midway.keras if it is damaged; else empty.
    """

    run_dir: pathlib.Path
    config: dict
    state: dict | None
    problem: str
    midway: dict | None = None
    midway_problem: str = ""

    @property
    def started(self):
        """Whether there is a run, at least its beginning."""
        return bool(self.config.get("run_id"))

    @property
    def finished(self):
        """Whether it ended and its report is written."""
        return bool(self.state and self.state["finished"] and (self.run_dir / PAGE).is_file())

    @property
    def unfinished(self):
        """Whether it can go on. A damaged one cannot."""
        return self.started and not self.finished and not self.problem

    def progress(self):
        """How far it is, in words."""
        if self.midway is not None:
            return f"stopped after {position(self.midway)}"
        if self.state is None:
            return "without a complete epoch"
        epochs = position(self.state)
        return f"of {epochs} without its report" if self.state["finished"] else f"stopped after {epochs}"


def position(state):
    """How far a state is, in words: "3 epochs", "3 epochs, 1200 batches"."""
    midway = state.get("midway")
    return f"{state['epochs_done']} epochs" + (f", {midway['batches']} batches" if midway else "")


def find_run(run_dir):
    """Look at the run in a folder. Returns a FoundRun; never raises for a damaged file."""
    run_dir = pathlib.Path(run_dir)
    config, state, problem = {}, None, ""
    try:
        config = read_config(run_dir)
        state = read_state(run_dir / LAST)
        if state and (damage := damage_of(run_dir / LAST)):
            problem = f"{run_dir / LAST} is damaged: {damage}."
    except Damaged as error:
        problem = str(error)
    state = state if state is not None and state["run_id"] == config.get("run_id") else None
    midway, midway_problem = _midway(run_dir / MIDWAY, config.get("run_id"), state["epochs_done"] if state else 0)
    return FoundRun(run_dir, config, state, problem, midway, midway_problem)


def _midway(file, run_id, epochs_done):
    """(state, problem) of the midway.keras of this run and epoch; one of an epoch that has ended does not count."""
    try:
        state = read_state(file)
        damage = state and damage_of(file)
    except Damaged as error:
        return None, str(error)
    if damage:
        return None, f"{file} is damaged: {damage}."
    own = state is not None and (state["run_id"], state["epochs_done"]) == (run_id, epochs_done) and state.get("midway")
    return (state if own else None), ""


def check_new_run(run_dir, overwrite, words=PYTHON):
    """Refuse to start a run where an unfinished one is. Damaged files do not stop a new run.

    Args:
        run_dir: folder. overwrite: whether it may be replaced. words: `PYTHON` or `COMMAND_LINE`.

    Returns:
        FoundRun, which the new one replaces.

    Raises:
        ValueError: there is an unfinished run.
    """
    found = find_run(run_dir)
    if found.unfinished and not overwrite:
        raise ValueError(
            f"A new run needs a folder without an unfinished run. Received {run_dir}, which holds a run "
            f"{found.progress()}. Add {words.resume} to continue it, or {words.overwrite} to replace it."
        )
    return found


def state_to_resume(run_dir, words=PYTHON):
    """Read the state of the unfinished run in a folder: within an epoch, else after the last complete one.

    If last.keras is damaged it is the state of best.keras, and if midway.keras is, that of last.keras, with a warning.

    Returns:
        (dict as `read_state`, pathlib.Path of the file to load); (None, None) if nothing was saved: the run begins
        again.

    Raises:
        ValueError: there is no run, or it is finished; Damaged: its files cannot be read.
    """
    found = find_run(run_dir)
    state, file = found.state, found.run_dir / LAST
    if found.problem:
        state, file = _state_of_best(found, words), found.run_dir / BEST
        warnings.warn(f"{found.problem} The run goes on from {file}, after {state['epochs_done']} epochs.")
    if not found.started:
        raise ValueError(
            f"Only a run that was started can be resumed. Received {run_dir}, which holds none. "
            f"Leave out {words.resume}, or name the folder of the run."
        )
    if found.finished and not found.problem:
        raise ValueError(
            f"Only an unfinished run can be resumed. Received {run_dir}, whose run finished after "
            f"{state['epochs_done']} epochs. To train its model further, {words.start.format(run_dir)}."
        )
    if found.midway is not None and not found.problem:
        return found.midway, found.run_dir / MIDWAY
    if found.midway_problem:
        warnings.warn(f"{found.midway_problem} The run goes on after its last complete epoch.")
    return (state, file) if state else (None, None)


def _state_of_best(found, words):
    """The state in best.keras, where the one in last.keras is lost."""
    best = found.run_dir / BEST
    whole = [path for path in (best, found.run_dir / LAST) if path.is_file() and not damage_of(path)]
    state = read_state(best) if best in whole else None
    if state is None or state["run_id"] != found.config.get("run_id"):
        rest = f", or {words.start.format(whole[0])}" if whole else ""
        raise Damaged(
            f"A run is resumed from its config.json and last.keras. Received: {found.problem} "
            f"Start anew with {words.overwrite} instead of {words.resume}{rest}."
        )
    return state


def read_config(run_dir):
    """The config.json of a run as a dict; empty if there is none. Raises Damaged."""
    path = pathlib.Path(run_dir) / CONFIG
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged: it holds no JSON object.")
    if not isinstance(content.get("settings") or {}, dict):
        raise Damaged(f"{path} is damaged: `settings` in it is no JSON object.")
    return content


def read_state(checkpoint):
    """Read the state of the run from a last.keras or midway.keras; None if there is no such file, or no run in it.

    Returns:
        dict of run_id, epochs_done, finished, seconds, budget (`TimeBudget.state`, or None), rows, best, best_epoch,
        and midway: None after an epoch; within one a dict of batches (trained on in this epoch), metrics (the values
        of the model's running means, lists) and data_wait (`DataWait.state`, or None).

    Raises:
        Damaged: the file cannot be read.
    """
    if not pathlib.Path(checkpoint).is_file():
        return None
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            state = json.loads(archive.read(STATE)) if STATE in archive.namelist() else None
    except Exception as error:  # zipfile raises errors of many kinds
        raise Damaged(f"{checkpoint} is damaged: {error or type(error).__name__}.") from error
    if state is not None and (wrong := _wrong_in(state)):
        raise Damaged(f"{checkpoint} is damaged: {wrong} in its {STATE} is not what a run writes.")
    return state


def _wrong_in(state):
    """The first entry of a run's state that has a wrong type or range; None if all are right."""
    if not isinstance(state, dict):
        return "the value"
    good = {
        "run_id": lambda value: isinstance(value, str),
        "epochs_done": lambda value: type(value) is int and value >= (0 if state.get("midway") else 1),
        "midway": lambda value: value is None or _is_midway(value),
        "finished": lambda value: isinstance(value, bool),
        "seconds": lambda value: _is_number(value) and 0 <= value < _LONGEST,
        "budget": lambda value: value is None or _holds_numbers(value),
        "rows": lambda value: isinstance(value, list) and all(map(_holds_numbers, value)),
        "best": _holds_numbers,
    }
    return next((f"`{name}`" for name, check in good.items() if not check(state.get(name))), None)


def _is_midway(value):
    return (
        isinstance(value, dict)
        and type(value.get("batches")) is int
        and value["batches"] > 0
        and isinstance(value.get("metrics"), list)
        and _is_array(value["metrics"])
        and (value.get("data_wait") is None or _holds_numbers(value["data_wait"]))
    )


def _is_array(value):
    return all(map(_is_array, value)) if isinstance(value, list) else _is_number(value)


def _holds_numbers(value):
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_number(value):
    return isinstance(value, float) or is_number(value)  # a figure without a value is NaN


def damage_of(path):
    """What is wrong with a `.keras` file, str; None if every byte of it is as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile raises errors of many kinds
        return str(error) or type(error).__name__
    return None if bad is None else f"{bad} in it is not as it was written"


def find_model(path):
    """Find the `.keras` file that a path stands for: the file itself, or the best (else last) model of a run folder.

    A best.keras that is damaged is named in a warning, and last.keras is taken; so it is if the best one is still that
    of an earlier run.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    path = pathlib.Path(path)
    candidates = [path / BEST, path / LAST] if path.is_dir() else [path]
    there = [one for one in candidates if one.is_file() and one.suffix == ".keras"]
    if not there:
        raise ValueError(
            "A model is a .keras file, or a run folder that holds best.keras or last.keras. "
            f"Received: {path}, where there is no such file. `keras-maskrcnn train` writes one."
        )
    damage = {one: problem for one in there if (problem := damage_of(one))}
    whole = [one for one in there if one not in damage]
    told = " ".join(f"{one} is damaged: {problem}." for one, problem in damage.items())
    if not whole:
        raise Damaged(f"A model is a whole .keras file. Received: {told} Copy it again, or train it again.")
    if there[0] in damage:
        warnings.warn(f"{told} {whole[0]} is used instead.")
    return whole[-1] if len(whole) == 2 and _run_of(whole[0]) not in (None, _run_of(whole[1])) else whole[0]


def _run_of(checkpoint):
    state = read_state(checkpoint)
    return state and state["run_id"]
