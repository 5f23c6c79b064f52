"""Operators with backend-specific versions, chosen by `keras.backend.backend()`.

`generic` is the reference in `keras.ops` and runs on every backend. Other modules contain only
operators that were measured to be faster. `ops.py`, `roi_align.py` and the stages import from here.
"""

import contextlib

import keras

from keras_maskrcnn.backend import checks, distribution, generic, runtime

chosen_runtime = runtime
chosen_distribution = distribution
if keras.backend.backend() == "tensorflow":
    from keras_maskrcnn.backend import distribution_tensorflow as chosen_distribution
    from keras_maskrcnn.backend import runtime_tensorflow as chosen_runtime
    from keras_maskrcnn.backend import tensorflow as chosen
elif keras.backend.backend() == "jax":
    from keras_maskrcnn.backend import jax as chosen
elif keras.backend.backend() == "torch":
    from keras_maskrcnn.backend import runtime_torch as chosen_runtime
    from keras_maskrcnn.backend import torch as chosen
else:
    chosen = generic

convolve = getattr(chosen, "convolve", generic.convolve)
known_values = getattr(chosen, "known_values", generic.known_values)
part_by_part = getattr(chosen, "part_by_part", generic.part_by_part)
apply_relu = getattr(chosen, "apply_relu", generic.apply_relu)
initial_values = getattr(chosen, "initial_values", keras.initializers.get)
multilevel_roi_align = chosen.multilevel_roi_align
trainable_multilevel_roi_align = chosen.trainable_multilevel_roi_align
non_max_suppression = chosen.non_max_suppression
non_max_suppression_by_level = chosen.non_max_suppression_by_level

SUPPORTS_JIT = chosen_runtime.SUPPORTS_JIT
COMPILES = chosen_runtime.COMPILES
ENDS_WITH_DATA = chosen_runtime.ENDS_WITH_DATA
HAS_FUSED_BATCH_NORM = chosen_runtime.HAS_FUSED_BATCH_NORM
FOLDS_NORMS = chosen_runtime.FOLDS_NORMS
fused_batch_norm = getattr(chosen_runtime, "fused_batch_norm", None)
shape = chosen_runtime.shape
smaller = chosen_runtime.smaller
gather_each = chosen_runtime.gather_each
take_rows = chosen_runtime.take_rows
add_upsampled = chosen_runtime.add_upsampled
keep_cells = chosen_runtime.keep_cells
trim_to_valid = chosen_runtime.trim_to_valid
pad_columns = chosen_runtime.pad_columns
pad_to_multiple = chosen_runtime.pad_to_multiple
scale_loss = chosen_runtime.scale_loss
share_of_count = chosen_runtime.share_of_count
devices = chosen_runtime.devices
CAN_SHARE_UNEVENLY = chosen_distribution.CAN_SHARE_UNEVENLY
connect = chosen_distribution.connect
leave = chosen_distribution.leave
is_loss = chosen_distribution.is_loss
own_devices = chosen_distribution.own_devices
spread = chosen_distribution.spread
team_of = chosen_distribution.team_of
local_prediction = chosen_distribution.local_prediction
prepare_optimizer = chosen_distribution.prepare_optimizer
uses_average = distribution.uses_average
logs_of_replica = chosen_distribution.logs_of_replica
set_seed = chosen_runtime.set_seed
keep_compiled = getattr(chosen, "keep_compiled", runtime.keep_compiled)
batches_ahead = chosen_runtime.batches_ahead
fast_bfloat16 = chosen_runtime.fast_bfloat16
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
