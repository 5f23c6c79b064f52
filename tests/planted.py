"""Twenty faults of different kinds, planted into a COCO dataset: what check-data must find, and nothing else."""

import copy
import shutil

import numpy as np
from PIL import Image


def plant(content, folder):
    """Spoil a dataset in twenty ways, each in an image of its own.

    Args:
        content: COCO dictionary, changed in place; at least 18 images with a polygon of 400 pixels or more.
        folder: Path of the images (JPEG or PNG), changed in place.

    Returns:
        {kind of the fault: words that the finding about it must hold}.
    """
    return {name: fault(*arguments) for name, (fault, arguments) in _plan(content, folder).items()}


def _plan(content, folder):
    polygons = {}
    for annotation in content["annotations"]:
        usable = isinstance(annotation["segmentation"], list) and annotation["area"] >= 400
        if usable and not annotation.get("iscrowd"):
            polygons.setdefault(annotation["image_id"], annotation)
    images = [entry for entry in content["images"] if entry["id"] in polygons]
    faults = (
        truncated, no_image, missing, swapped, resized, turned, outside, partly_outside, empty, two_points, crossing,
        sliver, unknown_class, unknown_image, id_twice, object_twice, two_classes, same_file, saved_again, foreign_box,
    )  # fmt: skip
    return {
        fault.__name__: (fault, (content, folder, images[k], polygons[images[k]["id"]]))
        for k, fault in enumerate(faults)
    }


def _new_id(content):
    return max(annotation["id"] for annotation in content["annotations"]) + 1


def _of(annotation, image):
    return [f"annotation {annotation['id']} of", image["file_name"]]


def truncated(content, folder, image, annotation):
    path = folder / image["file_name"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return ["unreadable image", image["file_name"], "complete"]


def no_image(content, folder, image, annotation):
    (folder / image["file_name"]).write_text("<html>404 not found</html>")
    return ["unreadable image", image["file_name"], "cut off or damaged"]


def missing(content, folder, image, annotation):
    (folder / image["file_name"]).unlink()
    return [image["file_name"], "does not exist"]


def swapped(content, folder, image, annotation):
    """The file is turned after its objects were drawn; they stay inside, where they count as before."""
    path = folder / image["file_name"]
    with Image.open(path) as picture:
        turned_picture = picture.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    turned_picture.save(path)
    return ["sides swapped", image["file_name"], f"{image['height']} x {image['width']}"]


def resized(content, folder, image, annotation):
    path = folder / image["file_name"]
    with Image.open(path) as picture:
        smaller = picture.convert("RGB").resize((image["width"] // 2, image["height"] // 2))
    smaller.save(path)
    return ["wrong size", image["file_name"], f"{image['height'] // 2} x {image['width'] // 2}"]


def turned(content, folder, image, annotation):
    """Stored turned, with the orientation that turns it back."""
    path = folder / image["file_name"]
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        stored = picture.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif)
    return ["EXIF turn", image["file_name"], "orientation 6"]


def outside(content, folder, image, annotation):
    x = image["width"] + 10
    annotation |= {"segmentation": [[x, 5, x + 30, 5, x + 30, 40]], "bbox": [x, 5, 30, 35]}
    return [*_of(annotation, image), "covers no area of its image"]


def partly_outside(content, folder, image, annotation):
    width, height = image["width"], image["height"]
    square = [width - 20, height - 30, width + 20, height - 30, width + 20, height - 5, width - 20, height - 5]
    annotation |= {"segmentation": [square], "bbox": [width - 20, height - 30, 20, 25]}
    return ["partly outside", *_of(annotation, image), "by 20.0 pixels"]


def empty(content, folder, image, annotation):
    annotation["segmentation"] = []
    return [*_of(annotation, image), "no segmentation"]


def two_points(content, folder, image, annotation):
    annotation["segmentation"] = [[10, 10, 30, 30]]
    return [*_of(annotation, image), "at least three"]


def crossing(content, folder, image, annotation):
    annotation |= {"segmentation": [[5, 5, 55, 55, 55, 5, 5, 56]], "bbox": [5, 5, 50, 51]}
    return ["outline crosses itself", *_of(annotation, image), "sides 0 and 2"]


def sliver(content, folder, image, annotation):
    annotation |= {"segmentation": [[10.1, 10.1, 10.3, 10.1, 10.3, 10.3, 10.1, 10.3]], "bbox": [10.1, 10.1, 0.2, 0.2]}
    return ["zero area", *_of(annotation, image), "no pixel"]


def unknown_class(content, folder, image, annotation):
    annotation["category_id"] = 999
    return [*_of(annotation, image), "category_id 999"]


def unknown_image(content, folder, image, annotation):
    new = copy.deepcopy(annotation) | {"id": _new_id(content), "image_id": 999_999_999}
    content["annotations"].append(new)
    return [f"annotation {new['id']}", "999999999"]


def id_twice(content, folder, image, annotation):
    """The same number for another object elsewhere in the image."""
    new = copy.deepcopy(annotation) | {"segmentation": [[2, 2, 30, 2, 30, 30, 2, 30]], "bbox": [2, 2, 28, 28]}
    content["annotations"].append(new)
    return [f"annotation {annotation['id']}", "used twice"]


def object_twice(content, folder, image, annotation):
    new = copy.deepcopy(annotation) | {"id": _new_id(content)}
    content["annotations"].append(new)
    return ["annotated twice", f"{annotation['id']} and {new['id']}", image["file_name"]]


def two_classes(content, folder, image, annotation):
    other = next(c["id"] for c in content["categories"] if c["id"] != annotation["category_id"])
    new = copy.deepcopy(annotation) | {"id": _new_id(content), "category_id": other}
    content["annotations"].append(new)
    return ["one object, two classes", f"{annotation['id']} and {new['id']}", image["file_name"]]


def same_file(content, folder, image, annotation):
    name = "copied-" + image["file_name"]
    shutil.copy(folder / image["file_name"], folder / name)
    content["images"].append(image | {"id": 900_001, "file_name": name})
    return ["image twice", name, "the same file as", image["file_name"]]


def saved_again(content, folder, image, annotation):
    name = "again-" + image["file_name"].rsplit(".", 1)[0] + ".png"
    with Image.open(folder / image["file_name"]) as picture:
        brighter = np.clip(np.asarray(picture.convert("RGB")) * 1.1, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(folder / name)
    content["images"].append(image | {"id": 900_002, "file_name": name})
    return ["image twice", name, "re-saved copy", image["file_name"]]


def foreign_box(content, folder, image, annotation):
    annotation |= {"segmentation": [[40, 40, 60, 40, 60, 60, 40, 60]], "bbox": [1, 1, 15, 15]}
    return ["bbox does not fit", *_of(annotation, image), "[1.0, 1.0, 15.0, 15.0]"]
