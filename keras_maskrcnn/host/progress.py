"""Progress bars, drawn by rich, shown on a terminal and in a notebook."""

import sys
import time
import weakref

_INTERVAL = 0.1  # seconds between two drawings


def progress_bar(target, verbose=1, unit_name="step"):
    """Start a bar. It stays silent if the output goes into a file or a pipe, where each update would add a line.

    Args:
        target: int, number of updates until it is full; None if that is not known.
        verbose: 0 is silent, 1 is not.
        unit_name: str, what an update counts.

    Returns:
        ProgressBar.
    """
    watched = sys.stdout.isatty() or "ipykernel" in sys.modules
    return ProgressBar(target, unit_name, shown=bool(verbose and watched))


class ProgressBar:
    """A bar on stdout with the count, the time left (at the end: the time taken) and some figures.

    It ends when it is full, with `close`, or at the end of a `with` block.

    Args:
        target: int, or None.
        unit_name: str, what an update counts.
        shown: whether to draw anything.
    """

    def __init__(self, target, unit_name, shown):
        self.target = target
        self._drawing = _start(target, unit_name) if shown else None
        self._drawn = -_INTERVAL
        if shown:
            # An error on the way must not leave the terminal without its cursor.
            self._end = weakref.finalize(self, self._drawing.stop)

    def update(self, done, **figures):
        """Move the bar.

        Args:
            done: int, how many are finished by now.
            **figures: float, shown beside the bar under their names, such as loss=0.5.
        """
        if self._drawing is None:
            return
        full = self.target is not None and done >= self.target
        if full or time.monotonic() - self._drawn >= _INTERVAL:
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self._drawing.update(self._drawing.task_ids[0], completed=done, figures=text)
            self._drawing.refresh()
            self._drawn = time.monotonic()
        if full:
            self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the drawing. Later updates do nothing."""
        if self._drawing is not None:
            self._end()
            self._drawing = None


def _start(target, unit_name):
    """A running `rich.progress.Progress` with one task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    drawing = Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(f"{unit_name}s"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}", markup=False),
        # One line that a carriage return redraws works in every notebook, and without ipywidgets.
        console=Console(file=sys.stdout, force_terminal=True, force_jupyter=False),
        auto_refresh=False,  # no thread of its own
        redirect_stdout=False,
        redirect_stderr=False,
    )
    drawing.add_task("", total=target, figures="")
    drawing.start()
    return drawing
