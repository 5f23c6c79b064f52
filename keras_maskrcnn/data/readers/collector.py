"""Shared by the readers of formats with class names: collects records, class names and faults.

A reader adds the objects of each image by class *name*. `finish` turns the result into arguments of `Dataset.__init__`.
"""

from keras_maskrcnn.data.classes import ClassesDiffer, check_unique, differing, join_classes
from keras_maskrcnn.data.images.reading import ImageError, image_size
from keras_maskrcnn.data.limits import UNCHECKED_PIXELS
from keras_maskrcnn.data.readers.annotation_cache import Reading
from keras_maskrcnn.data.readers.fields import FaultyAnnotation, class_name
from keras_maskrcnn.data.readers.folders import image_files_and_others
from keras_maskrcnn.data.records import Fault, Instance, Record, size_message
from keras_maskrcnn.data.table_builder import TableBuilder
from keras_maskrcnn.host.addresses import is_address


def check_stated_size(path, stated, name):
    """Compare a large stated size with the file's header, before a mask of that size is made.

    Smaller ones are compared when the image is read.

    Args:
        path: Path of the image. stated: (height, width). name: str, the dataset in messages.

    Raises:
        FaultyAnnotation: the file has another size, or cannot be read.
    """
    if stated[0] * stated[1] <= UNCHECKED_PIXELS:
        return
    try:
        size = image_size(path)
    except ImageError as error:
        raise FaultyAnnotation(str(error), "Or remove its annotations.") from None
    if size != tuple(stated):
        raise FaultyAnnotation(size_message(path, name, tuple(stated), size), "Or remove it.")


class Collector:
    """Collects what a reader finds.

    Args:
        name: str, name of the dataset in messages.
        class_names: names by label, chosen by the user; None takes those that are declared or found.

    Attributes:
        faults: list of Fault.
        notes: list of str, as of Dataset.
        default: str, the class of objects without a class: the only given class, else "object".
    """

    def __init__(self, name, class_names=None):
        self.name = str(name)
        self.faults = []
        self.notes = []
        self._records = TableBuilder()
        self._given = None if class_names is None else list(class_names)
        self.default = class_names[0] if class_names is not None and len(class_names) == 1 else "object"
        self._declared = []
        self._found = {}
        self._strange = {}  # classes of objects that are not among the given names, as an ordered set

    def declare(self, names):
        """Add classes that the annotation tool lists, in its order. The user's `class_names` take precedence.

        Raises:
            ValueError: a name is listed twice.
        """
        names = [name for name in names if self._is_name(name)]
        check_unique(names, self.name)
        self._declared += [name for name in names if name not in self._declared]

    def note_others(self, folders, known=()):
        """Note how many files in folders of images are passed over, each folder once. `known`: endings without note."""
        for folder in sorted(set(folders)):
            _, note = image_files_and_others(folder, known=known)
            self.notes += [note] if note else []

    def fault(self, where, problem, remedy):
        """Record something that cannot be used for training."""
        self.faults.append(Fault(where, problem, remedy))

    def image_size(self, path, stated=None):
        """(height, width) of an image file after EXIF rotation, from its header.

        Args:
            path: Path.
            stated: (height, width) that the annotations claim, or None.

        Returns:
            The size, or None after recording a fault: the file is missing, damaged or of another size than stated.
        """
        if not path.is_file():
            self.fault(f"image {path}", "the file does not exist.", "Check the image folder and the file name.")
            return None
        try:
            size = image_size(path)
        except ImageError as error:
            self.fault(f"image {path.name}", str(error), "Or remove its annotations.")
            return None
        if stated is not None and tuple(stated) != size:
            self.fault(f"image {path.name}", size_message(path, self.name, tuple(stated), size), "Or remove it.")
            return None
        return size

    def instance(self, where, make, annotation_id=None):
        """One object, or None after recording a fault.

        Args:
            where: str, name of the object in messages.
            make: function without arguments that returns (class name, (mask, box)); it may raise FaultyAnnotation or
                ValueError. The name is None in formats without classes.
            annotation_id: the dataset's id, for messages.
        """
        try:
            name, (mask, box) = make()
            label = self._label(self.default if name is None else name)
        except FaultyAnnotation as fault:
            self.fault(where, *fault.args)
        except ValueError as error:
            self.fault(where, str(error), "Or remove it.")
        else:
            return Instance(label, box, mask, annotation_id=annotation_id)
        return None

    def record(self, source, size, instances, image_id=None):
        """Add an image with its objects. Entries that are None (faulty objects) are dropped. Ids count from 1."""
        image_id = len(self._records) + 1 if image_id is None else image_id
        found = tuple(instance for instance in instances if instance is not None)
        self._records.add(Record(image_id, source, *size, found))

    def finish(self, category_ids=None):
        """Arguments of `Dataset.__init__`. Classes found are sorted by name; declared classes keep their order.

        Args:
            category_ids: ids by label; None counts from 1.

        Raises:
            ClassesDiffer: objects have other classes than the given ones; or none that is declared was given.
            ValueError: the number of category_ids differs from the number of classes.
        """
        absent = self._check_given()
        names = self._given or self._declared or sorted(self._found) or [self.default]
        ids = tuple(range(1, len(names) + 1)) if category_ids is None else tuple(category_ids)
        if len(ids) != len(names):
            raise ValueError(
                f"There must be one category id per class. Received {len(ids)} ids for the {len(names)} classes "
                f"{names[:5]} of {self.name}. Leave category_ids out, or give class_names as well."
            )
        return {
            "records": self._labelled(names),
            "class_names": names,
            "category_ids": ids,
            "name": self.name,
            "faults": self.faults,
            "notes": self.notes,
            "absent_classes": absent,
        }

    def reading(self, finder, category_ids=None):
        """What was found, as a Reading that a cache may keep.

        Args:
            finder: ImageFinder that found all images; their sizes were read from the files.
            category_ids: as for `finish`.

        Raises:
            ClassesDiffer, ValueError: as `finish`.
        """
        self.notes += finder.notes
        arguments = self.finish(category_ids)
        del arguments["name"]
        return Reading(arguments, finder, keep=not is_address(finder.folder), read_images=True)

    def _check_given(self):
        """Compare the given class names with those of the annotations. Returns the given ones that have no object."""
        if self._given is None:
            return ()
        check_unique(self._given, "class_names")
        listed = list(dict.fromkeys((*self._declared, *self._found, *self._strange)))
        if self._strange:
            raise ClassesDiffer(differing(self.name, listed, self._given, list(self._strange)))
        joined = join_classes(listed, self._given, self._found, self.name)
        self.notes += joined.notes(self.name) if self._declared else []
        return joined.absent

    def _label(self, name):
        """The number of a class until `finish`: its label, or its position among the classes found so far."""
        known = self._given or self._declared
        if known:
            if self._given:
                class_name(name, "its class")
                (self._found if name in known else self._strange).setdefault(name, len(self._found))
            if name not in known:
                shown = known if len(known) <= 10 else f"{known[:10]}... ({len(known)})"
                raise FaultyAnnotation(
                    f"its class must be one of {shown}. Received {name!r}.", "Correct it, or add the class."
                )
            return known.index(name)
        if name not in self._found:
            class_name(name, "its class")
        return self._found.setdefault(name, len(self._found))

    def _is_name(self, name):
        """Whether a declared class has a name. One without is left out, and objects that have it are faults."""
        try:
            class_name(name)
        except FaultyAnnotation as fault:
            self.notes.append(f"{self.name}: left out a class: {fault.args[0]}")
            return False
        return True

    def _labelled(self, names):
        """The records with final labels. Only classes that were found, not declared, need reordering."""
        records = self._records.table()
        if self._given or self._declared or not self._found:
            return records
        return records.with_labels({number: names.index(name) for name, number in self._found.items()})
