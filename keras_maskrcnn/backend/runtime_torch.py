"""`runtime.py` for PyTorch, which runs operator by operator: sizes are numbers, and only valid rows are computed."""

import torch
from keras import ops
from torch.nn import functional

from keras_maskrcnn.backend import runtime
from keras_maskrcnn.backend.runtime import (
    gather_each,
    has_bfloat16_cores,
    keep_cells,
    pad_columns,
    pad_to_multiple,
    scale_loss,
    shape,
    share_of_count,
    smaller,
    take_rows,
)

__all__ = [
    "gather_each",
    "take_rows",
    "keep_cells",
    "pad_columns",
    "pad_to_multiple",
    "scale_loss",
    "shape",
    "share_of_count",
    "smaller",
]

SUPPORTS_JIT = False  # the numbers of boxes differ from batch to batch: torch.compile would start again each time
COMPILES = False  # steps run operator by operator
ENDS_WITH_DATA = True  # Keras asks for a batch before it begins a step
HAS_FUSED_BATCH_NORM = True
FOLDS_NORMS = True  # nothing fuses a norm with its neighbours; folded into the kernel it costs no pass over the maps


def upsample_twice(features):
    """Each cell of (B, h, w, C) four times: (B, 2h, 2w, C)."""
    channels_first = ops.convert_to_tensor(features).permute(0, 3, 1, 2)
    return functional.interpolate(channels_first, scale_factor=2, mode="nearest").permute(0, 2, 3, 1)


def add_upsampled(fine, coarse, cells=None):
    """As `runtime.add_upsampled`."""
    total = fine + upsample_twice(coarse)
    return total if cells is None else total * cells


def trim_to_valid(valid, *arrays):
    """Drop the columns after the last valid one of the batch, but keep at least one column, if there is any.

    Args:
        valid: bool (B, N).
        *arrays: (B, N, ...).

    Returns:
        valid (B, N') and the arrays (B, N', ...).
    """
    valid = ops.convert_to_tensor(valid)
    used = torch.nonzero(valid.any(dim=0))[-1:, 0].tolist()
    size = used[0] + 1 if used else 1
    return tuple(array[:, :size] for array in (valid, *arrays))


def fused_batch_norm(inputs, gamma, beta, epsilon):
    """Batch norm with batch statistics in one kernel, whose gradient keeps the inputs alone.

    Args:
        inputs: float (B, h, w, C). gamma, beta: float32 (C,). epsilon: added to the variance.

    Returns:
        outputs (B, h, w, C), mean float32 (C,), and unbiased variance float32 (C,).
    """
    gamma, beta = ops.convert_to_tensor(gamma), ops.convert_to_tensor(beta)
    mean, variance = torch.zeros_like(gamma), torch.zeros_like(gamma)
    channels_first = inputs.permute(0, 3, 1, 2)
    # A momentum of 1 replaces both arrays by the batch's statistics.
    outputs = functional.batch_norm(channels_first, mean, variance, gamma, beta, True, 1.0, epsilon)
    return outputs.permute(0, 2, 3, 1), mean, variance


def set_seed(seed):
    """Seed the generators of Python, numpy and PyTorch; Keras draws the seeds of layers from Python's."""
    runtime.set_seed(seed)
    torch.manual_seed(seed)


def devices():
    """Names of the devices that Keras may use on PyTorch, such as "cpu" or "cuda:0"; the first kind is the default."""
    kind = ops.convert_to_tensor(0.0).device.type
    count = getattr(torch, kind).device_count() if kind in ("cuda", "xpu") else 1
    return [kind] if count == 1 and kind != "cuda" else [f"{kind}:{index}" for index in range(count)]


def fast_bfloat16():
    """The GPU if it computes convolutions faster in bfloat16 than in float32, by name; else None.

    NVIDIA GPUs do from compute capability 8.0. On CPUs PyTorch was not measured to be faster.
    """
    fast = devices()[0].startswith("cuda") and has_bfloat16_cores(torch.cuda.get_device_capability())
    return torch.cuda.get_device_name() if fast else None


def batches_ahead():
    """None: each step fetches its own batch."""
    return 0
