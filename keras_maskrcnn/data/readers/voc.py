"""Reader for the instance masks of Pascal VOC: SegmentationObject and SegmentationClass, Annotations, ImageSets.

Palette indices in `SegmentationObject/a.png` number the objects, those in `SegmentationClass/a.png` the classes. 0 is
background, 255 is void (outlines and unclear regions). `Annotations/a.xml` lists the objects. Exports of labelme
(`class_names.txt`) and CVAT (`labelmap.txt`, RGB instead of palettes) are read too.
"""

import numpy as np

from keras_maskrcnn.data.readers import fields
from keras_maskrcnn.data.readers.collector import Collector
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import (
    IMAGE_FOLDERS,
    files_with,
    image_files,
    named_folders,
    need_folder,
    read_text,
)
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.label_images import color_number, label_masks, read_labels
from keras_maskrcnn.data.readers.xml_files import read_xml
from keras_maskrcnn.data.records import Dataset
from keras_maskrcnn.host.messages import argument

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_VOID = 255
_BACKGROUND = ("background", "_background_", "__ignore__")


class VocDataset(Dataset):
    """Images with the instance masks of Pascal VOC.

    The class of an object is the class of most of its pixels in SegmentationClass. Without that folder it is the name
    of the object with the same number in the XML file. Class names come from `labelmap.txt` (CVAT),
    `class_names.txt` (labelme) or VOC 2012.

    Args:
        folder: path of the folder that contains SegmentationObject (VOCdevkit/VOC2012).
        image_dir: folder of the images; None means `JPEGImages`, `images` or similar inside `folder`.
        part: "train", "val", ...: the images of that list in ImageSets/Segmentation. None takes all images with
            masks. So does a folder that has none of the lists train, val and test.
        on_error: "raise" or "skip", as for CocoDataset.
        class_names: names by label; None takes the listed classes in their order, or those of the XML files, sorted.
        category_ids: ids by label; None counts from 1.

    Raises:
        ValueError: there is no SegmentationObject, the part is unknown, or there are faults and on_error="raise".
    """

    def __init__(self, folder, image_dir=None, part=None, on_error="raise", class_names=None, category_ids=None):
        folder = need_folder(folder, "SegmentationObject, SegmentationClass, JPEGImages")
        masks = need_folder(folder / "SegmentationObject", "object masks (.png)")
        collector = Collector(folder, class_names)
        names, colors = _class_table(folder)
        by_number = (folder / "SegmentationClass").is_dir()
        if by_number:
            collector.declare(name for name in names.values() if name not in _BACKGROUND)
        own = [*named_folders(folder, ("jpegimages", *IMAGE_FOLDERS)), folder / "JPEGImages"][0]
        finder = ImageFinder(folder, own if image_dir is None else image_dir)
        for stem in _stems(folder, part, masks):
            path = finder.locate(collector, stem)
            if path is not None:
                _Reader(collector, folder, stem, names if by_number else None, colors).collect(path)
        super().__init__(**collector.finish(category_ids), on_error=on_error)


class _Reader:
    """The files of one image."""

    def __init__(self, collector, folder, stem, names, colors):
        self.collector = collector
        self.object_file = folder / "SegmentationObject" / f"{stem}.png"
        self.class_file = folder / "SegmentationClass" / f"{stem}.png"
        self.xml_file = folder / "Annotations" / f"{stem}.xml"
        self.names = names
        self.colors = colors

    def collect(self, path):
        try:
            stated, listed = _read_xml(self.xml_file)
        except FaultyAnnotation as fault:
            self.collector.fault(f"file {self.xml_file}", *fault.args)
            return
        size = self.collector.image_size(path, stated)
        if size is None:
            return
        try:
            objects = self._read(self.object_file, size, _voc_colors())
            classes = None if self.names is None else self._read(self.class_file, size, self.colors)
            masks = label_masks(objects, void=(_VOID,))
        except FaultyAnnotation as fault:
            self.collector.fault(f"masks of {path}", *fault.args)
            return
        instances = [
            self.collector.instance(
                f"object {number} of {self.object_file}",
                lambda n=number, m=mask: (self._class(n, objects, classes, listed), m),
                number,
            )
            for number, mask in masks
        ]
        self.collector.record(path, size, instances)

    def _read(self, file, size, colors):
        if not file.is_file():
            raise FaultyAnnotation(f"{file} does not exist.", "Add it, or remove the image from the list.")
        return read_labels(file, size, self.collector.name, colors)

    def _class(self, number, objects, classes, listed):
        if classes is None:
            if not 1 <= number <= len(listed or ()):
                raise FaultyAnnotation(
                    f"its number must be that of an object in {self.xml_file}: 1 to {len(listed or ())}. "
                    f"Received {number}.",
                    "Add the XML file with this object, or SegmentationClass.",
                )
            return listed[number - 1]
        inside = classes[objects == number]
        inside = inside[(inside != 0) & (inside != _VOID)]
        if not len(inside):
            raise FaultyAnnotation(f"all its pixels are background or void in {self.class_file}.", "Assign it a class.")
        values, counts = np.unique(inside, return_counts=True)
        value = int(values[counts.argmax()])
        name = self.names.get(value, f"class {value}")
        # Only VOC itself lists objects in the order of their numbers, so compare names, not positions.
        if listed is not None and name in self.names.values() and name not in listed:
            raise FaultyAnnotation(
                f"it is {name!r} in SegmentationClass. Received {sorted(set(listed))} in {self.xml_file}.",
                "Correct one of them.",
            )
        return name


def _stems(folder, part, masks):
    """Names of the images to read, without extension."""
    found = [path.stem for path in image_files(masks)]
    lists = {path.stem: path for path in files_with(folder / "ImageSets" / "Segmentation", ".txt")}
    if part is None or not set(lists) & {"train", "val", "test"}:
        return found
    if part not in lists:
        raise ValueError(f"{folder}: {argument('part')} must be one of {sorted(lists)}. Received {part!r}.")
    return list(dict.fromkeys(line.split()[0] for line in read_text(lists[part]).splitlines() if line.strip()))


def _class_table(folder):
    """({class number: name}, {colour number: class number})."""
    if (folder / "labelmap.txt").is_file():
        return _read_labelmap(folder / "labelmap.txt")
    if (folder / "class_names.txt").is_file():  # labelme counts from -1: __ignore__, _background_, ...
        lines = [line.strip() for line in read_text(folder / "class_names.txt").splitlines() if line.strip()]
        first = -1 if lines and lines[0] == "__ignore__" else 0
        return {number: name for number, name in enumerate(lines, start=first) if number > 0}, _voc_colors()
    return dict(enumerate(VOC_CLASSES, start=1)), _voc_colors()


def _read_labelmap(path):
    """CVAT's `name:r,g,b:parts:actions`."""
    names, colors = {}, {}
    for line in read_text(path).splitlines():
        cells = line.split(":")
        if line.startswith("#") or len(cells) < 2 or not cells[0].strip():
            continue
        number = 0 if cells[0] in _BACKGROUND else len(names) + 1
        if number:
            names[number] = cells[0].strip()
        try:
            red, green, blue = (fields.number(value, "a colour", 0, 255, whole=True) for value in cells[1].split(","))
        except (ValueError, FaultyAnnotation):
            raise ValueError(
                f"{path}: a line must be `name:r,g,b::`. Received {fields.shown(line)}. Export it again."
            ) from None
        colors[int(color_number(red, green, blue))] = number
    return names, colors | {int(color_number(224, 224, 192)): _VOID}


def _read_xml(path):
    """((height, width) or None, names of the objects or None). Both are None if the file does not exist.

    Raises:
        FaultyAnnotation: it is no XML, or lacks the size of the image.
    """
    if not path.is_file():
        return None, None
    root = read_xml(path)
    sides = [fields.number(root.findtext(f"size/{side}"), f"`{side}`", 1, whole=True) for side in ("height", "width")]
    return tuple(sides), [(entry.findtext("name") or "").strip() for entry in root.iter("object")]


def _voc_colors():
    """{colour number: index} of VOC's palette: the bits of an index, lowest first, go to the top bits of r, g, b."""
    colors = {}
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors[int(color_number(*channels))] = index
    return colors
