"""State dicts as programs save them: taken out of their checkpoint, with plain names."""

import collections.abc
import re


def unwrapped(state):
    """The state dict inside a checkpoint of torchvision's reference scripts, Detectron2, Lightning or OpenMMLab."""
    if not isinstance(state, collections.abc.Mapping):
        raise ValueError(
            "Weights must be the path of a file, a name of published weights, or a state dict: a dictionary of names "
            f"to arrays. Received: a {type(state).__name__}. Of a model of PyTorch take model.state_dict()."
        )
    for wrapping in ("model", "state_dict"):
        if isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    return state


class Tensors(dict):
    """A state dict that keeps what its checkpoint says of it: `meta`, a dict."""

    meta = {}


def with_meta(state, prepared):
    """A prepared state dict as `Tensors`, with the `meta` of what it was made of: a checkpoint, or `Tensors`."""
    found = Tensors(prepared)
    inside = state.get("meta") if isinstance(state.get("state_dict"), dict) else None
    meta = getattr(state, "meta", inside)
    found.meta = meta if isinstance(meta, dict) else {}
    return found


def plain_names(state, renames=()):
    """A state dict without wrapping and without DataParallel's `module.` prefix.

    Args:
        state: dict of names to arrays, or a checkpoint that contains one.
        renames: pairs of a regular expression and its replacement, names of old versions to today's.

    Raises:
        ValueError: an entry is no array, or two entries get the same name.
    """
    renamed = {}
    for found, array in unwrapped(state).items():
        _check_entry(found, array)
        name = found.removeprefix("module.")
        for old, new in renames:
            name = re.sub(f"^{old}$", new, name)
        if name in renamed:
            raise ValueError(
                "Every tensor of a state dict must have its own name, after the names of old versions are replaced. "
                f"Received {name} twice, once as {found}. Keep one of the two."
            )
        renamed[name] = array
    return renamed


def _check_entry(name, array):
    """Names are strings; values have a shape, or are single numbers. Lists are not looked into: they may be nested."""
    if not isinstance(name, str) or not (hasattr(array, "shape") or isinstance(array, int | float)):
        raise ValueError(
            "A state dict must hold arrays under names. "
            f"Received {name!r:.80} with a {type(array).__name__}. Save model.state_dict() alone."
        )
