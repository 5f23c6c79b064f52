"""Damaged and hostile annotation files of every format but COCO.

Each is a fault that names the file, found in bounded time and memory; on_error="skip" keeps everything else.
"""

import base64
import csv
import io
import json
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from reader_tools import HEIGHT, WIDTH, save_image

from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.data.limits import OUTLINE_POINTS
from keras_maskrcnn.data.readers import label_images, tables
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import read_json, read_text
from keras_maskrcnn.data.readers.label_images import label_masks
from keras_maskrcnn.data.readers.polygon_text import outline_mask
from keras_maskrcnn.data.readers.tables import read_table
from keras_maskrcnn.data.readers.xml_files import read_xml
from keras_maskrcnn.data.readers.yaml_files import read_yaml

SECONDS = 10  # that no file may take, on a busy machine
GOOD_LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[5:15, 5:15], LABELS[20:30, 20:40] = 1, 2


@pytest.fixture(autouse=True)
def quick():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SECONDS


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def faults_of(source, skipped=1, **options):
    """The faults of a dataset, one text; its other entries are there, and on_error="raise" tells the same faults."""
    with pytest.warns(UserWarning, match=f"Left out {skipped} faulty"):
        dataset = open_dataset(source, on_error="skip", **options)
    assert sum(len(record.instances) for record in dataset.records) >= 1
    with pytest.raises(ValueError) as caught:
        open_dataset(source, **options)
    assert str(dataset.faults[0])[:80] in str(caught.value)
    return "\n".join(map(str, dataset.faults))


# Text, JSON, YAML, XML and tables --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, words",
    [
        (b"[" * 100_000, ["nested too deep"]),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, ["nested too deep"]),
        (b"[" + b"9" * 5000 + b"]", ["digits"]),
        (b'{"a": 1', ["must be JSON"]),
        (b"\xff\xfe{\x00}\x00", ["must be UTF-8"]),
        (b"", ["must be JSON"]),
    ],
)
def test_json_that_cannot_be_read_is_named(tmp_path, content, words):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert all(word in str(caught.value) for word in [str(path), *words])
    for place, problem in ((tmp_path, "readable"), (tmp_path / "gone", "does not exist"), (path / "x", "not exist")):
        with pytest.raises(ValueError, match=problem):
            read_text(place)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content, words",
    [
        (BOMB, ["no aliases", "*a"]),
        ("names: " + "[" * 5000, ["nest"]),
        ("names: [" * 30, ["nested"]),
        ("a: [1,\n", ["must be YAML"]),
        ("- a\n- b\n", ["must contain `names`"]),
        ("x: y\n" * 300_000, ["At most 1048576 bytes", "data.yaml"]),
        (b"names: [\xff]", ["must be YAML"]),
        ("names: !!python/object/apply:os.system [ls]\ntrain: &a x\nval: *a\n", ["no aliases"]),
    ],
)
def test_yaml_is_bounded(tmp_path, content, words):
    path = write(tmp_path / "data.yaml", content)
    with pytest.raises(ValueError) as caught:
        read_yaml(path)
    assert all(word in str(caught.value) for word in [str(path), *words]) and len(str(caught.value)) < 1000


def test_yaml_values_are_text(tmp_path):
    path = write(tmp_path / "data.yaml", "names: {0: no, 1: 1e3, 2: null}\nnc: 3\ntest:\npath: ~\nd: 2001-99-99\n")
    found = {"names": {"0": "no", "1": "1e3", "2": "null"}, "nc": "3", "test": None, "path": None, "d": "2001-99-99"}
    assert read_yaml(path) == found


XML = "<annotation><size><width>60</width><height>40</height></size>{}</annotation>"
OBJECTS = "<object><name>cat</name></object><object><name>dog</name></object>"
TWO_OBJECTS = XML.format(OBJECTS)
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    + "]><annotation>&l9;</annotation>"
)


@pytest.mark.parametrize(
    "content, words",
    [
        (LAUGHS, ["entity 'l0'"]),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', ["entity 'x'"]),
        ("<a>" * 10_000, ["nested more than"]),
        ("<a/>" + " " * 5_000_000, ["At most 4194304 bytes"]),
        ('<?xml version="1.0" encoding="utf-99"?><a/>', ["encoding"]),
        ("", ["no element"]),
        (b"\x00\x01", ["not a VOC annotation"]),
    ],
)
def test_xml_is_bounded(tmp_path, content, words):
    with pytest.raises(FaultyAnnotation) as caught:
        read_xml(write(tmp_path / "a.xml", content))
    assert all(word in str(caught.value) for word in words)


def test_tables_are_bounded(tmp_path):
    long = " ".join(["1 2"] * 100_000)
    columns, rows = read_table(write(tmp_path / "t.csv", f'image,polygon\na.png,"{long}"\nb.png\n,,,\n'))
    assert columns == {"image": 0, "polygon": 1} and rows[0] == (2, ["a.png", long])
    assert rows[1:] == [(3, ["b.png", ""]), (4, ["", "", "", ""])]
    assert read_table(write(tmp_path / "t.csv", "")) == ({}, [])


def test_a_cell_without_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CSV_CELL", 1000)
    before = csv.field_size_limit()
    path = write(tmp_path / "t.csv", 'image,polygon\na.png,"1 2 3\n' + "b.png,4 5 6\n" * 100)
    told = (
        rf"A table must be CSV. Received {path}: line \d+: field larger than field limit \(1000\). Look for a quotation"
    )
    with pytest.raises(ValueError, match=told):
        read_table(path)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3 4 5 6 7",
        "1 " * 31,
        "1" * 100_000 + "x",
        "1 2 3 4 5 6 " + "," * 100_000 + "x",
        "(" * 100_000,
        "POLYGON " + "(" * 100_000,
        "POLYGON ((" + "1 1," * 50_000,
        "POLYGON ((1 1, 2 2, a b))",
        "POLYGON ((1 1 1, 2 2 2))",
        "MULTIPOLYGON (((1 1, 9 1, 9 9), (2 2, 3 2, 3 3))",
        "POLYGON EMPTY",
        "[" * 50_000 + "]" * 50_000,
        "[[[[1]]]]",
        "[[], [[1, 2]]]",
        "[1, 2, null, 4, 5, 6]",
        '["a", 1, 2, 3, 4, 5]',
        "1 2 nan 4 5 6",
        "1 2 inf 4 5 6",
        "1 2 1e999 4 5 6",
        "9" * 5000 + " 1 2 3 4 5",
        "[" + "9" * 4000 + ", 1, 2, 3, 4, 5]",
        "{}",
        "١ 2 3 4 5 6",
    ],
)
def test_polygons_that_are_none_are_refused_in_linear_time(text):
    with pytest.raises((FaultyAnnotation, ValueError)) as caught:
        outline_mask(text, HEIGHT, WIDTH)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text, told",
    [
        ("[[1, 2], [3]]", "flat list x1, y1, x2, y2, ..., or one of points [x, y]. Received a list of 2: [1, 2]"),
        ("[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]", "or one of points [x, y]. Received a list of 3: [1, 2, 3]"),
        ("POLYGON ((1 1, 9 1, 9, 1 9))", "a point of WKT must be x and y. Received '1 1, 9 1, 9, 1 9'"),
        ("POLYGON ((1 1, 9 1, 9 9)", "the parentheses of WKT must match"),
        ("POLYGON EMPTY", "a WKT polygon must have points. Received 'POLYGON EMPTY'"),
        ("1 2 three", "a polygon must be numbers x1 y1 x2 y2 ..., a JSON list or WKT. Received '1 2 three'"),
    ],
)
def test_polygons_that_are_none_are_told_with_what_was_expected(text, told):
    with pytest.raises(FaultyAnnotation) as caught:
        outline_mask(text, HEIGHT, WIDTH)
    assert told in caught.value.args[0] and caught.value.args[1] in (
        "Correct the cell.",
        "Export the annotations again.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "5 4 25 4 25 14",
        "5,4;25,4;25,14",
        "5.0\t4e0 +25 4. 25 14",
        "[5, 4, 25, 4, 25, 14]",
        "[(5, 4), (25, 4), (25, 14)]",
        "[[[5, 4], [25, 4], [25, 14]]]",
        "[[5, 4, 25, 4, 25, 14]]",
        "POLYGON((5 4,25 4,25 14,5 4))",
        " polygon z ((5 4 1, 25 4 1, 25 14 1, 5 4 1))",
        "MULTIPOLYGON (((5 4, 25 4, 25 14, 5 4)))",
    ],
)
def test_polygons_in_every_form_are_read(text):
    assert outline_mask(text, HEIGHT, WIDTH)[1].tolist() == [5, 4, 25, 14]


def test_wkt_has_holes_and_parts():
    text = "MULTIPOLYGON (((0 0, 10 0, 10 10, 0 10), (2 2, 4 2, 4 4, 2 4)), ((20 20, 30 20, 30 30, 20 30)))"
    mask, box = outline_mask(text, HEIGHT, WIDTH)
    window = mask.window(HEIGHT, WIDTH)
    assert box.tolist() == [0, 0, 30, 30] and int(window.pixels.sum()) == 100 - 4 + 100


# YOLO ------------------------------------------------------------------------------------------------------


def yolo(folder, labels=GOOD_LINE, yaml="train: images\nnames: [cat, dog]\n"):
    save_image(folder / "images" / "a.png")
    save_image(folder / "images" / "b.png")
    write(folder / "labels" / "a.txt", labels)
    write(folder / "labels" / "b.txt", GOOD_LINE)
    write(folder / "data.yaml", yaml)
    return folder


@pytest.mark.parametrize(
    "labels, words",
    [
        ("0 nan 0.1 0.5 0.1 0.5 0.5\n", ["line 1 of", "finite"]),
        ("nan 0.1 0.1 0.5 0.1 0.5 0.5\n", ["finite"]),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5\n", ["Received -1"]),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5\n", ["Received 2", "cat"]),
        ("1e400 0.1 0.1 0.5 0.1 0.5 0.5\n", ["finite"]),
        ("0 0.1 0.1 0.5 0.1 0.5 1e400\n", ["finite"]),
        ("0 0.1 0.1 0.5 0.1 0.5 1_0\n", ["hold numbers"]),
        ("0 0.1 0.1 0.5 0.1 1.5 0.5\n", ["fractions"]),
        (GOOD_LINE + "0" + " 0.5" * (2 * OUTLINE_POINTS + 2) + "\n", ["line 2 of", "numbers in an outline"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        ("x" * 1_000_000, ["hold numbers"]),
    ],
)
def test_yolo_labels_are_checked(tmp_path, labels, words):
    told = faults_of(yolo(tmp_path, labels))
    assert all(word in told for word in ["a.txt", *words]) and len(told) < 1500


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("train: images\nnames: {0: cat, x: dog}\n", ["a number must be", "'x'"]),
        ("train: images\nnames: {-1: cat}\n", ["a number must be"]),
        ("train: images\nnames: [cat, '']\n", ["one line of text"]),
        ("train: images\nnames: [cat, cat]\n", ["'cat'", "more than once"]),
        ("train: images\nnames: [cat, [dog]]\n", ["one line of text"]),
        ("train: images\nnames: 3\n", ["`names` must be a list"]),
        ("train: {a: b}\nnames: [cat]\n", ["`train` must be a folder"]),
        ("train: [[images]]\nnames: [cat]\n", ["`train` must be a folder"]),
        (f"train: {'x' * 5000}\nnames: [cat]\n", ["must exist"]),
        ("names: [cat]\n", ["part=... must be one of its parts, []"]),
    ],
)
def test_yolo_yaml_is_checked(tmp_path, yaml, words):
    with pytest.raises(ValueError) as caught:
        open_dataset(yolo(tmp_path, yaml=yaml))
    assert all(word in str(caught.value) for word in ["data.yaml", *words])


def test_yolo_images_that_cannot_be_read_are_faults(tmp_path):
    yolo(tmp_path)
    (tmp_path / "images" / "c.png").symlink_to(tmp_path / "gone.png")
    write(tmp_path / "images" / "d.png", b"\x89PNG")
    told = faults_of(tmp_path, 2)
    link = f"image {tmp_path / 'images' / 'c.png'}: the file does not exist. Check the image folder and the file name."
    assert link in told and "image d.png: An image file must be complete" in told and "Or remove its annot" in told


def test_yolo_parts_may_be_called_valid(tmp_path):
    yolo(tmp_path, yaml="train: images\nvalid: later\nnames: [cat, dog]\n")
    save_image(tmp_path / "later" / "c.png")
    write(tmp_path / "later" / "c.txt", GOOD_LINE)
    assert [record.source.name for record in open_dataset(tmp_path, part="val").records] == ["c.png"]
    assert [record.source.name for record in open_dataset(tmp_path).records] == ["a.png", "b.png"]
    with pytest.raises(ValueError, match=r"part=... must be one of its parts, \['train', 'val'\]. Received 'test'"):
        open_dataset(tmp_path, part="test")


def test_yolo_names_may_have_gaps(tmp_path):
    data = yolo(tmp_path, GOOD_LINE.replace("0 ", "7 ", 1), "train: images\nnames: {7: dog, 0: cat}\n")
    dataset = open_dataset(data)
    assert dataset.class_names == ("cat", "dog")
    assert [record.instances[0].label for record in dataset.records] == [1, 0]


# VIA and labelme -------------------------------------------------------------------------------------------


def via(folder, shape, attributes=None, **entry):
    save_image(folder / "a.png")
    regions = [region({"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9}, {"class": "cat"})]
    regions += [] if shape is None else [region(shape, {"class": "cat"} if attributes is None else attributes)]
    return write(folder / "via.json", {"a.png1": {"filename": "a.png", "regions": regions} | entry})


def region(shape, attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


VIA_SHAPES = {
    "circle of no number": ({"name": "circle", "cx": 5, "cy": 5, "r": [1]}, "numbers"),
    "ellipse of infinity": ({"name": "ellipse", "cx": 5, "cy": 5, "rx": float("inf"), "ry": 3}, "numbers"),
    "5000 digits": ({"name": "rect", "x": 10**4000, "y": 1, "width": 2, "height": 2}, "numbers"),
    "deep": ({"name": "rect", "x": json.loads("[" * 200 + "]" * 200), "y": 1, "width": 2, "height": 2}, "numbers"),
    "true": ({"name": "rect", "x": True, "y": 1, "width": 2, "height": 2}, "numbers"),
    "shape that is a list": ([1, 2], "shape must be one of"),
    "name that is a list": ({"name": ["rect"]}, "shape must be one of"),
    "points that are text": ({"name": "polygon", "all_points_x": "123", "all_points_y": "123"}, "equal length"),
    "points that are null": ({"name": "polygon", "all_points_x": [None] * 3, "all_points_y": [1, 2, 3]}, "numbers"),
}


@pytest.mark.parametrize("name", VIA_SHAPES)
def test_via_regions_are_checked(tmp_path, name):
    shape, words = VIA_SHAPES[name]
    path = via(tmp_path, shape)
    told = faults_of(path)
    assert "region 1 of" in told and "a.png" in told and words in told and len(told) < 1000


def test_circles_of_any_radius_take_bounded_memory(tmp_path):
    for radius in (1e13, 1e17, 1e300):
        told = faults_of(via(tmp_path, {"name": "circle", "cx": 5, "cy": 5, "r": radius}))
        assert "region 1 of" in told and "positive radii" in told
    path = via(tmp_path, {"name": "circle", "cx": 5, "cy": 5, "r": 1000})
    assert open_dataset(path)[0].instances[1].box.tolist() == [0, 0, WIDTH, HEIGHT]


def test_outlines_of_too_many_points_are_refused(tmp_path):
    points = [1] * (OUTLINE_POINTS + 1)
    told = faults_of(via(tmp_path, {"name": "polyline", "all_points_x": points, "all_points_y": points}))
    assert "points in an outline" in told and "region 1 of" in told


@pytest.mark.parametrize(
    "value",
    [
        ["cat"],
        {"cat": True, "dog": True},
        {},
        None,
        True,
        "",
        "  ",
        "a\nb",
        "\ud800",
        json.loads("[" * 300 + "]" * 300),
    ],
)
def test_via_classes_are_checked(tmp_path, value):
    told = faults_of(via(tmp_path, {"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9}, {"class": value}))
    assert "region 1 of" in told and len(told) < 1000


@pytest.mark.parametrize("regions", [7, "text", True])
def test_via_regions_that_are_no_list_are_a_fault_of_the_image(tmp_path, regions):
    path = via(tmp_path, None)
    content = json.loads(path.read_text())
    save_image(tmp_path / "b.png")
    content |= {"b.png1": {"filename": "b.png", "regions": regions}, "c": None, "d": {"filename": ["b.png"]}}
    told = faults_of(write(path, content), 3, format="via")
    assert "b.png: `regions` must be a list" in told and "'c': it has no `filename`" in told and "['b.png']" in told


def test_via_options_must_be_a_list(tmp_path):
    path = via(tmp_path, None)
    content = {"_via_img_metadata": json.loads(path.read_text()), "_via_image_id_list": [["a"], 3]}
    content["_via_attributes"] = {"region": {"class": {"options": 7}}}
    with pytest.raises(ValueError, match="options of the attribute 'class' must be a list"):
        open_dataset(write(path, content), format="via")
    content["_via_attributes"] = {"region": [1, 2]}
    assert open_dataset(write(path, content), format="via").class_names == ("cat",)


def test_via_options_without_a_name_are_left_out_with_a_note(tmp_path):
    path = via(tmp_path, None)
    content = {"_via_img_metadata": json.loads(path.read_text())}
    content["_via_attributes"] = {"region": {"class": {"options": {"dog": "", " ": "", "cat": ""}}}}
    with pytest.warns(
        UserWarning, match="left out a class: the class must have a name: one line of text.*Received ' '"
    ):
        assert open_dataset(write(path, content), format="via").class_names == ("dog", "cat")


def test_via3_options_must_be_a_dictionary(tmp_path):
    attribute = {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "options": ["cat"]}
    told = (
        r"via3.json: the options of the attribute 'animal' must be a dictionary. Received \['cat'\]. Save the project"
    )
    with pytest.raises(ValueError, match=told):
        open_dataset(write(tmp_path / "via3.json", via3(attribute={"1": attribute})), format="via3")


def via3(**changes):
    content = {
        "project": {},
        "attribute": {"1": {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "options": {"0": "cat"}}},
        "file": {"1": {"fname": "a.png", "type": 2, "loc": 1}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {"m": {"vid": "1", "xy": [2, 1, 1, 9, 9], "av": {"1": "0"}}},
    }
    for key, value in changes.items():
        content[key] = {**content[key], **value}
    return content


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"metadata": {"n": {"vid": "1", "xy": 7, "av": {"1": "0"}}}}, ["region n", "`xy` must be a list"]),
        ({"metadata": {"n": {"vid": "1", "xy": [[2], 1, 1, 9, 9], "av": {"1": "0"}}}}, ["region n", "numbers"]),
        ({"metadata": {"n": {"vid": "1", "xy": [2, 1, 1, 1e999, 9], "av": {"1": "0"}}}}, ["region n", "numbers"]),
        ({"metadata": {"n": {"vid": "1", "xy": [2, 1, 1, 9, 9], "av": [1]}}}, ["region n", "one class"]),
        (
            {"metadata": {"n": {"vid": "1", "xy": [9, 1, 1, 1e300, 9, 5, 1e300], "av": {"1": "0"}}}},
            ["region n", "positive radii"],
        ),
        ({"metadata": {"n": {"vid": ["1"], "xy": [2, 1, 1, 9, 9], "av": {}}}}, ["region n", "does not exist"]),
        ({"view": {"2": 7}}, ["view 2", "one image"]),
        ({"view": {"2": {"fid_list": [["1"]]}}}, ["view 2", "one image"]),
        ({"file": {"2": {"fname": 7, "type": 2}}, "view": {"2": {"fid_list": ["2"]}}}, ["image 7", "name of its file"]),
        (
            {"file": {"2": {"fname": "é", "loc": 4, "src": "data:,é"}}, "view": {"2": {"fid_list": ["2"]}}},
            ["image é", "damaged"],
        ),
    ],
)
def test_via3_fields_are_checked(tmp_path, changes, words):
    save_image(tmp_path / "a.png")
    told = faults_of(write(tmp_path / "via3.json", via3(**changes)), format="via3")
    assert all(word in told for word in words)


def labelme(folder, **changes):
    save_image(folder / "a.png")
    shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "group_id": None}
    write(folder / "good.json", {"shapes": [shape], "imagePath": "a.png"})
    content = {"shapes": [shape], "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    shapes = [shape | changes.pop("shape")] if "shape" in changes else changes.pop("shapes", [shape])
    write(folder / "bad.json", content | {"shapes": shapes} | changes)
    return folder


def png_of(size):
    """The start of a PNG that claims a size, in base64."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return base64.b64encode(bytes(data)).decode()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"shape": {"label": ["cat"]}}, ["shape 0 of", "label"]),
        ({"shape": {"label": {"a": 1}, "group_id": [1]}}, ["shape 0 of", "label"]),
        ({"shape": {"label": "a\nb"}}, ["shape 0 of", "one line"]),
        ({"shape": {"points": 7}}, ["`points` must be a list"]),
        ({"shape": {"points": {"a": 1}}}, ["`points` must be a list"]),
        ({"shape": {"points": [[1, 1], [9, 10**400], [9, 9]]}}, ["shape 0 of"]),
        ({"shape": {"points": [["1e999", 1], [9, 1], [9, 9]]}}, ["shape 0 of"]),
        ({"shape": {"shape_type": ["polygon"]}}, ["shape_type must be"]),
        ({"shape": {"shape_type": "circle", "points": [[1, 1], [float("nan"), 2]]}}, ["numbers"]),
        ({"shape": {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "é"}}, ["mask cannot be read"]),
        ({"shape": {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": 7}}, ["mask cannot be read"]),
        ({"shape": {"shape_type": "mask", "points": [[1e300, 1], [2, 2]], "mask": png_of((8, 8))}}, ["mask is empty"]),
        (
            {"shape": {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": png_of((60_000, 60_000))}},
            ["mask cannot be read"],
        ),
        ({"shapes": [7]}, ["shape 0 of", "label"]),
        ({"shapes": None}, ["bad.json", "list `shapes`"]),
        ({"imageHeight": "x"}, ["bad.json", "`imageHeight`"]),
        ({"imageHeight": -5}, ["bad.json", "`imageHeight`"]),
        ({"imagePath": ["a.png"]}, ["bad.json", "name of its file"]),
        ({"imagePath": "gone.png", "imageData": 7}, ["bad.json", "imageData is damaged"]),
        ({"imagePath": "gone.png", "imageData": png_of((60_000, 60_000))}, ["bad.json"]),
        (
            {"imagePath": "gone.png", "imageData": png_of((8, 9))},
            ["imageData of bad.json: an image must have the size", "40 x 60. Received a file of 9 x 8. They belong"],
        ),
    ],
)
def test_labelme_fields_are_checked(tmp_path, changes, words):
    told = faults_of(labelme(tmp_path, **changes))
    assert all(word in told for word in words) and len(told) < 1500


# VOC, label images and mask files --------------------------------------------------------------------------


def voc(folder, stem, labels, xml=TWO_OBJECTS):
    save_image(folder / "JPEGImages" / f"{stem}.jpg")
    path = folder / "SegmentationObject" / f"{stem}.png"
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        image.putpalette(sum(([n, n, n] for n in range(256)), []))
    image.save(path, "PNG" if labels.dtype == np.uint8 else "TIFF")  # readers tell files by their content
    write(folder / "Annotations" / f"{stem}.xml", xml)


@pytest.mark.parametrize(
    "labels, xml, words",
    [
        (LABELS * 3, XML.format(OBJECTS), ["object 3 of", "1 to 2", "Received 3"]),
        (-LABELS.astype(np.int32), XML.format(OBJECTS), ["object -1 of", "Received -1"]),
        (LABELS, XML.format("<object/><object><name> </name></object>"), ["object 1 of"]),
        (LABELS, XML.format(OBJECTS).replace("60", "-60"), ["`width`"]),
        (LABELS, XML.format(OBJECTS).replace("60", "nan"), ["`width`"]),
        (LABELS, XML.format(OBJECTS).replace("60", "9" * 5000), ["`width`"]),
        (LABELS, LAUGHS, ["entity"]),
        (LABELS, b"\xff" * 50, ["bad.xml"]),
        (LABELS[:8], XML.format(OBJECTS), ["8 x 60"]),
    ],
)
def test_voc_objects_are_checked(tmp_path, labels, xml, words):
    voc(tmp_path, "good", LABELS)
    voc(tmp_path, "bad", labels, xml)
    with pytest.warns(UserWarning, match="Left out [12] faulty"):
        dataset = open_dataset(tmp_path, on_error="skip")
    told = "\n".join(map(str, dataset.faults))
    assert all(word in told for word in words) and "bad" in told and len(told) < 2000
    assert len(dataset[[r.source.stem for r in dataset.records].index("good")].instances) == 2


def npy_header(shape, descr="<i8"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def bad_labels(ending):
    noise = np.random.default_rng(0).integers(1, 60_000, (HEIGHT, WIDTH)).astype(np.uint16)
    buffer = io.BytesIO()
    if ending == "small.png":
        Image.fromarray(LABELS[:9]).save(buffer, "PNG")
    if ending == "bomb.png":
        return base64.b64decode(png_of((60_000, 60_000)))
    if ending == "float.tif":
        Image.fromarray(noise / np.float32(7)).save(buffer, "TIFF")
    return {
        "absurd.npy": npy_header("(1000000000, 1000000000)"),
        "short.npy": npy_header(f"({HEIGHT}, {WIDTH})"),
        "deep.npy": npy_header("(" * 2000),
        "object.npy": npy_header(f"({HEIGHT}, {WIDTH})", "|O"),
        "negative.npy": npy_header(f"(-{HEIGHT}, -{WIDTH})"),
        "text.npy": npy_header(f"({HEIGHT}, {WIDTH})", "<U999999999"),
        "torn.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 30,
        "empty.png": b"",
        "none.tif": b"II*\0" + b"\xff" * 60,
    }.get(ending, buffer.getvalue())


BAD_LABELS = (
    "absurd.npy", "short.npy", "deep.npy", "object.npy", "negative.npy", "text.npy", "torn.png", "empty.png",
    "none.tif", "small.png", "bomb.png", "float.tif",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_LABELS)
def test_label_images_and_mask_files_are_checked(tmp_path, name):
    for layout, label in (("labels", "a"), ("masks", "a_cat_1")):
        folder = tmp_path / layout
        save_image(folder / "images" / "a.png")
        save_image(folder / "images" / "b.png")
        path = write(folder / layout / f"{label}{name[name.index('.') :]}", bad_labels(name))
        Image.fromarray(LABELS).save(folder / layout / f"{label.replace('a', 'b', 1)}.png")
        told = faults_of(folder, format="label-images" if layout == "labels" else "instance-files")
        assert str(path) in told and len(told) < 1500


def test_label_images_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    for name, height in (("a", HEIGHT), ("b", HEIGHT + 1)):
        save_image(tmp_path / "images" / f"{name}.png", height=height)
        write(tmp_path / "labels" / f"{name}.png", b"")
        Image.fromarray(np.pad(LABELS, ((0, height - HEIGHT), (0, 0)))).save(tmp_path / "labels" / f"{name}.png")
    monkeypatch.setattr(label_images, "LABEL_PIXELS", HEIGHT * WIDTH)
    told = faults_of(tmp_path, format="label-images")
    assert "b.png: a label image may have 2400 pixels. Received 41 x 60 (height x width). Cut image and label" in told


def test_two_files_of_one_name_are_a_fault(tmp_path):
    for name in ("images/a.png", "images/a.jpg"):
        save_image(tmp_path / name)
    (tmp_path / "labels").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "labels" / "a.png")
    Image.fromarray(LABELS).save(tmp_path / "labels" / "a_masks.png")
    told = faults_of(tmp_path, 2, format="label-images")
    assert "images/a.png" in told and "a.jpg, too" in told and "labels/a_masks.png" in told


def test_a_picture_is_no_label_image():
    rng = np.random.default_rng(0)
    with pytest.raises(FaultyAnnotation, match="more than 100000 different"):
        label_masks(rng.permutation(320 * 320).reshape(320, 320))
    with pytest.raises(FaultyAnnotation, match="scattered"):
        label_masks(rng.integers(0, 1000, (1024, 1024)))
    masks = label_masks(np.kron(np.arange(4).reshape(2, 2) * 2**40, np.ones((5, 5), int)))
    assert [(number, box.tolist()) for number, (_, box) in masks] == [
        (2**40, [5, 0, 10, 5]),
        (2 * 2**40, [0, 5, 5, 10]),
        (3 * 2**40, [5, 5, 10, 10]),
    ]


def test_dsb_masks_are_checked(tmp_path):
    save_image(tmp_path / "x" / "images" / "x.png")
    (tmp_path / "x" / "masks").mkdir()
    Image.fromarray(LABELS * 100).save(tmp_path / "x" / "masks" / "1.png")
    for name, content in (("2.png", b"\x89PNG"), ("3.npy", npy_header("(100000, 100000)")), ("4.png", b"<html>")):
        write(tmp_path / "x" / "masks" / name, content)
    write(tmp_path / "x" / "masks" / "5.png", base64.b64decode(png_of((60_000, 60_000))))
    told = faults_of(tmp_path, 4, format="dsb")
    assert all(f"mask {number} of image x" in told for number in (1, 2, 3, 4))


# Names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 250, b"caf\xe9".decode("utf-8", "surrogateescape"), "日本語", "a b'\"&<"])
def test_names_of_any_letters_reach_the_coco_file_and_back(tmp_path, name):
    save_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "labels" / f"{name}.png")
    dataset = open_dataset(tmp_path, format="label-images")
    path = tmp_path / "out.json"
    dataset.to_coco(path)
    again = open_dataset(path, tmp_path / "images")
    assert again[0].source.name == f"{name}.png" and len(again[0].instances) == 2
    assert again.load_image(0).shape == (HEIGHT, WIDTH, 3)
