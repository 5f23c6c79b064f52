"""Records that were packed into arrays come out as they went in: every kind of mask, id, source and attribute."""

import dataclasses
import pathlib
import pickle

import numpy as np
import pytest

from keras_maskrcnn.data.record_table import RecordTable
from keras_maskrcnn.data.records import Dataset, Instance, MaskWindow, Polygons, Record, RunLengths
from keras_maskrcnn.data.table_builder import as_table

BOX = np.array([1.5, 2, 30, 40.25], np.float32)
SQUARE = np.array([[1.5, 2], [30, 2], [30, 40.25], [1.5, 40.25]])
PART = np.array([[5, 5], [9.125, 5], [7, 9]])


def pixels():
    return np.zeros((50, 60, 3), np.uint8)


class Shape:
    """A mask of another type."""

    def window(self, height, width):
        return MaskWindow(np.ones((height, width), np.uint8), 0, 0)


@dataclasses.dataclass(frozen=True)
class Slide(Record):
    """A record with a field of its own."""

    magnification: float = 20.0


WINDOW = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
MASKS = {
    "polygon": Polygons((SQUARE,)),
    "parts": Polygons((SQUARE, PART)),
    "no parts": Polygons(()),
    "whole numbers": Polygons((SQUARE.astype(np.int64),)),
    "runs": RunLengths(np.array([3, 5, 2992], np.int32)),
    "long runs": RunLengths(np.array([3, 5, 2**40], np.int64)),
    "no runs": RunLengths(np.zeros(0, np.int32)),
    "window": MaskWindow(WINDOW, 7, 9),
    "columns first": MaskWindow(np.asfortranarray(WINDOW), 7, 9),
    "empty window": MaskWindow(np.zeros((0, 0), np.uint8), 0, 0),
    "bool window": MaskWindow(WINDOW.astype(bool), 7, 9),
    "other": Shape(),
}
FIELDS = {
    "plain": {},
    "crowd": {"crowd": True, "annotation_id": 5},
    "text id": {"annotation_id": "a-ü\ud800"},
    "huge id": {"annotation_id": 10**30},
    "stated": {"area": 12.5, "stated_box": (1.0, -2.0, 3.5, 1e9)},
    "other types": {"area": 12, "stated_box": [1, 2, 3, 4]},
    "nan": {"area": float("nan"), "label": 3},
    "numpy": {"label": np.int64(2), "crowd": np.bool_(True)},
    "attributes": {"attributes": {"a": [1, 2.5, None, True, "ü\ud800", {"b": -0.0, "c": 10**40}], "": float("inf")}},
    "empty attributes": {"attributes": {}},
    "python attributes": {"attributes": {"depth": (1, 2), 5: 1}},
    "frame": {"frame": ((1.0, 0.0, 2.5), (0.0, 1.0, -1.0))},
    "float64 box": {"box": BOX.astype(np.float64)},
}


def same(one, other):
    """Whether two values are equal, of one type, and all that they hold, too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one is other or repr(one) == repr(other)  # of floats repr tells -0.0, NaN and the last bit


def instance(mask, fields):
    return Instance(**{"label": 1, "box": BOX, "mask": mask} | fields)


def records():
    """Records of every kind."""
    objects = [instance(mask, fields) for mask in MASKS.values() for fields in FIELDS.values()]
    numbers = iter(range(1, 100))
    return [
        Record(next(numbers), pathlib.Path("folder/ü.png"), 50, 60, tuple(objects[:40])),
        Record("text", "folder/a.png", 50, 60),
        Record(-(2**61), "\udcff.png", 2**40, 1, tuple(objects[40:41])),
        Record(None, pixels, 50, 60, tuple(objects[41:])),
        Record(10**25, pixels(), np.int64(50), 60, (objects[3],)),
        Slide(7, pathlib.Path("slide.tif"), 50, 60, (objects[0], objects[9]), magnification=40.0),
        Record(8, b"bytes", 50, 60, (objects[5],)),
    ]


def test_records_of_every_kind_come_out_as_they_went_in():
    table = as_table(record for record in records())
    assert len(table) == 7 and same(list(table), records())
    assert same(table[-1], records()[-1]) and same(list(reversed(table)), records()[::-1])
    with pytest.raises(IndexError):
        table[7]


@pytest.mark.parametrize("mask", MASKS)
def test_datasets_of_one_kind_of_mask(mask):
    given = [Record(1, "a.png", 50, 60, (instance(MASKS[mask], FIELDS["plain"]),)), Record(2, "b.png", 50, 60)]
    assert same(list(as_table(given)), given)


def test_columns_hold_what_the_records_hold():
    given, table = records(), as_table(records())
    found = [instance for record in given for instance in record.instances]
    assert table.labels.tolist() == [one.label for one in found]
    assert table.crowd.tolist() == [one.crowd for one in found]
    np.testing.assert_array_equal(table.boxes, [one.box for one in found])
    assert table.counts.tolist() == [len(record.instances) for record in given]
    assert same(table.image_ids, [record.image_id for record in given])
    assert same(table.image_sizes, [(record.height, record.width) for record in given])
    assert table.labels_by_image(crowds=True) == [[one.label for one in record.instances] for record in given]
    assert table.labels_by_image() == [[i.label for i in r.instances if not i.crowd] for r in given]
    assert list(table.files()) == ["folder/ü.png", "folder/a.png", "\udcff.png", None, None, "slide.tif", None]
    assert table.used_labels() == [1, 2, 3]


def test_corners_of_polygons_are_not_clipped_and_those_of_other_masks_unknown():
    far = Polygons((SQUARE - 20, PART + 1000.5))
    given = [
        Record(1, "a.png", 50, 60, tuple(instance(mask, {}) for mask in (far, MASKS["runs"], Polygons((PART,))))),
        Record(2, "b.png", 50, 60, (instance(Polygons((SQUARE,)), {}),)),
        Record(3, "c.png", 50, 60, (instance(Polygons((PART + 20,)), {}),)),
    ]
    parts = [[-18.5, -18, 1009.625, 1009.5], [np.nan] * 4, [5, 5, 9.125, 9], [1.5, 2, 30, 40.25], [25, 25, 29.125, 29]]
    expected = np.array(parts)
    np.testing.assert_array_equal(as_table(given).outline_corners(), expected)
    np.testing.assert_array_equal(as_table(given).take([1]).outline_corners(), expected[[3]])
    np.testing.assert_array_equal(as_table(given).take([2, 0, 2]).outline_corners(), expected[[4, 0, 1, 2, 4]])


def test_a_part_of_a_table_is_the_table_of_these_records():
    given, table = records(), as_table(records())
    assert same(list(table.take([5, 0, 3, 3])), [given[5], given[0], given[3], given[3]])
    assert same(list(table[1::2]), given[1::2]) and same(list(table[:0]), [])
    assert same(list(table[1::2][1:]), given[3::2])


def test_other_labels_in_every_object():
    changed = as_table(records()).with_labels({1: 4, 2: 0, 3: 3})
    expected = [
        dataclasses.replace(
            r, instances=tuple(dataclasses.replace(i, label={1: 4, 2: 0, 3: 3}[i.label]) for i in r.instances)
        )
        for r in records()
    ]
    assert same(list(changed), expected) and changed.labels.tolist() == [i.label for r in expected for i in r.instances]


def test_pickles_keep_the_arrays_out_of_band():
    plain = [Record(k, f"images/{k}.png", 50, 60, (instance(MASKS["parts"], FIELDS["stated"]),)) for k in range(2000)]
    dataset = Dataset(plain, ["a", "b"], [1, 2], "plain")
    buffers = []
    text = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    assert len(text) < 4000 and sum(len(buffer.raw()) for buffer in buffers) > 2000 * 200
    again = pickle.loads(text, buffers=[bytearray(buffer.raw()) for buffer in buffers])
    assert same(list(again.records), plain) and again.max_instances == 1


def test_a_dataset_takes_any_iterable_and_stores_columns():
    dataset = Dataset((record for record in records()), ["a", "b", "c", "d"], [1, 2, 3, 4], "mixed")
    assert dataset.max_instances == max(len(record.instances) for record in records())
    dataset.records = records()[:2]
    assert isinstance(dataset.records, RecordTable) and same(list(dataset.records), records()[:2])
    assert not dataset[0].instances[0].box.flags.writeable
