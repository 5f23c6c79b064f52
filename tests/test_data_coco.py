"""CocoDataset: every form of annotation, every fault by name, and the way back to COCO."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from keras_maskrcnn.data import CocoDataset
from keras_maskrcnn.data.readers import coco_polygons, outlines

SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]


def square_mask():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 2:8] = 1
    return mask


def compressed():
    code = coco_mask.encode(np.asfortranarray(square_mask()))
    return {"size": [20, 30], "counts": code["counts"].decode()}


def uncompressed():
    # Column by column: 2 empty columns and 3 rows, then 6 columns of 6 set and 14 not.
    counts = [2 * 20 + 3] + [6, 14] * 5 + [6]
    return {"size": [20, 30], "counts": counts + [20 * 30 - sum(counts)]}


def annotation(number, segmentation=None, **changes):
    entry = {
        "id": number,
        "image_id": 7,
        "category_id": 5,
        "iscrowd": 0,
        "area": 36.0,
        "bbox": [2, 3, 6, 6],
        "segmentation": [SQUARE] if segmentation is None else segmentation,
    }
    return {**entry, **changes}


def content():
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 9, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            annotation(1),
            annotation(2, compressed()),
            annotation(3, uncompressed(), category_id=90),
            annotation(4, uncompressed(), iscrowd=1),
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 5, "name": "early"}],
    }


@pytest.fixture
def write(tmp_path):
    """Writes two images and the given content; returns a function that opens it."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 30, 3), 50, np.uint8)).save(tmp_path / name)

    def opened(data, **keywords):
        path = tmp_path / "annotations.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return CocoDataset(path, tmp_path, **keywords)

    return opened


def test_all_forms_of_one_square_agree(write):
    dataset = write(content())
    assert len(dataset) == 2 and dataset.image_ids == [7, 9] and dataset.max_instances == 4
    assert dataset.image_sizes == [(20, 30), (20, 30)] and dataset.faults == []
    record = dataset[0]
    for instance in record.instances:
        assert instance.box.tolist() == [2, 3, 8, 9]
        window = instance.mask.window(20, 30)
        full = np.zeros((20, 30), np.uint8)
        height, width = window.pixels.shape
        full[window.y : window.y + height, window.x : window.x + width] = window.pixels
        np.testing.assert_array_equal(full, square_mask())
    assert [i.crowd for i in record.instances] == [False, False, False, True]
    assert dataset.load_image(0).shape == (20, 30, 3)


def test_sparse_category_ids_become_labels_in_order_and_come_back(write):
    dataset = write(content())
    assert dataset.class_names == ("early", "late") and dataset.category_ids == (5, 90)
    assert [i.label for i in dataset[0].instances] == [0, 0, 1, 0]
    back = dataset.to_coco()
    assert [a["category_id"] for a in back["annotations"]] == [5, 5, 90, 5]
    assert back["categories"] == [{"id": 5, "name": "early"}, {"id": 90, "name": "late"}]


def test_images_without_objects_are_kept(write):
    data = content()
    assert write(data)[1].instances == ()
    data["annotations"] = []
    dataset = write(data)
    assert len(dataset) == 2 and dataset.max_instances == 0 and dataset.to_coco()["annotations"] == []


def test_to_coco_evaluates_as_the_original_file(write, tmp_path):
    data = content()
    data["annotations"][0]["id"] = 0  # pycocotools takes 0 for "no match"
    coco = COCO()
    coco.dataset = write(data).to_coco()
    coco.createIndex()
    original = COCO(tmp_path / "annotations.json")
    assert sorted(coco.anns) == [1, 2, 3, 4]
    for mine, theirs in zip(coco.loadAnns([1, 2, 3, 4]), data["annotations"], strict=True):
        for key in ("image_id", "category_id", "iscrowd", "area", "bbox"):
            assert mine[key] == theirs[key]
        np.testing.assert_array_equal(coco.annToMask(mine), original.annToMask(theirs))


def test_missing_boxes_and_areas_come_from_the_mask(write):
    data = content()
    for entry in data["annotations"]:
        del entry["bbox"], entry["area"]
    for entry in write(data).to_coco()["annotations"]:
        assert entry["bbox"] == [2, 3, 6, 6] and entry["area"] == 36


def test_a_file_with_fewer_categories_takes_the_order_of_another(write):
    data = content()
    data["categories"] = data["categories"][1:]
    data["annotations"] = data["annotations"][:1]
    dataset = write(data, category_ids=(90, 5))
    assert dataset[0].instances[0].label == 1 and dataset.category_ids == (90, 5)
    assert dataset.class_names == ("category 90", "early")
    with pytest.warns(UserWarning, match=r"does not list the classes \['late'\]"):
        named = write(data, category_ids=(90, 5), class_names=("late", "early"))
    assert named.class_names == ("late", "early") and named.category_ids == (90, 5)
    with pytest.raises(ValueError, match="one name per category id"):
        write(data, category_ids=(90, 5), class_names=("early",))


def test_polygons_beyond_the_image_are_clipped(write):
    data = content()
    data["annotations"] = [annotation(1, [[-5, -5, 10, -5, 10, 10, -5, 10]])]
    assert write(data)[0].instances[0].box.tolist() == [0, 0, 10, 10]


def change_image(**changes):
    def change(data):
        data["images"][0].update(changes)

    return change


def change_first(**changes):
    def change(data):
        data["annotations"][0].update(changes)

    return change


def repeat(kind):
    def change(data):
        data[kind].append(copy.deepcopy(data[kind][0]))

    return change


# (what is done to the file, what the message must hold, images and annotations left when skipping)
FAULTS = {
    "missing file": (change_image(file_name="c.png"), ["image 7", "c.png", "image_dir"], (1, 0)),
    "unknown category": (
        change_first(category_id=6),
        ["annotation 1 of", "a.png", "category_id 6", "[5, 90]"],
        (2, 3),
    ),
    "unknown image": (change_first(image_id=8), ["annotation 1", "image 8"], (2, 3)),
    "bbox outside": (
        change_first(bbox=[40, 3, 6, 6]),
        ["annotation 1 of", "a.png", "[40, 3, 6, 6]", "20 x 30", "not [x1, y1, x2, y2]"],
        (2, 3),
    ),
    "bbox empty": (change_first(bbox=[2, 3, 0, 6]), ["annotation 1", "[2, 3, 0, 6]"], (2, 3)),
    "bbox words": (change_first(bbox="2 3"), ["annotation 1", "'2 3'"], (2, 3)),
    "polygon outside": (
        change_first(segmentation=[[40, 3, 50, 3, 50, 9]], bbox=None),
        ["annotation 1", "covers no area", "[40.0, 3.0]"],
        (2, 3),
    ),
    "two points": (
        change_first(segmentation=[[2, 3, 8, 9]]),
        ["annotation 1", "a.png", "at least three", "[[2.0, 3.0], [8.0, 9.0]]"],
        (2, 3),
    ),
    "odd polygon": (change_first(segmentation=[[2, 3, 8]]), ["flat list", "[2, 3, 8]"], (2, 3)),
    "nan polygon": (
        change_first(segmentation=[[2, 3, 8, 3, 8, float("nan")]]),
        ["annotation 1", "finite"],
        (2, 3),
    ),
    "no segmentation": (change_first(segmentation=[]), ["annotation 1", "no segmentation"], (2, 3)),
    "box only": (change_first(segmentation=None), ["annotation 1", "no segmentation"], (2, 3)),
    "mask of another size": (
        change_first(segmentation={"size": [20, 31], "counts": [620]}),
        ["annotation 1", "[20, 30]", "[20, 31]", "Encode the mask"],
        (2, 3),
    ),
    "mask with swapped sides": (
        change_first(segmentation={"size": [30, 20], "counts": [600]}),
        ["annotation 1", "sides are swapped"],
        (2, 3),
    ),
    "mask too short": (
        change_first(segmentation={"size": [20, 30], "counts": [5, 5]}),
        ["annotation 1", "20 x 30", "sum of 10"],
        (2, 3),
    ),
    "mask empty": (
        change_first(segmentation={"size": [20, 30], "counts": [600]}),
        ["annotation 1", "mask is empty"],
        (2, 3),
    ),
    "mask damaged": (
        change_first(segmentation={"size": [20, 30], "counts": "o"}),
        ["annotation 1", "damaged"],
        (2, 3),
    ),
    "annotation id twice": (repeat("annotations"), ["annotation 1", "used twice"], (2, 4)),
    "image id twice": (repeat("images"), ["image 7", "a.png", "used twice"], (2, 4)),
    "no height": (change_image(height=None), ["image 7", "`height`", "None"], (1, 0)),
    "no id": (lambda d: d["annotations"][0].pop("id"), ["annotation number 0", "`id`"], (2, 3)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_raised_by_name_or_skipped_and_counted(write, name):
    change, words, (num_images, num_annotations) = FAULTS[name]
    data = content()
    change(data)
    with pytest.raises(ValueError) as caught:
        write(data)
    for word in words + ["annotations.json", 'on_error="skip"']:
        assert word in str(caught.value)
    with pytest.warns(UserWarning, match="Left out 1 faulty"):
        dataset = write(data, on_error="skip")
    assert len(dataset) == num_images and len(dataset.faults) == 1
    assert sum(len(record.instances) for record in dataset.records) == num_annotations
    assert words[0] in str(dataset.faults[0])


@pytest.mark.parametrize(
    "damage, told",
    [
        (None, "10000 x 10000. Received a file of 20 x 30. They belong to different versions of the image"),
        (b"\x89PNG", "a.png: a PNG that is cut off"),
    ],
)
def test_an_image_that_is_said_to_be_huge_is_compared_with_its_file_at_once(write, tmp_path, damage, told):
    data = content()
    data["images"][0] |= {"height": 10_000, "width": 10_000}
    if damage:
        (tmp_path / "a.png").write_bytes(damage)
    with pytest.raises(ValueError, match=rf"Received 1:\n  image 7 \(a.png\): .*{told}.* Or remove it"):
        write(data)
    with pytest.warns(UserWarning, match="Left out 1 faulty"):
        assert write(data, on_error="skip").image_ids == [9]


def test_an_outline_of_too_many_points_is_a_fault(write, monkeypatch):
    for module in (outlines, coco_polygons):
        monkeypatch.setattr(module, "OUTLINE_POINTS", 3)
    data = content()
    data["annotations"] = [annotation(1), annotation(2, [SQUARE[:6]])]
    with pytest.raises(ValueError, match="Received 1:\n  annotation 1 of .*3 points in an outline.*Received 4"):
        write(data)


def test_faults_are_listed_up_to_five(write):
    data = content()
    data["annotations"] = [annotation(n, [[1, 1, 2, 2]]) for n in range(1, 9)]
    with pytest.raises(ValueError, match=r"Received 8:\n(  annotation \d.*\n){5}  ... and 3 more"):
        write(data)


@pytest.mark.parametrize(
    "data, message",
    [
        ("{", "must be JSON"),
        ("[]", r"COCO annotations must contain \['images', 'annotations', 'categories'\]"),
        ({"images": [], "annotations": []}, r"without \['categories'\]"),
        ({"images": [], "annotations": [], "categories": []}, "at least one category"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            "at least one usable image",
        ),
    ],
)
def test_files_that_are_no_dataset_are_errors(write, data, message):
    with pytest.raises(ValueError, match=message):
        write(data)


def test_a_missing_annotation_file_and_a_wrong_on_error_are_errors(write, tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.json.*does not"):
        CocoDataset(tmp_path / "nothing.json", tmp_path)
    with pytest.raises(ValueError, match="'ignore'"):
        write(content(), on_error="ignore")


def test_an_image_of_another_size_says_which_side_is_swapped(write, tmp_path):
    dataset = write(content())
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((21, 30, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"a\.png.*20 x 30.*30 x 20.*sides are swapped.*EXIF"):
        dataset.load_image(0)
    with pytest.raises(ValueError, match=r"b\.png.*20 x 30.*21 x 30.*Resize one"):
        dataset.load_image(1)


def test_exif_turned_images_match_annotations_of_the_turned_picture(write, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert write(content()).load_image(0).shape == (20, 30, 3)


@pytest.mark.parametrize(
    "annotations, images, counts",
    [
        (
            "coco_tiny/annotations/instances_train2017.json",
            "coco_tiny/train2017",
            (80, 705, 34, 80),
        ),
        ("coco_tiny/annotations/instances_val2017.json", "coco_tiny/val2017", (80, 815, 45, 80)),
        ("nuclei/train/annotations.json", "nuclei/train/images", (460, 19750, 375, 1)),
        ("nuclei/val/annotations.json", "nuclei/val/images", (70, 2819, 159, 1)),
    ],
)
def test_real_datasets_are_read_completely(shared_data, annotations, images, counts):
    dataset = CocoDataset(shared_data / annotations, shared_data / images)
    number = sum(len(record.instances) for record in dataset.records)
    found = (len(dataset), number, dataset.max_instances, len(dataset.class_names))
    assert found == counts and dataset.faults == []
    stated = json.loads((shared_data / annotations).read_text())["annotations"]
    boxes = {a["id"]: a["bbox"] for a in stated if not a["iscrowd"]}
    for record in dataset.records:
        for instance in record.instances:
            if not instance.crowd:
                x, y, w, h = boxes[instance.annotation_id]
                np.testing.assert_allclose(instance.box, [x, y, x + w, y + h], atol=0.02)
    for index in range(0, len(dataset), 8):
        assert dataset.load_image(index).shape == (*dataset.image_sizes[index], 3)
