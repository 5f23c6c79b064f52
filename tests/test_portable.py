"""The operators that converters read, run by TensorFlow: equal to the reference."""

import keras
import numpy as np
import pytest
from backend_tools import compiled, to_numpy
from test_ops_nms import clusters

from keras_maskrcnn import backend
from keras_maskrcnn.backend import generic

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("max_outputs", [5, 40, 90])
def test_nms_is_that_of_the_reference(num_images, num_classes, max_outputs):
    rng = np.random.default_rng(num_images)
    boxes, scores = clusters(rng, num_images, 60)
    classes = None if num_classes is None else rng.integers(0, num_classes, scores.shape).astype("int32")
    valid = rng.random(scores.shape) > 0.2
    tensors = [None if array is None else keras.ops.convert_to_tensor(array) for array in (classes, valid)]
    arguments = boxes, scores, np.float32([0.5, 0.3][:num_images]), max_outputs, *tensors
    expected = to_numpy(generic.non_max_suppression(*arguments))
    with backend.portable_operators(fixed_sizes=True):  # the other form is an operator of ONNX: test_onnx.py
        received = to_numpy(compiled(lambda: backend.non_max_suppression(*arguments))())
    for one, other in zip(received, expected):
        np.testing.assert_array_equal(one, other)
    assert expected[1].any()


def test_nms_of_nothing_valid_keeps_nothing():
    with backend.portable_operators(fixed_sizes=True):
        _, keep = backend.non_max_suppression(
            np.zeros((2, 4, 4), "float32"), np.ones((2, 4), "float32"), 0.5, 4, None, np.zeros((2, 4), bool)
        )
    assert not to_numpy(keep).any()


def test_roi_align_is_that_of_the_reference_to_the_bit():
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(1, 32 // scale, 48 // scale, 4)).astype("float32") for scale in (1, 2)]
    corners = rng.uniform(-10, 150, (9, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 90, (9, 2))], axis=1).astype("float32")
    levels = (np.arange(9) % 2).astype("int32")
    arguments = pyramid, boxes, np.zeros(9, "int32"), levels, (0.25, 0.125), (7, 7), 2, False, "average"
    with backend.portable_operators():
        received = to_numpy(backend.multilevel_roi_align(*arguments))
    np.testing.assert_array_equal(received, to_numpy(generic.multilevel_roi_align(*arguments)))


def test_sizes_follow_values_unless_they_are_to_be_fixed():
    valid = np.array([[True, True, False, False]])
    with backend.portable_operators():
        assert backend.trim_to_valid(valid)[0].shape == (1, 2)
    with backend.portable_operators(fixed_sizes=True):
        assert backend.trim_to_valid(valid)[0].shape == (1, 4)
    assert backend.trim_to_valid(valid)[0].shape == (1, 2)
