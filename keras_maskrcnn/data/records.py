"""A `Dataset`: records of images and objects, class names, and what a reader found wrong.

In: records (`instances.py`) and faults from `data/readers/`. They are stored as a `RecordTable`.
"""

import dataclasses
import warnings

from keras_maskrcnn.data.classes import check_unique
from keras_maskrcnn.data.coco_output import coco_content, is_file, write_coco
from keras_maskrcnn.data.images.reading import ImageError, read_image
from keras_maskrcnn.data.instances import Instance, MaskWindow, Polygons, Record, RunLengths
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, class_name
from keras_maskrcnn.data.readers.folders import common_folder
from keras_maskrcnn.data.table_builder import as_table
from keras_maskrcnn.host.messages import argument

__all__ = ["Dataset", "Fault", "Instance", "MaskWindow", "Polygons", "Record", "RunLengths", "size_message"]


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
        records: iterable of Record, or a RecordTable.
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
        keypoints: dict of names (K str) and skeleton (pairs of names) of the objects' keypoints, or None. Their places
            are among `Instance.attributes`, as in COCO: "keypoints", [x, y, visibility] each.

    Attributes:
        records: RecordTable, a sequence of Record; any iterable of Record can be assigned.
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
        keypoints=None,
    ):
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip". Received: {on_error!r}.')
        self.records = records
        self.class_names = _checked_names(class_names)
        self.category_ids = tuple(category_ids)
        self.name = str(name)
        self.on_error = on_error
        self.faults = list(faults)
        self.notes = list(notes)
        self.absent_classes = tuple(absent_classes)
        self.keypoints = keypoints
        self._image_dir = image_dir
        self._report_faults()
        for note in self.notes:
            warnings.warn(note, stacklevel=3)
        if not len(self.records):
            raise ValueError(
                f"A dataset needs at least one usable image. Received {self.name} without any. "
                + (
                    f"The first of its faults: {self.faults[0]}"
                    if self.faults
                    else "Check the path and the listed images."
                )
            )
        self.max_instances = int(self.records.counts.max())

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        """The Record at a position (not at an image id)."""
        return self.records[index]

    @property
    def records(self):
        """The records by position: a RecordTable, which makes each Record when it is asked for."""
        return self._records

    @records.setter
    def records(self, records):
        """Any iterable of Record."""
        self._records = as_table(records)

    @property
    def image_ids(self):
        """Ids of the images, by position."""
        return self.records.image_ids

    @property
    def image_sizes(self):
        """(height, width) of the images in image pixels, by position."""
        return self.records.image_sizes

    @property
    def image_dir(self):
        """Folder that image names in `to_coco` are relative to; None if no image is a file."""
        if self._image_dir is None:
            self._image_dir = common_folder(file for file in self.records.files() if file is not None)
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
        try:
            image = read_image(source, channels, dtype)
        except ImageError as error:
            if is_file(record):
                raise  # it names the file
            raise ImageError(f"image {record.image_id} of {self.name}: {error}") from error
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
