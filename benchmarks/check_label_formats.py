"""Write predictions in every labelling format, and read them back with the tools' own libraries and with this package.

    pip install labelme label-studio-sdk datumaro supervision shapely          # in an environment of their own
    python benchmarks/check_label_formats.py

Prints for each format the least IoU of a mask that was written and the one that was read, by the tool's library and by
this package's reader, and the faults that `check-data` finds. Classes and numbers of objects must agree. A library that
is missing is named. Imports no framework. `tests/test_label_tools.py` calls the same functions.
"""

import contextlib
import importlib.metadata
import io
import json
import logging
import pathlib
import shutil
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from keras_maskrcnn_launcher import register_package

register_package()  # the data code needs no framework

from keras_maskrcnn import cli  # noqa: E402
from keras_maskrcnn.data import CocoDataset, open_dataset  # noqa: E402
from keras_maskrcnn.labelling import write_labels  # noqa: E402

SIZE = (90, 120)
NAMES = ("cat", "Röhre <b>")
CATEGORIES = [{"id": 7, "name": NAMES[0]}, {"id": 9, "name": NAMES[1]}]
_ENLARGED = 16
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]


# What is written ---------------------------------------------------------------------------------------------


def disc(x, y, radius):
    """Bool (H, W)."""
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def scene(seed):
    """Masks that do not overlap: a disc, a ring, two parts, one at the border, a tiny one, a noisy one, a cut disc."""
    rng = np.random.default_rng(seed)
    return [
        disc(20, 20, 15),
        disc(60, 20, 16) & ~disc(62, 22, 7),
        disc(95, 12, 8) | disc(105, 32, 6),
        disc(0, 89, 20),
        (abs(X - 50) <= 1) & (abs(Y - 50) <= 1),
        disc(95, 65, 18) & (rng.random(SIZE) < 0.9),
        disc(50, 72, 14) & (X + Y < 130),
    ]


def make_predictions(folder, count=3):
    """Photos in a folder, of which the last has no objects.

    Returns:
        (images, results: COCO's tables, expected: {file name: [(class, mask)]}).
    """
    folder.mkdir(parents=True)
    images, results, expected = [], [], {}
    for number in range(1, count + 1):
        path = folder / f"photo-{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        images.append({"id": number, "file_name": str(path), "height": SIZE[0], "width": SIZE[1]})
        masks = scene(number) if number < count else []
        expected[path.name] = [(NAMES[k % 2], mask) for k, mask in enumerate(masks)]
        for k, mask in enumerate(masks):
            code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            code = {"size": list(SIZE), "counts": code["counts"].decode()}
            result = {"image_id": number, "category_id": (7, 9)[k % 2], "score": 0.3 + k / 10}
            results.append(result | {"bbox": coco_mask.toBbox(code).tolist(), "segmentation": code})
    return images, results, expected


# What is read ------------------------------------------------------------------------------------------------
# Each function reads a folder that `write_labels` wrote, and returns {file name: [(class, mask bool (H, W))]}.


def filled(rings):
    """Bool (H, W): polygons filled by COCO's rule, joined. `rings`: lists of [x, y], or of flat coordinates."""
    codes = coco_mask.frPyObjects([np.asarray(ring, float).ravel().tolist() for ring in rings], *SIZE)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def by_labelme(folder, photos):
    """By labelme's LabelFile. Polygons are filled by COCO's rule; parts of a group are joined, as its exporters do."""
    from labelme._label_file import LabelFile
    from loguru import logger

    logger.disable("labelme")

    found = {}
    for path in sorted(folder.glob("*.json")):
        groups, content = {}, LabelFile(str(path))
        for number, shape in enumerate(content.shapes):
            key = (shape["label"], number if shape["group_id"] is None else f"group {shape['group_id']}")
            groups[key] = groups.get(key, np.zeros(SIZE, bool)) | _labelme_mask(shape)
        found[pathlib.Path(content.imagePath).name] = [(name, mask) for (name, _), mask in groups.items()]
    return found


def _labelme_mask(shape):
    """Bool (H, W) of a polygon, or of a mask, which lies at its first corner."""
    if shape["shape_type"] == "polygon":
        return filled([shape["points"]])
    mask, (x, y) = np.zeros(SIZE, bool), map(int, shape["points"][0])
    height, width = shape["mask"].shape
    mask[y : y + height, x : x + width] = shape["mask"]
    return mask


def by_datumaro(name):
    """A reader by a format of Datumaro."""

    def read(folder, photos):
        from datumaro import AnnotationType, Dataset

        dataset = Dataset.import_from(str(_with_images(folder, photos)), name)
        names, found = [label.name for label in dataset.categories()[AnnotationType.label]], {}
        for item in dataset:
            masks = [one for one in item.annotations if one.type == AnnotationType.mask]
            file = f"{pathlib.PurePosixPath(item.id).name}.png"
            found[file] = [(names[one.label], np.asarray(one.image).astype(bool)) for one in masks]
        return found

    return read


def _with_images(folder, photos):
    """A copy of a folder with the photos in `images`, where Datumaro looks for them; itself where it has images."""
    if (folder / "JPEGImages").exists():
        return folder
    place = folder.parent / f"{folder.name}-with-images"
    if not place.exists():
        shutil.copytree(folder, place)
        shutil.copytree(photos, place / "images")
    return place


def by_supervision(folder, photos):
    """By supervision's reader of YOLO segmentation; Datumaro's takes boxes alone.

    It fills outlines by OpenCV's rule, which takes the pixels of the border in: a square of 3 x 3 becomes one of 4 x 4.
    YOLO's numbers are shares of the image, so it gets the images enlarged. Of each pixel the point beside its centre is
    looked up: on the centre itself lie outlines, whose points are in the middle of pixels' edges.
    """
    import supervision

    large = folder.parent / f"{folder.name}-large"
    large.mkdir()
    for path in (folder / "images").iterdir():
        Image.open(path).resize((SIZE[1] * _ENLARGED, SIZE[0] * _ENLARGED)).save(large / path.name)
    paths = str(large), str(folder / "labels"), str(folder / "data.yaml")
    dataset, found = supervision.DetectionDataset.from_yolo(*paths, force_masks=True), {}
    for path, _, detections in dataset:
        masks = np.zeros((0, *SIZE)) if detections.mask is None else np.asarray(detections.mask)
        points = slice(_ENLARGED // 2 + 1, None, _ENLARGED)
        names = [dataset.classes[label] for label in detections.class_id]
        found[pathlib.Path(path).name] = list(zip(names, masks[:, points, points].astype(bool), strict=True))
    return found


def by_label_studio(folder, photos):
    """By label-studio-sdk: its LabelInterface accepts the predictions, its Converter makes COCO of them."""
    content = label_studio_coco(folder, photos)
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = {pathlib.Path(image["file_name"]).name: [] for image in content["images"]}
    files = {image["id"]: pathlib.Path(image["file_name"]).name for image in content["images"]}
    for one in content["annotations"]:
        found[files[one["image_id"]]].append((names[one["category_id"]], filled(one["segmentation"])))
    return found


def label_studio_coco(folder, photos):
    """The COCO file that Label Studio's converter makes of accepted predictions, in `folder/coco/result.json`."""
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    logging.getLogger("label_studio_sdk").setLevel(logging.ERROR)
    config = (folder / "label_config.xml").read_text(encoding="utf-8")
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    interface = LabelInterface(config)
    interface.validate()
    for number, task in enumerate(tasks, start=1):
        errors = interface.validate_prediction(task["predictions"][0], return_errors=True)
        if errors:
            raise ValueError(f"Label Studio must accept the predictions. Received: {errors}.")
        name = task["data"]["image"].removeprefix("/data/local-files/?d=")
        task |= {"id": number, "data": {"image": str(photos / name)}}
        task["annotations"] = [{"id": number, "result": task.pop("predictions")[0]["result"]}]
    (folder / "accepted.json").write_text(json.dumps(tasks), encoding="utf-8")
    converter = Converter(config, str(folder), download_resources=False)
    converter.convert_to_coco(str(folder / "accepted.json"), str(folder / "coco"), is_dir=False)
    return json.loads((folder / "coco" / "result.json").read_text(encoding="utf-8"))


def by_shapely(folder, photos):
    """By shapely: each geometry must be valid; a pixel belongs to it if its centre does."""
    import shapely

    found = {}
    for path in folder.glob("*.geojson"):
        objects = found[f"{path.stem}.png"] = []
        for one in json.loads(path.read_text(encoding="utf-8"))["features"]:
            shape = shapely.from_geojson(json.dumps(one["geometry"]))
            if not shape.is_valid:
                raise ValueError(f"Each geometry must be valid. Received: {shapely.is_valid_reason(shape)} in {path}.")
            inside = shapely.contains_xy(shape, X.ravel() + 0.5, Y.ravel() + 0.5).reshape(SIZE)
            objects.append((one["properties"]["classification"]["name"], inside))
    return found


def by_package(folder, photos):
    """This package's reader; of Label Studio and CVAT what their tools export of it."""
    if (folder / "tasks.json").exists():
        label_studio_coco(folder, photos)
        dataset = CocoDataset(folder / "coco" / "result.json", photos)
    elif (folder / "annotations.xml").exists():
        from datumaro import Dataset

        Dataset.import_from(str(_with_images(folder, photos)), "cvat").export(str(folder / "export"), "coco_instances")
        dataset = CocoDataset(next((folder / "export" / "annotations").glob("*.json")), photos)
    else:
        own = (folder / "images").exists() or (folder / "JPEGImages").exists()
        dataset = open_dataset(folder, None if own else photos)
    found = {}
    for record in dataset:
        objects = found[pathlib.Path(record.source).name] = []
        for one in record.instances:
            window, mask = one.mask.window(*SIZE), np.zeros(SIZE, bool)
            height, width = window.pixels.shape
            mask[window.y : window.y + height, window.x : window.x + width] = window.pixels
            objects.append((dataset.class_names[one.label], mask))
    return found


# The comparison ----------------------------------------------------------------------------------------------

FORMATS = {  # format -> (package of its library on PyPI, reader, least IoU)
    "coco": ("datumaro", by_datumaro("coco_instances"), 1.0),
    "cvat": ("datumaro", by_datumaro("cvat"), 1.0),
    "voc": ("datumaro", by_datumaro("voc_instance_segmentation"), 1.0),
    "labelme": ("labelme", by_labelme, 0.98),
    "label-studio": ("label-studio-sdk", by_label_studio, 0.98),
    "yolo": ("supervision", by_supervision, 0.98),
    "geojson": ("shapely", by_shapely, 1.0),
}
NO_READER = ("geojson",)  # formats that this package writes alone


def least_overlap(found, expected):
    """The least IoU of a mask and what was read of it.

    Raises:
        ValueError: images, or the classes of an image, differ.
    """
    if set(found) != set(expected):
        raise ValueError(f"The images must be {sorted(expected)}. Received {sorted(found)}.")
    least = 1.0
    for file, objects in expected.items():
        classes = sorted(name for name, _ in objects), sorted(name for name, _ in found[file])
        if classes[0] != classes[1]:
            raise ValueError(f"{file}: the classes must be {classes[0]}. Received {classes[1]}.")
        for name, mask in objects:
            others = [other for label, other in found[file] if label == name]
            least = min(least, max((mask & other).sum() / (mask | other).sum() for other in others))
    return float(least)


def faults_of(folder, photos):
    """What `check-data` finds in a folder: list of str."""
    own = (folder / "images").exists() or (folder / "JPEGImages").exists()
    report = folder.parent / f"{folder.name}-check"
    options = [] if own else ["--images", str(photos)]
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["check-data", str(folder), *options, "--output", str(report)])
    findings = json.loads((report / "report.json").read_text(encoding="utf-8"))["findings"]
    return [f"{one['kind']}: {one['message']}" for one in findings if one["severity"] != "note"]


def main():
    """Write, read and print the table. Returns the exit status: 1 where a format falls short."""
    short = False
    print("| format | library | least IoU by it | by this package | check-data |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        photos = pathlib.Path(place) / "photos"
        images, results, expected = make_predictions(photos)
        for name, (package, read, least) in FORMATS.items():
            folder = pathlib.Path(place) / name
            write_labels(name, folder, images, results, CATEGORIES)
            try:
                library = f"{package} {importlib.metadata.version(package)}"
            except importlib.metadata.PackageNotFoundError:
                print(f"| {name} | {package} is not installed | | | |")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = least_overlap(read(folder, photos), expected)
                ours = None if name in NO_READER else least_overlap(by_package(folder, photos), expected)
                read_here = name not in (*NO_READER, "cvat", "label-studio")
                faults = faults_of(folder, photos) if read_here else None
            short |= theirs < least or bool(ours is not None and ours < least) or bool(faults)
            told = "" if faults is None else faults or "nothing"
            print(
                f"| {name} | {library} | {theirs:.4f} | {'' if ours is None else f'{ours:.4f}'} | {told} |", flush=True
            )
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
