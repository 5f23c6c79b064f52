"""YOLO's text files and tables of polygons, to the pixel."""

import json

import numpy as np
import pytest
from reader_tools import HEIGHT, WIDTH, box, check, save_image, save_turned

from keras_maskrcnn.data import CsvDataset, YoloDataset

L_POINTS = [(5, 4), (25, 4), (25, 14), (15, 14), (15, 30), (5, 30)]
L_MASK = box(5, 4, 25, 14) | box(5, 4, 15, 30)
SQUARE = [(40, 20), (52, 20), (52, 28), (40, 28)]
SQUARE_MASK = box(40, 20, 52, 28)


def line(number, points):
    return " ".join([str(number), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)])


def save_yaml(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def yolo(folder, parts=("train", "val")):
    """Ultralytics' layout, images/<part> and labels/<part>; b has no label file and c an empty one."""
    for part in parts:
        for seed, name in enumerate("abc"):
            save_image(folder / "images" / part / f"{name}.png", seed)
        labels = folder / "labels" / part
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text(f"{line(1, L_POINTS)}\n\n{line(0, SQUARE)}\n")
        (labels / "c.txt").write_text("")
    return folder


EXPECTED = {"a.png": [("dog", L_MASK), ("cat", SQUARE_MASK)], "b.png": [], "c.png": []}
NAMES = {"list": "names: [cat, dog]", "dict": "names:\n  1: dog\n  0: cat"}


@pytest.mark.parametrize("names", NAMES)
def test_yolo_with_path_and_names_as(tmp_path, names):
    yolo(tmp_path / "data")
    path = save_yaml(
        tmp_path / "data" / "coco8-seg.yaml", f"path: .\ntrain: images/train\nval: images/val\n{NAMES[names]}\n"
    )
    dataset = YoloDataset(path)
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (1, 2)
    check(dataset, EXPECTED, tmp_path)
    assert len(YoloDataset(tmp_path / "data", part="val")) == 3
    with pytest.raises(ValueError, match=r"\['train', 'val'\]. Received 'test'"):
        YoloDataset(path, part="test")


def test_yolo_without_path_as_roboflow_writes_it(tmp_path):
    """train/images beside data.yaml, but written as ../train/images."""
    yolo(tmp_path / "other", ["train"])
    (tmp_path / "train").mkdir()
    for kind in ("images", "labels"):
        (tmp_path / "other" / kind / "train").rename(tmp_path / "train" / kind)
    save_yaml(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    check(YoloDataset(tmp_path), EXPECTED, tmp_path)
    with pytest.raises(ValueError, match="valid/images' must exist"):
        YoloDataset(tmp_path, part="val")


def test_yolo_lists_of_files_and_folders(tmp_path):
    yolo(tmp_path)
    (tmp_path / "train.txt").write_text("./images/train/c.png\nimages/train/a.png\n")
    path = save_yaml(tmp_path / "data.yaml", "train: [train.txt, images/val]\nnames: [cat, dog]\n")
    names = [record.source.relative_to(tmp_path).as_posix() for record in YoloDataset(path).records]
    assert names == ["images/train/c.png", "images/train/a.png", *(f"images/val/{n}.png" for n in "abc")]
    save_yaml(tmp_path / "data.yaml", "path: /somewhere/else\ntrain: train.txt\nnames: [cat, dog]\n")
    dataset = YoloDataset(tmp_path)
    check(dataset, {name: EXPECTED[name] for name in ("c.png", "a.png")}, tmp_path)


def test_yolo_fractions_are_of_the_turned_photo(tmp_path):
    save_turned(tmp_path / "images" / "a.jpg")
    save_yaml(tmp_path / "labels" / "a.txt", line(0, L_POINTS))
    path = save_yaml(tmp_path / "data.yaml", "train: images\nnames: {0: cat}\n")
    check(YoloDataset(path), {"a.jpg": [("cat", L_MASK)]}, tmp_path)


YOLO_FAULTS = {
    "box": ("0 0.5 0.5 0.2 0.2", ["is a box", "segmentation labels"]),
    "class": (line(2, SQUARE), ["{0: 'cat', 1: 'dog'}", "Received 2"]),
    "class that is no whole number": (line(0.5, SQUARE), ["Received 0.5"]),
    "pixels": ("0 5 4 25 4 25 14", ["fractions", "4 to 25"]),
    "odd": ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1", ["7 numbers"]),
    "two points": ("0 0.1 0.1", ["2 numbers"]),
    "words": ("cat 0.1 0.1 0.5 0.1 0.5 0.5", ["hold numbers"]),
    "nothing": ("0 0.2 0.2 0.2 0.2 0.2 0.2", ["covers no area"]),
}


@pytest.mark.parametrize("name", YOLO_FAULTS)
def test_yolo_faults_are_named_with_file_and_line(tmp_path, name):
    yolo(tmp_path, ["train"])
    text, words = YOLO_FAULTS[name]
    (tmp_path / "labels" / "train" / "b.txt").write_text(f"{line(1, L_POINTS)}\n{text}\n")
    save_yaml(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    with pytest.raises(ValueError) as caught:
        YoloDataset(tmp_path)
    assert all(word in str(caught.value) for word in ["line 2 of", "b.txt", *words])
    with pytest.warns(UserWarning, match="Left out 1"):
        assert [len(r.instances) for r in YoloDataset(tmp_path, on_error="skip").records] == [2, 1, 0]


def test_yolo_labels_without_image_and_wrong_yaml_are_named(tmp_path):
    yolo(tmp_path, ["train"])
    (tmp_path / "labels" / "train" / "z.txt").write_text(line(0, SQUARE))
    save_yaml(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match="z.txt: its image does not exist"):
        YoloDataset(tmp_path)
    for text, message in (("a: [", "must be YAML"), ("- 1", "contain `names`"), ("train: images", "`names` must be")):
        save_yaml(tmp_path / "data.yaml", text)
        with pytest.raises(ValueError, match=message):
            YoloDataset(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "one.yaml").rename(tmp_path / "images" / "one.yaml")
    with pytest.raises(ValueError, match="A data.yaml is needed"):
        YoloDataset(tmp_path)


def flat(points):
    return [float(value) for point in points for value in point]


HOLE = [(7, 6), (12, 6), (12, 10), (7, 10)]


def wkt(*rings):
    closed = [[*ring, ring[0]] for ring in rings]
    return "(" + ", ".join("(" + ", ".join(f"{x} {y}" for x, y in ring) + ")" for ring in closed) + ")"


WRITTEN = {
    "numbers": (" ".join(f"{v:g}" for v in flat(L_POINTS)), L_MASK),
    "pairs": (";".join(f"{x},{y}" for x, y in L_POINTS), L_MASK),
    "flat JSON": (json.dumps(flat(L_POINTS)), L_MASK),
    "JSON points": (json.dumps(L_POINTS), L_MASK),
    "Python tuples": (str(L_POINTS), L_MASK),
    "COCO's parts": (json.dumps([flat(L_POINTS), flat(SQUARE)]), L_MASK | SQUARE_MASK),
    "JSON parts of points": (json.dumps([L_POINTS, SQUARE]), L_MASK | SQUARE_MASK),
    "WKT": ("POLYGON " + wkt(L_POINTS), L_MASK),
    "WKT with a hole": ("POLYGON " + wkt(L_POINTS, HOLE), L_MASK & ~box(7, 6, 12, 10)),
    "WKT of parts": (f"MULTIPOLYGON ({wkt(L_POINTS, HOLE)}, {wkt(SQUARE)})", L_MASK & ~box(7, 6, 12, 10) | SQUARE_MASK),
    "WKT with z": ("POLYGON Z ((40 20 5, 52 20 5, 52 28 5, 40 28 5, 40 20 5))", SQUARE_MASK),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_csv_polygons_in_every_notation(tmp_path, how):
    text, mask = WRITTEN[how]
    save_image(tmp_path / "images" / "a.png")
    cell = text.replace('"', '""')
    (tmp_path / "table.csv").write_text(f'image,label,polygon\na.png,cat,"{cell}"\n')
    check(CsvDataset(tmp_path / "table.csv"), {"a.png": [("cat", mask)]}, tmp_path)


def test_csv_groups_negatives_other_names_and_separators(tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "unlisted.png")):
        save_image(tmp_path / "pictures" / name, seed)
    rows = ["Filename;Class;Instance_ID;Points", "a;dog;7;5,4 25,4 25,14 5,14", "b.png;;;"]
    rows += ["a;cat;8;40,20 52,20 52,28 40,28", "a;dog;7;5,4 15,4 15,30 5,30"]
    (tmp_path / "table.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    dataset = CsvDataset(tmp_path / "table.csv", tmp_path / "pictures")
    check(dataset, {"a.png": [("dog", L_MASK), ("cat", SQUARE_MASK)], "b.png": []}, tmp_path)


def test_csv_with_a_row_a_point(tmp_path):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png", seed=1)
    rows = [f"a.png,{key},cat,{x},{y}" for key, points in (("one", L_POINTS), ("two", SQUARE)) for x, y in points]
    (tmp_path / "points.csv").write_text("\n".join(["image,instance,label,x,y", *rows, "b.png,,,,"]))
    dataset = CsvDataset(tmp_path / "points.csv", class_names=["dog", "cat"], category_ids=[3, 9])
    assert dataset.category_ids == (3, 9) and dataset[0].instances[0].label == 1
    check(dataset, {"a.png": [("cat", L_MASK), ("cat", SQUARE_MASK)], "b.png": []}, tmp_path)


def test_csv_without_labels_has_one_class(tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image_id\tgeometry\na\tPOLYGON ((40 20, 52 20, 52 28, 40 28, 40 20))\n")
    check(CsvDataset(tmp_path / "t.csv"), {"a.png": [("object", SQUARE_MASK)]}, tmp_path)


@pytest.mark.parametrize(
    "row, words",
    [
        ("a.png,cat,,1 2 3 4", ["line 3", "at least three"]),
        ("a.png,cat,,1 2 3", ["line 3", "flat list"]),
        ("a.png,cat,,somewhere", ["line 3", "'somewhere'"]),
        ("a.png,,,40 20 52 20 52 28", ["line 3", "one label"]),
        ("a.png,cat,,POLYGON EMPTY", ["line 3", "WKT"]),
        ("a.png,cat,,70 5 80 5 80 9", ["line 3", "covers no area"]),
        ("z.png,cat,,40 20 52 20 52 28", ["z.png", "does not exist"]),
        ("a.png,dog,1,40 20 52 20 52 28", ["lines 2 to 3", "['cat', 'dog']"]),
    ],
)
def test_csv_faults_are_named_with_file_and_line(tmp_path, row, words):
    save_image(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"image,label,instance,polygon\na.png,cat,1,5 4 25 4 25 14 5 14\n{row}\n")
    with pytest.raises(ValueError) as caught:
        CsvDataset(tmp_path / "t.csv")
    assert all(word in str(caught.value) for word in ["t.csv", *words])


def test_csv_columns_that_are_missing_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("picture,polygon\n")
    with pytest.raises(ValueError, match=r"\['picture', 'polygon'\]. Rename"):
        CsvDataset(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(np.arange(128, 256, dtype=np.uint8).tobytes())
    with pytest.raises(ValueError, match="UTF-8"):
        CsvDataset(tmp_path / "t.csv")
