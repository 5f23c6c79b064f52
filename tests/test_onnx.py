"""The .onnx file in onnxruntime: the same detections as the model, for any size and batch; nothing half-written."""

import sys

import numpy as np
import pytest
from converter_models import assert_same, export_by_command, noise, small_model

import keras_maskrcnn as km

pytestmark = pytest.mark.tensorflow

OUTPUTS = ("boxes", "scores", "labels", "masks", "valid", "num_detections")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    for package in ("tf2onnx", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install keras-maskrcnn[onnx]")
    return export_by_command(model, tmp_path_factory.mktemp("onnx") / "model.onnx", "--format", "onnx")


@pytest.fixture(scope="module")
def run(export):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(str(export))
    return lambda images: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images})))


# Upright, lying, not resized; resized both ways; full of detections and without any.
@pytest.mark.parametrize("size, count", [((96, 128), 10), ((100, 130), 6), ((64, 200), 4), ((300, 40), 0)], ids=str)
def test_onnxruntime_finds_what_the_predictor_finds(model, run, size, count):
    image = noise(*size)
    found = km.Predictor(model)(image)
    assert len(found) == count
    assert_same(run(image[None]), 0, found)


def test_a_batch_is_answered_as_its_images_alone(run):
    images = np.stack([noise(90, 90, seed) for seed in range(3)])
    together, alone = run(images), [run(image[None]) for image in images]
    assert together["num_detections"].sum() > 0
    for name in OUTPUTS:
        np.testing.assert_allclose(together[name], np.concatenate([each[name] for each in alone]), atol=1e-5)


def test_real_images(model, run, shared_data):
    for path in sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[:3]:
        image = km.data.read_image(path)
        assert_same(run(image[None]), 0, km.Predictor(model)(image), boxes=2e-2)


def test_the_file_says_what_it_is(model, export):
    import onnx

    proto = onnx.load(export)
    assert {opset.domain for opset in proto.opset_import} <= {"", "ai.onnx.ml"}
    names = {node.op_type for node in proto.graph.node}
    assert {"Conv", "TopK", "Loop"} <= names
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["batch", "height", "width", 3]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["class_names"] == '["class 0", "class 1", "class 2"]' and len(properties["fingerprint"]) == 64


def test_what_cannot_be_written_is_refused_at_once(model, tmp_path, monkeypatch):
    there = tmp_path / "model.onnx"
    there.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        km.export_onnx(model, there)
    with pytest.raises(ValueError, match=r"must end in \.onnx.*model\.pb"):
        km.export_onnx(model, tmp_path / "model.pb")
    with pytest.raises(ValueError, match="input_dtype must be one of.*int8"):
        km.export_onnx(model, tmp_path / "new.onnx", input_dtype="int8")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    pytest.importorskip("onnx")
    with pytest.raises(ImportError, match=r"tf2onnx.*pip install .keras-maskrcnn\[onnx\]"):
        km.export_onnx(model, tmp_path / "new.onnx")
    assert there.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
