"""For processes of TensorFlow's tests that find this folder on PYTHONPATH: JAX is not there.

TensorFlow imports JAX where it is installed (tensorflow/lite/python/util.py), which nearly doubles the time of its own
import. Users of TensorFlow seldom have it, but a machine that tests both does.
"""

import importlib.abc
import importlib.machinery
import os
import sys


class Hidden(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds JAX, so that tests see that it is installed, but does not load it."""

    def find_spec(self, name, path=None, target=None):
        """The spec of JAX, and of nothing else."""
        return importlib.machinery.ModuleSpec(name, self) if name == "jax" else None

    def exec_module(self, module):
        """Refuse, as if it were not installed."""
        raise ModuleNotFoundError("JAX is hidden from tests that run on TensorFlow.", name="jax")


if os.environ.get("KERAS_BACKEND") != "jax":
    sys.meta_path.insert(0, Hidden())
