"""For processes of tests that find this folder on PYTHONPATH: only the framework that runs them is there.

TensorFlow imports JAX where it is installed (tensorflow/lite/python/util.py), which nearly doubles the time of its own
import, and Keras on JAX imports TensorFlow to seed it. Users seldom have both, but a machine that tests both does.
"""

import importlib.abc
import importlib.machinery
import os
import sys

HIDDEN = "tensorflow" if os.environ.get("KERAS_BACKEND") == "jax" else "jax"


class Hidden(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the other framework, so that tests see that it is installed, but does not load it."""

    def find_spec(self, name, path=None, target=None):
        """The spec of the other framework, and of nothing else."""
        return importlib.machinery.ModuleSpec(name, self) if name == HIDDEN else None

    def exec_module(self, module):
        """Refuse, as if it were not installed."""
        raise ModuleNotFoundError(f"{HIDDEN} is hidden from these tests.", name=HIDDEN)


sys.meta_path.insert(0, Hidden())
