"""Keeps freed memory in the process, which makes large feature maps cheaper on a CPU.

glibc returns large blocks to the kernel as soon as they are freed, and the kernel clears every page of the next block.
That takes a seventh of an inference at 800x1056 pixels, and half of a training step on small images.

The setting acts on the whole process. So only `train_model` and the command line choose it on their own; importing the
package or building a model does not. Other programs call `keep_freed_memory` themselves.
"""

import ctypes
import functools
import logging
import os
import sys

SWITCH = "KERAS_MASKRCNN_KEEP_MEMORY"  # environment: 0 leaves the C library's settings as they are

_LOG = logging.getLogger(__name__)

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# One arena: further arenas are too small for large maps, and the memory that one keeps is not reused by the others.
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))


@functools.cache
def keep_for_models():
    """Call `keep_freed_memory` once per process, unless the environment says no, and log it."""
    kept = os.environ.get(SWITCH, "1") != "0" and keep_freed_memory()
    if kept:
        _LOG.info("this process keeps freed memory for reuse, which is faster (%s=0 turns this off)", SWITCH)
    return kept


def keep_freed_memory():
    """Let the C library reuse freed memory instead of returning it to the kernel, from now on in this process.

    The process then never shrinks below its largest size until it ends. Training on GPUs gains nothing, because they
    have their own allocator.

    Returns:
        bool, whether the C library has the setting: glibc (most Linux distributions) does, others do not.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return all(mallopt(option, value) for option, value in _SETTINGS)
