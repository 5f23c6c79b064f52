"""The C loops of geometry/native against Pillow, numpy and pycocotools: the same bits, on random and on edge cases."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from keras_maskrcnn.data.samples.sample import Sample
from keras_maskrcnn.data.samples.view import View
from keras_maskrcnn.data.transforms.effects import Recolor
from keras_maskrcnn.geometry import codes, native, polygons, rle
from keras_maskrcnn.geometry.pasting import paste_mask_windows
from keras_maskrcnn.geometry.resizing import resize_bilinear

pytestmark = pytest.mark.skipif(native.load() is None, reason="no native library: was there a compiler?")
PASTINGS = ("subpixel", "torchvision")


def both_ways(monkeypatch, act):
    """What `act` returns with the native library, and without it."""
    with_it = act()
    with monkeypatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        return with_it, act()


def random_rgb(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_enlarged_views_have_pillows_bits(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 70, 2).tolist()
    image = random_rgb(rng, height, width)
    view = View(height, width)
    if seed % 4 == 1 and min(height, width) > 2:
        view = view.cropped(1, 2, height - 2, width - 1)
    view = view.resized(*(int(side * rng.uniform(1, 4)) + 1 for side in (view.height, view.width)))
    view = view.flipped_horizontally() if seed & 1 else view
    view = view.flipped_vertically() if seed & 2 else view
    matrix = rng.normal(0, 0.7, (3, 4)) * [1, 1, 1, 100]
    for recolor in (None, Recolor(matrix), Recolor(matrix * 2.0**20)):
        fast, slow = both_ways(monkeypatch, lambda recolor=recolor: view.pixels(image, recolor=recolor))
        np.testing.assert_array_equal(fast, slow)
    assert native.enlarge_rgb(image, view._box_in(image), (view.width, view.height)) is not None


def test_a_training_size_has_pillows_bits(monkeypatch):
    image = random_rgb(np.random.default_rng(0), 480, 640)
    sample = Sample.whole(image, ()).with_view(View(480, 640).flipped_horizontally().resized(768, 1024))
    sample = sample.recolored([[1.2, 0.1, -0.1, 9.0], [0.0, 0.9, 0.2, -20.0], [0.3, 0.1, 0.8, 3.0]])
    fast, slow = both_ways(monkeypatch, sample.network_image)
    np.testing.assert_array_equal(fast, slow)
    resized = Image.fromarray(image[:, ::-1].copy()).resize((1024, 768), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fast, np.asarray(resized.convert("RGB", tuple(sample.effects[0].matrix.ravel()))))


def test_a_box_moves_to_the_image_as_boxes_do():
    rng = np.random.default_rng(0)
    for _ in range(300):
        view = View(*rng.integers(5, 900, 2).tolist())
        for move in rng.integers(0, 4, rng.integers(0, 5)):
            moves = (view.flipped_horizontally, view.flipped_vertically, view.turned)
            view = moves[move]() if move < 3 else view.resized(*rng.integers(5, 900, 2).tolist())
        box = rng.uniform(-10, 900, 4)
        assert view.box_to_image(box.tolist()) == view.to_image(box[None])[0].tolist()
        turned = view.rotated(rng.uniform(-50, 50))
        np.testing.assert_allclose(turned.box_to_image(box.tolist()), turned.to_image(box[None])[0], atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (5, 7), (33, 64)])
def test_recolouring_has_pillows_bits_and_leaves_its_input(monkeypatch, size):
    rng = np.random.default_rng(size)
    for scale in (0.4, 1.0, 30.0):
        pixels, matrix = random_rgb(rng, *size), rng.normal(0, scale, (3, 4)) * [1, 1, 1, 100]
        before = pixels.copy()
        fast, slow = both_ways(monkeypatch, lambda pixels=pixels, matrix=matrix: Recolor(matrix)(pixels))
        np.testing.assert_array_equal(fast, slow)
        np.testing.assert_array_equal(pixels, before)


def test_recolouring_of_immoderate_matrices_stays_pillows():
    assert native.recolor_rgb(np.zeros((2, 2, 3), np.uint8), np.full((3, 4), 1e9)) is None
    assert native.recolor_rgb(np.zeros((2, 2, 3), np.uint8), np.full((3, 4), np.nan)) is None


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_float_resizing_has_numpys_bits(monkeypatch, channels, dtype):
    rng = np.random.default_rng(channels)
    for _ in range(12):
        source, target = rng.integers(1, 60, 2), rng.integers(1, 90, 2).tolist()
        image = (rng.random((*source, channels)) * 255).astype(dtype)
        fast, slow = both_ways(monkeypatch, lambda image=image, target=target: resize_bilinear(image, target))
        np.testing.assert_array_equal(fast, slow)
        assert fast.dtype == np.float32
        canvas = np.full((target[0] + 1, target[1] + 2, channels), -1, np.float32)
        assert resize_bilinear(image, target, out=canvas[: target[0], : target[1]]).base is canvas
        np.testing.assert_array_equal(canvas[: target[0], : target[1]], slow)
        assert (canvas[target[0] :] == -1).all() and (canvas[:, target[1] :] == -1).all()


def random_detections(rng, count, size, cells):
    """Masks and boxes of all kinds: across the border, outside, thin, of no size, smooth and noisy."""
    height, width = size
    masks = rng.random((count, cells, cells), np.float32)
    ramps = np.linspace(0, 1, cells, dtype=np.float32)[None, :, None] * rng.random((count, 1, cells), np.float32)
    masks = np.where(rng.random((count, 1, 1)) < 0.5, masks, ramps)
    masks[rng.random(count) < 0.1] = 0
    masks[rng.random(count) < 0.1] = 1
    masks[rng.random(count) < 0.1] = 0.5
    corner = rng.uniform(-0.3, 1.1, (count, 2)) * (width, height)
    extent = rng.choice([0, 0.2, 3, 0.4 * width, 1.5 * width], (count, 2)) * rng.uniform(0.5, 1, (count, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1)
    boxes[rng.random(count) < 0.3] = np.rint(boxes[rng.random(count) < 0.3][:1]) if count else 0
    boxes[rng.random(count) < 0.1] = (0, 0, width, height)
    return masks.astype(np.float32), boxes.astype(np.float32)


@pytest.mark.parametrize("pasting", PASTINGS)
@pytest.mark.parametrize("size", [(37, 53), (1, 60), (60, 1), (1, 1), (200, 300)])
@pytest.mark.parametrize("cells", [1, 2, 28])
def test_codes_are_those_of_the_pasted_windows(pasting, size, cells):
    rng = np.random.default_rng([*size, cells])
    masks, boxes = random_detections(rng, 150, size, cells)
    for threshold in (0.5, 0.0, 0.9):
        windows = paste_mask_windows(masks, boxes, size, threshold, pasting)
        expected = [codes.window_code(*window, size) for window in windows]
        assert codes.paste_codes(masks, boxes, size, threshold, pasting) == expected
    for code, (window, x, y) in zip(expected, windows, strict=True):
        decoded = coco_mask.decode({"size": list(size), "counts": code})
        whole = np.zeros(size, np.uint8)
        whole[y : y + window.shape[0], x : x + window.shape[1]] = window
        np.testing.assert_array_equal(decoded, whole)


def test_few_codes_are_left_to_numpy():
    rng = np.random.default_rng(0)
    masks, boxes = rng.random((400, 28, 28), np.float32), np.tile(np.float32([10.3, 5.2, 90.1, 71.7]), (400, 1))
    _, near = native.paste_codes(masks, boxes, (100, 120), 0.5, False)
    assert near.mean() < 0.05


def test_a_mask_at_the_threshold_everywhere_is_left_to_numpy():
    found, near = native.paste_codes(
        np.full((1, 4, 4), 0.5, np.float32), np.float32([[2, 2, 9, 9]]), (12, 12), 0.5, False
    )
    assert near.tolist() == [True] and len(found) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_left_to_numpy(value):
    masks, boxes = np.ones((1, 2, 2), np.float32), np.float32([[0, 0, 4, 4]])
    assert native.paste_codes(np.full_like(masks, value), boxes, (5, 5), 0.5, False) is None
    assert native.paste_codes(masks, np.full_like(boxes, value), (5, 5), 0.5, False) is None


def test_no_detections_have_no_codes():
    assert codes.paste_codes(np.zeros((0, 28, 28)), np.zeros((0, 4)), (5, 6)) == []


@pytest.mark.parametrize("seed", range(20))
def test_runs_have_numpys_values(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, 2).tolist()
    mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    fast, slow = both_ways(monkeypatch, lambda: rle.parse_counts(text))
    np.testing.assert_array_equal(fast, slow)
    fast = fast.astype(rng.choice([np.int32, np.int64]))
    fast_box, slow_box = both_ways(monkeypatch, lambda: rle.extent(fast, height))
    assert (None if fast_box is None else fast_box.tolist()) == (None if slow_box is None else slow_box.tolist())
    x, y = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
    for box in ([0, 0, width, height], [x[0], y[0], x[1], y[1]]):
        window, other = both_ways(monkeypatch, lambda box=box: rle.decode_window(fast, height, box))
        np.testing.assert_array_equal(window, other)
        np.testing.assert_array_equal(window, mask[box[1] : box[3], box[0] : box[2]])


@pytest.mark.parametrize("text", [b"", b"o", b"0o", b"\x00", b"p1", b"0 1", b"oooooooo0", b"?", b"00000000N"])
def test_damaged_codes_have_numpys_message(monkeypatch, text):
    def message():
        try:
            return rle.parse_counts(text).tolist()
        except ValueError as error:
            return str(error)

    fast, slow = both_ways(monkeypatch, message)
    assert fast == slow


def test_polygons_have_the_same_runs(monkeypatch):
    rng = np.random.default_rng(5)
    for _ in range(20):
        part = rng.uniform(-10, 80, (rng.integers(3, 30), 2))
        fast, slow = both_ways(monkeypatch, lambda part=part: polygons.union_runs([part, part[:3] + 5], 60, 50))
        np.testing.assert_array_equal(fast, slow)
        assert fast.sum() == 3000


def test_the_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    assert native.load.__wrapped__() is None


def test_a_library_that_does_not_load_is_named(monkeypatch, tmp_path):
    (tmp_path / "_host.broken.so").write_text(json.dumps("no library"))
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    with pytest.warns(UserWarning, match=r"_host\.broken\.so cannot be loaded"):
        assert native.load.__wrapped__() is None


def test_a_library_of_other_sources_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "_INTERFACE", -1)
    with pytest.warns(UserWarning, match="built from other sources; build it again"):
        assert native.load.__wrapped__() is None
