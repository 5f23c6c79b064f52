"""COCO average precision of a model: it runs over a dataset, and its detections are counted.

Comes in: a model and a dataset in the image frame. Goes out: a flat dictionary of figures (`figures.py`). Called by
users, by the `CocoEvaluator` callback during `fit`, and by the command line.
"""

import dataclasses
import functools
import time
import warnings

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.data.classes import ids_of_labels
from keras_maskrcnn.data.learnable import lacking
from keras_maskrcnn.evaluation.figures import coco_metrics, overall_figures
from keras_maskrcnn.host.progress import progress_bar
from keras_maskrcnn.inference.image_predictor import ImagePredictor
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.inference.streaming import check_count


def evaluate_coco(model, dataset, max_detections=None, verbose=0, batch_size=None):
    """Run the model over a dataset and measure its COCO average precision.

    Images go through at the size the config gives them, in batches as `Predictor.stream` makes them: with the same
    answers as one at a time. Processes that train together share the images, and all get the figures. The model's
    classes are joined with the dataset's by name, whatever their order; the figures are those of the dataset's own ids.
    All detections above the config's `score_threshold` count, also those that a tuned model gives to nobody else.
    A model without real names ("class 0", ...) has its labels in the dataset's order.

    Args:
        model: MaskRCNN (or anything that Predictor takes), or a predictor, such as one of an export.
        dataset: any of `data`'s datasets, or a DataLoader, whose dataset is taken (untransformed).
        max_detections: detections per image that count. None means COCO's own, 20 of keypoints and 100 of all else,
            or of the latter the config's `max_detections` where it is larger.
        verbose: 1 shows a progress bar.
        batch_size: int, most images that the model sees at once. None: 8 on a GPU or TPU, 1 on CPUs.

    Returns:
        Dictionary of floats as in `coco_metrics`, of boxes and of what the model's branches predict, plus
        `seconds_per_image`, the time from files to masks in run lengths divided by the number of images, and
        `images_at_cap`: how many images have as many detections as the model can give, so that objects may have been
        cut off there.

    Raises:
        ClassesDiffer: a ValueError: objects of the dataset have classes that the model does not know.
        ValueError: the dataset has no image, or one that cannot be read; batch_size is below 1.
    """
    found = detect_dataset(model, dataset, max_detections, verbose, batch_size)
    return found.team.agree(found.metrics)


@dataclasses.dataclass(frozen=True)
class DetectedDataset:
    """What a model found in a dataset, in all processes of its team.

    Args:
        truth, detections: in COCO's formats. max_detections, iou_types: as `coco_metrics` takes them.
        options: dict of further arguments of `coco_metrics`.
        seconds_per_image, images_at_cap: floats, as in `evaluate_coco`.
        team: Team of the model.
    """

    truth: dict
    detections: list
    max_detections: int
    iou_types: tuple
    seconds_per_image: float
    images_at_cap: float
    team: object
    options: dict = dataclasses.field(default_factory=dict)

    def metrics(self):
        """The figures of `evaluate_coco`. Of a team only one process needs them."""
        metrics = coco_metrics(self.truth, self.detections, self.max_detections, self.iou_types, **self.options)
        return metrics | {"seconds_per_image": self.seconds_per_image, "images_at_cap": self.images_at_cap}


def detect_dataset(model, dataset, max_detections=None, verbose=0, batch_size=None, nms_threshold=None):
    """Run the model over a dataset and keep its detections, as `evaluate_coco` counts them.

    Args: as of `evaluate_coco`, with its errors; nms_threshold: as for Predictor.

    Returns:
        DetectedDataset.
    """
    dataset = getattr(dataset, "dataset", dataset)
    if not len(dataset):
        raise ValueError(
            "Average precision is measured on at least one image. Received a dataset of 0 images. Check its path."
        )
    options = coco_options_of(model.config)
    if max_detections is None:
        max_detections = max(100, model.config.max_detections)
    else:
        options.pop("keypoint_detections", None)  # what is asked for counts for everything
    truth = _truth_for(model.config, dataset)
    _warn_if_empty(dataset, truth)
    category_ids = category_ids_of(model.config, dataset, truth)
    started = time.perf_counter()
    team = backend.team_of(model)
    own = range(team.index, len(dataset), team.count)
    found = team.everyone(lambda: _detect(model, dataset, own, truth, category_ids, batch_size, verbose, nms_threshold))
    seconds = (time.perf_counter() - started) / len(dataset)
    by_image = dict(sorted(pair for part in found for pair in part.items()))  # in the order of a single process
    detections = [result for _, results in by_image.values() for result in results]
    at_cap = sum(count == model.config.max_detections for count, _ in by_image.values())
    types = iou_types_of(model.config)
    return DetectedDataset(truth, detections, max_detections, types, seconds, float(at_cap), team, options)


def _truth_for(config, dataset):
    """The ground truth as a COCO dictionary, with what the model's branches need of it."""
    truth = dataset.to_coco()
    for branch in getattr(config, "branches", ()):
        for annotation in truth["annotations"]:
            annotation.update(branch.coco_truth(annotation))
    return truth


def _detect(model, dataset, positions, truth, category_ids, batch_size, verbose, nms_threshold):
    """What the model finds: dict from position to (number of detections, COCO results of the dataset's categories)."""
    image_ids, known = [dataset.image_ids[position] for position in positions], set(dataset.category_ids)

    def finish(index, image, found):
        results = found.to_coco(image_ids[index], category_ids)
        return len(found), [result for result in results if result["category_id"] in known]

    pixels = (model.config.num_channels, model.config.image_dtype)
    sources = [functools.partial(dataset.load_image, index, *pixels) for index in positions]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"] if "height" in image}
    sizes = [sizes.get(image_id) for image_id in image_ids]
    found = {}
    with progress_bar(len(sources), unit_name="image", verbose=verbose) as progress:
        # Results are small, so any image may share a batch with any other.
        # The lowest threshold: average precision takes all detections, also after `tune`.
        own = isinstance(model, ImagePredictor)
        predictor = model if own else Predictor(model, model.config.lowest_score, nms_threshold=nms_threshold)
        for answer in predictor.stream(sources, finish, batch_size, sizes, window=max(1, len(sources))):
            if answer.error is not None:
                raise answer.error
            found[positions[answer.index]] = answer.result
            progress.update(answer.index + 1)
    return found


def _warn_if_empty(dataset, truth):
    """Warn if there is nothing to measure, which gives -1 for every figure."""
    crowds = [annotation.get("iscrowd", 0) for annotation in truth["annotations"]]
    if all(crowds):
        name, notes = getattr(dataset, "name", "the dataset"), getattr(dataset, "notes", ())
        warnings.warn(lacking(name, len(dataset), len(crowds), notes), stacklevel=4)


def category_ids_of(config, dataset, truth):
    """The dataset's category ids of the model's labels."""
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    used = {names[annotation["category_id"]] for annotation in truth["annotations"]}
    source = getattr(dataset, "name", "the dataset")
    ids, notes = ids_of_labels(config, dataset.class_names, dataset.category_ids, used, source)
    for note in notes:
        warnings.warn(note, stacklevel=4)
    return ids


def iou_types_of(config):
    """What COCO can compare of a model's detections, a tuple: boxes, and what its branches predict.

    Args:
        config: MaskRCNNConfig. Each of its `branches` says its `coco_iou_type`: "segm", "keypoints" or None. A config
            without `branches` is of a model with masks.
    """
    if not hasattr(config, "branches"):
        return ("bbox", "segm")
    types = [branch.coco_iou_type for branch in config.branches]
    return ("bbox", *dict.fromkeys(iou_type for iou_type in types if iou_type))


def coco_options_of(config):
    """Further arguments of `coco_metrics` that a model's branches ask for, a dict."""
    options = {}
    for branch in getattr(config, "branches", ()):
        options |= branch.coco_options()
    return options


class CocoEvaluator(keras.callbacks.Callback):
    """Measures COCO AP at the end of epochs and puts it among the logs, where ModelCheckpoint can monitor it.

    Put it before the callbacks that read its figures: `val_bbox_AP`, `val_segm_AP`, `val_segm_AP50`, ... The
    whole last result, classes included, stays in `.metrics`.

    Args:
        val: dataset or DataLoader, as in `evaluate_coco`.
        every: int, measure after each so many epochs, and after the last.
        max_detections: as in `evaluate_coco`.
        verbose: 1 shows a progress bar.
        batch_size: as in `evaluate_coco`.
    """

    def __init__(self, val, every=1, max_detections=None, verbose=0, batch_size=None):
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts epochs and is at least 1. Received: {every}. Pass 1 for each epoch.")
        check_count("batch_size", batch_size)
        self.val = val
        self.every = every
        self.max_detections = max_detections
        self.verbose = verbose
        self.batch_size = batch_size
        self.metrics = None

    def on_epoch_end(self, epoch, logs=None):
        """Evaluate when it is due, or when training ends with this epoch."""
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if (epoch + 1) % self.every and not last:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # otherwise the variables are those of the epoch's start
        self.metrics = evaluate_coco(self.model, self.val, self.max_detections, self.verbose, self.batch_size)
        if logs is not None:
            logs |= {f"val_{key}": value for key, value in overall_figures(self.metrics).items()}
