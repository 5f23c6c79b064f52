"""Reader for label images: each pixel holds the number of its object, or 0 for background.

Cellpose, StarDist, QuPath, ilastik and scikit-image write such files as 8- or 16-bit PNG or TIFF. Wider integers, and
floats with whole values, are read too. In RGB files each colour is one object. Files are read as images are
(`data/images`, docs/images.md), but for palettes, whose indices are the numbers. For one file per object see
`instance_files`.
"""

import numpy as np
from skimage import measure

from keras_maskrcnn.data.images.reading import ImageError, image_size, stored_numbers
from keras_maskrcnn.data.limits import LABEL_COUNT, LABEL_PIXELS, LABEL_SPREAD
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import IMAGE_FOLDERS, by_unique_stem, image_files, named_folders, need_folder
from keras_maskrcnn.data.records import Dataset, RunLengths, size_message
from keras_maskrcnn.geometry import rle
from keras_maskrcnn.host.addresses import as_path, open_image

LABEL_FOLDERS = ("labels", "masks", "label_images", "instances")
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")  # after the image name
_JPEG = b"\xff\xd8\xff"  # how such a file starts, whatever its name
_BLOCK = 2**22  # pixels that are counted at once


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
        collector = Collector(folder, class_names)
        images, labels = find_label_images(collector, folder, image_dir)
        collector.note_others(path.parent for path in (*images.values(), *labels.values()))
        for path in images.values():
            _collect(collector, path, labels.pop(path.stem, None))
        for path in labels.values():
            collector.fault(f"label image {path}", "its image does not exist.", "Add the image, or remove the file.")
        super().__init__(**collector.finish(category_ids), on_error=on_error)


def find_label_images(collector, folder, image_dir=None):
    """Images and their label images: two dicts {image name without extension: path}.

    Records a fault in the Collector for a second file of the same name.

    Raises:
        ValueError: the layout is unknown.
    """
    folder = as_path(folder)
    images = find_image_folder(folder, image_dir)
    annotated = next((path for path in named_folders(folder, LABEL_FOLDERS) if image_files(path)), None)
    if annotated is None or images is None:
        annotated = images = folder
    files = [path for path in image_files(annotated) if annotated != images or _has_ending(path)]
    labels = by_unique_stem(collector, files, without_label_ending)
    if not labels:
        raise ValueError(
            f"Label images must be in {', '.join(name + '/' for name in LABEL_FOLDERS)} beside images/, or "
            f"beside the images, with names that end in {', '.join(LABEL_ENDINGS)}. Received {folder} without any."
        )
    used = set(files)
    return by_unique_stem(collector, [path for path in image_files(images) if path not in used]), labels


def find_image_folder(folder, image_dir=None):
    """The folder of the images: the given one, else `images/` or similar inside `folder`, else None."""
    if image_dir is not None and as_path(image_dir) != folder:
        return need_folder(image_dir, "images")
    return next(iter(named_folders(folder, IMAGE_FOLDERS)), None)


def without_label_ending(stem):
    """The name of the image that belongs to a label image with this name."""
    return next((stem[: -len(end)] for end in LABEL_ENDINGS if stem.endswith(end)), stem)


def read_labels(path, size, name, colors=None):
    """The numbers in a label image.

    Args:
        path: Path.
        size: (height, width) that it must have, image pixels. It is compared with the file's header first.
        name: str, the dataset in messages.
        colors: {colour number: label} for RGB files. Colours that it lacks (all, if None) keep their `color_number`.

    Returns:
        int (H, W) of any width; for palette files the palette indices. Alpha is dropped.

    Raises:
        FaultyAnnotation: the file is unreadable, lossy, of another size, too large, or does not hold whole numbers.
    """
    _check_lossless(path)
    _check_header(path, size, name)
    stored = _stored(path)
    labels = stored.pixels[..., :-1] if stored.alpha else stored.pixels
    if labels.shape[2] == 1 and _is_whole(labels):
        labels = labels[..., 0]
        return labels.astype({"b": np.uint8, "f": np.int64}.get(labels.dtype.kind, labels.dtype), copy=False)
    if labels.shape[2] not in (3, 4) or not stored.rgb_first or labels.dtype not in (np.uint8, np.uint16):
        raise FaultyAnnotation(
            f"a label image must hold one whole number per pixel, or colours. Received {path} of shape {labels.shape} "
            f"(height, width, channels or pages), {labels.dtype}.",
            "Export the labels themselves, not a rendering of them.",
        )
    values, positions = numbered(color_number(*np.moveaxis(labels, 2, 0)[:3]))
    return np.array([(colors or {}).get(int(value), int(value)) for value in values])[positions]


def color_number(red, green, blue):
    """One number for each colour of three bytes: int32, scalar or array. Of 16-bit colours another one each: int64."""
    wide = any(np.max(channel) > 255 for channel in (red, green, blue))
    red, green, blue = (np.asarray(channel).astype(np.int64 if wide else np.int32) for channel in (red, green, blue))
    number = (red & 255) + (green & 255) * 2**8 + (blue & 255) * 2**16
    return number + (red >> 8) * 2**24 + (green >> 8) * 2**32 + (blue >> 8) * 2**40 if wide else number


def numbered(labels):
    """The numbers in a label image without gaps.

    Args:
        labels: int (H, W).

    Returns:
        (values: ascending int (n,), positions: int32 (H, W), so that `values[positions]` is `labels`).

    Raises:
        FaultyAnnotation: there are more different numbers than objects in an image.
    """
    rows = max(1, _BLOCK // labels.shape[1])
    values = labels[:0, 0]
    for start in range(0, len(labels), rows):
        values = np.union1d(values, labels[start : start + rows])
        if len(values) > LABEL_COUNT:
            raise FaultyAnnotation(
                f"it holds more than {LABEL_COUNT} different numbers or colours.",
                "It seems to be a picture. Export the labels, or raise the limit in keras_maskrcnn/data/limits.py.",
            )
    positions = np.empty(labels.shape, np.int32)
    for start in range(0, len(labels), rows):
        positions[start : start + rows] = np.searchsorted(values, labels[start : start + rows])
    return values, positions


def label_masks(labels, void=()):
    """The mask of each number in a label image, by ascending number.

    Args:
        labels: int (H, W).
        void: numbers besides 0 that are not objects.

    Returns:
        List of (number, (RunLengths, box float32 [x1, y1, x2, y2])), image pixels.

    Raises:
        FaultyAnnotation: there are too many numbers, or each is scattered over the image.
    """
    values, positions = numbered(labels)
    positions += 1  # regionprops ignores 0 and needs numbers without gaps
    regions = [
        region
        for region in measure.regionprops(positions)
        if values[region.label - 1] != 0 and int(values[region.label - 1]) not in void
    ]
    _check_spread(regions, labels.size)
    masks = []
    for region in regions:
        y1, x1, y2, x2 = region.bbox
        runs = rle.encode_window(region.image, x1, y1, *labels.shape)
        box = np.array([x1, y1, x2, y2], np.float32)
        masks.append((int(values[region.label - 1]), (RunLengths(runs.astype(np.int32)), box)))
    return masks


def _check_spread(regions, pixels):
    """Objects lie in one place: the boxes of numbers that are noise are all as large as the image."""
    spread = sum((y2 - y1) * (x2 - x1) for y1, x1, y2, x2 in (region.bbox for region in regions))
    if spread > LABEL_SPREAD * max(pixels, _BLOCK):
        raise FaultyAnnotation(
            f"the pixels of its {len(regions)} numbers are scattered over the image: the boxes around them have "
            f"{spread / pixels:.0f} times its area.",
            "It seems to be a picture. Export the labels.",
        )


def _check_header(path, size, name):
    """Compare a file's size with the expected one before it is decoded: a small file can unpack to gigabytes."""
    try:
        found = image_size(path)
    except ImageError as error:
        raise FaultyAnnotation(str(error), "") from None
    if found != tuple(size):
        raise FaultyAnnotation(size_message(path, name, found, size), "")
    if size[0] * size[1] > LABEL_PIXELS:
        raise FaultyAnnotation(
            f"a label image may have {LABEL_PIXELS} pixels. Received {size[0]} x {size[1]} (height x width).",
            "Cut image and label image into tiles, or raise the limit in keras_maskrcnn/data/limits.py.",
        )


def _is_whole(labels):
    """Whether all numbers are whole, and within 64 bits."""
    if labels.dtype.kind == "f":  # NaN and infinity are neither
        return bool((np.abs(labels) < 2.0**63).all() and (labels % 1 == 0).all())
    return labels.dtype != np.uint64 or labels.max() < 2**63


def _has_ending(path):
    return without_label_ending(path.stem) != path.stem


def _stored(path):
    try:
        return stored_numbers(path)
    except ImageError as error:
        raise FaultyAnnotation(str(error), "") from None


def _check_lossless(path):
    try:
        with open_image(path) as file:
            start = file.read(len(_JPEG))
    except OSError as error:
        raise FaultyAnnotation(f"{path} cannot be read: {error}.", "Check its name and its permissions.") from None
    if start == _JPEG:
        raise FaultyAnnotation("JPEG changes the numbers of a label image.", "Save it as PNG or TIFF.")


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
        labels = read_labels(label_path, size, collector.name)
        _check_separate(labels)
        masks = label_masks(labels)
    except FaultyAnnotation as fault:
        collector.fault(f"label image {label_path}", *fault.args)
        return
    instances = [
        collector.instance(f"object {number} of {label_path}", lambda m=mask: (None, m), number)
        for number, mask in masks
    ]
    collector.record(path, size, instances)


def _check_separate(labels):
    """Refuse black-and-white masks of several objects."""
    black_and_white = set(numbered(labels)[0].tolist()) == {0, 255}
    if black_and_white and measure.label(labels, connectivity=2).max() > 1:
        raise FaultyAnnotation(
            "it holds only 0 and 255, in several regions. A black-and-white mask does not separate objects.",
            "Number the objects, for example with skimage.measure.label.",
        )
