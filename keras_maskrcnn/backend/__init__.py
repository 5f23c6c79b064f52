"""Operators with backend-specific versions, chosen by `keras.backend.backend()`.

`generic` is the reference in `keras.ops` and runs on every backend. Other modules contain only
operators that were measured to be faster. `ops.py`, `roi_align.py` and the stages import from here.
"""

import contextlib

import keras
from keras import ops

from keras_maskrcnn.backend import checks, generic, runtime

if keras.backend.backend() == "tensorflow":
    from keras_maskrcnn.backend import runtime_tensorflow as runtime
    from keras_maskrcnn.backend import tensorflow as chosen
elif keras.backend.backend() == "jax":
    from keras_maskrcnn.backend import jax as chosen
else:
    chosen = generic

convolve = getattr(chosen, "convolve", generic.convolve)
known_values = getattr(chosen, "known_values", generic.known_values)
apply_relu = getattr(chosen, "apply_relu", ops.relu)
multilevel_roi_align = chosen.multilevel_roi_align
trainable_multilevel_roi_align = chosen.trainable_multilevel_roi_align
non_max_suppression = chosen.non_max_suppression
non_max_suppression_by_level = chosen.non_max_suppression_by_level

SUPPORTS_JIT = runtime.SUPPORTS_JIT
HAS_FUSED_BATCH_NORM = runtime.HAS_FUSED_BATCH_NORM
FOLDS_NORMS = runtime.FOLDS_NORMS
fused_batch_norm = getattr(runtime, "fused_batch_norm", None)
smaller = runtime.smaller
gather_each = runtime.gather_each
upsample_twice = runtime.upsample_twice
trim_to_valid = runtime.trim_to_valid
pad_columns = runtime.pad_columns
pad_to_multiple = runtime.pad_to_multiple
scale_loss = runtime.scale_loss
devices = runtime.devices
batches_ahead = runtime.batches_ahead
operators = chosen.operators
stock_operators = getattr(chosen, "stock_operators", contextlib.nullcontext)
portable_operators = getattr(chosen, "portable_operators", contextlib.nullcontext)

__all__ = [
    "checks",
    "convolve",
    "generic",
    "known_values",
    "multilevel_roi_align",
    "non_max_suppression",
    "trainable_multilevel_roi_align",
]
