"""check-data: what training would suffer from, in the files of a dataset and in its objects."""

import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from reader_tools import save_image, scene

from keras_maskrcnn.checkup import files, findings, inspect_dataset, inspection
from keras_maskrcnn.checkup.files import file_findings, jpeg_size
from keras_maskrcnn.checkup.findings import examine_objects, points_inside
from keras_maskrcnn.checkup.inspection import leaks
from keras_maskrcnn.data import ArrayDataset, CocoDataset

SQUARE = [10, 10, 40, 10, 40, 40, 10, 40]


def annotation(number, image_id=1, **changes):
    entry = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "segmentation": [SQUARE]}
    return {**entry, **changes}


def opened(folder, names, annotations, size=(120, 160), **keywords):
    content = {
        "images": [
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
            for number, name in enumerate(names, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "leaf"}, {"id": 2, "name": "stem"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDataset(folder / "a.json", folder, on_error="skip", **keywords)


def of_kind(findings, kind):
    return [finding for finding in findings if finding.kind == kind]


def object_findings(folder, **changes):
    scene(1).save(folder / "a.png")
    return examine_objects(opened(folder, ["a.png"], [annotation(1, **changes)])[0], 0, ("leaf", "stem"))[0]


@pytest.mark.parametrize(
    "area, told", [(900, 0), (None, 0), (961, 0), (480, 0), (1850, 0), (1, 1), (300, 1), (2000, 1), (144_000, 1)]
)
def test_an_area_far_from_the_masks_is_a_warning(tmp_path, area, told):
    found = object_findings(tmp_path, area=area)
    assert [finding.kind for finding in found] == ["area does not fit the mask"] * told
    if told:
        assert found[0].severity == "warning" and "annotation 1 of" in found[0].where
        assert f"`area` is {area}, its mask has 900 pixels" in found[0].message


@pytest.mark.parametrize("area, told", [(1, 0), (16, 0), (0.5, 0), (60, 1)])
def test_areas_of_tiny_objects_may_differ_by_their_border(tmp_path, area, told):
    found = object_findings(tmp_path, segmentation=[[10, 10, 14, 10, 14, 14, 10, 14]], area=area)
    assert len(of_kind(found, "area does not fit the mask")) == told


def test_a_part_inside_a_part_is_a_hole_that_is_none(tmp_path):
    hole = [20, 20, 30, 20, 30, 30, 20, 30]
    (found,) = object_findings(tmp_path, segmentation=[SQUARE, hole])
    assert (found.severity, found.kind) == ("warning", "part inside a part")
    assert "its part 2 of 2 lies inside part 1" in found.message and "run lengths" in found.message
    (found,) = object_findings(tmp_path, segmentation=[hole, [60, 60, 70, 60, 70, 70], SQUARE])
    assert "its part 1 of 3 lies inside part 3" in found.message


@pytest.mark.parametrize(
    "other",
    [
        [60, 20, 70, 20, 70, 30, 60, 30],  # beside it
        [30, 20, 60, 20, 60, 30, 30, 30],  # across its border
        [10, 40, 40, 40, 40, 60, 10, 60],  # shares a side with it
    ],
)
def test_parts_beside_each_other_are_no_holes(tmp_path, other):
    assert object_findings(tmp_path, segmentation=[SQUARE, other]) == []


def test_a_part_in_the_notch_of_another_is_no_hole(tmp_path):
    notched = [10, 10, 60, 10, 60, 60, 10, 60, 10, 50, 50, 50, 50, 20, 10, 20]
    assert object_findings(tmp_path, segmentation=[notched, [20, 30, 30, 30, 30, 40, 20, 40]]) == []


def test_points_inside_are_told_by_crossings():
    star = np.array([[0, 0], [10, 0], [10, 10], [5, 2], [0, 10]], float)
    inside = points_inside(np.array([[1, 1], [9, 1], [5, 1], [5, 5], [-1, 5], [11, 5], [9.5, 8]], float), star)
    assert inside.tolist() == [True, True, True, False, False, False, True]


def test_one_file_under_several_ids_is_named_once(tmp_path):
    for number, name in enumerate(("a.png", "b.png")):
        scene(number).save(tmp_path / name)
    names = ["a.png", "b.png", "a.png", f"../{tmp_path.name}/a.png"]
    dataset = opened(tmp_path, names, [annotation(n, n) for n in (1, 2, 3, 4)])
    findings = inspect_dataset(dataset, workers=1).findings
    (found,) = of_kind(findings, "one file under several ids")
    assert found.where == str(tmp_path / "a.png") and "3 images" in found.message and "(ids 1, 3, 4)" in found.message
    assert not of_kind(findings, "image twice")


def test_images_that_differ_in_the_ending_alone_are_told(tmp_path):
    for number, name in enumerate(("a.png", "a.jpg", "b.png", "c.png", "c.bmp")):
        scene(number).save(tmp_path / name)
    same = [annotation(1, 1), annotation(2, 2), annotation(3, 3), annotation(4, 4)]
    found = of_kind(
        file_findings(opened(tmp_path, ["a.png", "a.jpg", "b.png", "c.png"], same)), "two images of one name"
    )
    assert [(finding.severity, finding.where) for finding in found] == [
        ("warning", str(tmp_path / "a.png")),
        ("warning", str(tmp_path / "c.png")),  # c.bmp is not listed: it may be the one that was meant
    ]
    assert found[0].message.startswith("a.jpg has the same name") and found[1].message.startswith("c.bmp has")
    for changes in ({"segmentation": [[60, 60, 90, 60, 90, 90]]}, {"category_id": 2}):
        other = [annotation(1, 1), annotation(2, 2, **changes)]
        (found,) = of_kind(file_findings(opened(tmp_path, ["a.png", "a.jpg"], other)), "two images of one name")
        assert found.severity == "note"


def pages_of(path):
    size = np.asarray(Image.open(path)).shape[:2]
    findings = inspect_dataset(opened(path.parent, [path.name], [annotation(1)], size), workers=1).findings
    return [(finding.severity, finding.message) for finding in of_kind(findings, "pages")]


def test_pages_and_frames_are_told(tmp_path):
    frames = [scene(number).quantize() for number in range(3)]
    for name in ("a.gif", "b.png"):
        folder = tmp_path / name
        folder.mkdir()
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
        ((severity, message),) = pages_of(folder / name)
        assert severity == "warning" and message.startswith("it has several frames, of which the first is read.")
    stack = tmp_path / "stack" / "a.tif"
    stack.parent.mkdir()
    tifffile.imwrite(stack, np.stack([np.asarray(scene(k).convert("L")) for k in range(4)]), photometric="minisblack")
    assert pages_of(stack) == [
        ("note", "its 4 pages are read as channels. If they are several images, save each in its own file.")
    ]
    save_image(tmp_path / "plain" / "a.png", height=120, width=160)
    assert pages_of(tmp_path / "plain" / "a.png") == []


def part(labels, crowds=None):
    picture, mask = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), bool)
    picture[:, : 5 * len(labels)] = 200
    dataset = ArrayDataset([picture], [[mask] * len(labels)], [labels], None if crowds is None else [crowds], "abc")
    return inspect_dataset(dataset, workers=1)


def test_classes_of_one_part_alone_are_told():
    found = leaks(part([0, 1]), part([1, 2]))
    assert [(finding.kind, finding.where) for finding in found if finding.kind.startswith("class")] == [
        ("class without training data", "class 'c'"),
        ("class without validation data", "class 'a'"),
    ]
    found = leaks(part([0, 1], [False, True]), part([0, 1]))  # crowd regions are not learned
    assert [(finding.kind, finding.where) for finding in found if finding.kind.startswith("class")] == [
        ("class without training data", "class 'b'")
    ]


def test_masks_are_not_made_at_a_stated_size_that_is_wrong(tmp_path, monkeypatch):
    scene(1).save(tmp_path / "a.png")
    whole = [0, 0, 8000, 0, 8000, 8000, 0, 8000]
    dataset = opened(tmp_path, ["a.png"], [annotation(1, segmentation=[whole])], (8000, 8000))
    monkeypatch.setattr("keras_maskrcnn.data.records.Polygons.window", None)  # would fail if it were called
    inspection = inspect_dataset(dataset, workers=1)
    (found,) = of_kind(inspection.findings, "image of another size: wrong size")
    assert "8000 x 8000" in found.message and "120 x 160" in found.message
    assert inspection.areas.tolist() == [64_000_000]


def test_a_large_image_is_drawn_and_hashed_from_every_kth_pixel(tmp_path, monkeypatch):
    from keras_maskrcnn.data import duplicates
    from keras_maskrcnn.data.images.reading import stored_image
    from keras_maskrcnn.inference.visualize import segmentation_mask
    from keras_maskrcnn.pages import dataset_page

    pixels = np.random.default_rng(0).integers(0, 256, (150, 250, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    corners = [10, 20, 110, 20, 110, 80, 10, 80]
    annotation = {"bbox": [10, 20, 100, 60], "segmentation": [corners], "category_id": 1}
    assert dataset_page._shrunk(pixels, [annotation])[1] == [annotation]
    assert duplicates._thinned(stored_image(tmp_path / "a.png")).pixels.shape == (150, 250, 3)

    for module in (dataset_page, duplicates):
        monkeypatch.setattr(module, "_LARGEST", 130)
    small, (drawn,) = dataset_page._shrunk(pixels, [annotation])
    np.testing.assert_array_equal(small, pixels[::2, ::2])
    assert drawn["bbox"] == [5, 10, 50, 30] and drawn["category_id"] == 1
    expected = np.zeros((75, 125), bool)
    expected[10:40, 5:55] = True
    np.testing.assert_array_equal(segmentation_mask(drawn["segmentation"], (75, 125)), expected)
    np.testing.assert_array_equal(duplicates._thinned(stored_image(tmp_path / "a.png")).pixels, pixels[::2, ::2])


def many(tmp_path, count=40):
    """A dataset of JPEG files whose objects are squares; some of it is wrong, in ways that headers and boxes show."""
    names, annotations = [], []
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        names.append(f"{number}.jpg")
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / names[-1])
        square = [10, 10, 30, 10, 30, 30, 10, 30]
        annotations.append(annotation(number, image_id=number, segmentation=[square], bbox=[10, 10, 20, 20], area=400))
    annotations[6]["segmentation"] = [[10, 10, 90, 10, 90, 30, 10, 30]]  # leaves the image
    annotations[9]["bbox"] = [50, 30, 20, 20]
    annotations[13]["area"] = 40000
    annotations.append({**annotations[17], "id": 100})  # annotated twice
    Image.new("RGB", (40, 30)).save(tmp_path / "24.jpg")  # another size
    (tmp_path / "27.jpg").write_bytes(b"no image")
    return opened(tmp_path, names, annotations, (60, 80))


def test_of_very_many_images_headers_and_boxes_show_what_is_wrong(tmp_path, monkeypatch):
    dataset, done = many(tmp_path), []
    whole = inspect_dataset(dataset, workers=2, every_image=True)
    monkeypatch.setattr(inspection, "MOST_IMAGES", 39)
    monkeypatch.setattr(inspection, "SAMPLE", 5)
    part = inspect_dataset(dataset, workers=2, progress=done.append)
    [note] = of_kind(part.findings, "examined in part")
    assert f"of {5 + 4}: " in note.message and done == list(range(1, 41))
    assert [one for one in part.findings if one != note] == whole.findings and len(whole.findings) >= 6
    assert {one.kind for one in whole.findings} >= {
        "partly outside the image", "bbox does not fit the mask", "area does not fit the mask", "annotated twice",
        "image of another size: wrong size", "unreadable image",
    }  # fmt: skip
    np.testing.assert_array_equal(part.areas, whole.areas)
    assert sum(one is not None for one in part.pixels) == 10  # sampled, doubtful, and the one of another size
    assert sum(one is not None for one in whole.pixels) == 39


def test_of_very_many_images_those_without_a_file_are_examined_too(monkeypatch):
    monkeypatch.setattr(inspection, "MOST_IMAGES", 3)
    monkeypatch.setattr(inspection, "SAMPLE", 2)
    part = inspect_dataset(ArrayDataset([np.full((9, 9, 3), 50 * k, np.uint8) for k in range(4)], [[]] * 4), workers=1)
    assert [one.mean.tolist() for one in part.pixels] == [[50.0 * k] * 3 for k in range(4)]


def test_each_copy_is_told_once_with_the_first_image_that_it_equals(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(3)]
    names = [f"{number}.png" for number in range(60)]
    for number, name in enumerate(names):
        Image.fromarray(pictures[number % 3]).save(tmp_path / name)
    found = of_kind(inspect_dataset(opened(tmp_path, names, [], (60, 80))).findings, "image twice")
    assert len(found) == 57 and [one.image for one in found] == sorted(range(3, 60), key=lambda k: (k % 3, k))
    assert all(f"the same file as {tmp_path / names[one.image % 3]}" in one.message for one in found)


def _jpegs():
    """The bytes of JPEGs of many kinds."""
    picture, exif = scene(2).resize((40, 24)), Image.Exif()
    exif[0x0112] = 6
    kinds = [{}, {"progressive": True}, {"optimize": True, "comment": b"leaf"}, {"exif": exif}, {"exif": Image.Exif()}]
    kinds += [{"icc_profile": b"x" * 300}, {"restart_marker_rows": 1}, {"quality": 1}, {"xmp": b"<x/>"}]
    found = []
    for mode in ("RGB", "L", "CMYK"):
        for options in kinds:
            file = io.BytesIO()
            picture.convert(mode).save(file, "JPEG", **options)
            found.append(file.getvalue())
    return found


def test_sizes_in_headers_of_jpegs_are_pillows(tmp_path, monkeypatch):
    rng, whole, path = np.random.default_rng(0), _jpegs(), tmp_path / "a.jpg"
    texts = list(whole)
    for number in range(1500):
        data = bytearray(whole[number % len(whole)])
        for at in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
            data[at] = rng.choice([rng.integers(256), 0xFF, 0xC0, 0xC4, 0xDB, 0xE1, 0])
        texts.append(bytes(data if number % 3 else data[: rng.integers(len(data))]))
    quick = 0
    for text in texts:
        path.write_bytes(text)
        found = jpeg_size(str(path))
        quick += files._size_in_usual_header(text[:4096]) is not None
        with monkeypatch.context() as patch:
            patch.setattr(files, "_size_in_usual_header", lambda head: None)
            assert jpeg_size(str(path)) == found, text[:700]
    assert quick > 300 and all(files._size_in_usual_header(text[:4096]) for text in whole[:3])


@pytest.mark.parametrize("seed", range(3))
def test_repeated_boxes_of_an_image_are_found(seed):
    rng = np.random.default_rng(seed)
    boxes, positions = rng.integers(0, 3, (400, 4)) * 0.5, np.sort(rng.integers(0, 30, 400))
    seen, expected = set(), []
    for row, entry in enumerate(zip(positions.tolist(), map(tuple, boxes.tolist()), strict=True)):
        expected += [row] if entry in seen else []
        seen.add(entry)
    assert sorted(findings._repeated(boxes, positions).tolist()) == expected and len(expected) > 10
    assert findings._repeated(boxes[:0], positions[:0]).tolist() == []
