"""int8 in ONNX graphs: which layers, how exactly, and what is refused. Graphs by hand, no conversion."""

import types

import numpy as np
import pytest
from tiny import tiny_config

from keras_maskrcnn import cli
from keras_maskrcnn.cli.export_int8 import calibrated, spread
from keras_maskrcnn.data import generate_shapes
from keras_maskrcnn.serving.quantizing import quantizable, quantize

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install keras-maskrcnn[onnx]")

CONFIG = types.SimpleNamespace(num_channels=3, image_dtype="uint8")


def hand_made():
    """Stem, a residual block, a layer of scores, and a head on some cells of the features.

    As in the exports: `scores` are a last layer (TopK follows), `features` feeds the head by a gather, and the masks
    are a product with weights that the graph itself chooses.
    """
    rng, make = np.random.default_rng(0), onnx.helper.make_node
    weights = {
        "w_stem": rng.normal(size=(8, 3, 3, 3)) * 0.02 * np.array([1, 8] * 4)[:, None, None, None],
        "b_stem": rng.normal(size=8),
        "w_block": rng.normal(size=(8, 8, 3, 3)) * 0.2,
        "w_scores": rng.normal(size=(1, 8, 1, 1)),
        "w_head": rng.normal(size=(8, 16)),
        "b_head": rng.normal(size=16),
        "w_masks": rng.normal(size=(4, 16, 2)),
    }
    tensors = [onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    whole = {"flat": [1, -1], "rows8": [-1, 8], "places_of_rois": [3, 40, 7], "five": [5], "first": 0}
    tensors += [onnx.numpy_helper.from_array(np.array(values, np.int64), name) for name, values in whole.items()]
    nodes = [
        make("Cast", ["images"], ["float"], "cast", to=1),
        make("Transpose", ["float"], ["pixels"], "to_nchw", perm=[0, 3, 1, 2]),
        make("Conv", ["pixels", "w_stem", "b_stem"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        make("Relu", ["stem"], ["stem_relu"], "stem_relu"),
        make("Conv", ["stem_relu", "w_block"], ["block"], "block", pads=[1, 1, 1, 1]),
        make("Add", ["block", "stem_relu"], ["sum"], "sum"),
        make("Relu", ["sum"], ["features"], "sum_relu"),
        make("Conv", ["features", "w_scores"], ["scores"], "scores"),
        make("Reshape", ["scores", "flat"], ["all"], "all"),
        make("TopK", ["all", "five"], ["best", "places"], "best"),
        make("Transpose", ["features"], ["nhwc"], "to_nhwc", perm=[0, 2, 3, 1]),
        make("Reshape", ["nhwc", "rows8"], ["cells"], "cells"),
        make("Gather", ["cells", "places_of_rois"], ["rois"], "rois", axis=0),
        make("MatMul", ["rois", "w_head"], ["hidden"], "head"),
        make("Add", ["hidden", "b_head"], ["biased"], "head_bias"),
        make("Gather", ["w_masks", "first"], ["chosen"], "chosen", axis=0),
        make("MatMul", ["biased", "chosen"], ["masks"], "masks"),
    ]
    value = onnx.helper.make_tensor_value_info
    inputs = [value("images", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])]
    for name in ("score_threshold", "nms_threshold", "max_detections"):
        inputs.append(value(name, onnx.TensorProto.INT32 if name[0] == "m" else onnx.TensorProto.FLOAT, []))
    outputs = [value("masks", onnx.TensorProto.FLOAT, None), value("best", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "hand made", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def images(count=4):
    """Images of different sizes, uint8."""
    return [np.random.default_rng(k).integers(0, 256, (16 + k, 20, 3), dtype=np.uint8) for k in range(count)]


def run(proto, image):
    """The outputs `masks` and `best` in onnxruntime."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(proto.SerializeToString())
    limits = {"score_threshold": np.float32(0), "nms_threshold": np.float32(0), "max_detections": np.int32(0)}
    return session.run(["masks", "best"], {"images": image[None]} | {k: np.array(v) for k, v in limits.items()})


def test_last_layers_decoding_and_biases_stay_in_float():
    names = {node.name for node in quantizable(hand_made().graph)}
    assert names == {"stem", "stem_relu", "block", "sum", "sum_relu", "head"}


def test_int8_computes_nearly_the_same():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    whole = hand_made()
    small = quantize(hand_made(), CONFIG, iter(images()))
    onnx.checker.check_model(small, full_check=True)
    assert {node.domain for node in small.graph.node} == {""}
    for image in images():
        for expected, found, most in zip(run(whole, image), run(small, image), (0.15, 0.05)):
            error = np.abs(found - expected).max() / np.abs(expected).max()
            assert 1e-4 < error < most  # in int8, and without overflow, which makes 0.2 of it


def test_weights_are_symmetric_in_seven_bits_with_a_scale_for_each_channel():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in quantize(hand_made(), CONFIG, images()).graph.initializer}
    expected = next(onnx.numpy_helper.to_array(t) for t in hand_made().graph.initializer if t.name == "w_stem")
    stored, scale = tensors["w_stem_quantized"], tensors["w_stem_scale"]
    assert stored.dtype == np.int8 and np.abs(stored).max() == 64 and scale.shape == (8,)
    assert not tensors["w_stem_zero_point"].any()
    np.testing.assert_allclose(scale, np.abs(expected).reshape(8, -1).max(1) / 64, rtol=1e-4)
    error = np.abs(stored * scale[:, None, None, None] - expected)
    assert (error <= 0.501 * scale[:, None, None, None]).all()
    assert tensors["w_scores"].dtype == np.float32 and tensors["w_head_scale"].shape == (16,)


def test_images_without_numbers_for_a_layer_are_refused():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(ValueError, match="int8 needs images.*Received: none"):
        quantize(hand_made(), CONFIG, [])
    with pytest.raises(ValueError, match="no-such-image.png"):
        quantize(hand_made(), CONFIG, ["no-such-image.png"])
    without = hand_made()
    (places,) = (tensor for tensor in without.graph.initializer if tensor.name == "places_of_rois")
    places.CopyFrom(onnx.numpy_helper.from_array(np.array([], np.int64), places.name))  # no boxes in any image
    with pytest.raises(
        ValueError, match="give every layer numbers.*Received images with which (hidden|rois) has none. C"
    ):
        quantize(without, CONFIG, images())


@pytest.mark.tensorflow
def test_an_export_in_int8_has_the_limits_and_says_what_it_is(tmp_path, monkeypatch):
    """Of the graph by hand instead of a converted model's."""
    from keras_maskrcnn.serving import onnx as writer

    monkeypatch.setattr(writer, "trace", lambda *given, dtype: types.SimpleNamespace(graph=None))
    monkeypatch.setattr(writer, "_convert", lambda graph, opset: hand_made())
    model = types.SimpleNamespace(config=tiny_config(score_threshold=0.25), weights=[])
    proto = onnx.load(writer.export_onnx(model, tmp_path / "int8.onnx", calibration=images()))
    assert {entry.key: entry.value for entry in proto.metadata_props}["weights"] == "int8"
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert (tensors["score_threshold"], tensors["max_detections"]) == (0.25, 10)
    assert tensors["w_stem_quantized"].dtype == np.int8 and tensors["w_scores"].dtype == np.float32


def test_calibration_images_are_evenly_spread():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7] and spread([1, 2], 4) == [1, 2]


def test_the_report_has_sizes_and_the_precision_of_both(tmp_path, capsys, monkeypatch):
    """Of given figures: test_openvino measures those of real exports."""
    truth = generate_shapes(tmp_path / "shapes", 3, 64, seed=0, max_shapes=2)
    (tmp_path / "model.onnx").write_bytes(bytes(2_000_000))
    names = ("circle", "square", "triangle")
    config = types.SimpleNamespace(class_names=names, category_ids=(1, 2, 3))
    model = types.SimpleNamespace(config=config, weights=[np.zeros((1000, 1000))] * 2)
    figures = {"before": {"segm_AP": 0.5, "segm_AP50": 0.75}, "after": {"segm_AP": 0.4875, "segm_AP50": 0.75}}
    monkeypatch.setattr("keras_maskrcnn.inference.predictor.Predictor", lambda model: "before")
    monkeypatch.setattr("keras_maskrcnn.scale.models.open_predictor", lambda path: "after")
    monkeypatch.setattr("keras_maskrcnn.evaluation.evaluate_coco", lambda side, dataset, verbose: figures[side])
    folder = tmp_path / "shapes"
    given = {"calibrate": str(folder / "images"), "calibration_images": 2, "val": str(folder)}
    args = types.SimpleNamespace(int8=True, **given, val_annotations=str(truth))
    with calibrated(args, model) as (images, report):
        assert [path.name for path in images] == sorted(path.name for path in (folder / "images").iterdir())[:2]
        report(tmp_path / "model.onnx")
    told = capsys.readouterr().out
    assert "calibration with 2 images" in told and "2.0 MB; weights in float32: 8.0 MB" in told
    assert "on 3 images of" in told
    rows = [line.split() for line in told.splitlines() if line.startswith("segm_")]
    assert rows == [["segm_AP", "0.5000", "0.4875", "-0.0125"], ["segm_AP50", "0.7500", "0.7500", "+0.0000"]]
    with calibrated(types.SimpleNamespace(**vars(args) | {"val": None}), model) as (_, report):  # sizes alone
        report(tmp_path / "model.onnx")
    assert capsys.readouterr().out.splitlines()[-1] == "2.0 MB; weights in float32: 8.0 MB"
    with calibrated(types.SimpleNamespace(int8=False), model) as (images, report):
        assert images is None and report(tmp_path) is None


@pytest.mark.parametrize(
    "options, told",
    [
        (["--int8"], "--int8 --calibrate IMAGES. Received: no --calibrate. Add --calibrate"),
        (["--calibrate", "photos"], "Received: no --int8. Add --int8"),
        (["--val", "bowl"], "--val goes with --int8. Received: --val alone"),
        (["--int8", "--calibrate", "photos", "--val-annotations", "a.json"], "--val-annotations goes with --val"),
        (["--int8", "--calibrate", "photos", "--fp16"], "int8 or float16, not both. Received: --int8 --fp16"),
        (["--version", "3"], "--version is an option of --format savedmodel. Received: --format onnx"),
    ],
)
def test_options_that_do_not_go_together(options, told, capsys, tmp_path):
    command = ["export", str(tmp_path / "model.keras"), str(tmp_path / "model.onnx"), "--format", "onnx"]
    assert cli.main([*command, *options]) == cli.MISTAKE
    assert told in " ".join(capsys.readouterr().err.split())
