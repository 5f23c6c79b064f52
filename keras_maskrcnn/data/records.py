"""The annotations of an image, before its pixels are read: a `Record` of `Instance`s with masks.

Masks stay polygons or run lengths until a loader needs one. Then only the pixels inside the object's
box are computed, never an (H, W, N) stack. All coordinates are image pixels. `data/readers/` creates
records; `data/samples/` converts them to network pixels.
"""

import dataclasses
import warnings

import numpy as np

from keras_maskrcnn.data.classes import check_unique
from keras_maskrcnn.data.coco_output import coco_content, is_file, write_coco
from keras_maskrcnn.data.images.reading import ImageError, read_image
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, class_name
from keras_maskrcnn.data.readers.folders import common_folder
from keras_maskrcnn.geometry import polygons, rle
from keras_maskrcnn.host.messages import argument


@dataclasses.dataclass(frozen=True)
class MaskWindow:
    """The pixels of one mask inside a window of its image.

    Args:
        pixels: uint8 0/1 (h, w).
        x, y: int, image pixels: top-left corner of the window.
    """

    pixels: np.ndarray
    x: int
    y: int

    def window(self, height, width):
        """Returns itself: the mask is already decoded."""
        del height, width
        return self

    def segmentation(self, height, width):
        """COCO's uncompressed run-length code, {"size", "counts"}."""
        runs = rle.encode_window(self.pixels, self.x, self.y, height, width)
        return {"size": [height, width], "counts": runs.tolist()}


@dataclasses.dataclass(frozen=True)
class Polygons:
    """A mask as the union of polygons, rasterised by COCO's rule when needed.

    Args:
        parts: tuple of float64 (k, [x, y]), k >= 3, image pixels; may extend beyond the image.
    """

    parts: tuple

    def box(self, height, width):
        """Extent of the polygons, clipped to the image. float32 [x1, y1, x2, y2]."""
        points = np.concatenate(self.parts)
        corners = np.concatenate([points.min(0), points.max(0)])
        return np.clip(corners, 0, (width, height, width, height)).astype(np.float32)

    def window(self, height, width):
        """Rasterise, through run lengths of the whole image. Returns MaskWindow; very thin polygons may be empty."""
        return RunLengths(polygons.union_runs(self.parts, height, width)).window(height, width)

    def segmentation(self, height, width):
        """COCO's list of flat coordinate lists."""
        del height, width
        return [part.ravel().tolist() for part in self.parts]


@dataclasses.dataclass(frozen=True)
class RunLengths:
    """A mask as COCO run lengths of the whole image, column by column.

    Args:
        counts: int (runs,), from `rle.parse_counts`.
    """

    counts: np.ndarray

    def window(self, height, width):
        """Decode the smallest window that contains the mask. Returns MaskWindow."""
        del width
        box = rle.extent(self.counts, height)
        if box is None:
            return MaskWindow(np.zeros((0, 0), np.uint8), 0, 0)
        return MaskWindow(rle.decode_window(self.counts, height, box), int(box[0]), int(box[1]))

    def segmentation(self, height, width):
        """COCO's uncompressed run-length code, {"size", "counts"}."""
        return {"size": [height, width], "counts": self.counts.tolist()}


@dataclasses.dataclass(frozen=True)
class Instance:
    """One annotated object, in image pixels.

    Args:
        label: int, 0..K-1.
        box: float32 [x1, y1, x2, y2], the extent of the mask.
        mask: MaskWindow, Polygons or RunLengths.
        crowd: whether the annotation is a crowd region (COCO's `iscrowd`), not a single object.
        annotation_id: the dataset's id, for messages.
        area: mask area in square pixels as given by the dataset, or None.
        stated_box: [x, y, width, height] as given by the dataset, or None.
        attributes: dict of all other fields of the annotation, unchanged, for branches; or None.
        frame: ((a, b, c), (d, e, f)): the affine map from the pixels of the attributes to those of box and mask. The
            identity unless the object was moved or pasted.
    """

    label: int
    box: np.ndarray
    mask: object
    crowd: bool = False
    annotation_id: int | str | None = None
    area: float | None = None
    stated_box: tuple | None = None
    attributes: dict | None = None
    frame: tuple = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and its objects.

    Args:
        image_id: the dataset's id.
        source: path of the file, any other input of `read_image`, or a function that returns one
            of these (for images inside other files).
        height, width: int, image pixels after EXIF rotation.
        instances: tuple of Instance.
    """

    image_id: int | str
    source: object
    height: int
    width: int
    instances: tuple = ()


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something in a dataset that cannot be used for training: the place, the problem and the remedy."""

    where: str
    problem: str
    remedy: str

    def __str__(self):
        return f"{self.where}: {self.problem} {self.remedy}"


class Dataset:
    """Records with class names. Base class of the readers; input of the loader and the evaluation.

    Args:
        records: list of Record.
        class_names: list of str, by label.
        category_ids: list of int, the dataset's id of each label.
        name: str, name of the dataset in messages (its file or folder).
        on_error: "raise" or "skip": what to do about `faults`, now and when an image turns out to be
            unreadable later.
        faults: list of Fault found by the reader.
        image_dir: folder that image names in `to_coco` are relative to; None means the deepest
            folder that contains all images.
        notes: list of str, what the reader decided and the user should know; each is a warning.
        absent_classes: those of `class_names` that the annotations do not list.

    Attributes:
        faults: list of Fault; grows when an image turns out to be unreadable.
        max_instances: int, largest number of annotations on one image.

    Raises:
        ValueError: there is a fault and on_error="raise"; or no image is left.
    """

    def __init__(
        self,
        records,
        class_names,
        category_ids,
        name,
        on_error="raise",
        faults=(),
        image_dir=None,
        notes=(),
        absent_classes=(),
    ):
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip". Received: {on_error!r}.')
        self.records = list(records)
        self.class_names = _checked_names(class_names)
        self.category_ids = tuple(category_ids)
        self.name = str(name)
        self.on_error = on_error
        self.faults = list(faults)
        self.notes = list(notes)
        self.absent_classes = tuple(absent_classes)
        self._image_dir = image_dir
        self._report_faults()
        for note in self.notes:
            warnings.warn(note, stacklevel=3)
        if not self.records:
            raise ValueError(
                f"A dataset needs at least one usable image. Received {self.name} without any. "
                + (
                    f"The first of its faults: {self.faults[0]}"
                    if self.faults
                    else "Check the path and the listed images."
                )
            )
        self.max_instances = max(len(record.instances) for record in self.records)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        """The Record at a position (not at an image id)."""
        return self.records[index]

    @property
    def image_ids(self):
        """Ids of the images, by position."""
        return [record.image_id for record in self.records]

    @property
    def image_sizes(self):
        """(height, width) of the images in image pixels, by position."""
        return [(record.height, record.width) for record in self.records]

    @property
    def image_dir(self):
        """Folder that image names in `to_coco` are relative to; None if no image is a file."""
        if self._image_dir is None:
            self._image_dir = common_folder(record.source for record in self.records if is_file(record))
        return self._image_dir

    def load_image(self, index, channels=3, dtype="uint8"):
        """Read an image: (H, W, C), image pixels, EXIF applied.

        Args:
            index: int, position.
            channels, dtype: as for `read_image`: `config.num_channels` and `config.image_dtype` of the model.

        Raises:
            ImageError (a ValueError): the file is missing, damaged, not of its record's size, or has
                other channels or values.
        """
        record = self.records[index]
        source = record.source() if callable(record.source) else record.source
        image = read_image(source, channels, dtype)
        stated = (record.height, record.width)
        if image.shape[:2] != stated:
            name = record.source if is_file(record) else f"image {record.image_id}"
            raise ImageError(size_message(name, self.name, stated, image.shape[:2]))
        return image

    def add_fault(self, fault):
        """Record a fault found while reading, and warn about it once."""
        if fault not in self.faults:
            self.faults.append(fault)
            warnings.warn(f"Skipped (number {len(self.faults)} in {self.name}): {fault}", stacklevel=2)

    def to_coco(self, path=None):
        """The ground truth as a COCO dictionary with the dataset's ids, for pycocotools and other tools.

        Args:
            path: JSON file to write as well (atomically). Its `file_name`s are relative to `image_dir`.
                None writes nothing.

        Returns:
            dict with "images", "annotations" (numbered from 1) and "categories".
        """
        return coco_content(self) if path is None else write_coco(self, path)

    def _report_faults(self):
        if not self.faults:
            return
        shown = "\n".join(f"  {fault}" for fault in self.faults[:5])
        more = f"\n  ... and {len(self.faults) - 5} more" if len(self.faults) > 5 else ""
        if self.on_error == "raise":
            raise ValueError(
                f"{self.name} must have no faults. Received {len(self.faults)}:\n{shown}{more}\n"
                f"Fix them, or leave them out: {argument('on_error', 'skip')}."
            )
        warnings.warn(
            f"Left out {len(self.faults)} faulty entries of {self.name}:\n{shown}{more}",
            stacklevel=3,
        )


def _checked_names(names):
    """Class names as a tuple, after checking that each is one line of text and there once."""
    names = tuple(names)
    check_unique(names, "class_names")
    for name in names:
        try:
            class_name(name, "each of class_names")
        except FaultyAnnotation as fault:
            raise ValueError(" ".join(fault.args)) from None
    return names


def size_message(source, name, stated, found):
    """Error message for an image whose size differs from its annotations; detects swapped sides.

    Args:
        source: path or description of the image.
        name: str, the dataset.
        stated, found: (height, width) of the annotations and of the file after EXIF rotation.
    """
    if found == stated[::-1]:
        remedy = (
            "The sides are swapped. Either the annotations swap width and height, or they were "
            "drawn before EXIF rotation; in that case save the image again without EXIF orientation."
        )
    else:
        remedy = "They belong to different versions of the image. Resize one of them."
    return (
        f"{source}: an image must have the size (height x width) of {name}, "
        f"{stated[0]} x {stated[1]}. Received a file of {found[0]} x {found[1]}. {remedy}"
    )
