"""labelme's files as it writes them: every shape, groups, and images beside or inside the file, to the pixel."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from reader_tools import HEIGHT, WIDTH, box, check, picture, round_shape, save_image, save_turned

from keras_maskrcnn.data import LabelmeDataset


def shape(label, points, kind="polygon", **changes):
    entry = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return entry | {"mask": None} | changes


def save(folder, name, shapes, image="a.png", data=None, size=(HEIGHT, WIDTH)):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": data}
    content |= {"imageHeight": size[0], "imageWidth": size[1]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=2))
    return folder


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SQUARE = [[5, 4], [25, 4], [25, 14], [5, 14]]


def test_all_shapes(tmp_path):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png", seed=1)
    pixels = np.zeros((7, 9), bool)
    pixels[2:, :5] = True
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:17, 20:29] = pixels
    shapes = [
        shape("cat", SQUARE),
        shape("dog", [[52, 28], [40, 20]], "rectangle"),  # from the lower right to the upper left
        shape("dog", [[30, 20], [30, 32.5]], "circle"),  # centre, then a point on the rim
        shape("cat", [[40, 20], [52, 20], [52, 28], [40, 28]], "oriented_rectangle"),
        shape("cat", [[20, 10], [28, 16]], "mask", mask=encoded(pixels)),
        shape("__ignore__", SQUARE),
        shape("_background_", SQUARE),
    ]
    save(tmp_path, "a.json", shapes)
    save(tmp_path, "b.json", [], image="b.png")
    dataset = LabelmeDataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    masks = [box(5, 4, 25, 14), box(40, 20, 52, 28), round_shape(30, 20, 12.5, 12.5), box(40, 20, 52, 28), mask]
    expected = list(zip(("cat", "dog", "dog", "cat", "cat"), masks, strict=True))
    check(dataset, {"a.png": expected, "b.png": []}, tmp_path)


def test_a_group_is_one_object_of_each_label(tmp_path):
    save_image(tmp_path / "a.png")
    far = [[40, 20], [52, 28]]
    pixels = np.ones((4, 5), bool)
    shapes = [
        shape("cat", SQUARE, group_id=1),
        shape("dog", [[0, 30], [6, 40]], "rectangle", group_id=1),  # another label: another object
        shape("cat", far, "rectangle", group_id=1),
        shape("dog", [[10, 20], [20, 30]], "rectangle", group_id=2),
        shape("dog", [[30, 0], [34, 3]], "mask", group_id=2, mask=encoded(pixels)),  # polygons and pixels together
        shape("cat", far, "rectangle"),
    ]
    save(tmp_path, "a.json", shapes)
    expected = [
        ("cat", box(5, 4, 25, 14) | box(40, 20, 52, 28)),
        ("dog", box(0, 30, 6, 40)),
        ("dog", box(10, 20, 20, 30) | box(30, 0, 35, 4)),
        ("cat", box(40, 20, 52, 28)),
    ]
    check(LabelmeDataset(tmp_path), {"a.png": expected}, tmp_path)


def test_the_image_is_found_by_path_in_another_folder_or_inside(tmp_path):
    labels = tmp_path / "labels"
    save_image(tmp_path / "images" / "up.png", seed=1)
    save_image(tmp_path / "elsewhere" / "far.png", seed=2)
    save_turned(labels / "turned.jpg")
    object_ = [shape("cat", SQUARE)]
    save(labels, "1.json", object_, "..\\images\\up.png", data=encoded(picture(9)))  # the file wins, Windows or not
    save(labels, "2.json", object_, "C:\\old\\far.png")
    save(labels, "3.json", object_, "turned.jpg")
    save(labels, "4.json", object_, "gone.png", data=encoded(picture(4)))
    dataset = LabelmeDataset(labels, tmp_path / "elsewhere")
    for index, seed in ((0, 1), (1, 2), (3, 4)):
        np.testing.assert_array_equal(dataset.load_image(index), picture(seed))
    assert dataset.image_sizes == [(HEIGHT, WIDTH)] * 4
    names = ["up.png", "far.png", "turned.jpg", "000004.png"]
    check(dataset, {name: [("cat", box(5, 4, 25, 14))] for name in names}, tmp_path)


def test_a_single_file_whose_image_is_only_inside(tmp_path):
    save(tmp_path, "a.json", [shape("cat", SQUARE)], data=encoded(picture(3)))
    dataset = LabelmeDataset(tmp_path / "a.json")
    assert dataset.image_dir is None
    check(dataset, {"000001.png": [("cat", box(5, 4, 25, 14))]}, tmp_path)
    np.testing.assert_array_equal(dataset.load_image(0), picture(3))


FAULTS = {
    "line": (shape("cat", [[1, 1], [5, 5]], "line"), ["shape 1 of", "'line'"]),
    "two points": (shape("cat", [[1, 1], [5, 5]]), ["shape 1 of", "at least three"]),
    "rectangle of three": (shape("cat", SQUARE[:3], "rectangle"), ["a rectangle needs two points"]),
    "circle of nothing": (shape("cat", [[5, 5], [5, 5]], "circle"), ["positive radii"]),
    "outside": (shape("cat", [[70, 5], [80, 9]], "rectangle"), ["covers no area", "40 x 60"]),
    "no label": (shape("", SQUARE), ["needs a label"]),
    "damaged mask": (shape("cat", [[1, 1], [5, 5]], "mask", mask="AAAA"), ["cannot be read"]),
    "mask outside": (shape("cat", [[70, 50], [75, 55]], "mask", mask=encoded(np.ones((6, 6), bool))), ["is empty"]),
    "words": (shape("cat", [["a", 1], [5, 5]], "rectangle"), ["must be numbers"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_with_file_and_shape(tmp_path, name):
    save_image(tmp_path / "a.png")
    broken, words = FAULTS[name]
    save(tmp_path, "a.json", [shape("cat", SQUARE), broken])
    with pytest.raises(ValueError) as caught:
        LabelmeDataset(tmp_path)
    assert all(word in str(caught.value) for word in ["shape 1 of", "a.json", *words])
    with pytest.warns(UserWarning, match="Left out 1"):
        assert len(LabelmeDataset(tmp_path, on_error="skip")[0].instances) == 1


def test_faulty_files_are_named(tmp_path):
    save_image(tmp_path / "a.png")
    save(tmp_path, "good.json", [shape("cat", SQUARE)])
    save(tmp_path, "swapped.json", [], size=(WIDTH, HEIGHT))
    save(tmp_path, "other.json", [], size=(HEIGHT + 1, WIDTH))
    save(tmp_path, "lost.json", [], image="lost.png")
    save(tmp_path, "torn.json", [], image="torn.png", data="AAAA")
    (tmp_path / "half.json").write_text('{"shapes": [')
    (tmp_path / "strange.json").write_text('{"boxes": []}')
    with pytest.warns(UserWarning, match="Left out 6"):
        dataset = LabelmeDataset(tmp_path, on_error="skip")
    assert len(dataset) == 1
    told = {
        name: next(str(f) for f in dataset.faults if name in str(f)) for name in ("half", "strange", "lost", "torn")
    }
    assert "must be JSON" in told["half"] and "`shapes`" in told["strange"]
    assert "lost.png" in told["lost"] and "imageData is damaged" in told["torn"]
    sizes = [str(fault) for fault in dataset.faults if "must have the size" in str(fault)]
    assert any("sides are swapped" in fault and "60 x 40" in fault for fault in sizes)
    assert any("different versions" in fault and "41 x 60" in fault for fault in sizes)
    with pytest.raises(ValueError, match="which has none"):
        LabelmeDataset(_empty(tmp_path))


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"
