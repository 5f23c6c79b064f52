"""Progress bars, where somebody watches: on a terminal and in a notebook."""

import sys

import keras


def progress_bar(target, verbose=1, **options):
    """A bar of Keras, silent where the output goes into a file or a pipe: there each update would be a line more.

    Args:
        target: int, number of updates until it is full; None where that is not known.
        verbose: 0 is silent, 1 is not.
        **options: of `keras.utils.Progbar`.

    Returns:
        keras.utils.Progbar.
    """
    watched = sys.stdout.isatty() or "ipykernel" in sys.modules
    return keras.utils.Progbar(target, verbose=verbose if watched else 0, **options)
