"""Writers of tools that keep JSON: COCO, labelme, VIA 2 and Label Studio.

Comes in: a list of `Draft`. Goes out: {path inside the folder: text}. Called by `writing.py`.
"""

import base64
import io
import json
import os

import numpy as np
from PIL import Image

from keras_maskrcnn.geometry.codes import window_code
from keras_maskrcnn.labelling.drafts import from_root, local_root


def coco_files(drafts, names, folder):
    """Ground truth as COCO's instances file, masks as run lengths: nothing is lost. `score` is an extra field."""
    root = local_root(drafts)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images, annotations = [], []
    for image_id, draft in enumerate(drafts, start=1):
        size = draft.height, draft.width
        images.append({"id": image_id, "file_name": from_root(draft, root), "height": size[0], "width": size[1]})
        for one in draft.objects:
            height, width = one.window.shape
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[one.name],
                    "bbox": [float(side) for side in (one.x, one.y, width, height)],
                    "area": float(one.window.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(size), "counts": window_code(one.window, one.x, one.y, size)},
                    "score": round(one.score, 4),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"annotations/instances_default.json": _text(content)}  # where Datumaro looks for it


def labelme_files(drafts, names, folder):
    """A file for each image. Parts share a `group_id`; an object with holes is a shape of the kind mask.

    labelme keeps the field `score` when it saves.
    """
    local_root(drafts)
    files = {}
    for draft in drafts:
        shapes = []
        for number, one in enumerate(draft.objects, start=1):
            shapes += _labelme_shapes(one, number)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(draft.file, folder),
            "imageData": None,
            "imageHeight": draft.height,
            "imageWidth": draft.width,
        }
        files[f"{draft.stem}.json"] = _text(content)
    return files


def _labelme_shapes(one, number):
    shape = {"label": one.name, "description": "", "flags": {}, "mask": None, "score": round(one.score, 4)}
    if one.has_holes:
        height, width = one.window.shape
        file = io.BytesIO()
        Image.fromarray(one.window).save(file, "PNG")
        corners = [[one.x, one.y], [one.x + width - 1, one.y + height - 1]]
        mask = {"mask": base64.b64encode(file.getvalue()).decode(), "points": corners, "shape_type": "mask"}
        return [shape | mask | {"group_id": None}]
    outer, _ = one.rings
    group = number if len(outer) > 1 else None
    return [shape | {"points": _points(ring), "shape_type": "polygon", "group_id": group} for ring in outer]


def via_files(drafts, names, folder):
    """A project of VIA 2, with the attributes `class` and `score`. Parts and holes are joined to one polygon."""
    root = local_root(drafts)
    entries = {}
    for draft in drafts:
        size = os.path.getsize(draft.file)
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in _points(one.outline)],
                    "all_points_y": [y for _, y in _points(one.outline)],
                },
                "region_attributes": {"class": one.name, "score": f"{one.score:.4f}"},
            }
            for one in draft.objects
        ]
        name = from_root(draft, root)
        entries[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    options = {name: "" for name in names}
    attributes = {
        "class": {"type": "dropdown", "description": "", "options": options, "default_options": {}},
        "score": {"type": "text", "description": "", "default_value": ""},
    }
    content = {
        "_via_settings": {"core": {"default_filepath": os.path.join(root, "")}, "project": {"name": "predictions"}},
        "_via_img_metadata": entries,
        "_via_attributes": {"region": attributes, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    }
    return {"via_project.json": _text(content)}


def label_studio_files(drafts, names, folder):
    """Tasks with predictions, and the labelling setup. Parts and holes are joined to one polygon.

    Images are those of Label Studio's local files storage, whose root is the folder that all images lie in.
    """
    root = local_root(drafts)
    tasks = []
    for draft in drafts:
        results = [_label_studio_result(one, number, draft) for number, one in enumerate(draft.objects, start=1)]
        scores = [one.score for one in draft.objects]
        prediction = {"model_version": "keras-maskrcnn", "result": results}
        prediction["score"] = round(float(np.mean(scores)), 4) if scores else 0.0
        image = f"/data/local-files/?d={from_root(draft, root)}"
        tasks.append({"data": {"image": image}, "predictions": [prediction]})
    return {"tasks.json": _text(tasks), "label_config.xml": _label_config(names)}


def _label_studio_result(one, number, draft):
    percent = 100 / np.array([draft.width, draft.height])
    value = {"points": (one.outline * percent).round(5).tolist(), "closed": True, "polygonlabels": [one.name]}
    return {
        "id": str(number),
        "type": "polygonlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": draft.width,
        "original_height": draft.height,
        "image_rotation": 0,
        "value": value,
        "score": round(one.score, 4),
    }


def _label_config(names):
    from xml.etree import ElementTree

    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = ElementTree.SubElement(view, "PolygonLabels", name="label", toName="image")
    for name in names:
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _points(ring):
    return [[round(float(x), 2), round(float(y), 2)] for x, y in ring]


def _text(content):
    return json.dumps(content, ensure_ascii=False, indent=1)
