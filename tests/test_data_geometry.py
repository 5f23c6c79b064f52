"""View and Sample: pixels, boxes and masks move together, to the pixel."""

import numpy as np
import pytest
from reader_tools import network_instances

from keras_maskrcnn.data import Instance, MaskWindow, Polygons, Sample
from keras_maskrcnn.data.samples.resampling import resample_mask
from keras_maskrcnn.data.samples.view import View
from keras_maskrcnn.geometry.resizing import resize_bilinear

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def moves():
    """(name, on a view, the same on an array)."""
    return [
        ("horizontal", lambda v: v.flipped_horizontally(), lambda a: a[:, ::-1]),
        ("vertical", lambda v: v.flipped_vertically(), lambda a: a[::-1]),
        ("turn", lambda v: v.turned(), lambda a: np.rot90(a)),
        ("crop", lambda v: v.cropped(1, 2, v.height - 3, v.width - 2), lambda a: a[2:-1, 1:-1]),
    ]


@pytest.mark.parametrize("first", moves(), ids=lambda m: m[0])
@pytest.mark.parametrize("second", moves(), ids=lambda m: m[0])
@pytest.mark.parametrize("third", moves(), ids=lambda m: m[0])
def test_moves_in_any_order_are_exact_on_pixels_and_boxes(first, second, third):
    big = np.random.default_rng(1).integers(0, 256, (17, 19, 3), np.uint8)
    source = big
    marked = np.zeros((17, 19), bool)
    marked[6:9, 7:12] = True
    view = View(17, 19)
    for _, on_view, on_array in (first, second, third):
        view, big, marked = on_view(view), on_array(big), on_array(marked)
    np.testing.assert_array_equal(view.pixels(source), big)
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    box = view.from_image([[7, 6, 12, 9]])[0]
    assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert view.to_image(box[None])[0].tolist() == [7, 6, 12, 9]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_and_orient_follow_numpy(turns, flip):
    view, expected = View(6, 8), IMAGE
    for _ in range(turns):
        view, expected = view.turned(), np.rot90(expected)
    if flip:
        view, expected = view.flipped_horizontally(), expected[:, ::-1]
    np.testing.assert_array_equal(view.pixels(IMAGE), expected)
    np.testing.assert_array_equal(view.orient(IMAGE), expected)
    cropped = view.cropped(2, 1, 4, 3)
    np.testing.assert_array_equal(cropped.pixels(IMAGE), expected[1:5, 2:5])


@pytest.mark.parametrize("size", [(9, 12), (12, 8), (3, 4), (5, 16), (6, 8)])
def test_resized_pixels_are_those_of_prediction(size):
    # Training and prediction must see the same picture: half-pixel bilinear without antialiasing.
    expected = resize_bilinear(IMAGE, size)
    view = View(6, 8).resized(*size)
    assert np.abs(view.pixels(IMAGE) - expected).max() <= 1.001  # uint8 rounding
    turned = view.flipped_vertically().turned()
    assert np.abs(turned.pixels(IMAGE) - np.rot90(expected[::-1])).max() <= 1.001
    part = view.cropped(1, 1, size[0] - 2, size[1] - 2)
    assert np.abs(part.pixels(IMAGE) - expected[1:-1, 1:-1]).max() <= 1.001


def test_resizing_scales_boxes_by_the_rounded_size():
    view = View(6, 8).resized(12, 4)
    assert view.from_image([[2, 3, 4, 6]])[0].tolist() == [1, 6, 2, 12]


def test_a_crop_beyond_the_view_is_an_error():
    with pytest.raises(ValueError, match="inside the view"):
        View(6, 8).cropped(5, 0, 6, 4)


def l_shape():
    """A 4 x 5 L in the 10 x 12 image at (x 3, y 2): a column of 4 and a foot of 5."""
    pixels = np.zeros((4, 5), np.uint8)
    pixels[:, 0] = 1
    pixels[3] = 1
    return Instance(1, np.array([3, 2, 8, 6], np.float32), MaskWindow(pixels, 3, 2))


def sample_of(*instances):
    return Sample.whole(np.zeros((10, 12, 3), np.uint8), instances)


def found(sample, size=20, most=10):
    return network_instances(sample, most, size, np.random.default_rng(0))


def test_a_mask_is_resampled_in_the_frame_of_its_box():
    result = found(sample_of(l_shape()))
    assert result.boxes.tolist() == [[3, 2, 8, 6]] and result.labels.tolist() == [1]
    # 20 cells a side: 4 a column of the L, 5 a row. Cell centres read the pixel they lie in.
    blocks = result.masks[0].reshape(4, 5, 5, 4)
    centres = blocks[:, 2, :, 1:3].max(-1)
    assert centres.tolist() == l_shape().mask.pixels.tolist()
    assert abs(result.masks.mean() - 8 / 20) < 0.03  # 8 of 20 pixels, corners are rounded a little


@pytest.mark.parametrize(
    "on_view, on_array",
    [(m[1], m[2]) for m in moves()[:3]],
    ids=[m[0] for m in moves()[:3]],
)
def test_masks_flip_and_turn_with_the_image(on_view, on_array):
    sample = sample_of(l_shape())
    plain, moved = found(sample), found(sample.with_view(on_view(sample.view)))
    np.testing.assert_array_equal(moved.masks[0], on_array(plain.masks[0]))
    full = np.zeros((10, 12), np.uint8)
    full[2:6, 3:8] = 1
    rows, columns = np.nonzero(on_array(full))
    assert moved.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_crop_recomputes_the_box_from_what_is_visible():
    sample = sample_of(l_shape())
    # Keep image columns 5..12: of the L only the foot (row 5, columns 5..8) is left.
    result = found(sample.with_view(sample.view.cropped(5, 0, 10, 7)), size=4)
    assert result.boxes.tolist() == [[0, 5, 3, 6]]
    assert result.masks[0].all()
    # The same under a resize by two and a flip.
    view = sample.view.cropped(5, 0, 10, 7).resized(20, 14).flipped_horizontally()
    result = found(sample.with_view(view), size=4)
    assert result.boxes.tolist() == [[8, 10, 14, 12]]


def test_a_crop_drops_what_it_does_not_show():
    sample = sample_of(l_shape())
    # Rows 0..5, columns 4..12: inside the box of the L, but none of its pixels.
    result = found(sample.with_view(sample.view.cropped(4, 0, 5, 8)))
    assert result.boxes.shape == (0, 4) and result.masks.shape == (0, 20, 20)
    assert result.num_cut == 0
    # Shrunk to a tenth, the L is 0.4 pixels high.
    assert len(found(sample.with_view(sample.view.resized(1, 1))).boxes) == 0


def test_an_object_without_a_pixel_is_dropped():
    sliver = Instance(0, np.array([2, 2.4, 9, 9.6]), Polygons((np.array([[2, 2.4], [9, 9.4], [9, 9.6], [2, 2.6]]),)))
    result = found(sample_of(sliver, l_shape()))  # between two diagonals of pixel centres
    assert result.boxes.tolist() == [[3, 2, 8, 6]] and result.labels.tolist() == [1]
    # The box ends at x = 8.4, the pixels at 8. Columns 8 to 12, four times as large: 1.6 pixels of the box, no mask.
    square = Instance(0, np.array([3, 2, 8.4, 6]), Polygons((np.array([[3, 2], [8.4, 2], [8.4, 6], [3, 6]]),)))
    sample = sample_of(square)
    large = sample.view.resized(40, 48)
    assert found(sample.with_view(large.cropped(32, 0, 40, 16))).boxes.shape == (0, 4)
    assert found(sample.with_view(large.cropped(28, 0, 40, 20))).boxes.tolist() == [[0, 8, 4, 24]]


def test_a_fractional_box_keeps_its_edges():
    # A box between pixels (as polygons have): the mask is sampled there, the box stays.
    instance = Instance(0, np.array([3.5, 2.25, 8, 6], np.float32), l_shape().mask)
    result = found(sample_of(instance))
    assert result.boxes.tolist() == [[3.5, 2.25, 8, 6]]
    assert result.masks[0][:10, :2].all() and not result.masks[0][:10, 6:].any()


def test_a_mask_is_never_empty():
    # One pixel in a corner of a 100 x 100 box, on 4 cells: its coverage is 0.2 %.
    pixels = np.zeros((100, 100), np.uint8)
    pixels[99, 0] = 1
    mask = resample_mask(MaskWindow(pixels, 0, 0), (0, 0, 100, 100), 4)
    assert mask.sum() == 1 and mask[3, 0] == 1


def test_objects_beyond_the_rows_are_left_out_at_random_but_crowds_stay():
    pixel = np.ones((2, 2), np.uint8)
    instances = [
        Instance(i, np.array([i, 0, i + 2, 2], np.float32), MaskWindow(pixel, i, 0), crowd=i == 5) for i in range(10)
    ]
    sample = sample_of(*instances)
    choices = set()
    for seed in range(20):
        result = network_instances(sample, 4, 2, np.random.default_rng(seed))
        again = network_instances(sample, 4, 2, np.random.default_rng(seed))
        assert result.num_cut == 6 and len(result.boxes) == 4
        assert 5 in result.labels and result.crowd.tolist() == [k == 5 for k in result.labels]
        np.testing.assert_array_equal(result.labels, again.labels)
        choices.update(result.labels.tolist())
    assert choices == set(range(10))
