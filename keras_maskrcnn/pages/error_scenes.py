"""The pictures of errors and their captions, from the images of a dataset. Called by `errors_page.py`.

An error is a pair of positions in the columns of `Matches`: (detection or NONE, object or NONE).
"""

import base64
import collections
import contextlib
import pathlib

import numpy as np

from keras_maskrcnn.data.images.reading import RGB, ImageError
from keras_maskrcnn.evaluation.errors import CLASS, DUPLICATE, MISSED
from keras_maskrcnn.evaluation.matching import NONE
from keras_maskrcnn.inference.visualize import segmentation_mask
from keras_maskrcnn.pages.error_pictures import draw_part, part_around

_OTHERS = 40  # outlines of other objects in a picture


def overlap_with(matches, detection, place):
    """The IoU of a detection and the object that its error is about: a float of four digits; 0 of a missed object."""
    if detection == NONE:
        return 0.0
    own = matches.own[detection] == place
    return round(float((matches.own_iou if own else matches.other_iou)[detection]), 4)


class Scenes:
    """Draws errors, image by image, so that each image is read once.

    Args:
        analysis: Analysis. dataset: Dataset.
    """

    def __init__(self, analysis, dataset):
        self.analysis = analysis
        self.matches = analysis.main.matches
        self.dataset = dataset
        self.positions = {image_id: position for position, image_id in enumerate(dataset.image_ids)}
        self.sizes = dict(zip(dataset.image_ids, dataset.image_sizes, strict=True))
        self.files = dict(zip(dataset.image_ids, dataset.records.files(), strict=True))
        self.pictures = {}

    def draw_all(self, errors):
        """Fill `pictures`: dict from error to a dict with `data`, a JPEG in base64, or None if it cannot be read."""
        groups = collections.defaultdict(list)
        for error in errors:
            groups[self._image_id(error)].append(error)
        for image_id, group in groups.items():
            image = self._image(self.positions[image_id])
            if image is None:
                self.pictures |= {error: {"data": None} for error in group}
                continue
            for error in group:
                data = base64.b64encode(self._drawn(image, image_id, error)).decode()
                self.pictures[error] = {"data": data}

    def caption(self, kind, error):
        """What is written below a picture."""
        detection, place = error
        matches, names = self.matches, self.matches.names
        image_id = self._image_id(error)
        file = self.files[image_id]
        name = f"image {image_id}" if file is None else pathlib.PurePath(str(file)).name
        if kind == MISSED:
            _, _, width, height = self._annotation(place)["bbox"]
            return f"{names[int(matches.gt_category[place])]}, {width:.0f} x {height:.0f} pixels, not found: {name}"
        category = int(matches.category[detection])
        text = f"{names.get(category, category)} {matches.score[detection]:.2f}"
        if kind == CLASS:
            text += f", labelled {names[int(matches.gt_category[place])]}"
        if kind == DUPLICATE:
            text += f", the first has {matches.score[matches.gt_detection[place]]:.2f}"
        if place != NONE:
            text += f", IoU {overlap_with(matches, detection, place):.2f}"
        return f"{text}: {name}"

    def _image(self, position):
        """An image as RGB, or with all its channels where it is none; None if it cannot be read."""
        for pixels in (RGB, (None, None)):
            with contextlib.suppress(ImageError):  # the page says so
                return self.dataset.load_image(position, *pixels)
        return None

    def _image_id(self, error):
        detection, place = error
        position = self.matches.image[detection] if detection != NONE else self.matches.gt_image[place]
        return self.matches.image_ids[position]

    def _annotation(self, place):
        return self.analysis.truth["annotations"][self.matches.gt_row[place]]

    def _drawn(self, image, image_id, error):
        detection, place = error
        size = image.shape[:2]
        found = None if detection == NONE else self.analysis.detections[self.matches.row[detection]]
        shown = [entry["bbox"] for entry in (found, None if place == NONE else self._annotation(place)) if entry]
        part = part_around(shown, size)
        near = self._near(image_id, part, place)
        return draw_part(
            image,
            part,
            [self._mask(self._annotation(other), part, size) for other in near],
            None if found is None else self._mask(found, part, size),
            near.index(place) if place != NONE else None,
        )

    def _near(self, image_id, part, place):
        """The objects of an image whose boxes reach into a part, the one of the error among them."""
        position = self.matches.image_ids.index(image_id)
        near = []
        for other in np.flatnonzero(self.matches.gt_image == position).tolist():
            x, y, width, height = self._annotation(other)["bbox"]
            if x < part[2] and y < part[3] and x + width > part[0] and y + height > part[1]:
                near.append(other)
        near = near[:_OTHERS]
        return near if place == NONE or place in near else [*near, place]

    def _mask(self, entry, part, size):
        """Bool: the mask of an annotation or a detection inside a part; of boxes the filled box."""
        x1, y1, x2, y2 = part
        if self.matches.iou_type == "segm":
            return segmentation_mask(entry["segmentation"], size)[y1:y2, x1:x2]
        mask = np.zeros((y2 - y1, x2 - x1), bool)
        x, y, width, height = entry["bbox"]
        rows = slice(max(0, round(y) - y1), max(0, round(y + height) - y1))
        mask[rows, max(0, round(x) - x1) : max(0, round(x + width) - x1)] = True
        return mask
