"""An inspection as one dictionary of plain numbers and strings, for JSON and for the HTML page."""

import dataclasses

import numpy as np

from keras_maskrcnn.checkup.anchor_recall import best_overlaps, different_sizes, network_boxes, recall_by_size
from keras_maskrcnn.checkup.pixels import by_kind
from keras_maskrcnn.checkup.proposal import config_of

_BINS = (0, 8, 16, 32, 64, 128, 256, 512, np.inf)  # square root of an object's area, image pixels
_ORDER = ("error", "warning", "note")


def make_report(inspection, options, extra=(), seconds=None):
    """Everything that is known about a dataset.

    Args:
        inspection: Inspection.
        options: the proposal (`proposal.propose`).
        extra: further findings, such as those of `inspection.leaks`.
        seconds: float, duration of the pass, or None.

    Returns:
        dict that JSON can store.
    """
    dataset = inspection.dataset
    counts = np.bincount(inspection.positions, minlength=len(dataset))
    findings = sorted([*inspection.findings, *extra], key=lambda found: (_ORDER.index(found.severity), found.kind))
    sides = np.sqrt(inspection.areas)
    return {
        "dataset": dataset.name,
        "images": len(dataset),
        "images_without_objects": int((counts == 0).sum()),
        "objects": len(inspection.labels),
        "crowd_regions": int(inspection.crowd.sum()),
        "classes": _classes(inspection),
        "objects_an_image": _spread(counts),
        "objects_an_image_histogram": _histogram(counts, _nice_bins(counts.max(initial=0)), whole=True),
        "object_side": _spread(sides),
        "object_side_histogram": _histogram(sides, _BINS),
        "image_sizes": _image_sizes(dataset),
        "pixels": [_pixels(kind) for kind in by_kind(inspection.pixels)],
        "anchor_recall": _recall(inspection, options),
        "proposal": options,
        "findings": [dataclasses.asdict(found) for found in findings],
        "seconds": seconds,
    }


def _classes(inspection):
    rows = []
    for label, name in enumerate(inspection.dataset.class_names):
        chosen = inspection.labels == label
        rows.append(
            {"name": name, "objects": int(chosen.sum()), "images": len(np.unique(inspection.positions[chosen]))}
        )
    return rows


def _pixels(kind):
    figures = {name: getattr(kind, name) for name in ("images", "channels", "alpha", "dtype")}
    values = {"least": kind.least, "most": kind.most, "mean": kind.mean, "std": kind.std}
    return figures | {name: [float(f"{value:.6g}") for value in numbers] for name, numbers in values.items()}


def _recall(inspection, options):
    objects = ~inspection.crowd
    config = config_of(options)
    positions = inspection.positions[objects]
    boxes, sizes = network_boxes(inspection.boxes[objects], positions, inspection.dataset.image_sizes, config)
    overlaps = best_overlaps(boxes, positions, sizes, config.anchor_sizes, config.anchor_ratios)
    return recall_by_size(boxes, overlaps)


def _spread(values):
    if not len(values):
        return None
    names = ("least", "a quarter below", "median", "a quarter above", "most")
    return {name: float(f"{value:.4g}") for name, value in zip(names, np.percentile(values, (0, 25, 50, 75, 100)))}


def _histogram(values, bins, whole=False):
    """Number of values in each bin [low, high). For `whole` numbers the label includes the end: "3 to 4" for [3, 5)."""
    counts = [int(((values >= low) & (values < high)).sum()) for low, high in zip(bins[:-1], bins[1:])]
    labels = [_label(low, high - whole) for low, high in zip(bins[:-1], bins[1:])]
    return [{"range": label, "count": count} for label, count in zip(labels, counts)]


def _label(low, high):
    if not np.isfinite(high):
        return f"over {low:g}"
    return f"{low:g}" if high == low else f"{low:g} to {high:g}"


def _nice_bins(most):
    """0, 1, 2, 3, then ranges of increasing width, up to the maximum."""
    bins = [0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 1_000_000]
    return bins[: next(k for k, edge in enumerate(bins) if edge > most) + 1]


def _image_sizes(dataset):
    sizes, _, counts = different_sizes(np.array(dataset.image_sizes, np.int64).reshape(-1, 2))
    order = np.argsort(-counts, kind="stable")
    return [{"height": int(sizes[k][0]), "width": int(sizes[k][1]), "images": int(counts[k])} for k in order]
