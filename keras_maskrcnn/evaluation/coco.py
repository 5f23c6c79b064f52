"""COCO average precision of a model: for boxes and masks, by size, by class, counting as many detections as it makes.

Comes in: a model and a dataset in the image frame. Goes out: a flat dictionary of figures. Called by users, by the
`CocoEvaluator` callback during `fit`, and by the command line. pycocotools does the counting; what is ours is the
cap above 100 detections (its `summarize` knows only 100) and a matching loop that looks only at overlapping pairs.
"""

import contextlib
import io
import time

import keras
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_maskrcnn.host.progress import progress_bar
from keras_maskrcnn.inference.predictor import Predictor

IOU_TYPES = ("bbox", "segm")
AREAS = ("", "s", "m", "l")  # COCOeval's areaRng order: all, small < 32^2, medium < 96^2, large


def evaluate_coco(model, dataset, max_detections=None, verbose=0):
    """Run the model over a dataset and measure its COCO average precision.

    Images go through one at a time at the size the config gives them, as `Predictor` does it.

    Args:
        model: MaskRCNN (or anything that Predictor takes).
        dataset: CocoDataset, DsbDataset, or a DataLoader, whose dataset is taken (untransformed).
        max_detections: detections an image that count. None means 100 as COCO does, or the config's
            `max_detections` where it is larger.
        verbose: 1 shows a progress bar.

    Returns:
        Dictionary of floats as in `coco_metrics`, plus `seconds_per_image` and `images_at_cap`: how many images have
        as many detections as the model can give, so that objects may have been cut off there.
    """
    dataset = getattr(dataset, "dataset", dataset)
    if max_detections is None:
        max_detections = max(100, model.config.max_detections)
    predictor, pixels = Predictor(model), (model.config.num_channels, model.config.image_dtype)
    detections, at_cap = [], 0
    progress = progress_bar(len(dataset), unit_name="image", verbose=verbose)
    started = time.perf_counter()
    for i, image_id in enumerate(dataset.image_ids):
        found = predictor(dataset.load_image(i, *pixels))
        at_cap += len(found) == model.config.max_detections
        detections += found.to_coco(image_id, dataset.category_ids)
        progress.update(i + 1)
    seconds = (time.perf_counter() - started) / max(len(dataset), 1)
    metrics = coco_metrics(dataset.to_coco(), detections, max_detections)
    return metrics | {"seconds_per_image": seconds, "images_at_cap": float(at_cap)}


def coco_metrics(ground_truth, detections, max_detections=100):
    """COCO's figures for given detections, by pycocotools.

    Args:
        ground_truth: dict in COCO's format: images, annotations (with area, bbox, segmentation, iscrowd),
            categories. Not changed.
        detections: list of COCO results: image_id, category_id, score, bbox, segmentation (compressed RLE).
        max_detections: highest-scoring detections per image and class that count; 100 is COCO's own.

    Returns:
        Dictionary of floats, for T in bbox and segm: T_AP (IoU 0.50:0.95), T_AP50, T_AP75, T_APs, T_APm, T_APl,
        T_AR1, T_AR10, T_AR<max_detections>, T_ARs, T_ARm, T_ARl, T_AP/<class name>. -1, as in pycocotools, where
        there is no ground truth of that kind. `max_detections` repeats the cap.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1. Received: {max_detections}.")
    metrics = {}
    truth = _index(ground_truth, _renumbered(ground_truth["annotations"]))
    for iou_type in IOU_TYPES:
        results = _index(ground_truth, _as_annotations(detections, iou_type))
        evaluation = _OverlapCOCOeval(truth, results, iou_type)
        evaluation.params.maxDets = sorted({1, 10, max_detections})
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation.evaluate()
            evaluation.accumulate()
        metrics |= _figures(evaluation, iou_type, max_detections)
    return metrics | {"max_detections": float(max_detections)}


def format_metrics(metrics):
    """The figures as a table for a terminal, with a line that says how many detections count.

    Args:
        metrics: dictionary from `evaluate_coco` or `coco_metrics`.

    Returns:
        str of several lines, no newline at the end.
    """
    cap = int(metrics["max_detections"])
    columns = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", f"AR{cap}"]
    lines = ["".join(f"{name:>8}" for name in ["", *columns])]
    for iou_type in IOU_TYPES:
        values = [_cell(metrics[f"{iou_type}_{column}"]) for column in columns]
        lines.append(f"{iou_type:>8}" + "".join(f"{value:>8}" for value in values))
    names = [key.split("/", 1)[1] for key in metrics if key.startswith("segm_AP/")]
    width = max([len("class"), *map(len, names)])
    lines += ["", f"{'class':<{width}} {'bbox AP':>8} {'segm AP':>8}"]
    for name in names:
        cells = [_cell(metrics[f"{iou_type}_AP/{name}"]) for iou_type in IOU_TYPES]
        lines.append(f"{name:<{width}} " + " ".join(f"{cell:>8}" for cell in cells))
    rule = "COCO's own cap" if cap == 100 else "COCO's own cap is 100"
    lines.append(f"AP and AR{cap} count up to {cap} detections an image ({rule}); - = no such ground truth")
    if metrics.get("images_at_cap"):
        count = int(metrics["images_at_cap"])
        lines.append(f"images with all the detections the model can give: {count}; config.max_detections limits them")
    return "\n".join(lines)


class CocoEvaluator(keras.callbacks.Callback):
    """Measures COCO AP at the end of epochs and puts it among the logs, where ModelCheckpoint can monitor it.

    Put it before the callbacks that read its figures: `val_segm_AP`, `val_bbox_AP`, `val_segm_AP50`, ... The
    whole last result, classes included, stays in `.metrics`.

    Args:
        val: dataset or DataLoader, as in `evaluate_coco`.
        every: int, measure after each so many epochs, and after the last.
        max_detections: as in `evaluate_coco`.
        verbose: 1 shows a progress bar.
    """

    def __init__(self, val, every=1, max_detections=None, verbose=0):
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts epochs and is at least 1. Received: {every}.")
        self.val = val
        self.every = every
        self.max_detections = max_detections
        self.verbose = verbose
        self.metrics = None

    def on_epoch_end(self, epoch, logs=None):
        """Evaluate, when it is this epoch's turn or training ends with it."""
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if (epoch + 1) % self.every and not last:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # otherwise the variables are those of the epoch's start
        self.metrics = evaluate_coco(self.model, self.val, self.max_detections, self.verbose)
        if logs is not None:
            logs |= {f"val_{key}": value for key, value in self.metrics.items() if _is_ap(key)}


class _OverlapCOCOeval(COCOeval):
    """COCOeval with the same rules and results, whose matching loop visits only pairs that overlap enough.

    The stock loop visits every (threshold, detection, ground truth) in Python: with 400 detections and 375 nuclei
    that is six million steps an image, more time than the network takes.
    """

    def evaluateImg(self, imgId, catId, aRng, maxDet):  # noqa: N802, N803 (pycocotools' names)
        """Match the detections of one image and class (overrides COCOeval's)."""
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth and not found:
            return None
        outside = [bool(g["ignore"] or not aRng[0] <= g["area"] <= aRng[1]) for g in truth]
        truth_order = np.argsort(outside, kind="mergesort")
        ignored = np.array(outside, bool)[truth_order]
        truth = [truth[g] for g in truth_order]
        found_order = np.argsort([-d["score"] for d in found], kind="mergesort")[:maxDet]
        found = [found[d] for d in found_order]
        ious = self.ious[imgId, catId]
        ious = ious[:, truth_order] if len(ious) else np.zeros((len(found), len(truth)))
        matched_truth, matched_found = self._match(ious, ignored, [g["iscrowd"] for g in truth])
        found_ids = np.array([d["id"] for d in found], float)
        truth_ids = np.array([g["id"] for g in truth], float)
        hits = matched_truth >= 0
        dt_ignored = np.zeros(hits.shape, bool)
        dt_matches = np.zeros(hits.shape)
        dt_ignored[hits] = ignored[matched_truth[hits]]
        dt_matches[hits] = truth_ids[matched_truth[hits]]
        gt_hits = matched_found >= 0
        gt_matches = np.zeros(gt_hits.shape)
        gt_matches[gt_hits] = found_ids[matched_found[gt_hits]]
        other_size = np.array([not aRng[0] <= d["area"] <= aRng[1] for d in found], bool)
        return {
            "image_id": imgId,
            "category_id": catId,
            "aRng": aRng,
            "maxDet": maxDet,
            "dtIds": [d["id"] for d in found],
            "gtIds": [g["id"] for g in truth],
            "dtMatches": dt_matches,
            "gtMatches": gt_matches,
            "dtScores": [d["score"] for d in found],
            "gtIgnore": ignored.astype(int),
            "dtIgnore": dt_ignored | (~hits & other_size[None, :]),
        }

    def _match(self, ious, ignored, crowd):
        """Greedy matching by falling score, for each IoU threshold.

        Args:
            ious: float (D, G), detections by falling score, ignored ground truth last.
            ignored: bool (G,).
            crowd: G flags; a crowd may be matched again and again.

        Returns:
            Two int arrays, -1 where unmatched: (T, D) the ground truth of each detection, (T, G) the last detection
            of each ground truth.
        """
        thresholds = np.minimum(self.params.iouThrs, 1 - 1e-10)
        of_found = np.full((len(thresholds), ious.shape[0]), -1)
        of_truth = np.full((len(thresholds), ious.shape[1]), -1)
        overlapping = [
            (d, [(g, ious[d, g]) for g in np.flatnonzero(ious[d] >= thresholds[0])])
            for d in np.flatnonzero((ious >= thresholds[0]).any(axis=1))
        ]
        for t, threshold in enumerate(thresholds):
            for d, candidates in overlapping:
                best, best_iou = -1, threshold
                for g, iou in candidates:
                    if of_truth[t, g] >= 0 and not crowd[g]:
                        continue
                    if best >= 0 and not ignored[best] and ignored[g]:
                        break  # a regular match is never given up for an ignored one
                    if iou >= best_iou:
                        best, best_iou = g, iou
                if best >= 0:
                    of_found[t, d], of_truth[t, best] = best, d
        return of_found, of_truth


def _figures(evaluation, iou_type, cap):
    """Read the named figures from COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M) tables."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    cuts = evaluation.params.maxDets
    at_cap = cuts.index(cap)
    thresholds = evaluation.params.iouThrs
    figures = {f"AP{area}": precision[:, :, :, a, at_cap] for a, area in enumerate(AREAS)}
    for iou in (0.5, 0.75):
        figures[f"AP{iou * 100:.0f}"] = precision[np.isclose(thresholds, iou), :, :, 0, at_cap]
    for m, cut in enumerate(cuts):
        figures[f"AR{cut}"] = recall[:, :, 0, m]
    figures |= {f"AR{area}": recall[:, :, a, at_cap] for a, area in enumerate(AREAS) if area}
    for k, category in enumerate(evaluation.cocoGt.loadCats(evaluation.params.catIds)):
        figures[f"AP/{category['name']}"] = precision[:, :, k, 0, at_cap]
    return {f"{iou_type}_{name}": _mean_present(values) for name, values in figures.items()}


def _mean_present(values):
    """Mean of the entries that are not -1 (pycocotools' mark for "no ground truth"); -1 if there is none."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _index(ground_truth, annotations):
    """A pycocotools COCO of the ground truth's images and categories with these annotations."""
    coco = COCO()
    coco.dataset = {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _renumbered(annotations):
    """Copies with ids 1, 2, ...: COCOeval takes a match with id 0 for no match, and writes into annotations."""
    return [{"iscrowd": 0, **annotation, "id": i} for i, annotation in enumerate(annotations, start=1)]


def _as_annotations(detections, iou_type):
    """COCO results as annotations, as COCO.loadRes makes them: the area is the box's or the mask's."""
    if iou_type == "bbox":
        areas = [d["bbox"][2] * d["bbox"][3] for d in detections]
    else:
        areas = [float(rle.area(d["segmentation"])) for d in detections]
    return [
        {**detection, "area": area, "iscrowd": 0, "id": i}
        for i, (detection, area) in enumerate(zip(detections, areas, strict=True), start=1)
    ]


def _is_ap(key):
    """True for the figures of all classes together (they go into the logs)."""
    return "/" not in key and key.startswith(IOU_TYPES)


def _cell(value):
    return "-" if value < 0 else f"{value:.3f}"
