"""The native RoIAlign: a C++ operator for TensorFlow on CPUs, built with the package where there is a compiler.

`roi_align.cc` holds it; `load` finds and loads it once. Without it, on a GPU, while a model is exported, and with
`KERAS_MASKRCNN_NATIVE=0` the stock operators of `backend/tensorflow.py` compute the same.
"""

import contextlib
import functools
import os
import pathlib
import warnings

import tensorflow as tf

SWITCH = "KERAS_MASKRCNN_NATIVE"  # environment: 0 turns the native operator off
_stock_only = False


@functools.cache
def load():
    """The module of native operators, or None where there are none.

    A library that is there and does not load is worth a warning; one that was never built is not.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return None
    for path in sorted(pathlib.Path(__file__).parent.glob("_roi_align*")):
        try:
            library = tf.load_op_library(str(path))
        except (tf.errors.OpError, OSError) as error:
            warnings.warn(f"The native RoIAlign {path.name} does not load: {error}. Stock operators run instead.")
            continue
        if hasattr(library, "keras_maskrcnn_roi_align"):
            return library
        warnings.warn(f"The native RoIAlign {path.name} does not find TensorFlow's C API. Stock operators run instead.")
    return None


@contextlib.contextmanager
def stock_operators():
    """Inside this, graphs are traced without native operators: an export runs where this package is not."""
    global _stock_only
    before, _stock_only = _stock_only, True
    try:
        yield
    finally:
        _stock_only = before


def is_used():
    """Whether RoIAlign on a CPU runs natively here and now."""
    return not _stock_only and load() is not None


def num_threads():
    """The threads TensorFlow was told to use within an operator; all cores of this process if it was not told."""
    told = tf.config.threading.get_intra_op_parallelism_threads()
    return told or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def crop(pyramid, frame, box_batch, levels, bins, ratio):
    """Average the points of each bin, natively, with a native gradient.

    Args:
        pyramid: list of L maps (B, H_l, W_l, C), float32 or bfloat16.
        frame: float32 (R, [y, x, height, width]), cells of the box's level.
        box_batch: int32 (R,), the image of each box.
        levels: int32 (R,), the map of each box.
        bins: (h, w).
        ratio: points in a bin and axis; 0: one a cell.

    Returns:
        (R, h, w, C), the dtype of the maps.
    """
    library, frame = load(), tf.stop_gradient(frame)
    attributes = {"bins_y": bins[0], "bins_x": bins[1], "ratio": ratio, "threads": num_threads()}

    @tf.custom_gradient
    def forward(*maps):
        crops = library.keras_maskrcnn_roi_align(maps, frame, box_batch, levels, **attributes)
        crops = tf.ensure_shape(crops, (frame.shape[0], *bins, maps[0].shape[-1]))

        def gradient(upstream):
            shares = library.keras_maskrcnn_roi_align_grad(upstream, maps, frame, box_batch, levels, **attributes)
            return [tf.ensure_shape(share, level.shape) for share, level in zip(shares, maps, strict=True)]

        return crops, gradient

    return forward(*pyramid)
