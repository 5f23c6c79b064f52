"""Augmentation keeps image, boxes and masks together: properties that every transform must have.

The picture of these tests is made of coordinates: red holds the column, green the row of each pixel, so
that the transformed picture says for each of its pixels where it came from.
"""

import concurrent.futures
import dataclasses
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFilter
from reader_tools import network_instances

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import (
    ArrayDataset,
    CopyPaste,
    DataLoader,
    LargeScaleJitter,
    Polygons,
    RandomApply,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    RandomRotation,
    Resize,
    Sample,
    ScaleJitter,
    preset,
)
from keras_maskrcnn.data.readers.arrays import crop_mask
from keras_maskrcnn.data.records import Instance, RunLengths
from keras_maskrcnn.data.samples.view import FILL
from keras_maskrcnn.geometry.pasting import paste_mask_windows
from keras_maskrcnn.geometry.rle import encode_window

HEIGHT, WIDTH = 200, 240
CELLS = 112


def shapes():
    """Bool (H, W) masks: a disc, a leaning ellipse, a ring, a bar at the border. Without points: a tip
    thinner than a pixel is in the mask or not, as one looks at it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    disc = (x - 70) ** 2 + (y - 60) ** 2 < 45**2
    leaning = ((x - 130 + y - 145) / 60) ** 2 + ((x - 130 - y + 145) / 30) ** 2 < 1
    far = (x - 170) ** 2 + (y - 80) ** 2
    ring = (far < 50**2) & (far > 25**2)
    bar = (x < 40) & (y > 150)
    return [disc, leaning, ring, bar]


def instance_of(mask, label=0, form=lambda window: window, **fields):
    box, window = crop_mask(mask, mask.shape, "a test's mask")
    return Instance(label, box, form(window), **fields)


def coordinates():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(WIDTH)[None], np.arange(HEIGHT)[:, None]
    return image


def sample_of(masks, form=lambda window: window):
    return Sample.whole(coordinates(), [instance_of(mask, k, form) for k, mask in enumerate(masks)])


def as_run_lengths(window):
    return RunLengths(encode_window(window.pixels, window.x, window.y, HEIGHT, WIDTH))


def other_sample():
    """An image of another size whose objects are told by blue."""
    image = np.zeros((150, 120, 3), np.uint8)
    mask = np.zeros((150, 120), bool)
    mask[40:75, 30:80] = True
    image[mask] = (0, 0, 255)
    return Sample.whole(image, [instance_of(mask, label=9)])


def pasted(masks, size):
    """Each network mask in full: bool (n, h, w)."""
    full = np.zeros((len(masks.boxes), *size), bool)
    for plane, (window, x, y) in zip(full, paste_mask_windows(masks.masks, masks.boxes, size), strict=True):
        plane[y : y + window.shape[0], x : x + window.shape[1]] = window
    return full


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def found(sample, size=CELLS):
    return network_instances(sample, 20, size, np.random.default_rng(0))


GEOMETRY = {
    "flip": [RandomFlip(True, True)],
    "quarter": [RandomRotate90()],
    "turn": [RandomRotation(180)],
    "crop": [RandomCrop(130)],
    "scale": [ScaleJitter(0.5, 2.0)],
    "jitter": [LargeScaleJitter(0.4, 2.0)],
    "window": [Resize(160, 160), LargeScaleJitter(0.5, 2.0, window=128)],
    "all": [ScaleJitter(0.6, 1.6), RandomRotation(40), RandomCrop(150), RandomFlip(), RandomRotate90()],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_moved_coordinates_agree_with_moved_masks_and_boxes(name):
    masks = np.stack(shapes())
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sample = sample_of(masks, as_run_lengths if seed % 2 else lambda window: window)
        for transform in GEOMETRY[name]:
            sample = transform(sample, rng)
        image = sample.network_image().astype(int)
        inside = image[..., 2] < FILL // 2  # blue is 0 in the picture
        sources = masks[:, np.clip(image[..., 1], 0, HEIGHT - 1), np.clip(image[..., 0], 0, WIDTH - 1)] & inside
        result = found(sample)
        expected = [k for k, mask in enumerate(sources) if mask.sum() >= 12]
        certain = [label for label in result.labels if sources[label].sum() >= 12]
        assert certain == expected  # none lost, none invented
        for label, box, mask in zip(result.labels, result.boxes, pasted(result, sample.size), strict=True):
            if sources[label].sum() < 400:
                continue
            np.testing.assert_allclose(box, box_of(mask), atol=1.01)
            # The coordinates are rounded to whole pixels, so borders may be off by one source pixel.
            slack = max(1.0, sample.view.zoom) + 0.51
            np.testing.assert_allclose(box, box_of(sources[label]), atol=slack)
            border = _border(sources[label], int(np.ceil(slack)))
            assert (mask == sources[label])[~border].mean() > 0.999


def _border(mask, width):
    image, size = Image.fromarray(mask.astype(np.uint8)), 2 * width + 1
    return np.asarray(image.filter(ImageFilter.MaxFilter(size))) != np.asarray(
        image.filter(ImageFilter.MinFilter(size))
    )


INVERSES = {
    "horizontal": (lambda v: v.flipped_horizontally(), lambda v: v.flipped_horizontally()),
    "vertical": (lambda v: v.flipped_vertically(), lambda v: v.flipped_vertically()),
    "quarter": (lambda v: v.turned(), lambda v: v.turned().turned().turned()),
    "turn": (lambda v: v.rotated(33), lambda v: v.rotated(-33)),
    "half turn": (lambda v: v.rotated(180), lambda v: v.turned().turned()),
    "enlarge": (lambda v: v.resized(330, 411), lambda v: v.resized(HEIGHT, WIDTH)),
    "enlarge and turn": (lambda v: v.resized(400, 480).rotated(-70), lambda v: v.rotated(70).resized(HEIGHT, WIDTH)),
}


@pytest.mark.parametrize("name", INVERSES)
def test_a_transform_and_its_inverse_return_the_mask(name):
    there, back = INVERSES[name]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    # In the middle, so that no turn pushes it out of the frame.
    masks = [(x - 120) ** 2 + (y - 100) ** 2 < 55**2, (np.abs(x - 120) < 50) & (np.abs(y - 95) < 40) & (x + y > 190)]
    sample = sample_of(masks)
    moved = sample.with_view(there(sample.view)).rendered()  # resampled once,
    returned = moved.with_view(back(moved.view)).rendered()  # and once more
    assert returned.size == (HEIGHT, WIDTH)
    full = pasted(found(returned), returned.size)
    for instance, mask, cells in zip(returned.instances, masks, full, strict=True):
        window = instance.mask
        plane = np.zeros_like(mask)
        plane[window.y : window.y + window.pixels.shape[0], window.x : window.x + window.pixels.shape[1]] = (
            window.pixels
        )
        assert iou(plane, mask) >= 0.98 and iou(cells, mask) >= 0.98
        np.testing.assert_allclose(instance.box, box_of(mask), atol=1.01)


def test_a_free_turn_of_90_degrees_is_the_quarter_turn():
    square = Sample.whole(coordinates()[:, :HEIGHT], [instance_of(shapes()[0][:, :HEIGHT])])
    free, quarter = square.with_view(square.view.rotated(90)), square.with_view(square.view.turned())
    assert np.abs(free.network_image().astype(int) - quarter.network_image()).max() <= 1
    np.testing.assert_allclose(found(free).boxes, found(quarter).boxes, atol=0.01)
    assert iou(found(free).masks > 0, found(quarter).masks > 0) > 0.99


def test_polygons_turn_as_their_pixels_do():
    corners = np.array([[60.0, 40], [160, 50], [150, 150], [70, 140]])
    polygon = Instance(0, np.array([60, 40, 160, 150], np.float32), Polygons((corners,)))
    turned = Sample.whole(coordinates(), [polygon])
    turned = turned.with_view(turned.view.rotated(25))
    cos, sin = np.cos(np.radians(25)), np.sin(np.radians(25))
    middle = np.array([WIDTH, HEIGHT]) / 2
    expected = (corners - middle) @ np.array([[cos, -sin], [sin, cos]]) + middle
    np.testing.assert_allclose(found(turned).boxes[0], [*expected.min(0), *expected.max(0)], atol=1.0)


def test_cut_objects_below_the_visible_share_are_ignored_and_above_it_kept():
    bar = np.zeros((HEIGHT, WIDTH), bool)
    bar[50:60, 20:120] = True  # 100 long: a crop that begins at x leaves 120 - x of it
    sample = sample_of([bar])
    for x, crowd in ((0, False), (60, False), (90, False), (105, True), (115, True)):
        view = sample.view.cropped(x, 0, HEIGHT, WIDTH - x)
        result = found(sample.with_view(view, min_visible=0.2))
        assert result.crowd.tolist() == [crowd], x
        assert result.boxes[0].tolist() == [max(0, 20 - x), 50, 120 - x, 60]
        turned = found(sample.with_view(view.rotated(0.1), min_visible=0.2))  # the other way of looking
        assert turned.crowd.tolist() == [crowd], x
    assert found(sample.with_view(sample.view.cropped(120, 0, 100, 100), min_visible=0.2)).labels.size == 0
    assert not found(sample.with_view(sample.view.cropped(115, 0, 100, 100))).crowd.any()  # nobody asked for a share


def test_degenerate_objects_go_and_crowds_stay():
    thin, crowd = np.zeros((2, HEIGHT, WIDTH), bool)
    thin[100:103, 20:60] = True
    crowd[20:90, 30:200] = True
    instances = (instance_of(thin, 1), instance_of(crowd, 2, crowd=True), instance_of(shapes()[1], 3))
    sample = Sample.whole(coordinates(), instances)
    small = found(sample.with_view(sample.view.resized(HEIGHT // 10, WIDTH // 10)))  # 0.3 pixels thick
    assert small.labels.tolist() == [2, 3] and small.crowd.tolist() == [True, False]
    small = found(sample.with_view(sample.view.resized(HEIGHT // 10, WIDTH // 10).rotated(10)))
    assert small.labels.tolist() == [2, 3] and small.crowd.tolist() == [True, False]
    # A region to ignore is one however little of it is left.
    cut = found(sample.with_view(sample.view.cropped(195, 0, HEIGHT, 45), min_visible=0.5))
    assert cut.labels.tolist() == [2] and cut.crowd.tolist() == [True]


def test_small_objects_outlive_shrinking():
    # 12 x 12 pixels at a tenth are 1.2: the points that are read could all miss them.
    masks = []
    for k in range(60):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        y, x = 15 * (k // 12) + 3, 17 * (k % 12) + 2
        mask[y : y + 12, x : x + 12] = True
        masks.append(mask)
    sample = sample_of(masks)
    sample = sample.with_view(sample.view.resized(HEIGHT // 10, WIDTH // 10))
    assert len(network_instances(sample, 99, 8, np.random.default_rng(0)).boxes) == 60
    assert len(sample.rendered().instances) == 60
    assert all(instance.mask.pixels.any() for instance in sample.rendered().instances)


def test_images_without_objects_pass_every_preset():
    empty = Sample.whole(coordinates(), [])
    empty = dataclasses.replace(empty, draw=lambda rng: empty)
    config = MaskRCNNConfig(num_classes=1, image_scale=1.0)
    for name in ("none", "flip", "light", "strong"):
        for seed in range(6):
            rng = np.random.default_rng(seed)
            sample = empty
            for transform in preset(name, config, any_way_up=True):
                sample = transform(sample, rng)
            assert found(sample).boxes.shape == (0, 4)
            assert sample.network_image().shape == (*sample.size, 3)


# copy-paste ------------------------------------------------------------------------------------------------


def painted_sample(count, size, seed, label):
    """Discs in colours of their own, the later ones on top, with modal masks; colour (k + 1, label, 0)."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    for k in range(count):
        disc = (x - rng.integers(size[1])) ** 2 + (y - rng.integers(size[0])) ** 2 < rng.integers(8, 20) ** 2
        image[disc] = (k + 1, label, 0)
    seen = [k for k in range(count) if (image[..., 0] == k + 1).any()]
    return Sample.whole(image, [instance_of(image[..., 0] == k + 1, label, annotation_id=k) for k in seen])


def test_pasted_objects_cover_and_every_mask_is_what_shows_of_its_colour():
    mixed = 0
    for seed in range(12):
        base = painted_sample(9, (90, 110), seed, label=1)
        base = dataclasses.replace(base, draw=lambda rng, seed=seed: painted_sample(6, (70, 160), 100 + seed, 2))
        result = CopyPaste(min_visible=0.3)(base, np.random.default_rng(seed))
        image = result.image
        whole = {(1, i.annotation_id): i.mask.pixels.sum() for i in base.instances}
        kept = set()
        for instance in result.instances:
            mask = np.zeros(result.size, bool)
            window = instance.mask
            mask[window.y : window.y + window.pixels.shape[0], window.x : window.x + window.pixels.shape[1]] = (
                window.pixels
            )
            color = (instance.annotation_id + 1, instance.label, 0)
            np.testing.assert_array_equal(mask, (image == color).all(-1))
            assert instance.box.tolist() == box_of(mask)
            kept.add((instance.label, instance.annotation_id))
        for (label, number), area in whole.items():
            left = (image == (number + 1, label, 0)).all(-1).sum()
            assert ((label, number) in kept) == (left >= 0.3 * area)  # vanishes below the share, and only then
        assert {i.annotation_id for i in base.instances} >= {n for label, n in kept if label == 1}
        mixed += any(label == 2 for label, _ in kept)
    assert mixed == 12


def test_copy_paste_keeps_to_the_rows_and_leaves_crowds():
    base = painted_sample(9, (90, 110), 0, label=1)
    crowd = np.zeros((90, 110), bool)
    crowd[:80, :80] = True
    base = dataclasses.replace(base, instances=(instance_of(crowd, 5, crowd=True), *base.instances))
    other = painted_sample(8, (60, 60), 1, label=2)
    other = dataclasses.replace(other, instances=(*other.instances, instance_of(crowd[:60, :60], 6, crowd=True)))
    base = dataclasses.replace(base, draw=lambda rng: other)
    for seed in range(10):
        result = CopyPaste(most=len(base.instances) + 2, min_visible=0.0)(base, np.random.default_rng(seed))
        labels = [instance.label for instance in result.instances]
        assert 1 <= labels.count(2) <= 2 and labels.count(6) == 0
        assert [i.crowd for i in result.instances].count(True) == 1 and labels[0] == 5
    full = CopyPaste(most=len(base.instances))(base, np.random.default_rng(0))
    np.testing.assert_array_equal(full.image, base.image)


def test_what_does_not_fit_is_not_pasted_and_blending_stays_at_the_edge():
    base = Sample.whole(np.full((30, 30, 3), 10, np.uint8), [])
    base = dataclasses.replace(base, draw=lambda rng: other_sample())  # its object is 35 x 50
    assert not CopyPaste()(base, np.random.default_rng(0)).instances
    large = dataclasses.replace(base, image=np.full((90, 90, 3), 10, np.uint8))
    large = dataclasses.replace(large, view=Sample.whole(large.image, []).view)
    plain = CopyPaste()(large, np.random.default_rng(0))
    blended = CopyPaste(blend=1.0)(large, np.random.default_rng(0))
    x1, y1, x2, y2 = plain.instances[0].box.astype(int)
    assert (x2 - x1, y2 - y1) == (50, 35)
    np.testing.assert_array_equal(plain.image[y1:y2, x1:x2], np.broadcast_to([0, 0, 255], (35, 50, 3)))
    different = (plain.image != blended.image).any(-1)
    assert different[y1, x1 + 10] and not different[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5].any()
    assert plain.instances[0].box.tolist() == blended.instances[0].box.tolist()


def test_an_object_as_long_as_the_image_lands_in_it():
    # Its box, between pixels as polygons' are, is 30 long; it fills 31 columns: one too many.
    polygon = Polygons((np.array([[3.5, 2.0], [33.5, 2.0], [33.5, 9.0], [3.5, 9.0]]),))
    other = Sample.whole(
        np.zeros((20, 40, 3), np.uint8), [Instance(0, np.array([3.5, 2, 33.5, 9], np.float32), polygon)]
    )
    columns = other.objects()[0].rendered().mask.pixels.any(0).sum()
    for width in (29, 30, 31, 32):
        base = Sample.whole(np.zeros((20, width, 3), np.uint8), [])
        base = dataclasses.replace(base, draw=lambda rng: other)
        for seed in range(5):
            result = CopyPaste()(base, np.random.default_rng(seed))
            assert len(result.instances) == (width >= columns)


def test_copy_paste_without_a_loader_says_so():
    with pytest.raises(ValueError, match="function `draw`.*DataLoader"):
        CopyPaste()(sample_of(shapes()), np.random.default_rng(0))


# in the loader ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(6)]
    return ArrayDataset(images, [shapes()[: k % 5] for k in range(6)])


def config_of(**changes):
    return MaskRCNNConfig(num_classes=1, class_names=("object",), image_scale=0.5, max_instances=10, **changes)


@pytest.mark.parametrize("name", ["light", "strong"])
def test_presets_give_the_same_batches_from_1_and_4_threads(dataset, name):
    def batches(threads, seed=3):
        loader = DataLoader(dataset, config_of(), 2, shuffle=True, seed=seed, augmentation=name, cache_bytes=0)
        assert loader.canvas == (128, 128)  # of 100 x 120 pixels: augmentation has not enlarged it
        loader.set_epoch(2)
        order = [0, 1, 2] if threads == 1 else [2, 0, 1]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return dict(zip(order, pool.map(loader.__getitem__, order), strict=True))

    one, four, other = batches(1), batches(4), batches(1, seed=4)
    for index, batch in one.items():
        for key, value in batch.items():
            np.testing.assert_array_equal(value, four[index][key], err_msg=key)
        assert (batch["images"] != other[index]["images"]).any()


def test_augmentation_follows_the_resizing(dataset):
    by_list = DataLoader(dataset, config_of(), 1, augmentation=[RandomFlip()], seed=1)
    by_name = DataLoader(dataset, config_of(), 1, augmentation="flip", seed=1)
    plain = DataLoader(dataset, config_of(), 1)
    flipped = 0
    for index in range(6):
        image, width = plain[index]["images"][0], plain[index]["image_sizes"][0, 1]
        seen = by_list[index]["images"][0]
        np.testing.assert_array_equal(seen, by_name[index]["images"][0])
        mirrored = (seen != image).any()
        flipped += mirrored
        np.testing.assert_array_equal(seen[:, :width], image[:, :width][:, ::-1] if mirrored else image[:, :width])
    assert 0 < flipped < 6
    with pytest.raises(ValueError, match="none, flip, light, strong.*'heavy'"):
        DataLoader(dataset, config_of(), 1, augmentation="heavy")


def test_probabilities_and_bounds_of_a_list():
    sample = sample_of(shapes())
    turn = RandomApply(RandomRotate90(), 0.25)
    turned = sum(turn(sample, np.random.default_rng(k)).view.matrix != sample.view.matrix for k in range(800))
    assert 110 < turned < 190  # 0.25 * 3 / 4 of 800 is 150
    assert RandomApply(RandomCrop(64), 0.5).bound(100, 50) == (100, 64)
    assert LargeScaleJitter().bound(100, 50) == (100, 50) and LargeScaleJitter(window=64).bound(100, 50) == (64, 64)
    with pytest.raises(ValueError, match="0..1. Received 30"):
        RandomApply(RandomFlip(), 30)


def test_large_scale_jitter_is_uniform_in_scale_and_pads_or_cuts_to_its_window():
    zooms = []
    for seed in range(400):
        sample = LargeScaleJitter()(sample_of([]), np.random.default_rng(seed))
        zooms.append(sample.view.zoom)
        expected = [min(side, round(side * zooms[-1])) for side in (HEIGHT, WIDTH)]
        np.testing.assert_allclose(sample.size, expected, atol=1)
    assert min(zooms) > 0.09 and max(zooms) < 2.01
    assert abs(np.mean(np.array(zooms) < 0.1 + 1.9 / 2) - 0.5) < 0.07


def test_masks_are_never_a_stack_of_whole_images():
    # 100 objects on 2000 x 3000 pixels would be 600 MB as a stack; here also turned and pasted.
    squares = []
    for k in range(100):
        x, y = 10 + 295 * (k % 10), 10 + 195 * (k // 10)
        corners = np.array([[x, y], [x + 60, y], [x + 60, y + 50], [x, y + 50]], float)
        squares.append(Instance(0, np.array([x, y, x + 60, y + 50], np.float32), Polygons((corners,))))
    sample = Sample.whole(np.zeros((2000, 3000, 3), np.uint8), squares)
    sample = dataclasses.replace(sample, draw=lambda rng: sample)
    steps = (Resize(400, 666), RandomRotation(20))
    tracemalloc.start()
    for transform in (*steps, CopyPaste(steps, most=200)):
        sample = transform(sample, np.random.default_rng(0))
    result = network_instances(sample, 200, 28, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result.boxes) > 80
    assert peak < 60e6
