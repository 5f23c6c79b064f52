"""Images are found by the names that people's annotations have, in one order, and never by accident."""

import json
import pathlib
import shutil
import time

import pytest
from PIL import Image
from reader_tools import save_image

from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.data.readers import image_finder, listings
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.data.readers.image_names import name_forms

LABEL_STUDIO = "/data/local-files/?d=photos%5Cday%201/a.png"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def found(tmp_path, name, source="coco.json", image_dir=None):
    """(path relative to the folder, notes)."""
    finder = ImageFinder(tmp_path / source, image_dir)
    path = finder.find(name)
    assert path.is_file()
    return path.resolve().relative_to(tmp_path.resolve()).as_posix(), finder.notes


@pytest.mark.parametrize(
    "file, name",
    [
        ("a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("images/a.png", "images/a.png"),
        ("Images/a.png", "a.png"),
        ("images/day 1/a.png", "images\\day 1\\a.png"),
        ("images/a b.png", "a%20b.png"),
        ("images/a%20b.png", "a%20b.png"),
        ("a#1.png", "a#1.png"),
        ("images/a.png", "a.png?width=100&v=2"),
        ("images/a.png", "https://host:8080/a.png?token=x#top"),
        ("photos/day 1/a.png", LABEL_STUDIO),
        ("images/größe.png", "gr%C3%B6%C3%9Fe.png"),
        ("images/1.tar.png", "./1.tar.png"),
    ],
)
def test_a_name_that_says_where_the_file_is_needs_no_note(tmp_path, file, name):
    touch(tmp_path, file)
    assert found(tmp_path, name) == (file, [])


@pytest.mark.parametrize(
    "file, name, how",
    [
        ("images/a.png", "C:\\Users\\me\\a.png", "last part of its name"),
        ("images/a.png", "..\\..\\ls\\media\\upload\\4\\a.png", "last part of its name"),
        ("images/a.png", "https://host/bucket/photos/a.png", "last part of its name"),
        ("images/day/one/a.png", "a.png", "last part of its name"),
        ("images/a.png", "/home/somebody/a.png", "last part of its name"),
        ("images/a.JPG", "a.jpg", "case of the extension"),
        ("images/a.jpeg", "old/a.JPEG", "case of the extension"),
        ("images/Photo.png", "PHOTO.PNG", "upper and lower case"),
        ("images/cafe\u0301.png", "caf\u00e9.png", "upper and lower case"),
        ("images/ab12cd34-x.png", "x.png", "Label Studio's prefix"),
        ("images/x.png", "upload/1/ab12cd34-x.png", "Label Studio's prefix"),
    ],
)
def test_a_name_that_is_only_like_the_file_is_told(tmp_path, file, name, how):
    touch(tmp_path, file, "images/other.png")
    path, notes = found(tmp_path, name)
    assert path == file and len(notes) == 1
    assert notes[0].startswith("An image was found ") and how in notes[0] and file in notes[0]


@pytest.mark.parametrize(
    "files, name, expected",
    [
        (["a.png", "images/b.png"], "b.png", "images/b.png"),
        (["images/one/a.png", "images/two/a.png"], "x\\two\\a.png", "images/two/a.png"),  # the most last parts
        (["images/a.png", "images/A.PNG"], "a.png", "images/a.png"),  # exact before similar
        (["images/a.png", "../images/a.png"], "a.png", "images/a.png"),  # near before far
        (["images/a.jpg", "notes/a.txt"], "a", "images/a.jpg"),  # no extension: images alone
        (["images/deadbeef-a.png", "images/a.png"], "deadbeef-a.png", "images/deadbeef-a.png"),
    ],
)
def test_the_order_of_the_search(tmp_path, files, name, expected):
    home = tmp_path / "home"
    touch(home, *files)
    assert found(home, name)[0] == expected


def test_folders_above_are_searched_by_their_image_folders(tmp_path):
    touch(tmp_path, "annotations/instances_default.json", "images/train/a.png", "exports/b.png", "train2017/c.png")
    assert found(tmp_path, "a.png", "annotations/instances_default.json")[0] == "images/train/a.png"
    assert found(tmp_path, "train2017/c.png", "annotations/instances_default.json")[0] == "train2017/c.png"
    for name in ("b.png", "c.png"):  # beside the annotations' folder, not in it and not named as images
        with pytest.raises(FaultyAnnotation, match="does not exist"):
            found(tmp_path, name, "annotations/instances_default.json")


def test_several_files_are_a_fault_that_names_them_unless_they_are_copies(tmp_path):
    touch(tmp_path, "images/one/a.png", "images/two/a.png", "b.png", "images/b.png")
    for name, files in (("a.png", ("one/a.png", "two/a.png")), ("b.png", ("/b.png", "images/b.png"))):
        with pytest.raises(FaultyAnnotation) as caught:
            found(tmp_path, name)
        assert "several files" in str(caught.value) and all(file in str(caught.value) for file in files)
        assert "image_dir=..." in caught.value.args[1]
    shutil.copy(tmp_path / "images" / "one" / "a.png", tmp_path / "images" / "two" / "a.png")
    assert found(tmp_path, "a.png")[0] == "images/one/a.png"
    assert found(tmp_path, "b.png", image_dir=tmp_path / "images")[0] == "images/b.png"


def test_links_that_lead_nowhere_are_no_images(tmp_path):
    touch(tmp_path, "images/two/a.png", "images/one/c.png")
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / "one" / name).symlink_to(tmp_path / "gone.png")
    assert found(tmp_path, "a.png")[0] == "images/two/a.png"
    with pytest.raises(FaultyAnnotation, match="the file does not exist. Looked for 'b.png' in"):
        found(tmp_path, "b.png")


def test_a_folder_of_too_many_files_is_not_searched_and_named(tmp_path, monkeypatch):
    touch(tmp_path, "photos/a.png", "photos/b.png", "images/c.png")
    for module in (listings, image_finder):
        monkeypatch.setattr(module, "SEARCH_FILES", 4)
    with pytest.raises(FaultyAnnotation) as caught:
        found(tmp_path, "x/a.png")
    assert f"and in sub-folders, but not of {tmp_path}: more than 4 files." in caught.value.args[0]
    monkeypatch.setattr(listings, "SEARCH_FILES", 5)  # two folders and three files
    assert found(tmp_path, "x/a.png")[0] == "photos/a.png"


def test_two_names_never_share_a_file_that_neither_names(tmp_path):
    touch(tmp_path, "images/a.png")
    finder = ImageFinder(tmp_path / "coco.json")
    assert finder.find("day1/a.png") == finder.find("day1/a.png") == tmp_path / "images" / "a.png"
    with pytest.raises(FaultyAnnotation, match="already found for 'day1/a.png'"):
        finder.find("day2/a.png")


def test_what_is_missing_is_told_with_what_was_tried(tmp_path):
    touch(tmp_path, "images/b.png")
    with pytest.raises(FaultyAnnotation) as caught:
        found(tmp_path, "C:\\x\\a%20b.png")
    assert "'C:\\\\x\\\\a%20b.png', 'x/a%20b.png', 'x/a b.png'" in caught.value.args[0]
    assert f"{tmp_path}, {tmp_path / 'images'}" in caught.value.args[0]
    with pytest.raises(ValueError, match="gone, which is not a folder"):
        ImageFinder(tmp_path / "coco.json", tmp_path / "gone")
    for name in (None, 7, "", "  ", "../..", "a\0.png", ["a.png"]):
        with pytest.raises(FaultyAnnotation, match="needs the name of its file|does not exist"):
            found(tmp_path, name)
    with pytest.raises(FaultyAnnotation) as caught:
        found(tmp_path, "x" * 100_000 + ".png")
    assert len(str(caught.value)) < 1000


def test_absolute_paths_are_used_as_they_are_and_paths_outside_are_told(tmp_path):
    touch(tmp_path, "elsewhere/a.png", "home/images/a.png", "elsewhere/c.png")
    home = tmp_path / "home" / "deep"
    home.mkdir()
    finder = ImageFinder(home / "coco.json")
    assert finder.find(str(tmp_path / "elsewhere" / "a.png")) == tmp_path / "elsewhere" / "a.png"
    assert finder.notes == []
    assert finder.find("../images/a.png").samefile(tmp_path / "home" / "images" / "a.png") and finder.notes == []
    assert finder.find("../../elsewhere/c.png").samefile(tmp_path / "elsewhere" / "c.png")
    assert "outside" in finder.notes[0] and "elsewhere/c.png" in finder.notes[0]


def test_hidden_files_and_folders_are_not_searched(tmp_path):
    touch(tmp_path, "images/.cache/a.png", "images/sub/._a.png")
    with pytest.raises(FaultyAnnotation, match="does not exist"):
        found(tmp_path, "x/a.png")


def test_names_that_are_no_utf8_are_found(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path, name)[0] == name
    assert found(tmp_path, "caf%E9.png")[0] == name
    assert name_forms("a.png") == ["a.png"]


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
    touch(tmp_path, *(f"images/{number}.png" for number in range(2000)))
    listed, names = [], listings._file_names
    monkeypatch.setattr(listings, "_file_names", lambda folder: listed.append(folder) or names(folder))
    finder = ImageFinder(tmp_path / "coco.json")
    started = time.monotonic()
    for number in range(2000):
        assert finder.find(f"C:\\x\\{number}.PNG").name == f"{number}.png"
    assert len(listed) < 20 and time.monotonic() - started < 10


def coco(name):
    box = [5, 5, 25, 5, 25, 20]
    return {
        "images": [{"id": 1, "file_name": name, "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [box], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "leaf"}],
    }


def via(name):
    shape = {"name": "polygon", "all_points_x": [5, 25, 25], "all_points_y": [5, 5, 20]}
    return {"k": {"filename": name, "regions": [{"shape_attributes": shape, "region_attributes": {}}]}}


def via3(name):
    return {
        "project": {},
        "attribute": {},
        "file": {"1": {"fname": name, "type": 2, "loc": 1}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {"m": {"vid": "1", "xy": [7, 5, 5, 25, 5, 25, 20], "av": {}}},
    }


def labelme(name):
    shape = {"label": "leaf", "points": [[5, 5], [25, 5], [25, 20]], "shape_type": "polygon"}
    return {"shapes": [shape], "imagePath": name, "imageHeight": 40, "imageWidth": 60}


def table(name):
    return f'image,polygon\n{name},"5 5 25 5 25 20"\n'


@pytest.mark.parametrize(
    "format, content", [("coco", coco), ("via", via), ("via3", via3), ("labelme", labelme), ("csv", table)]
)
@pytest.mark.parametrize("name", ["a b.PNG", "images\\a%20b.png", "D:\\old\\a b.png", "../../up/a b.png?x=1"])
def test_every_reader_finds_its_images_in_the_same_way(tmp_path, format, content, name):
    save_image(tmp_path / "images" / "a b.png")
    text = content(name)
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / f"x.{'csv' if format == 'csv' else 'json'}"
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    for image_dir in (None, tmp_path / "images"):
        dataset = open_dataset(file, image_dir, format=format)
        assert pathlib.Path(dataset[0].source).samefile(tmp_path / "images" / "a b.png")
        assert [instance.box.tolist() for instance in dataset[0].instances] == [[5, 5, 25, 20]]
    with pytest.raises(ValueError, match=r"(?s)does not exist.*a b.*image_dir=\.\.\."):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / "c.png")
        (tmp_path / "images" / "a b.png").unlink()
        open_dataset(file, format=format)


def test_yolo_lists_and_entries_of_another_system(tmp_path):
    save_image(tmp_path / "train" / "images" / "a.png")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    yaml = "train: {}\nnames: [leaf]\n"
    (tmp_path / "list.txt").write_text("D:\\data\\train\\images\\a.png\n")
    for entry in ("train\\images", "..\\train\\images", "list.txt"):
        (tmp_path / "data.yaml").write_text(yaml.format(entry))
        dataset = open_dataset(tmp_path)
        assert [pathlib.Path(r.source).name for r in dataset.records] == ["a.png"] and len(dataset[0].instances) == 1
    (tmp_path / "list.txt").write_text("D:\\data\\train\\images\\b.png\ntrain/images/a.png\n")
    with pytest.warns(UserWarning, match="b.png.*does not exist"):
        assert len(open_dataset(tmp_path, on_error="skip")) == 1
