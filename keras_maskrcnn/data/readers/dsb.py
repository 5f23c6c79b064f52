"""Reader for the folders of the Data Science Bowl 2018: `<id>/images/*.png`, `<id>/masks/*.png`.

One image per id and one black-and-white file per object. The mask files are read once, when the
dataset is created, and kept as small windows. Images are read when needed.
"""

from keras_maskrcnn.data.classes import join_classes
from keras_maskrcnn.data.images.reading import ImageError, image_size
from keras_maskrcnn.data.readers.arrays import crop_mask
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import folders_in, image_files
from keras_maskrcnn.data.readers.label_images import read_labels
from keras_maskrcnn.data.records import Dataset, Fault, Instance, Record
from keras_maskrcnn.host.addresses import as_path


class DsbDataset(Dataset):
    """A folder of `<id>/images/<any>.png` with one mask file per object in `<id>/masks/`.

    An id without a `masks` folder, or with an empty one, is an image without objects. The layout has
    a single class, with category id 1. Image ids number the folders from 1, in order of name.

    Args:
        folder: path of the folder that holds the ids.
        class_name: name of the class.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label, such as those of a training set; the objects are those of `class_name`, or of the
            one name if there is one. None: `class_name` alone.
        category_ids: ids by label; None counts from 1.

    Raises:
        ClassesDiffer: a ValueError: several class_names, and none is `class_name`.
        ValueError: the folder is missing or holds no image; or there is a fault and on_error="raise": an
            id without exactly one image, an unreadable file, or a mask that is empty or differs in
            size from its image.
    """

    def __init__(self, folder, class_name="nucleus", on_error="raise", class_names=None, category_ids=None):
        folder = as_path(folder)
        if not folder.is_dir():
            raise ValueError(
                f"A folder with one subfolder per image is needed. Received {folder}. "
                "Unpack stage1_train.zip of the Data Science Bowl 2018 there."
            )
        names = (class_name,) if class_names is None else tuple(class_names)
        own = names[0] if len(names) == 1 else class_name  # the layout names no class
        joined = join_classes([own], names, {own}, str(folder))
        faults = []
        paths = folders_in(folder)
        found = [_read_id(number, path, joined.labels[own], faults) for number, path in enumerate(paths, start=1)]
        records = [record for record in found if record is not None]
        ids = tuple(range(1, len(names) + 1)) if category_ids is None else tuple(category_ids)
        super().__init__(records, names, ids, folder, on_error, faults, absent_classes=joined.absent)


def _read_id(number, path, label, faults):
    """The Record of one id, or None after recording a fault."""
    images = image_files(path / "images")
    if len(images) != 1:
        faults.append(
            Fault(
                f"{path / 'images'}",
                f"exactly one image is expected. Received {len(images)}.",
                "Put the image there, or remove the folder.",
            )
        )
        return None
    try:
        size = image_size(images[0])
    except ImageError as error:
        faults.append(Fault(f"image {path.name}", str(error), "Or remove its folder."))
        return None
    instances = []
    for position, file in enumerate(image_files(path / "masks")):
        try:
            box, window = crop_mask(read_labels(file, size, str(path.parent)), size, str(file))
        except FaultyAnnotation as fault:
            faults.append(Fault(f"mask {position} of image {path.name}", *fault.args))
            continue
        except ValueError as error:
            faults.append(Fault(f"mask {position} of image {path.name}", str(error), "Or remove it."))
            continue
        instances.append(Instance(label, box, window, annotation_id=position))
    return Record(number, images[0], *size, tuple(instances))
