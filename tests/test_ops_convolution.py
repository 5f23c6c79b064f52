"""Convolutions of all paths (native: Winograd and direct; stock, JAX) against direct sums in float64."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from backend_tools import compiled, pull_back_function

from keras_maskrcnn import backend
from keras_maskrcnn.backend import generic
from keras_maskrcnn.host import memory

# sizes of the maps, channels, filters, side of the kernel, stride
CASES = [
    ([(1, 4, 4)], 16, 16, 3, 1),
    ([(2, 13, 9)], 32, 48, 3, 1),  # tiles that stand over the border; half a panel on wide vectors
    ([(1, 50, 7), (1, 3, 2), (1, 1, 1)], 16, 32, 3, 1),  # more cells than a block, maps smaller than a tile
    ([(1, 50, 37), (1, 3, 2), (1, 1, 1)], 16, 32, 3, 1),  # so many that the native one takes Winograd's way
    ([(2, 12, 10)], 16, 16, 3, 2),
    ([(1, 11, 7)], 16, 16, 3, 2),
    ([(1, 6, 5)], 3, 8, 3, 1),  # channels that the native one leaves to stock
    ([(1, 16, 12)], 3, 8, 7, 2),
    ([(2, 5, 7), (2, 3, 3)], 12, 7, 1, 1),
    ([(1, 5, 7)], 16, 8, 1, 2),
]
IDS = [f"{len(sizes)} maps, {c} to {k}, {side}x{side}, stride {stride}" for sizes, c, k, side, stride in CASES]


def random_case(sizes, channels, filters, side):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype("float32")  # noqa: E731
    return [draw(*size, channels) for size in sizes], draw(side, side, channels, filters), draw(filters)


def direct_sum(features, kernel, bias, stride):
    """The definition of a convolution, float64."""
    side = kernel.shape[0]
    margin = [(0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)]
    padded = np.pad(features.astype("float64"), margin)
    height, width = features.shape[1:3]
    total = 0.0
    for y in range(side):
        for x in range(side):
            total = total + padded[:, y : y + height : stride, x : x + width : stride] @ kernel[y, x].astype("float64")
    return total + bias


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_convolution_equals_the_direct_sum(case, relu):
    sizes, channels, filters, side, stride = case
    maps, kernel, bias = random_case(sizes, channels, filters, side)
    run = compiled(lambda *arrays: backend.convolve(list(arrays[2:]), arrays[0], arrays[1], stride, relu))
    for found, features in zip(run(kernel, bias, *maps), maps, strict=True):
        expected = direct_sum(features, kernel, bias, stride)
        expected = np.maximum(expected, 0) if relu else expected
        found = keras.ops.convert_to_numpy(found)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-6)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("case", CASES[:7] + CASES[8:], ids=IDS[:7] + IDS[8:])
def test_gradients_equal_those_of_the_reference(case, relu):
    sizes, channels, filters, side, stride = case
    maps, kernel, bias = random_case(sizes, channels, filters, side)

    def flat(convolve):
        def run(*arrays):
            outputs = convolve(list(arrays[2:]), arrays[0], arrays[1], stride, relu)
            return keras.ops.concatenate([keras.ops.reshape(each, (-1,)) for each in outputs])

        return pull_back_function(run)

    count = sum(b * -(-h // stride) * -(-w // stride) for b, h, w in sizes) * filters
    upstream = np.random.default_rng(1).standard_normal(count).astype("float32")
    _, found = flat(backend.convolve)([kernel, bias, *maps], upstream)
    _, expected = flat(generic.convolve)([kernel, bias, *maps], upstream)
    assert np.abs(expected[0]).max() > 1
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5 * np.abs(reference).max())


@pytest.mark.usefixtures("path")
def test_a_kernel_that_shifts_moves_the_map_by_a_cell():
    """The tap at (0, 2) reads the cell above and to the right; zeros come in at the border."""
    features = np.random.default_rng(0).standard_normal((1, 9, 6, 16)).astype("float32")
    kernel = np.zeros((3, 3, 16, 16), "float32")
    kernel[0, 2] = np.eye(16)
    (moved,) = backend.convolve([features], keras.ops.convert_to_tensor(kernel), np.zeros(16, "float32"))
    expected = np.zeros_like(features)
    expected[:, 1:, :-1] = features[:, :-1, 1:]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(moved), expected, atol=1e-5)


@pytest.mark.usefixtures("path")
def test_no_images_are_no_work():
    nothing, kernel = np.zeros((0, 14, 14, 16), "float32"), keras.ops.ones((3, 3, 16, 32))
    (none,) = backend.convolve([nothing], kernel, np.ones(32, "float32"))
    assert keras.ops.shape(none) == (0, 14, 14, 32)


WINOGRAD, DIRECT = 1, 2  # of the native operator's attribute `way`; without it, it takes the faster one


def native_library():
    from keras_maskrcnn.backend import native

    if native.load() is None:
        pytest.skip("no native library: was there a compiler?")
    return native.load()


@pytest.mark.tensorflow
@pytest.mark.parametrize("relu", [0, 1], ids=["linear", "relu"])
@pytest.mark.parametrize(("way", "stride"), [(WINOGRAD, 1), (DIRECT, 1), (DIRECT, 2)], ids=["winograd", "direct", "s2"])
@pytest.mark.parametrize("case", CASES[:4], ids=IDS[:4])
def test_each_native_way_equals_the_direct_sum(case, way, stride, relu):
    sizes, channels, filters, _, _ = case
    maps, kernel, bias = random_case(sizes, channels, filters, 3)
    attributes = {"stride": stride, "way": way, "threads": 2}
    outputs = native_library().keras_maskrcnn_conv3x3(maps, kernel, bias, relu=relu, **attributes)
    for found, features in zip(outputs, maps, strict=True):
        expected = direct_sum(features, kernel, bias, stride)
        expected = np.maximum(expected, 0) if relu else expected
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-6)
    # A kernel's gradient: for each tap, the cells that it read times what came of them.
    gradient = native_library().keras_maskrcnn_conv3x3_kernel_grad(maps, outputs, **attributes)
    expected = np.zeros(kernel.shape)
    for features, upstream in zip(maps, outputs, strict=True):
        padded = np.pad(features.astype("float64"), [(0, 0), (1, 1), (1, 1), (0, 0)])
        height, width = features.shape[1:3]
        for y in range(3):
            for x in range(3):
                read = padded[:, y : y + height : stride, x : x + width : stride]
                expected[y, x] += np.einsum("bhwc,bhwk->ck", read, upstream.numpy())
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.tensorflow
@pytest.mark.parametrize("way", [WINOGRAD, DIRECT], ids=["winograd", "direct"])
def test_the_native_convolution_has_the_same_bits_for_any_number_of_threads(way):
    maps, kernel, bias = random_case([(1, 61, 67), (1, 30, 33)], 32, 32, 3)
    library, results = native_library(), []
    for threads in (1, 2, 3, 8):
        attributes = {"stride": 1, "way": way, "threads": threads}
        outputs = library.keras_maskrcnn_conv3x3(maps, kernel, bias, relu=0, **attributes)
        gradient = library.keras_maskrcnn_conv3x3_kernel_grad(maps, outputs, **attributes)
        back = library.keras_maskrcnn_conv3x3_back(outputs, kernel, way=way, threads=threads)
        results.append([each.numpy() for each in (*outputs, gradient, *back)])
    for other in results[1:]:
        for first, again in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, again)


@pytest.mark.tensorflow
def test_the_native_convolution_says_what_it_cannot_take():
    import tensorflow as tf

    run = native_library().keras_maskrcnn_conv3x3
    map16, map8 = tf.zeros((1, 4, 4, 16)), tf.zeros((1, 4, 4, 8))
    for maps, kernel, bias, message in (
        ([map8], tf.zeros((3, 3, 8, 16)), tf.zeros(16), "channels must be a multiple of 16"),
        ([map16], tf.zeros((3, 3, 16, 8)), tf.zeros(8), "multiples of 16"),
        ([map16], tf.zeros((3, 3, 16, 16)), tf.zeros(8), "bias must be"),
        ([map16, tf.zeros((1, 4, 4, 32))], tf.zeros((3, 3, 16, 16)), tf.zeros(16), "the same channels"),
        ([map16[0]], tf.zeros((3, 3, 16, 16)), tf.zeros(16), "a map must be"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(maps, kernel, bias, stride=1, relu=0, threads=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_kept_memory_stays_with_the_process():
    """In a process of its own: 256 MB that were written and freed are still resident, and are not without the call."""
    script = """
import ctypes, resource, runpy, sys
keep = runpy.run_path(sys.argv[2])["keep_freed_memory"]
if sys.argv[1] == "keep":
    print(keep())
block = bytearray(b"1") * 2**28
del block
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20)
"""
    run = lambda mode: subprocess.run(  # noqa: E731
        [sys.executable, "-c", script, mode, memory.__file__], capture_output=True, text=True, check=True
    ).stdout.split()
    took, kept = run("keep")
    assert took == "True" and int(kept) > 256
    assert int(run("default")[0]) < 200


@pytest.mark.parametrize(("name", "found"), [("nvidia0", True), ("kfd", True), ("nvidiactl", False), ("null", False)])
def test_the_device_files_of_accelerators(name, found, tmp_path):
    (tmp_path / name).touch()
    assert memory.has_accelerator(tmp_path) is found


@pytest.mark.parametrize(("value", "accelerator", "kept"), [("1", 0, True), ("0", 0, False), ("1", 1, False)])
def test_the_environment_and_accelerators_keep_programs_from_keeping_freed_memory(
    value, accelerator, kept, monkeypatch
):
    calls = []
    monkeypatch.setenv(memory.SWITCH, value)
    monkeypatch.setattr(memory, "has_accelerator", lambda: bool(accelerator))
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(1) or True)
    memory.keep_for_models.cache_clear()
    assert [memory.keep_for_models(), memory.keep_for_models()] == [kept] * 2
    assert calls == [1] * kept
    memory.keep_for_models.cache_clear()


@pytest.mark.tensorflow
def test_a_model_leaves_the_memory_of_the_process_alone(monkeypatch):
    from tiny import tiny_config

    import keras_maskrcnn as km

    calls = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(1) or True)
    memory.keep_for_models.cache_clear()
    km.MaskRCNN(tiny_config())
    assert calls == []


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA simplifies comparisons")
def test_the_compiled_gradient_of_relu_reads_its_result():
    """So that what went in is not kept for it. XLA turns max(x, 0) > 0 into x > 0, which reads x."""
    import jax

    def loss(kernel, features):
        for _ in range(2):
            (features,) = backend.convolve([features], kernel, relu=True)
        return features.sum()

    kernel, features = np.ones((3, 3, 4, 4), "float32"), np.ones((1, 8, 8, 4), "float32")
    program = jax.jit(jax.grad(loss)).lower(kernel, features).compile().as_text()
    compared = re.findall(r" compare\(%([\w.]+),", program)
    assert compared
    for name in compared:
        assert re.search(rf"%{re.escape(name)} = \S+ maximum\(", program), name


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("masked", [False, True])
def test_relu_of_a_sum_and_its_gradients(masked, dtype):
    rng = np.random.default_rng(0)
    maps = [keras.ops.cast(rng.standard_normal((2, 33, 40, 21)), dtype) for _ in range(2)]
    cells = keras.ops.cast(rng.random((2, 33, 40, 1)) < 0.7, dtype) if masked else None
    upstream = rng.standard_normal((2, 33, 40, 21)).astype("float32")
    result, gradients = pull_back_function(lambda a, b: backend.apply_relu(a, cells, b))(maps, upstream)
    total = keras.ops.convert_to_numpy(keras.ops.cast(maps[0] + maps[1], "float32"))
    kept = (total > 0) & (keras.ops.convert_to_numpy(keras.ops.cast(cells, "bool")) if masked else True)
    np.testing.assert_array_equal(result, np.where(kept, total, 0))
    seed = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(upstream, dtype), "float32"))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.where(kept, seed, 0))


@pytest.mark.tensorflow
def test_a_sum_takes_the_memory_of_a_map_that_nothing_else_needs():
    import tensorflow as tf

    native_library()
    a, b = (tf.random.stateless_normal((1, 8, 8, 4), [seed, 0]) for seed in (1, 2))

    @tf.function
    def twice(a, b):
        kept = a * 1.5
        total = backend.apply_relu(kept, None, b)  # must not be written over `kept`, which is needed again
        return total + 2 * kept, backend.apply_relu(a * 2.0, None, b)

    first, second = twice(a, b)
    np.testing.assert_allclose(first, np.maximum(a * 1.5 + b, 0) + 3 * a, atol=1e-6)
    np.testing.assert_allclose(second, np.maximum(a * 2 + b, 0), atol=1e-6)


def test_relu_sets_cells_to_zero():
    features, cells = np.array([[[[-1.0], [2.0], [3.0]]]], "float32"), np.array([[[[1.0], [1.0], [0.0]]]], "float32")
    assert keras.ops.convert_to_numpy(backend.apply_relu(features)).ravel().tolist() == [0, 2, 3]
    assert keras.ops.convert_to_numpy(backend.apply_relu(features, cells)).ravel().tolist() == [0, 2, 0]
