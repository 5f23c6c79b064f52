"""open_dataset: every format by what its folder holds, and one clear error where nothing fits."""

import json

import numpy as np
import pytest
import test_readers_labelme as labelme
import test_readers_masks as masks
import test_readers_tables as tables
import test_readers_via as via
from PIL import Image
from reader_tools import box, check, save_image

from keras_maskrcnn.data import generate_shapes, open_dataset
from keras_maskrcnn.data.readers.opener import FORMATS, recognise


def make_coco(folder):
    generate_shapes(folder, 2, image_size=32)
    return folder / "annotations.json"


def make_via(folder):
    return via.via1(folder)


def make_via3(folder):
    save_image(folder / "a.png")
    return via.via3(folder, {"m": via.mark([2, 1, 2, 10, 5])})


def make_labelme(folder):
    save_image(folder / "a.png")
    labelme.save(folder, "b.json", [], image="a.png")
    return labelme.save(folder, "a.json", [labelme.shape("cat", labelme.SQUARE)])


def make_voc(folder):
    return masks.voc(folder)


def make_yolo(folder):
    tables.save_yaml(tables.yolo(folder) / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder / "data.yaml"


def make_csv(folder):
    save_image(folder / "images" / "a.png")
    (folder / "t.csv").write_text('image,polygon\na.png,"5 4 25 4 25 14"\n')
    return folder / "t.csv"


def make_dsb(folder):
    save_image(folder / "x" / "images" / "x.png")
    masks.save_labels(folder / "x" / "masks" / "1.png", masks.CAT_MASK, bool)
    return folder


def make_label_images(folder):
    save_image(folder / "images" / "a.png")
    masks.save_labels(folder / "masks" / "a.png", masks.LABELS)
    return folder


def make_instance_files(folder):
    save_image(folder / "images" / "a.png")
    masks.save_labels(folder / "masks" / "a_cat_1.png", masks.CAT_MASK, bool)
    return folder


MAKERS = {name: globals()[f"make_{name.replace('-', '_')}"] for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_from_its_file_and_its_folder(tmp_path, name):
    source = MAKERS[name](tmp_path)
    found, path = recognise(source)
    assert found == name and path == source
    assert recognise(tmp_path)[0] == name
    dataset = open_dataset(tmp_path)
    assert type(dataset) is FORMATS[name][1] and dataset.max_instances >= 1
    assert [dataset.load_image(k).shape[:2] for k in range(len(dataset))] == dataset.image_sizes
    again = open_dataset(source, format=name, class_names=dataset.class_names, category_ids=dataset.category_ids)
    assert (again.class_names, again.category_ids) == (dataset.class_names, dataset.category_ids)
    assert [len(record.instances) for record in again.records] == [len(record.instances) for record in dataset.records]


def test_other_places_of_the_same_formats(tmp_path):
    save_image(tmp_path / "cells" / "a.tif")
    masks.save_labels(tmp_path / "cells" / "a_masks.tif", masks.LABELS)
    assert recognise(tmp_path / "cells") == ("label-images", tmp_path / "cells")
    save_image(tmp_path / "many" / "images" / "a.png")
    masks.save_labels(tmp_path / "many" / "masks" / "a" / "0.png", masks.CAT_MASK, bool)
    assert recognise(tmp_path / "many")[0] == "instance-files"
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    (tmp_path / "via.csv").write_text(f"{header}\n")
    assert recognise(tmp_path / "via.csv")[0] == "via"


def test_parts_images_and_attributes_reach_the_reader(tmp_path):
    make_yolo(tmp_path / "yolo")
    (tmp_path / "yolo" / "labels" / "val" / "a.txt").write_text("")
    counts = {}
    for part in (None, "train", "val"):
        counts[part] = [len(record.instances) for record in open_dataset(tmp_path / "yolo", part=part).records]
    assert counts == {None: [2, 0, 0], "train": [2, 0, 0], "val": [0, 0, 0]}
    path = make_via(tmp_path / "via").rename(tmp_path / "moved.json")
    dataset = open_dataset(path, tmp_path / "via", attribute="kind", class_names=["dog", "cat"])
    check(dataset, {"b.png": [("cat", via.L_MASK), ("dog", box(30, 5, 50, 15))], "a.png": []}, tmp_path)
    with pytest.raises(ValueError, match="attribute=... is only for VIA files. Received 'kind' with format yolo, "):
        open_dataset(tmp_path / "yolo", attribute="kind")


def test_what_no_format_fits_is_told_with_all_that_was_looked_for(tmp_path):
    save_image(tmp_path / "photo.png")
    (tmp_path / "package.json").write_text("{}")
    for source in (tmp_path, tmp_path / "package.json", tmp_path / "photo.png"):
        with pytest.raises(ValueError) as caught:
            open_dataset(source)
        assert all(f"  {name}: " in str(caught.value) for name in FORMATS) and str(source) in str(caught.value)
    with pytest.raises(ValueError, match=r"\['package.json', 'photo.png'\]"):
        open_dataset(tmp_path)
    save_image(tmp_path / "bare" / "images" / "a.png")
    (tmp_path / "bare" / "masks").mkdir()  # without a file
    with pytest.raises(ValueError, match=r"bare with \['images/', 'masks/'\], which matches none of them"):
        open_dataset(tmp_path / "bare")
    with pytest.raises(ValueError, match="which does not exist"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(ValueError, match="format=... must be one of"):
        open_dataset(tmp_path, format="coc")
    via.via1(tmp_path)
    via.via3(tmp_path, {})
    with pytest.raises(ValueError, match=r"\['via3.json', 'via_region_data.json'\]. Name the file"):
        open_dataset(tmp_path)


def test_faults_are_skipped_when_told(tmp_path):
    make_labelme(tmp_path)
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ValueError, match="c.json"):
        open_dataset(tmp_path)
    with pytest.warns(UserWarning, match="Left out 1"):
        assert len(open_dataset(tmp_path, on_error="skip")) == 2


def test_images_of_several_folders_keep_their_paths_in_coco(tmp_path):
    make_dsb(tmp_path / "d")
    save_image(tmp_path / "d" / "y" / "images" / "y.png")
    content = open_dataset(tmp_path / "d").to_coco(tmp_path / "out" / "coco.json")
    assert [entry["file_name"] for entry in content["images"]] == ["x/images/x.png", "y/images/y.png"]
    assert json.loads((tmp_path / "out" / "coco.json").read_text()) == content
    again = open_dataset(tmp_path / "out" / "coco.json", tmp_path / "d")
    with Image.open(tmp_path / "d" / "y" / "images" / "y.png") as image:
        np.testing.assert_array_equal(again.load_image(1), np.asarray(image))


@pytest.mark.parametrize("name", ["missing", "a" * 5000, "b" * 300 + "/c.json"])
def test_what_does_not_exist_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"Received {tmp_path / name}, which does not exist. Check the path"):
        recognise(tmp_path / name)


@pytest.mark.parametrize(("extra", "expected"), [("", "coco"), ('"shapes": 1, "imagePath": 2, ', "labelme")])
def test_a_large_file_is_recognised_by_its_ends(tmp_path, extra, expected):
    path, filler = tmp_path / "large.json", '"' + "x" * (9 * 2**20) + '"'
    path.write_text(f'{{{extra}"images": [], "annotations": [{filler}], "categories": []}}')
    assert recognise(path) == (expected, path)
    inside = '{"shapes": 0, "imagePath": 0}'
    path.write_text(f'{{"images": [], "annotations": [{filler}, {inside}], "categories": [{filler}]}}')
    assert recognise(path) == ("labelme", path)  # the ends do not tell: everything is searched
