"""Causes of misses forced on a trained model, and which limits would really find an object if they were lifted.

A limit of the config is made too tight, or weights are spoilt. An object that was found before and is missed now was
lost for that cause: undoing the one change finds it again. The model itself is run for that, not the parts of it that
`km.explain` looks at, and matching is done here. Where another cause is read back than the forced one, the limits are
lifted one by one and the model is run again: the cause is right if lifting that limit alone finds the object.

    PYTHONPATH=. python tests/forced_causes.py MODEL [IMAGES [SIDE [SEED [SHAPES [CASE ...]]]]]    # prints a table
"""

import contextlib
import dataclasses
import sys
import tempfile

import keras
import numpy as np
from pycocotools import mask as rle

import keras_maskrcnn as km
from keras_maskrcnn.evaluation import causes
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor

ALL = 10**6
# Values of each limit that are tried when it is lifted: an object may be found by a moderate one only, because others
# crowd it out where nothing is left out.
LIFTS = {
    causes.RANK: ("test_pre_nms", (50, 200, 1000, ALL)),
    causes.RPN_NMS: ("rpn_nms_threshold", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999)),
    causes.PROPOSAL_CAP: ("test_post_nms", (10, 30, 100, 1000, ALL)),
    causes.THRESHOLD: ("score_threshold", (0.5, 0.2, 0.05, 0.01, 0.001)),
    causes.NMS: ("nms_threshold", (0.3, 0.5, 0.7, 0.9, 0.999)),
    causes.CAP: ("max_detections", (5, 20, 50, 200)),
    "candidates": ("detection_candidates", (10, 50, 1000)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that is spoilt: numbers of the config, a function of the model that changes weights, or the truth."""

    cause: str
    fields: dict = dataclasses.field(default_factory=dict)
    weights: object = None
    doubled: bool = False  # every object is labelled twice: one of the two labels is missed


def _class_logits(model, change):
    layer = model.box_head.classes
    for weight in (layer.kernel, layer.bias):
        weight.assign(change(keras.ops.convert_to_numpy(weight)))


def exchange_classes(model):
    """Each class has the logits of another one, ten times as high, so that no second class is likely."""
    _class_logits(model, lambda values: 10 * np.concatenate([np.roll(values[..., :-1], 1, -1), values[..., -1:]], -1))


def prefer_background(model):
    bias = keras.ops.convert_to_numpy(model.box_head.classes.bias).copy()
    bias[-1] += 30
    model.box_head.classes.bias.assign(bias)


def _add(variable, value):
    variable.assign(keras.ops.convert_to_numpy(variable) + value)


def move_proposals(model):
    """All boxes of the RPN are far to the lower right of their anchors, and ten times as small."""
    moves = [60.0, 60.0, -2.3, -2.3]
    _add(model.rpn.deltas.bias, np.tile(moves, len(model.config.anchor_ratios)))


def move_detections(model):
    """The box head moves all boxes by their size to the right."""
    moves = np.array([1.0, 0, 0, 0]) * model.config.box_weights
    _add(model.box_head.deltas.bias, np.tile(moves, model.config.num_classes))


def empty_masks(model):
    for head in model.branch_heads().values():
        _add(head.logits.bias, -60.0)


CASES = {
    "anchors of 900 pixels": Case(causes.ANCHOR, {"anchor_sizes": (900.0,) * 5}),
    "anchors of 2 pixels": Case(causes.ANCHOR, {"anchor_sizes": (2.0,) * 5}),
    "top-k 1": Case(causes.RANK, {"test_pre_nms": 1}),
    "top-k 5": Case(causes.RANK, {"test_pre_nms": 5}),
    "RPN NMS 0.01": Case(causes.RPN_NMS, {"rpn_nms_threshold": 0.01}),
    "RPN NMS 0.1": Case(causes.RPN_NMS, {"rpn_nms_threshold": 0.1}),
    "RPN NMS 0.3": Case(causes.RPN_NMS, {"rpn_nms_threshold": 0.3}),
    "RPN cap 1": Case(causes.PROPOSAL_CAP, {"test_post_nms": 1}),
    "RPN cap 4": Case(causes.PROPOSAL_CAP, {"test_post_nms": 4}),
    "RPN boxes of 1000 pixels": Case(causes.PROPOSAL_BOX, {"rpn_min_size": 1000.0}),
    "RPN moves away": Case(causes.PROPOSAL_BOX, weights=move_proposals),
    "classes exchanged": Case(causes.CLASS, weights=exchange_classes),
    "all background": Case(causes.CLASS, weights=prefer_background),
    "boxes of 1000 pixels": Case(causes.BOX, {"min_box_size": 1000.0}),
    "boxes move away": Case(causes.BOX, weights=move_detections),
    "threshold 0.99": Case(causes.THRESHOLD, {"score_threshold": 0.99}),
    "threshold 0.8": Case(causes.THRESHOLD, {"score_threshold": 0.8}),
    "thresholds of classes": Case(causes.THRESHOLD, {"class_thresholds": (0.999, 0.99, 0.9)}),
    "NMS 0.1": Case(causes.NMS, {"nms_threshold": 0.1}),
    "NMS 0.01": Case(causes.NMS, {"nms_threshold": 0.01}),
    "cap 1": Case(causes.CAP, {"max_detections": 1}),
    "cap 3": Case(causes.CAP, {"max_detections": 3}),
    "candidates 1": Case(causes.CAP, {"detection_candidates": 1}),
    "empty masks": Case(causes.MASK, weights=empty_masks),
    "labelled twice": Case(causes.SHARED, doubled=True),
}


@contextlib.contextmanager
def changed(model, fields, weights=None):
    """The model with other numbers in its config, or with spoilt weights; what is eager reads them."""
    own, cells, values = model.config, model.cells, model.get_weights()
    model.config = dataclasses.replace(own, **fields)
    if "anchor_sizes" in fields:
        model.cells = km.MaskRCNN(model.config).cells
    if weights is not None:
        weights(model)
    try:
        yield model
    finally:
        model.config, model.cells = own, cells
        if weights is not None:
            model.set_weights(values)


def found_objects(model, image, truth):
    """Places of the objects that detections match with an IoU of 0.5: masks where both have them, else boxes."""
    detections, ious = _detections(model, image, truth)
    found = set()
    for row in np.argsort([-one["score"] for one in detections], kind="stable"):
        free = [
            (ious[row, place], -place)  # of two labels of the same object the first is taken
            for place, entry in enumerate(truth)
            if place not in found and entry["category_id"] == detections[row]["category_id"]
        ]
        best, place = max(free, default=(0, 0))
        found |= {-place} if best >= 0.5 else set()
    return found


def _detections(model, image, truth):
    """(COCO results, float (D, G): the IoU of their masks with those of the objects)."""
    predictor = Predictor(model)
    batch = NetworkBatch(predictor, [image.shape[:2]])
    batch.fill(0, image)
    sizes = batch.inputs["image_sizes"]
    outputs = model(batch.inputs)
    batch.outputs = {name: keras.ops.convert_to_numpy(values) for name, values in outputs.items()} | {
        "image_sizes": sizes
    }
    detections = batch.found(0, image).to_coco(0, list(model.config.category_ids))
    shapes = [_shape(entry, image.shape[:2]) for entry in truth]
    ious = np.reshape(rle.iou([one["segmentation"] for one in detections], shapes, [0] * len(truth)), (-1, len(truth)))
    return detections, ious


def mask_alone_is_wrong(model, image, truth, place):
    """Whether a detection that matches no object has an object's class, and its box with an IoU of 0.5."""
    detections, ious = _detections(model, image, truth)
    boxes = [[one["bbox"] for one in each] for each in (detections, truth)]
    same_box = np.reshape(rle.iou(*boxes, [0] * len(truth)), (-1, len(truth)))[:, place] >= 0.5
    same_class = [one["category_id"] == truth[place]["category_id"] for one in detections]
    return bool((same_box & same_class & (ious < 0.5).all(axis=1)).any())


def _shape(entry, size):
    code = entry["segmentation"]
    if isinstance(code, list):
        return rle.merge(rle.frPyObjects(code, *size))
    return rle.frPyObjects(code, *size) if isinstance(code["counts"], list) else code


def limits_that_find(model, image, truth, place):
    """The causes whose limit, lifted alone, lets the model find an object; a right mask is such a limit."""
    found = {causes.MASK} if mask_alone_is_wrong(model, image, truth, place) else set()
    for cause, (field, values) in LIFTS.items():
        own = getattr(model.config, field)
        looser = (lambda a, b: a < b) if cause == causes.THRESHOLD else (lambda a, b: a > b)
        for value in (value for value in values if looser(value, own)):
            with changed(model, {field: value}):
                if place in found_objects(model, image, truth):
                    found.add(causes.CAP if cause == "candidates" else cause)
                    break
    if model.config.class_thresholds is not None:
        with changed(model, {"class_thresholds": None}):
            found |= {causes.THRESHOLD} if place in found_objects(model, image, truth) else set()
    return found


@dataclasses.dataclass(frozen=True)
class Lost:
    """An object that is missed in a case only: what was read back, and which limits would find it (if it differs)."""

    image: int
    place: int
    miss: object
    lifted: frozenset


def lost_in(model, case, images, before):
    """What is missed in a case and was found before.

    Args:
        images: list of (image, truth). before: list of sets, what is found in each.

    Returns:
        List of Lost.
    """
    lost = []
    with changed(model, case.fields, case.weights):
        for number, (image, truth) in enumerate(images):
            if case.doubled:
                truth = [entry for entry in truth for _ in range(2)]
            found = found_objects(model, image, truth)
            told = {miss.position: miss for miss in km.explain(model, image, truth).misses}
            assert set(told) == set(range(len(truth))) - found, "explain misses other objects than the model"
            known = {2 * place + k for place in before[number] for k in (0, 1)} if case.doubled else before[number]
            for place in sorted(known - found):
                miss = told[place]
                lifted = frozenset()
                if miss.cause != case.cause:
                    lifted = frozenset(limits_that_find(model, image, truth, place))
                lost.append(Lost(number, place, miss, lifted))
    return lost


def shapes(folder, count, side, seed, most=6):
    """List of (image, truth) of generated shapes."""
    path = km.data.generate_shapes(folder, count, side, seed, most)
    dataset = km.CocoDataset(path, path.parent / "images")
    annotations = dataset.to_coco()["annotations"]
    return [
        (dataset.load_image(k), [one for one in annotations if one["image_id"] == key])
        for k, key in enumerate(dataset.image_ids)
    ]


def main(path, count=8, side=128, seed=77, most=6, *only):
    """Print why objects are missed as they are, with the limits that would find them, and the table of all cases."""
    from keras_maskrcnn.weights.models import load_model

    model = load_model(path)
    with tempfile.TemporaryDirectory() as folder:
        images = shapes(folder, int(count), int(side), int(seed), int(most))
    before = [found_objects(model, *pair) for pair in images]
    print(sum(len(truth) for _, truth in images), "objects,", sum(map(len, before)), "found")
    for number, (image, truth) in enumerate(images if not only else []):
        for miss in km.explain(model, image, truth).misses:
            lifted = sorted(limits_that_find(model, image, truth, miss.position))
            print(f"    {number}:{miss.position} {miss.cause}: {miss.explanation}; found by {lifted}")
    for name, case in CASES.items():
        if only and name not in only:
            continue
        lost = lost_in(model, case, images, before)
        right = sum(one.miss.cause == case.cause for one in lost)
        print(f"{name:28s} {case.cause:14s} {right:3d} of {len(lost)}", flush=True)
        for one in lost:
            if one.miss.cause != case.cause:
                print(f"    {one.image}:{one.place} {one.miss.cause}: {one.miss.explanation}; {sorted(one.lifted)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
