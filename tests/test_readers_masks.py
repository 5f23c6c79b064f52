"""Datasets of mask pictures: Pascal VOC, label images, one file an object; to the pixel."""

import numpy as np
import pytest
from PIL import Image
from reader_tools import HEIGHT, WIDTH, box, check, save_image, save_turned

from keras_maskrcnn.data import InstanceFilesDataset, LabelImageDataset, VocDataset

CAT, DOG, SHEEP = 8, 12, 17  # VOC's numbers


def voc_palette():
    """VOC's colours, written down for the first few and left gray for others."""
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    known += [(128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128)]
    colors = np.full((256, 3), 99, np.uint8)
    colors[: len(known)] = known
    colors[255] = (224, 224, 192)
    return colors


def save_palette(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette(voc_palette().ravel().tolist())
    image.save(path)


def save_xml(folder, stem, names, height=HEIGHT, width=WIDTH):
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name in names
    )
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{stem}.xml").write_text(
        f"<annotation><folder>VOC2012</folder><filename>{stem}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size><segmented>1</segmented>{objects}</annotation>"
    )


CAT_MASK = box(5, 4, 25, 14) & ~box(10, 6, 12, 8)  # with a hole
DOG_MASK = box(30, 5, 50, 15) | box(40, 30, 60, 40)  # of two parts


def voc(folder, stem="2007_000032", classes=(CAT, DOG), xml=("cat", "dog")):
    """VOC's layout with a cat and a dog, and void around the dog."""
    objects, kinds = np.zeros((2, HEIGHT, WIDTH), int)
    objects[box(28, 3, 52, 17)] = kinds[box(28, 3, 52, 17)] = 255
    for number, (mask, kind) in enumerate(zip((CAT_MASK, DOG_MASK), classes, strict=True), start=1):
        objects[mask], kinds[mask] = number, kind
    save_image(folder / "JPEGImages" / f"{stem}.jpg")
    save_palette(folder / "SegmentationObject" / f"{stem}.png", objects)
    save_palette(folder / "SegmentationClass" / f"{stem}.png", kinds)
    if xml is not None:
        save_xml(folder, stem, xml)
    return folder


EXPECTED = [("cat", CAT_MASK), ("dog", DOG_MASK)]


def test_voc_palettes_void_and_lists(tmp_path):
    voc(tmp_path, "2007_000032"), voc(tmp_path, "2007_000033"), voc(tmp_path, "2007_000039")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n2007_000032\n")
    (lists / "val.txt").write_text("2007_000033\n")
    dataset = VocDataset(tmp_path, part="train")
    assert len(dataset.class_names) == 20 and dataset.class_names[CAT - 1] == "cat"
    check(dataset, {"2007_000039.jpg": EXPECTED, "2007_000032.jpg": EXPECTED}, tmp_path)
    assert len(VocDataset(tmp_path)) == 3 and len(VocDataset(tmp_path, part="val")) == 1
    with pytest.raises(ValueError, match=r"\['train', 'val'\]. Received 'test'"):
        VocDataset(tmp_path, part="test")


def test_voc_without_class_masks_takes_the_xml_by_number(tmp_path):
    voc(tmp_path, xml=("lion", "hyena"))
    for file in (tmp_path / "SegmentationClass").iterdir():
        file.unlink()
    (tmp_path / "SegmentationClass").rmdir()
    dataset = VocDataset(tmp_path)
    assert dataset.class_names == ("hyena", "lion")
    check(dataset, {"2007_000032.jpg": [("lion", CAT_MASK), ("hyena", DOG_MASK)]}, tmp_path)


def test_voc_as_labelme_exports_it(tmp_path):
    voc(tmp_path, classes=(2, 1), xml=None)
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    for name in ("__ignore__", "_background_"):
        dataset = VocDataset(tmp_path)
        assert dataset.class_names == ("dog", "cat"), name
        check(dataset, {"2007_000032.jpg": EXPECTED}, tmp_path)
        (tmp_path / "class_names.txt").write_text("_background_\ndog\ncat\n")  # without the first line


def test_voc_as_cvat_exports_it_in_colours(tmp_path):
    voc(tmp_path, xml=None)
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:128,0,0::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    objects, kinds = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    for mask, own, kind in ((CAT_MASK, (128, 0, 0), (250, 50, 83)), (DOG_MASK, (0, 128, 0), (128, 0, 0))):
        objects[mask], kinds[mask] = own, kind
    Image.fromarray(objects).save(tmp_path / "SegmentationObject" / "2007_000032.png")
    Image.fromarray(kinds).save(tmp_path / "SegmentationClass" / "2007_000032.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("2007_000032\n")
    dataset = VocDataset(tmp_path, part="train")  # there is nothing but `default`
    assert dataset.class_names == ("cat", "dog")
    check(dataset, {"2007_000032.jpg": EXPECTED}, tmp_path)


def test_voc_faults_are_named(tmp_path):
    voc(tmp_path, "good")
    voc(tmp_path, "other", xml=("cat", "horse"))
    voc(tmp_path, "nothing", classes=(CAT, 0))
    voc(tmp_path, "unknown", classes=(CAT, 77))
    voc(tmp_path, "swapped"), save_xml(tmp_path, "swapped", (), height=WIDTH, width=HEIGHT)
    voc(tmp_path, "lost"), (tmp_path / "JPEGImages" / "lost.jpg").unlink()
    voc(tmp_path, "small"), save_palette(tmp_path / "SegmentationObject" / "small.png", np.ones((8, 9)))
    voc(tmp_path, "half"), (tmp_path / "SegmentationClass" / "half.png").unlink()
    voc(tmp_path, "torn"), (tmp_path / "Annotations" / "torn.xml").write_text("<annotation>")
    with pytest.warns(UserWarning, match="Left out 8"):
        dataset = VocDataset(tmp_path, on_error="skip")
    told = {f.where.split("/")[-1].split(".")[0]: str(f) for f in dataset.faults}
    words = {
        "other": ["object 2", "'dog' in SegmentationClass", "['cat', 'horse']"],
        "nothing": ["object 2", "background or void"],
        "unknown": ["object 2", "'class 77'"],
        "image swapped": ["sides are swapped", "60 x 40"],
        "image 'lost'": ["does not exist"],
        "small": ["8 x 9", "40 x 60"],
        "half": ["SegmentationClass", "does not exist"],
        "torn": ["not a VOC annotation"],
    }
    assert set(told) == set(words)
    for name, expected in words.items():
        assert all(word in told[name] for word in expected), told[name]
    assert [len(record.instances) for record in dataset.records] == [2, 1, 1, 1]


def numbered(*masks, numbers=(1, 2, 3)):
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, mask in zip(numbers, masks, strict=False):
        labels[mask] = number
    return labels


def save_labels(path, labels, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(dtype)).save(path)


LABELS = numbered(CAT_MASK, DOG_MASK, numbers=(7, 3))
CELLS = [("cell", DOG_MASK), ("cell", CAT_MASK)]  # by rising number


DEPTHS = [("png", np.uint8, 1), ("png", np.uint16, 9000), ("tif", np.uint16, 9000), ("tif", np.int32, 10**6)]


@pytest.mark.parametrize("ending, dtype, scale", [*DEPTHS, ("tif", np.float32, 9000)])
def test_label_images_of_any_depth(tmp_path, ending, dtype, scale):
    save_image(tmp_path / "images" / "a.png"), save_image(tmp_path / "images" / "b.png", seed=1)
    save_labels(tmp_path / "labels" / f"a.{ending}", LABELS * scale, dtype)
    save_labels(tmp_path / "labels" / f"b_masks.{ending}", LABELS * 0, dtype)
    dataset = LabelImageDataset(tmp_path, class_names=["cell"])
    assert [i.annotation_id for i in dataset[0].instances] == [3 * scale, 7 * scale]
    check(dataset, {"a.png": CELLS, "b.png": []}, tmp_path)


def test_label_images_in_colours_palettes_and_beside_the_image(tmp_path):
    """Cellpose's layout; a palette counts by index, colours one by one."""
    save_image(tmp_path / "a.tif"), save_image(tmp_path / "b.tif", seed=1)
    colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colors[CAT_MASK], colors[DOG_MASK] = (1, 2, 3), (200, 1, 0)  # as numbers 1 + 512 + 3 * 65536 and 456
    Image.fromarray(colors).save(tmp_path / "a_cp_masks.png")
    save_palette(tmp_path / "b_masks.png", LABELS)
    dataset = LabelImageDataset(tmp_path)
    assert [i.annotation_id for i in dataset[0].instances] == [456, 197121]
    expected = [("object", mask) for _, mask in CELLS]
    check(dataset, {"a.tif": expected, "b.tif": expected}, tmp_path)


def test_label_images_of_turned_photos_are_as_the_photo_is_seen(tmp_path):
    save_turned(tmp_path / "images" / "a.jpg")
    save_labels(tmp_path / "masks" / "a.png", LABELS)
    check(LabelImageDataset(tmp_path, class_names=["cell"]), {"a.jpg": CELLS}, tmp_path)


def test_label_image_faults_are_named(tmp_path):
    for name in ("good", "alone", "binary", "swapped", "lossy", "half"):
        save_image(tmp_path / "images" / f"{name}.png")
    save_labels(tmp_path / "labels" / "good.png", LABELS)
    save_labels(tmp_path / "labels" / "binary.png", (LABELS > 0) * 255, np.uint8)
    save_labels(tmp_path / "labels" / "swapped.png", LABELS.T)
    save_labels(tmp_path / "labels" / "lossy.jpg", LABELS, np.uint8)
    save_labels(tmp_path / "labels" / "half.tif", LABELS / 2, np.float32)
    save_labels(tmp_path / "labels" / "orphan.png", LABELS)
    with pytest.warns(UserWarning, match="Left out 6"):
        dataset = LabelImageDataset(tmp_path, on_error="skip")
    told = {fault.where.split("/")[-1].split(".")[0]: str(fault) for fault in dataset.faults}
    assert "no label image" in told["alone"] and "separate objects" in told["binary"]
    assert "sides are swapped" in told["swapped"] and "JPEG" in told["lossy"]
    assert "whole number" in told["half"] and "does not exist" in told["orphan"]
    assert len(dataset) == 1
    with pytest.raises(ValueError, match="labels/, masks/"):
        LabelImageDataset(tmp_path / "images")


def test_one_black_and_white_region_is_one_object(tmp_path):
    save_image(tmp_path / "images" / "a.png")
    save_labels(tmp_path / "labels" / "a.png", CAT_MASK * 255, np.uint8)
    check(LabelImageDataset(tmp_path), {"a.png": [("object", CAT_MASK)]}, tmp_path)


def test_one_file_an_object_named_by_class_as_pycococreator_reads(tmp_path):
    for seed, name in enumerate(("1000.jpeg", "1000_b.jpeg", "2.jpeg")):
        save_image(tmp_path / "images" / name, seed)
    masks = {
        "1000_square_0": CAT_MASK,
        "1000_circle_1": DOG_MASK,
        "1000_b_big-circle_0": CAT_MASK,
        "1000_b_3": DOG_MASK,
    }
    for name, mask in masks.items():
        save_labels(tmp_path / "annotations" / f"{name}.png", mask * 255, np.uint8)
    dataset = InstanceFilesDataset(tmp_path)
    assert dataset.class_names == ("big-circle", "circle", "object", "square")
    expected = {
        "1000.jpeg": [("circle", DOG_MASK), ("square", CAT_MASK)],
        "1000_b.jpeg": [("object", DOG_MASK), ("big-circle", CAT_MASK)],
        "2.jpeg": [],
    }
    check(dataset, expected, tmp_path)


def test_one_file_an_object_in_folders(tmp_path):
    save_image(tmp_path / "images" / "a.png"), save_image(tmp_path / "images" / "b.png")
    save_labels(tmp_path / "masks" / "a" / "x1.png", CAT_MASK, bool)
    save_labels(tmp_path / "masks" / "a" / "x2.png", DOG_MASK * 3, np.uint16)
    check(InstanceFilesDataset(tmp_path, class_names=["cell"]), {"a.png": CELLS[::-1], "b.png": []}, tmp_path)
    (tmp_path / "masks" / "a" / "x1.png").rename(_folder(tmp_path / "masks" / "b" / "dog") / "x1.png")
    (tmp_path / "masks" / "a" / "x2.png").rename(_folder(tmp_path / "masks" / "b" / "cat") / "x2.png")
    check(InstanceFilesDataset(tmp_path), {"a.png": [], "b.png": [("cat", DOG_MASK), ("dog", CAT_MASK)]}, tmp_path)


def _folder(path):
    path.mkdir(parents=True)
    return path


def test_faults_of_mask_files_are_named(tmp_path):
    save_image(tmp_path / "images" / "a.png")
    save_labels(tmp_path / "masks" / "a_1.png", CAT_MASK, bool)
    save_labels(tmp_path / "masks" / "a_2.png", CAT_MASK & ~CAT_MASK, bool)
    save_labels(tmp_path / "masks" / "a_3.png", CAT_MASK.T, bool)
    save_labels(tmp_path / "masks" / "z_1.png", CAT_MASK, bool)
    save_labels(tmp_path / "masks" / "zz" / "1.png", CAT_MASK, bool)
    with pytest.warns(UserWarning, match="Left out 4"):
        dataset = InstanceFilesDataset(tmp_path, on_error="skip")
    told = {fault.where.split("/")[-1]: str(fault) for fault in dataset.faults}
    assert "mask is empty" in told["a_2.png"] and "sides are swapped" in told["a_3.png"]
    assert "its name matches no image" in told["z_1.png"] and "its name matches no image" in told["zz"]
    assert len(dataset[0].instances) == 1
    with pytest.raises(ValueError, match="images/"):
        InstanceFilesDataset(tmp_path / "images")
