"""Reader for label images: each pixel holds the number of its object, or 0 for background.

Cellpose, StarDist, QuPath, ilastik and scikit-image write such files as 8- or 16-bit PNG or TIFF. Wider integers, and
floats with whole values, are read too. In RGB files each colour is one object. Files are read as images are
(`data/images`, docs/images.md), but for palettes, whose indices are the numbers. For one file per object see
`instance_files`.
"""

import pathlib

import numpy as np
from skimage import measure

from keras_maskrcnn.data.images.limits import MAX_LABELS
from keras_maskrcnn.data.images.reading import ImageError, stored_numbers
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import image_files, need_folder
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.records import Dataset, RunLengths, size_message
from keras_maskrcnn.geometry import rle

LABEL_FOLDERS = ("labels", "masks", "label_images", "instances")
IMAGE_FOLDERS = ("images", "image", "imgs")
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")  # after the image name
_JPEG = b"\xff\xd8\xff"  # how such a file starts, whatever its name
_LARGEST = 2**53  # floats hold all whole numbers up to here


class LabelImageDataset(Dataset):
    """Images with one label image each.

    Either `images/` and `labels/` (or `masks/`, `label_images/`, `instances/`) hold files with the same names, where
    those of label images may end in `_masks`, `_labels` or similar; or one folder holds `a.tif` and `a_masks.tif`.
    Label images have a single class. An image without objects needs a label image of zeros.

    Args:
        folder: path of the folder.
        image_dir: folder of the images, if it is a different one.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: a list with the name of the one class; None means "object".
        category_ids: a list with its id; None means 1.

    Raises:
        ValueError: the folders do not exist; or there are faults and on_error="raise": a file without its counterpart,
            another size, a black-and-white mask of several objects, or a JPEG.
    """

    def __init__(self, folder, image_dir=None, on_error="raise", class_names=None, category_ids=None):
        folder = need_folder(folder, "images and label images")
        images, labels = find_label_images(folder, image_dir)
        collector = Collector(folder, class_names)
        collector.note_others(path.parent for path in (*images.values(), *labels.values()))
        for path in images.values():
            _collect(collector, path, labels.pop(path.stem, None))
        for path in labels.values():
            collector.fault(f"label image {path}", "its image does not exist.", "Add the image, or remove the file.")
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def find_label_images(folder, image_dir=None):
    """Images and their label images: two dicts {image name without extension: path}.

    Raises:
        ValueError: the layout is unknown.
    """
    folder = pathlib.Path(folder)
    images = find_image_folder(folder, image_dir)
    annotated = next((folder / name for name in LABEL_FOLDERS if image_files(folder / name)), None)
    if annotated is None or images is None:
        annotated = images = folder
    labels = {}
    for path in image_files(annotated):
        stem = without_label_ending(path.stem)
        if annotated != images or stem != path.stem:
            labels[stem] = path
    if not labels:
        raise ValueError(
            f"Label images must be in {', '.join(name + '/' for name in LABEL_FOLDERS)} beside images/, or "
            f"beside the images, with names that end in {', '.join(LABEL_ENDINGS)}. Received {folder} without any."
        )
    used = set(labels.values())
    return {path.stem: path for path in image_files(images) if path not in used}, labels


def find_image_folder(folder, image_dir=None):
    """The folder of the images: the given one, else `images/` or similar inside `folder`, else None."""
    if image_dir is not None and pathlib.Path(image_dir) != folder:
        return need_folder(image_dir, "images")
    return next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)


def without_label_ending(stem):
    """The name of the image that belongs to a label image with this name."""
    return next((stem[: -len(end)] for end in LABEL_ENDINGS if stem.endswith(end)), stem)


def read_labels(path, colors=None):
    """The numbers in a label image.

    Args:
        path: Path.
        colors: {colour number: label} for RGB files. Colours that it lacks (all, if None) keep their `color_number`.

    Returns:
        int64 (H, W); for palette files the palette indices. Alpha is dropped.

    Raises:
        FaultyAnnotation: the file is unreadable, lossy, or does not hold whole numbers.
    """
    stored = _stored(path)
    labels = stored.pixels[..., :-1] if stored.alpha else stored.pixels
    if labels.shape[2] == 1 and _are_whole(labels):
        return labels[..., 0].astype(np.int64)
    if labels.shape[2] not in (3, 4) or not stored.rgb_first or labels.dtype not in (np.uint8, np.uint16):
        raise FaultyAnnotation(
            f"a label image must hold one whole number per pixel, or colours. Received {path} of shape {labels.shape} "
            f"(height, width, channels or pages), {labels.dtype}.",
            "Export the labels themselves, not a rendering of them.",
        )
    values, inverse = np.unique(color_number(*np.moveaxis(labels, 2, 0)[:3]), return_inverse=True)
    numbers = np.array([(colors or {}).get(int(value), int(value)) for value in values], np.int64)
    return numbers[inverse].reshape(labels.shape[:2])


def color_number(red, green, blue):
    """One number for each colour of three bytes: int64, scalar or array. Of three larger values another one each."""
    red, green, blue = (np.asarray(channel, np.int64) for channel in (red, green, blue))
    beyond = (red >> 8) * 2**24 + (green >> 8) * 2**32 + (blue >> 8) * 2**40
    return (red & 255) + (green & 255) * 2**8 + (blue & 255) * 2**16 + beyond


def label_masks(labels, void=()):
    """The mask of each number in a label image, by ascending number.

    Args:
        labels: int (H, W).
        void: numbers besides 0 that are not objects.

    Returns:
        List of (number, (RunLengths, box float32 [x1, y1, x2, y2])), image pixels.
    """
    values, numbered = np.unique(labels, return_inverse=True)
    numbered = numbered.reshape(labels.shape) + 1  # regionprops ignores 0 and needs numbers without gaps
    masks = []
    for region in measure.regionprops(numbered):
        value = int(values[region.label - 1])
        if value == 0 or value in void:
            continue
        y1, x1, y2, x2 = region.bbox
        runs = rle.encode_window(region.image, x1, y1, *labels.shape)
        masks.append((value, (RunLengths(runs.astype(np.int32)), np.array([x1, y1, x2, y2], np.float32))))
    return masks


def _stored(path):
    try:
        with open(path, "rb") as file:
            start = file.read(len(_JPEG))
    except OSError as error:
        raise FaultyAnnotation(f"{path} cannot be read: {error}.", "Check its name and its permissions.") from None
    if start == _JPEG:
        raise FaultyAnnotation("JPEG changes the numbers of a label image.", "Save it as PNG or TIFF.")
    try:
        return stored_numbers(path)
    except ImageError as error:
        raise FaultyAnnotation(str(error), "") from None


def _are_whole(labels):
    """Whether all are whole numbers that int64 holds."""
    if labels.dtype.kind == "f":
        return bool((np.abs(labels) <= _LARGEST).all() and (labels % 1 == 0).all())  # NaN and infinity are neither
    return labels.dtype != np.uint64 or labels.max() < 2**63


def _collect(collector, path, label_path):
    if label_path is None:
        collector.fault(
            f"image {path}",
            "has no label image.",
            "Add one (all zeros if the image has no objects), or remove the image.",
        )
        return
    size = collector.image_size(path)
    if size is None:
        return
    try:
        labels = read_labels(label_path)
        _check(labels, label_path, size, collector.name)
    except FaultyAnnotation as fault:
        collector.fault(f"label image {label_path}", *fault.args)
        return
    instances = [
        collector.instance(f"object {number} of {label_path}", lambda m=mask: (None, m), number)
        for number, mask in label_masks(labels)
    ]
    collector.record(path, size, instances)


def _check(labels, path, size, name):
    if labels.shape != size:
        raise FaultyAnnotation(size_message(path, name, labels.shape, size), "")
    numbers = np.unique(labels)
    if len(numbers) > MAX_LABELS:
        raise FaultyAnnotation(
            f"a label image may hold at most {MAX_LABELS} objects. Received {path} with {len(numbers)} numbers.",
            "It may be a photo: export the labels themselves.",
        )
    black_and_white = numbers.tolist() == [0, 255]
    if black_and_white and measure.label(labels, connectivity=2).max() > 1:
        raise FaultyAnnotation(
            "it holds only 0 and 255, in several regions. A black-and-white mask does not separate objects.",
            "Number the objects, for example with skimage.measure.label.",
        )
