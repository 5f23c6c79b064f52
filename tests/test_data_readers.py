"""The other datasets: Data Science Bowl folders, arrays in memory, generated shapes."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn.data import ArrayDataset, CocoDataset, DsbDataset, generate_shapes
from keras_maskrcnn.data.shapes import draw_shapes


def blobs(*boxes, shape=(20, 30)):
    masks = np.zeros((len(boxes), *shape), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 255
    return masks


def save_id(folder, name, masks, size=(20, 30)):
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "masks").mkdir()
    rgba = np.full((*size, 4), 90, np.uint8)
    Image.fromarray(rgba).save(folder / name / "images" / f"{name}.png")
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / name / "masks" / f"{number}.png")


def test_dsb_folders_give_boxes_masks_and_images(tmp_path):
    save_id(tmp_path, "bbb", blobs((2, 3, 8, 9), (10, 0, 30, 20)))
    save_id(tmp_path, "aaa", [])
    dataset = DsbDataset(tmp_path)
    assert dataset.class_names == ("nucleus",) and dataset.image_ids == [1, 2]
    assert dataset[0].instances == () and dataset.image_sizes == [(20, 30), (20, 30)]
    boxes = [instance.box.tolist() for instance in dataset[1].instances]
    assert boxes == [[2, 3, 8, 9], [10, 0, 30, 20]]
    window = dataset[1].instances[0].mask.window(20, 30)
    assert (window.x, window.y) == (2, 3) and window.pixels.tolist() == [[1] * 6] * 6
    assert dataset.load_image(1).tolist() == [[[90] * 3] * 30] * 20
    assert [a["area"] for a in dataset.to_coco()["annotations"]] == [36, 400]


def test_dsb_faults_are_named_or_skipped(tmp_path):
    save_id(tmp_path, "good", blobs((2, 3, 8, 9)))
    save_id(tmp_path, "odd", [*blobs((0, 0, 5, 5)), *blobs((0, 0, 5, 5), shape=(20, 31))])
    save_id(tmp_path, "void", blobs((0, 0, 0, 0)))
    (tmp_path / "lost" / "masks").mkdir(parents=True)
    save_id(tmp_path, "torn", [])
    (tmp_path / "torn" / "images" / "torn.png").write_bytes(b"no image")
    words = ["20 x 31", "void", "lost", "one image is expected", "torn.png"]
    with pytest.raises(ValueError) as caught:
        DsbDataset(tmp_path)
    assert all(word in str(caught.value) for word in words)
    with pytest.warns(UserWarning, match="Left out 4"):
        dataset = DsbDataset(tmp_path, on_error="skip")
    assert [len(record.instances) for record in dataset.records] == [1, 1, 0]


def test_dsb_needs_a_folder_with_images(tmp_path):
    with pytest.raises(ValueError, match="stage1_train"):
        DsbDataset(tmp_path / "nothing")
    with pytest.raises(ValueError, match="at least one usable image"):
        DsbDataset(tmp_path)


def test_arrays_become_a_dataset():
    images = [np.full((20, 30, 3), 7, np.uint8), np.zeros((20, 30), np.uint8)]
    dataset = ArrayDataset(
        images,
        [blobs((2, 3, 8, 9), (0, 0, 4, 4)), []],
        [[1, 0], []],
        [[False, True], []],
        ("a", "b"),
    )
    first = dataset[0].instances
    assert [(i.label, i.crowd, i.box.tolist()) for i in first] == [
        (1, False, [2, 3, 8, 9]),
        (0, True, [0, 0, 4, 4]),
    ]
    assert dataset.load_image(1).shape == (20, 30, 3) and dataset.category_ids == (1, 2)
    assert dataset.to_coco()["annotations"][0]["bbox"] == [2, 3, 6, 6]


@pytest.mark.parametrize(
    "masks, labels, message",
    [
        ([blobs((0, 0, 5, 5), shape=(20, 31))], None, r"size of its image, \(20, 30\).*\(20, 31\)"),
        ([blobs((0, 0, 0, 0))], None, "empty"),
        ([blobs((0, 0, 5, 5))], [[1]], "Received 1 for object 0 of image 1"),
        ([blobs((0, 0, 5, 5))], [[]], "1 masks, 0 labels"),
        ([], None, "one entry per image"),
    ],
)
def test_arrays_that_disagree_are_errors(masks, labels, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset([np.zeros((20, 30, 3), np.uint8)], masks, labels)


def test_shapes_are_repeatable_and_read_back(tmp_path):
    path = generate_shapes(tmp_path / "a", 6, image_size=(64, 96), seed=3)
    again = generate_shapes(tmp_path / "b", 6, image_size=(64, 96), seed=3)
    other = generate_shapes(tmp_path / "c", 6, image_size=(64, 96), seed=4)
    assert path.read_text() == again.read_text() != other.read_text()
    dataset = CocoDataset(path, path.parent / "images")
    twin = CocoDataset(again, again.parent / "images")
    assert len(dataset) == 6 and dataset.class_names == ("circle", "square", "triangle")
    for index in range(6):
        np.testing.assert_array_equal(dataset.load_image(index), twin.load_image(index))
        assert dataset.load_image(index).shape == (64, 96, 3)


def test_shapes_have_the_masks_they_show(tmp_path):
    path = generate_shapes(tmp_path, 30, image_size=64, seed=0)
    dataset = CocoDataset(path, path.parent / "images")
    labels = set()
    for index, record in enumerate(dataset.records):
        image = dataset.load_image(index).astype(float)
        covered = np.zeros((64, 64), int)
        assert 1 <= len(record.instances) <= 5
        for instance in record.instances:
            labels.add(instance.label)
            window = instance.mask.window(64, 64)
            part = np.zeros((64, 64), bool)
            height, width = window.pixels.shape
            part[window.y : window.y + height, window.x : window.x + width] = window.pixels
            covered += part
            assert part.sum() >= 15
            # One colour with noise of 12, cut at 0 and 255.
            assert image[part].std(0).max() < 20
        assert covered.max() == 1  # visible masks never overlap
        background = image[covered == 0]
        assert background.std(0).max() < 20
    assert labels == {0, 1, 2}
    assert all(a["area"] == int(a["area"]) for a in json.loads(path.read_text())["annotations"])


def test_shapes_that_cannot_be_drawn_are_errors(tmp_path):
    with pytest.raises(ValueError, match="image_size=16"):
        generate_shapes(tmp_path, 1, image_size=16)


def test_a_shape_without_room_is_left_out():
    """A later shape hides at most 60 % of an earlier one; the smallest is a triangle of a tenth of the image's side."""
    smallest = 0.4 * (3 * np.sqrt(3) / 4) * 3.2**2
    for seed, asked in ((1, 40), (2, 36), (3, 58)):
        _, labels, masks = draw_shapes((32, 32), 60, np.random.default_rng(seed))
        assert 10 <= len(masks) == len(labels) < asked
        assert np.sum(masks, axis=0).max() == 1 and min(mask.sum() for mask in masks) >= smallest - 1
