"""What is kept of a large COCO file: the same records, faults and notes as without; anew after every change."""

import json
import logging
import os
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image
from test_record_table import same

from keras_maskrcnn.data.readers import annotation_cache, coco
from keras_maskrcnn.data.readers.coco import CocoDataset
from keras_maskrcnn.data.readers.opener import open_dataset
from keras_maskrcnn.host import caches
from keras_maskrcnn.host.messages import in_words

SQUARE = [1.25, 2, 30, 2, 30, 20.5, 1.25, 20.5]
KINDS = {
    "plain": {"segmentation": [SQUARE]},
    "parts": {"segmentation": [SQUARE, [2, 2, 9, 2, 9, 9]], "bbox": [1.25, 2, 28.75, 18.5], "area": 530},
    "runs": {"segmentation": {"size": [24, 32], "counts": [30, 10, 728]}, "iscrowd": 1},
    "attributes": {"segmentation": [SQUARE], "attributes": {"occluded": True, "name": "ü"}},
    "noted": {"segmentation": SQUARE},
    "line": {"segmentation": [SQUARE, [1, 1, 2, 2, 3, 3]]},
    "outside": {"segmentation": [[100, 100, 120, 100, 120, 120]]},
    "unknown image": {"segmentation": [SQUARE], "image_id": 99},
}


@pytest.fixture
def home(cache_folder):
    return cache_folder / "annotations"


@pytest.fixture
def data(tmp_path):
    """A COCO file of more than the smallest size, and its images."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("a.png", "b.png", "ü.png"):
        Image.new("RGB", (32, 24)).save(folder / "images" / name)
    write(folder / "coco.json", KINDS.values())
    return folder / "coco.json"


def write(path, kinds, **more):
    content = {
        "info": {"padding": " " * annotation_cache.SMALLEST},
        "images": [
            {"id": number, "file_name": name, "height": 24, "width": 32}
            for number, name in enumerate(["a.png", "b.png", "ü.png", "missing.png"], start=1)
        ],
        "annotations": [
            {"id": number, "image_id": 1 + number % 3, "category_id": 5} | kind for number, kind in enumerate(kinds)
        ],
        "categories": [{"id": 5, "name": "cell"}],
    }
    path.write_text(json.dumps(content | more, ensure_ascii=False), encoding="utf-8")


def opened(path, **options):
    """(dataset, whether the file was read)."""
    reads = []
    original = coco.read_content
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(coco, "read_content", lambda *args: reads.append(1) or original(*args))
        return CocoDataset(path, on_error="skip", **options), bool(reads)


def content(dataset):
    return list(dataset.records), dataset.faults, dataset.notes, dataset.class_names, dataset.category_ids


def test_the_second_opening_is_the_same_and_reads_nothing(home, data, monkeypatch):
    first, read = opened(data)
    again, read_again = opened(data)
    assert (read, read_again) == (True, False) and len(list(home.iterdir())) == 1
    assert same(content(first), content(again))
    assert len(again.faults) == 3 and len(again.notes) == 2 and len(again) == 3
    assert sum(len(record.instances) for record in again.records) == 6
    monkeypatch.setenv(caches.ANNOTATIONS_SWITCH, "0")
    plain, read = opened(data)
    assert read and same(content(plain), content(again))


def test_faults_raise_the_same_message_from_the_cache(home, data):
    messages = []
    for _ in range(2):
        with pytest.raises(ValueError, match="must have no faults. Received 3") as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CocoDataset(data)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and len(list(home.iterdir())) == 1


def changed_text(data, home):
    text = data.read_text(encoding="utf-8")
    about = data.stat()
    data.write_text(text.replace("1.25", "1.75"), encoding="utf-8")
    os.utime(data, ns=(about.st_atime_ns, about.st_mtime_ns))  # of the same size and time


def longer_text(data, home):
    with data.open("a", encoding="utf-8") as file:
        file.write(" \n")


def added_image(data, home):
    Image.new("RGB", (32, 24)).save(data.parent / "images" / "missing.png")


def removed_image(data, home):
    (data.parent / "images" / "b.png").unlink()


def damaged(data, home):
    place = next(home.iterdir())
    raw = bytearray(place.read_bytes())
    raw[len(raw) // 2] ^= 1
    place.write_bytes(raw)


def truncated(data, home):
    place = next(home.iterdir())
    place.write_bytes(place.read_bytes()[:-100])


def emptied(data, home):
    next(home.iterdir()).write_bytes(b"")


def foreign(data, home):
    next(home.iterdir()).write_bytes(b"PK\3\4 an archive" * 100)


@pytest.mark.parametrize(
    "change",
    [changed_text, longer_text, added_image, removed_image, damaged, truncated, emptied, foreign],
    ids=lambda f: f.__name__,
)
def test_after_a_change_the_file_is_read_anew_and_kept_again(change, home, data):
    before, _ = opened(data)
    before = content(before)
    change(data, home)
    after, read = opened(data)
    again, read_again = opened(data)
    assert read and not read_again and same(content(after), content(again))
    assert same(content(after), before) == (change in (longer_text, damaged, truncated, emptied, foreign))
    assert len(list(home.iterdir())) == 1


def test_other_files_and_times_do_not_matter(home, data):
    opened(data)
    (data.parent / "log.txt").write_text("...")
    (data.parent.parent / "other").mkdir()
    os.utime(data, (1, 1))
    assert not opened(data)[1]


def test_other_options_and_paths_are_kept_apart(home, data, monkeypatch):
    assert (
        opened(data)[1]
        and opened(data, class_names=["other", "cell"])[1]
        and opened(str(data), image_dir=data.parent / "images")[1]
    )
    assert opened(data)[0][0].instances[0].label == 0
    dataset, read = opened(data, class_names=["other", "cell"])
    assert not read and dataset[0].instances[0].label == 1
    monkeypatch.chdir(data.parent)
    relative, read = opened("coco.json")
    assert read and relative[0].source == pathlib.Path("images/a.png")
    monkeypatch.chdir(data.parent.parent)
    with pytest.raises(ValueError, match="does not exist"):
        CocoDataset("coco.json")


def test_small_files_leave_nothing(home, data):
    write(data, KINDS.values(), info={})
    assert opened(data)[1] and opened(data)[1] and not home.exists()


def test_without_a_place_the_file_is_read(home, data, monkeypatch, caplog):
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    assert opened(data)[1] and opened(data)[1]
    home.unlink()

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr(annotation_cache, "write_atomically", fail)
    with caplog.at_level(logging.DEBUG):
        assert opened(data)[1] and "no room" in caplog.text


def test_the_ones_unused_for_longest_make_room(home, data, monkeypatch):
    opened(data)
    old = next(home.iterdir())
    os.utime(old, (1, 1))
    opened(data, class_names=["cell"])
    assert old.exists()
    monkeypatch.setattr(annotation_cache, "MOST", int(old.stat().st_size * 2.5))
    opened(data, class_names=["cell", "other"])
    assert not old.exists() and len(list(home.iterdir())) == 2


def test_arrays_of_a_cache_are_mapped_and_read_only(home, data):
    opened(data)
    columns = opened(data)[0].records.columns
    assert not any(values.flags.writeable for values in columns.values())
    with pytest.raises(ValueError, match="read-only"):
        columns["coordinates"][0] = 1.0
    assert type(columns["coordinates"]) is np.ndarray


def test_faults_are_kept_in_the_words_of_each_door(home, data):
    with in_words({"image_dir": "--images"}):
        told = opened(data)[0].faults[0].remedy
    assert "--images" in told and opened(data)[0].faults[0].remedy == told.replace("--images", "image_dir=...")
    with in_words({"image_dir": "--images"}):
        again, read = opened(data)
    assert again.faults[0].remedy == told and not read and len(list(home.iterdir())) == 2


XS, YS = [2, 30, 30, 2.5], [2, 2, 20, 20]


def via_regions(names):
    shape = {"name": "polygon", "all_points_x": XS, "all_points_y": YS}
    bad = {"name": "point", "cx": 1, "cy": 1}
    return [{"shape_attributes": s, "region_attributes": {"class": name}} for name, s in zip(names, (shape, bad))]


def via_json(folder):
    names = ("a.png", "b.png", "missing.png")
    found = {n: {"filename": n, "size": 1, "regions": via_regions(["cell", "leaf"])} for n in names}
    (folder / "via.json").write_text(json.dumps(found))
    return folder / "via.json"


def via_csv(folder):
    lines = ["filename,file_size,region_id,region_shape_attributes,region_attributes"]
    for name in ("a.png", "b.png", "missing.png"):
        for number, region in enumerate(via_regions(["cell", "leaf"])):
            texts = (json.dumps(part).replace('"', '""') for part in region.values())
            lines.append(f"{name},1,{number}," + ",".join(f'"{text}"' for text in texts))
    (folder / "via.csv").write_text("\n".join(lines))
    return folder / "via.csv"


def via_3(folder):
    names = ("a.png", "b.png", "missing.png")
    outline = [7, *(value for point in zip(XS, YS) for value in point)]
    content = {
        "project": {"vid_list": ["1", "2", "3"]},
        "attribute": {"1": {"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 1}},
        "file": {str(n): {"fid": n, "fname": name, "type": 2, "loc": 1} for n, name in enumerate(names, start=1)},
        "view": {str(n): {"fid_list": [n]} for n in (1, 2, 3)},
        "metadata": {
            f"{n}_{k}": {"vid": str(n), "z": [], "xy": xy, "av": {"1": name}}
            for n in (1, 2, 3)
            for k, (name, xy) in enumerate((("cell", outline), ("leaf", [1, 5, 5])))
        },
    }
    (folder / "via3.json").write_text(json.dumps(content))
    return folder / "via3.json"


def table(folder):
    lines = ["image,label,instance,polygon"]
    for name in ("a.png", "b.png", "missing.png"):
        lines += [f"{name},cell,1,2 2 30 2 30 20 2.5 20", f"{name},cell,1,1 1 5 1 5 5", f"{name},leaf,2,1 2 3"]
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


def other_size(folder, home, path):
    about = (folder / "a.png").stat()
    Image.new("RGB", (24, 32)).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(about.st_atime_ns, about.st_mtime_ns))


def other_outline(folder, home, path):
    path.write_text(path.read_text().replace("2.5", "3.5"))


def no_image(folder, home, path):
    (folder / "a.png").unlink()


def broken(folder, home, path):
    damaged(path, home)


@pytest.mark.parametrize("change", [other_size, other_outline, no_image, broken], ids=lambda f: f.__name__)
@pytest.mark.parametrize("make", [via_json, via_csv, via_3, table], ids=lambda f: f.__name__)
def test_other_formats_are_kept_too(make, change, home, tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_cache, "SMALLEST", 64)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 24)).save(tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    path, stores = make(tmp_path), []
    original = annotation_cache._store
    monkeypatch.setattr(annotation_cache, "_store", lambda *args: stores.append(1) or original(*args))

    def found():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return content(open_dataset(path, on_error="skip"))

    before, again = found(), found()
    assert same(before, again) and len(stores) == 1
    records, faults, _, names, _ = before
    assert len(records) == 2 and len(faults) >= 3 and tuple(names) == ("cell",)
    assert records[0].instances[0].box.tolist() == [1 if make is table else 2, 1 if make is table else 2, 30, 20]
    change(tmp_path, home, path)
    after = found()
    assert len(stores) == 2 and same(found(), after) and len(stores) == 2 and len(list(home.iterdir())) == 1
    assert same(after, before) == (change is broken)
    assert change is not other_size or (after[0][0].height, after[0][0].width) == (32, 24)
