"""What napari calls, as `napari.yaml` declares it: a reader, a writer and a widget. Nothing of napari is imported.

Layers are napari's tuples (array, dict of options, kind). Objects are a labels layer: a pixel holds the number of its
object, 0 for none, and the table `features` has a row for each number, with class and score. `docs/napari.md` has the
rest.
"""

import json
import pathlib

import numpy as np
from pycocotools import mask as rle

from keras_maskrcnn.data.readers.opener import open_dataset
from keras_maskrcnn.geometry.contours import window_of_code
from keras_maskrcnn.host.files import write_text
from keras_maskrcnn.labelling.analysis_files import label_image
from keras_maskrcnn.labelling.drafts import Draft, DraftObject, make_drafts
from keras_maskrcnn.labelling.json_files import coco_files

MOST_IMAGES = 20  # of a file: each becomes two layers
_OBJECT = "object"  # class of a layer without classes


def get_reader(path):
    """A function that makes layers of an annotation file, or None of a file that has none: napari asks other readers.

    Args:
        path: str, or a list of str.

    Returns:
        None, or function of the path: images, each with a labels layer of its objects.
    """
    if not isinstance(path, str) or pathlib.PurePath(path).suffix != ".json":
        return None
    try:
        dataset = open_dataset(path)
    except (ValueError, OSError):  # JSON of something else
        return None
    return lambda path: _layers_of(dataset, path)


def _layers_of(dataset, path):
    if len(dataset) > MOST_IMAGES:
        raise ValueError(
            f"napari shows annotation files of at most {MOST_IMAGES} images, two layers each. Received {path} with "
            f"{len(dataset)}. Divide it, or open the images and detect in them."
        )
    content, layers, files = dataset.to_coco(), [], list(dataset.records.files())
    annotations = [_with_code(one, content["images"]) for one in content["annotations"] if not one.get("iscrowd")]
    drafts = make_drafts(content["images"], annotations, content["categories"])
    for position, draft in enumerate(drafts):
        pixels = dataset.load_image(position, None, None)
        layers.append((pixels, {"name": draft.name, "metadata": {"file": str(files[position])}}, "image"))
        layers.append(_objects_layer(draft, f"{draft.stem} objects", str(files[position])))
    return layers


def _with_code(annotation, images):
    """An annotation as a result: its mask as run lengths, and a score."""
    code = annotation["segmentation"]
    if isinstance(code, list):
        size = next((one["height"], one["width"]) for one in images if one["id"] == annotation["image_id"])
        code = rle.merge(rle.frPyObjects(code, *size))
    return {"score": 1.0} | annotation | {"segmentation": code}


def _objects_layer(draft, name, file):
    """A labels layer of a Draft; where objects overlap, the surest is on top."""
    features = {
        "index": [0, *range(1, len(draft.objects) + 1)],
        "class": ["", *(one.name for one in draft.objects)],
        "score": [0.0, *(round(one.score, 4) for one in draft.objects)],
    }
    return label_image(draft), {"name": name, "features": features, "metadata": {"file": file}}, "labels"


def write_objects(path, data, attributes):
    """Write a labels layer as a COCO file.

    Args:
        path: str, to write. data: int (H, W). attributes: dict of the layer: `name`, `features` and `metadata`.

    Returns:
        list of the written path.
    """
    labels = np.asarray(data)
    if labels.ndim != 2:
        raise ValueError(
            f"Objects are written of a layer of two axes. Received one of the shape {labels.shape}. "
            "Choose one image of the stack."
        )
    table = {name: list(column) for name, column in dict(attributes.get("features") or {}).items()}
    numbers = table.get("index", list(range(len(next(iter(table.values()), [])))))
    rows = {int(number): row for row, number in enumerate(numbers)}
    objects = []
    for number in np.unique(labels[labels > 0]).tolist():
        row = rows.get(number)
        name = str(table["class"][row]) if row is not None and "class" in table else _OBJECT
        score = float(table["score"][row]) if row is not None and "score" in table else 1.0
        code = rle.encode(np.asfortranarray(labels == number).astype(np.uint8))
        objects.append(DraftObject(name or _OBJECT, score, *window_of_code(code)))
    file = str((attributes.get("metadata") or {}).get("file") or attributes.get("name") or "image.png")
    draft = Draft(file, pathlib.PurePath(file).name, *labels.shape, objects)
    names = list(dict.fromkeys(one.name for one in objects)) or [_OBJECT]
    (text,) = coco_files([draft], names, None).values()
    content = json.loads(text)
    content["images"][0]["file_name"] = file
    write_text(pathlib.Path(path), json.dumps(content))
    return [str(path)]


def detect(image: "napari.types.ImageData", model: pathlib.Path, score: float = 0.5) -> "napari.types.LayerDataTuple":  # noqa: F821
    """Detect the objects of an image layer; napari makes a form of the arguments.

    Args:
        image: (H, W) or (H, W, C). model: a .keras file, run folder or export. score: the least one of a detection.

    Returns:
        A labels layer.
    """
    from keras_maskrcnn.scale.models import open_predictor  # the framework

    found = open_predictor(model, score)(np.asarray(image))
    height, width = found.image_size
    entry = {"id": 0, "file_name": "image.png", "height": height, "width": width}
    categories = [{"id": key, "name": name} for key, name in zip(found.category_ids, found.class_names, strict=True)]
    (draft,) = make_drafts([entry], found.to_coco(0), categories)
    return _objects_layer(draft, "objects", "")
