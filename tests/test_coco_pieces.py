"""Reading a COCO file in pieces and its polygons in columns gives what reading one annotation after another gives."""

import json
import math
import warnings

import numpy as np
import pytest
from PIL import Image
from test_record_table import same

from keras_maskrcnn.data.readers import json_stream, outlines
from keras_maskrcnn.data.readers.coco import CocoDataset
from keras_maskrcnn.data.readers.coco_polygons import OrdinaryAnnotations, are_lines
from keras_maskrcnn.data.readers.coco_text import scan
from keras_maskrcnn.data.readers.json_stream import Entries, JsonStream, Unusual
from keras_maskrcnn.geometry import native

needs_native = pytest.mark.skipif(native.load() is None, reason="no native library: was there a compiler?")

TEXTS = {
    "compact": json.dumps({"a": [{"b": [1, 2.5]}, {"c": "x}, {y"}, {}], "z": {"n": -0.0}}, separators=(",", ":")),
    "spaces": '\n{ "a" :\t[ {"b": [[{}, {}], 1]} , {"b": 1e3} ,\r\n 7, "t", null, {"b": 2} ] , "z" : 5 }\n ',
    "not ascii": json.dumps({"a": [{"n": "ü€😀" * k} for k in range(9)], "z": "ü"}, ensure_ascii=False),
    "odd numbers": '{"a": [{"b": NaN}, {"b": -Infinity}, {"b": 1e400}, {"b": "\\ud800"}], "z": 1234567890123456789012}',
    "empty": '{"a": [], "z": []}',
    "long": json.dumps({"a": [{"b": list(range(k))} for k in range(60)], "z": 0}),
    "nested": json.dumps({"a": [{"b": [{"c": k}, {"d": k}]} for k in range(40)], "z": 0}),
}
DAMAGED = [
    "",
    "{",
    "[1]",
    "5",
    '{"a": [1, 2',
    '{"a": [1, 2]',
    '{"a": [1,]}',
    '{"a": [1 2]}',
    '{"a": [1]} x',
    '{"a": [1],}',
    "{a: [1]}",
    '{"a" [1]}',
    "{1: [1]}",
    '{"a": ["\n"]}',
    '{"a": [01]}',
    '{"a": {}}',
    '{"b": ' + "9" * 5000 + "}",
    '{"b": ' + "[" * 100_000,
    '{"a": [' + "[" * 100_000,
]
SQUARE = [2, 2, 20.5, 2, 20.5, 18.25, 2, 18.25]
FAR = [-50.5, -50, 90, -50, 90, 90, -50.5, 90]
SEGMENTATIONS = [
    [SQUARE],
    [SQUARE, FAR],
    [FAR],
    [[3, 3, 9, 3, 9, 9]],
    [SQUARE, [1, 1, 2, 2, 3, 3]],
    [[1, 1, 2, 2, 3, 3]],
    [[1, 1, 5, 5, 1, 1]],
    [[40, 2, 50, 2, 50, 9]],
    [[2, 2, 2, 9, 2, 5]],
    [SQUARE[:5]],
    [SQUARE[:4]],
    [[]],
    [],
    None,
    "",
    SQUARE,
    [[SQUARE]],
    "text",
    [[1, 1, "9", 1, 9, 9]],
    [[1, 1, True, 9, 9, 9]],
    [[True] * 6],
    [[1, 1, None, 1, 9, 9]],
    [[1, 1, math.nan, 1, 9, 9]],
    [[1, 1, 1e10, 1, 9, 9]],
    [[1, 1, 9e8, 1, 9, 9]],
    [[1, 1, 10**30, 1, 9, 9]],
    [[1, 1, 10**400, 1, 9, 9]],
    [[-0.0, -0.0, 9, 0, 9, 9]],
    [[[1, 1], [9, 1], [9, 9]]],
    {"size": [24, 32], "counts": [30, 10, 728]},
    {"size": [24, 32], "counts": [768]},
    [SQUARE, SQUARE],
]
OTHERS = [
    {},
    {"iscrowd": 1},
    {"iscrowd": True},
    {"iscrowd": "1"},
    {"iscrowd": 2},
    {"area": 5},
    {"area": 5.5},
    {"area": 0},
    {"area": -1},
    {"area": "5"},
    {"area": math.nan},
    {"area": math.inf},
    {"area": 10**30},
    {"bbox": [2, 2, 18.5, 16.25]},
    {"bbox": [2, 2, 0, 5]},
    {"bbox": [50, 50, 5, 5]},
    {"bbox": [math.nan] * 4},
    {"bbox": [2, math.nan, 5, 5]},
    {"bbox": [-math.inf, 2, math.inf, 5]},
    {"bbox": ["2", 2, 5, 5]},
    {"bbox": [True, 2, 5, 5]},
    {"bbox": [2, 2, 5]},
    {"bbox": [10**400, 2, 5, 5]},
    {"bbox": "no"},
    {"score": 0.5},
    {"score": "high"},
    {"keypoints": [1, 2.5, None]},
    {"depth": math.nan},
    {"depth": 10**25, "more": {"e+": "ü"}},
    {"image_id": 2},
    {"image_id": "1"},
    {"image_id": 77},
    {"image_id": 3},
    {"image_id": 1.0},
    {"category_id": "5"},
    {"category_id": 8},
    {"category_id": 2**70},
    {"id": 1},
    {"id": "1"},
    {"id": 2**70},
    {"id": 2**62 + 1},
    {"id": None},
    {"id": True},
]


def pieces(path, monkeypatch, block, quick):
    """{key: value} of a file, read in blocks of some bytes; and the entries of `a`, read again."""
    monkeypatch.setattr(json_stream, "_BLOCK", block)
    found, firsts, places = {}, [], []
    with JsonStream(path) as stream:
        for key in stream.members():
            if key != "a":
                found[key] = stream.value()
                continue
            found[key] = []
            for entries, place in stream.batches(quick):
                firsts.append(len(found[key]))
                places.append(place)
                found[key] += entries
            firsts.append(len(found[key]))
            places.append(stream.place)
    return found, Entries(path, firsts, places)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("block", [3, 20, 100, 10**6])
@pytest.mark.parametrize("name", TEXTS)
def test_pieces_are_what_json_reads(name, block, quick, mark, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(mark + TEXTS[name].encode())
    expected = json.loads(TEXTS[name])
    found, entries = pieces(tmp_path / "a.json", monkeypatch, block, quick)
    assert same(found, expected)
    numbers = list(range(0, len(expected["a"]), 2))
    assert same(list(entries.some(numbers)), expected["a"][::2]) and list(entries.some([])) == []


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:20])
def test_what_is_no_json_object_with_a_list_is_unusual(text, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Unusual):
        pieces(tmp_path / "a.json", monkeypatch, 100, True)


def test_no_file_and_no_utf8_are_unusual(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(b'{"a": ["\xff"]}')
    for path in (tmp_path / "a.json", tmp_path / "none.json", tmp_path, "\0"):
        with pytest.raises(Unusual):
            pieces(path, monkeypatch, 100, True)


def write(folder, annotations, order=("info", "images", "annotations", "categories")):
    Image.new("RGB", (32, 24)).save(folder / "a.png")
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": number, "file_name": name, "height": 24, "width": 32}
            for number, name in ((2, "a.png"), (1, "./a.png"), (3, "missing.png"))
        ],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "cell"}, {"id": 6, "name": "leaf"}],
    }
    (folder / "a.json").write_text(json.dumps({key: content[key] for key in order}), encoding="utf-8")
    return folder / "a.json"


def content(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = CocoDataset(path, on_error="skip")
    return list(dataset.records), dataset.faults, dataset.notes, dataset.class_names, dataset.category_ids


def one_at_a_time(path, monkeypatch):
    """The content, with no annotation taken as ordinary."""
    with monkeypatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        patch.setattr(OrdinaryAnnotations, "_take", lambda *_: False)
        return content(path)


def annotations(seed, count=300):
    """Annotations, of which most have something out of the ordinary."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        entry = {"id": number, "image_id": int(rng.integers(1, 4)), "category_id": int(rng.integers(5, 7))}
        entry["segmentation"] = SEGMENTATIONS[int(rng.integers(len(SEGMENTATIONS)))] if rng.random() < 0.5 else [SQUARE]
        entry |= OTHERS[int(rng.integers(len(OTHERS)))] if rng.random() < 0.5 else {}
        found.append(entry)
    return [*found, None, 5, [], {}]


@pytest.mark.parametrize("seed", range(6))
def test_columns_give_the_records_faults_and_notes_of_one_at_a_time(seed, tmp_path, monkeypatch):
    path = write(tmp_path, annotations(seed))
    expected = one_at_a_time(path, monkeypatch)
    assert same(content(path), expected) and len(expected[1]) > 20 and len(expected[2]) > 3
    monkeypatch.setattr(json_stream, "_BLOCK", 1000)
    assert same(content(path), expected)
    monkeypatch.setattr(json_stream, "orjson", None)
    assert same(content(path), expected)
    monkeypatch.setattr(native, "load", lambda: None)
    assert same(content(path), expected)
    monkeypatch.undo()
    monkeypatch.setattr(native, "load", lambda: None)
    assert same(content(path), expected)


ROW = '{"id": %s, "image_id": 2, "category_id": 3, "segmentation": [[1, 2, 3, 4, 5, %s]]}'
NUMBERS = [  # as text; JSON's grammar, one rounding, or neither
    *("0", "-0", "0.0", "-0.0", "1e0", "1E+2", "1.5e-3", "0.1", "-0.30000000000000004", "702.1057499999998"),
    *("9007199254740992", "9007199254740993", "90071992547409.93", "123456789012345678901234567890", "5e-324"),
    *("0.00000000000000000000000000000001", "1e22", "1e23", "123456789e22", "1.7976931348623157e308", "4.35", "1e-22"),
    *("2.2250738585072011e-308", "1" * 60 + ".5", "0." + "3" * 62, "18446744073709551616", "1e-23", "-7.25"),
]
NO_NUMBERS = ["01", "1.", ".5", "+1", "-", "1e", "1e+", "--1", "0x1", "NaN", "Infinity", "1_0", "1 2", "", "[1]", "1,"]


def scanned(text):
    """(rows, their last coordinates, other entries) of a part of a list; None if it is no list of dictionaries."""
    found = scan(text, json.loads)
    assert found is None or len(found) == len(found.rows) + len(found.others)
    return found and (found.rows.tolist(), found.coordinates[5::6].tolist(), found.others)


@needs_native
def test_the_numbers_of_a_text_are_those_of_json():
    found = scan(", ".join(ROW % (n, text) for n, text in enumerate(NUMBERS)), json.loads)
    last = dict(zip(found.rows[:, 0].tolist(), found.coordinates[5::6].tolist(), strict=True))
    last |= {entry["id"]: float(entry["segmentation"][0][5]) for _, entry in found.others}
    expected = [float(json.loads(text)) for text in NUMBERS]
    assert [last[n] for n in range(len(NUMBERS))] == expected
    assert [math.copysign(1, last[n]) for n in range(len(NUMBERS))] == [math.copysign(1, e) for e in expected]
    assert len(found.others) <= 9  # "-0", and powers of ten that are not exact
    rng = np.random.default_rng(0)
    values = [float(value) for value in rng.normal(size=3000) * 10.0 ** rng.integers(-20, 20, 3000)]
    texts = [repr(v) for v in values[:1000]] + [f"{v:.{n % 9}f}" for n, v in enumerate(values[1000:])]
    found = scan(",".join(ROW % (n, text) for n, text in enumerate(texts)), json.loads)
    others = {entry["id"] for _, entry in found.others}
    assert len(others) < 600 and found.coordinates[5::6].tolist() == [
        float(text) for n, text in enumerate(texts) if n not in others
    ]


@needs_native
@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_of_json_is_left_to_json(text):
    for entry in (ROW % (1, text), ROW % (text, 1)):
        try:
            expected = json.loads(entry)
        except ValueError:
            with pytest.raises(ValueError):
                scan(entry, json.loads)
            continue
        assert scanned(entry)[0] == [] and same(scanned(entry)[2], [(0, expected)])


@needs_native
def test_a_part_of_a_list_is_scanned_whatever_its_spaces_and_order():
    fields = {"segmentation": [[1, 2, 3, 4, 5, 6], [1, 1, 2, 2, 3, 9, 4, 4]], "area": 5, "iscrowd": 1, "id": 7}
    fields |= {"bbox": [0.5, -1, 2, 3], "image_id": -8, "category_id": 9}
    other = {"id": 4, "caption": 'a "{[,\\', "segmentation": {"size": [1, 2], "counts": "]}"}}
    for options in ({}, {"indent": 2}, {"separators": (",", ":")}):
        text = json.dumps([fields, other, {}, dict(reversed(fields.items()))], **options).strip()[1:-1]
        found = scan(text, json.loads)
        assert found.rows.tolist() == [[7, -8, 9, 1, 2, 0], [7, -8, 9, 1, 2, 3]]
        assert found.floats.tolist() == [[5, 0.5, -1, 2, 3]] * 2 and found.sizes.tolist() == [6, 8] * 2
        assert found.coordinates.tolist() == [1, 2, 3, 4, 5, 6, 1, 1, 2, 2, 3, 9, 4, 4] * 2
        assert found.others == [(1, other), (2, {})]


@needs_native
@pytest.mark.parametrize(
    "text",
    ["", "5", "{", "{}, 5", "{}]", '{"a', '{"a": "\\"', "{} {}", "{},", '{"id": 1', "[1]", '{"id": "}'],
    ids=repr,
)
def test_what_is_no_list_of_dictionaries_is_not_scanned(text):
    assert scan(text, json.loads) is None


@needs_native
def test_every_cut_and_changed_text_is_what_json_says():
    rng = np.random.default_rng(1)
    whole = json.dumps([entry for entry in annotations(3, 12) if isinstance(entry, dict)])[1:-1]
    for number in range(1500):
        text = list(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        for at in rng.integers(0, len(text), rng.integers(1, 4)):
            text[at] = '{}[]",:0-e. \\n'[rng.integers(14)]
        text = "".join(text)
        try:
            expected = json.loads(f"[{text}]")
        except ValueError:
            expected = None
        try:
            found = scan(text, json.loads)
        except ValueError:
            continue
        if found is not None and expected is not None and all(type(entry) is dict for entry in expected):
            assert len(found) == len(expected)
            assert [row[0] for row in found.rows.tolist()] == [expected[row[5]]["id"] for row in found.rows.tolist()]
            assert same([entry for _, entry in found.others], [expected[position] for position, _ in found.others])
        else:
            assert found is None, text


@pytest.mark.parametrize("first", ["annotations", "categories", "images"])
def test_the_lists_come_in_any_order(first, tmp_path):
    ordinary = [entry for entry in annotations(9) if isinstance(entry, dict)]
    expected = content(write(tmp_path, ordinary))
    others = [key for key in ("images", "annotations", "categories") if key != first]
    for order in ([first, *others], [first, *others[::-1], "info"]):
        assert same(content(write(tmp_path, ordinary, order)), expected)


def test_of_two_lists_of_one_name_the_last_counts(tmp_path):
    path = write(tmp_path, [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": [SQUARE]}])
    path.write_text('{"annotations": [1, 2],' + path.read_text()[1:])
    records, faults, *_ = content(path)
    assert sum(len(record.instances) for record in records) == 1 and len(faults) == 1  # the missing image


def test_lines_are_those_of_the_outlines():
    rng = np.random.default_rng(0)
    parts = [
        rng.integers(0, 3, (int(rng.integers(3, 6)), 2)).astype(float) * rng.choice([1.0, 0.1, 1e8]) for _ in range(500)
    ]
    parts += [np.arange(3)[:, None] * rng.normal(size=2) + rng.normal(size=2) for _ in range(100)]
    ends = np.cumsum([part.size for part in parts])
    found = are_lines(np.concatenate([part.ravel() for part in parts]), ends - [part.size for part in parts], ends)
    assert found.tolist() == [bool(outlines._is_line(part)) for part in parts] and 30 < found.sum() < 570
