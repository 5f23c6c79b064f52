"""Backend differences outside the operators: dynamic sizes, batch norm, replicas. The generic version.

Compiled backends (JAX) know every size during tracing, so sizes are Python ints and padding rows are computed too.
`runtime_tensorflow.py` replaces functions that can be better in graph mode.
"""

import random

import keras
import numpy
from keras import ops

SUPPORTS_JIT = True
COMPILES = True  # a step, before its first run
ENDS_WITH_DATA = False  # whether Keras asks for a batch before it begins a step, and so ends an epoch without one
HAS_FUSED_BATCH_NORM = False
FOLDS_NORMS = False  # XLA fuses a constant norm with its neighbours


def shape(array):
    """The sizes of an array, as `ops.shape`."""
    return ops.shape(array)


def smaller(a, b):
    """The smaller of two sizes, for slices and top-k."""
    return min(a, b)


def gather_each(values, rows, axis=1):
    """Entries of each image: those of `values` (B, ..., N, ...) at int `rows` (B, R) along `axis`: (B, ..., R, ...)."""
    rows = ops.expand_dims(rows, [other for other in range(1, len(values.shape)) if other != axis])
    return ops.take_along_axis(values, rows, axis=axis)


def take_rows(values, rows):
    """Entries along the first axis: those of `values` (N, ...) at int `rows`, which are none below 0."""
    return ops.take(values, rows, axis=0)


def upsample_twice(features):
    """Each cell of (B, h, w, C) four times: (B, 2h, 2w, C)."""
    return ops.repeat(ops.repeat(features, 2, axis=1), 2, axis=2)


def keep_cells(features, cells):
    """A map (B, h, w, C), and 0 where `cells`, (B, h, w, 1) of 0 and 1, is 0."""
    return features * cells


def add_upsampled(fine, coarse, cells=None):
    """The sum of two maps, each cell of the coarse one four times; 0 where `cells`, (B, h, w, 1) of 0 and 1, is 0.

    Args:
        fine: float (B, h, w, C). coarse: float (B, h / 2, w / 2, C).
    """
    total = fine + upsample_twice(coarse)
    return total if cells is None else total * cells


def trim_to_valid(valid, *arrays):
    """Drop the columns after the last valid one of the batch. Here sizes are fixed, so nothing is dropped.

    Args:
        valid: bool (B, N).
        *arrays: (B, N, ...).

    Returns:
        valid (B, N') and the arrays (B, N', ...).
    """
    return (valid, *arrays)


def pad_columns(array, size):
    """Pad an array (B, N, ...) with zeros to (B, size, ...)."""
    missing = size - array.shape[1]
    return ops.pad(array, [[0, 0], [0, missing]] + [[0, 0]] * (len(array.shape) - 2))


def pad_to_multiple(images, multiple):
    """Pad images (B, H, W, C) with zeros at the bottom and right to multiples of `multiple`."""
    height, width = images.shape[1], images.shape[2]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return images
    return ops.pad(images, [[0, 0], [0, bottom], [0, right], [0, 0]])


def scale_loss(loss):
    """Divide a replica's loss by the number of replicas whose gradients are summed. Here there is one."""
    return loss


def share_of_count(count):
    """A replica's share of a count: the sum over all replicas, at least 1, divided by their number. Here there is one.

    A loss divided by it and then by the number of replicas adds up to the mean of the whole batch.
    """
    return ops.maximum(ops.cast(count, "float32"), 1.0)


def set_seed(seed):
    """Seed Python's and numpy's generators; Keras draws the seeds of layers from Python's.

    Here not by `keras.utils.set_random_seed`, which imports TensorFlow wherever it is installed: seconds and messages.
    """
    random.seed(seed)
    numpy.random.seed(seed)


def keep_compiled(folder):
    """Let later processes read what this one compiles. TensorFlow and PyTorch have nothing of the kind."""


def devices():
    """Names of the backend's devices, such as "cpu:0"."""
    return keras.distribution.list_devices()


def fast_bfloat16():
    """The device if it computes convolutions faster in bfloat16 than in float32, by name; else None.

    TPUs do, and NVIDIA GPUs from compute capability 8.0 (A100; CUDA C++ Programming Guide, "Compute Capabilities").
    On CPUs XLA was not measured to be faster.
    """
    if keras.backend.backend() == "jax":
        return _fast_in_jax()
    return None


def has_bfloat16_cores(capability):
    """Whether an NVIDIA GPU of this compute capability, (major, minor), has tensor cores for bfloat16."""
    return tuple(capability) >= (8, 0)


def _fast_in_jax():
    import jax

    device = jax.devices()[0]
    if device.platform == "tpu":
        return device.device_kind
    capability = getattr(device, "compute_capability", None) if device.platform in ("gpu", "cuda") else None
    return device.device_kind if capability and has_bfloat16_cores(map(int, str(capability).split("."))) else None


def batches_ahead():
    """How many batches `fit` prefetches: on an accelerator JAX prefetches one."""
    on_cpu = all(name.startswith("cpu") for name in devices())
    return int(keras.backend.backend() == "jax" and not on_cpu)
