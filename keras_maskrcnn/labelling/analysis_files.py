"""Writers for programs that analyse objects: label images, and GeoJSON as QuPath reads it.

Comes in: a list of `Draft`. Goes out: {path inside the folder: text or bytes}. Called by `writing.py`; the features of
GeoJSON also by `gigapixels/`.
"""

import colorsys
import csv
import io
import json
import uuid

import numpy as np
from PIL import Image

from keras_maskrcnn.geometry.contours import mask_polygons

_PNG_MOST = 65_535
_GOLDEN = 0.618034  # of a turn of hue from one class to the next: neighbours differ, and none is used twice


def label_files(drafts, names, folder):
    """A label image for each image: 16-bit PNG, or 32-bit TIFF of one with more than 65,535 objects."""
    return _label_files(drafts, _PNG_MOST)


def label_tiff_files(drafts, names, folder):
    """A label image for each image, 32-bit TIFF."""
    return _label_files(drafts, 0)


def _label_files(drafts, most):
    """A pixel holds the number of its object, 0 for none; where objects overlap the surest one, which has the lowest.

    objects.tsv lists the numbers with class, score and the pixels that are left of the object.
    """
    files, lines = {}, [("file", "number", "class", "score", "pixels")]
    for draft in drafts:
        labels = label_image(draft)
        large = len(draft.objects) > most
        files[f"labels/{draft.stem}.{'tif' if large else 'png'}"] = _tiff(labels) if large else _png(labels)
        pixels = np.bincount(labels.ravel(), minlength=len(draft.objects) + 1)
        for number, one in enumerate(draft.objects, start=1):
            lines.append((draft.file, number, one.name, f"{one.score:.4f}", int(pixels[number])))
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(lines)
    return files | {"objects.tsv": text.getvalue()}


def label_image(draft):
    """uint32 (H, W): the number of each pixel's object, 1 for the surest, 0 for none. The surest is on top."""
    labels = np.zeros((draft.height, draft.width), np.uint32)
    for number, one in reversed(list(enumerate(draft.objects, start=1))):
        height, width = one.window.shape
        labels[one.y : one.y + height, one.x : one.x + width][one.window] = number
    return labels


def geojson_files(drafts, names, folder):
    """A FeatureCollection of QuPath's detections for each image, outlines along the edges of pixels."""
    colors = class_colors(names)
    files = {}
    for draft in drafts:
        features = [
            feature(one.window, one.x, one.y, one.name, colors[one.name], {"score": round(one.score, 4)})
            for one in draft.objects
        ]
        files[f"{draft.stem}.geojson"] = COLLECTION_START + ",\n".join(features) + COLLECTION_END
    return files


COLLECTION_START, COLLECTION_END = '{"type": "FeatureCollection", "features": [\n', "\n]}\n"


def feature(window, x, y, name, color, measurements):
    """A detection of QuPath as the text of a GeoJSON feature.

    Args:
        window: bool (h, w), the mask, not empty. x, y: int, its upper left pixel in the image.
        name: str, the class. color: [red, green, blue], 0..255. measurements: dict of names to numbers.

    Returns:
        str, JSON in one line. Coordinates are image pixels, (0, 0) is the image's upper left corner; the outlines cover
        the mask exactly. The id is made from the content: the same object gets the same one.
    """
    corner = np.array([x, y])
    parts = [[_closed(ring + corner) for ring in (outer, *holes)] for outer, holes in mask_polygons(window)]
    several = len(parts) > 1
    geometry = {"type": "MultiPolygon" if several else "Polygon", "coordinates": parts if several else parts[0]}
    properties = {
        "objectType": "detection",
        "classification": {"name": name, "color": color},
        "measurements": measurements,
    }
    content = {"geometry": geometry, "properties": properties}
    key = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content)))
    return json.dumps({"type": "Feature", "id": key} | content, ensure_ascii=False)


def class_colors(names):
    """A colour for each class, that of its position: dict of names to [red, green, blue], 0..255."""
    hues = [(k * _GOLDEN) % 1 for k in range(len(names))]
    colors = [[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.85, 0.95)] for hue in hues]
    return dict(zip(names, colors, strict=True))


def _closed(ring):
    return [*ring.tolist(), ring[0].tolist()]


def _png(labels):
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def _tiff(labels):
    import tifffile  # slow to import

    file = io.BytesIO()
    tifffile.imwrite(file, labels, compression="zlib", photometric="minisblack")
    return file.getvalue()
