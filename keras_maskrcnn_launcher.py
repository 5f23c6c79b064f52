"""Entry point of the `keras-maskrcnn` command: runs the command line and imports Keras only where a command needs it.

Importing TensorFlow takes seconds and prints. The package's `__init__` imports Keras, so the launcher registers the
package without executing its `__init__`: modules such as `keras_maskrcnn.cli` can then be imported alone, and help,
argument errors and the data commands never import a framework. The `__init__` is executed before the first command
that builds or loads a model.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile

PACKAGE = "keras_maskrcnn"


def main():
    """Run the command line. Returns its exit status."""
    register_package()
    from keras_maskrcnn.cli import main as run

    return run(prepare_models=prepare_models)


def register_package():
    """Make the package's modules importable one by one; does nothing where the package is imported already."""
    if PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = importlib.util.module_from_spec(importlib.util.find_spec(PACKAGE))


def prepare_models():
    """Get the process ready for models: keep freed memory, import Keras and the package's classes quietly."""
    from keras_maskrcnn.host.memory import keep_for_models

    keep_for_models()  # first: it has less effect after a framework has started threads
    package = sys.modules[PACKAGE]
    if not hasattr(package, "__version__"):  # `__init__` has not been executed
        with quiet_tensorflow():
            package.__spec__.loader.exec_module(package)


@contextlib.contextmanager
def quiet_tensorflow():
    """Import TensorFlow inside this context: sets its log level and hides what it prints before the level applies.

    TensorFlow reads its log level when it is imported. If the import fails, everything it printed is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
