"""COCO's figures for given detections, and their table: average precision by IoU, by size and by class.

Comes in: ground truth and detections in COCO's formats. Goes out: a flat dictionary of figures. Called by `coco.py`
and by users who have detections of any model. faster-coco-eval does the matching. Its tables equal pycocotools' to
2e-16, in less time (`benchmarks/compare_coco_eval.py` measures both).
"""

import dataclasses
import re

import numpy as np

from keras_maskrcnn.evaluation.tables import COMPARED, check_tables
from keras_maskrcnn.geometry import rle
from keras_maskrcnn.host.memory import no_search_for_cycles

_PART = 50_000  # detections that are counted at once
AREAS = {"all": "", "small": "s", "medium": "m", "large": "l"}  # COCOeval's labels: small < 32^2, medium < 96^2
BOUNDARY = "boundary"  # the IoU type of masks and their boundaries
_COUNTED = ("category_id", "iscrowd", "area", "bbox", "score", "segmentation", "keypoints", "num_keypoints", "ignore")


@no_search_for_cycles()
def coco_metrics(
    ground_truth,
    detections,
    max_detections=100,
    iou_types=("bbox", "segm"),
    keypoint_sigmas=None,
    keypoint_detections=None,
):
    """COCO's figures for given detections.

    Args:
        ground_truth: dict in COCO's format: images, annotations (with area, bbox, iscrowd, and what `iou_types`
            compare: segmentation, keypoints and num_keypoints), categories. Not changed. Annotations of images that
            are not listed do not count, as in pycocotools.
        detections: list of COCO results: image_id, category_id, score, bbox, segmentation (compressed RLE) for
            "segm", keypoints for "keypoints".
        max_detections: highest-scoring detections per image and class that count. COCO's own is 100, and 20 for
            keypoints.
        iou_types: what is compared: "bbox", "segm", "keypoints", "boundary". The last compares masks, too, and takes
            the smaller of their IoU and that of their boundaries: strips inside the outline, 2 % of the image's
            diagonal wide (Cheng et al., Boundary IoU, CVPR 2021). It shows poor outlines of large objects.
        keypoint_sigmas: tolerance of each keypoint, over the object's scale; None: COCO's of its 17 of a person.
        keypoint_detections: as `max_detections`, for keypoints; None: the same.

    Returns:
        Dictionary of floats, for each T of `iou_types`: T_AP (IoU 0.50:0.95), T_AP50, T_AP75, T_APs, T_APm, T_APl,
        T_AR1, T_AR10, T_AR<how many count>, T_ARs, T_ARm, T_ARl, T_AP/<class name>, with " (id N)" where a
        name occurs twice. -1, as in pycocotools, where there is no ground truth of that kind; keypoints have no T_APs
        and T_ARs. `max_detections` repeats the cap.

    Raises:
        ValueError: for another `iou_type`, a cap below 1, detections of images that are not in the ground truth, and
            entries that lack what is compared or hold something else (`tables.py`); it names the entry.
    """
    caps = dict.fromkeys(iou_types, max_detections)
    if "keypoints" in caps and keypoint_detections is not None:
        caps["keypoints"] = keypoint_detections
    least = min(max_detections, *caps.values())
    if least < 1:
        raise ValueError(f"max_detections must be at least 1. Received: {least}. Leave it out for COCO's own cap, 100.")
    fields = tuple(dict.fromkeys("segm" if iou_type == BOUNDARY else iou_type for iou_type in iou_types))
    check_tables(ground_truth, detections, fields, None if keypoint_sigmas is None else len(keypoint_sigmas))
    image_ids = sorted((image["id"] for image in ground_truth["images"]), key=lambda key: (isinstance(key, str), key))
    numbers = {image_id: i for i, image_id in enumerate(image_ids, start=1)}
    tables = {iou_type: [] for iou_type in iou_types}
    for ids, truth, found in _parts(ground_truth, detections, numbers):
        truth = [_counted(one, i, numbers, fields, one.get("iscrowd") or 0) for i, one in enumerate(truth, start=1)]
        found = [_counted(one, i, numbers, fields) for i, one in enumerate(found, start=1)]
        truth = _index(ground_truth["images"], ids, truth, numbers)
        for iou_type in iou_types:
            tables[iou_type].append(_evaluate(truth, found, iou_type, caps[iou_type], keypoint_sigmas))
    metrics = {}
    for iou_type in iou_types:
        metrics |= _figures(tables[iou_type], ground_truth["categories"], iou_type, caps[iou_type])
    return metrics | {"max_detections": float(max_detections)}


def iou_types_in(metrics):
    """The IoU types that a dictionary of `coco_metrics` has figures of, a list."""
    return [key.removesuffix("_AP") for key in metrics if key.endswith("_AP") and "/" not in key]


def overall_figures(metrics):
    """The figures of all classes together, a dict: what goes into the logs of training."""
    prefixes = tuple(f"{iou_type}_A" for iou_type in iou_types_in(metrics))
    return {key: value for key, value in metrics.items() if key.startswith(prefixes) and "/" not in key}


def format_metrics(metrics):
    """The figures as a table for a terminal, with a line that says how many detections count.

    Args:
        metrics: dictionary from `evaluate_coco` or `coco_metrics`.

    Returns:
        str of several lines, no newline at the end.
    """
    cap, iou_types = int(metrics["max_detections"]), iou_types_in(metrics)
    lines = [*_overall_table(metrics, iou_types, cap), "", *_class_table(metrics, iou_types)]
    rule = "COCO's own cap" if cap == 100 else "COCO's own cap is 100"
    lines.append(f"AP and AR{cap} count up to {cap} detections per image ({rule}); - = no such ground truth")
    if metrics.get("images_at_cap"):
        count = int(metrics["images_at_cap"])
        lines.append(f"images with all the detections the model can give: {count}; config.max_detections limits them")
    return "\n".join(lines)


# Tables --------------------------------------------------------------------------------------------------------


def _overall_table(metrics, iou_types, cap):
    columns = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", f"AR{cap}"]
    width = max(8, *(len(iou_type) + 1 for iou_type in iou_types))
    lines = [" " * width + "".join(f"{name:>8}" for name in columns)]
    for iou_type in iou_types:
        keys = [f"{iou_type}_{column}" for column in columns[:-1]] + [_last_recall(metrics, iou_type)]
        cells = [_cell(metrics.get(key, -1)) for key in keys]
        lines.append(f"{iou_type:>{width}}" + "".join(f"{cell:>8}" for cell in cells))
    return lines


def _last_recall(metrics, iou_type):
    """The recall of an IoU type of which most detections count: keypoints have a number of their own."""
    start = f"{iou_type}_AR"
    return max((key for key in metrics if key.startswith(start)), key=lambda key: int(re.sub(r"\D", "", key) or 0))


def _class_table(metrics, iou_types):
    names = [key.split("/", 1)[1] for key in metrics if key.startswith(f"{iou_types[0]}_AP/")]
    width = max(len(name) for name in ["class", *names])
    heads = [f"{iou_type} AP" for iou_type in iou_types]
    lines = [f"{'class':<{width}} " + " ".join(f"{head:>8}" for head in heads)]
    for name in names:
        cells = [
            f"{_cell(metrics[f'{iou_type}_AP/{name}']):>{max(8, len(head))}}"
            for iou_type, head in zip(iou_types, heads, strict=True)
        ]
        lines.append(f"{name:<{width}} " + " ".join(cells))
    return lines


def _cell(value):
    return "-" if value < 0 else f"{value:.3f}"


# Counting ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Tables:
    """COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M) of some categories, with its parameters."""

    precision: np.ndarray
    recall: np.ndarray
    params: object


def _parts(ground_truth, detections, numbers):
    """(category ids, annotations, detections) of categories that are counted together, by ascending id.

    Categories do not affect each other's figures, and COCOeval's own tables take kilobytes a detection.
    """
    truth, found = {}, {}
    for annotation in ground_truth["annotations"]:
        if annotation["image_id"] in numbers:
            truth.setdefault(int(annotation["category_id"]), []).append(annotation)
    for detection in detections:
        found.setdefault(int(detection["category_id"]), []).append(detection)
    ids, count = [], 0
    for key in sorted({int(category["id"]) for category in ground_truth["categories"]}):
        size = len(found.get(key, ()))
        if ids and count + size > _PART:
            yield ids, _joined(truth, ids), _joined(found, ids)
            ids, count = [], 0
        ids.append(key)
        count += size
    yield ids, _joined(truth, ids), _joined(found, ids)


def _joined(by_category, ids):
    return [entry for key in ids for entry in by_category.get(key, ())]


def _evaluate(truth, found, iou_type, cap, keypoint_sigmas=None):
    """COCOeval's tables of some categories.

    Args:
        truth: their ground truth as a COCO index.
        found: their detections as annotations, whose area is set: that of what is compared, as in pycocotools' loadRes.
        iou_type: str. cap: int, detections that count. keypoint_sigmas: as in `coco_metrics`.

    Returns:
        _Tables.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # here, so that the import of this package stays cheap

    for detection, area in zip(found, _areas(found, iou_type), strict=True):
        detection["area"] = float(area)
    index = COCO()
    index.dataset = truth.dataset | {"annotations": found}
    index.createIndex()
    # Its threads wait for each other: with eight it takes a quarter longer.
    sigmas = None if keypoint_sigmas is None else list(keypoint_sigmas)
    evaluation = COCOeval_faster(
        truth, index, iou_type, kpt_oks_sigmas=sigmas, rle_iou_max_workers=1, boundary_cpu_count=1
    )
    evaluation.params.maxDets = sorted({1, 10, cap})
    evaluation.params.catIds = sorted(truth.cats)
    evaluation.evaluate()
    evaluation.accumulate()
    return _Tables(*(np.asarray(evaluation.eval[name]) for name in ("precision", "recall")), evaluation.params)


def _figures(tables, categories, iou_type, cap):
    """The named figures of the tables of all parts."""
    precision = np.concatenate([table.precision for table in tables], axis=2)
    recall = np.concatenate([table.recall for table in tables], axis=1)
    params = tables[0].params
    areas = [AREAS[label] for label in params.areaRngLbl]
    at_cap = params.maxDets.index(cap)
    figures = {f"AP{area}": precision[:, :, :, a, at_cap] for a, area in enumerate(areas)}
    for iou in (0.5, 0.75):
        figures[f"AP{iou * 100:.0f}"] = precision[np.isclose(params.iouThrs, iou), :, :, 0, at_cap]
    for m, cut in enumerate(params.maxDets):
        figures[f"AR{cut}"] = recall[:, :, 0, m]
    figures |= {f"AR{area}": recall[:, :, a, at_cap] for a, area in enumerate(areas) if area}
    for k, name in enumerate(distinct_names(categories)):
        figures[f"AP/{name}"] = precision[:, :, k, 0, at_cap]
    return {f"{iou_type}_{name}": _mean_present(values) for name, values in figures.items()}


def distinct_names(categories):
    """Names of the categories by ascending id, a list. A name that occurs twice has its id with it."""
    named = sorted({int(category["id"]): str(category["name"]) for category in categories}.items())
    names = [name for _, name in named]
    return [f"{name} (id {key})" if names.count(name) > 1 else name for key, name in named]


def _mean_present(values):
    """Mean of the entries that are not -1 (pycocotools' mark for "no ground truth"); -1 if there is none."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _index(images, ids, annotations, numbers):
    """A COCO index of images and categories with these annotations."""
    from faster_coco_eval import COCO

    coco = COCO()
    coco.dataset = {
        "images": [_sized(image, numbers) for image in images],
        "categories": [{"id": key, "name": str(key)} for key in ids],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _sized(image, numbers):
    return {"id": numbers[image["id"]]} | {side: int(image[side]) for side in ("height", "width") if side in image}


def _counted(entry, number, numbers, iou_types, crowd=0):
    """A copy with the fields that count: tools add others, of any type, which compiled code need not get.

    Its id is `number`, above 0: COCOeval takes a match with id 0 for no match. It writes into annotations.
    """
    kept = {name: entry[name] for name in _COUNTED if name in entry}
    code = kept.get("segmentation")
    if "segm" in iou_types and isinstance(code, dict) and isinstance(code["counts"], list):  # of whole floats, perhaps
        kept["segmentation"] = code | {"counts": rle.parse_counts(code["counts"]).tolist()}
    whole = {"category_id": int(entry["category_id"]), "iscrowd": int(crowd)}
    return kept | whole | {"id": number, "image_id": numbers[entry["image_id"]]}


def _areas(detections, iou_type):
    compared = [detection[COMPARED["segm" if iou_type == BOUNDARY else iou_type]] for detection in detections]
    if iou_type == "bbox":
        return [width * height for _, _, width, height in compared]
    if iou_type in ("segm", BOUNDARY):
        return rle.totals_and_areas([code["counts"] for code in compared])[1]
    return [_keypoint_area(keypoints) for keypoints in compared]


def _keypoint_area(keypoints):
    points = np.reshape(keypoints, (-1, 3))[:, :2]
    return np.prod(points.max(axis=0) - points.min(axis=0))


def main_figure(names):
    """Choose the main figure among measured ones: the AP of masks, or else of keypoints, or else of boxes.

    Args:
        names: an epoch's logs ("val_segm_AP", ...), the metrics of `evaluate_coco` ("segm_AP", ...) or their names.

    Returns:
        str, one of the names; None if there is none of them.
    """
    for name in ("segm_AP", "keypoints_AP", "bbox_AP"):
        for candidate in (f"val_{name}", name):
            if candidate in names:
                return candidate
    return None
