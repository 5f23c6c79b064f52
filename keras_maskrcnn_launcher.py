"""Entry point of the `keras-maskrcnn` command: quiets TensorFlow, then runs `keras_maskrcnn.cli`.

TensorFlow reads its log level when it is imported, and importing anything of the package imports it; so the level
has to be set from outside the package.
"""

import os


def main():
    """Run the command line. Returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_maskrcnn.cli import main as run

    return run()
