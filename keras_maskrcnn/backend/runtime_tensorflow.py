"""`runtime.py` for TensorFlow's graph mode, where sizes may be tensors: only valid rows are computed.

XLA has no kernels for crop_and_resize and stock NMS, so the model turns Keras' XLA compilation off (`SUPPORTS_JIT`).
"""

import pathlib

import keras
import tensorflow as tf

from keras_maskrcnn.backend import native, portable
from keras_maskrcnn.backend.runtime import has_bfloat16_cores

SUPPORTS_JIT = False
COMPILES = True  # a step, before its first run
ENDS_WITH_DATA = False  # a step asks for its own batch
HAS_FUSED_BATCH_NORM = True
FOLDS_NORMS = True  # a constant norm is folded into the preceding kernel


def shape(array):
    """The sizes of an array, as `ops.shape`: ints where they are known, else scalar tensors.

    Two operators for all of them: `ops.shape` adds four for each, which takes time when a model is traced.
    """
    known = tuple(array.shape)
    if None not in known:
        return known
    return tuple(size if side is None else side for side, size in zip(known, tf.unstack(tf.shape(array)), strict=True))


def smaller(a, b):
    """The smaller of two sizes, ints or scalar tensors."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return tf.minimum(a, b)


def gather_each(values, rows, axis=1):
    """Entries of each image: those of `values` (B, ..., N, ...) at int `rows` (B, R) along `axis`: (B, ..., R, ...)."""
    return tf.gather(values, rows, axis=axis, batch_dims=1)


def take_rows(values, rows):
    """Entries along the first axis: those of `values` (N, ...) at int `rows`, which are none below 0."""
    return tf.gather(values, rows)  # ops.take adds five operators for rows below 0


def upsample_twice(features):
    """Each cell of (B, h, w, C) four times: (B, 2h, 2w, C).

    Two maps of 100x128x256 take 48 ms and the gradient 10; with `tf.repeat` 75 and 48 (2 cores).
    """
    size = 2 * tf.shape(features)[1:3]
    return tf.raw_ops.ResizeNearestNeighbor(images=features, size=size)


def keep_cells(features, cells):
    """As `runtime.keep_cells`: natively it writes only the zeros, where nothing else needs the map."""
    features = tf.convert_to_tensor(features)
    return native.add_maps([features], cells) if native.adds_maps([features]) else features * cells


def add_upsampled(fine, coarse, cells=None):
    """As `runtime.add_upsampled`, natively in one pass over memory."""
    fine, coarse = tf.convert_to_tensor(fine), tf.convert_to_tensor(coarse)
    if native.adds_maps([fine, coarse]):
        return native.add_maps([fine, coarse], cells, coarse=True)
    total = fine + upsample_twice(coarse)
    return total if cells is None else total * cells


def trim_to_valid(valid, *arrays):
    """Drop the columns after the last valid one of the batch, but keep at least one column.

    Args:
        valid: bool (B, N).
        *arrays: (B, N, ...).

    Returns:
        valid (B, N') and the arrays (B, N', ...).
    """
    if portable.sizes_are_fixed():
        return (valid, *arrays)
    columns = tf.range(1, tf.shape(valid)[1] + 1)
    last = tf.reduce_max(tf.where(tf.reduce_any(valid, axis=0), columns, 0))
    size = tf.minimum(tf.maximum(last, 1), tf.shape(valid)[1])
    return tuple(array[:, :size] for array in (valid, *arrays))


def pad_columns(array, size):
    """Pad an array (B, N, ...) with zeros to (B, size, ...)."""
    missing = size - tf.shape(array)[1]
    padded = tf.pad(array, [[0, 0], [0, missing]] + [[0, 0]] * (len(array.shape) - 2))
    return tf.ensure_shape(padded, [array.shape[0], size, *array.shape[2:]])


def pad_to_multiple(images, multiple):
    """Pad images (B, H, W, C) with zeros at the bottom and right to multiples of `multiple`."""
    height, width = images.shape[1], images.shape[2]
    if height is not None and width is not None and not (height % multiple or width % multiple):
        return images
    # Avoid the remainder of negative numbers, which tf2onnx rounds the other way.
    missing = multiple - 1 - (tf.shape(images)[1:3] - 1) % multiple
    return tf.pad(images, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])


def scale_loss(loss):
    """Divide a replica's loss by the number of replicas whose gradients are summed."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def share_of_count(count):
    """A replica's share of a count: the sum over all replicas, at least 1, divided by their number.

    A loss divided by it and then by the number of replicas adds up to the mean of the whole batch.
    """
    count, replica = tf.cast(count, tf.float32), tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return tf.maximum(count, 1.0)
    return tf.maximum(replica.all_reduce(tf.distribute.ReduceOp.SUM, count), 1.0) / replica.num_replicas_in_sync


def fused_batch_norm(inputs, gamma, beta, epsilon):
    """Batch norm with batch statistics in one fused kernel, several times faster on CPU than separate operators.

    Args:
        inputs: float (B, h, w, C). gamma, beta: float32 (C,). epsilon: added to the variance.

    Returns:
        outputs (B, h, w, C), mean float32 (C,), and unbiased variance float32 (C,), as in torch.
    """
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    return outputs, mean, variance


def set_seed(seed):
    """Seed the generators of Python, numpy, Keras and TensorFlow."""
    keras.utils.set_random_seed(seed)


def devices():
    """Names of TensorFlow's devices, such as "CPU:0"."""
    return [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices()]


def fast_bfloat16(cpu_description="/proc/cpuinfo"):
    """The device if it computes convolutions faster in bfloat16 than in float32, by name; else None.

    NVIDIA GPUs from compute capability 8.0, and CPUs with AMX tiles, which oneDNN uses (flag `amx_bf16` of the kernel).

    Args:
        cpu_description: file with the CPU's flags; where it is missing, as on other systems than Linux, there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        fast = has_bfloat16_cores(details.get("compute_capability") or (0, 0))
        return details.get("device_name", "GPU") if fast else None
    path = pathlib.Path(cpu_description)
    return "CPU with AMX" if path.is_file() and "amx_bf16" in path.read_text(encoding="utf-8").split() else None


def batches_ahead():
    """None: each step fetches its own batch."""
    return 0
