"""Run-length codes made in the graph: the same text as pycocotools writes for the same mask, and back."""

import os
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from keras_maskrcnn.geometry.pasting import paste_masks, paste_masks_subpixel
from keras_maskrcnn.serving.client import coco_rle, masks_from_rle

tf = pytest.importorskip("tensorflow")
from keras_maskrcnn.serving import rle_in_graph  # noqa: E402  (needs TensorFlow)

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def encode_masks():
    specs = [
        tf.TensorSpec((None, 28, 28), tf.float32), tf.TensorSpec((None, 4), tf.float32),
        tf.TensorSpec((None,), tf.bool), tf.TensorSpec((2,), tf.int32),
    ]  # fmt: skip
    functions = {
        pasting: tf.function(
            lambda *a, pasting=pasting: rle_in_graph.encode_masks(*a, pasting), input_signature=specs, autograph=False
        )
        for pasting in ("subpixel", "torchvision")
    }
    return lambda *arrays, pasting="subpixel": functions[pasting](*arrays).numpy()


def expected_text(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@pytest.fixture(scope="module")
def encode_window():
    specs = [tf.TensorSpec((None, None), tf.bool), *[tf.TensorSpec((), tf.int32)] * 2, tf.TensorSpec((2,), tf.int32)]

    def encode(window, left, top, size):
        return rle_in_graph.run_length_text(rle_in_graph.run_lengths(window, left, top, size))

    return tf.function(encode, input_signature=specs, autograph=False)


@pytest.mark.parametrize(
    "window, left, top",
    [
        (np.zeros((3, 4), bool), 2, 1),
        (np.ones((3, 4), bool), 2, 1),
        (np.ones((7, 9), bool), 0, 0),  # the whole image, last pixel included
        (np.ones((7, 3), bool), 6, 0),  # whole columns at the end: one run over three of them
        (np.eye(7, 9, dtype=bool), 0, 0),
        (np.ones((1, 1), bool), 8, 6),
        (np.zeros((0, 3), bool), 0, 7),
        (np.zeros((2, 0), bool), 9, 0),
    ],
    ids=str,
)
def test_a_window_by_hand(encode_window, window, left, top):
    mask = np.zeros((7, 9), bool)
    mask[top : top + window.shape[0], left : left + window.shape[1]] = window
    assert encode_window(window, left, top, (7, 9)).numpy() == expected_text(mask)


def test_long_runs_and_noise(encode_window):
    """Counts of up to six digits, differences of either sign."""
    rng = np.random.default_rng(0)
    mask = np.zeros((3000, 2000), bool)
    mask[5:2990, 1000:1900:300] = True
    mask[100:140, 200:260] = rng.random((40, 60)) > 0.5
    assert encode_window(mask, 0, 0, mask.shape).numpy() == expected_text(mask)


@pytest.mark.parametrize("pasting, paste", [("subpixel", paste_masks_subpixel), ("torchvision", paste_masks)])
def test_masks_are_pasted_as_the_predictor_pastes_them(encode_masks, pasting, paste):
    rng = np.random.default_rng(1)
    size = (120, 90)
    corners = rng.uniform(0, 1, (14, 2, 2)) * (90, 120)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype("float32")
    boxes[0] = 0, 0, 90, 120
    boxes[1] = 50, 60, 50, 80  # no width
    boxes[2] = 20.2, 30.3, 20.4, 30.4  # between pixel centres
    masks = np.kron(rng.random((14, 7, 7)), np.ones((4, 4))).astype("float32")
    valid = np.arange(14) < 12
    texts = encode_masks(masks, boxes, valid, size, pasting=pasting)
    expected = paste(masks, boxes, size)
    assert expected[:12].any((1, 2)).sum() >= 10
    assert texts.tolist() == [expected_text(mask) for mask in expected[:12]] + [b"", b""]
    np.testing.assert_array_equal(masks_from_rle(texts, size), expected[:12])


def test_the_client_takes_text_and_bytes_and_names_a_code_of_another_image():
    mask = np.zeros((6, 5), bool)
    mask[1:3, 2:] = True
    text = expected_text(mask)
    assert coco_rle([text, text.decode(), b""], [6, 5]) == [{"size": [6, 5], "counts": text.decode()}] * 2
    np.testing.assert_array_equal(masks_from_rle([text], np.array([6, 5])), mask[None])
    with pytest.raises(ValueError, match="30 pixels for an image of 6 x 6.*same row"):
        masks_from_rle([text], [6, 6])
    assert masks_from_rle([b"", b""], [6, 5]).shape == (0, 6, 5)


def test_the_client_needs_no_tensorflow():
    mask = np.zeros((6, 5), bool)
    mask[1:3, 2:] = True
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"  # importing it is an error
        "from keras_maskrcnn.serving import masks_from_rle\n"
        "print(masks_from_rle(sys.argv[1:], [6, 5]).sum())"
    )
    command = [sys.executable, "-c", code, expected_text(mask).decode()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "jax"})
    assert done.stdout.strip() == "6", done.stderr
