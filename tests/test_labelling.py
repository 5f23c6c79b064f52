"""Predictions as files of labelling tools: read back by the package's readers, or by hand where it has none."""

import json
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

from keras_maskrcnn import cli
from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.geometry import polygons, rle
from keras_maskrcnn.geometry.contours import bridged, mask_polygons, mask_rings, simplified_rings
from keras_maskrcnn.inference.visualize import segmentation_mask
from keras_maskrcnn.labelling import TOOLS, analysis_files, write_labels

SIZE = (90, 120)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
READ = {"coco": 1.0, "labelme": 0.98, "yolo": 0.98, "voc": 1.0, "via": 0.98}  # IoU of what is read back
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 9, "name": "Röhre <b>"}]


def disc(x, y, radius):
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def scene(seed):
    """Masks that do not overlap: a disc, a ring, two parts, one at the border, a tiny one, a noisy one."""
    rng = np.random.default_rng(seed)
    noisy = disc(95, 65, 18) & (rng.random(SIZE) < 0.9)
    return [
        disc(20, 20, 15),
        disc(60, 20, 16) & ~disc(62, 22, 7),
        disc(95, 12, 8) | disc(105, 32, 6),
        disc(0, 89, 20),
        (abs(X - 50) <= 1) & (abs(Y - 50) <= 1),
        noisy,
        disc(50, 72, 14) & (X + Y < 130),
    ]


def fill(ring, size):
    runs = polygons.union_runs([np.asarray(ring, np.float64)], *size)
    return rle.decode_window(runs, size[0], [0, 0, size[1], size[0]]).astype(bool)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.fixture
def predictions(tmp_path):
    """(images, results): two folders with images of the same name, and one image without predictions."""
    images, results = [], []
    for number, name in enumerate(("a/photo.png", "b/photo.png", "b/empty.png"), start=1):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        images.append({"id": number * 10, "file_name": str(path), "height": SIZE[0], "width": SIZE[1]})
        for k, mask in enumerate(scene(number) if number < 3 else ()):
            code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            results.append(
                {
                    "image_id": number * 10,
                    "category_id": (7, 9)[k % 2],
                    "score": 0.3 + k / 10,
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "segmentation": {"size": list(SIZE), "counts": code["counts"].decode()},
                }
            )
    return images, results


def masks_by_image(truth):
    """[[(class name, mask)] of each image], by the image's file name and then by the mask's first pixel."""
    names = {category["id"]: category["name"] for category in truth["categories"]}
    groups = {image["id"]: [] for image in sorted(truth["images"], key=lambda image: image["file_name"])}
    for annotation in truth["annotations"]:
        mask = segmentation_mask(annotation["segmentation"], SIZE)
        groups[annotation["image_id"]].append((names[annotation["category_id"]], mask))
    return list(groups.values())


def check_same(found, expected, least):
    """Each expected mask is found once, with its class."""
    assert len(found) == len(expected)
    for name, mask in expected:
        overlaps = [iou(mask, other) for _, other in found]
        best = int(np.argmax(overlaps))
        assert found[best][0] == name and overlaps[best] >= least, (name, mask.sum(), max(overlaps))


def expected_of(number):
    return [(("cat", "Röhre <b>")[k % 2], mask) for k, mask in enumerate(scene(number))] if number < 3 else []


@pytest.mark.parametrize("tool", READ)
def test_our_readers_read_back_what_was_written(tool, predictions, tmp_path):
    written = write_labels(tool, tmp_path / "drafts", *predictions, CATEGORIES)
    assert all(path.is_file() for path in written)
    images = {} if tool in ("yolo", "voc") else {"image_dir": tmp_path / "photos"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        dataset = open_dataset(tmp_path / "drafts", **images)
    truth = dataset.to_coco()
    assert len(truth["images"]) == 3 and {c["name"] for c in truth["categories"]} == {"cat", "Röhre <b>"}
    sources = [entry.source for entry in dataset.records]
    order = {np.asarray(Image.open(image["file_name"])).tobytes(): k for k, image in enumerate(predictions[0], 1)}
    found = dict(zip([image["id"] for image in truth["images"]], sources, strict=True))
    for image, group in zip(sorted(truth["images"], key=lambda one: one["file_name"]), masks_by_image(truth)):
        number = order[np.asarray(Image.open(found[image["id"]])).tobytes()]  # the same pixels: the same image
        check_same(group, expected_of(number), READ[tool])


@pytest.mark.parametrize("tool", READ)
def test_check_data_finds_no_fault_in_what_was_written(tool, predictions, tmp_path, capsys):
    write_labels(tool, tmp_path / "drafts", *predictions, CATEGORIES)
    images = [] if tool in ("yolo", "voc") else ["--images", str(tmp_path / "photos")]
    status = cli.main(["check-data", str(tmp_path / "drafts"), *images, "--output", str(tmp_path / "check")])
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    faults = [found for found in report["findings"] if found["severity"] == "error"]
    assert status == cli.SUCCESS and faults == [], capsys.readouterr()


def test_cvat_masks_are_exact(predictions, tmp_path):
    write_labels("cvat", tmp_path / "drafts", *predictions, CATEGORIES)
    root = ElementTree.parse(tmp_path / "drafts" / "annotations.xml").getroot()
    assert [one.text for one in root.iter("name") if one.text != "score"] == ["cat", "Röhre <b>"]
    names = [image.get("name") for image in root.iter("image")]
    assert names == ["a/photo.png", "b/photo.png", "b/empty.png"]
    for number, image in enumerate(root.iter("image"), start=1):
        found = []
        for entry in image.iter("mask"):
            left, top, width, height = (int(entry.get(key)) for key in ("left", "top", "width", "height"))
            runs = [int(text) for text in entry.get("rle").split(",")]
            flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)  # rows, beginning with 0
            mask = np.zeros(SIZE, bool)
            mask[top : top + height, left : left + width] = flat.reshape(height, width)
            found.append((entry.get("label"), mask))
        check_same(found, expected_of(number), 1.0)
    scores = [float(entry.find("attribute").text) for entry in next(root.iter("image")).iter("mask")]
    assert scores == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])


def test_label_studio_gets_percent_and_its_setup(predictions, tmp_path):
    write_labels("label-studio", tmp_path / "drafts", *predictions, CATEGORIES)
    tasks = json.loads((tmp_path / "drafts" / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d={name}" for name in ("a/photo.png", "b/photo.png", "b/empty.png")
    ]
    for number, task in enumerate(tasks, start=1):
        results = task["predictions"][0]["result"]
        found = []
        for result in results:
            points = np.array(result["value"]["points"]) / 100 * (SIZE[1], SIZE[0])
            found.append((result["value"]["polygonlabels"][0], fill(points, SIZE)))
        check_same(found, expected_of(number), 0.98)
    assert tasks[0]["predictions"][0]["score"] == pytest.approx(0.6)
    setup = ElementTree.parse(tmp_path / "drafts" / "label_config.xml").getroot()
    assert [one.get("value") for one in setup.iter("Label")] == ["cat", "Röhre <b>"]


def test_scores_are_kept_where_the_format_can(predictions, tmp_path):
    for tool in ("coco", "labelme", "via"):
        write_labels(tool, tmp_path / tool, *predictions, CATEGORIES)
    coco = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    assert sorted({one["score"] for one in coco["annotations"]}) == pytest.approx(np.arange(0.3, 0.95, 0.1).tolist())
    labelme = json.loads((tmp_path / "labelme" / "photo.json").read_text())
    assert {shape["score"] for shape in labelme["shapes"]} == {one["score"] for one in coco["annotations"]}
    via = json.loads((tmp_path / "via" / "via_project.json").read_text())
    regions = next(iter(via["_via_img_metadata"].values()))["regions"]
    assert regions[0]["region_attributes"] == {"class": "cat", "score": "0.9000"}


def test_in_voc_the_surest_of_overlapping_objects_is_on_top(predictions, tmp_path):
    images, results = predictions
    wide = coco_mask.encode(np.asfortranarray(disc(20, 20, 25), np.uint8))
    below = results[0] | {"score": 0.1, "segmentation": {"size": list(SIZE), "counts": wide["counts"].decode()}}
    write_labels("voc", tmp_path / "drafts", images, [below, results[0]], CATEGORIES)
    numbers = np.asarray(Image.open(tmp_path / "drafts" / "SegmentationObject" / "photo.png"))
    assert (numbers[disc(20, 20, 15)] == 1).all() and (numbers[disc(20, 20, 25) & ~disc(20, 20, 15)] == 2).all()


def test_boxes_without_masks_are_written_filled_and_empty_masks_are_left_out(predictions, tmp_path):
    images, results = predictions
    empty = coco_mask.encode(np.zeros(SIZE, np.uint8, order="F"))
    nothing = results[0] | {"segmentation": {"size": list(SIZE), "counts": empty["counts"].decode()}}
    only_box = {key: results[0][key] for key in ("image_id", "category_id", "score")} | {"bbox": [10, 20, 30, 40]}
    write_labels("coco", tmp_path / "drafts", images, [nothing, only_box], CATEGORIES)
    content = json.loads((tmp_path / "drafts" / "annotations" / "instances_default.json").read_text())
    assert [(one["bbox"], one["area"]) for one in content["annotations"]] == [([10, 20, 30, 40], 1200)]


@pytest.mark.parametrize("seed", range(5))
def test_rings_are_exact(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = rng.integers(1, 30, 2)
        mask = rng.random((height, width)) < rng.random()
        mask[0, 0] = True
        outer, holes = mask_rings(mask)
        assert (fill(bridged(outer + holes), mask.shape) == mask).all()


def test_rings_by_hand():
    # A 3 x 3 square with a hole in the middle, and a pixel that touches it at a corner alone.
    mask = np.zeros((5, 5), bool)
    mask[:3, :3] = mask[3, 3] = True
    mask[1, 1] = False
    outer, holes = mask_rings(mask)
    assert sorted(ring.tolist() for ring in outer) == [
        [[0, 0], [3, 0], [3, 3], [0, 3]],
        [[3, 3], [4, 3], [4, 4], [3, 4]],
    ]
    assert sorted(map(tuple, holes[0].tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    outer, holes = simplified_rings(disc(60, 40, 30))
    assert len(outer) == 1 and not holes and len(outer[0]) < 30 and iou(fill(outer[0], SIZE), disc(60, 40, 30)) > 0.985


def test_wrong_arguments_are_named(predictions, tmp_path):
    with pytest.raises(ValueError, match="A labelling tool must be one of .* Received 'word'"):
        write_labels("word", tmp_path, *predictions, CATEGORIES)
    images, _ = predictions
    remote = [images[0] | {"file_name": "s3://bucket/a.jpg"}]
    for tool in set(TOOLS) - {"labels", "labels-tiff", "geojson"}:  # these name no image that a tool would open
        with pytest.raises(ValueError, match="s3://bucket/a.jpg"):
            write_labels(tool, tmp_path, remote, [], CATEGORIES)
    with pytest.raises(ValueError, match="have no colon .* Received 'a:b'"):
        write_labels("voc", tmp_path, *predictions, [*CATEGORIES, {"id": 1, "name": "a:b"}])


def label_scene(tmp_path, predictions):
    """The images of one folder with their results, and what a label image of each must hold."""
    images, results = predictions
    images = [image for image in images if "/b/" in image["file_name"]]
    results = [result for result in results if result["image_id"] == 20]
    extra = coco_mask.encode(np.asfortranarray(disc(58, 22, 12), np.uint8))  # over the ring and its hole, less sure
    code = {"size": list(SIZE), "counts": extra["counts"].decode()}
    results.append({"image_id": 20, "category_id": 7, "score": 0.1, "bbox": [0, 0, 1, 1], "segmentation": code})
    expected = np.zeros(SIZE, np.uint32)
    for number, mask in enumerate([*reversed(scene(2)), disc(58, 22, 12)], start=1):
        expected[mask & (expected == 0)] = number
    return images, results, expected


@pytest.mark.parametrize("tool, ending, dtype", [("labels", "png", np.uint16), ("labels-tiff", "tif", np.uint32)])
def test_label_images_hold_the_surest_object_of_each_pixel(tool, ending, dtype, predictions, tmp_path):
    images, results, expected = label_scene(tmp_path, predictions)
    write_labels(tool, tmp_path / "drafts", images, results, CATEGORIES)
    path = tmp_path / "drafts" / "labels" / f"photo.{ending}"
    read = tifffile.imread(path) if ending == "tif" else np.asarray(Image.open(path))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, expected)
    lines = (tmp_path / "drafts" / "objects.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file\tnumber\tclass\tscore\tpixels" and len(lines) == 9
    assert lines[1].split("\t") == [images[0]["file_name"], "1", "cat", "0.9000", str(scene(2)[-1].sum())]
    assert lines[8].split("\t")[1:] == ["8", "cat", "0.1000", str((expected == 8).sum())]
    truth = open_dataset(tmp_path / "drafts", tmp_path / "photos" / "b", format="label-images").to_coco()
    (found,) = [group for group in masks_by_image(truth) if group]
    check_same(found, [("object", expected == number) for number in range(1, 9)], 1.0)


def test_more_objects_than_16_bits_count_become_a_tiff(monkeypatch, predictions, tmp_path):
    images, results, expected = label_scene(tmp_path, predictions)
    monkeypatch.setattr(analysis_files, "_PNG_MOST", 7)
    write_labels("labels", tmp_path / "drafts", images, results, CATEGORIES)
    names = sorted(path.name for path in (tmp_path / "drafts" / "labels").iterdir())
    assert names == ["empty.png", "photo.tif"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "drafts" / "labels" / "photo.tif"), expected)


def covered(polygons, size):
    """Even-odd filling of GeoJSON's polygons, by the crossings of a row of pixels' centres with each side."""
    counts = np.zeros(size, int)
    for ring in (ring for polygon in polygons for ring in polygon):
        assert ring[0] == ring[-1] and len(ring) >= 5
        for (x1, y1), (x2, y2) in zip(ring, ring[1:]):
            if x1 == x2:
                counts[min(y1, y2) : max(y1, y2), x1:] += 1
            else:
                assert y1 == y2
    return counts % 2 == 1


def test_geojson_has_the_detections_of_qupath_pixel_by_pixel(predictions, tmp_path):
    write_labels("geojson", tmp_path / "drafts", *predictions, CATEGORIES)
    names = sorted(path.name for path in (tmp_path / "drafts").iterdir())
    assert names == ["empty.geojson", "photo-2.geojson", "photo.geojson"]
    assert json.loads((tmp_path / "drafts" / "empty.geojson").read_text())["features"] == []
    content = json.loads((tmp_path / "drafts" / "photo.geojson").read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection" and len({one["id"] for one in content["features"]}) == 7
    expected = list(reversed(expected_of(1)))  # by score
    for k, (one, (name, mask)) in enumerate(zip(content["features"], expected, strict=True)):
        kind, coordinates = one["geometry"]["type"], one["geometry"]["coordinates"]
        parts = coordinates if kind == "MultiPolygon" else [coordinates]
        assert one["type"] == "Feature" and one["properties"]["objectType"] == "detection"
        assert one["properties"]["classification"]["name"] == name
        assert one["properties"]["measurements"] == {"score": round(0.9 - k / 10, 4)}
        np.testing.assert_array_equal(covered(parts, SIZE), mask)
    assert {"Polygon", "MultiPolygon"} == {one["geometry"]["type"] for one in content["features"]}
    colors = {tuple(one["properties"]["classification"]["color"]) for one in content["features"]}
    assert len(colors) == 2 and all(0 <= part <= 255 for color in colors for part in color)


@pytest.mark.parametrize("seed", range(3))
def test_polygons_are_valid_and_cover_the_mask_for_shapely(seed):
    shapely = pytest.importorskip("shapely", reason="shapely is not among the test tools")
    rng = np.random.default_rng(seed)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.2, 0.95)
        shape = shapely.MultiPolygon([shapely.Polygon(outer, holes) for outer, holes in mask_polygons(mask)])
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
        assert shape.is_valid and shape.area == mask.sum()
        inside = shapely.contains_xy(shape, columns.ravel(), rows.ravel()) if mask.any() else np.zeros(mask.size, bool)
        np.testing.assert_array_equal(inside.reshape(mask.shape), mask)


def test_rings_that_meet_at_a_corner_are_taken_apart():
    # The hole of two pixels meets itself, and the second outline meets itself around a pixel that it shuts in.
    holes = np.ones((4, 4), bool)
    holes[1, 1] = holes[2, 2] = False
    ((outer, inner),) = mask_polygons(holes)
    assert len(outer) == 4 and sorted(len(ring) for ring in inner) == [4, 4]
    pinched = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    ((outer, inner),) = mask_polygons(pinched)
    assert len(inner) == 1 and {tuple(corner) for corner in inner[0].tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert (2, 2) in {tuple(corner) for corner in outer.tolist()} and len(outer) == 6
    assert mask_polygons(np.zeros((2, 2), bool)) == []
