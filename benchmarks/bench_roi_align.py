"""RoIAlign, forward and gradient, against torchvision's operator.

    python benchmarks/bench_roi_align.py --torch-python VENV/bin/python

Gradients are timed alone: TensorFlow removes the forward pass from a graph that does not use the crops, and
torchvision's forward pass runs before the timing.
"""

import numpy as np
from pairs import main

STRIDES = (4, 8, 16, 32)


def case(kind, count, size, levels=1, image=(800, 1056), channels=256, path="native", ratio=2, sides=(16, 400)):
    """A JSON-ready case; one level is P2; `sides` of the boxes in pixels."""
    return {
        "kind": kind, "count": count, "size": size, "levels": levels, "image": image, "channels": channels,
        "path": path, "ratio": ratio, "sides": sides
    }  # fmt: skip


CASES = {}
for path in ("native", "stock"):
    for count, size, levels in ((1000, 7, 1), (100, 14, 1), (1000, 14, 1), (1000, 7, 4)):
        for kind in ("forward", "gradient"):
            where = "P2" if levels == 1 else "P2..P5"
            name = f"{path} {kind}, {count} of {size}x{size} from {where}"
            CASES[name] = case(kind, count, size, levels, path=path)
    # Boxes of more than one and less than two cells a bin: with one point per cell (ratio 0) they have as many as with
    # ratio 2.
    for count, size, kind in ((1000, 7, "forward"), (1000, 7, "gradient"), (100, 14, "forward"), (100, 14, "gradient")):
        for ratio in (2, 0):
            name = f"{path} {kind}, {count} of {size}x{size}, equal points, ratio {ratio}"
            CASES[name] = case(kind, count, size, path=path, ratio=ratio, sides=(4.1 * size, 7.9 * size))


def make_inputs(case):
    """Maps (1, H, W, C), boxes in image pixels, the level of each, upstream (R, h, w, C)."""
    rng = np.random.default_rng(0)
    height, width = case["image"]
    maps = [
        rng.standard_normal((1, height // s, width // s, case["channels"]), dtype="float32")
        for s in STRIDES[: case["levels"]]
    ]
    sizes = np.exp(rng.uniform(*np.log(case["sides"]), (case["count"], 2)))
    centres = rng.uniform(0, 1, (case["count"], 2)) * [width, height]
    if case["ratio"] == 0 or max(case["sides"]) < 200:  # whole boxes, so that all have the same number of points
        centres = sizes / 2 + centres * (1 - sizes / [width, height])
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    boxes = boxes.clip(0, [width, height, width, height]).astype("float32")
    levels = np.floor(4 + np.log2(np.sqrt(sizes.prod(axis=1)) / 224)).clip(2, 1 + case["levels"]).astype("int32") - 2
    upstream = rng.standard_normal((case["count"], case["size"], case["size"], case["channels"]), dtype="float32")
    return maps, boxes, levels, upstream


def ours(case):
    """Our operator in a graph, as a model runs it."""
    import contextlib

    import tensorflow as tf

    from keras_maskrcnn import backend

    maps, boxes, levels, upstream = make_inputs(case)
    maps, boxes, levels, upstream = [tf.constant(m) for m in maps], *map(tf.constant, (boxes, levels, upstream))
    scales = tuple(1 / s for s in STRIDES[: case["levels"]])
    size = (case["size"], case["size"])

    def crop(maps):
        images = tf.zeros_like(levels)
        # As in the layer: the stock path has one form for inference and one for training.
        align = backend.multilevel_roi_align if case["kind"] == "forward" else backend.trainable_multilevel_roi_align
        return align(maps, boxes, images, levels, scales, size, case["ratio"], False, "average")

    if case["kind"] == "forward":
        function = tf.function(lambda: crop(maps), autograph=False)
    else:
        # Work that depends only on the boxes (the sparse matrix of the stock path) counts as part of the gradient.
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch(maps)
                crops = crop(maps)
            return tape.gradient(crops, maps, upstream)

        function = tf.function(gradient, autograph=False)
    with backend.stock_operators() if case["path"] == "stock" else contextlib.nullcontext():
        function()
    return function


def theirs(case):
    """torchvision.ops.roi_align, level by level as MultiScaleRoIAlign calls it."""
    import torch
    from torchvision.ops import roi_align

    maps, boxes, levels, upstream = make_inputs(case)
    needs = case["kind"] == "gradient"
    maps = [torch.from_numpy(m.transpose(0, 3, 1, 2).copy()).requires_grad_(needs) for m in maps]
    rois = torch.from_numpy(np.hstack([np.zeros((len(boxes), 1), "float32"), boxes]))
    rows = [torch.from_numpy(np.flatnonzero(levels == level)) for level in range(len(maps))]
    upstream = torch.from_numpy(upstream.transpose(0, 3, 1, 2).copy())

    def crop():
        return [
            roi_align(m, rois[r], case["size"], 1 / s, case["ratio"], False)
            for m, r, s in zip(maps, rows, STRIDES, strict=False)
        ]

    if not needs:

        def forward():
            with torch.no_grad():
                crop()

        return forward
    crops = crop()
    shares = [upstream[r] for r in rows]
    return lambda: torch.autograd.grad(crops, maps, shares, retain_graph=True)


if __name__ == "__main__":
    main(__file__, CASES, ours, theirs, __doc__)
