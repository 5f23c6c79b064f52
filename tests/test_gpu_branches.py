"""What TensorFlow runs on GPUs, forced onto the CPU: its values and gradients are those of the CPU's own operators."""

import numpy as np
import pytest
from keras import ops

from keras_maskrcnn.backend import generic

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def on_gpu(monkeypatch):
    """A function that calls another one as on a GPU."""
    from keras_maskrcnn.backend import native

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(native, "on_gpu", lambda tensor: True)
            return function(*args, **options)

    return call


def with_gradients(function, *arrays):
    """What the function returns of tensors, and the gradients of the sum of its squares."""
    import tensorflow as tf

    inputs = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        total = tf.add_n([tf.reduce_sum(tf.square(one)) for one in tf.nest.flatten(outputs)])
    return [one.numpy() for one in (*tf.nest.flatten(outputs), *tape.gradient(total, inputs))]


@pytest.mark.parametrize(("side", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolutions_and_their_gradients(on_gpu, side, strides):
    from keras_maskrcnn.backend import tensorflow as module

    rng = np.random.default_rng(side)
    arrays = [rng.normal(size=shape).astype("float32") for shape in ((2, 12, 16, 16), (side, side, 16, 32), (32,))]

    def convolve(features, kernel, bias):
        return module.convolve([features], kernel, bias, strides, relu=True)

    expected = with_gradients(convolve, *arrays)
    assert expected[0].shape == (2, 12 // strides, 16 // strides, 32)
    for own, other in zip(on_gpu(with_gradients, convolve, *arrays), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("aggregation", ["average", "max"])
@pytest.mark.parametrize("name", ["multilevel_roi_align", "trainable_multilevel_roi_align"])
def test_roi_align(on_gpu, name, aggregation):
    from keras_maskrcnn.backend import tensorflow as module

    rng = np.random.default_rng(1)
    pyramid = [rng.normal(size=(2, 32 // stride, 40 // stride, 8)).astype("float32") for stride in (1, 2)]
    corners = rng.uniform(-2, 30, (9, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 12, (9, 2))], axis=1).astype("float32")
    images, levels = rng.integers(0, 2, 9).astype("int32"), rng.integers(0, 2, 9).astype("int32")

    def crop(*maps, rows=slice(None)):
        rest = (boxes[rows], images[rows], levels[rows], (1.0, 0.5), (7, 7), 2, False, aggregation)
        return getattr(module, name)(list(maps), *map(ops.convert_to_tensor, rest[:3]), *rest[3:])

    expected = crop(*map(ops.convert_to_tensor, pyramid)).numpy()
    assert np.ptp(expected) > 1
    found = on_gpu(crop, *map(ops.convert_to_tensor, pyramid)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # The gradient of crop_and_resize is exact on GPUs. On CPUs threads lose updates of one another, but not of one box.
    expected = with_gradients(lambda *maps: crop(*maps, rows=slice(3, 4)), *pyramid)
    found = on_gpu(with_gradients, lambda *maps: crop(*maps, rows=slice(3, 4)), *pyramid)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-3)


def test_non_maximum_suppression():
    """The stock operator, on GPUs as on CPUs, keeps what the reference keeps."""
    from keras_maskrcnn.backend import tensorflow as module

    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 60, (2, 200, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (2, 200, 2))], axis=-1).astype("float32")
    scores, classes = rng.uniform(size=(2, 200)).astype("float32"), rng.integers(0, 3, (2, 200)).astype("int32")
    arguments = (*map(ops.convert_to_tensor, (boxes, scores)), 0.3, 200, ops.convert_to_tensor(classes))
    valid = ops.convert_to_tensor(rng.uniform(size=(2, 200)) > 0.1)
    expected, keep = (np.asarray(one) for one in generic.non_max_suppression(*arguments, valid))
    found, kept = (np.asarray(one) for one in module.non_max_suppression(*arguments, valid))
    np.testing.assert_array_equal(kept, keep)
    np.testing.assert_array_equal(found[kept], expected[keep])
    assert 40 < keep.sum() < 300  # many are dropped, none for the limit
