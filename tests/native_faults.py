"""Run by test_native_faults.py in a process of its own: calls that must be refused, one line of JSON for each outcome.

A signal ends this process, not the tests, and the line before it names the case.
"""

import contextlib
import json
import sys

import numpy as np
from keras import ops as kops

import keras_maskrcnn as km
from keras_maskrcnn import backend

NAN, INF = float("nan"), float("inf")


def crop(shape=(1, 8, 8, 16), boxes=((0, 0, 8, 8),), images=(0,), bins=(2, 2), scale=1.0, ratio=2, **options):
    """`km.ops.roi_align` on ones."""
    boxes = np.array(boxes, "float32")
    return km.ops.roi_align(np.ones(shape, "float32"), boxes, np.array(images), bins, scale, ratio, **options)


def convolve(shape=(1, 8, 8, 16), kernel=(3, 3, 16, 16), bias=16, strides=1):
    """The convolution of the layers on ones."""
    maps = [kops.ones(shape)]
    bias = None if bias is None else kops.ones((bias,))
    return backend.convolve(maps, kops.ones(kernel), bias, strides, True)[0]


def suppress(boxes=((0, 0, 8, 8), (0, 0, 8, 7)), scores=(1.0, 0.5), **options):
    """`km.ops.non_max_suppression`."""
    return km.ops.non_max_suppression(np.array(boxes, "float32"), np.array(scores, "float32"), **options)


# Case -> (call, part of the message).
DOORS = {
    "map without rows": (lambda: crop((1, 0, 8, 16)), "(1, 0, 8, 16)"),
    "map without columns": (lambda: crop((1, 8, 0, 16)), "(1, 8, 0, 16)"),
    "map without channels": (lambda: crop((1, 8, 8, 0)), "(1, 8, 8, 0)"),
    "map without rows or boxes": (lambda: crop((1, 0, 8, 16), np.zeros((0, 4)), np.zeros(0, "int32")), "(1, 0, 8, 16)"),
    "map of three axes": (lambda: crop((8, 8, 16)), "(8, 8, 16)"),
    "boxes of five numbers": (lambda: crop(boxes=[[0, 0, 1, 1, 1]]), "(1, 5)"),
    "fewer images than boxes": (lambda: crop(boxes=np.zeros((3, 4))), "3 boxes and a box_batch of 1"),
    "image beyond the batch": (lambda: crop(images=[1]), "Received 1 at position 0"),
    "image far beyond": (lambda: crop(images=[2**31 - 1]), "Received 2147483647"),
    "image below zero": (lambda: crop(images=[-1]), "Received -1"),
    "image of an empty batch": (lambda: crop((0, 8, 8, 16)), "there are 0 images"),
    "no bins": (lambda: crop(bins=0), "Received 0"),
    "bins below zero": (lambda: crop(bins=(2, -2)), "Received (2, -2)"),
    "2^31 bins": (lambda: crop(bins=2**31), "Received 2147483648"),
    "2^31 - 1 bins in one axis": (lambda: crop(bins=(1, 2**31 - 1)), "2147483647"),
    "crops beyond an int32": (lambda: crop((1, 8, 8, 4096), bins=1024), "1024x1024 bins"),
    "2^31 points": (lambda: crop(ratio=2**31), "Received 2147483648"),
    "points below zero": (lambda: crop(ratio=-1), "Received -1"),
    "scale of zero": (lambda: crop(scale=0.0), "Received 0.0"),
    "scale that is NaN": (lambda: crop(scale=NAN), "Received nan"),
    "scale without end": (lambda: crop(scale=INF), "Received inf"),
    "scale of 1e30": (lambda: crop(scale=1e30, ratio=0), "Received 1e+30"),
    "no filters": (lambda: convolve(kernel=(3, 3, 16, 0), bias=0), "(3, 3, 16, 0)"),
    "no filters of one cell": (lambda: convolve(kernel=(1, 1, 16, 0), bias=None), "(1, 1, 16, 0)"),
    "no channels": (lambda: convolve((1, 8, 8, 0), (3, 3, 0, 16)), "(1, 8, 8, 0)"),
    "kernel of other channels": (lambda: convolve(kernel=(3, 3, 32, 16)), "(3, 3, 32, 16)"),
    "kernel of three axes": (lambda: convolve(kernel=(3, 16, 16)), "(3, 16, 16)"),
    "kernel of even side": (lambda: convolve(kernel=(2, 2, 16, 16)), "(2, 2, 16, 16)"),
    "bias of other filters": (lambda: convolve(bias=15), "(15,)"),
    "convolution without rows": (lambda: convolve((1, 0, 8, 16)), "(1, 0, 8, 16)"),
    "stride of zero": (lambda: convolve(strides=0), "Received 0"),
    "stride below zero": (lambda: convolve(strides=-2), "Received -2"),
    "stride of 2^31": (lambda: convolve(strides=2**31), "Received 2147483648"),
    "scores of other boxes": (lambda: suppress(scores=(1.0,)), "(1,)"),
    "classes of other boxes": (lambda: suppress(classes=np.zeros(3, "int32")), "(3,)"),
    "valid of other boxes": (lambda: suppress(valid=np.ones(5, bool)), "(5,)"),
    "class below zero": (lambda: suppress(classes=np.array([0, -1])), "Received -1"),
    "class of 2^31 - 1": (lambda: suppress(classes=np.array([0, 2**31 - 1])), "Received 2147483647"),
    "outputs below zero": (lambda: suppress(max_outputs=-1), "Received -1"),
    "2^40 outputs": (lambda: suppress(max_outputs=2**40), "Received 1099511627776"),
    "threshold that is NaN": (lambda: suppress(iou_threshold=NAN), "Received nan"),
}


def native_cases():
    """The operators themselves, called past the doors: TensorFlow only."""
    import tensorflow as tf

    from keras_maskrcnn.backend import native

    library = native.load()
    if library is None:
        return {}
    zeros, one = tf.zeros, tf.zeros(1, tf.int32)

    def align(maps=((1, 8, 8, 16),), frame=((0.0, 0.0, 4.0, 4.0),), images=one, levels=one, bins=(2, 2), ratio=2):
        attributes = {"bins_y": bins[0], "bins_x": bins[1], "ratio": ratio, "threads": 2}
        frame = tf.constant(frame, tf.float32)
        return library.keras_maskrcnn_roi_align([zeros(m) for m in maps], frame, images, levels, **attributes)

    def align_back(upstream=(1, 2, 2, 16), maps=((1, 8, 8, 16),), frame=((0.0, 0.0, 4.0, 4.0),), images=one):
        attributes = {"bins_y": 2, "bins_x": 2, "ratio": 2, "threads": 2}
        frame = tf.constant(frame, tf.float32)
        return library.keras_maskrcnn_roi_align_grad(
            zeros(upstream), [zeros(m) for m in maps], frame, images, one, **attributes
        )

    def conv(maps=((1, 8, 8, 16),), kernel=(3, 3, 16, 16), bias=16, stride=1, way=0, groups=1):
        options = {"stride": stride, "relu": 0, "threads": 2, "way": way, "groups": groups}
        return library.keras_maskrcnn_conv3x3([zeros(m) for m in maps], zeros(kernel), zeros(bias), **options)

    def back(maps=((1, 8, 8, 16),), kernel=(3, 3, 16, 16), way=0, groups=1):
        options = {"threads": 2, "way": way, "groups": groups}
        return library.keras_maskrcnn_conv3x3_back([zeros(m) for m in maps], zeros(kernel), **options)

    def kernel_grad(maps=((1, 8, 8, 16),), upstreams=((1, 8, 8, 16),), stride=1, way=0, groups=1):
        options = {"stride": stride, "threads": 2, "way": way, "groups": groups}
        maps, upstreams = [zeros(m) for m in maps], [zeros(m) for m in upstreams]
        return library.keras_maskrcnn_conv3x3_kernel_grad(maps, upstreams, **options)

    def add(maps=((1, 8, 8, 16),), cells=(1, 8, 8, 1), coarse=0):
        maps = [zeros(m) for m in maps]
        return library.keras_maskrcnn_add_maps(maps, zeros(cells), relu=1, coarse=coarse, threads=2)

    cases = {
        "add: no rows": (lambda: add([(1, 0, 8, 16)]), "(1, 0, 8, 16)"),
        "add: three maps": (lambda: add([(1, 8, 8, 16)] * 3), "Received 3"),
        "add: other channels": (lambda: add([(1, 8, 8, 16), (1, 8, 8, 1)]), "(1, 8, 8, 1)"),
        "add: other rows": (lambda: add([(1, 8, 8, 16), (1, 4, 8, 16)]), "(1, 4, 8, 16)"),
        "add: not half": (lambda: add([(1, 8, 8, 16), (1, 8, 8, 16)], coarse=1), "coarse=1"),
        "add: cells of other rows": (lambda: add(cells=(1, 7, 8, 1)), "(1, 7, 8, 1)"),
        "add: cells of channels": (lambda: add(cells=(1, 8, 8, 16)), "(1, 8, 8, 16)"),
        "add: rank": (lambda: add([(8, 8, 16)]), "(8, 8, 16)"),
        "add: rank of the cells": (lambda: add(cells=(8, 8, 1)), "(8, 8, 1)"),
        "align: no rows": (lambda: align([(1, 0, 8, 16)]), "(1, 0, 8, 16)"),
        "align: no channels": (lambda: align([(1, 8, 8, 0)]), "(1, 8, 8, 0)"),
        "align: rank": (lambda: align([(8, 8, 16)]), "(8, 8, 16)"),
        "align: other channels": (lambda: align([(1, 8, 8, 16), (1, 4, 4, 8)]), "(1, 4, 4, 8)"),
        "align: 2^31 - 1 bins": (lambda: align(bins=(2**31 - 1, 2**31 - 1)), "2147483647"),
        "align: 2^20 bins squared": (lambda: align(bins=(2**20, 2**20), ratio=1), "1048576x1048576"),
        "align: 2^31 - 1 points": (lambda: align(ratio=2**31 - 1), "2147483647"),
        "align: no bins": (lambda: align(bins=(0, 1)), "bins_y"),
        "align: NaN": (lambda: align(frame=[[NAN, 0, 1, 1]]), "nan"),
        "align: infinite": (lambda: align(frame=[[0, 0, INF, 1]]), "inf"),
        "align: frame of three": (lambda: align(frame=[[0.0, 0, 1]]), "(1, 3)"),
        "align: frame of one axis": (lambda: align(frame=[0.0, 0, 1, 1]), "(4)"),
        "align: more images": (lambda: align(images=tf.zeros(2, tf.int32)), "(2)"),
        "align: image": (lambda: align(images=tf.constant([7])), "image 7"),
        "align: level": (lambda: align(levels=tf.constant([-(2**31)])), "level -2147483648"),
        "align back: upstream": (lambda: align_back((1, 2, 3, 16)), "(1, 2, 3, 16)"),
        "align back: no rows": (lambda: align_back(maps=[(1, 0, 8, 16)]), "(1, 0, 8, 16)"),
        "align back: NaN": (lambda: align_back(frame=[[0, NAN, 1, 1]]), "nan"),
        "align back: image": (lambda: align_back(images=tf.constant([-1])), "image -1"),
        "conv: rank": (lambda: conv([(8, 8, 16)]), "(8, 8, 16)"),
        "conv: 15 channels": (lambda: conv([(1, 8, 8, 15)], (3, 3, 15, 16)), "(1, 8, 8, 15)"),
        "conv: kernel of 5x5": (lambda: conv(kernel=(5, 5, 16, 16)), "(5, 5, 16, 16)"),
        "conv: bias": (lambda: conv(bias=32), "(32)"),
        "conv: stride": (lambda: conv(stride=2**31 - 1), "2147483647"),
        "conv: no stride": (lambda: conv(stride=0), "stride"),
        "conv: no groups": (lambda: conv(groups=0), "groups"),
        "conv: groups of 8": (lambda: conv(kernel=(3, 3, 8, 16), groups=2), "in 2 groups"),
        "conv: groups of no channels": (lambda: conv(kernel=(3, 3, 0, 16), groups=2), "(3, 3, 0, 16)"),
        "conv: filters in 3 groups": (lambda: conv([(1, 8, 8, 48)], (3, 3, 16, 32), 32, groups=3), "(3, 3, 16, 32)"),
        "conv: 2^31 - 1 groups": (lambda: conv(groups=2**31 - 1), "2147483647 groups"),
        "conv back: groups of 8": (lambda: back(kernel=(3, 3, 8, 16), groups=2), "in 2 groups"),
        "gradient: 3 groups": (lambda: kernel_grad(groups=3), "3 groups"),
        "gradient: other size": (lambda: kernel_grad(upstreams=[(1, 7, 8, 16)]), "(1, 7, 8, 16)"),
        "gradient: no upstream filters": (lambda: kernel_grad(upstreams=[(1, 8, 8, 0)]), "(1, 8, 8, 0)"),
        "gradient: no rows": (lambda: kernel_grad([(1, 0, 8, 16)], [(1, 0, 8, 16)]), "(1, 0, 8, 16)"),
    }
    for way in (0, 1, 2):
        cases |= {
            f"conv {way}: no rows": (lambda way=way: conv([(1, 0, 8, 16)], way=way), "(1, 0, 8, 16)"),
            f"conv {way}: no filters": (lambda way=way: conv(kernel=(3, 3, 16, 0), bias=0, way=way), "(3, 3, 16, 0)"),
            f"conv {way}: no channels": (lambda way=way: conv([(1, 8, 8, 0)], (3, 3, 0, 16), way=way), "(1, 8, 8, 0)"),
            f"back {way}: no filters": (lambda way=way: back(kernel=(3, 3, 0, 16), way=way), "(3, 3, 0, 16)"),
        }
    return cases


def valid_cases():
    """Extremes that are no faults: their values, for the test to compare."""
    far = crop(boxes=[[-1e30, -1e30, 1e30, 1e30]], bins=1, scale=1000.0, ratio=0)
    wild = crop(boxes=[[NAN, -INF, INF, 8]], bins=1)
    empty = crop((0, 8, 8, 16), np.zeros((0, 4)), np.zeros(0, "int32"))
    none = convolve((0, 8, 8, 16))
    return {
        "far": float(kops.max(far)),
        "wild": bool(np.isfinite(kops.convert_to_numpy(wild)).all()),
        "empty": list(empty.shape),
        "no images": list(none.shape),
    }


def report(**values):
    """One line, at once."""
    print(json.dumps(values), flush=True)


def main():
    """Run every case on the paths of the arguments: native, stock, jax."""
    for path in sys.argv[1:]:
        report(path=path)
        with backend.stock_operators() if path == "stock" else contextlib.nullcontext():
            run(DOORS | (native_cases() if path == "native" else {}))


def run(cases):
    """Report what each case gives, and the values of those that are no faults."""
    for name, (call, _) in cases.items():
        report(begins=name)
        try:
            found = call()
            report(case=name, error=None, message=f"returned {getattr(found, 'shape', found)}")
        except Exception as error:
            report(case=name, error=[kind.__name__ for kind in type(error).__mro__], message=str(error))
    report(begins="valid")
    report(valid=valid_cases())


if __name__ == "__main__":
    main()
