"""Train the branch of orientation.py on generated arrows: python samples/new_branch/train.py --epochs 12."""

import argparse
import dataclasses
import math

import keras
import numpy as np
from orientation import Orientation
from PIL import Image, ImageDraw

import keras_maskrcnn as km
from keras_maskrcnn.cli.demo import shapes_config

SIDE = 96  # pixels of an image
BODY = np.array([(-14, -4), (2, -4), (2, -10), (15, 0), (2, 10), (2, 4), (-14, 4)])  # an arrow to the right


def arrows(count, seed):
    """Images of one or two arrows each, as a dataset whose annotations have a direction."""
    rng = np.random.default_rng(seed)
    images, masks, attributes = [], [], []
    for _ in range(count):
        image = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8))
        masks.append([])
        attributes.append([])
        for x in (26, 70)[: rng.integers(1, 3)]:
            angle, color = rng.uniform(0, 2 * math.pi), tuple(rng.integers(120, 256, 3).tolist())
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            corners = [tuple(corner) for corner in BODY @ turn.T + (x, rng.uniform(22, 74))]
            ImageDraw.Draw(image).polygon(corners, fill=color)
            mask = Image.new("1", (SIDE, SIDE))
            ImageDraw.Draw(mask).polygon(corners, fill=1)
            masks[-1].append(np.array(mask))
            attributes[-1].append({"direction": turn[:, 0].tolist()})
        images.append(np.array(image))
    return km.data.ArrayDataset(images, masks, class_names=["arrow"], attributes=attributes)


def angle_errors(model, dataset):
    """Degrees between the predicted and the annotated direction, of each object that the predictor finds."""
    predictor, errors = km.Predictor(model, score_threshold=0.5), []
    for record, image in ((dataset[i], dataset.load_image(i)) for i in range(len(dataset))):
        found = predictor(image)
        boxes = np.array([instance.box for instance in record.instances])
        overlaps = np.array(km.ops.pairwise_iou(boxes, found.boxes)).reshape(len(boxes), len(found))
        for k, instance in enumerate(record.instances):
            if overlaps[k].max(initial=0) >= 0.5:
                cosine = found.orientation[overlaps[k].argmax()] @ instance.attributes["direction"]
                errors.append(math.degrees(math.acos(float(np.clip(cosine, -1, 1)))))
    return errors


def main():
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", default="orientation.png")
    options = parser.parse_args()
    train, val = arrows(options.images, 1), arrows(20, 2)
    config = dataclasses.replace(
        shapes_config(), num_classes=1, class_names=["arrow"], category_ids=None, branches=("mask", Orientation())
    )
    loader = km.DataLoader(train, config, 8, shuffle=True, augmentation=[km.data.RandomFlip(True, True)])
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=5.0))
    model.fit(loader, epochs=options.epochs, shuffle=False)
    errors = angle_errors(model, val)
    objects = sum(len(record.instances) for record in val.records)
    print(f"found {len(errors)} of {objects} arrows; median error {np.median(errors or [np.nan]):.1f} degrees")
    image = val.load_image(0)
    picture = km.draw_instances(image, km.Predictor(model, 0.5)(image), enlarge=4)
    Image.fromarray(picture).save(options.output)


if __name__ == "__main__":
    main()
