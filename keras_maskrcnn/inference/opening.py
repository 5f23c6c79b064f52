"""What `Predictor` does with a path: it calls what `scale/models.py` registers here.

Files of models belong to rooms that import this one, so it cannot import them. Imports no framework.
"""

import os

_openers = []


def is_path(model):
    """Whether a model is given by its path."""
    return isinstance(model, (str, os.PathLike))


def opens_paths(function):
    """Decorate the function that opens paths: its arguments are a path and those of `Predictor`."""
    _openers[:] = [function]
    return function


def open_path(path, *arguments, **options):
    """A predictor for the model at a path."""
    return _openers[0](path, *arguments, **options)
