"""A model that gives known detections and a dataset in memory: what evaluation and prediction are tested on."""

import threading
import types

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig


def small_config(num_classes=1, **overrides):
    """A config whose network frame is the image frame."""
    return MaskRCNNConfig(
        **{"num_classes": num_classes, "backbone": "resnet18", "norm": "batch", "image_scale": 1.0} | overrides
    )


class KnownModel:
    """Answers each batch of one image with the next of its answers, padded to `max_detections` rows.

    Args:
        config: MaskRCNNConfig.
        answers: list of (boxes (n, 4) network pixels, scores (n,), labels (n,)), masks fill their boxes.
    """

    def __init__(self, config, answers):
        self.config = config
        self.answers = list(answers)
        self.batches = []
        self.stop_training = False

    def predict_on_batch(self, batch):
        boxes, scores, labels = self.answers[len(self.batches)]
        self.batches.append(batch)
        rows, count = self.config.max_detections, len(boxes)
        out = {
            "boxes": np.zeros((1, rows, 4), np.float32),
            "scores": np.zeros((1, rows), np.float32),
            "labels": np.zeros((1, rows), np.int32),
            "masks": np.zeros((1, rows, 28, 28), np.float32),
            "valid": np.zeros((1, rows), bool),
        }
        out["boxes"][0, :count] = np.reshape(boxes, (-1, 4))
        out["scores"][0, :count] = scores
        out["labels"][0, :count] = labels
        out["masks"][0, :count] = 1.0
        out["valid"][0, :count] = True
        return out


class ColourModel:
    """Finds one box in each image of a batch, with size, score and label as the colour of its first pixel says.

    Args:
        config: MaskRCNNConfig. free: whether its backbone says that the padding does not show.
    """

    def __init__(self, config, free=False):
        self.config = config
        self.backbone = types.SimpleNamespace(masks_padding=free)
        self.batches, self.threads = [], set()

    def predict_on_batch(self, batch):
        self.batches.append((batch["images"].shape, batch["image_sizes"].tolist()))
        self.threads.add(threading.get_ident())
        count, rows = len(batch["images"]), self.config.max_detections
        shapes = {"boxes": (4,), "scores": (), "labels": (), "valid": (), "masks": (28, 28)}
        out = {name: np.zeros((count, rows, *shape), np.float32) for name, shape in shapes.items()}
        out["labels"], out["masks"] = out["labels"].astype(np.int32), out["masks"] + 1
        for row, (height, width) in enumerate(batch["image_sizes"]):
            colour = int(batch["images"][row, 0, 0, 0])
            out["boxes"][row, 0] = 0, 0, min(width, 1 + colour % 30), min(height, 1 + colour % 23)
            out["scores"][row, 0] = 0.5 + colour / 1000
            out["labels"][row, 0] = colour % 3
            out["valid"][row, 0] = True
        return out


class KnownDataset:
    """A dataset of black images and rectangles.

    Args:
        boxes: for each image a list of (x1, y1, x2, y2, label).
        size: (height, width) of every image.
        category_ids: dataset ids of labels 0..K-1.
        crowd: set of (image index, object index) that are crowds.
    """

    def __init__(self, boxes, size=(200, 200), category_ids=(1,), crowd=()):
        self.boxes = boxes
        self.size = size
        self.category_ids = tuple(category_ids)
        self.class_names = tuple(f"kind {c}" for c in category_ids)
        self.image_ids = [100 + i for i in range(len(boxes))]
        self.crowd = set(crowd)

    def __len__(self):
        return len(self.boxes)

    def load_image(self, index, channels=3, dtype="uint8"):
        return np.zeros((*self.size, channels), dtype)

    def to_coco(self):
        annotations = []
        for i, objects in enumerate(self.boxes):
            for j, (x1, y1, x2, y2, label) in enumerate(objects):
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": self.image_ids[i],
                        "category_id": self.category_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int((i, j) in self.crowd),
                        "segmentation": rectangle_rle((x1, y1, x2, y2), self.size),
                    }
                )
        return {
            "images": [{"id": i, "height": self.size[0], "width": self.size[1]} for i in self.image_ids],
            "annotations": annotations,
            "categories": [{"id": c, "name": n} for c, n in zip(self.category_ids, self.class_names, strict=True)],
        }


def rectangle_rle(box, size):
    """Uncompressed COCO run lengths of a rectangle with whole-pixel corners."""
    mask = np.zeros(size, np.int8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(size), "counts": [int(c) for c in counts]}


def answers_from(dataset, change=lambda box: box, score=0.9):
    """What a model says that finds every object of a dataset, its boxes changed by a function."""
    return [
        (
            [change(o[:4]) for o in objects],
            [score - 0.001 * j for j in range(len(objects))],
            [o[4] for o in objects],
        )
        for objects in dataset.boxes
    ]
