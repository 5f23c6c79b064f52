"""Which workers make the batches: threads or processes, how many, and why. Called by `batches.py`.

Threads share the process's memory and cache, and one interpreter lock: beyond two or three they slow each other down
(160 images a second with 2 threads, 111 with 16, on 16 cores). Processes scale with the cores.
"""

import dataclasses
import math
import os
import pathlib
import sys

import numpy as np

from keras_maskrcnn.data.loading.options import AUTO

THREAD, PROCESS = "thread", "process"
FEW_CORES = 4  # up to here the model needs the cores that processes would gain
MOST_PROCESSES = 16
_PLURAL = {THREAD: "threads", PROCESS: "processes"}
_HERE_ALONE = ("memory://", "simplecache::memory://")
_QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")


@dataclasses.dataclass(frozen=True)
class Workers:
    """What makes the batches.

    Args:
        kind: THREAD or PROCESS.
        count: how many.
        why: str, the reason for kind and count.
        cache_bytes: of decoded images that each process may keep.
        asked_for: whether the options name this kind, so that nothing else may take its place.
    """

    kind: str
    count: int
    why: str
    cache_bytes: int = 0
    asked_for: bool = False

    def __str__(self):
        noun = _PLURAL[self.kind] if self.count != 1 else self.kind
        return f"{self.count} {noun} {'make' if self.count != 1 else 'makes'} the batches: {self.why}"


def choose_workers(options, image_sizes, config, cores=None, files=()):
    """Choose kind and number where the options leave them open.

    Args:
        options: LoaderOptions.
        image_sizes: (height, width) of the dataset's images.
        config: MaskRCNNConfig, for channels and dtype of the images.
        cores: int; None counts those that this process may use.
        files: str or None, the dataset's image files and addresses.

    Returns:
        Workers.
    """
    cores = usable_cores() if cores is None else cores
    pixels = float(np.asarray(list(image_sizes), float).reshape(-1, 2).prod(1).sum())
    decoded = pixels * config.num_channels * np.dtype(config.image_dtype).itemsize
    kind, why = _kind(options, cores, decoded)
    count = options.workers
    if count == AUTO:
        count = _count(kind, cores)
    elif options.worker_type in (THREAD, PROCESS, None):
        why = "as asked for"
    asked_for = options.worker_type == PROCESS
    if kind == PROCESS and (obstacle := _only_here(files) or no_processes()):
        return Workers(THREAD, max(1, min(count, 2)), f"{obstacle}, so that worker processes cannot be used")
    share = options.cache_bytes // max(count, 1)
    return Workers(kind, max(count, 1) if kind == PROCESS else count, why, share if decoded <= share else 0, asked_for)


def _kind(options, cores, decoded):
    """(kind, reason) that the options name, or that is faster."""
    if options.worker_type in (THREAD, PROCESS):
        return options.worker_type, f"{cores} cores"
    if options.worker_type is None and options.workers != AUTO:
        return THREAD, "as asked for"
    if cores <= FEW_CORES:
        return THREAD, f"on {cores} {'core' if cores == 1 else 'cores'} threads are as fast as processes"
    if decoded <= options.cache_bytes:
        return THREAD, f"the decoded images ({_size(decoded)}) fit into the cache ({_size(options.cache_bytes)})"
    return PROCESS, f"{cores} cores, and the decoded images ({_size(decoded)}) do not fit into the cache"


def _count(kind, cores):
    if kind == THREAD:
        return 2 if cores <= FEW_CORES else min(4, cores // 2)
    return min(MOST_PROCESSES, max(1, cores - (1 if cores <= 2 * FEW_CORES else 2)))


def usable_cores():
    """Cores that this process may use: by its affinity, and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):  # no such limit on this system
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def _only_here(files):
    """Why other processes cannot read these files, str; None if they can."""
    there = any(file is not None and file.startswith(_HERE_ALONE) for file in files)
    return "images of memory:// are in this process alone" if there else None


def no_processes():
    """Why this system cannot run worker processes, str; None if it can."""
    if os.name != "posix":
        return "this system cannot hand open files to a new process"
    if getattr(sys, "frozen", False) or not sys.executable:
        return "this program has no Python interpreter of its own"
    return None


def _size(count):
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
