"""The export for OpenVINO: it finds what the model finds, says how it computes, and replaces nothing of others."""

import json
import sys

import numpy as np
import pytest
from converter_models import FIXED, export_by_command, fixed_graph, noise, small_model
from PIL import Image
from test_int8 import hand_made

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.scale.models import check_options, digest_of, open_predictor, read_fields
from keras_maskrcnn.serving import openvino as writer
from keras_maskrcnn.serving.openvino_predictor import compiled

pytestmark = pytest.mark.tensorflow

openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install keras-maskrcnn[openvino]")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install keras-maskrcnn[onnx]")
    return export_by_command(model, tmp_path_factory.mktemp("exports") / "openvino", "--format", "openvino")


def facts(folder):
    """The metadata of an export."""
    graph = openvino.Core().read_model(folder / "model.xml")
    names = ("class_names", "computed_in", "fingerprint", "score_threshold", "weights")
    return {name: graph.get_rt_info(["framework", name]).astype(str) for name in names}


def assert_same(found, expected):
    assert len(found) == len(expected) and found.class_names == expected.class_names
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert found.masks.shape == expected.masks.shape
    assert (found.masks == expected.masks).mean() >= 0.999 if len(found) else True


@pytest.mark.slow  # OpenVINO compiles for seconds
def test_the_folder_holds_two_files_and_says_what_it_is(model, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.xml"]
    told = facts(folder)
    assert told["class_names"] == '["class 0", "class 1", "class 2"]' and len(told["fingerprint"]) == 64
    assert (told["score_threshold"], told["weights"], told["computed_in"]) == ("0.37", "float32", "float32")
    assert read_fields(folder) == model.config and len(digest_of(folder)) == 64
    with pytest.raises(ValueError, match="between the model's own, 0.37, and 1. Received: 0.3"):
        check_options(folder, 0.3)


@pytest.mark.slow  # OpenVINO compiles for seconds
def test_a_predictor_of_the_folder_finds_what_the_models_finds(model, folder, tmp_path):
    theirs, ours = km.Predictor(folder), km.Predictor(model)
    assert isinstance(theirs, km.serving.OpenVinoPredictor) and theirs.config == model.config
    images = [noise(96, 128), noise(300, 40), noise(96, 128, seed=1)]
    counts = []
    for image, answer in zip(images, theirs.stream(images, batch_size=2)):
        assert_same(answer.result, ours(image))
        counts.append(len(answer.result))
    assert counts[1] == 0 < counts[0]
    assert 0 < len(km.Predictor(folder, 0.39)(images[0])) == len(km.Predictor(model, 0.39)(images[0])) < counts[0]
    large = noise(300, 300)
    found, expected = km.Predictor(folder, tile=96)(large), km.Predictor(model, tile=96)(large)
    assert type(found) is type(expected) and 0 < len(found) == len(expected)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)


@pytest.mark.slow  # OpenVINO compiles for seconds
def test_the_command_line_and_a_keras_file_by_its_path(model, folder, tmp_path, capsys):
    Image.fromarray(noise(96, 128)).save(tmp_path / "photo.png")
    model.save(tmp_path / "model.keras")
    kept = km.Predictor(tmp_path / "model.keras", 0.39)
    assert type(kept) is km.Predictor and kept.score_threshold == 0.39
    expected = kept(tmp_path / "photo.png")
    for given in (["--engine", "openvino", "--device", "CPU"], []):
        command = ["predict", str(folder), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
        assert cli.main([*command, "--score", "0.39", *given]) == cli.SUCCESS
        results = json.loads((tmp_path / "out" / "detections.json").read_text())
        assert len(results) == len(expected) > 0
        np.testing.assert_allclose([each["score"] for each in results], expected.scores, atol=1e-4)
    assert cli.main([*command, "--engine", "openvino", "--score", "0.39", "--device", "TPU"]) == cli.MISTAKE
    assert "--device must be one of ['CPU'" in capsys.readouterr().err
    assert cli.main([*command, "--engine", "onnxruntime"]) == cli.MISTAKE
    assert f"--engine onnxruntime runs .onnx files. Received: {folder}." in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_what_an_option_changes(model, tmp_path, monkeypatch, dtype):
    """Without the conversion, which is the same for all."""

    def proto(model, input_dtype, calibration=None, **described):
        made = hand_made()
        facts = {"class_names": "[]", "fingerprint": "", "score_threshold": "0", "weights": ""}
        writer.need("onnx", "onnx").helper.set_model_props(made, facts | described)
        return made

    monkeypatch.setattr(writer, "make_onnx", proto)
    written = km.export_openvino(model, tmp_path / "export", dtype=dtype)
    assert facts(written)["computed_in"] == ("bfloat16" if dtype == "bfloat16" else "float32")
    kinds = {
        node.get_element_type()
        for node in openvino.Core().read_model(written / "model.xml").get_ops()
        if node.get_type_name() == "Constant" and node.get_output_size() and len(node.shape) == 4
    }
    assert kinds == {openvino.Type.f16 if dtype == "float16" else openvino.Type.f32}


class Core:
    """Takes note of what is compiled how."""

    available_devices = ("CPU", "GPU.0")

    def compile_model(self, *arguments):
        self.asked = arguments
        return type("Program", (), {"outputs": ()})()


def test_the_precision_is_always_given():
    core = Core()
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        compiled(core, "graph", "GPU", precision)
        assert core.asked == ("graph", "GPU", {"INFERENCE_PRECISION_HINT": hint})


def test_a_folder_opens_as_a_predictor_with_the_thresholds_that_it_has(model, tmp_path, monkeypatch, capsys):
    """Of a graph that finds the same in every image; what real ones find is measured above."""
    monkeypatch.setattr(writer, "make_onnx", lambda model, dtype, calibration, **more: fixed_graph(model, **more))
    folder = export_by_command(model, tmp_path / "fixed", "--format", "openvino", "--bfloat16")
    assert f"wrote {folder}; run it with keras-maskrcnn predict {folder} IMAGES" in capsys.readouterr().out
    assert read_fields(folder) == model.config and facts(folder)["computed_in"] == "bfloat16"
    for opened, count in ((km.Predictor(folder), 3), (km.Predictor(folder, 0.45), 2), (open_predictor(folder, 0.9), 0)):
        assert isinstance(opened, km.serving.OpenVinoPredictor) and opened.config == model.config
        images = [noise(50, 60), noise(50, 60, seed=1), noise(90, 40)]
        for image, answer in zip(images, opened.stream(images, batch_size=2), strict=True):
            for name, values in FIXED.items():
                np.testing.assert_array_equal(getattr(answer.result, name), np.array(values)[:count])
            assert answer.result.masks.shape == (count, *image.shape[:2])
    with pytest.raises(ValueError, match="NMS threshold of the file, 0.5. Received: nms_threshold=0.3"):
        km.Predictor(folder, nms_threshold=0.3)
    with pytest.raises(ValueError, match="between the model's own, 0.37, and 1. Received: 0.1"):
        km.Predictor(folder, 0.1)


def test_what_is_refused(model, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="MaskRCNN, and options of an export only with its path.*'device': 'GPU'"):
        km.Predictor(model, device="GPU")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.xml").write_text("<net/>")
    with pytest.raises(ValueError, match="that this package wrote for OpenVINO.*other.*export MODEL .*openvino --over"):
        km.Predictor(other)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="must not exist.*photos"):
        km.export_openvino(model, tmp_path / "photos")
    with pytest.raises(ValueError, match="overwrite=True replaces a folder of such an export.*model.xml"):
        km.export_openvino(model, tmp_path / "photos", overwrite=True)
    with pytest.raises(ValueError, match="dtype must be one of .*'bfloat16'.*Received: 'int8'"):
        km.export_openvino(model, tmp_path / "new", dtype="int8")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"openvino.*pip install .keras-maskrcnn\[openvino\]"):
        km.export_openvino(model, tmp_path / "new")
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"mine" and not (tmp_path / "new").exists()


@pytest.mark.slow  # trains nothing, but converts twice and measures two models
def test_int8_by_the_command_line_with_a_report(model, tmp_path, capsys):
    train = km.data.generate_shapes(tmp_path / "shapes", 4, 96, seed=0, max_shapes=2)
    model.save(tmp_path / "model.keras")
    for form in ("onnx", "openvino"):
        target = tmp_path / ("int8.onnx" if form == "onnx" else "int8")
        command = ["export", str(tmp_path / "model.keras"), str(target), "--format", form, "--int8", "--calibrate"]
        command += [str(tmp_path / "shapes" / "images"), "--calibration-images", "3"]
        assert cli.main([*command, "--val", str(tmp_path / "shapes"), "--val-annotations", str(train)]) == cli.SUCCESS
        told = capsys.readouterr().out
        assert "calibration with 3 images" in told and "weights in float32" in told
        (row,) = [line.split() for line in told.splitlines() if line.startswith("segm_AP ")]
        before, after, change = map(float, row[1:])
        assert abs(after - before - change) < 1e-3
        found = km.Predictor(target)(noise(96, 128))
        assert len(found) > 0 and np.isfinite(found.boxes).all()
