"""The old script: balloons with matterport's Mask_RCNN, on TensorFlow 1.

    python before.py train balloon mask_rcnn_coco.h5
    python before.py detect photo.jpg logs/balloon/mask_rcnn_balloon_0030.h5

It is here to be compared with `after.py`.
"""

import json
import os
import sys

import numpy as np
import skimage.draw
import skimage.io
from mrcnn import model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config


class BalloonConfig(Config):
    """Two images a step, one class."""

    NAME = "balloon"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + 1  # background and balloon
    STEPS_PER_EPOCH = 100
    DETECTION_MIN_CONFIDENCE = 0.9


class InferenceConfig(BalloonConfig):
    """One image at a time."""

    GPU_COUNT = 1
    IMAGES_PER_GPU = 1


class BalloonDataset(utils.Dataset):
    """Photos with outlines of VGG Image Annotator 1."""

    def load_balloon(self, folder, subset):
        """Add the photos of a part that have outlines."""
        self.add_class("balloon", 1, "balloon")
        folder = os.path.join(folder, subset)
        with open(os.path.join(folder, "via_region_data.json")) as file:
            entries = json.load(file).values()
        for entry in entries:
            regions = entry["regions"]
            regions = list(regions.values()) if isinstance(regions, dict) else regions
            if not regions:
                continue
            path = os.path.join(folder, entry["filename"])
            height, width = skimage.io.imread(path).shape[:2]
            outlines = [region["shape_attributes"] for region in regions]
            self.add_image("balloon", entry["filename"], path, height=height, width=width, polygons=outlines)

    def load_mask(self, image_id):
        """Bool (H, W, N), and N class ids."""
        info = self.image_info[image_id]
        if info["source"] != "balloon":
            return super().load_mask(image_id)
        shape = info["height"], info["width"]
        masks = np.zeros((*shape, len(info["polygons"])), bool)
        for number, outline in enumerate(info["polygons"]):
            rows, columns = skimage.draw.polygon(outline["all_points_y"], outline["all_points_x"], shape)
            masks[rows, columns, number] = True
        return masks, np.ones(masks.shape[2], np.int32)

    def image_reference(self, image_id):
        """The photo's path."""
        return self.image_info[image_id]["path"]


def read(folder, subset):
    """A part of the data, prepared."""
    dataset = BalloonDataset()
    dataset.load_balloon(folder, subset)
    dataset.prepare()
    return dataset


def train(folder, weights):
    """Train the heads from COCO weights."""
    config = BalloonConfig()
    model = modellib.MaskRCNN(mode="training", config=config, model_dir="logs")
    last = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    model.load_weights(weights, by_name=True, exclude=last)
    model.train(
        read(folder, "train"), read(folder, "val"), learning_rate=config.LEARNING_RATE, epochs=30, layers="heads"
    )


def detect(photo, weights):
    """Draw the balloons of a photo."""
    model = modellib.MaskRCNN(mode="inference", config=InferenceConfig(), model_dir="logs")
    model.load_weights(weights, by_name=True)
    image = skimage.io.imread(photo)
    found = model.detect([image], verbose=1)[0]
    names = ["BG", "balloon"]
    visualize.display_instances(image, found["rois"], found["masks"], found["class_ids"], names, found["scores"])
    return found


if __name__ == "__main__":
    {"train": train, "detect": detect}[sys.argv[1]](*sys.argv[2:])
