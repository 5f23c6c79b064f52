"""The package's messages: in the words of whoever reads them, and on the screen.

A remedy names an argument in Python (`image_dir=...`) and an option on the command line (`--images`). Code that writes
a message calls `argument`; the command line says with `in_words` what it calls the arguments.

Library code never prints. It logs at INFO to loggers named after its modules, below "keras_maskrcnn", and Python shows
none of that unless a program asks for it. This module asks: `train_model(verbose=1)` for the duration of a run,
the command line for the whole process. The lines appear on stdout as they are, without level or time.
"""

import contextlib
import logging

_LOGGER = logging.getLogger("keras_maskrcnn")
_WORDS = {}  # argument, or argument with its value -> option; empty in Python


def argument(name, value=None):
    """What the reader of a message calls an argument.

    Args:
        name: str, the argument in Python.
        value: the value to give it; None names the argument alone.

    Returns:
        str: `image_dir=...` or `on_error="skip"` in Python; `--images` or `--skip-faulty` on the command line.
    """
    quoted = f'"{value}"' if isinstance(value, str) else str(value)
    whole = f"{name}={'...' if value is None else quoted}"
    if whole in _WORDS:
        return _WORDS[whole]
    if name in _WORDS:
        return _WORDS[name] if value is None else f"{_WORDS[name]} {value}"
    return whole


def words_in_use():
    """What messages call arguments just now, as text: the same where messages are."""
    return repr(sorted(_WORDS.items()))


@contextlib.contextmanager
def in_words(words):
    """Name arguments in messages by other words inside this, in all threads; those that are not listed keep theirs.

    Args:
        words: dict from an argument ("image_dir"), or an argument with its value ('on_error="skip"'), to a str.
    """
    before = dict(_WORDS)
    _WORDS.update(words)
    try:
        yield
    finally:
        _WORDS.clear()
        _WORDS.update(before)


class _Screen(logging.Handler):
    """Prints each message. `print` looks stdout up anew each time, so redirected output (notebooks) is respected."""

    def emit(self, record):
        print(self.format(record), flush=True)


_SCREEN = _Screen()


def show_messages():
    """Show the package's messages on stdout from now on, for the rest of the process."""
    if _SCREEN in _LOGGER.handlers:
        return
    # A program that did not ask for INFO must not find these lines in its own log as well.
    _LOGGER.propagate = _LOGGER.propagate and _LOGGER.isEnabledFor(logging.INFO)
    if not _LOGGER.isEnabledFor(logging.INFO):
        _LOGGER.setLevel(logging.INFO)
    _LOGGER.addHandler(_SCREEN)


@contextlib.contextmanager
def messages_shown(shown=True):
    """Show the package's messages on stdout inside this; afterwards logging is as it was.

    Args:
        shown: False changes nothing, neither do messages that are shown already.
    """
    if not shown or _SCREEN in _LOGGER.handlers:
        yield
        return
    before = _LOGGER.propagate, _LOGGER.level
    show_messages()
    try:
        yield
    finally:
        _LOGGER.removeHandler(_SCREEN)
        _LOGGER.propagate = before[0]
        _LOGGER.setLevel(before[1])
