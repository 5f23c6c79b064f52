"""The report on a dataset as a page: figures, findings, images with their objects."""

import base64
import io
import itertools
import pathlib

import numpy as np
from PIL import Image

from keras_maskrcnn.data.coco_output import is_file
from keras_maskrcnn.data.images.reading import RGB, ImageError
from keras_maskrcnn.inference.visualize import draw_ground_truth
from keras_maskrcnn.pages.html import bars, details, escape, options_table, tiles, write_html

PICTURES = 24
_SIDE = 320  # pixels of a picture's long side
_CAPTIONED = 12  # with more objects than this, names and boxes would hide the image
_SHOWN = 200  # findings of a kind on the page; the JSON has all
_OPEN = 10  # findings of a kind that are shown without a click
_ROWS = 100  # classes and image sizes on the page


def write_page(report, dataset, path, command):
    """Write the page of a report, whole or not at all.

    Args:
        report: dict of `report.make_report`.
        dataset: the Dataset that it is about, for the pictures.
        path: file to write.
        command: str, what to type to train with the proposal.
    """
    title = f"Dataset check: {report['dataset']}"
    parts = [
        _tiles(report),
        "<h2>Findings</h2>",
        _findings(report["findings"]),
        "<h2>Proposed config</h2>",
        _proposal(report["proposal"], command),
        "<h2>Anchor recall at this input size</h2>",
        _recall(report["anchor_recall"]),
        "<h2>Classes</h2>",
        bars(report["classes"][:_ROWS], "name", "objects", "class", "images"),
        "<h2>Objects</h2><div class=side>",
        bars(report["objects_an_image_histogram"], "range", "count", "objects an image"),
        bars(report["object_side_histogram"], "range", "count", "side, image pixels"),
        "</div><h2>Image sizes</h2>",
        bars(_sizes(report["image_sizes"]), "size", "images", "height x width"),
        "<h2>Pixels</h2>",
        *map(_pixels, report["pixels"]),
        "<h2>Images with their objects</h2><div class=pictures>",
        *_pictures(report, dataset),
        "</div>",
    ]
    write_html(path, title, parts)


def _tiles(report):
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
    return tiles(figures)


def _findings(findings):
    if not findings:
        return "<p>Nothing was found to be wrong.</p>"
    parts = []
    for (severity, kind), group in itertools.groupby(findings, key=lambda found: (found["severity"], found["kind"])):
        group = list(group)
        items = "".join(f"<li>{escape(found['where'])}: {escape(found['message'])}" for found in group[:_SHOWN])
        more = f"<li>... and {len(group) - _SHOWN} more (all are in the JSON)" if len(group) > _SHOWN else ""
        summary = f"<b class={severity}>{severity}</b> {escape(kind)}: {len(group)}"
        parts.append(details(summary, f"<ul>{items}{more}</ul>", opened=len(group) <= _OPEN))
    return "".join(parts)


def _proposal(options, command):
    return f"{options_table(options)}<p>To train with it:</p><pre>{escape(command)}</pre>"


def _recall(rows):
    cells = "".join(
        f"<tr><td>{row['size']}<td class=n>{row['objects']}<td class=n>{_share(row['recall_50'])}"
        f"<td class=n>{_share(row['recall_70'])}"
        for row in rows
    )
    return (
        "<p>The share of objects that some anchor overlaps by half, and by 0.7. Sizes are square roots of box areas in "
        "network pixels. Where the first is well below 100 %, objects will be missed: enlarge the input or choose "
        "other anchor sizes.</p><table><tr><th>size<th class=n>objects<th class=n>IoU 0.5<th class=n>IoU 0.7"
        f"{cells}</table>"
    )


def _share(value):
    return "-" if value is None else f"{value:.1%}"


def _sizes(rows):
    return [row | {"size": f"{row['height']} x {row['width']}"} for row in rows[:_ROWS]]


def _pixels(kind):
    """A table of the channels of one kind of images."""
    alpha = ", and one of transparency, which is left out" if kind["alpha"] else ""
    rows = "".join(
        f"<tr><td class=n>{number}" + "".join(f"<td class=n>{value:g}" for value in values)
        for number, *values in zip(
            range(1, kind["channels"] + 1), kind["least"], kind["most"], kind["mean"], kind["std"], strict=True
        )
    )
    return (
        f"<p>{kind['images']} images of {escape(kind['dtype'])}, {kind['channels']} channels{alpha}</p><table><tr>"
        "<th class=n>channel<th class=n>least<th class=n>most<th class=n>mean<th class=n>standard deviation"
        f"{rows}</table>"
    )


def _pictures(report, dataset):
    """Images with findings first, then others, evenly from the whole dataset."""
    findings = report["findings"]
    pixels = (None, None) if "pixel_mean" in report["proposal"] else RGB
    noted = list(dict.fromkeys(found["image"] for found in findings if found["image"] is not None))[: PICTURES // 2]
    evenly = np.linspace(0, len(dataset) - 1, PICTURES).round().astype(int).tolist()
    truth = dataset.to_coco()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    objects = {}
    for annotation in truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    for position in list(dict.fromkeys([*noted, *evenly]))[:PICTURES]:
        found = [finding["kind"] for finding in findings if finding["image"] == position]
        annotations = objects.get(dataset[position].image_id, [])
        yield _figure(dataset, position, pixels, annotations, names, sorted(set(found)))


def _figure(dataset, position, pixels, annotations, names, kinds):
    entry = dataset[position]
    name = pathlib.Path(entry.source).name if is_file(entry) else f"image {entry.image_id}"
    count = f"{len(annotations)} object{'s' * (len(annotations) != 1)}"
    title = f"{name}: {count}" + (f" ({', '.join(kinds)})" if kinds else "")
    try:
        image = dataset.load_image(position, *pixels)
    except ImageError:
        return f"<figure><figcaption class=error>{escape(title)}</figcaption></figure>"
    few = len(annotations) <= _CAPTIONED
    enlarge = max(1, _SIDE // max(image.shape[:2]))
    picture = Image.fromarray(draw_ground_truth(image, annotations, names, captions=few, boxes=few, enlarge=enlarge))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<figure><img alt='' src='data:image/jpeg;base64,{data}'><figcaption>{escape(title)}</figcaption></figure>"
