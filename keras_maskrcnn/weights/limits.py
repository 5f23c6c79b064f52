"""The limits of weight files, in one place, and the error that every reader of this folder raises for a bad file.

Limits are far above every file that was published for a Mask R-CNN, and low enough that a forged file of a few
kilobytes costs neither minutes nor gigabytes. docs/formats_weights.md lists them.
"""

import contextlib
import errno
import re

MEBIBYTE = 1 << 20

MOST_DIRECTORY_BYTES = 16 * MEBIBYTE  # central directory of a zip archive: about 100,000 members
MOST_PICKLE_BYTES = 64 * MEBIBYTE  # the pickle of a .pth file, without its numbers; torchvision's have 50 KB
MOST_INSTRUCTIONS = 1_000_000  # of a pickle: seconds; torchvision's largest detector has 20,000
MOST_ENTRIES = 100_000  # values in all dictionaries and lists of a .pth file; objects in an .h5 file
MOST_NESTING = 16  # dictionaries and lists inside each other
MOST_AXES = 8  # of a tensor
MOST_SHARING = 4  # bytes of all tensors of a .pth file, which may share storages, per byte of the file
MOST_INFLATION = 20  # bytes that compressed members or datasets grow to, per byte of the file
ALWAYS_INFLATED = 64 * MEBIBYTE  # what they may grow to in any case
MOST_HEADER_BYTES = 16 * MEBIBYTE  # of a .safetensors file, and config.json of a .keras file
LARGEST_UNUSED_SIZE = 1024  # a size in a stored config that no array of the file has

_LONGEST_FINDING = 2000  # characters of a library's message

# Errors of the system that say nothing about the content of a file.
_OF_THE_SYSTEM = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.EIO}
_OF_THE_SYSTEM |= {errno.EMFILE, errno.ENFILE}


# What a library raises where it took the content for right; the text is of its own code.
_SLIPS = (AttributeError, TypeError, KeyError, IndexError)

# Keras' text on layers that it could not load; an error of its own code follows.
_UNLOADED = r"A total of (\d+) objects could not be loaded. Example error message for object <(.*?)[,>]"


class WeightFileError(ValueError):
    """A weight file is damaged, forged, or of another kind than its name says. The message names the file."""


@contextlib.contextmanager
def reading(path, expected, remedy):
    """Turn whatever a library raises on a damaged file into one `WeightFileError` in three parts.

    Args:
        path: the file. expected: what it must be. remedy: one or more sentences.

    Raises:
        WeightFileError: the block raised. Errors of the system (no such file, no space left) stay as they are.
    """
    try:
        yield
    except WeightFileError:
        raise
    except Exception as error:  # zipfile, HDF5, Keras and their codecs raise any class on damaged files
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            raise
        raise WeightFileError(
            f"{path} was not read. Expected {expected}. Found: {_finding(error)}. {remedy}"
        ) from error


def _finding(error):
    """What a library's error says of the file."""
    if isinstance(error, _SLIPS):
        return "parts that do not belong together"
    unloaded = re.match(_UNLOADED, str(error), re.DOTALL)
    if unloaded:
        return f"{unloaded[1]} layers whose arrays are missing or do not fit; one is {unloaded[2]}"
    return str(error).rstrip(".")[:_LONGEST_FINDING] or type(error).__name__


@contextlib.contextmanager
def naming(path):
    """Put the name of the file before a ValueError about its content."""
    try:
        yield
    except WeightFileError:
        raise
    except ValueError as error:
        raise WeightFileError(f"{path}: {error}") from error


def inflated_limit(stored):
    """The bytes that a file of `stored` bytes may grow to in memory."""
    return MOST_INFLATION * stored + ALWAYS_INFLATED
