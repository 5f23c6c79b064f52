"""Keeps freed memory in the process, which makes large feature maps cheaper on a CPU.

glibc returns large blocks to the kernel as soon as they are freed, and the kernel clears every page of the next block.
That takes a seventh of an inference at 800x1056 pixels, and half of a training step on small images.

The setting acts on the whole process. So only `train_model` and the command line choose it on their own; importing the
package or building a model does not. Other programs call `keep_freed_memory` themselves.

A GPU or TPU has memory of its own, and its compiler works in as many threads as the machine has cores. They would wait
for each other, because kept memory is one arena with one lock: on 16 cores beside an H100, XLA did not finish compiling
a training step of R50-FPN in 200 s instead of 32 s. So there the setting is left as it is.
"""

import contextlib
import ctypes
import functools
import gc
import logging
import os
import pathlib
import sys

SWITCH = "KERAS_MASKRCNN_KEEP_MEMORY"  # environment: 0 leaves the C library's settings as they are

_LOG = logging.getLogger(__name__)

_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")  # the drivers' device files

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# One arena: further arenas are too small for large maps, and the memory that one keeps is not reused by the others.
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))


@contextlib.contextmanager
def no_search_for_cycles():
    """Switch Python's garbage collector off in this block, which makes millions of objects without cycles.

    It would look through all of them again and again: a tenth of the time to count the AP of 70,000 detections.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@functools.cache
def keep_for_models():
    """Call `keep_freed_memory` once per process, unless the environment says no or there is a GPU or TPU; log it."""
    kept = is_wanted() and not has_accelerator() and keep_freed_memory()
    if kept:
        _LOG.info("this process keeps freed memory for reuse, which is faster (%s=0 turns this off)", SWITCH)
    return kept


def is_wanted():
    """Whether the environment leaves the choice to this package."""
    return os.environ.get(SWITCH, "1") != "0"


def has_accelerator(devices="/dev"):
    """Whether Linux shows a GPU of NVIDIA or AMD or a TPU. Known without a framework, which must come later."""
    found = (pathlib.Path(devices).glob(pattern) for pattern in _ACCELERATORS)
    return any(True for paths in found for _ in paths)


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
