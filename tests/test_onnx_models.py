"""One .onnx file beside its model, in onnxruntime and OpenVINO: architectures, channels, real images, batches.

Boxes within 0.01 px, scores within 1e-4, 99.9 % of the pixels of the masks.
"""

import numpy as np
import pytest
from tiny import scatter_weights, tiny_config
from torchvision_golden import golden_model

import keras_maskrcnn as km

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

NUM_IMAGES = 12


def resnet18():
    """ResNet-18 of three classes, with some image that it finds nothing in (see the threshold).

    Its boxes move by some per cent, as those of trained models do: deltas of 1 multiply rounding errors by the box.
    """
    model = scatter_weights(km.maskrcnn_resnet18_fpn(3, min_size=192, max_size=256, score_threshold=0.37))
    for kernel in (model.rpn.deltas.kernel, model.box_head.deltas.kernel):
        kernel.assign(kernel * 0.1)
    return model


def five_channels():
    """A model of float32 images of five channels."""
    means = tuple(float(0.1 * k) for k in range(5))
    config = tiny_config(pixel_mean=means, pixel_std=(0.3,) * 5, image_dtype="float32", image_scale=0.4)
    return scatter_weights(km.MaskRCNN(config))


MODELS = {
    "v1": lambda: golden_model("v1"),
    "v2": lambda: golden_model("v2"),
    "resnet18": resnet18,
    "five channels": five_channels,
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A model and its file."""
    for package in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install keras-maskrcnn[onnx]")
    model = MODELS[request.param]()
    return model, km.export_onnx(model, tmp_path_factory.mktemp("models") / "model.onnx")


@pytest.fixture(scope="module")
def images(shared_data):
    """Real images of different sizes."""
    paths = sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))
    sizes, chosen = set(), []
    for image in map(km.data.read_image, paths):
        if image.shape not in sizes and len(chosen) < NUM_IMAGES:
            sizes.add(image.shape)
            chosen.append(image)
    assert len(chosen) == NUM_IMAGES
    return chosen


def as_model_takes(image, config):
    """An RGB image in the channels and range of a model."""
    if config.num_channels == 3:
        return image
    return np.concatenate([image, image[..., :2] // 2], axis=-1).astype(np.float32) / 255


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_file_finds_what_its_model_finds(pair, images, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    model, path = pair
    theirs, ours = km.Predictor(path, runtime=runtime), km.Predictor(model)
    found_any = 0
    for image in images:
        image = as_model_takes(image, model.config)
        expected = ours(image)
        assert_same(theirs(image), expected)
        found_any += len(expected) > 0
    assert found_any >= NUM_IMAGES // 2


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_batch_of_three(pair, images, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    model, path = pair
    height, width = np.min([image.shape[:2] for image in images[:3]], axis=0)
    batch = [as_model_takes(image[:height, :width], model.config) for image in images[:3]]
    theirs, ours = km.Predictor(path, runtime=runtime), km.Predictor(model)
    for image, answer in zip(batch, theirs.stream(batch, batch_size=3)):
        assert_same(answer.result, ours(image))


def assert_same(found, expected):
    """Compare FoundInstances. Detections of nearly equal scores may change places.

    So may two that overlap, of which NMS keeps the better one: one such pair an image.
    """
    assert len(found) == len(expected)
    if not len(found):
        return
    apart = np.abs(expected.boxes[:, None] - found.boxes[None]).max(-1)
    apart[expected.labels[:, None] != found.labels[None]] = np.inf
    rows = np.flatnonzero(apart.min(1) < 0.5)
    places = apart[rows].argmin(1)
    assert len(set(places)) == len(places) >= len(found) - 1
    np.testing.assert_allclose(found.boxes[places], expected.boxes[rows], atol=0.01)
    np.testing.assert_allclose(found.scores[places], expected.scores[rows], atol=1e-4)
    assert (found.masks[places] == expected.masks[rows]).mean() >= 0.999
    for row in set(range(len(expected))) - set(rows):
        (place,) = set(range(len(found))) - set(places)
        assert found.labels[place] == expected.labels[row]
        assert found.scores[place] == pytest.approx(expected.scores[row], abs=1e-4)
        assert iou(found.boxes[place], expected.boxes[row]) > expected.config.nms_threshold


def iou(one, other):
    """Of two boxes [x1, y1, x2, y2]."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = np.prod(np.maximum(sides, 0))
    return common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common)
