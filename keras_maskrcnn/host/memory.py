"""Freed memory that stays with the process: what large feature maps cost on a CPU beyond their arithmetic.

glibc gives large blocks back to the kernel as soon as they are freed, and the kernel clears every page of the next one:
at 800x1056 pixels a seventh of the time of an inference, and half of a training step on small images.

These settings act on the whole process, so neither importing the package nor building a model changes them. Programs of
the package call `keep_for_models`; users of the library call `km.keep_freed_memory()` where they want it.
"""

import ctypes
import functools
import os
import sys

SWITCH = "KERAS_MASKRCNN_KEEP_MEMORY"  # environment: 0 leaves the C library's settings as they are

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# One arena: the others are too small for large maps, and what they keep, no other thread reuses.
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))


@functools.cache
def keep_for_models():
    """Call `keep_freed_memory` once in a process that runs models, unless the environment variable is 0.

    The command line calls it before it builds or loads a model.

    Returns:
        bool, whether the C library accepted the settings.
    """
    return os.environ.get(SWITCH, "1") != "0" and keep_freed_memory()


def keep_freed_memory():
    """Let the C library reuse freed memory instead of giving it back, from now on in this process.

    The process keeps the memory of its largest moment until it ends. GPUs have an allocator of their own, and gain
    nothing.

    Returns:
        bool, whether the C library accepted the settings: glibc (most Linux distributions) does, others do not.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return all(mallopt(option, value) for option, value in _SETTINGS)
