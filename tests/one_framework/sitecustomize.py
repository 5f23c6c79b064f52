"""For processes of tests that find this folder on PYTHONPATH: only the framework that runs them is there.

TensorFlow imports JAX where it is installed (tensorflow/lite/python/util.py), which nearly doubles the time of its own
import; Keras on JAX imports TensorFlow to seed it, on PyTorch both. Users seldom have more than one, but a machine that
tests all has them.

Keras also imports matplotlib.pyplot, where it is installed, for galleries of images that no test draws: most of a
second in each process. It does not find it here; the package and the tests do.

A framework makes a million objects that stay. Python's garbage collector looks through all of them several times during
the import, and again while a model is traced. Here it looks less often.
"""

import gc
import importlib.abc
import importlib.machinery
import os
import sys

FRAMEWORKS = ("tensorflow", "jax", "torch")
HIDDEN = set(FRAMEWORKS) - {os.environ.get("KERAS_BACKEND") or "tensorflow"}


class Hidden(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the other frameworks, so that tests see that they are installed, but does not load them."""

    def find_spec(self, name, path=None, target=None):
        """The spec of another framework, and of nothing else."""
        installed = name in HIDDEN and importlib.machinery.PathFinder.find_spec(name, path) is not None
        return importlib.machinery.ModuleSpec(name, self) if installed else None

    def exec_module(self, module):
        """Refuse, as if it were not installed."""
        raise ModuleNotFoundError(f"{module.__name__} is hidden from these tests.", name=module.__name__)


class HiddenFromKeras(importlib.abc.MetaPathFinder):
    """Finds nothing; refuses matplotlib to the modules of Keras that plot."""

    def find_spec(self, name, path=None, target=None):
        """None, so that the next finder is asked."""
        if name == "matplotlib":
            frame = sys._getframe(1)
            while frame and frame.f_globals.get("__name__", "").startswith("importlib"):
                frame = frame.f_back
            if frame and frame.f_globals.get("__name__", "").startswith("keras.src.visualization"):
                raise ModuleNotFoundError("matplotlib is hidden from Keras in these tests.", name=name)
        return None


sys.meta_path[:0] = [Hidden(), HiddenFromKeras()]
gc.set_threshold(20_000, 20, 20)
