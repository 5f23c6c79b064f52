"""Draws ground truth beside a model's detections, for a few images of a dataset.

In: a model and a dataset. Out: uint8 RGB in image pixels, or PNG files. Called by `train_model` at the end of training,
and by the TensorBoard callback during it.
"""

import pathlib

import numpy as np
from PIL import Image

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.inference.visualize import beside, draw_ground_truth, draw_instances

OVERLAY_SCORE = 0.5  # detections below it are not drawn
OVERLAY_SIDE = 512  # pixels; smaller images are enlarged by a whole factor to at most this side
CAPTIONED = 20  # on images with more instances, names and boxes would hide the objects and are left out


def draw_overlays(model, dataset, directory, count, score_threshold=OVERLAY_SCORE):
    """Write PNG files that show ground truth beside the model's detections.

    Args:
        model: MaskRCNN.
        dataset: dataset or DataLoader as in `evaluate_coco`.
        directory: folder, made if it is missing. Overlays of an earlier run (`01-*.png` and so on) are removed.
        count: int, number of images, taken evenly from the whole dataset.
        score_threshold: float, detections below it are not drawn.

    Returns:
        List of the files' pathlib.Paths.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("[0-9][0-9]-*.png"):
        path.unlink()
    paths = []
    for name, panel in overlays(model, dataset, count, score_threshold):
        paths.append(directory / f"{len(paths) + 1:02d}-{name}.png")
        write_atomically(paths[-1], Image.fromarray(panel).save)
    return paths


def overlays(model, dataset, count, score_threshold=OVERLAY_SCORE):
    """Draw the pictures of `draw_overlays`, one after the other.

    Yields:
        (stem of the image's file, or the image's id if it has no file; uint8 (h, w, 3)).
    """
    dataset = getattr(dataset, "dataset", dataset)
    predictor = Predictor(model, max(score_threshold, model.config.lowest_score))
    truth = dataset.to_coco()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    files = {entry["id"]: entry.get("file_name") for entry in truth["images"]}
    for i in np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)):
        image_id = dataset.image_ids[i]
        annotations = [a for a in truth["annotations"] if a["image_id"] == image_id]
        image = dataset.load_image(i, model.config.num_channels, model.config.image_dtype)
        name = pathlib.PurePath(files.get(image_id) or str(image_id)).stem
        yield name, _overlay(image, annotations, predictor, names)


def _overlay(image, annotations, predictor, names):
    found = predictor(image)
    enlarge = max(1, OVERLAY_SIDE // max(image.shape[:2]))
    few = max(len(found), len(annotations)) <= CAPTIONED
    style = {"captions": few, "boxes": few, "enlarge": enlarge}
    pictures = [
        draw_ground_truth(image, annotations, names, **style),
        draw_instances(image, found, **style),
    ]
    found_title = f"found: {len(found)} (score >= {predictor.score_threshold:g})"
    return beside(pictures, [f"ground truth: {len(annotations)}", found_title])
