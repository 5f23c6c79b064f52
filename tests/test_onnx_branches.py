"""Models with keypoints or PointRend as .onnx and .tflite files: what the Predictor finds, by standard operators."""

import numpy as np
import pytest
from converter_models import noise, small_model

import keras_maskrcnn as km
from keras_maskrcnn.branches import KeypointBranch, PointRendMask

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

SIZES = ((96, 128), (100, 130), (64, 200), (150, 210))
BRANCHES = {
    "keypoints": ("mask", KeypointBranch(["nose", "left_ear", "right_ear"], channels=16, num_convs=2)),
    "pointrend": (PointRendMask(coarse_features=24, channels=16, steps=4, step_points=200),),
}
LOOPS = {"Loop", "If", "Scan"}  # operators with bodies, which not every runtime has


@pytest.fixture(scope="module", params=BRANCHES)
def model(request):
    return small_model(branches=BRANCHES[request.param], score_threshold=0.3)


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory):
    for package in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install keras-maskrcnn[onnx]")
    return km.export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


def assert_same(found, expected):
    """Compare FoundInstances, row by row."""
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.masks == expected.masks).mean() >= 0.999
    if hasattr(expected, "keypoints"):
        np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, atol=1e-3)
        near = np.abs(found.keypoints - expected.keypoints).max(axis=-1) < 0.05
        # The heatmap of a box of a few pixels has equal samples: its score is that of either place.
        sides = (expected.boxes[:, 2:] - expected.boxes[:, :2]).min(axis=1)
        assert near[sides > 8].all() and near.mean() > 0.9
        assert found.keypoints[..., :2].std(axis=1).mean() > 0.5


def test_onnxruntime_finds_what_the_predictor_finds(model, onnx_file):
    theirs, ours = km.Predictor(onnx_file), km.Predictor(model)
    for size in SIZES:
        assert_same(theirs(noise(*size)), ours(noise(*size)))
    images = [noise(90, 110, seed) for seed in range(3)]
    for image, answer in zip(images, theirs.stream(images, batch_size=3), strict=True):
        assert_same(answer.result, ours(image))


def test_the_operators_are_standard_ones(onnx_file):
    import onnx

    proto = onnx.load(onnx_file)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]
    kinds = {node.op_type for node in proto.graph.node}
    assert not kinds & LOOPS and {"TopK", "Conv"} <= kinds


def test_the_litert_interpreter_finds_the_same(model, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    path = km.export_litert(model, tmp_path / "model.tflite", SIZES[1])
    assert b"Flex" not in path.read_bytes()
    theirs, ours = km.Predictor(path), km.Predictor(model)
    for seed in range(2):
        assert_same(theirs(noise(*SIZES[1], seed)), ours(noise(*SIZES[1], seed)))
