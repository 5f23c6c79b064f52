"""What a model finds in an image, as a prediction of Label Studio: brush masks or polygons, with scores.

Comes in: FoundInstances. Goes out: a dict as Label Studio imports it. Called by `model.py`.
"""

import numpy as np
from label_studio_sdk.converter import brush

from keras_maskrcnn.labelling.drafts import DraftObject

KINDS = ("BrushLabels", "PolygonLabels")  # of labels in Label Studio's setup


def prediction(found, kind, from_name, to_name, labels, model_version):
    """A prediction of Label Studio.

    Args:
        found: FoundInstances.
        kind: one of KINDS: "BrushLabels" keeps masks pixel by pixel; "PolygonLabels" makes one polygon of each, parts
            and holes joined by lines without width.
        from_name, to_name: names of the labels and of the image in the setup.
        labels: names of the setup; objects of other classes are left out.
        model_version: str, shown beside the prediction.

    Returns:
        dict with result, score (the mean of the objects') and model_version.
    """
    height, width = found.image_size
    common = {"from_name": from_name, "to_name": to_name, "type": kind.lower(), "image_rotation": 0}
    common |= {"original_width": width, "original_height": height}
    results = []
    for number, (window, label, score) in enumerate(zip(found.mask_windows, found.labels, found.scores, strict=True)):
        name = found.class_names[label]
        if name not in labels or not window[0].any():
            continue
        shape = (
            brush_value(window, found.image_size) if kind == "BrushLabels" else polygon_value(window, (height, width))
        )
        value = shape | {kind.lower(): [name]}
        results.append(common | {"id": str(number), "value": value, "score": round(float(score), 4)})
    score = float(np.mean([one["score"] for one in results])) if results else 0.0
    return {"result": results, "score": round(score, 4), "model_version": model_version}


def brush_value(window, image_size):
    """A mask as Label Studio's run lengths.

    Args:
        window: (bool (h, w), x, y), image pixels. image_size: (height, width).

    Returns:
        dict of format and rle.
    """
    pixels, x, y = window
    mask = np.zeros(image_size, np.uint8)
    mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels * np.uint8(255)
    return {"format": "rle", "rle": brush.mask2rle(mask)}


def polygon_value(window, image_size):
    """A mask as a polygon in percent of the image: dict of points and closed. Arguments as of `brush_value`."""
    outline = DraftObject("", 0.0, *window).outline
    percent = outline * 100 / (image_size[1], image_size[0])
    return {"points": percent.round(5).tolist(), "closed": True}
