"""What differs between backends besides the operators: TensorFlow's versions give what the generic ones give."""

import random
import types

import keras
import numpy as np
import pytest
from backend_tools import pull_back, to_numpy
from keras import ops

from keras_maskrcnn import backend
from keras_maskrcnn.backend import runtime

MAPS = np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype("float32")
ROWS = np.array([[4, 0, 4], [1, 2, 3]], "int32")


@pytest.mark.parametrize("axis", [1, 2])
def test_rows_of_each_image(axis):
    expected = np.stack([np.take(one, rows, axis=axis - 1) for one, rows in zip(MAPS, ROWS, strict=True)])
    for module in (backend, runtime):
        np.testing.assert_array_equal(to_numpy(module.gather_each(MAPS, ROWS, axis)), expected)


@pytest.mark.usefixtures("path")
def test_each_cell_of_the_coarse_map_counts_four_times():
    rng = np.random.default_rng(1)
    fine, upstream = (rng.standard_normal((2, 10, 14, 3)).astype("float32") for _ in range(2))
    mask = (rng.random((2, 10, 14, 1)) < 0.5).astype("float32")
    maps, cells = [ops.convert_to_tensor(each) for each in (fine, MAPS)], ops.convert_to_tensor(mask)
    expected = fine + MAPS.repeat(2, axis=1).repeat(2, axis=2)
    for module in (backend, runtime):
        np.testing.assert_array_equal(to_numpy(module.add_upsampled(*maps)), expected)
        np.testing.assert_array_equal(to_numpy(module.add_upsampled(*maps, cells)), expected * mask)
        np.testing.assert_array_equal(to_numpy(module.keep_cells(maps[0], cells)), fine * mask)
    _, gradients = pull_back(lambda *maps: backend.add_upsampled(*maps, cells), [fine, MAPS], upstream)
    masked = upstream * mask
    np.testing.assert_allclose(gradients[0], masked, atol=1e-6)
    np.testing.assert_allclose(gradients[1], masked.reshape(2, 5, 2, 7, 2, 3).sum(axis=(2, 4)), atol=1e-6)
    _, (kept,) = pull_back(lambda features: backend.keep_cells(features, cells), [fine], upstream)
    np.testing.assert_array_equal(kept, masked)


def test_sizes_and_padding():
    for module in (backend, runtime):
        assert int(module.smaller(3, 5)) == 3 and int(module.smaller(5, 3)) == 3
        padded = to_numpy(module.pad_to_multiple(MAPS, 4))
        assert padded.shape == (2, 8, 8, 3) and not padded[:, 5:].any() and not padded[:, :, 7:].any()
        np.testing.assert_array_equal(padded[:, :5, :7], MAPS)
        rows = to_numpy(module.pad_columns(MAPS, 9))
        assert rows.shape == (2, 9, 7, 3) and not rows[:, 5:].any()
    assert len(backend.devices()) >= 1


def test_columns_after_the_last_valid_one_may_go():
    valid = np.array([[True, False, False, False], [False, True, False, False]])
    values = np.arange(8, dtype="float32").reshape(2, 4)
    for module in (backend, runtime):
        kept, trimmed = (to_numpy(each) for each in module.trim_to_valid(valid, values))
        np.testing.assert_array_equal(kept, valid[:, : kept.shape[1]])
        np.testing.assert_array_equal(trimmed, values[:, : kept.shape[1]])
        assert kept.shape[1] >= 2  # generic ones keep all four


@pytest.mark.tensorflow
def test_bfloat16_is_faster_on_a_cpu_with_amx_tiles(tmp_path):
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags\t\t: fpu avx512_bf16 amx_tile amx_bf16 amx_int8\n")
    assert backend.fast_bfloat16(flags) == "CPU with AMX"
    flags.write_text("flags\t\t: fpu avx2 avx512_bf16\n")
    assert backend.fast_bfloat16(flags) is None
    assert backend.fast_bfloat16(tmp_path / "missing") is None


def test_bfloat16_is_faster_on_gpus_from_ampere_and_on_tpus(monkeypatch):
    assert [runtime.has_bfloat16_cores(each) for each in ((7, 5), (8, 0), (9, 0), (10, 0))] == [False, True, True, True]
    jax = pytest.importorskip("jax")
    for platform, capability, name, expected in (
        ("gpu", "9.0", "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        ("gpu", "7.5", "Tesla T4", None),
        ("gpu", None, "AMD Instinct", None),
        ("tpu", None, "TPU v5 lite", "TPU v5 lite"),
        ("cpu", None, "cpu", None),
    ):
        device = types.SimpleNamespace(platform=platform, compute_capability=capability, device_kind=name)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        on_jax = keras.backend.backend() == "jax"
        assert (runtime.fast_bfloat16 if on_jax else runtime._fast_in_jax)() == expected
    assert on_jax or runtime.fast_bfloat16() is None  # of a backend without a rule


@pytest.mark.parametrize("module", [backend, runtime])
def test_the_seed_decides_the_weights_and_the_draws(module):
    def drawn(seed):
        module.set_seed(seed)
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
        return [*to_numpy(layer.kernel).ravel(), np.random.rand(), random.random()]

    first = drawn(7)
    assert drawn(7) == first
    assert all(a != b for a, b in zip(drawn(8), first, strict=True))


@pytest.mark.parametrize("shape", [(2, 8), (1, 6), (2, 7), (3, 0), (0, 4)])
def test_a_function_of_rows_gives_the_same_in_parts(shape):
    rng = np.random.default_rng(0)
    rows, factors = rng.random((*shape, 3)).astype("float32"), rng.integers(0, 5, shape).astype("int32")

    def scaled(rows, factors):
        return ops.cast(factors, "float32")[..., None] * ops.sin(rows)

    result = backend.part_by_part(scaled, ops.convert_to_tensor(rows), ops.convert_to_tensor(factors))
    np.testing.assert_allclose(to_numpy(result), factors[..., None] * np.sin(rows), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the other backends compute all rows at once")
def test_the_gradient_in_parts_is_that_of_all_at_once_and_keeps_the_arguments_alone():
    import jax

    rows = np.random.default_rng(0).random((2, 8, 3)).astype("float32")
    wide = lambda rows: jax.numpy.sin(jax.numpy.tile(rows, 16)) ** 3  # noqa: E731
    alone = lambda rows: wide(rows).sum()  # noqa: E731
    parts = lambda rows: backend.part_by_part(wide, rows).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(parts)(rows), jax.grad(alone)(rows), rtol=1e-5)
    kept = {way: max(array.size for array in jax.tree.leaves(jax.vjp(way, rows)[1])) for way in (parts, alone)}
    assert kept == {parts: rows.size, alone: 16 * rows.size}
