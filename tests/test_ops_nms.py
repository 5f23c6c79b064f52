"""NMS: cases by hand, a greedy loop in numpy, torchvision's indices, what changes nothing."""

import pathlib

import keras
import numpy as np
import pytest
from backend_tools import compiled, to_numpy

import keras_maskrcnn.ops as km_ops
from keras_maskrcnn import backend
from keras_maskrcnn.backend import generic

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ops.npz")


def clusters(rng, *shape, num_clusters=12):
    """Boxes that overlap in clusters, and scores of which some are equal."""
    centres = rng.uniform(0, 200, (num_clusters, 2))
    pick = rng.integers(0, num_clusters, shape)
    centres = centres[pick] + rng.normal(0, 6, (*shape, 2))
    sizes = rng.uniform(20, 40, (*shape, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
    return boxes.astype("float32"), np.round(rng.random(shape), 2).astype("float32")


def greedy(boxes, scores, threshold, classes=None, valid=None):
    """Indices that the algorithm keeps, one box after the other."""
    corners = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = np.maximum(corners[1] - corners[0], 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    iou = shared / (areas[:, None] + areas - shared)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if valid is not None and not valid[i]:
            continue
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if not (iou[i, rivals] > threshold).any():
            kept.append(int(i))
    return kept


def run(*args, **kwargs):
    """Call the operator compiled; -> list of kept indices, for each image if there are several."""
    indices, keep = to_numpy(compiled(lambda *a: km_ops.non_max_suppression(*a, **kwargs))(*args))
    assert indices.dtype == np.int32 and keep.dtype == bool
    # Kept entries come first, and the rest is zeros.
    assert np.all(keep[..., :-1] >= keep[..., 1:]) and np.all(indices[~keep] == 0)
    if indices.ndim == 1:
        return indices[keep].tolist()
    return [row[flags].tolist() for row, flags in zip(indices, keep, strict=True)]


BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30]], "float32")
SCORES = np.array([0.6, 0.9, 0.8, 0.7], "float32")


def test_suppressed_above_the_threshold_and_kept_at_it():
    # IoU of row 1 with row 0 is exactly 0.5, with row 2 0.8.
    assert run(BOXES, SCORES, iou_threshold=0.5) == [1, 3, 0]
    assert run(BOXES, SCORES, iou_threshold=0.49) == [1, 3]
    assert run(BOXES, SCORES, iou_threshold=0.81) == [1, 2, 3, 0]


def test_a_suppressed_box_suppresses_nothing():
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], "float32")
    # 0 removes 1 (IoU 6/14); 2 overlaps 1 alone and stays.
    assert run(boxes, np.array([0.9, 0.8, 0.7], "float32"), iou_threshold=0.3) == [0, 2]


def test_only_boxes_of_one_class_suppress_each_other():
    classes = np.array([0, 1, 1, 0], "int32")
    assert run(BOXES, SCORES, classes=classes, iou_threshold=0.4) == [1, 3, 0]


def test_rows_that_are_not_valid_are_out_of_the_game():
    valid = np.array([True, False, True, True])
    assert run(BOXES, SCORES, valid=valid, iou_threshold=0.39) == [2, 3]
    assert run(BOXES, SCORES, valid=np.zeros(4, bool)) == []


def test_equal_scores_go_by_lower_index():
    boxes = np.tile(np.array([[0, 0, 10, 10]], "float32"), (3, 1))
    assert run(boxes, np.ones(3, "float32")) == [0]
    apart = boxes + 20 * np.arange(3, dtype="float32")[:, None]
    assert run(apart, np.ones(3, "float32")) == [0, 1, 2]


def test_most_outputs_cuts_and_pads():
    assert run(BOXES, SCORES, max_outputs=2, iou_threshold=0.5) == [1, 3]
    indices, keep = to_numpy(km_ops.non_max_suppression(BOXES, SCORES, 0.5, max_outputs=6))
    np.testing.assert_array_equal(indices, [1, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(keep, [True, True, True, False, False, False])


@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 0)])
def test_no_boxes(shape):
    indices, keep = to_numpy(km_ops.non_max_suppression(np.zeros((*shape, 4)), np.zeros(shape), max_outputs=3))
    assert indices.shape == (*shape[:-1], 3) and not keep.any()


@pytest.mark.parametrize("num_boxes", [1, 257, 600])
@pytest.mark.parametrize("with_classes", [False, True])
def test_equals_a_greedy_loop(num_boxes, with_classes):
    rng = np.random.default_rng(num_boxes)
    boxes, scores = clusters(rng, 2, num_boxes)
    valid = rng.random((2, num_boxes)) < 0.9
    classes = rng.integers(0, 3, (2, num_boxes)).astype("int32") if with_classes else None
    kept = run(boxes, scores, iou_threshold=0.5, classes=classes, valid=valid)
    for image in range(2):
        own_classes = classes[image] if with_classes else None
        expected = greedy(boxes[image], scores[image], 0.5, own_classes, valid[image])
        assert kept[image] == expected


def test_a_batch_of_two_is_two_batches_of_one():
    boxes, scores = clusters(np.random.default_rng(0), 2, 100)
    classes = (100 * scores).astype("int32") % 2
    together = run(boxes, scores, classes=classes)
    for image in range(2):
        assert together[image] == run(boxes[image], scores[image], classes=classes[image])


@pytest.mark.parametrize("sizes", [(300, 40, 7), (5, 5), (1, 260, 0, 30)])
@pytest.mark.parametrize("most", [10, 1000])
def test_levels_do_not_suppress_each_other(sizes, most):
    rng = np.random.default_rng(3)
    boxes, scores = clusters(rng, 2, sum(sizes))
    valid = rng.random((2, sum(sizes))) > 0.2
    most = min(most, sum(sizes))
    levels = np.repeat(np.arange(len(sizes)), sizes)
    nms = compiled(lambda *args: backend.non_max_suppression_by_level(args[0], args[1], sizes, 0.5, most, args[2]))
    indices, keep = to_numpy(nms(boxes, scores, valid))
    assert keep.shape == (2, most) and np.all(indices[~keep] == 0)
    for i in range(2):
        assert indices[i][keep[i]].tolist() == greedy(boxes[i], scores[i], 0.5, levels, valid[i])[:most]


def test_padding_rows_change_nothing():
    rng = np.random.default_rng(0)
    boxes, scores = clusters(rng, 100)
    padded = np.concatenate([boxes, boxes]), np.concatenate([scores, scores + 1])
    valid = np.arange(200) < 100
    assert run(*padded, valid=valid) == run(boxes, scores)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="its NMS is the reference")
@pytest.mark.parametrize("with_classes", [False, True])
def test_stock_operator_equals_the_reference(with_classes):
    from keras_maskrcnn import backend

    rng = np.random.default_rng(1)
    boxes, scores = (keras.ops.convert_to_tensor(each) for each in clusters(rng, 3, 700))
    classes = keras.ops.convert_to_tensor(rng.integers(0, 4, (3, 700)), "int32")
    args = (boxes, scores, 0.6, 300, classes if with_classes else None, scores > 0.1)
    expected = to_numpy(generic.non_max_suppression(*args))
    for ours, theirs in zip(to_numpy(backend.non_max_suppression(*args)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.tensorflow
@pytest.mark.parametrize("most", [40, 600])
def test_levels_by_the_stock_operator_equal_the_reference(most):
    rng = np.random.default_rng(2)
    boxes, scores = (keras.ops.convert_to_tensor(each) for each in clusters(rng, 2, 700))
    args = (boxes, scores, (500, 150, 50), 0.6, most, scores > 0.1)
    expected = to_numpy(generic.non_max_suppression_by_level(*args))
    assert expected[1].any(axis=1).all() and expected[1].shape == (2, most)
    for ours, theirs in zip(to_numpy(backend.non_max_suppression_by_level(*args)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.tensorflow
def test_number_of_images_and_boxes_may_be_free():
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None))]
    function = tf.function(
        lambda boxes, scores: km_ops.non_max_suppression(boxes, scores, max_outputs=50),
        input_signature=specs,
        autograph=False,
    )
    rng = np.random.default_rng(0)
    for shape in ((1, 30), (2, 80), (1, 0)):
        boxes, scores = clusters(rng, *shape)
        indices, keep = to_numpy(function(boxes, scores))
        for image in range(shape[0]):
            expected = greedy(boxes[image], scores[image], 0.5)[:50]
            assert indices[image][keep[image]].tolist() == expected


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.7"])
def test_equals_torchvision_index_for_index(threshold):
    boxes, scores, classes = (GOLDEN[f"nms_{name}"] for name in ("boxes", "scores", "classes"))
    kept = run(boxes, scores, iou_threshold=float(threshold))
    assert kept == GOLDEN[f"nms_{threshold}"].tolist()
    kept = run(boxes, scores, iou_threshold=float(threshold), classes=classes.astype("int32"))
    assert kept == GOLDEN[f"batched_nms_{threshold}"].tolist()


def test_the_most_boxes_must_be_told_where_their_number_is_not_known():
    boxes, scores = keras.KerasTensor((None, 4)), keras.KerasTensor((None,))
    with pytest.raises(ValueError, match=r"max_outputs=None and boxes \(None, 4\). Pass the most boxes to keep"):
        km_ops.non_max_suppression(boxes, scores)


@pytest.mark.parametrize(
    "boxes, scores, options, words",
    [
        (np.zeros((2, 3, 4)), np.zeros((3,)), {}, "scores"),
        (np.zeros((3, 5)), np.zeros((3,)), {}, r"\(3, 5\)"),
        (np.zeros((3, 4)), np.zeros((3,)), {"iou_threshold": 50}, "0..1"),
    ],
)
def test_wrong_arguments_are_explained(boxes, scores, options, words):
    with pytest.raises(ValueError, match=words):
        km_ops.non_max_suppression(boxes, scores, **options)
