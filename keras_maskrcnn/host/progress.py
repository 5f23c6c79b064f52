"""Progress bars, where somebody watches: on a terminal and in a notebook."""

import sys


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
    if not watched:
        return _Silent()
    import keras  # takes seconds; data commands run without it

    return keras.utils.Progbar(target, verbose=verbose, **options)


class _Silent:
    """A bar that nobody sees."""

    def update(self, *args, **kwargs):
        """Do nothing."""
