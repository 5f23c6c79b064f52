"""Writers of tools that keep folders of files or XML: YOLO, Pascal VOC and CVAT.

Comes in: a list of `Draft`. Goes out: {path inside the folder: text, bytes, or a path to copy}. Called by `writing.py`.
"""

import io
import pathlib
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from keras_maskrcnn.labelling.drafts import from_root, local_root

VOC_OBJECTS = 254  # of an image: numbers of a palette without background and void


def yolo_files(drafts, names, folder):
    """data.yaml, images and labels. Parts and holes are joined to one outline; there is no place for scores."""
    local_root(drafts)
    content = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(names))}
    files = {"data.yaml": yaml.safe_dump(content, allow_unicode=True, sort_keys=False)}
    for draft in drafts:
        files[f"images/{draft.name}"] = pathlib.Path(draft.file)
        lines = []
        for one in draft.objects:
            shares = one.outline / (draft.width, draft.height)
            lines.append(" ".join([str(names.index(one.name)), *(f"{value:.6f}" for value in shares.ravel())]))
        files[f"labels/{draft.stem}.txt"] = "\n".join(lines) + "\n" * bool(lines)
    return files


def voc_files(drafts, names, folder):
    """Masks as palette images, and a list of objects for each image. Where masks overlap the surest object stays.

    Raises:
        ValueError: a class name has a character that labelmap.txt gives a meaning to, or there are too many classes.
    """
    local_root(drafts)
    wrong = [name for name in names if ":" in name or "\n" in name or name.startswith("#")]
    if wrong or len(names) > VOC_OBJECTS:
        received = repr(wrong[0]) if wrong else f"{len(names)} classes"
        raise ValueError(
            f"Pascal VOC takes up to {VOC_OBJECTS} classes, whose names have no colon and begin with no #. "
            f"Received {received}. Choose COCO."
        )
    palette = _voc_palette()
    table = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    table += [f"{name}:{','.join(map(str, palette[k]))}::" for k, name in enumerate(names, start=1)]
    files = {"labelmap.txt": "\n".join(table) + "\n"}
    files["ImageSets/Segmentation/default.txt"] = "".join(f"{draft.stem}\n" for draft in drafts)
    for draft in drafts:
        objects, classes = np.zeros((2, draft.height, draft.width), np.uint8)
        kept = draft.objects[:VOC_OBJECTS]
        for number, one in reversed(list(enumerate(kept, start=1))):  # the surest on top
            height, width = one.window.shape
            place = slice(one.y, one.y + height), slice(one.x, one.x + width)
            objects[place][one.window] = number
            classes[place][one.window] = names.index(one.name) + 1
        files[f"JPEGImages/{draft.name}"] = pathlib.Path(draft.file)
        files[f"SegmentationObject/{draft.stem}.png"] = _palette_png(objects, palette)
        files[f"SegmentationClass/{draft.stem}.png"] = _palette_png(classes, palette)
        files[f"Annotations/{draft.stem}.xml"] = _voc_xml(draft, kept)
    return files


def _voc_palette():
    """uint8 (256, 3): the bits of an index, lowest first, go to the top bits of red, green and blue."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            palette[index, bit % 3] |= (index >> bit & 1) << 7 - bit // 3
    return palette


def _palette_png(numbers, palette):
    picture = Image.fromarray(numbers).convert("L")
    picture.putpalette(palette.ravel().tolist())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _voc_xml(draft, objects):
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = draft.name
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", draft.width), ("height", draft.height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "1"
    for one in objects:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = one.name
        box = ElementTree.SubElement(entry, "bndbox")
        height, width = one.window.shape
        corners = {"xmin": one.x, "ymin": one.y, "xmax": one.x + width, "ymax": one.y + height}
        for name, value in corners.items():
            ElementTree.SubElement(box, name).text = str(value)
        ElementTree.SubElement(entry, "score").text = f"{one.score:.4f}"
    return _xml_text(root)


def cvat_files(drafts, names, folder):
    """CVAT for images 1.1: masks pixel by pixel, with `score` as an attribute of each label."""
    root_folder = local_root(drafts)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
        for key, value in (("name", "score"), ("mutable", "False"), ("input_type", "text"), ("values", "")):
            ElementTree.SubElement(attribute, key).text = value
    for number, draft in enumerate(drafts):
        size = {"width": str(draft.width), "height": str(draft.height)}
        image = ElementTree.SubElement(root, "image", id=str(number), name=from_root(draft, root_folder), **size)
        for one in draft.objects:
            height, width = one.window.shape
            place = {"left": one.x, "top": one.y, "width": width, "height": height, "z_order": 0}
            mask = ElementTree.SubElement(image, "mask", label=one.name, source="auto", occluded="0")
            mask.set("rle", ", ".join(map(str, row_runs(one.window))))
            for key, value in place.items():
                mask.set(key, str(value))
            ElementTree.SubElement(mask, "attribute", name="score").text = f"{one.score:.4f}"
    return {"annotations.xml": _xml_text(root)}


def row_runs(window):
    """Run lengths row by row, a list of int that begins with those of 0."""
    flat = np.asarray(window, bool).ravel()
    turns = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], turns, [len(flat)]])).tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


def _xml_text(root):
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
