"""The export for Triton: config.pbtxt in Triton's own protobufs, labels, and what the graph computes."""

import contextlib
import http.server
import json
import pathlib
import types

import keras
import numpy as np
import pytest
from converter_models import assert_same, export_by_command, noise, small_model
from PIL import Image
from tiny import tiny_config
from web_servers import Quiet, answering

import keras_maskrcnn as km
from keras_maskrcnn.serving import triton
from keras_maskrcnn.serving.converting import describe

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install keras-maskrcnn[onnx]")


def graph():
    """The inputs and outputs of an ONNX file of three rows, with a name that needs quoting among them."""
    types_, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    outputs = [
        value("boxes", types_.FLOAT, ["batch", 3, 4]),
        value("scores", types_.FLOAT, ["batch", 3]),
        value("labels", types_.INT32, ["batch", 3]),
        value("masks", types_.FLOAT, ["batch", 3, 28, 28]),
        value("valid", types_.BOOL, ["batch", 3]),
        value("num_detections", types_.INT32, ["batch"]),
    ]
    images = value("images", types_.UINT8, ["batch", "height", "width", 3])
    return onnx.helper.make_graph([], "", [images], outputs)


def parsed(text):
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=(ImportError, RuntimeError))
    from google.protobuf import text_format

    return config_pb2, text_format.Parse(text, config_pb2.ModelConfig())


def test_the_config_is_one_of_tritons():
    names = ("nucleus", 'a "quoted" name', "Zürich\\n")
    model = types.SimpleNamespace(config=tiny_config(class_names=names), weights=[])
    config_pb2, config = parsed(triton.config_text(graph(), describe(model), 8))
    assert config.backend == "onnxruntime" and config.max_batch_size == 8 and config.HasField("dynamic_batching")
    (images,) = config.input
    assert (images.name, images.data_type, list(images.dims)) == ("images", config_pb2.TYPE_UINT8, [-1, -1, 3])
    shapes = {one.name: (config_pb2.DataType.Name(one.data_type), list(one.dims)) for one in config.output}
    assert shapes == {
        "boxes": ("TYPE_FP32", [3, 4]),
        "scores": ("TYPE_FP32", [3]),
        "labels": ("TYPE_INT32", [3]),
        "masks": ("TYPE_FP32", [3, 28, 28]),
        "valid": ("TYPE_BOOL", [3]),
        "num_detections": ("TYPE_INT32", [1]),
    }
    assert [one.name for one in config.output if one.HasField("reshape")] == ["num_detections"]
    assert list(config.output[5].reshape.shape) == []
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert json.loads(parameters["class_names"]) == list(names) and parameters["mask_pasting"] == "subpixel"
    assert parameters["score_threshold"] == "0.0" and "config" not in parameters


def test_wrong_arguments_are_refused_at_once(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("the only copy")
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"max_batch must be a whole number above 0. Received: {wrong}"):
            km.serving.export_triton(None, tmp_path / "new", max_batch=wrong)
    with pytest.raises(ValueError, match="must not exist.*mine.*overwrite=True"):
        km.serving.export_triton(None, tmp_path / "mine")
    with pytest.raises(ValueError, match="which contains config.pbtxt. Received: .*mine, without it"):
        km.serving.export_triton(None, tmp_path / "mine", overwrite=True)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="of the other backends")
def test_other_backends_name_the_command_that_converts(tmp_path):
    for name, options in {
        "savedmodel": (),
        "onnx": (),
        "openvino": (),
        "litert": ((9, 9),),
        "triton": (),
        "web": (),
    }.items():
        export = getattr(km.serving, {"savedmodel": "export_saved_model"}.get(name, f"export_{name}"))
        target, form = tmp_path / f"new.{name}", "" if name == "savedmodel" else f" --format {name}"
        with pytest.raises(
            ValueError, match="on the TensorFlow backend.*: backend (jax|torch). Save the model"
        ) as error:
            export(types.SimpleNamespace(config=tiny_config()), target, *options)
        command = f"KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras {target}{form}."
        assert str(error.value).replace("DIRECTORY", str(target)).endswith(command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_repository_holds_the_model(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model = small_model()
    folder = export_by_command(model, tmp_path / "nuclei", "--format", "triton", "--max-batch", "4")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.pbtxt", "labels.txt", "1/model.onnx"}
    assert (folder / "labels.txt").read_text() == "class 0\nclass 1\nclass 2\n"
    session = runtime.InferenceSession(str(folder / "1" / "model.onnx"))
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    assert [one.name for one in inputs] == ["images"]  # what a config with batches may have
    image = noise(96, 128)
    outputs = [one.name for one in session.get_outputs()]
    answer = dict(zip(outputs, session.run(outputs, {"images": image[None].repeat(2, axis=0)})))
    for row in range(2):
        assert_same(answer, row, km.Predictor(model)(image))
    found = client_of_the_documentation(session, folder, tmp_path)
    expected = km.Predictor(model)(image)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
    assert (found.masks == expected.masks).mean() > 0.999
    opened = km.serving.OnnxPredictor(folder / "1" / "model.onnx", score_threshold=0.38)
    np.testing.assert_allclose(opened(image).scores, found.scores[found.scores > 0.38], atol=2e-5)
    assert 0 < len(opened(image)) < len(found)
    with pytest.raises(ValueError, match="compute with the NMS threshold of the file, 0.5. Received: .*=0.1"):
        km.serving.OnnxPredictor(folder / "1" / "model.onnx", nms_threshold=0.1)
    _, config = parsed((folder / "config.pbtxt").read_text())
    assert config.max_batch_size == 4
    for one in config.output:
        shape = [] if one.HasField("reshape") else list(one.dims)
        assert answer[one.name].shape == (2, *shape) and np.prod(one.dims) > 0


def client_of_the_documentation(session, folder, scratch):
    """What the client in docs/serving.md finds in `noise(96, 128)`, of a server that runs the graph."""
    text = (pathlib.Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python")]
    (code,) = (block for block in blocks if "v2/models/nuclei/infer" in block)
    Image.fromarray(noise(96, 128)).save(scratch / "photo.png")
    with kserve(session) as address:
        code = code.replace("http://localhost:8000", address).replace("photo.jpg", str(scratch / "photo.png"))
        names = {}
        exec(code.replace("repository/nuclei", str(folder)), names)
    return names["found"]


@contextlib.contextmanager
def kserve(session):
    """Serve a graph by KServe's v2 protocol in JSON, as Triton does with the exported config. Gives the address."""
    kinds = {"float32": "FP32", "int32": "INT32", "bool": "BOOL"}

    class Handler(Quiet, http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            (asked,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            assert self.path == "/v2/models/nuclei/infer" and asked["datatype"] == "UINT8"
            images = np.array(asked["data"], np.uint8).reshape(asked["shape"])
            names = [one.name for one in session.get_outputs()]
            found = dict(zip(names, session.run(names, {asked["name"]: images})))
            found["num_detections"] = found["num_detections"][:, None]
            outputs = [
                {
                    "name": name,
                    "datatype": kinds[array.dtype.name],
                    "shape": array.shape,
                    "data": array.ravel().tolist(),
                }
                for name, array in found.items()
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_name": "nuclei", "model_version": "1", "outputs": outputs}).encode())

    with answering(Handler) as address:
        yield address
