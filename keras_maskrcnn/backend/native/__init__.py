"""Native operators: C++ for TensorFlow on CPUs, built at installation if there is a compiler.

They are in `roi_align.cc`, `convolution.cc` and `add_maps.cc`; `load` loads them once. Without them, on a GPU, during
export and with `KERAS_MASKRCNN_NATIVE=0`, the stock operators of `backend/tensorflow.py` compute the same.
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
        if hasattr(library, "keras_maskrcnn_add_maps"):  # the newest
            return library
        warnings.warn(
            f"The native operators {path.name} do not find TensorFlow's C API, or are of an older version of this "
            "package. Stock operators run instead."
        )
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


def on_gpu(tensor):
    """Whether operators on a tensor will run on a GPU, as far as is known during tracing."""
    if tensor.device:
        return "GPU" in tensor.device
    return bool(tf.config.list_logical_devices("GPU"))


def adds_maps(maps):
    """Whether `add_maps` takes these maps: on a CPU, in float32 or bfloat16."""
    return maps[0].dtype in (tf.float32, tf.bfloat16) and not on_gpu(maps[0]) and is_used()


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


def convolve(maps, kernel, bias, strides, relu, groups=1, forward_by=None):
    """Native 3x3 convolution with one cell of zero padding, bias and optional ReLU, with a native gradient.

    Args:
        maps: list of L maps (B, H_l, W_l, C), float32.
        kernel: float32 (3, 3, C / groups, K).
        bias: float32 (K,).
        strides: int; outputs are H / strides, rounded up.
        relu: whether ReLU follows.
        groups: K / groups filters read C / groups channels each, in order. Both numbers are multiples of 16.
        forward_by: function of (map, kernel, bias) that computes a result in another way; the gradient stays native.

    Returns:
        list of L maps (B, h_l, w_l, K), float32.
    """
    library, own = load(), {"groups": groups, "threads": num_threads()}

    @tf.custom_gradient
    def forward(kernel, bias, *maps):
        if forward_by is None:
            outputs = library.keras_maskrcnn_conv3x3(maps, kernel, bias, stride=strides, relu=int(relu), **own)
        else:
            outputs = [forward_by(level, kernel, bias) for level in maps]
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


def add_maps(maps, cells=None, relu=False, coarse=False):
    """The sum of maps, with optional ReLU and zeros in the padding, in one pass over memory.

    Args:
        maps: list of one or two maps (B, H, W, C), float32 or bfloat16.
        cells: (B, H, W, 1), 1 or 0, the dtype of the maps; None: all are 1.
        relu: whether ReLU follows.
        coarse: whether the second map has half the rows and columns, and each of its cells counts four times.

    Returns:
        (B, H, W, C), the dtype of the maps.
    """
    cells = tf.zeros((0, 0, 0, 1), maps[0].dtype) if cells is None else cells
    options = {"relu": int(relu), "coarse": int(coarse), "threads": num_threads()}
    return tf.ensure_shape(load().keras_maskrcnn_add_maps(maps, cells, **options), maps[0].shape)


@tf.RegisterGradient("KerasMaskrcnnAddMaps")
def _gradient_of_sum(operator, upstream):
    """Registered, not `tf.custom_gradient`, whose identities would keep the maps, so that none could take the sum."""
    *maps, cells = operator.inputs
    if operator.get_attr("relu"):
        upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=operator.outputs[0])
    elif cells.shape[0] != 0:
        upstream = upstream * cells
    shares = [upstream] * len(maps)
    if operator.get_attr("coarse"):
        shares[1] = tf.raw_ops.ResizeNearestNeighborGrad(grads=upstream, size=tf.shape(maps[1])[1:3])
    return *shares, None


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
