"""napari's plugin engine (npe2) loads the manifest, reads, writes and detects by it; napari itself is not needed."""

import importlib
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import keras_maskrcnn.viewers
from keras_maskrcnn.data import generate_shapes, open_dataset
from keras_maskrcnn.inference.visualize import segmentation_mask
from keras_maskrcnn.viewers import napari_layers

npe2 = pytest.importorskip("npe2")
MANIFEST = pathlib.Path(keras_maskrcnn.viewers.__file__).parent / "napari.yaml"
PLUGIN = "keras-maskrcnn"


@pytest.fixture
def engine(monkeypatch):
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manager = npe2.PluginManager()
    manager.register(manifest)
    monkeypatch.setattr(npe2.PluginManager, "instance", classmethod(lambda cls: manager))
    return manager


def masks_of(path):
    """List of (class name, bool (H, W)) of a file, by image."""
    dataset = open_dataset(path)
    content = dataset.to_coco()
    names = {one["id"]: one["name"] for one in content["categories"]}
    size = content["images"][0]["height"], content["images"][0]["width"]
    masks = [
        (names[one["category_id"]], segmentation_mask(one["segmentation"], size)) for one in content["annotations"]
    ]
    return sorted(masks, key=lambda pair: (pair[0], pair[1].argmax()))


def test_the_manifest_names_functions_that_are_there(engine):
    commands = engine.get_manifest(PLUGIN).contributions.commands
    assert {command.id for command in commands} == {f"{PLUGIN}.{verb}" for verb in ("read", "write", "detect")}
    for command in commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    setup = (pathlib.Path(__file__).parents[1] / "setup.py").read_text()
    assert '"napari.manifest": ["keras-maskrcnn = keras_maskrcnn.viewers:napari.yaml"]' in setup


def test_objects_are_read_written_and_read_again(engine, tmp_path):
    path = generate_shapes(tmp_path / "data", 1, 96, seed=3, max_shapes=4)
    layers = npe2.read([str(path)], stack=False, plugin_name=PLUGIN)
    (pixels, image, kind), (labels, objects, objects_kind) = layers
    assert (kind, objects_kind) == ("image", "labels") and image["name"] == "00001.png"
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "data" / "images" / "00001.png")))
    known = masks_of(path)
    assert len(known) >= 2 and labels.max() == len(known) and labels.shape == (96, 96)
    features = objects["features"]
    for number in range(1, len(known) + 1):
        name = features["class"][features["index"].index(number)]
        assert any(name == other and np.array_equal(labels == number, mask) for other, mask in known)
    written = tmp_path / "again.json"
    assert npe2.write(str(written), [layers[1]], plugin_name=PLUGIN) == [str(written)]
    again = masks_of(written)
    assert [name for name, _ in again] == [name for name, _ in known]
    for (_, one), (_, other) in zip(again, known, strict=True):
        np.testing.assert_array_equal(one, other)


def test_drawn_objects_without_a_table_are_written(tmp_path):
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 10:30], labels[20:38, 2:9] = 3, 7
    path = tmp_path / "drawn.json"
    napari_layers.write_objects(str(path), labels, {"name": "cells.png", "features": None, "metadata": {}})
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 1, "file_name": "cells.png", "height": 40, "width": 60}]
    assert [one["bbox"] for one in content["annotations"]] == [[10, 5, 20, 10], [2, 20, 7, 18]]
    assert [one["area"] for one in content["annotations"]] == [200, 126] and content["categories"][0][
        "name"
    ] == "object"
    with pytest.raises(ValueError, match=r"a layer of two axes. Received one of the shape \(2, 4, 4\)"):
        napari_layers.write_objects(str(path), np.zeros((2, 4, 4), int), {})


def test_outlines_are_read_as_masks(engine, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    square, tip = [10, 5, 30, 5, 30, 15, 10, 15], [40, 20, 50, 20, 50, 30, 40, 30]
    content = {
        "images": [{"id": 4, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 7, "segmentation": [square, tip]}],
        "categories": [{"id": 7, "name": "cell"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (pixels, _, _), (labels, objects, _) = napari_layers.get_reader(str(path))(str(path))
    expected = np.zeros((40, 60), int)
    expected[5:15, 10:30] = expected[20:30, 40:50] = 1
    np.testing.assert_array_equal(labels, expected)
    assert pixels.shape == (40, 60, 3)
    assert objects["features"] == {"index": [0, 1], "class": ["", "cell"], "score": [0.0, 1.0]}


def test_other_files_are_left_to_other_readers(engine, tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    assert napari_layers.get_reader(str(tmp_path / "other.json")) is None
    assert napari_layers.get_reader(str(tmp_path / "photo.png")) is None
    assert napari_layers.get_reader([str(tmp_path / "other.json")]) is None
    path = generate_shapes(tmp_path / "many", 21, 32, seed=0, max_shapes=1)
    with pytest.raises(ValueError, match="at most 20 images, two layers each. Received .* with 21"):
        napari_layers.get_reader(str(path))(str(path))


class Found:
    """A square of the second class with a score of 0.75."""

    image_size, category_ids, class_names = (40, 60), (1, 5), ("cell", "block")

    def to_coco(self, image_id):
        return [{"image_id": image_id, "category_id": 5, "bbox": [10.0, 5.0, 20.0, 10.0], "score": 0.75}]


def test_detections_become_a_layer(monkeypatch, tmp_path):
    given = []

    def open_predictor(path, score):
        given.append((path, score))
        return lambda image: given.append(image.shape) or Found()

    monkeypatch.setattr("keras_maskrcnn.scale.models.open_predictor", open_predictor)
    labels, options, kind = napari_layers.detect(np.zeros((40, 60), np.uint8), tmp_path / "run", 0.3)
    assert given == [(tmp_path / "run", 0.3), (40, 60)] and kind == "labels"
    assert labels.sum() == 200 and (labels[5:15, 10:30] == 1).all()
    assert options["features"] == {"index": [0, 1], "class": ["", "block"], "score": [0.0, 0.75]}
