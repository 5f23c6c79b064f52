"""Convert a dataset to COCO JSON, for the evaluation, and as a file for CocoDataset and other tools.

Called by `Dataset.to_coco`, and by evaluation.
"""

import hashlib
import io
import json
import pathlib

import numpy as np
from PIL import Image

from keras_maskrcnn.host.addresses import as_path, relative_name
from keras_maskrcnn.host.files import write_atomically, write_text
from keras_maskrcnn.host.locks import locked_file


def coco_content(dataset, names=None):
    """The ground truth as a COCO dictionary with the dataset's ids, for pycocotools.

    Annotations are numbered from 1: pycocotools takes an id of 0 for "no match". Where annotations state boxes and
    areas, these are kept; else the mask gives them.

    Args:
        dataset: Dataset.
        names: `file_name` of each image, by position; None takes the path inside `dataset.image_dir`, and "" for
            images that are no files.

    Returns:
        dict with "images", "annotations", "categories".
    """
    if names is None:
        names = file_names(dataset)
    keypoints = _keypoint_names(dataset)
    categories = [
        {"id": int(key), "name": name, **keypoints}
        for key, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    images = [
        {"id": image_id, "height": height, "width": width, "file_name": name}
        for image_id, (height, width), name in zip(dataset.image_ids, dataset.image_sizes, names, strict=True)
    ]
    annotations = [
        _annotation(record, instance, dataset.category_ids)
        for record in dataset.records
        for instance in record.instances
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {"images": images, "annotations": annotations, "categories": categories}


def _keypoint_names(dataset):
    """COCO's `keypoints` and `skeleton` of the categories, a dict; empty where the dataset names no keypoints."""
    if dataset.keypoints is None:
        return {}
    names, skeleton = list(dataset.keypoints["names"]), dataset.keypoints["skeleton"]
    return {"keypoints": names, "skeleton": [[1 + names.index(end) for end in edge] for edge in skeleton]}


def coco_annotations(dataset, position):
    """The annotations of one image, as in `coco_content` but without ids: a list of dict."""
    record = dataset[position]
    return [_annotation(record, instance, dataset.category_ids) for instance in record.instances]


def file_names(dataset):
    """The path of each image inside `dataset.image_dir`, by position; "" for images that are no files."""
    root = dataset.image_dir
    return ["" if file is None else relative_name(file, root) for file in dataset.records.files()]


def write_coco(dataset, path):
    """Write a dataset as COCO JSON. If writing fails, an existing file stays as it was, with its images.

    Args:
        dataset: Dataset.
        path: str or Path of the JSON file.

    Returns:
        dict, the content.
    """
    path = pathlib.Path(path)
    with locked_file(path):
        content = coco_with_images(dataset, path)
        write_text(path, json.dumps(content))
    return content


def coco_with_images(dataset, path):
    """The content of a COCO file that is to be written at `path`; writes the images that are no files.

    These (arrays, or images embedded in annotation files) are written as PNG or TIFF, with all their channels, into the
    folder `<stem of path>_images` beside it. The `file_name`s are relative to `coco_image_dir`. Files that are there
    with other content are left alone, because an older COCO file may name them: the new ones get other names.

    Args:
        dataset: Dataset.
        path: Path of the JSON file, which is not written.

    Returns:
        dict as `coco_content`.
    """
    root = dataset.image_dir or _images_folder(path)
    names = [
        _write_image(dataset, index, _images_folder(path), root) if file is None else relative_name(file, root)
        for index, file in enumerate(dataset.records.files())
    ]
    return coco_content(dataset, names)


def coco_image_dir(dataset, path):
    """The folder that the `file_name`s in a COCO file written by `write_coco` are relative to.

    Args:
        dataset: Dataset.
        path: str or Path of the JSON file.

    Returns:
        Path: `dataset.image_dir`, or the folder that `write_coco` makes where no image is a file.
    """
    return as_path(dataset.image_dir or _images_folder(pathlib.Path(path)))


def is_file(record):
    """Whether an image is stored in its own file."""
    return isinstance(record.source, (str, pathlib.Path))


def _images_folder(path):
    return path.with_name(f"{path.stem}_images")


def _write_image(dataset, index, folder, root):
    """Write an image from memory as PNG, or as TIFF if PNG cannot hold it. Returns its name relative to `root`."""
    pixels = dataset.load_image(index, None, None)
    content = io.BytesIO()
    png = pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3, 4)
    if png:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    else:
        _write_tiff(content, pixels)
    file = folder / f"{index + 1:06d}.{'png' if png else 'tif'}"
    return relative_name(_write_beside(file, content.getvalue()), root)


def _write_beside(file, content):
    """Write bytes to a file, or to one with another name if it has other content. Returns the path with the content."""
    other = file.with_stem(f"{file.stem}-{hashlib.sha256(content).hexdigest()[:16]}")
    for path in (file, other):
        if not path.exists():
            write_atomically(path, lambda place: place.write_bytes(content))
            return path
        if path.read_bytes() == content:
            return path
    raise ValueError(f"{other} must hold the image that its name stands for. Received: other content. Remove the file.")


def _write_tiff(file, pixels):
    """Write one page with interleaved samples, compressed, to an open file."""
    import tifffile  # slow to import, and only images of other channels or dtypes need it

    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    # As for arrays, the first three of four channels are RGB where a model takes three.
    colors = {"photometric": "rgb", "extrasamples": ["unspecified"]} if pixels.shape[2] == 4 else {}
    tifffile.imwrite(file, pixels, **{"photometric": "minisblack", **colors}, planarconfig="contig", compression="zlib")


def _annotation(record, instance, category_ids):
    size = (record.height, record.width)
    x1, y1, x2, y2 = (float(v) for v in instance.box)
    area = instance.area
    if area is None:
        area = float(instance.mask.window(*size).pixels.sum())
    return {
        "image_id": record.image_id,
        "category_id": int(category_ids[instance.label]),
        "bbox": list(instance.stated_box or (x1, y1, x2 - x1, y2 - y1)),
        "area": area,
        "iscrowd": int(instance.crowd),
        "segmentation": instance.mask.segmentation(*size),
        **(instance.attributes or {}),
    }
