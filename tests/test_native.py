"""The native RoIAlign against the stock operators and the reference, and where it must not be used."""

import pathlib
import shutil

import numpy as np
import pytest

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.backend import generic
from keras_maskrcnn.geometry import native as host

tf = pytest.importorskip("tensorflow")
native = pytest.importorskip("keras_maskrcnn.backend.native")
pytestmark = pytest.mark.tensorflow
needs_library = pytest.mark.skipif(native.load() is None, reason="no native library: was there a compiler?")

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def random_case(seed):
    """Sizes, boxes and options at random: boxes inside, outside, empty and turned around."""
    rng = np.random.default_rng(seed)
    images, channels = int(rng.integers(1, 3)), int(rng.choice([1, 3, 8, 21, 64, 100]))
    levels = int(rng.integers(1, 5))
    sides = rng.integers(1, 40, (levels, 2))
    maps = [rng.standard_normal((images, *side, channels)).astype("float32") for side in sides]
    count = int(rng.integers(0, 12))
    centres, sizes = rng.uniform(-20, 180, (count, 2)), np.exp(rng.uniform(-2, 5.5, (count, 2)))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype("float32")
    boxes[rng.random(count) < 0.1] = 0
    turned = rng.random(count) < 0.05
    boxes[turned] = boxes[turned][:, [2, 3, 0, 1]]
    return {
        "pyramid": [tf.constant(each) for each in maps],
        "boxes": tf.constant(boxes.reshape(-1, 4)),
        "box_batch": tf.constant(rng.integers(0, images, count), tf.int32),
        "levels": tf.constant(rng.integers(0, levels, count), tf.int32),
        "scales": SCALES[:levels],
        "output_size": tuple(int(n) for n in rng.integers(1, 9, 2)),
        "sampling_ratio": int(rng.choice([0, 1, 2, 2, 3, 4])),
        "aligned": bool(rng.random() < 0.5),
        "aggregation": str(rng.choice(["average", "average", "max"])),
    }


def values_and_gradients(function, case, seed=0):
    with tf.GradientTape() as tape:
        tape.watch(case["pyramid"])
        crops = function(**case)
    upstream = np.random.default_rng(seed).standard_normal(crops.shape)
    upstream = tf.constant(upstream, crops.dtype)
    gradients = tape.gradient(crops, case["pyramid"], upstream, tf.UnconnectedGradients.ZERO)
    return crops.numpy(), [tf.convert_to_tensor(each).numpy() for each in gradients]


def is_near_a_jump(case):
    """Whether a sample point lies where RoIAlign jumps: a cell beyond the map, within rounding."""
    frames = np.stack(generic.box_frames(case["boxes"], case["levels"], case["scales"], case["aligned"]), axis=1)
    for (y, x, height, width), level in zip(frames, case["levels"].numpy()):
        for start, length, bins, extent in (
            (y, height, case["output_size"][0], case["pyramid"][level].shape[1]),
            (x, width, case["output_size"][1], case["pyramid"][level].shape[2]),
        ):
            ratio = case["sampling_ratio"] or max(int(np.ceil(length / bins)), 1)
            points = start + length * (np.arange(bins * ratio) + 0.5) / (bins * ratio)
            if min(np.abs(points + 1).min(), np.abs(points - extent).min()) < 1e-4:
                return True
    return False


@needs_library
@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 500), marks=pytest.mark.slow)], ids=str)
def test_native_equals_stock_and_reference_on_random_cases(seeds):
    compared = 0
    for seed in seeds:
        case = random_case(seed)
        if is_near_a_jump(case):
            continue
        compared += 1
        ours, gradients = values_and_gradients(backend.multilevel_roi_align, case)
        with backend.stock_operators():
            stock, stock_gradients = values_and_gradients(backend.multilevel_roi_align, case)
        np.testing.assert_allclose(ours, stock, atol=1e-4, err_msg=str(seed))
        # The point that a maximum takes may be another where two are equal; the sum of its gradient is the same.
        if case["aggregation"] == "average":
            for a, b in zip(gradients, stock_gradients):
                np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str(seed))
        if seed % 5 == 0:
            reference, reference_gradients = values_and_gradients(generic.multilevel_roi_align, case)
            np.testing.assert_allclose(ours, reference, atol=1e-4, err_msg=str(seed))
            if case["aggregation"] == "average":
                for a, b in zip(gradients, reference_gradients):
                    np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str(seed))
    assert compared > 0.95 * len(seeds)


@needs_library
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient_has_the_same_bits_for_any_number_of_threads(monkeypatch, ratio):
    rng = np.random.default_rng(0)
    case = random_case(1) | {"sampling_ratio": ratio, "output_size": (7, 7), "aggregation": "average"}
    case["pyramid"] = [tf.constant(rng.standard_normal((2, 50, 60, 64)), tf.float32)]
    corners = rng.uniform(0, 200, (300, 2))
    case["boxes"] = tf.constant(np.hstack([corners, corners + rng.uniform(1, 150, (300, 2))]), tf.float32)
    case["box_batch"] = tf.constant(rng.integers(0, 2, 300), tf.int32)
    case["levels"], case["scales"] = tf.zeros(300, tf.int32), (0.25,)
    seen = set()
    for threads in [1, 2, 3, 8] * 5:
        monkeypatch.setattr(native, "num_threads", lambda threads=threads: threads)
        crops, (gradient,) = values_and_gradients(backend.multilevel_roi_align, case)
        seen.add((crops.tobytes(), gradient.tobytes()))
    assert len(seen) == 1 and np.abs(gradient).max() > 1


@needs_library
@pytest.mark.parametrize("ratio", [0, 2])
def test_bfloat16_is_summed_in_float32(ratio):
    case = random_case(3) | {"aggregation": "average", "sampling_ratio": ratio}
    rounded = case | {"pyramid": [tf.cast(each, tf.bfloat16) for each in case["pyramid"]]}
    exact = case | {"pyramid": [tf.cast(each, tf.float32) for each in rounded["pyramid"]]}
    crops, gradients = values_and_gradients(backend.multilevel_roi_align, rounded)
    expected, expected_gradients = values_and_gradients(backend.multilevel_roi_align, exact)
    assert crops.dtype == tf.bfloat16.as_numpy_dtype and len(crops)
    # One rounding to 8 bits at the end, of crops here and of upstream and gradient there.
    np.testing.assert_allclose(crops.astype("float32"), expected, rtol=2**-8, atol=1e-6)
    for ours, theirs in zip(gradients, expected_gradients):
        np.testing.assert_allclose(ours.astype("float32"), theirs, rtol=2**-7, atol=0.05)


@needs_library
@pytest.mark.parametrize(("name", "value", "message"), [("box_batch", 5, "image 5"), ("levels", -1, "level -1")])
def test_boxes_of_no_image_or_level_are_an_error_and_no_crash(name, value, message):
    case = random_case(4)
    frame = tf.zeros((1, 4))
    columns = {"box_batch": tf.constant([0]), "levels": tf.constant([0])} | {name: tf.constant([value])}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.crop(case["pyramid"], frame, columns["box_batch"], columns["levels"], (2, 2), 2)


@needs_library
def test_static_shapes_are_known_to_graphs():
    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 8)), tf.TensorSpec((None, 4))])
    def graph(features, boxes):
        crops = km.ops.roi_align(features, boxes, tf.zeros(tf.shape(boxes)[:1], tf.int32), (3, 5), 0.5)
        assert crops.shape.as_list() == [None, 3, 5, 8]
        assert tf.gradients(crops, features)[0].shape.as_list() == [1, None, None, 8]
        return crops

    assert graph(tf.ones((1, 9, 9, 8)), tf.constant([[0.0, 0, 8, 8]])).shape == (1, 3, 5, 8)


def test_the_switch_turns_it_off(monkeypatch):
    native.load.cache_clear()
    monkeypatch.setenv(native.SWITCH, "0")
    try:
        assert native.load() is None and not native.is_used()
        assert backend.operators().startswith("stock TensorFlow operators")
    finally:
        native.load.cache_clear()


def test_a_library_that_does_not_load_is_told_and_done_without(tmp_path, monkeypatch):
    (tmp_path / "_operators.so").write_bytes(b"no library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native.load.cache_clear()
    try:
        with pytest.warns(UserWarning, match="cannot be loaded.*Stock operators run instead"):
            assert native.load() is None
    finally:
        native.load.cache_clear()


@needs_library
def test_a_library_without_the_newest_operator_is_told_and_done_without(tmp_path, monkeypatch):
    other = next(pathlib.Path(host.__file__).parent.glob("_host*"), None)
    if other is None:
        pytest.skip("no other native library: was there a compiler?")
    shutil.copy(other, tmp_path / "_operators.so")  # loads, and has none of the operators
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native.load.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match="_operators.so do not find TensorFlow's C API, or are of an older version"
        ):
            assert native.load() is None
    finally:
        native.load.cache_clear()


@needs_library
def test_exports_by_keras_hold_stock_operators_only(tmp_path):
    """`export_saved_model` is looked at in test_serving.py."""
    from converter_models import small_model

    model = small_model()
    model.export(tmp_path, verbose=False, input_signature=[tf.TensorSpec((None, 64, 64, 3), tf.uint8)])
    content = (tmp_path / "saved_model.pb").read_bytes()
    assert b"CropAndResize" in content and b"KerasMaskrcnn" not in content
    assert native.is_used()
