"""Why a model misses objects: the stage that lost each, with the numbers that show it.

Comes in: a model, images and their labelled objects. Goes out: `Explanation` of an image, `MissTable` of a dataset.
Called by users (`km.explain`) and by `evaluate --report`. `docs/errors.md` has the rules.
"""

import collections
import dataclasses

import numpy as np
from keras import ops

from keras_maskrcnn.data.images.reading import ImageError, read_image
from keras_maskrcnn.evaluation.causes import CAUSES, explanation, remedy, summary
from keras_maskrcnn.evaluation.flow import Flow
from keras_maskrcnn.evaluation.judge import Judge
from keras_maskrcnn.evaluation.matching import NONE, check_iou, match_detections, overlap
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor
from keras_maskrcnn.inference.visualize import draw_boxes


@dataclasses.dataclass(frozen=True)
class Miss:
    """One object that the model misses.

    Boxes are (x, y, width, height) in image pixels. What does not belong to the cause is None.

    Args:
        cause: one of `causes.CAUSES`.
        position: int, of the object in the given truth. annotation_id: its id, or None.
        class_name: of the object. box: of the object. network_size: (width, height) in network pixels.
        iou: float, of the object with what came nearest: the best anchor, the lost proposal or detection, the mask.
        score: float, of what was lost: of proposals the RPN's, else of the object's class.
        rank: int, from 1, of what was lost. level: "P2" to "P6", where it ranks.
        limit: the number that decided: an IoU, a threshold, a largest number of boxes.
        seen_as: name of the class that the head prefers, or "background".
        lost_box: the box that was lost. winner_box, winner_score, winner_class, winner_iou: the proposal or detection
            that suppressed it, and their IoU.
        explanation: str, the cause with its numbers. remedy: str, what to change.
    """

    cause: str
    position: int
    annotation_id: object
    class_name: str
    box: tuple
    network_size: tuple
    iou: float | None = None
    score: float | None = None
    rank: int | None = None
    level: str | None = None
    limit: float | None = None
    seen_as: str | None = None
    lost_box: tuple | None = None
    winner_box: tuple | None = None
    winner_score: float | None = None
    winner_class: str | None = None
    winner_iou: float | None = None
    explanation: str = ""
    remedy: str = ""

    def to_dict(self):
        """The record as plain numbers, lists and text, without what does not belong to its cause."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a model misses in one image.

    Args:
        image: (H, W, C). found: FoundInstances, what the model finds. num_objects: int, objects that it should find.
        misses: tuple of Miss.
    """

    image: np.ndarray
    found: object
    num_objects: int
    misses: tuple

    def picture(self, enlarge=1):
        """Missed objects in red with the cause, and in orange the box that each was lost to, or else the lost box.

        Args:
            enlarge: int, the picture's size over the image's.

        Returns:
            uint8 (H * enlarge, W * enlarge, 3).
        """
        boxes, captions, colors = [], [], []
        for miss in self.misses:
            other = miss.winner_box or miss.lost_box
            if other:
                boxes, captions, colors = [*boxes, other], [*captions, None], [*colors, (255, 150, 0)]
            text = f"{miss.class_name}: {miss.cause}"
            boxes, captions, colors = [*boxes, miss.box], [*captions, text], [*colors, (230, 40, 40)]
        return draw_boxes(self.image, boxes, captions, colors, enlarge)


@dataclasses.dataclass(frozen=True)
class MissTable:
    """What a model misses in a dataset.

    Args:
        misses: list of (image id, Miss), whose `position` is that among all annotations of the dataset.
        num_images: int, images with misses. config: MaskRCNNConfig.
        unreadable: image ids that were left out.
    """

    misses: list
    num_images: int
    config: object
    unreadable: tuple = ()

    @property
    def counts(self):
        """Dict from each cause to the number of objects, in the order of the data flow."""
        found = collections.Counter(miss.cause for _, miss in self.misses)
        return {cause: found[cause] for cause in CAUSES}

    @property
    def summary(self):
        """One sentence, such as "31 of 54 are lost before the heads: add an anchor of 8 pixels", with its reason."""
        return summary([miss for _, miss in self.misses], self.config)

    @property
    def remedies(self):
        """Dict from each cause that occurs to its remedy."""
        groups = {cause: [miss for _, miss in self.misses if miss.cause == cause] for cause in CAUSES}
        return {cause: remedy(group, self.config) for cause, group in groups.items() if group}


def explain(model, image, truth, iou=0.5, score_threshold=None, category_ids=None):
    """Find for every object that the model misses the stage that lost it.

    An object is missed if no detection matches it, by masks where model and truth have them, else by boxes. It has
    exactly one cause: docs/errors.md gives the rules.

    Args:
        model: MaskRCNN.
        image: as for Predictor. It is not cut into tiles.
        truth: list of the image's annotations in COCO's form: category_id, bbox [x, y, width, height] in image pixels,
            and segmentation. Crowd regions count for nothing.
        iou: float, the least IoU of a match.
        score_threshold: float, at least the config's. None: the config's, which after `tune` are those of each class.
        category_ids: K ids in `truth` of the model's labels 0..K-1. None: the config's.

    Returns:
        Explanation.

    Raises:
        ValueError: an object of a class that the model does not know; an IoU or a threshold out of range.
    """
    check_iou(iou)
    _check_stages(model.config)
    predictor = Predictor(model, score_threshold)
    image = read_image(image, model.config.num_channels, model.config.image_dtype)
    ids = [int(key) for key in (model.config.category_ids if category_ids is None else category_ids)]
    places = [place for place, entry in enumerate(truth) if not entry.get("iscrowd")]
    labels = _labels([truth[place] for place in places], ids)
    batch = NetworkBatch(predictor, [image.shape[:2]])
    batch.fill(0, image)
    options = None if score_threshold is None else {"score_threshold": ops.convert_to_tensor([float(score_threshold)])}
    flow = Flow(model, batch.inputs, options)
    sizes = batch.inputs["image_sizes"]
    batch.outputs, batch.inputs = flow.outputs | {"image_sizes": sizes}, None
    found = batch.found(0, image)

    def results(outputs):
        batch.outputs = outputs | {"image_sizes": sizes}
        return batch.found(0, image).to_coco(0, ids)

    if not places:
        return Explanation(image, found, 0, ())
    scale = np.array([image.shape[1] / sizes[0, 1], image.shape[0] / sizes[0, 0]])
    objects = [truth[place] for place in places]
    seen = _Seen(objects, labels, results, flow.outputs, iou, image.shape[:2], model.config)
    misses = _judged(flow, seen, scale, model.config)
    misses = [dataclasses.replace(miss, position=places[miss.position]) for miss in misses]
    return Explanation(image, found, len(places), tuple(misses))


def explain_dataset(model, dataset, image_ids=None, category_ids=None, iou=0.5, on_image=None):
    """Explain the misses in many images, one after the other, among all detections that `evaluate_coco` counts.

    Args:
        model: MaskRCNN. dataset: any of `data`'s datasets.
        image_ids: those to look at, such as the ones where objects are missed; None: all.
        category_ids: K ids of the dataset of the model's labels 0..K-1. None: those of the same class names.
        iou: float, the least IoU of a match.
        on_image: None, or a function that is called after each image with the number of images so far.

    Returns:
        MissTable.
    """
    from keras_maskrcnn.evaluation.coco import category_ids_of

    truth = dataset.to_coco()
    lowest = model.config.lowest_score if model.config.tuned else None
    ids = category_ids_of(model.config, dataset, truth) if category_ids is None else category_ids
    groups = collections.defaultdict(list)
    for row, entry in enumerate(truth["annotations"]):
        groups[entry["image_id"]].append((row, entry))
    wanted = set(groups) if image_ids is None else set(image_ids)
    misses, unreadable, images = [], [], set()
    for count, position in enumerate([p for p, key in enumerate(dataset.image_ids) if key in wanted], start=1):
        image_id = dataset.image_ids[position]
        try:
            image = dataset.load_image(position, model.config.num_channels, model.config.image_dtype)
        except ImageError:
            unreadable.append(image_id)
        else:
            rows, objects = zip(*groups[image_id], strict=True) if groups[image_id] else ((), ())
            found = explain(model, image, objects, iou, lowest, ids).misses
            misses += [(image_id, dataclasses.replace(miss, position=rows[miss.position])) for miss in found]
            images |= {image_id} if found else set()
        if on_image is not None:
            on_image(count)
    return MissTable(misses, len(images), model.config, tuple(unreadable))


def can_explain(config):
    """Whether the causes are those of a model's stages: tight canvas, selection by level, detections of each class."""
    return (config.canvas, config.rpn_selection, config.detection_rule) == ("tight", "level", "each_class")


def _check_stages(config):
    if not can_explain(config):
        raise ValueError(
            'explain needs canvas "tight", rpn_selection "level" and detection_rule "each_class". Received: '
            f'"{config.canvas}", "{config.rpn_selection}" and "{config.detection_rule}". '
            "Explain a model with the default rules."
        )


def _labels(objects, ids):
    """The model's label of each object."""
    unknown = sorted({int(entry["category_id"]) for entry in objects} - set(ids))
    if unknown:
        raise ValueError(
            f"truth must have category ids of the model's classes: {ids}. Received: {unknown}. Leave such objects out, "
            "or pass category_ids, the ids of the model's labels in order."
        )
    return np.array([ids.index(int(entry["category_id"])) for entry in objects], np.int64)


class _Seen:
    """The objects of an image beside what the model finds in it.

    `detections` is int (D,): the object that each detection matches, or NONE; `missed` the places of the objects that
    none matches. `results` makes COCO results of a model's outputs. `reach` is the IoU of boxes from which a detection
    may match: `least`, but half of it for masks, since those of partly hidden objects match where their boxes do not.
    """

    def __init__(self, objects, labels, results, outputs, iou, size, config):
        self.objects, self.labels, self.least, self.size = objects, labels, iou, size
        with_masks = any(branch.coco_iou_type == "segm" for branch in config.branches)
        self.iou_type = "segm" if with_masks and all(entry.get("segmentation") for entry in objects) else "bbox"
        self.reach = iou if self.iou_type == "bbox" else iou / 2
        self.make_results, self.results = results, results(outputs)
        ids = {int(entry["category_id"]) for entry in (*objects, *self.results)}
        truth = {
            "images": [{"id": 0, "height": int(size[0]), "width": int(size[1])}],
            "annotations": [{"id": k + 1, "iscrowd": 0} | entry | {"image_id": 0} for k, entry in enumerate(objects)],
            "categories": [{"id": key, "name": str(key)} for key in sorted(ids)],
        }
        matches = match_detections(truth, self.results, self.iou_type, iou, max(1, len(self.results)))
        self.missed = [int(matches.gt_row[k]) for k in np.flatnonzero(matches.gt_detection == NONE)]
        self.detections = np.full(len(self.results), NONE)
        right = matches.object != NONE
        self.detections[matches.row[right]] = matches.gt_row[matches.object[right]]

    def mask_iou(self, detection, place):
        """float, or None where boxes are compared."""
        if self.iou_type == "bbox":
            return None
        return overlap(self.results[detection], self.objects[place], self.size)

    def would_match(self, outputs, places):
        """List of bool: whether the masks of other detections match these objects; all do where boxes are compared."""
        if self.iou_type == "bbox":
            return [True] * len(places)
        results = zip(self.make_results(outputs), places, strict=True)
        return [overlap(result, self.objects[place], self.size) >= self.least for result, place in results]


def _judged(flow, seen, scale, config):
    """The Miss of every missed object; `scale` is image pixels per network pixel, [x, y]."""
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in seen.objects)], np.float64)
    boxes = corners / np.tile(scale, 2)
    misses = []
    for place, facts in Judge(flow, boxes, seen, config).causes().items():
        entry = seen.objects[place]
        facts = {name: _plain(value, scale) for name, value in facts.items()}
        miss = Miss(
            position=place,
            annotation_id=entry.get("id"),
            class_name=config.class_names[seen.labels[place]],
            box=tuple(float(side) for side in entry["bbox"]),
            network_size=tuple(float(side) for side in boxes[place, 2:] - boxes[place, :2]),
            **facts,
        )
        misses.append(dataclasses.replace(miss, explanation=explanation(miss), remedy=remedy([miss], config)))
    return misses


def _plain(value, scale):
    """Numpy's numbers as Python's; boxes [x1, y1, x2, y2] in network pixels as image (x, y, width, height)."""
    if isinstance(value, np.ndarray) and value.shape == (4,):
        x1, y1, x2, y2 = (value * np.tile(scale, 2)).tolist()
        return (x1, y1, x2 - x1, y2 - y1)
    return value.item() if isinstance(value, np.generic) else value
