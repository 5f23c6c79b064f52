"""The .onnx file in onnxruntime: the same detections as the model, for any size and batch; nothing half-written."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
from converter_models import assert_same, export_by_command, noise, small_model
from PIL import Image
from tiny import in_place_of

import keras_maskrcnn as km
from keras_maskrcnn import cli

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
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of inputs that have defaults
    session = runtime.InferenceSession(str(export), quiet)
    return lambda images, **given: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images} | given)))


# Upright, lying, not resized; resized both ways; full of detections and without any.
@pytest.mark.parametrize("size, count", [((96, 128), 10), ((100, 130), 6), ((64, 200), 4), ((300, 40), 0)], ids=str)
def test_onnxruntime_finds_what_the_predictor_finds(model, run, size, count):
    image = noise(*size)
    found = km.Predictor(model)(image)
    assert len(found) == count
    assert_same(run(image[None]), 0, found)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_is_answered_as_its_images_alone(run, count):
    images = np.stack([noise(90, 90, seed) for seed in range(count)])
    together, alone = run(images), [run(image[None]) for image in images]
    assert together["num_detections"].sum() > 0
    for name in OUTPUTS:
        np.testing.assert_allclose(together[name], np.concatenate([each[name] for each in alone]), atol=1e-5)


@pytest.mark.parametrize("name, value", [("score_threshold", 0.4), ("nms_threshold", 0.1), ("max_detections", 3)])
def test_limits_are_inputs_that_need_not_be_given(model, run, name, value):
    images = np.stack([noise(96, 128, seed) for seed in range(2)])
    given = run(images, **{name: np.array(value, "int32" if name == "max_detections" else "float32")})
    other = dataclasses.replace(model.config, **{name: value})
    for row, image in enumerate(images):
        with in_place_of(model, other):
            found = km.Predictor(model)(image)
        assert 0 < len(found) < run(images)["num_detections"][row]
        padded = {key: array[:, : max(len(found), 1)] for key, array in given.items() if array.ndim > 1}
        assert_same(padded | {"num_detections": given["num_detections"]}, row, found)
    for wrong in (-1, 1000) if name == "max_detections" else (-1,):
        same = run(images, **{name: np.array(wrong, "int32" if name == "max_detections" else "float32")})
        np.testing.assert_array_equal(same["scores"], run(images)["scores"])


def test_real_images(model, run, shared_data):
    for path in sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[:3]:
        image = km.data.read_image(path)
        assert_same(run(image[None]), 0, km.Predictor(model)(image), boxes=2e-2)


# Operators of ONNX 17 without bodies (Loop, If, Scan), which not every runtime has.
OPERATORS = """Add And AveragePool Cast Concat ConstantOfShape Conv Div Equal Exp Expand Floor Gather GatherND Greater
GreaterOrEqual IsInf IsNaN Less LessOrEqual Log MatMul Max Min Mul NonMaxSuppression NonZero Not Or Pad Range ReduceMax
ReduceProd ReduceSum Relu Reshape Resize RoiAlign ScatterND Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tile TopK
Transpose Unsqueeze Where""".split()


def test_the_file_says_what_it_is(model, export):
    import onnx

    proto = onnx.load(export)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]
    assert {node.op_type for node in proto.graph.node} == set(OPERATORS)
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["batch", "height", "width", 3]
    defaults = {each.name: onnx.numpy_helper.to_array(each).item() for each in proto.graph.initializer if not each.dims}
    for name in ("score_threshold", "nms_threshold", "max_detections"):
        assert defaults[name] == pytest.approx(getattr(model.config, name))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["class_names"] == '["class 0", "class 1", "class 2"]' and len(properties["fingerprint"]) == 64
    assert properties["score_threshold"] == "0.37" and properties["max_detections"] == "10"


def test_no_transpose_undoes_another(export):
    import onnx

    graph = onnx.load(export).graph
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.attribute}
    pairs = [(makers[node.input[0]], node) for node in makers.values() if node.input[0] in makers]
    assert not [b.name for a, b in pairs if [a.attribute[0].ints[axis] for axis in b.attribute[0].ints] == [0, 1, 2, 3]]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert set(makers) <= used


def test_openvino_finds_the_same(run, export):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install keras-maskrcnn[openvino]")
    compiled = openvino.Core().compile_model(str(export), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else bfloat16
    for size, count in (((96, 128), 1), ((100, 130), 2), ((64, 200), 5), ((300, 40), 2)):
        images = np.stack([noise(*size, seed) for seed in range(count)])
        expected, found = run(images), compiled({"images": images})
        np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
        for name in ("scores", "labels", "masks", "valid"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_predictor_of_the_file_finds_what_the_models_finds(model, export, tmp_path, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    predictor, ours = km.serving.OnnxPredictor(export, runtime=runtime), km.Predictor(model)
    assert predictor.config == model.config
    images = [noise(96, 128), noise(300, 40), noise(96, 128, seed=1)]
    for image, answer in zip(images, predictor.stream(images, batch_size=2)):
        found, expected = answer.result, ours(image)
        assert len(found) == len(expected) and found.class_names == expected.class_names
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-5)
        assert found.masks.shape == expected.masks.shape == (len(found), *image.shape[:2])
        assert (found.masks == expected.masks).mean() > 0.999 if len(found) else True
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    np.testing.assert_allclose(predictor(tmp_path / "photo.png").boxes, ours(images[0]).boxes, atol=2e-3)


def test_a_folder_for_triton_has_the_limits_in_the_graph(model, export, run, tmp_path, monkeypatch):
    """The conversion is the one above, read back; the command does the rest."""
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    monkeypatch.setattr("keras_maskrcnn.serving.onnx.make_onnx", lambda *given: onnx.load(export))
    folder = export_by_command(model, tmp_path / "nuclei", "--format", "triton", "--max-batch", "4")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.pbtxt", "labels.txt", "1/model.onnx"}
    assert (folder / "labels.txt").read_text() == "class 0\nclass 1\nclass 2\n"
    config = (folder / "config.pbtxt").read_text()
    assert config.startswith('backend: "onnxruntime"\nmax_batch_size: 4\n') and config.count("\ninput {") == 1
    session = runtime.InferenceSession(str(folder / "1" / "model.onnx"))
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    assert [one.name for one in inputs] == ["images"]  # what a config with batches may have
    image = noise(96, 128)
    for name, found in zip(OUTPUTS, session.run(list(OUTPUTS), {"images": image[None]})):
        np.testing.assert_array_equal(found, run(image[None])[name])

    # A predictor drops scores afterwards; what else is in the graph stays.
    opened = km.serving.OnnxPredictor(folder / "1" / "model.onnx", score_threshold=0.38)
    found, whole = opened(image), km.serving.OnnxPredictor(export)(image)
    kept = whole.scores > 0.38
    assert 0 < len(found) < len(whole)
    np.testing.assert_array_equal(found.boxes, whole.boxes[kept])
    with pytest.raises(ValueError, match="onnxruntime with a file for Triton, .* of the file, 0.5. Received: .*=0.1"):
        km.serving.OnnxPredictor(folder / "1" / "model.onnx", nms_threshold=0.1)
    with pytest.raises(ValueError, match="between the model's own, 0.37, and 1. Received: 0.2"):
        km.serving.OnnxPredictor(folder / "1" / "model.onnx", score_threshold=0.2)


@pytest.mark.slow  # a second conversion
def test_float16_and_another_operator_set(model, run, tmp_path):
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    path = km.export_onnx(model, tmp_path / "half.onnx", dtype="float16", opset=18)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 18)]
    constants = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    layers = [node for node in proto.graph.node if node.op_type in ("Conv", "MatMul") and node.input[1] in constants]
    half = {node.name for node in layers if constants[node.input[1]] == onnx.TensorProto.FLOAT16}
    for part in ("fpn_1/", "rpn_1/conv1", "box_head_1/fc1", "box_head_1/fc2", "mask_head_1/"):
        names = {node.name for node in layers if part in node.name}
        assert names and names <= half, part
    for part in ("rpn_1/BiasAdd", "box_head_1/classes", "box_head_1/deltas"):  # what boxes and scores are made of
        assert not [name for name in half if part in name], part
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3
    session = runtime.InferenceSession(str(path), quiet)
    images = np.stack([noise(96, 128, seed) for seed in range(2)])
    found, expected = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}))), run(images)
    for row in range(2):  # scores lie close together, so some detections change places or leave
        apart = np.abs(found["boxes"][row][:, None] - expected["boxes"][row][None]).max(-1)
        near = apart.min(0) < 0.5
        assert near.mean() >= 0.7
        scores = found["scores"][row][apart.argmin(0)]
        np.testing.assert_allclose(scores[near], expected["scores"][row][near], atol=2e-3)
    assert {entry.key: entry.value for entry in proto.metadata_props}["weights"] == "float16"


def test_thresholds_of_the_predictor_are_those_of_the_graph(model, export):
    pytest.importorskip("onnxruntime")
    image = noise(96, 128)
    with in_place_of(model, dataclasses.replace(model.config, score_threshold=0.38, nms_threshold=0.1)):
        expected = km.Predictor(model)(image)
    found = km.serving.OnnxPredictor(export, score_threshold=0.38, nms_threshold=0.1)(image)
    assert 0 < len(found) == len(expected) < 10
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-5)


def test_tiles_and_the_command_line(model, export, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    image = noise(200, 200)
    found, expected = km.serving.OnnxPredictor(export, tile=96)(image), km.Predictor(model, tile=96)(image)
    assert type(found) is type(expected) and 0 < len(found) == len(expected)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
    Image.fromarray(image).save(tmp_path / "photo.png")
    for given in (["--engine", "onnxruntime"], []):
        command = ["predict", str(export), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
        assert cli.main([*command, "--score", "0", "--tile", "96", *given]) == cli.SUCCESS
        results = json.loads((tmp_path / "out" / "detections.json").read_text())
        np.testing.assert_allclose([each["score"] for each in results], expected.scores, atol=2e-5)
    assert cli.main(["predict", str(tmp_path), str(tmp_path), "--engine", "openvino"]) == cli.MISTAKE
    told = capsys.readouterr().err
    assert f"--engine openvino runs .onnx files and exports for OpenVINO. Received: {tmp_path}. Make one: " in told
    command += ["--engine", "onnxruntime", "--provider", "TPU"]
    assert cli.main(command) == cli.MISTAKE
    assert "--provider must be one of" in capsys.readouterr().err


def test_what_the_predictor_refuses(export, tmp_path):
    onnx = pytest.importorskip("onnx")
    opened = km.serving.OnnxPredictor
    with pytest.raises(ValueError, match="score_threshold=... must lie between .* 0, and 1. Received: 50"):
        opened(export, score_threshold=50)
    with pytest.raises(ValueError, match="runtime must be one of .*'onnxruntime', 'openvino'.*'tensorrt'"):
        opened(export, runtime="tensorrt")
    with pytest.raises(ValueError, match="must exist. Received: .*none.onnx"):
        opened(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="that this package wrote.*text.onnx.*export MODEL"):
        opened(tmp_path / "text.onnx")
    proto = onnx.load(export)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="that this package wrote.*other.onnx .*config"):
        opened(tmp_path / "other.onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="device=... must be .*'CPU'.*Received: 'CUDA'. pip install onnxruntime-gpu"):
        opened(export, device="CUDA")
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match="NMS threshold of the file, 0.5. Received: nms_threshold=0.3. Use an .onnx"):
        opened(export, nms_threshold=0.3, runtime="openvino")
    with pytest.raises(ValueError, match="must lie between the model's own, 0.37, and 1. Received: 0.2"):
        opened(export, score_threshold=0.2, runtime="openvino")
    with pytest.raises(ValueError, match="device=... must be one of .*'AUTO'.* Received: 'TPU'"):
        opened(export, runtime="openvino", device="TPU")


@pytest.mark.parametrize("name", ["saved_model", "onnx", "openvino", "litert", "triton", "web"])
def test_rules_of_other_programs_are_refused_before_the_conversion(tmp_path, name):
    for config, received, ours in (
        (
            km.MaskRCNNConfig.matterport("resnet50", 3),
            "resize='skimage', canvas='square', size_rule='square', mask_pasting='matterport'",
            "resize='bilinear', canvas='tight', size_rule='floor', mask_pasting='subpixel'",
        ),
        (km.MaskRCNNConfig.detectron2(num_classes=3), "resize='pillow', size_rule='round'", "resize='bilinear', size_"),
        (km.MaskRCNNConfig.tensorpack(num_classes=3), "resize='opencv', box_scaling='mean'", "box_scaling='sides'"),
    ):
        with pytest.raises(ValueError, match="Exported models resize by the rules 'bilinear' and") as error:
            getattr(km.serving, f"export_{name}")(
                types.SimpleNamespace(config=config), tmp_path / "new", *([(9, 9)] if name == "litert" else [])
            )
        told, remedy = str(error.value).split(" If numbers may differ, ")
        assert f"Received a model with {received}" in told and ours in remedy
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_at_once(model, tmp_path, monkeypatch):
    there = tmp_path / "model.onnx"
    there.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        km.export_onnx(model, there)
    with pytest.raises(ValueError, match=r"must end in \.onnx.*model\.pb"):
        km.export_onnx(model, tmp_path / "model.pb")
    with pytest.raises(ValueError, match="input_dtype must be one of.*int8"):
        km.export_onnx(model, tmp_path / "new.onnx", input_dtype="int8")
    for opset in (16, 99, 17.0, True):
        with pytest.raises(ValueError, match=rf"opset=... must be a whole number in 17\.\.\d+: .*Received: {opset}"):
            km.export_onnx(model, tmp_path / "new.onnx", opset=opset)
    with pytest.raises(ValueError, match="dtype must be one of .*'float16'.*Received: 'bfloat16'"):
        km.export_onnx(model, tmp_path / "new.onnx", dtype="bfloat16")
    with pytest.raises(ValueError, match="int8 or float16, not both. Received: calibration=... and dtype"):
        km.export_onnx(model, tmp_path / "new.onnx", dtype="float16", calibration=[noise(9, 9)])
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    pytest.importorskip("onnx")
    with pytest.raises(ImportError, match=r"tf2onnx.*pip install .keras-maskrcnn\[onnx\]"):
        km.export_onnx(model, tmp_path / "new.onnx")
    assert there.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
