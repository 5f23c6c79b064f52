"""The data contract: what check_batch accepts, and what it says about each thing that is wrong."""

import numpy as np
import pytest

from keras_maskrcnn.batch import check_batch, empty_batch, fill_row, has_ground_truth
from keras_maskrcnn.config import MaskRCNNConfig

CONFIG = MaskRCNNConfig(num_classes=2, gt_mask_size=4)


def good_batch():
    batch = empty_batch(2, (32, 64), 3, CONFIG)
    image = np.full((20, 50, 3), 7, np.uint8)
    boxes = np.array([[1, 2, 11, 12], [0, 0, 50, 20]], np.float32)
    masks = np.ones((2, 4, 4), np.uint8)
    truth = {"gt_boxes": boxes, "gt_labels": [0, 1], "gt_masks": masks, "gt_crowd": [False, True]}
    fill_row(batch, 0, image, truth)
    fill_row(batch, 1, image, {name: values[:0] for name, values in truth.items()})
    return batch


def test_fill_row_pads_at_right_and_bottom_and_marks_rows():
    batch = good_batch()
    assert batch["images"][0, :20, :50].min() == 7
    assert batch["images"][0, 20:].max() == 0 and batch["images"][0, :, 50:].max() == 0
    assert batch["image_sizes"].tolist() == [[20, 50], [20, 50]]
    assert batch["gt_valid"].tolist() == [[True, True, False], [False] * 3]
    assert batch["gt_crowd"].tolist() == [[False, True, False], [False] * 3]
    assert batch["gt_boxes"][0, 2].tolist() == [0, 0, 0, 0]


def test_a_good_batch_passes_unchanged():
    batch = good_batch()
    checked = check_batch(batch, CONFIG)
    assert has_ground_truth(checked)
    for key, value in batch.items():
        np.testing.assert_array_equal(checked[key], value)


def test_images_alone_are_a_batch_for_inference():
    checked = check_batch(np.zeros((2, 32, 64, 3), np.float32))
    assert not has_ground_truth(checked)
    assert checked["image_sizes"].tolist() == [[32, 64], [32, 64]]


def changed(key, value):
    def change(batch):
        batch[key] = value(batch[key])
        return batch

    return change


def without(key):
    return lambda batch: {k: v for k, v in batch.items() if k != key}


def put(key, place, value):
    def change(batch):
        batch[key][place] = value
        return batch

    return change


BAD = [
    (without("gt_masks"), "missing ['gt_masks']"),
    (without("image_sizes"), "missing ['image_sizes']"),
    (lambda b: {**b, "boxes": b["gt_boxes"]}, "unknown ['boxes']"),
    (changed("images", lambda a: a[0]), "Add the batch axis"),
    (changed("images", lambda a: a[..., :1]), "(B, H, W, 3)"),
    (changed("images", lambda a: a.astype(np.uint16)), "Received dtype uint16"),
    (changed("images", lambda a: a[:, :31]), "multiples of 32"),
    (changed("gt_boxes", lambda a: a.astype(int)), "`gt_boxes` must be float32"),
    (changed("gt_boxes", lambda a: a[..., 0]), "(B, N, [x1, y1, x2, y2])"),
    (changed("gt_labels", lambda a: a.astype(np.float32)), "`gt_labels` must be int32"),
    (changed("gt_valid", lambda a: a.astype(int)), "`gt_valid` must be bool"),
    (changed("gt_labels", lambda a: a[:, :2]), "agree"),
    (changed("image_sizes", lambda a: a[:1]), "agree in B = 2"),
    (changed("image_sizes", lambda a: a[:, ::-1]), "Is it (width, height)?"),
    (changed("gt_masks", lambda a: a * 255), "Received 255 in instance 0 of image 0"),
    (changed("gt_masks", lambda a: a[..., :3]), "must be square"),
    (put("gt_boxes", (0, 1), [5, 2, 5, 9]), "for instance 1 of image 0"),
    (put("gt_boxes", (0, 0), [10, 2, 1, 9]), "COCO boxes are (x, y, width, height)"),
    (put("gt_boxes", (0, 0, 0), np.nan), "must be finite"),
    (put("gt_boxes", (0, 0), [10, 2, 60, 9]), "lie inside its image"),
    (put("gt_labels", (0, 1), 2), "0..1"),
    (put("gt_labels", (0, 0), -1), "Received -1 for instance 0 of image 0"),
    (put("gt_valid", (0, 1), False), "gt_crowd = True with gt_valid = False"),
]


@pytest.mark.parametrize("change, message", BAD, ids=[message for _, message in BAD])
def test_each_fault_is_named(change, message):
    with pytest.raises(ValueError) as caught:
        check_batch(change(good_batch()), CONFIG)
    assert message in str(caught.value) and "eceived" in str(caught.value)


def test_nan_in_images_is_named():
    batch = good_batch()
    batch["images"] = batch["images"].astype(np.float32)
    batch["images"][1, 3, 4, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in image 1"):
        check_batch(batch)


def test_padding_rows_may_hold_anything_but_are_not_read():
    batch = put("gt_labels", (0, 2), 99)(good_batch())
    check_batch(batch, CONFIG)


def test_an_image_larger_than_its_canvas_is_an_error():
    batch = empty_batch(1, (32, 32), 1, CONFIG)
    with pytest.raises(ValueError, match="40 x 20 for a canvas of 32 x 32"):
        fill_row(batch, 0, np.zeros((40, 20, 3), np.uint8), {"gt_boxes": []})
