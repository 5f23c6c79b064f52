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
from keras_maskrcnn.data.readers.json_stream import Entries, JsonStream, Unusual

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
