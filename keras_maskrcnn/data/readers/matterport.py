"""A dataset of matterport's Mask_RCNN: an object of a user's class, as it stands in scripts for `mrcnn`.

Comes in: an object with the interface of the Dataset in `mrcnn/utils.py`; `mrcnn` is not imported. Goes out: a Dataset.
Masks are read once and kept as run lengths: classes, boxes and counts of all objects are needed before the first batch.
An image is read by the user's `load_image` each time it is used.
"""

import dataclasses
import os

import numpy as np

from keras_maskrcnn.data.images.reading import ImageError, image_size, read_image
from keras_maskrcnn.data.readers.arrays import crop_mask
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, Notes, shown
from keras_maskrcnn.data.records import Dataset, Fault, Instance, Record, RunLengths
from keras_maskrcnn.data.table_builder import TableBuilder
from keras_maskrcnn.geometry import rle
from keras_maskrcnn.host.progress import progress_bar

_INTERFACE = ("image_ids", "load_image", "load_mask", "class_names")
_ALIKE = 8  # of 255: mean difference of an image's file and what load_image made of it, by two decoders of JPEG


def from_matterport(dataset, on_error="raise", read_files=False, verbose=1):
    """A dataset of matterport's Mask_RCNN as a dataset of this package, for the loader, evaluation, split and checks.

    Labels are its class ids less one (background, id 0, is no class); category ids are its class ids. A negative id
    is a crowd region of that class, as in matterport's COCO sample. Image ids are those that `load_image` takes. As
    matterport's `load_image_gt` does, objects without a pixel are left out.

    Args:
        dataset: object with `image_ids`, `load_image(image_id)`, `load_mask(image_id)` and `class_names`, where
            `load_mask` returns (masks (H, W, N), non-zero is object; class ids (N,)). `prepare()` is called where the
            script has not done it. `image_info` is used where it is there.
        on_error: "raise" or "skip": what to do about objects and images that cannot be used.
        read_files: True reads the file `image_info[image_id]["path"]` by this package's rules instead of calling
            `load_image`. Then worker processes need no module of yours, and COCO files that are written name your
            images. It is for classes that inherit `load_image`; the first image is compared with what it returns.
        verbose: 0 shows no progress bar while the masks are read.

    Returns:
        Dataset. Its name in messages is that of the class. Worker processes of a loader receive the object by pickle
        and import its class: one that is defined in the script that runs cannot be sent. Then threads make the batches,
        and a warning says why. `load_image` is called by several threads at a time.

    Raises:
        ValueError: the object lacks a part of the interface; or, with on_error="raise", it has faults: a class id
            that is 0 or has no name, masks of another size than the image, not (H, W, N), or without a class id each;
            an error of `load_mask`. The message names the image.
    """
    _prepare(dataset)
    if read_files:
        _compare_first(dataset)
    reader = _Reader(dataset, on_error, read_files)
    image_ids = [key.item() if isinstance(key, np.generic) else key for key in dataset.image_ids]
    with progress_bar(len(image_ids), verbose, unit_name="image") as bar:
        for done, image_id in enumerate(image_ids, start=1):
            reader.add(image_id)
            bar.update(done)
    names = [str(name) for name in dataset.class_names[1:]]
    return Dataset(
        reader.records.table(),
        names,
        range(1, len(names) + 1),
        reader.name,
        on_error,
        reader.faults,
        notes=[*_left_out(dataset, reader.name), *reader.notes.sentences(reader.name)],
    )


# The object ----------------------------------------------------------------------------------------------------------


def _prepare(dataset):
    """Call `prepare` where that was not done, and check the interface."""
    if isinstance(dataset, type):
        raise ValueError(
            f"A dataset of matterport's Mask_RCNN is an object. Received the class {dataset.__name__}. "
            "Make one, add its images, and pass it: dataset = YourDataset(); dataset.load_...()."
        )
    ids, info = getattr(dataset, "image_ids", ()), getattr(dataset, "image_info", ())
    if (not hasattr(dataset, "class_names") or not len(ids) and len(info)) and hasattr(dataset, "prepare"):
        dataset.prepare()
    missing = [name for name in _INTERFACE if not hasattr(dataset, name)]
    if missing or len(dataset.class_names) < 2:
        lacks = f"one without {', '.join(missing)}" if missing else f"class_names {shown(list(dataset.class_names))}"
        raise ValueError(
            f"A dataset of matterport's Mask_RCNN has {', '.join(_INTERFACE)}, and background as its first class. "
            f"Received {type(dataset).__name__}, {lacks}. Derive its class from mrcnn.utils.Dataset, and call "
            "add_class and add_image."
        )


def _left_out(dataset, name):
    """A note on images that were added after `prepare`: matterport's code does not see them either."""
    known, added = getattr(dataset, "num_images", None), len(getattr(dataset, "image_info", ()))
    if known is None or known == added:
        return []
    return [
        f"{name}: {added - known} images were added after prepare() and are left out. Call prepare() after the last."
    ]


def _info(dataset, image_id):
    """The dict of an image in `image_info`; empty where there is none."""
    try:
        info = dataset.image_info[image_id]
    except (AttributeError, KeyError, IndexError, TypeError):
        return {}
    return info if isinstance(info, dict) else {}


def _where(dataset, image_id):
    """An image in messages: its id, and its path or its id in the source."""
    info = _info(dataset, image_id)
    own = info.get("path") or info.get("id")
    return f"image {image_id}" if own is None else f"image {image_id} ({own})"


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedImage:
    """The source of a Record: calls `load_image` each time the image is used.

    Args:
        dataset: the user's object. image_id: what its `load_image` takes.
    """

    dataset: object
    image_id: object

    def __call__(self):
        """The image, as `load_image` returns it. ImageError if it raises."""
        try:
            return self.dataset.load_image(self.image_id)
        except Exception as error:
            raise ImageError(_failed("load_image", self.dataset, self.image_id, error)) from error


def _failed(method, dataset, image_id, error):
    return (
        f"{_where(dataset, image_id)}: {method} of {type(dataset).__name__} must return it. "
        f"Received: {type(error).__name__}: {error}. Check its files, or leave the image out."
    )


def _compare_first(dataset):
    """Raise a ValueError unless `load_image` returns the first image as it is in its file."""
    for image_id in dataset.image_ids[:1]:
        path = _info(dataset, image_id).get("path")
        if not isinstance(path, (str, os.PathLike)):
            continue  # a fault of this image
        ours, theirs = read_image(os.fspath(path)), read_image(LoadedImage(dataset, image_id)())
        if ours.shape != theirs.shape or np.abs(ours.astype(int) - theirs).mean() > _ALIKE:
            raise ValueError(
                "With read_files=True load_image must return an image as it is in its file. Received other pixels for "
                f"{path}: of shape {theirs.shape}, where the file has {ours.shape}, or of other values. "
                "Leave read_files out."
            )


def _path(dataset, image_id):
    """The path of an image's file.

    Raises:
        FaultyAnnotation: image_info has none.
    """
    path = _info(dataset, image_id).get("path")
    if not isinstance(path, (str, os.PathLike)):
        raise FaultyAnnotation(
            f"image_info must hold the path of its file. Received {shown(path)}.", "Leave read_files out."
        )
    return os.fspath(path)


# Its images and objects ----------------------------------------------------------------------------------------------


class _Reader:
    """Collects records and faults, image by image.

    Args: as of `from_matterport`.

    Attributes:
        name: str, the dataset in messages. records: TableBuilder. faults: list of Fault. notes: Notes.
    """

    def __init__(self, dataset, on_error, read_files):
        self.name = type(dataset).__name__
        self.records, self.faults, self.notes = TableBuilder(), [], Notes()
        self._dataset, self._on_error, self._read_files = dataset, on_error, read_files

    def add(self, image_id):
        """Read the masks of an image. An error of the user's code is raised at once, as the cause of ours."""
        where = _where(self._dataset, image_id)
        try:
            source = _path(self._dataset, image_id) if self._read_files else LoadedImage(self._dataset, image_id)
            masks, class_ids = _checked_masks(*self._load_mask(image_id))
            size = self._size(image_id, masks, source)
        except (FaultyAnnotation, ImageError) as fault:
            problem, remedy = fault.args if isinstance(fault, FaultyAnnotation) else (str(fault), "Or remove it.")
            if fault.__cause__ is not None and self._on_error == "raise":
                raise ValueError(f"{where}: {problem} {remedy}") from fault.__cause__
            self.faults.append(Fault(where, problem, remedy))
            return
        found = [self._object(k, f"object {k} of {where}", masks[..., k], key) for k, key in enumerate(class_ids)]
        self.records.add(Record(image_id, source, *size, tuple(one for one in found if one is not None)))

    def _load_mask(self, image_id):
        """(masks, class ids) as the user's code returns them."""
        try:
            loaded = self._dataset.load_mask(image_id)
        except Exception as error:
            raise FaultyAnnotation(
                f"load_mask must return its masks and class ids. Received: {type(error).__name__}: {error}.",
                "Check its files, or leave the image out.",
            ) from error
        if not isinstance(loaded, (tuple, list)) or len(loaded) != 2:
            raise FaultyAnnotation(
                f"load_mask must return (masks, class ids). Received {type(loaded).__name__}.", "Return both."
            )
        return loaded

    def _size(self, image_id, masks, source):
        """(height, width): that of the masks, which image_info confirms, or the image itself where the two differ."""
        stated, found = _stated_size(_info(self._dataset, image_id)), masks.shape[:2]
        if not masks.size:
            found = found if all(found) else stated
        elif stated is None or stated == found:
            return found
        if found is not None and stated in (None, found):
            return found
        actual = image_size(source() if callable(source) else source)
        if masks.size and found != actual:
            raise FaultyAnnotation(
                f"its masks must have its size, {actual} (height, width). Received masks of {found}.",
                "Resize them by nearest-neighbour interpolation, or choose the right image.",
            )
        return actual

    def _object(self, number, where, mask, class_id):
        """The Instance of a mask; None where it is empty, or after recording a fault."""
        if not mask.any():
            self.notes.add("left out objects without a pixel", where)
            return None
        try:
            label, crowd = _label(class_id, len(self._dataset.class_names))
        except FaultyAnnotation as fault:
            self.faults.append(Fault(where, *fault.args))
            return None
        box, window = crop_mask(mask, mask.shape, where)
        runs = rle.encode_window(window.pixels, window.x, window.y, *mask.shape).astype(np.int32)
        return Instance(label, box, RunLengths(runs), crowd, number)


def _checked_masks(masks, class_ids):
    """(array (H, W, N), float64 (N,)); of one object without an axis for it as well, and of none of any shape.

    Raises:
        FaultyAnnotation: the shapes do not fit, or they do not hold numbers.
    """
    try:
        masks, class_ids = np.asarray(masks), np.asarray(class_ids, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise FaultyAnnotation(f"its masks and class ids must be arrays of numbers. Received: {error}.", "") from None
    if masks.ndim == 2 and len(class_ids) == 1:
        masks = masks[..., None]
    if not masks.size and not len(class_ids):
        return np.zeros((*masks.shape, 0, 0)[:2] + (0,), bool), class_ids
    finite = masks.dtype.kind in "biu" or masks.dtype.kind == "f" and bool(np.isfinite(masks).all())
    if masks.ndim != 3 or masks.shape[2] != len(class_ids) or not finite:
        last = masks.ndim == 3 and masks.shape[0] == len(class_ids)
        raise FaultyAnnotation(
            "its masks must be finite numbers (height, width, objects), with a class id for each object. "
            f"Received {masks.dtype} {masks.shape} with {len(class_ids)} class ids.",
            "The objects are the last axis: np.stack(masks, axis=-1)." if last else "Correct what load_mask returns.",
        )
    return masks, class_ids


def _stated_size(info):
    """(height, width) in an image's info, or None."""
    sides = [info.get("height"), info.get("width")]
    if not all(isinstance(side, (int, np.integer)) and side > 0 for side in sides):
        return None
    return tuple(int(side) for side in sides)


def _label(class_id, num_classes):
    """(label, whether it is a crowd region).

    Raises:
        FaultyAnnotation: not a whole number, that of background, or of no class.
    """
    number = abs(class_id)
    if number != np.floor(number) or not 0 < number < num_classes:
        raise FaultyAnnotation(
            f"its class id must be from 1 to {num_classes - 1}, or the negative of one for a crowd region; 0 is "
            f"background. Received {class_id:g}.",
            "Correct what load_mask returns, or add the class.",
        )
    return int(number) - 1, bool(class_id < 0)
