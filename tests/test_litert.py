"""The .tflite file in the LiteRT interpreter: the same detections as the model, with built-in operators alone."""

import numpy as np
import pytest
from converter_models import assert_same, export_by_command, noise, small_model

import keras_maskrcnn as km
from keras_maskrcnn.serving import litert

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


def test_a_predictor_of_the_file_finds_what_the_models_finds(model, export, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    ours, image = km.Predictor(model), noise(*SIZE)
    opened = km.Predictor(export, 0.38)
    assert isinstance(opened, km.serving.LitertPredictor) and (opened.config, opened.image_size) == (model.config, SIZE)
    images = [image, np.full((*SIZE, 3), 120, np.uint8)]
    for image, answer in zip(images, opened.stream(images, batch_size=2), strict=True):
        expected = ours(image)
        kept = expected.scores > 0.38
        assert 0 <= len(answer.result) == kept.sum() < max(len(expected), 1)
        np.testing.assert_allclose(answer.result.boxes, expected.boxes[kept], atol=2e-3)
        np.testing.assert_allclose(answer.result.scores, expected.scores[kept], atol=2e-5)
        assert (answer.result.masks == expected.masks[kept]).mean() > 0.999 if kept.any() else True
    with pytest.raises(ValueError, match=r"this one 100 x 130 pixels \(height x width\). Received: 90 x 130. Resize"):
        opened(noise(90, 130))
    with pytest.raises(ValueError, match="The .tflite file must exist. Received: .*none.tflite. Check its path."):
        km.Predictor(tmp_path / "none.tflite")
    for name, content in (("text", b"no model"), ("bare", export.read_bytes()[: export.read_bytes().index(b"PK\3\4")])):
        (tmp_path / f"{name}.tflite").write_bytes(content)
        words = (
            rf"with its config is needed.*Received: .*{name}.tflite \(.*keras-maskrcnn export MODEL .*{name}.tflite --f"
        )
        with pytest.raises(ValueError, match=words):
            km.Predictor(tmp_path / f"{name}.tflite")


def test_real_images(model, export, shared_data):
    run = signature(export)
    for path in sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[:3]:
        image = km.data.read_image(path)[: SIZE[0], : SIZE[1]]
        assert_same(run(images=image[None]), 0, km.Predictor(model)(image))


def test_no_operator_of_tensorflow_itself_is_in_the_file(export):
    assert b"Flex" not in export.read_bytes()


def test_how_weights_are_stored(model, tmp_path, monkeypatch):
    """Of a single convolution, which converts in no time: the bytes of its weights, and what it computes."""
    import tensorflow as tf

    kernel = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 3, 1000)).astype("float32"))

    def traced(model, input_dtype, image_size):
        spec, module = tf.TensorSpec((1, *image_size, 3), input_dtype, name="images"), tf.Module()
        function = tf.function(lambda images: {"sums": tf.nn.conv2d(tf.cast(images, tf.float32), kernel, 1, "VALID")})
        module.kernel, module.graph = kernel, function.get_concrete_function(spec)
        return module

    monkeypatch.setattr(litert, "trace", traced)
    image = noise(3, 3)
    expected = np.tensordot(image.astype("float64"), kernel.numpy(), 3)
    for quantization, bytes_each, error in ((None, 4, 1e-6), ("float16", 2, 1e-3), ("dynamic_range", 1, 0.05)):
        path = km.export_litert(model, tmp_path / f"{bytes_each}.tflite", (3, 3), quantization=quantization)
        assert bytes_each <= path.stat().st_size / kernel.numpy().size < bytes_each + 1
        found = signature(path)(images=image[None])["sums"].ravel()
        worst = np.abs(found - expected).max() / np.abs(expected).max()
        assert worst < error and (quantization is None or worst > error / 100)


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
