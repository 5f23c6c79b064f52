"""What the tests of the readers share: images in a folder, and the round trip through COCO, compared pixel by pixel."""

import json
import pathlib
import types

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import CocoDataset
from keras_maskrcnn.data.coco_output import coco_image_dir
from keras_maskrcnn.data.loading.rows import ground_truth

HEIGHT, WIDTH = 40, 60  # not square, so that swapped sides show
Y, X = np.mgrid[:HEIGHT, :WIDTH] + 0.5  # pixel centres


def picture(seed=0, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def scene(seed):
    """A smooth picture with detail, as photos are: noise at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((160, 120), 3) for n in (4, 9, 20)
    ]
    return Image.fromarray(np.mean([np.asarray(layer, float) for layer in layers], 0).astype(np.uint8))


def save_image(path, seed=0, height=HEIGHT, width=WIDTH, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, height, width)).save(path, **options)
    return path


def save_turned(path):
    """A JPEG stored lying, with an EXIF orientation that makes it HEIGHT x WIDTH."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return save_image(path, height=WIDTH, width=HEIGHT, exif=exif)


def box(x1, y1, x2, y2):
    """The pixels of a rectangle with whole-number edges."""
    return (X > x1) & (X < x2) & (Y > y1) & (Y < y2)


def inside_ellipse(cx, cy, rx, ry, theta=0.0, grow=0.0):
    """Pixels whose centre lies in an ellipse; its axes are turned from x towards y."""
    u = (X - cx) * np.cos(theta) + (Y - cy) * np.sin(theta)
    v = -(X - cx) * np.sin(theta) + (Y - cy) * np.cos(theta)
    return (u / (rx + grow)) ** 2 + (v / (ry + grow)) ** 2 < 1


def round_shape(cx, cy, rx, ry, theta=0.0):
    """(what must be set, what may be set): curves are known to a pixel."""
    return inside_ellipse(cx, cy, rx, ry, theta, grow=-0.75), inside_ellipse(cx, cy, rx, ry, theta, grow=0.75)


def masks_of(dataset, index):
    """bool (n, H, W) of an image's objects, by the dataset's own records."""
    record = dataset[index]
    masks = np.zeros((len(record.instances), record.height, record.width), bool)
    for mask, instance in zip(masks, record.instances, strict=True):
        window = instance.mask.window(record.height, record.width)
        rows, columns = window.pixels.shape
        mask[window.y : window.y + rows, window.x : window.x + columns] = window.pixels
        assert instance.box.tolist() == box_of(mask) or not isinstance(instance.mask.segmentation(1, 1), dict)
    return masks


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def check(dataset, expected, tmp_path):
    """A dataset holds what is expected, and so do the COCO file it writes and the dataset read from that.

    Args:
        dataset: Dataset.
        expected: {file name of the image: [(class, mask)]}; a mask is bool (H, W), or (must, may) where edges curve.
        tmp_path: for the COCO file.
    """
    path = pathlib.Path(tmp_path) / "written" / "coco.json"
    dataset.to_coco(path)
    assert not list(path.parent.glob(".partial*"))
    again = CocoDataset(path, coco_image_dir(dataset, path))
    coco = COCO(str(path))
    names = {category["id"]: category["name"] for category in coco.cats.values()}
    files = [pathlib.PurePath(entry["file_name"]).name for entry in json.loads(path.read_text())["images"]]
    assert files == list(expected)
    assert again.class_names == dataset.class_names and again.category_ids == dataset.category_ids
    for index, name in enumerate(expected):
        image_id = dataset[index].image_id
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        classes = [label for label, _ in expected[name]]
        assert [names[entry["category_id"]] for entry in annotations] == classes
        assert [dataset.class_names[instance.label] for instance in dataset[index].instances] == classes
        mine, read = masks_of(dataset, index), masks_of(again, index)
        for position, (_, mask) in enumerate(expected[name]):
            must, may = mask if isinstance(mask, tuple) else (mask, mask)
            for found in (mine[position], read[position], coco.annToMask(annotations[position]).astype(bool)):
                assert not (must & ~found).any() and not (found & ~may).any(), (name, position)
        np.testing.assert_array_equal(again.load_image(index), dataset.load_image(index))
    assert dataset.max_instances == max(len(objects) for objects in expected.values())
    return again


def network_instances(sample, most, cells, rng):
    """The ground truth that a loader makes of a sample: boxes, labels, masks (cells a side), crowd, num_cut."""
    config = MaskRCNNConfig(num_classes=1000, gt_mask_size=cells)
    shown, num_cut = sample.network_objects(most, rng)
    rows = {name.removeprefix("gt_"): values for name, values in ground_truth(shown, config).items()}
    return types.SimpleNamespace(**rows, num_cut=num_cut)
