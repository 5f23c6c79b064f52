"""DataLoader: what is in a batch, the same whatever the workers, resumable, and its errors."""

import json
import shutil
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn.batch import check_batch
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import (
    ArrayDataset,
    CocoDataset,
    DataLoader,
    EpochSync,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    ResizeByScale,
    ScaleJitter,
    generate_shapes,
)

AUGMENT = [ScaleJitter(0.8, 1.25), RandomCrop(64), RandomRotate90(), RandomFlip(True, True)]


def config_of(dataset, **changes):
    numbers = {"image_scale": 1.0, "max_instances": 8, "gt_mask_size": 14, **changes}
    return MaskRCNNConfig(num_classes=len(dataset.class_names), class_names=dataset.class_names, **numbers)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    path = generate_shapes(tmp_path_factory.mktemp("shapes"), 11, image_size=(72, 96), seed=1)
    return CocoDataset(path, path.parent / "images")


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def test_a_plain_batch_holds_images_and_objects_as_they_are(shapes):
    loader = DataLoader(shapes, config_of(shapes), batch_size=2)
    assert loader.canvas == (96, 96) and len(loader) == 6  # 72 is rounded up to 96
    batch = check_batch(loader[1], config_of(shapes))
    for row, index in enumerate((2, 3)):
        np.testing.assert_array_equal(batch["images"][row, :72], shapes.load_image(index))
        assert not batch["images"][row, 72:].any()
        instances = shapes[index].instances
        valid = batch["gt_valid"][row]
        assert valid.sum() == len(instances)
        np.testing.assert_array_equal(batch["gt_boxes"][row][valid], np.stack([i.box for i in instances]))
        assert batch["gt_labels"][row][valid].tolist() == [i.label for i in instances]
    assert batch["image_sizes"].tolist() == [[72, 96]] * 2
    assert batch["gt_masks"].shape == (2, 8, 14, 14)


def test_the_default_transform_resizes_as_the_config_says(shapes):
    config = config_of(shapes, image_scale=None, min_size=36, max_size=1000)
    batch = DataLoader(shapes, config, 1)[0]
    assert batch["image_sizes"].tolist() == [[36, 48]] and batch["images"].shape == (1, 64, 64, 3)
    np.testing.assert_allclose(batch["gt_boxes"][0, 0], shapes[0].instances[0].box / 2, rtol=1e-6)


def test_batches_depend_on_seed_epoch_and_position_alone(shapes):
    def loader(seed=5, **keywords):
        return DataLoader(shapes, config_of(shapes), 3, AUGMENT, shuffle=True, seed=seed, **keywords)

    first, second = loader(workers=1), loader(workers=4, cache_bytes=0)
    forwards = [first[i] for i in range(3)]
    backwards = [second[i] for i in (2, 1, 0)][::-1]
    for batch, other in zip(forwards, backwards, strict=True):
        assert_same(batch, other)
    other_seed, other_epoch = loader(seed=6), loader()
    other_epoch.on_epoch_end()
    assert (other_seed[0]["images"] != forwards[0]["images"]).any()
    assert (other_epoch[0]["images"] != forwards[0]["images"]).any()
    other_epoch.set_epoch(0)
    assert_same(other_epoch[0], forwards[0])


def test_threads_give_the_batches_of_one_thread(shapes):
    loader = DataLoader(shapes, config_of(shapes), 2, AUGMENT, shuffle=True)
    expected = [DataLoader(shapes, config_of(shapes), 2, AUGMENT, shuffle=True)[i] for i in range(5)]
    found = {}

    def work(indices):
        for index in indices:
            found[index] = loader[index]

    threads = [threading.Thread(target=work, args=(range(k, 5, 2),)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(5):
        assert_same(found[index], expected[index])


def test_an_epoch_shows_every_image_once(shapes):
    loader = DataLoader(shapes, config_of(shapes), 4, shuffle=True, drop_last=False)
    assert len(loader) == 3
    images = np.concatenate([batch["images"] for batch in loader])
    assert images.shape[0] == 11 and len({image.tobytes() for image in images}) == 11
    assert len(DataLoader(shapes, config_of(shapes), 4, shuffle=True)) == 2  # the rest is dropped
    assert len(DataLoader(shapes, config_of(shapes), 4)[2]["images"]) == 3  # and here it is kept


def test_epoch_sync_puts_a_resumed_run_where_it_was(shapes):
    loader = DataLoader(shapes, config_of(shapes), 2, AUGMENT, shuffle=True)
    for _ in range(3):
        loader.on_epoch_end()
    expected = loader[1]
    resumed = DataLoader(shapes, config_of(shapes), 2, AUGMENT, shuffle=True)
    resumed.on_epoch_end()  # Keras calls it once before the first epoch
    EpochSync(resumed).on_epoch_begin(3)
    assert_same(resumed[1], expected)


def test_canvas_is_bounded_by_the_transforms(shapes):
    def canvas(*transforms, **keywords):
        return DataLoader(shapes, config_of(shapes), 1, list(transforms), **keywords).canvas

    assert canvas(RandomFlip()) == (96, 96)
    assert canvas(ResizeByScale(2.0)) == (160, 192)
    assert canvas(ScaleJitter(0.5, 1.5)) == (128, 160)
    assert canvas(ResizeByScale(2.0), RandomCrop((40, 70))) == (64, 96)
    assert canvas(lambda sample, rng: sample) == (96, 96)
    assert canvas(canvas=(128, 128)) == (128, 128)
    with pytest.raises(ValueError, match=r"multiples of 32.*\(96, 128\)"):
        canvas(canvas=(72, 128))
    too_small = DataLoader(shapes, config_of(shapes), 1, canvas=(64, 64))
    with pytest.raises(ValueError, match="72 x 96 for a canvas of 64 x 64"):
        too_small[0]


def test_images_without_objects_are_batches_too():
    dataset = ArrayDataset([np.zeros((40, 40, 3), np.uint8)] * 2, [[], []])
    batch = check_batch(DataLoader(dataset, config_of(dataset), 2)[0])
    assert not batch["gt_valid"].any() and not batch["gt_masks"].any()


def test_crowds_travel_as_crowds():
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:20] = 1
    image = np.zeros((40, 40, 3), np.uint8)
    dataset = ArrayDataset([image], [[mask, mask]], crowds=[[False, True]])
    batch = DataLoader(dataset, config_of(dataset), 1)[0]
    assert batch["gt_valid"][0, :3].tolist() == [True, True, False]
    assert batch["gt_crowd"][0, :3].tolist() == [False, True, False]


def test_more_objects_than_rows_warns_once_with_the_count():
    masks = np.zeros((12, 40, 40), np.uint8)
    for k, mask in enumerate(masks):
        mask[3 * k : 3 * k + 2, 4:30] = 1
    dataset = ArrayDataset([np.zeros((40, 40, 3), np.uint8)] * 2, [masks, masks])
    loader = DataLoader(dataset, config_of(dataset), 1, max_instances=5)
    with pytest.warns(UserWarning, match="7 of 12 objects of image 1.*5 rows.*has 12 objects"):
        batch = loader[0]
    assert batch["gt_valid"].sum() == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader[1]


def test_the_cache_is_bounded_and_changes_nothing(shapes):
    one_image = 72 * 96 * 3
    loader = DataLoader(shapes, config_of(shapes), 1, cache_bytes=3 * one_image)
    plain = DataLoader(shapes, config_of(shapes), 1, cache_bytes=0)
    for _ in range(2):
        for index in range(len(loader)):
            assert_same(loader[index], plain[index])
    assert one_image < loader.cache.num_bytes <= 3 * one_image and plain.cache.num_bytes == 0


def test_classes_that_disagree_are_errors(shapes):
    with pytest.raises(ValueError, match="without background: 3.*num_classes=2"):
        DataLoader(shapes, MaskRCNNConfig(num_classes=2), 1)
    names = ("square", "disc", "triangle")
    with pytest.raises(ValueError, match=r"(?s)expected: \['square', 'disc', 'triangle'\].*received: \['circle'"):
        DataLoader(shapes, MaskRCNNConfig(num_classes=3, class_names=names), 1)
    with pytest.raises(ValueError, match=r"category_ids.*\[7, 8, 9\].*\[1, 2, 3\]"):
        DataLoader(shapes, MaskRCNNConfig(num_classes=3, category_ids=(7, 8, 9)), 1)
    DataLoader(shapes, MaskRCNNConfig(num_classes=3), 1)  # neither names nor ids were given


def test_not_one_batch_and_a_wrong_index_are_errors(shapes):
    with pytest.raises(ValueError, match="11 images for batch_size=12"):
        DataLoader(shapes, config_of(shapes), 12, shuffle=True)
    with pytest.raises(ValueError, match="batch_size.*Received 0"):
        DataLoader(shapes, config_of(shapes), 0)
    with pytest.raises(IndexError):
        DataLoader(shapes, config_of(shapes), 4)[3]


def test_options_that_there_are_not_are_errors(shapes):
    told = r"`options` of DataLoader is a LoaderOptions. Received: dict. Pass its fields as keywords: DataLoader\(..., "
    with pytest.raises(ValueError, match=told):
        DataLoader(shapes, config_of(shapes), 1, options={"shuffle": True})
    with pytest.raises(ValueError, match=r"has the options .*'shuffle'.*. Received: shufle, worker. Correct the name."):
        DataLoader(shapes, config_of(shapes), 1, worker=2, shufle=True)


def test_the_last_batch_may_be_filled_with_nothing(shapes):
    plain = DataLoader(shapes, config_of(shapes), 4)
    filled = DataLoader(shapes, config_of(shapes), 4, fill_last=True)
    assert len(plain) == len(filled) == 3
    assert_same(filled[0], plain[0])
    last = filled[2]
    assert_same({key: value[:3] for key, value in last.items()}, plain[2])
    assert {len(value) for value in last.values()} == {4} and not any(value[3].any() for value in last.values())


def test_a_transform_that_exits_is_an_error(shapes):
    """In one of Keras' threads an exit would end the thread, and `fit` would wait for ever."""

    def leave(sample, rng):
        sys.exit("enough")

    loader = DataLoader(shapes, config_of(shapes), 2, transforms=[leave])
    told = r"^A transform or dataset called sys.exit. Received: enough. Raise an error.$"
    with pytest.raises(RuntimeError, match=told) as raised:
        loader[1]
    assert loader.failure is raised.value


@pytest.fixture
def damaged(shapes, tmp_path):
    """The shapes again, with one image cut off in the middle; returns its folder."""
    shutil.copytree(shapes[0].source.parent, tmp_path / "images")
    file = sorted((tmp_path / "images").iterdir())[4]
    file.write_bytes(file.read_bytes()[:500])
    shutil.copy(shapes.name, tmp_path / "annotations.json")
    return tmp_path


def test_a_damaged_image_stops_or_is_replaced_and_named(damaged):
    dataset = CocoDataset(damaged / "annotations.json", damaged / "images")
    with pytest.raises(ValueError, match=r"00005\.png.*Download or export it again"):
        DataLoader(dataset, config_of(dataset), 2)[2]
    dataset = CocoDataset(damaged / "annotations.json", damaged / "images", on_error="skip")
    loader = DataLoader(dataset, config_of(dataset), 2)
    with pytest.warns(UserWarning, match=r"number 1 in .*image 5.*00005\.png.*next image"):
        batch = loader[2]
    np.testing.assert_array_equal(batch["images"][0], batch["images"][1])
    assert len(dataset.faults) == 1 and "00005.png" in str(dataset.faults[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader[2]  # named once


def test_no_readable_image_ends_in_an_error(damaged):
    dataset = CocoDataset(damaged / "annotations.json", damaged / "images", on_error="skip")
    for file in (damaged / "images").iterdir():
        file.unlink()
    loader = DataLoader(dataset, config_of(dataset), 2)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="No image of"):
        loader[0]


def test_a_large_photo_with_many_objects_stays_small_in_memory(tmp_path):
    # 300 objects on 3000 x 4000 pixels: full-size masks would be 3.6 GB.
    Image.new("RGB", (4000, 3000)).save(tmp_path / "a.png", compress_level=1)
    annotations = []
    for number in range(1, 301):
        x, y = 10 + 195 * (number % 20), 10 + 195 * (number // 20 % 15)
        part = [x, y, x + 60, y, x + 60, y + 50, x, y + 50]
        annotations.append({"id": number, "image_id": 1, "category_id": 1, "segmentation": [part], "iscrowd": 0})
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 3000, "width": 4000}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path / "a.json", tmp_path)
    config = config_of(dataset, max_instances=300, image_scale=0.25)
    loader = DataLoader(dataset, config, 1)
    tracemalloc.start()
    batch = loader[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch["gt_valid"].sum() == 300
    assert peak < 250e6  # the photo itself is 36 MB, and is copied by Pillow and once more here
