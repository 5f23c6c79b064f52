"""The function that CVAT's automatic annotation calls through nuclio: an image comes in, masks go out.

`make_function.py` puts it into a folder with a model and the `function.yaml` of its classes.
"""

import base64
import io
import json
import os

from PIL import Image

from keras_maskrcnn.labelling.drafts import DraftObject


def init_context(context):
    """Open the model. Called once by nuclio."""
    import keras_maskrcnn as km

    context.user_data.predictor = km.Predictor(os.environ.get("MODEL", "/opt/nuclio/model.keras"))


def handler(context, event):
    """Answer a request, whose body has the image in base64 and perhaps a threshold of scores."""
    image = Image.open(io.BytesIO(base64.b64decode(event.body["image"])))
    found = context.user_data.predictor(image)
    body = json.dumps(shapes(found, float(event.body.get("threshold") or 0)))
    return context.Response(body=body, headers={}, content_type="application/json", status_code=200)


def shapes(found, least=0.0):
    """What was found, as CVAT's server reads it.

    Args:
        found: FoundInstances. least: float, objects with a lower score are left out.

    Returns:
        List of dict: `mask` has the pixels of the object's box row by row, then the box with its last pixel [left, top,
        right, bottom]; `points` is one polygon, which CVAT takes instead where polygons are asked for.
    """
    results = []
    for (window, x, y), label, score in zip(found.mask_windows, found.labels, found.scores, strict=True):
        if score < least or not window.any():
            continue
        (height, width), x, y = window.shape, int(x), int(y)
        results.append(
            {
                "confidence": f"{score:.4f}",
                "label": found.class_names[label],
                "type": "mask",
                "points": DraftObject("", 0.0, window, x, y).outline.ravel().round(2).tolist(),
                "mask": [*window.astype(int).ravel().tolist(), x, y, x + width - 1, y + height - 1],
            }
        )
    return results
