"""Datasets of matterport's Mask_RCNN: what `from_matterport` makes of them, and what it says of faults."""

import json
import threading
import types
import warnings

import numpy as np
import pytest
from matterport_datasets import HEIGHT, WIDTH, Boxes, Changed, Dataset
from PIL import Image
from reader_tools import check

from keras_maskrcnn.checkup import inspect_dataset
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import CocoDataset, from_matterport
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.data.split import split_dataset

SCENES = [[(1, 2, 3, 10, 20), (-3, 5, 5, 40, 30)], [], [(2, 0, 0, 60, 40)], [(2, 1, 1, 60, 40)]]
CONFIG = MaskRCNNConfig(num_classes=3, image_scale=1.0, max_instances=4, gt_mask_size=14)


def box(x1, y1, x2, y2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def batches(dataset, **options):
    maker = BatchMaker(from_matterport(dataset), CONFIG, 2, **options)
    made = [maker[k] for k in range(len(maker))]
    maker.close()
    return made


def test_images_classes_and_objects_are_those_of_the_dataset():
    old = Boxes(SCENES)
    dataset = from_matterport(old)  # calls prepare()
    assert dataset.class_names == ("cat", "dog", "bird") and dataset.category_ids == (1, 2, 3)
    assert dataset.image_ids == [0, 1, 2, 3] and dataset.max_instances == 2
    assert dataset.image_sizes == [(HEIGHT, WIDTH)] * 4
    found = [(one.label, one.crowd, one.box.tolist()) for record in dataset for one in record.instances]
    assert found == [
        (0, False, [2, 3, 10, 20]),
        (2, True, [5, 5, 40, 30]),
        (1, False, [0, 0, 60, 40]),
        (1, False, [1, 1, 60, 40]),
    ]
    truth = dataset.to_coco()
    assert [one["iscrowd"] for one in truth["annotations"]] == [0, 1, 0, 0]
    assert truth["annotations"][0]["area"] == 8 * 17
    assert (old.images_loaded, old.masks_loaded) == (0, 4)  # each mask once, no image before it is used
    np.testing.assert_array_equal(dataset.load_image(2), old.load_image(2))


def test_what_is_written_as_coco_reads_back(tmp_path):
    dataset = from_matterport(Boxes(SCENES))
    expected = {
        "000001.png": [("cat", box(2, 3, 10, 20)), ("bird", box(5, 5, 40, 30))],
        "000002.png": [],
        "000003.png": [("dog", box(0, 0, 60, 40))],
        "000004.png": [("dog", box(1, 1, 60, 40))],
    }
    again = check(dataset, expected, tmp_path)
    assert [one.crowd for one in again[0].instances] == [False, True]
    parts = split_dataset(dataset, [0.5, 0.5])
    assert sorted(key for part in parts for key in part.image_ids) == [0, 1, 2, 3]


def test_check_data_finds_what_there_is_to_find():
    findings = inspect_dataset(from_matterport(Boxes(SCENES))).findings
    assert [(one.severity, one.kind) for one in findings] == [("warning", "class with crowd regions alone")]
    wrong = from_matterport(Changed(SCENES, image=lambda image: image[1:]))
    assert {one.kind for one in inspect_dataset(wrong).findings if one.severity == "error"} == {
        "image of another size: wrong size"
    }


def test_worker_processes_make_the_same_batches():
    threads = batches(Boxes(SCENES), workers=2, worker_type="thread")
    processes = batches(Boxes(SCENES), workers=2, worker_type="process")
    for one, other in zip(threads, processes, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
    assert threads[0]["gt_labels"][0, :2].tolist() == [0, 2] and threads[0]["gt_crowd"][0, :2].tolist() == [False, True]


def test_a_class_that_processes_cannot_import_is_named():
    class Local(Boxes):
        pass

    with pytest.raises(ValueError, match=r"Received: .*Local of the module .*Move it into a module .* use threads"):
        batches(Local(SCENES), workers=2, worker_type="process")
    held = Boxes(SCENES)
    held.file = threading.Lock()
    with pytest.raises(ValueError, match="Received: TypeError: cannot pickle .*lock"):
        batches(held, workers=2, worker_type="process")


@pytest.mark.parametrize(
    "image",
    [
        lambda image: image[..., 0],
        lambda image: image[..., :1],
        lambda image: np.dstack([image, image[..., :1]]),
        lambda image: image.astype(np.float64),
    ],
    ids=["gray", "one channel", "alpha", "floats"],
)
def test_gray_and_alpha_become_rgb(image):
    old = Changed(SCENES, image=image)
    read = from_matterport(old).load_image(0)
    raw = image(Boxes(SCENES).load_image(0))
    expected = np.dstack([raw] * 3) if raw.ndim == 2 or raw.shape[2] == 1 else raw[..., :3]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


def test_masks_of_other_kinds_are_read():
    scenes = [[(2, 3, 4, 20, 30)]]
    for masks in (
        lambda masks, ids: (masks[..., 0], ids),  # one object without an axis for it
        lambda masks, ids: (masks.astype(np.uint8) * 255, ids.tolist()),
        lambda masks, ids: (masks.astype(np.float32) * 0.5, ids.astype(float)),
    ):
        dataset = from_matterport(Changed(scenes, masks=masks))
        assert [(one.label, one.box.tolist()) for one in dataset[0].instances] == [(1, [3, 4, 20, 30])]


def test_images_without_objects_have_the_size_of_the_image():
    old = Boxes([[], [(1, 0, 0, 9, 9)]], stated=False)
    assert from_matterport(old).image_sizes == [(HEIGHT, WIDTH)] * 2 and old.images_loaded == 1
    empty = Changed([[], []], masks=lambda masks, ids: (np.zeros((HEIGHT, WIDTH, 0)), ids), stated=False)
    dataset = from_matterport(empty)
    assert dataset.image_sizes == [(HEIGHT, WIDTH)] * 2 and empty.images_loaded == 0 and dataset.max_instances == 0


def test_where_the_stated_size_is_wrong_the_image_decides():
    old = Boxes(SCENES)
    old.image_info[0].update(height=7, width=9)
    assert from_matterport(old).image_sizes[0] == (HEIGHT, WIDTH) and old.images_loaded == 1


def test_objects_without_a_pixel_are_left_out_with_a_note():
    def without_first(masks, ids):
        masks[..., 0] = False
        return masks, ids

    with pytest.warns(UserWarning, match=r"Changed: left out objects without a pixel \(object 0 of image 0 .* 2 more"):
        dataset = from_matterport(Changed(SCENES[:1] + SCENES[2:], masks=without_first))
    assert [one.label for record in dataset for one in record.instances] == [2]


@pytest.mark.parametrize(
    "masks, told",
    [
        (lambda m, ids: (m[:-1], ids), r"must have its size, \(40, 60\).* Received masks of \(39, 60\)"),
        (
            lambda m, ids: (np.moveaxis(m, 2, 0), ids),
            r"Received bool \(2, 40, 60\) with 2 .*np.stack\(masks, axis=-1\)",
        ),
        (lambda m, ids: (m, ids[:1]), r"a class id for each object. Received bool \(40, 60, 2\) with 1 class ids"),
        (lambda m, ids: (m, ids * 0), ": its class id must be from 1 to 3, .* 0 is background. Received 0"),
        (lambda m, ids: (m, ids + 9), ": its class id must be from 1 to 3, .* Received 10.* add the class"),
        (lambda m, ids: (m, ids + 0.5), ": its class id must be from 1 to 3, .* Received 1.5"),
        (lambda m, ids: (m, ["cat", "dog"]), "must be arrays of numbers. Received: could not convert"),
        (lambda m, ids: (m * np.nan, ids), "must be finite numbers .* Received float64"),
        (lambda m, ids: None, r"must return \(masks, class ids\). Received NoneType"),
        (lambda m, ids: m, r"must return \(masks, class ids\). Received ndarray"),
    ],
)
def test_what_cannot_be_used_names_the_image_and_can_be_skipped(masks, told):
    def only_first(found, ids):
        return masks(found, ids) if len(ids) == 2 else (found, ids)

    with pytest.raises(ValueError, match=rf"image 0 \(scene-0\).*{told}"):
        from_matterport(Changed(SCENES, masks=only_first))
    with pytest.warns(UserWarning, match="Left out"):
        dataset = from_matterport(Changed(SCENES, masks=only_first), on_error="skip")
    assert {2, 3} <= set(dataset.image_ids) and dataset.max_instances == 1 and "scene-0" in str(dataset.faults[0])


def test_errors_of_the_users_own_code_keep_their_cause():
    def fail(*_):
        raise FileNotFoundError("masks/7.png")

    with pytest.raises(ValueError, match=r"image 0 \(scene-0\): load_mask .*FileNotFoundError: masks/7.png") as caught:
        from_matterport(Changed(SCENES, masks=fail))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    dataset = from_matterport(Changed(SCENES, image=fail))
    with pytest.raises(ImageError, match=r"image 2 \(scene-2\): load_image .*FileNotFoundError") as caught:
        dataset.load_image(2)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_images_that_cannot_be_used_are_named_when_they_are_read():
    with pytest.raises(ImageError, match="image 0 of Changed: .*floats up to .*Multiply by 255"):
        from_matterport(Changed(SCENES, image=lambda image: image / 255)).load_image(0)
    with pytest.raises(ImageError, match="image 0: .* 40 x 60. Received a file of 40 x 59"):
        from_matterport(Changed(SCENES, image=lambda image: image[:, 1:])).load_image(0)


def test_what_is_no_dataset_is_refused():
    with pytest.raises(ValueError, match="is an object. Received the class Boxes. Make one"):
        from_matterport(Boxes)
    with pytest.raises(ValueError, match="Received list, one without image_ids, load_image, load_mask, class_names"):
        from_matterport([1, 2])
    with pytest.raises(ValueError, match=r"Received Dataset, class_names \['BG'\].*add_class"):
        from_matterport(Dataset())
    with pytest.raises(ValueError, match="at least one usable image. Received Boxes without any"):
        from_matterport(Boxes([]))


def test_a_dataset_may_hold_no_more_than_its_interface():
    """No `image_info`, whose paths and sizes messages and records take where they are there."""
    mask = box(1, 2, 11, 12)[..., None]
    image = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    plain = types.SimpleNamespace(
        image_ids=np.array([0, 3]),
        class_names=["BG", "cell"],
        load_image=lambda key: image,
        load_mask=lambda key: (mask, np.array([1 if key == 0 else 2])),
    )
    with pytest.warns(UserWarning, match=r"SimpleNamespace[^.]*image 3[^.]*class id"):
        dataset = from_matterport(plain, on_error="skip")
    assert dataset.class_names == ("cell",) and [len(record.instances) for record in dataset.records] == [1, 0]
    assert dataset[0].instances[0].box.tolist() == [1, 2, 11, 12]
    np.testing.assert_array_equal(dataset.load_image(0), image)


def test_images_added_after_prepare_are_left_out_with_a_note():
    old = Boxes(SCENES)
    old.prepare()
    old.add_image("boxes", "late", None, scene=[])
    with pytest.warns(UserWarning, match="Boxes: 1 images were added after prepare"):
        assert len(from_matterport(old)) == 4


class Photos(Boxes):
    """Boxes on photos in a folder, read as matterport's class reads them."""

    load_image = Dataset.load_image


def photos(folder, scenes):
    folder.mkdir()
    old = Photos(scenes)
    for number, info in enumerate(old.image_info):
        info["path"] = str(folder / f"{number}.jpg")
        Image.fromarray(Boxes(scenes).load_image(number)).save(info["path"])
    return old


def test_with_read_files_coco_names_the_images_and_workers_need_no_class(tmp_path):
    class Local(Photos):
        pass

    old = photos(tmp_path / "photos", SCENES)
    old.__class__ = Local
    dataset = from_matterport(old, read_files=True)
    np.testing.assert_array_equal(dataset.load_image(3), old.load_image(3))
    dataset.to_coco(tmp_path / "all.json")
    names = [image["file_name"] for image in json.loads((tmp_path / "all.json").read_text())["images"]]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"] and not (tmp_path / "all_images").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = CocoDataset(tmp_path / "all.json", tmp_path / "photos")
        maker = BatchMaker(dataset, CONFIG, 2, workers=1, worker_type="process")
        made = maker[1]
        maker.close()
    np.testing.assert_array_equal(again.load_image(3), old.load_image(3))
    assert made["gt_labels"][:, 0].tolist() == [1, 1]


def test_read_files_is_refused_where_load_image_changes_the_pixels(tmp_path):
    old = photos(tmp_path / "photos", SCENES)
    old.load_image = lambda image_id: Dataset.load_image(old, image_id)[:, ::-1]
    with pytest.raises(ValueError, match="load_image must return an image as it is in its file.* Leave read_files out"):
        from_matterport(old, read_files=True)
    with pytest.raises(ValueError, match=r"image 0 \(scene-0\): image_info must hold the path .* Received None"):
        from_matterport(Boxes(SCENES), read_files=True)
