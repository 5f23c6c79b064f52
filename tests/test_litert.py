"""The .tflite file in the LiteRT interpreter: the same detections as the model, with built-in operators alone."""

import numpy as np
import pytest
from converter_models import assert_same, export_by_command, noise, small_model

import keras_maskrcnn as km

pytestmark = pytest.mark.tensorflow

SIZE = (100, 130)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    target = tmp_path_factory.mktemp("litert") / "model.tflite"
    return export_by_command(model, target, "--format", "litert", "--image-size", *map(str, SIZE))


def signature(path):
    runtime = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    return runtime.Interpreter(str(path)).get_signature_runner("serving_default")


def test_the_interpreter_finds_what_the_predictor_finds(model, export):
    run, counts = signature(export), []
    flat = np.full((*SIZE, 3), 120, np.uint8)
    for image in (noise(*SIZE), flat, noise(*SIZE, seed=1)):
        found = km.Predictor(model)(image)
        assert_same(run(images=image[None]), 0, found)
        counts.append(len(found))
    assert counts[1] == 0 and counts[0] == 6


def test_real_images(model, export, shared_data):
    run = signature(export)
    for path in sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[:3]:
        image = km.data.read_image(path)[: SIZE[0], : SIZE[1]]
        assert_same(run(images=image[None]), 0, km.Predictor(model)(image))


def test_no_operator_of_tensorflow_itself_is_in_the_file(export):
    assert b"Flex" not in export.read_bytes()


@pytest.mark.slow  # a second conversion
def test_float16_halves_the_file_and_moves_boxes_by_a_fraction_of_a_pixel(model, export, tmp_path):
    half = km.export_litert(model, tmp_path / "half.tflite", SIZE, quantization="float16")
    image = noise(*SIZE)
    answer, found = signature(half)(images=image[None]), km.Predictor(model)(image)
    # The graph itself, half a megabyte, stays.
    weights = 4 * sum(np.prod(weight.shape) for weight in model.weights)
    assert export.stat().st_size - half.stat().st_size > 0.4 * weights
    count = min(len(found), int(answer["num_detections"][0]))
    near = np.abs(answer["boxes"][0, :count, None] - found.boxes[None, :count]).max(-1).min(1)
    assert count >= 5 and np.median(near) < 0.5


def test_what_cannot_be_written_is_refused_at_once(model, export):
    before = export.read_bytes()
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        km.export_litert(model, export, SIZE)
    for size in (None, 100, (100,), (0, 130), (100.0, 130)):
        with pytest.raises(ValueError, match="image_size must be .height, width.*480"):
            km.export_litert(model, export, size, overwrite=True)
    with pytest.raises(ValueError, match="quantization must be one of.*int4"):
        km.export_litert(model, export, SIZE, quantization="int4", overwrite=True)
    assert export.read_bytes() == before and [path.name for path in export.parent.iterdir()] == [export.name]
