"""The script of `before.py` on this package, with its dataset class.

    python after.py train balloon                              # from torchvision's COCO weights, downloaded once
    python after.py train balloon mask_rcnn_balloon_0030.h5    # from weights of the old script
    python after.py detect photo.jpg                           # writes found.png

The README beside this file compares the two.
"""

import sys

import keras
import numpy as np
from balloon_dataset import BalloonDataset
from PIL import Image

import keras_maskrcnn as km

CLASSES = ("balloon",)  # background is not counted


def read(folder, subset):
    """A part of the data: the old object, seen as a dataset of this package."""
    dataset = BalloonDataset()
    dataset.load_balloon(folder, subset)
    return km.data.from_matterport(dataset)


def make_model(weights):
    """A model for balloons.

    Args:
        weights: "coco", torchvision's COCO weights but for the last layers; or an .h5 file of the old script, whose
            arithmetic the model then has.
    """
    if weights == "coco":
        return km.maskrcnn_resnet50_fpn(1, weights="coco", class_names=CLASSES)
    model = km.MaskRCNN(km.MaskRCNNConfig.matterport("resnet101", num_classes=1, class_names=CLASSES))
    print(km.load_weights(model, weights))
    return model


def train(folder, weights="coco", run="run"):
    """Train all but the backbone, as `layers="heads"` did."""
    data, val = read(folder, "train"), read(folder, "val")
    model = make_model(weights)
    km.freeze(model, ["backbone"])
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9, global_clipnorm=5.0))
    loader = km.DataLoader(data, model.config, batch_size=2, shuffle=True, augmentation="flip")
    print(km.format_metrics(km.train_model(model, loader, val, run, epochs=30)))


def detect(photo, run="run"):
    """Draw the balloons of a photo. Returns them as `model.detect` did."""
    image = km.data.read_image(photo)
    found = km.Predictor(run, score_threshold=0.9)(image)
    Image.fromarray(km.draw_instances(image, found)).save("found.png")
    return as_before(found)


def as_before(found):
    """What `model.detect` returned for an image, for code that takes it.

    Args:
        found: FoundInstances.

    Returns:
        dict of rois int32 (n, [y1, x1, y2, x2]), class_ids int32 (n,) with background 0, scores float32 (n,) and masks
        bool (H, W, n).
    """
    return {
        "rois": np.rint(found.boxes[:, [1, 0, 3, 2]]).astype(np.int32),
        "class_ids": found.labels.astype(np.int32) + 1,
        "scores": found.scores,
        "masks": np.moveaxis(found.masks, 0, -1),
    }


if __name__ == "__main__":
    {"train": train, "detect": detect}[sys.argv[1]](*sys.argv[2:])
