"""One training step of R50-FPN (forward, losses, gradient, SGD) against torchvision with the same weights and data.

python benchmarks/bench_training.py --torch-python VENV/bin/python

The last case has ResNeXt-50 32x4d in its place: grouped convolutions, for which TensorFlow has no gradient on CPUs.
"""

import sys

import numpy as np
import twins
from pairs import main

OBJECTS = 8  # an image
CASES = {
    f"step, {batch} of 800x1056, {'stem and stage 1 frozen' if layers == 3 else 'all layers'}": {
        "batch": batch, "image": (800, 1056), "layers": layers, "backbone": "resnet50"
    }
    for batch, layers in ((1, 3), (2, 3), (1, 5))
}  # fmt: skip
CASES["step, 1 of 800x1056, ResNeXt, all layers"] = {
    "batch": 1, "image": (800, 1056), "layers": 5, "backbone": twins.RESNEXT
}  # fmt: skip


def ours_batch(count, height, width):
    """A batch with masks of 112x112 cells in the frame of their boxes."""
    from keras_maskrcnn.geometry.mask_samples import sample_masks

    boxes, labels, masks = twins.make_truth(count, height, width, OBJECTS)
    windows = np.tile(np.array([0, 0, width, height], "float32"), (count, OBJECTS, 1))
    rows = np.tile(np.arange(OBJECTS), (count, 1))
    cells = np.asarray(sample_masks(masks.astype("float32"), windows, rows, boxes, 112))
    return {
        "images": twins.make_images(count, height, width),
        "image_sizes": np.tile(np.array([height, width], "int32"), (count, 1)),
        "gt_boxes": boxes,
        "gt_labels": (labels - 1).astype("int32"),
        "gt_masks": (cells >= 0.5).astype("uint8"),
        "gt_valid": np.ones((count, OBJECTS), bool),
    }


def ours(case):
    """`train_on_batch`."""
    import keras

    batch = ours_batch(case["batch"], *case["image"])
    model = twins.our_model(case["backbone"], image_scale=1.0, trainable_layers=case["layers"])
    model.compile(keras.optimizers.SGD(1e-6, momentum=0.9))
    return lambda: model.train_on_batch(batch)


def theirs(case):
    """A step of torchvision's reference script."""
    return twins.their_step(case["batch"], *case["image"], OBJECTS, case["layers"], backbone=case["backbone"])


if __name__ == "__main__":
    if "--worker" not in sys.argv:
        twins.write_state()
    main(__file__, CASES, ours, theirs, __doc__)
