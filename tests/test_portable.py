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


def crops_to_make():
    """Arguments of RoIAlign: two images, two levels, boxes of any size, beyond the maps, turned, not finite."""
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, 32 // scale, 48 // scale, 4)).astype("float32") for scale in (1, 2)]
    corners = rng.uniform(-10, 150, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-5, 90, (40, 2))], axis=1).astype("float32")
    boxes[0], boxes[1], boxes[2] = np.nan, [-1e9, 0, 1e9, 5], [20, 20, 20, 20]
    images, levels = (rng.integers(0, 2, 40).astype("int32") for _ in range(2))
    return pyramid, boxes, images, levels, (0.25, 0.125)


def test_roi_align_is_that_of_the_reference_to_the_bit():
    arguments = *crops_to_make(), (7, 7), 2, False, "average"
    with backend.portable_operators(fixed_sizes=True):
        received = to_numpy(backend.multilevel_roi_align(*arguments))
    np.testing.assert_array_equal(received, to_numpy(generic.multilevel_roi_align(*arguments)))


def test_roi_align_of_onnx_is_that_of_the_reference():
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    import tensorflow as tf

    from keras_maskrcnn.serving.onnx import _convert

    pyramid, boxes, images, levels, scales = crops_to_make()
    options = {"plain": ((7, 7), 2, False), "aligned": ((3, 5), 1, True), "all": ((7, 7), 0, True)}
    options |= {f"{name}_max": given for name, given in options.items() if name != "all"}

    def crops(boxes, images, levels):
        kinds = {name: "max" if name.endswith("max") else "average" for name in options}
        answers = {
            name: backend.multilevel_roi_align(maps, boxes, images, levels, scales, *given, kinds[name])
            for name, given in options.items()
        }
        return {name: tf.identity(answer) for name, answer in answers.items()}

    maps = [tf.Variable(level) for level in pyramid]
    shapes = [tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in (boxes, images, levels)]
    with backend.portable_operators():
        proto = _convert(tf.function(crops).get_concrete_function(*shapes), 17)
    assert sum(node.op_type == "RoiAlign" for node in proto.graph.node) == 8  # at ratio 1 both kinds share theirs
    session = runtime.InferenceSession(proto.SerializeToString())
    for kept in (np.ones(40, bool), levels == 1, np.zeros(40, bool)):  # a level without a box, and no box
        given = {"boxes": boxes[kept], "images": images[kept], "levels": levels[kept]}
        names = [output.name for output in session.get_outputs()]
        for name, answer in zip(names, session.run(names, given)):
            kind = "max" if name.endswith("max") else "average"
            arguments = pyramid, *given.values(), scales, *options[name], kind
            if kept.any():
                expected = to_numpy(generic.multilevel_roi_align(*arguments))
                np.testing.assert_allclose(answer, expected, atol=2e-5, err_msg=name)
            else:
                assert answer.shape == (0, *options[name][0], 4)


def test_sizes_follow_values_unless_they_are_to_be_fixed():
    valid = np.array([[True, True, False, False]])
    with backend.portable_operators():
        assert backend.trim_to_valid(valid)[0].shape == (1, 2)
    with backend.portable_operators(fixed_sizes=True):
        assert backend.trim_to_valid(valid)[0].shape == (1, 4)
    assert backend.trim_to_valid(valid)[0].shape == (1, 2)
