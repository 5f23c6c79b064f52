"""Where the label files of YOLO images lie: in the usual place, or in a folder with another usual name.

The usual place of the labels of `.../images/a.jpg` is `.../labels/a.txt`. Other places are looked at if no image of
a dataset has a label file there: folders beside the image folder, or beside a folder above it, or inside it, whose name
is one of `LABEL_NAMES` in any case.
"""

import pathlib

from keras_maskrcnn.data.readers.folders import folders_in
from keras_maskrcnn.host.addresses import as_path

LABEL_NAMES = ("labels", "label", "annotations", "annotation", "txt", "yolo", "segmentations", "segments", "polygons")
_LEVELS_ABOVE = 3  # folders above an image's own that are searched
_LISTED = 6  # places in a message


def label_file(image):
    """The text file of an image: the last folder `images` in its path becomes `labels`; else it is beside the image."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return as_path(parts[0]).joinpath(*parts[1:]).with_suffix(".txt")


def find_labels(images, name):
    """The label file of each image; the file need not exist, for an image without objects.

    Args:
        images: list of Path. name: str, the dataset in messages.

    Returns:
        (dict from image to Path, notes: list of str about labels that are elsewhere or missing).

    Raises:
        ValueError: several other places hold label files of the same images.
    """
    usual = {image: label_file(image) for image in images}
    if not images or any(file.is_file() for file in usual.values()):
        return usual, []
    found, looked_in, labels = {}, [], {}
    in_folder = {}
    for image in images:
        in_folder.setdefault(image.parent, []).append(image)
    for folder, own in in_folder.items():
        places = _other_places(folder)
        looked_in += [label_file(own[0]).parent, *places]
        holding = [place for place in places if any((place / f"{image.stem}.txt").is_file() for image in own)]
        if len(holding) > 1:
            raise ValueError(
                f"{name}: the label files must be in one folder. Received the images of {folder} with label files in "
                f"{[str(place) for place in holding]}. Rename the right one to {label_file(own[0]).parent}."
            )
        if holding:
            found[folder] = holding[0]
            labels |= {image: holding[0] / f"{image.stem}.txt" for image in own}
    if found:
        return usual | labels, [
            f"{name}: the labels of {image} are read from {label}." for image, label in found.items()
        ]
    return usual, [_nothing_found(name, len(images), looked_in)]


def _other_places(folder):
    """Folders that may hold the labels of a folder of images, in the order in which they are searched."""
    places = _named_labels(folder)
    inside = pathlib.PurePosixPath()
    above = folder
    for _ in range(_LEVELS_ABOVE):
        above, inside = above.parent, pathlib.PurePosixPath(above.name, inside)
        for place in _named_labels(above):
            below = pathlib.PurePosixPath(*inside.parts[1:])
            places += [place / below, place / inside, place]  # photos/train: labels/train and labels, too
    return [place for place in dict.fromkeys(places) if place.is_dir() and place != folder]


def _named_labels(folder):
    """The folders inside a folder that are named as labels."""
    inside = folders_in(folder)
    return [path for path in inside if path.name.lower() in LABEL_NAMES]


def _nothing_found(name, count, looked_in):
    places = [str(place) for place in dict.fromkeys(looked_in)]
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return (
        f"{name}: 0 of {count} images have a label file. Looked in {', '.join(places[:_LISTED])}{more}, and for "
        f"folders named {', '.join(LABEL_NAMES)} beside and above the images. Name the folder `labels`, beside "
        "`images`, with a .txt file of the image's name for each image."
    )
