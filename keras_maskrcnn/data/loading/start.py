"""What a worker process runs: Python executes this file as a script, so that no `__init__` imports a framework.

`keras_maskrcnn/__init__.py` imports Keras. Here the package's modules become importable one by one without it; it is
executed only if a module of the user asks the package for a name such as `keras_maskrcnn.MaskRCNN`.
"""

import importlib.util
import json
import sys

PACKAGE = "keras_maskrcnn"


def register_package():
    """Make the package's modules importable without executing its `__init__`."""
    spec = importlib.util.find_spec(PACKAGE)
    package = importlib.util.module_from_spec(spec)

    def whole(name):
        """The `__getattr__` of the package until its `__init__` has been executed."""
        if name.startswith("__"):
            raise AttributeError(name)
        del package.__getattr__
        spec.loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = whole
    sys.modules[PACKAGE] = package


def main():
    """Become the worker that the argument describes."""
    start = json.loads(sys.argv.pop())
    sys.path[:] = start["path"]
    register_package()
    from keras_maskrcnn.data.loading.worker import work

    work(start["pipe"], start["parent"])


if __name__ == "__main__":
    main()
