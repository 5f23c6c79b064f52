"""Entry point of the `keras-maskrcnn` command: imports TensorFlow without its chatter, then runs the command line.

TensorFlow reads its log level when it is imported, and importing anything of the package imports it; so the level
has to be set from outside the package. Some lines come before that level applies: they are held back, too.
"""

import contextlib
import os
import sys
import tempfile


def main():
    """Run the command line. Returns its exit status."""
    with quiet_tensorflow():
        from keras_maskrcnn.cli import main as run
        from keras_maskrcnn.host.memory import keep_for_models
    keep_for_models()  # for exports too, which are no MaskRCNN
    return run()


@contextlib.contextmanager
def quiet_tensorflow():
    """Import TensorFlow inside this: its log level is set, and what it writes before that counts is held back.

    If an error follows, all of it is shown.
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
