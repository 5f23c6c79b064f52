"""A report as one HTML file, without anything from elsewhere: figures, findings, images with their objects."""

import base64
import html
import io
import itertools

import numpy as np
from PIL import Image

from keras_maskrcnn.data.images import RGB, ImageError
from keras_maskrcnn.files import write_text
from keras_maskrcnn.visualize import draw_ground_truth

PICTURES = 24
_SIDE = 320  # pixels of a picture's long side
_CAPTIONED = 12  # with more objects than this, names and boxes would hide the image
_SHOWN = 200  # findings of a kind on the page; the JSON has all
_OPEN = 10  # findings of a kind that are shown without a click
_ROWS = 100  # classes and image sizes on the page

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #1d2733 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .6em; border-bottom: 1px solid #d5dce3 }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #3b82c4; height: .8em; display: inline-block; min-width: 1px } td.b { width: 210px }
.tiles { display: flex; flex-wrap: wrap; gap: 1em } .tile { background: #f1f5f9; border-radius: 6px; padding: .6em 1em }
.tile b { display: block; font-size: 1.5em } .error { color: #b3261e }
.warning { color: #9a6700 } .note { color: #4b5a69 }
.side { display: flex; flex-wrap: wrap; gap: 3em } .pictures { display: flex; flex-wrap: wrap; gap: 10px }
figure { margin: 0; width: 250px } figure img { max-width: 250px; max-height: 250px } figcaption { font-size: .75em;
overflow-wrap: anywhere } details { margin: .3em 0 } summary { cursor: pointer } li { overflow-wrap: anywhere }
pre { background: #f1f5f9; padding: .8em; overflow: auto }
"""


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
        f"<h1>{_text(title)}</h1>",
        _tiles(report),
        "<h2>Findings</h2>",
        _findings(report["findings"]),
        "<h2>Proposed config</h2>",
        _proposal(report["proposal"], command),
        "<h2>Anchor recall at this input size</h2>",
        _recall(report["anchor_recall"]),
        "<h2>Classes</h2>",
        _bars(report["classes"][:_ROWS], "name", "objects", "class", "images"),
        "<h2>Objects</h2><div class=side>",
        _bars(report["objects_an_image_histogram"], "range", "count", "objects an image"),
        _bars(report["object_side_histogram"], "range", "count", "side, image pixels"),
        "</div><h2>Image sizes</h2>",
        _bars(_sizes(report["image_sizes"]), "size", "images", "height x width"),
        "<h2>Pixels</h2>",
        *map(_pixels, report["pixels"]),
        "<h2>Images with their objects</h2><div class=pictures>",
        *_pictures(report, dataset),
        "</div>",
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title><style>{_STYLE}</style>"
    write_text(path, head + "\n".join(parts) + "</html>\n")


def _text(value):
    return html.escape(str(value))


def _tiles(report):
    severities = [found["severity"] for found in report["findings"]]
    tiles = [
        ("images", report["images"]),
        ("without objects", report["images_without_objects"]),
        ("objects", report["objects"]),
        ("classes", len(report["classes"])),
        ("errors", severities.count("error")),
        ("warnings", severities.count("warning")),
        ("notes", severities.count("note")),
    ]
    if report["seconds"] is not None:
        tiles.append(("seconds", f"{report['seconds']:.1f}"))
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{_text(n)}</b>{name}</div>" for name, n in tiles) + "</div>"
    )


def _findings(findings):
    if not findings:
        return "<p>Nothing was found to be wrong.</p>"
    parts = []
    for (severity, kind), group in itertools.groupby(findings, key=lambda found: (found["severity"], found["kind"])):
        group = list(group)
        items = "".join(f"<li>{_text(found['where'])}: {_text(found['message'])}" for found in group[:_SHOWN])
        more = f"<li>... and {len(group) - _SHOWN} more (all are in the JSON)" if len(group) > _SHOWN else ""
        summary = f"<b class={severity}>{severity}</b> {_text(kind)}: {len(group)}"
        parts.append(
            f"<details{' open' * (len(group) <= _OPEN)}><summary>{summary}</summary><ul>{items}{more}</ul></details>"
        )
    return "".join(parts)


def _proposal(options, command):
    rows = "".join(f"<tr><td>{name}<td>{_text(value)}" for name, value in options.items())
    return f"<table>{rows}</table><p>To train with it:</p><pre>{_text(command)}</pre>"


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
        f"<p>{kind['images']} images of {_text(kind['dtype'])}, {kind['channels']} channels{alpha}</p><table><tr>"
        "<th class=n>channel<th class=n>least<th class=n>most<th class=n>mean<th class=n>standard deviation"
        f"{rows}</table>"
    )


def _bars(rows, name, count, title, second=None):
    most = max((row[count] for row in rows), default=0) or 1
    cells = "".join(
        f"<tr><td>{_text(row[name])}<td class=n>{row[count]}" + (f"<td class=n>{row[second]}" if second else "")
        + f"<td class=b><span class=bar style='width:{100 * row[count] / most:.1f}%'></span>"
        for row in rows
    )  # fmt: skip
    head = f"<th>{title}<th class=n>{count}" + (f"<th class=n>{second}" if second else "")
    return f"<div><table><tr>{head}<th>{cells}</table></div>"


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
    title = f"image {entry.image_id}: {len(annotations)} objects" + (f" ({', '.join(kinds)})" if kinds else "")
    try:
        image = dataset.load_image(position, *pixels)
    except ImageError:
        return f"<figure><figcaption class=error>{_text(title)}</figcaption></figure>"
    few = len(annotations) <= _CAPTIONED
    enlarge = max(1, _SIDE // max(image.shape[:2]))
    picture = Image.fromarray(draw_ground_truth(image, annotations, names, captions=few, boxes=few, enlarge=enlarge))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<figure><img alt='' src='data:image/jpeg;base64,{data}'><figcaption>{_text(title)}</figcaption></figure>"
