"""Native operators: C++ for TensorFlow on CPUs, built at installation if there is a compiler.

They are in `roi_align.cc` and `convolution.cc`; `load` loads them once. Without them, on a GPU, during export and with
`KERAS_MASKRCNN_NATIVE=0`, the stock operators of `backend/tensorflow.py` compute the same.
"""

import contextlib
import functools
import os
import pathlib
import warnings

import tensorflow as tf

SWITCH = "KERAS_MASKRCNN_NATIVE"  # environment variable: 0 turns native operators off
_stock_only = False


@functools.cache
def load():
    """The module of native operators, or None if there is none.

    Warns if a library exists but does not load. Does not warn if it was never built.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return None
    for path in sorted(pathlib.Path(__file__).parent.glob("_operators*")):
        try:
            library = tf.load_op_library(str(path))
        except (tf.errors.OpError, OSError) as error:
            warnings.warn(f"The native operators {path.name} cannot be loaded: {error}. Stock operators run instead.")
            continue
        if hasattr(library, "keras_maskrcnn_roi_align"):
            return library
        warnings.warn(f"The native operators {path.name} do not find TensorFlow's C API. Stock operators run instead.")
    return None


@contextlib.contextmanager
def stock_operators():
    """Context in which graphs are traced without native operators, for exports that run without this package."""
    global _stock_only
    before, _stock_only = _stock_only, True
    try:
        yield
    finally:
        _stock_only = before


def is_used():
    """Whether CPU operators currently run natively."""
    return not _stock_only and load() is not None


def num_threads():
    """TensorFlow's configured threads per operator; if not configured, all cores of this process."""
    told = tf.config.threading.get_intra_op_parallelism_threads()
    return told or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def crop(pyramid, frame, box_batch, levels, bins, ratio):
    """Native RoIAlign: average the points of each bin, with a native gradient.

    Args:
        pyramid: list of L maps (B, H_l, W_l, C), float32 or bfloat16.
        frame: float32 (R, [y, x, height, width]), cells of the box's level.
        box_batch: int32 (R,), the image of each box.
        levels: int32 (R,), the map of each box.
        bins: (h, w).
        ratio: points per bin and axis; 0: one per cell.

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


def convolve(maps, kernel, bias, strides, relu, groups=1):
    """Native 3x3 convolution with one cell of zero padding, bias and optional ReLU, with a native gradient.

    Args:
        maps: list of L maps (B, H_l, W_l, C), float32.
        kernel: float32 (3, 3, C / groups, K).
        bias: float32 (K,).
        strides: int; outputs are H / strides, rounded up.
        relu: whether ReLU follows.
        groups: K / groups filters read C / groups channels each, in order. Both numbers are multiples of 16.

    Returns:
        list of L maps (B, h_l, w_l, K), float32.
    """
    library, own = load(), {"groups": groups, "threads": num_threads()}

    @tf.custom_gradient
    def forward(kernel, bias, *maps):
        outputs = library.keras_maskrcnn_conv3x3(maps, kernel, bias, stride=strides, relu=int(relu), **own)
        outputs = [_with_shape(output, level, kernel, strides) for output, level in zip(outputs, maps, strict=True)]

        def gradient(*upstreams):
            if relu:
                upstreams = [tf.raw_ops.ReluGrad(gradients=u, features=o) for u, o in zip(upstreams, outputs)]
            of_kernel = library.keras_maskrcnn_conv3x3_kernel_grad(maps, upstreams, stride=strides, **own)
            of_bias = tf.add_n([tf.reduce_sum(upstream, axis=(0, 1, 2)) for upstream in upstreams])
            apart = [_spread_cells(upstream, level, strides) for upstream, level in zip(upstreams, maps, strict=True)]
            of_maps = library.keras_maskrcnn_conv3x3_back(apart, kernel, **own)
            of_maps = [tf.ensure_shape(each, level.shape) for each, level in zip(of_maps, maps, strict=True)]
            return tf.ensure_shape(of_kernel, kernel.shape), of_bias, *of_maps

        return outputs, gradient

    return forward(kernel, bias, *maps)


def _with_shape(output, level, kernel, strides):
    """Set the parts of a convolution's shape that are known during tracing."""
    sides = [None if side is None else -(-side // strides) for side in level.shape[1:3]]
    return tf.ensure_shape(output, (level.shape[0], *sides, kernel.shape[-1]))


def _spread_cells(upstream, level, strides):
    """Place upstream cells at the kernel centres in the input map, with zeros between them."""
    if strides == 1:
        return upstream
    batch, height, width, filters = tf.unstack(tf.shape(upstream))
    apart = tf.pad(upstream[:, :, None, :, None], [[0, 0], [0, 0], [0, strides - 1], [0, 0], [0, strides - 1], [0, 0]])
    apart = tf.reshape(apart, (batch, height * strides, width * strides, filters))
    return apart[:, : tf.shape(level)[1], : tf.shape(level)[2]]
