"""The report on a dataset as a page: figures, faults found, and images with their objects.

In: the dictionary of `checkup.make_report` and the dataset. Out: one HTML file that contains its pictures.
"""

import base64
import io
import itertools
import pathlib

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from keras_maskrcnn.data.coco_output import coco_annotations, is_file
from keras_maskrcnn.data.images.reading import RGB, ImageError
from keras_maskrcnn.inference.visualize import draw_ground_truth, segmentation_mask
from keras_maskrcnn.pages.html import write_page_file

PICTURES = 24
_SIDE = 320  # pixels of a picture's long side
_LARGEST = 4096  # pixels of the longest side that is drawn; drawing copies the image several times
_CAPTIONED = 12  # on images with more objects, names and boxes would hide the image and are left out
_SHOWN = 200  # findings of one kind on the page; the JSON has all
_OPEN = 10  # up to this many findings of a kind are shown without a click
_ROWS = 100  # classes and image sizes on the page


def write_page(report, dataset, path, command):
    """Write the page of a report, whole or not at all.

    Args:
        report: dict of `report.make_report`.
        dataset: the Dataset that was inspected, for the pictures.
        path: file to write.
        command: str, the command that trains with the proposal.
    """
    write_page_file(
        path,
        "dataset.html",
        title=f"Dataset check: {report['dataset']}",
        summary=_summary(report),
        findings=_findings(report["findings"]),
        proposal=report["proposal"],
        command=command,
        recall=[_recall(row) for row in report["anchor_recall"]],
        classes=report["classes"][:_ROWS],
        objects_an_image=report["objects_an_image_histogram"],
        object_side=report["object_side_histogram"],
        image_sizes=[row | {"size": f"{row['height']} x {row['width']}"} for row in report["image_sizes"][:_ROWS]],
        pixels=[_pixels(kind) for kind in report["pixels"]],
        pictures=_pictures(report, dataset),
    )


def _summary(report):
    """List of (name, value): the figures at the top of the page."""
    severities = [found["severity"] for found in report["findings"]]
    figures = [
        ("images", report["images"]),
        ("without objects", report["images_without_objects"]),
        ("objects", report["objects"]),
        ("classes", len(report["classes"])),
        ("errors", severities.count("error")),
        ("warnings", severities.count("warning")),
        ("notes", severities.count("note")),
    ]
    if report["seconds"] is not None:
        figures.append(("seconds", f"{report['seconds']:.1f}"))
    return figures


def _findings(findings):
    """Group findings by severity and kind; they come sorted by these."""
    groups = []
    for (severity, kind), group in itertools.groupby(findings, key=lambda found: (found["severity"], found["kind"])):
        group = list(group)
        row = {"severity": severity, "kind": kind, "count": len(group), "shown": group[:_SHOWN]}
        groups.append(row | {"open": len(group) <= _OPEN})
    return groups


def _recall(row):
    shares = ["-" if row[key] is None else f"{row[key]:.1%}" for key in ("recall_50", "recall_70")]
    return [row["size"], row["objects"], *shares]


def _pixels(kind):
    """The channels of one kind of images: one row each."""
    columns = zip(kind["least"], kind["most"], kind["mean"], kind["std"], strict=True)
    rows = [[number, *(f"{value:g}" for value in values)] for number, values in enumerate(columns, start=1)]
    return {name: kind[name] for name in ("images", "dtype", "channels", "alpha")} | {"rows": rows}


def _pictures(report, dataset):
    """Images with findings first, then others, evenly from the whole dataset."""
    findings = report["findings"]
    pixels = (None, None) if "pixel_mean" in report["proposal"] else RGB
    noted = list(dict.fromkeys(found["image"] for found in findings if found["image"] is not None))[: PICTURES // 2]
    evenly = np.linspace(0, len(dataset) - 1, PICTURES).round().astype(int).tolist()
    names = {int(key): name for key, name in zip(dataset.category_ids, dataset.class_names, strict=True)}
    for position in list(dict.fromkeys([*noted, *evenly]))[:PICTURES]:
        found = [finding["kind"] for finding in findings if finding["image"] == position]
        yield _picture(dataset, position, pixels, coco_annotations(dataset, position), names, sorted(set(found)))


def _picture(dataset, position, pixels, annotations, names, kinds):
    """Dict of title and data, str: a JPEG in base64; None if the image cannot be read."""
    entry = dataset[position]
    name = pathlib.Path(entry.source).name if is_file(entry) else f"image {entry.image_id}"
    count = f"{len(annotations)} object{'s' * (len(annotations) != 1)}"
    title = f"{name}: {count}" + (f" ({', '.join(kinds)})" if kinds else "")
    try:
        image = dataset.load_image(position, *pixels)
    except ImageError:
        return {"title": title, "data": None}
    image, annotations = _shrunk(image, annotations)
    few = len(annotations) <= _CAPTIONED
    enlarge = max(1, _SIDE // max(image.shape[:2]))
    picture = Image.fromarray(draw_ground_truth(image, annotations, names, captions=few, boxes=few, enlarge=enlarge))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return {"title": title, "data": base64.b64encode(file.getvalue()).decode()}


def _shrunk(image, annotations):
    """Every k-th pixel of an image that is too large to draw, and its annotations in that frame."""
    step = -(-max(image.shape[:2]) // _LARGEST)
    if step == 1:
        return image, annotations
    small = []
    for annotation in annotations:
        mask = segmentation_mask(annotation["segmentation"], image.shape[:2])[::step, ::step]
        code = rle.encode(np.asfortranarray(mask, np.uint8))
        small.append({**annotation, "bbox": [side / step for side in annotation["bbox"]], "segmentation": code})
    return image[::step, ::step], small
