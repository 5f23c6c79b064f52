"""Reader for the folders of the Data Science Bowl 2018: `<id>/images/*.png`, `<id>/masks/*.png`.

One image an id and one black-and-white file an object. The mask files are read once, when the
dataset is made, and kept as small windows; the images are read when needed.
"""

import pathlib

from keras_maskrcnn.data.images.reading import ImageError, image_size, read_image
from keras_maskrcnn.data.readers.arrays import crop_mask
from keras_maskrcnn.data.readers.folders import image_files
from keras_maskrcnn.data.records import Dataset, Fault, Instance, Record


class DsbDataset(Dataset):
    """A folder of `<id>/images/<any>.png` with one mask file an object in `<id>/masks/`.

    An id without a `masks` folder, or with an empty one, is an image without objects. Objects have
    no class in this layout: there is one, and its category id is 1. Image ids number the folders
    from 1, by name.

    Args:
        folder: path of the folder that holds the ids.
        class_name: what the objects are called.
        on_error: "raise" or "skip", as for CocoDataset.

    Raises:
        ValueError: the folder is missing or holds no image; or a fault while on_error="raise": an
            id without exactly one image, an unreadable file, a mask that is empty or not of its
            image's size.
    """

    def __init__(self, folder, class_name="nucleus", on_error="raise"):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise ValueError(
                f"A folder with one sub-folder an image is needed. Received {folder}. "
                "Unpack stage1_train.zip of the Data Science Bowl 2018 there."
            )
        faults = []
        paths = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [_read_id(number, path, faults) for number, path in enumerate(paths, start=1)]
        records = [record for record in found if record is not None]
        super().__init__(records, (class_name,), (1,), folder, on_error, faults)


def _read_id(number, path, faults):
    """The Record of one id, or None after noting a fault."""
    images = image_files(path / "images")
    if len(images) != 1:
        faults.append(
            Fault(
                f"{path / 'images'}",
                f"one image is expected. Received {len(images)}.",
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
            box, window = crop_mask(read_image(file)[:, :, 0], size, str(file))
        except ValueError as error:
            faults.append(Fault(f"mask {position} of image {path.name}", str(error), "Or remove it."))
            continue
        instances.append(Instance(0, box, window, annotation_id=position))
    return Record(number, images[0], *size, tuple(instances))
