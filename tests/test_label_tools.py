"""Predictions in labelling tools: files and the samples for Label Studio and CVAT, judged by the tools' own libraries.

The libraries are no test tools of this package: `benchmarks/check_label_formats.py` says how to install them.
"""

import base64
import importlib.util
import io
import json
import pathlib
import sys
import types

import numpy as np
import pytest
import yaml
from PIL import Image

from keras_maskrcnn.data import read_image
from keras_maskrcnn.labelling import write_labels

ROOT = pathlib.Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("check_label_formats", ROOT / "benchmarks" / "check_label_formats.py")
check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check)
MODULES = {"label-studio-sdk": "label_studio_sdk"}  # package -> what is imported, where that differs


def need(package):
    """Skip where a tool's library is not installed."""
    return pytest.importorskip(MODULES.get(package, package), reason=f"{package} is not among the test tools")


# Files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", check.FORMATS)
def test_the_tools_own_library_reads_what_was_written(name, tmp_path):
    package, read, least = check.FORMATS[name]
    need(package)
    images, results, expected = check.make_predictions(tmp_path / "photos")
    write_labels(name, tmp_path / name, images, results, check.CATEGORIES)
    assert check.least_overlap(read(tmp_path / name, tmp_path / "photos"), expected) >= least
    if name not in check.NO_READER:
        assert check.least_overlap(check.by_package(tmp_path / name, tmp_path / "photos"), expected) >= least


def test_the_comparison_finds_what_differs():
    mask, other = check.disc(20, 20, 15), check.disc(24, 20, 15)
    shared = (mask & other).sum() / (mask | other).sum()
    assert check.least_overlap({"a": [("cat", other)]}, {"a": [("cat", mask)]}) == pytest.approx(shared)
    for found in ({"a": [("dog", mask)]}, {"a": []}, {"b": [("cat", mask)]}):
        with pytest.raises(ValueError, match="must be .* Received"):
            check.least_overlap(found, {"a": [("cat", mask)]})


# Samples -----------------------------------------------------------------------------------------------------


def load(name, monkeypatch, **modules):
    """A sample's module, with the modules beside it and those that stand for others."""
    path = ROOT / "samples" / name
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.delitem(sys.modules, "predictions", raising=False)
    for key, module in modules.items():
        monkeypatch.setitem(sys.modules, key.replace("__", "."), module)
    spec = importlib.util.spec_from_file_location(f"sample_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found_instances(score=0.9):
    """(what stands for FoundInstances, [(class, mask)]): a scene, and an object without a pixel."""
    masks = check.scene(1)
    windows = []
    for mask in masks:
        y, x = (int(np.flatnonzero(mask.any(axis))[0]) for axis in (1, 0))
        pixels = mask[y:, x:][: mask.any(1).nonzero()[0][-1] - y + 1, : mask.any(0).nonzero()[0][-1] - x + 1]
        windows.append((pixels, x, y))
    labels = [k % 2 for k in range(len(masks))]
    found = types.SimpleNamespace(
        mask_windows=[*windows, (np.zeros((2, 3), bool), 5, 6)],
        labels=np.array([*labels, 0]),
        scores=np.array([score - k / 10 for k in range(len(masks) + 1)], np.float32),
        class_names=check.NAMES,
        image_size=check.SIZE,
        config=types.SimpleNamespace(class_names=check.NAMES),
    )
    return found, [(check.NAMES[label], mask) for label, mask in zip(labels, masks, strict=True)]


def test_nuclio_gets_the_masks_of_a_request_above_its_threshold(monkeypatch):
    main = load("cvat/main.py", monkeypatch)
    found, expected = found_instances()
    photo, seen = io.BytesIO(), []
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*check.SIZE, 3), np.uint8)).save(photo, "PNG")

    def predict(image):
        seen.append(read_image(image))
        return found

    context = types.SimpleNamespace(user_data=types.SimpleNamespace(predictor=predict), Response=types.SimpleNamespace)
    body = {"image": base64.b64encode(photo.getvalue()).decode(), "threshold": 0.45}
    answer = main.handler(context, types.SimpleNamespace(body=body))
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    np.testing.assert_array_equal(seen[0], read_image(photo.getvalue()))
    shapes = json.loads(answer.body)
    assert [float(one["confidence"]) for one in shapes] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    for one, (name, mask) in zip(shapes, expected, strict=False):
        *pixels, left, top, right, bottom = one["mask"]  # as CVAT's server takes them apart
        decoded = np.zeros(check.SIZE, bool)
        decoded[top : bottom + 1, left : right + 1] = np.reshape(pixels, (bottom + 1 - top, right + 1 - left))
        assert one["label"] == name and one["type"] == "mask"
        np.testing.assert_array_equal(decoded, mask)
        outline = check.filled([one["points"]])
        assert (outline & mask).sum() / (outline | mask).sum() >= 0.98
    del body["threshold"]
    assert len(json.loads(main.handler(context, types.SimpleNamespace(body=body)).body)) == len(expected)


def test_the_function_file_lists_the_models_classes(monkeypatch):
    runs = types.SimpleNamespace(find_model=None)
    stand_ins = {"keras_maskrcnn__runs__experiment": runs}
    make = load("cvat/make_function.py", monkeypatch, **stand_ins)
    content = yaml.safe_load(yaml.safe_dump(make.function("balloons", check.NAMES)))
    assert content["spec"]["handler"] == "main:handler" and content["metadata"]["annotations"]["type"] == "detector"
    spec = json.loads(content["metadata"]["annotations"]["spec"])
    assert spec == [{"id": k, "name": name, "type": "mask"} for k, name in enumerate(check.NAMES)]
    assert content["spec"]["triggers"]["myHttpTrigger"]["kind"] == "http"


@pytest.mark.parametrize("as_polygons", [False, True])
def test_cvats_driver_takes_the_shapes(as_polygons, monkeypatch):
    need("cvat_sdk")
    import logging

    from cvat_sdk import models
    from cvat_sdk.auto_annotation import driver
    from cvat_sdk.masks import decode_mask

    sample = load("cvat/auto_annotation.py", monkeypatch)
    found, expected = found_instances()
    predictor = type("Predictor", (), {"config": found.config, "__call__": lambda self, image: found})()
    function = sample.Function(predictor)
    kind = "polygon" if as_polygons else "mask"
    labels = [
        models.Label(id=70 + k, name=name, type=kind, attributes=[], sublabels=[]) for k, name in enumerate(check.NAMES)
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger("test"),
        function.spec.labels,
        labels,
        allow_unmatched_labels=False,
        conv_mask_to_poly=as_polygons,
    )
    context = driver._DetectionFunctionContextImpl(frame_name="a", conf_threshold=0.45, conv_mask_to_poly=as_polygons)
    shapes = function.detect(context, Image.new("RGB", check.SIZE[::-1]))
    mapper.validate_and_remap(shapes, 3)
    assert [(one.label_id, one.frame, one.source) for one in shapes] == [(70 + k % 2, 3, "auto") for k in range(5)]
    for one, (_, mask) in zip(shapes, expected, strict=False):
        if as_polygons:
            outline = check.filled([one.points])
            assert (outline & mask).sum() / (outline | mask).sum() >= 0.98
        else:
            decoded = decode_mask(one.points, image_width=check.SIZE[1], image_height=check.SIZE[0])
            np.testing.assert_array_equal(decoded, mask)


SETUP = """<View><Image name="picture" value="$photo"/>
<{kind} name="objects" toName="picture"><Label value="cat"/><Label value="Röhre &lt;b&gt;"/></{kind}></View>"""


@pytest.mark.parametrize("kind", ["BrushLabels", "PolygonLabels"])
def test_label_studio_accepts_the_backends_predictions(kind, monkeypatch):
    need("label-studio-sdk")
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    class Base:
        """What stands for label_studio_ml's LabelStudioMLBase; the label interface is the SDK's."""

        def __init__(self, label_config):
            self.label_interface, self.values = LabelInterface(label_config), {}
            self.setup()

        model_version = property(lambda self: self.values["model_version"])

        def set(self, key, value):
            self.values[key] = value

        def get_first_tag_occurence(self, *kinds):
            return self.label_interface.get_first_tag_occurence(*kinds)

        def get_local_path(self, url, task_id=None):
            return f"{url} of task {task_id}"

    parts = types.SimpleNamespace(model=types.SimpleNamespace(LabelStudioMLBase=Base))
    sample = load("label_studio/model.py", monkeypatch, label_studio_ml=parts, label_studio_ml__model=parts.model)
    found, expected = found_instances()
    asked = []
    monkeypatch.setattr(sample, "open_model", lambda: lambda path: asked.append(path) or found)
    monkeypatch.setenv("KERAS_MASKRCNN_MODEL", "runs/cats")
    backend = sample.MaskRCNNBackend(SETUP.format(kind=kind))
    (answer,) = backend.predict([{"id": 7, "data": {"photo": "/data/a.jpg"}}], context={})
    assert asked == ["/data/a.jpg of task 7"] and answer["model_version"] == "keras-maskrcnn cats"
    assert backend.label_interface.validate_prediction(answer, return_errors=True) == []
    assert answer["score"] == pytest.approx(np.mean([0.9 - k / 10 for k in range(7)]), abs=1e-4)
    for one, (name, mask) in zip(answer["result"], expected, strict=True):
        assert (one["from_name"], one["to_name"], one["value"][kind.lower()]) == ("objects", "picture", [name])
        assert (one["original_height"], one["original_width"]) == check.SIZE
        if kind == "BrushLabels":
            decoded = np.reshape(decode_rle(one["value"]["rle"]), (*check.SIZE, 4))[..., 3]
            assert set(np.unique(decoded)) == {0, 255}
            np.testing.assert_array_equal(decoded == 255, mask)
        else:
            outline = check.filled([np.array(one["value"]["points"]) / 100 * check.SIZE[::-1]])
            assert (outline & mask).sum() / (outline | mask).sum() >= 0.98
    cats = sample.MaskRCNNBackend(SETUP.format(kind=kind).replace('<Label value="Röhre &lt;b&gt;"/>', ""))
    (answer,) = cats.predict([{"id": 8, "data": {"photo": "b.jpg"}}])
    assert {one["value"][kind.lower()][0] for one in answer["result"]} == {"cat"} and len(answer["result"]) == 4
