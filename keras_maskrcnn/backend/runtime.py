"""What the backends do differently around the operators: sizes known late, batch norm, replicas. The portable form.

Compiled backends (JAX) know every size when they trace, so sizes are Python ints and padding rows are computed along.
`runtime_tensorflow.py` replaces what graph mode can do better.
"""

import keras
from keras import ops

SUPPORTS_JIT = True
HAS_FUSED_BATCH_NORM = False
FOLDS_NORMS = False  # XLA joins a constant norm with what stands around it


def smaller(a, b):
    """The smaller of two sizes, for slices and top-k."""
    return min(a, b)


def trim_to_valid(valid, *arrays):
    """Cut the columns behind the last valid one of the batch; here sizes are fixed, so nothing is cut.

    Args:
        valid: bool (B, N).
        *arrays: (B, N, ...).

    Returns:
        valid (B, N') and the arrays (B, N', ...).
    """
    return (valid, *arrays)


def pad_columns(array, size):
    """Fill an array (B, N, ...) with zeros up to (B, size, ...)."""
    missing = size - array.shape[1]
    return ops.pad(array, [[0, 0], [0, missing]] + [[0, 0]] * (len(array.shape) - 2))


def pad_to_multiple(images, multiple):
    """Fill images (B, H, W, C) with zeros at the bottom and right up to multiples of `multiple`."""
    height, width = images.shape[1], images.shape[2]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return images
    return ops.pad(images, [[0, 0], [0, bottom], [0, right], [0, 0]])


def scale_loss(loss):
    """Divide a replica's loss by the number of replicas whose gradients are summed; here there is one."""
    return loss


def devices():
    """Names of the backend's devices, such as "cpu:0"."""
    return keras.distribution.list_devices()


def batches_ahead():
    """How many batches `fit` fetches before their step: JAX on an accelerator keeps one ahead."""
    on_cpu = all(name.startswith("cpu") for name in devices())
    return int(keras.backend.backend() == "jax" and not on_cpu)
