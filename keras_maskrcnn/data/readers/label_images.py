"""Reader for label images: each pixel holds the number of its object, or 0 for background.

Cellpose, StarDist, QuPath, ilastik and scikit-image write such files as 8- or 16-bit PNG or TIFF. Wider integers, and
floats with whole values, are read too. In RGB files each colour is one object. For one file per object see
`instance_files`.
"""

import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError
from skimage import measure

from keras_maskrcnn.data.images.npy_files import read_npy
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.folders import image_files, need_folder
from keras_maskrcnn.data.readers.outlines import FaultyAnnotation
from keras_maskrcnn.data.records import Dataset, RunLengths, size_message
from keras_maskrcnn.geometry import rle

LABEL_FOLDERS = ("labels", "masks", "label_images", "instances")
IMAGE_FOLDERS = ("images", "image", "imgs")
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")  # after the image name
_LOSSY = (".jpg", ".jpeg")


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
        int64 (H, W); for palette files the palette indices.

    Raises:
        FaultyAnnotation: the file is unreadable, lossy, or does not hold whole numbers.
    """
    if path.suffix.lower() in _LOSSY:
        raise FaultyAnnotation("JPEG changes the numbers of a label image.", "Save it as PNG or TIFF.")
    labels = _read_array(path)
    shape = labels.shape[:2]
    if labels.ndim == 3 and labels.shape[2] in (3, 4):
        values, inverse = np.unique(color_number(*np.moveaxis(labels, 2, 0)[:3]), return_inverse=True)
        labels = np.array([(colors or {}).get(int(value), int(value)) for value in values])[inverse]
        labels = labels.reshape(shape)
    if labels.ndim != 2 or labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels % 1 == 0).all()):
        raise FaultyAnnotation(
            f"a label image must hold one whole number per pixel. Received shape {labels.shape}, {labels.dtype}.",
            "Export the labels themselves, not a rendering of them.",
        )
    return labels.astype(np.int64)


def color_number(red, green, blue):
    """One number for each colour of three bytes: int64, scalar or array."""
    red, green, blue = (np.asarray(channel, np.int64) for channel in (red, green, blue))
    return red + green * 2**8 + blue * 2**16


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


def _read_array(path):
    if path.suffix.lower() == ".npy":
        try:
            return read_npy(path, str(path))
        except ImageError as error:
            raise FaultyAnnotation(str(error), "") from None
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except UnidentifiedImageError:
        return _read_tiff(path)
    except (OSError, SyntaxError) as error:
        raise FaultyAnnotation(f"the file is damaged: {error}.", "Export it again.") from None


def _read_tiff(path):
    from skimage import io as skimage_io  # slow to import, and only 64-bit and multi-channel TIFFs need it

    try:
        return np.asarray(skimage_io.imread(path))
    except (OSError, ValueError) as error:
        raise FaultyAnnotation(f"the file is damaged: {error}.", "Export it again.") from None


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
    black_and_white = set(np.unique(labels).tolist()) == {0, 255}
    if black_and_white and measure.label(labels, connectivity=2).max() > 1:
        raise FaultyAnnotation(
            "it holds only 0 and 255, in several regions. A black-and-white mask does not separate objects.",
            "Number the objects, for example with skimage.measure.label.",
        )
