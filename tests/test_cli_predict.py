"""`keras-maskrcnn predict`: bad files, ids that pycocotools takes, and results that are there when it is stopped."""

import argparse
import contextlib
import csv
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from known_answers import ColourModel, KnownModel, small_config
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from reader_tools import HEIGHT, WIDTH, picture

from keras_maskrcnn import cli, labelling
from keras_maskrcnn.cli import predict
from keras_maskrcnn.cli import results as result_files
from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.data.images import decoding, limits
from keras_maskrcnn.inference.predictor import Predictor

BOXES = [(2, 2, 22, 22), (30, 5, 50, 35), (10, 10, 40, 30)]  # the object of the first, second and third image
NAMES = ("circle", "square", "triangle")


@pytest.fixture
def folder(tmp_path):
    """Three images; with them a damaged one, an AppleDouble file and a PDF."""
    (tmp_path / "photos").mkdir()
    for k, name in enumerate("abc"):
        Image.fromarray(picture(k)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


@pytest.fixture
def model(monkeypatch):
    """Finds in each image the box of its number, as class 0, 1, 2."""
    answers = [([box], [0.9], [k]) for k, box in enumerate(BOXES)]
    known = KnownModel(small_config(3, class_names=NAMES, category_ids=(1, 2, 3)), answers)
    monkeypatch.setattr(predict, "_predictor", lambda args: Predictor(known))
    return known


def run(folder, output, *more):
    status = cli.main(["predict", "model.keras", str(folder), "--output", str(output), *more])
    return status, json.loads((output / "detections.json").read_text())


def test_a_bad_file_is_listed_and_the_others_are_kept(folder, model, tmp_path, capsys):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").rename(folder / "d.png")
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "._a.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(64))
    (folder / "notes.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    status, results = run(folder, tmp_path / "found")
    told = capsys.readouterr()
    assert status == cli.CHECK_FAILED
    assert [result["file"].rsplit("/")[-1] for result in results] == ["a.png", "c.png", "d.png"]
    assert "1 of 4 images failed" in told.err and "b.png: a PNG that is cut off or damaged" in told.err
    assert "Passed over 2 files in" in told.out and "1 hidden, 1 of type .pdf." in told.out
    pictures = sorted(path.name for path in (tmp_path / "found").glob("*.png"))
    assert pictures == ["0000-a.png", "0002-c.png", "0003-d.png"]


def test_other_errors_of_image_libraries_do_not_stop_it_either(folder, model, tmp_path, capsys, monkeypatch):
    def read(opened, *indices, decode=decoding.read_picture):
        if opened.path.name == "b.png":
            raise RuntimeError("decoder")
        return decode(opened, *indices)

    monkeypatch.setattr("keras_maskrcnn.data.images.decoding.read_picture", read)
    status, results = run(folder, tmp_path / "found")
    assert status == cli.CHECK_FAILED and len(results) == 2
    assert "b.png: a PNG that is cut off or damaged (decoder)." in capsys.readouterr().err


def test_images_that_a_model_cannot_take_are_named_with_the_remedy(folder, model, tmp_path, capsys):
    infinite = np.full((HEIGHT, WIDTH), 40, np.float32)
    infinite[5, 5] = np.inf
    tifffile.imwrite(folder / "inf.tif", infinite)
    tifffile.imwrite(folder / "unit.tif", np.full((HEIGHT, WIDTH), 0.5, np.float32))
    status, results = run(folder, tmp_path / "found")
    told = capsys.readouterr().err
    assert status == cli.CHECK_FAILED and len(results) == 3 and "2 of 5 images failed" in told
    assert "inf.tif with NaN or infinity. Replace them" in told
    assert "unit.tif with floats up to 0.5. Multiply by 255 first" in told


def test_names_of_any_length_and_larger_images_than_the_limit(folder, model, tmp_path, capsys, monkeypatch):
    (folder / "a.png").rename(folder / f"{'ä' * 120}.png")
    Image.fromarray(picture(0).repeat(2, axis=0)).save(folder / "scan.png")
    monkeypatch.setenv(limits.SWITCH, str(HEIGHT * WIDTH))
    status, results = run(folder, tmp_path / "found")
    assert status == cli.CHECK_FAILED and len(results) == 3
    assert "KERAS_MASKRCNN_MAX_PIXELS" in capsys.readouterr().err
    assert f"0003-{'ä' * 75}.png" in {path.name for path in (tmp_path / "found").iterdir()}


def test_results_are_there_while_it_goes_on(folder, model, tmp_path, monkeypatch):
    """Some images behind the model, because others are drawn meanwhile; in order, and whole after an interrupt."""
    output, seen = tmp_path / "found", []
    monkeypatch.setattr(result_files, "_SHARE", 0)  # write after each image, however long it takes
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for k in range(3, 20):
        Image.fromarray(picture(k % 3)).save(folder / f"{'abcdefghijklmnopqrst'[k]}.png")
    model.answers *= 7

    def watch(batch, answer=model.predict_on_batch):
        if (output / "detections.json").is_file():
            seen.append(len(json.loads((output / "detections.json").read_text())))
        if len(set(seen)) == 3:
            raise KeyboardInterrupt
        return answer(batch)

    monkeypatch.setattr(model, "predict_on_batch", watch)
    assert cli.main(["predict", "model.keras", str(folder), "--output", str(output)]) == 130
    count = seen[-1]
    assert seen == sorted(seen) and 3 <= count < len(model.batches) + 1 < 20
    assert len(model.batches) - count <= 6  # being drawn, or waiting for one that is
    results = json.loads((output / "detections.json").read_text())
    assert [one["image_id"] for one in results] == list(range(1, count + 1))
    assert [one["category_id"] for one in results] == [k % 3 + 1 for k in range(count)]
    assert len(json.loads((output / "images.json").read_text())["images"]) == count


@pytest.mark.parametrize("size", [2, 3, 8])
def test_batches_write_what_single_images_do(folder, monkeypatch, tmp_path, size):
    for k in range(5):
        Image.fromarray(picture(k)[: 20 + k // 2, :40]).save(folder / f"d{k}.png")
    (folder / "d2.png").write_bytes(b"damaged")
    known = ColourModel(small_config(3, class_names=NAMES, category_ids=(1, 2, 3)))
    monkeypatch.setattr(predict, "_predictor", lambda args: Predictor(known))
    one, several = tmp_path / "one", tmp_path / "several"
    assert run(folder, one)[0] == run(folder, several, "--batch-size", str(size))[0] == cli.CHECK_FAILED
    assert max(shape[0] for shape, _ in known.batches) == size or size == 8
    names = sorted(path.name for path in one.iterdir())
    assert len([name for name in names if name.endswith(".png")]) == 7
    assert names == sorted(path.name for path in several.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (several / name).read_bytes(), name


def test_a_batch_has_at_least_one_image(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "model.keras", str(folder), "--batch-size", "0"])
    assert "--batch-size: must be above zero, received 0" in capsys.readouterr().err


def test_without_annotations_pycocotools_takes_the_results_with_the_images_table(folder, model, tmp_path):
    status, results = run(folder, tmp_path / "found")
    assert status == cli.SUCCESS and [result["image_id"] for result in results] == [1, 2, 3]
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO(str(tmp_path / "found" / "images.json"))
        loaded = table.loadRes(str(tmp_path / "found" / "detections.json"))
    assert [table.imgs[key]["file_name"].rsplit("/")[-1] for key in (1, 2, 3)] == ["a.png", "b.png", "c.png"]
    assert table.imgs[1]["height"] == HEIGHT and table.cats[2]["name"] == "square" and len(loaded.anns) == 3


def truth(path, names=NAMES, order=("c", "a", "b")):
    """A COCO file with other image ids and category ids than the model's."""
    images = [
        {"id": 70 + k, "file_name": f"photos/{name}.png", "height": HEIGHT, "width": WIDTH}
        for k, name in enumerate(order)
    ]
    annotations = []
    for k, name in enumerate(order):
        label = "abc".index(name)
        x1, y1, x2, y2 = BOXES[label]
        fields = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        annotations.append(
            {"id": k + 1, "image_id": 70 + k, "category_id": 9 - label, "segmentation": outline} | fields
        )
    categories = [{"id": 9 - k, "name": name} for k, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_with_annotations_the_results_have_their_ids(folder, model, tmp_path):
    path = truth(tmp_path / "val.json")
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "images.json").write_text("{}")
    status, results = run(folder, tmp_path / "found", "--annotations", str(path))
    assert status == cli.SUCCESS and not (tmp_path / "found" / "images.json").exists()
    assert [(one["image_id"], one["category_id"]) for one in results] == [(71, 9), (72, 8), (70, 7)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        figures = COCOeval(coco, coco.loadRes(str(tmp_path / "found" / "detections.json")), "bbox")
        figures.evaluate(), figures.accumulate(), figures.summarize()
    np.testing.assert_allclose(figures.stats[0], 1)


def test_annotations_that_do_not_fit_are_refused_before_the_work(folder, model, tmp_path, capsys):
    path = truth(tmp_path / "val.json", order=("a", "b"))
    arguments = ["predict", "model.keras", str(folder), "--output", str(tmp_path / "found"), "--annotations"]
    assert cli.main([*arguments, str(path)]) == cli.MISTAKE
    assert "c.png: 0 entries" in capsys.readouterr().err
    assert cli.main([*arguments, str(truth(path, names=("disc", "square", "triangle")))]) == cli.MISTAKE
    told = capsys.readouterr().err
    assert "['disc', 'square', 'triangle']" in told and "['circle', 'square', 'triangle']" in told
    assert not (tmp_path / "found").exists() and model.batches == []


def test_an_image_is_found_by_the_end_of_its_path(folder, tmp_path):
    """Of two entries with its name it is the one with more of its folders; two images cannot be one entry."""
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(picture(7)).save(more / "a.png")
    images = [{"id": 5, "file_name": "elsewhere/a.png"}, {"id": 6, "file_name": "photos/a.png"}]
    tables = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "circle"}]}
    path = tmp_path / "val.json"
    path.write_text(json.dumps(tables))
    assert result_files.read_known_images(path, [folder / "a.png"]).ids == {folder / "a.png": 6}
    path.write_text(json.dumps(tables | {"images": [{"id": 5, "file_name": "a.png"}]}))
    with pytest.raises(ValueError, match="an entry of its own.*Received 2 images for 1 entries of .*val.json. Predict"):
        result_files.read_known_images(path, [folder / "a.png", more / "a.png"])


def test_classes_of_the_annotations_that_the_model_lacks_are_told(folder, model, tmp_path):
    path = truth(tmp_path / "val.json", names=(*NAMES, "star"))
    with pytest.warns(UserWarning, match=r"val.json: left out the classes \['star'\], which no object has."):
        status, results = run(folder, tmp_path / "found", "--annotations", str(path))
    assert status == cli.SUCCESS and [one["category_id"] for one in results] == [9, 8, 7]


def test_a_saved_model_leaves_all_names_to_the_images(folder, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    names = [str(folder / f"{name}.png") for name in "ab"]
    given = cli.build_parser().parse_args(["predict", "--saved-model", str(tmp_path / "saved"), *names])
    args = predict.check_predict(given)
    assert args.model is None and [str(path) for path in args.images] == names


def test_files_for_a_labelling_tool(folder, model, tmp_path, capsys):
    assert sorted(predict.TOOLS) == sorted(labelling.TOOLS)
    status, results = run(folder, tmp_path / "found", "--to", "labelme")
    place = tmp_path / "found" / "labelme"
    assert status == cli.SUCCESS and f"files for labelme in {place}" in capsys.readouterr().out
    dataset = open_dataset(place, folder)
    assert sorted(dataset.class_names) == sorted(NAMES) and len(dataset.image_ids) == 3
    found = {instance["category_id"]: instance["bbox"] for instance in dataset.to_coco()["annotations"]}
    numbers = {category["name"]: category["id"] for category in dataset.to_coco()["categories"]}
    for result in results:
        np.testing.assert_allclose(found[numbers[NAMES[result["category_id"] - 1]]], result["bbox"], atol=1.5)
    for given in (["--engine", "ray", "--to", "coco"], ["--to", "paint"]):
        with contextlib.suppress(SystemExit):
            assert cli.main(["predict", "model.keras", str(folder), *given]) == cli.MISTAKE
    told = capsys.readouterr().err
    assert "--to works with the other engines. Received: --engine ray and --to coco." in told and "'paint'" in told


def test_measurements_of_all_images_in_one_table(folder, model, tmp_path, capsys):
    table = tmp_path / "tables" / "objects.csv"
    status, results = run(folder, tmp_path / "found", "--measure", str(table), "--pixel-size", "0.5", "0.25")
    assert status == cli.SUCCESS and f"measurements of 3 objects in {table}" in capsys.readouterr().out
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["image"] for row in rows] == [str(folder / f"{name}.png") for name in "abc"]
    assert [row["class"] for row in rows] == list(NAMES) and {row["object"] for row in rows} == {"1"}
    for k, (row, (x1, y1, x2, y2)) in enumerate(zip(rows, BOXES, strict=True)):
        area = (x2 - x1) * (y2 - y1)
        assert float(row["area_px"]) == area and float(row["area_um2"]) == area / 8
        assert float(row["centroid_x_um"]) == (x1 + x2) / 4 and float(row["centroid_y_px"]) == (y1 + y2) / 2
        np.testing.assert_allclose(float(row["mean_1"]), picture(k)[y1:y2, x1:x2, 1].mean())
        assert row["touches_border"] == "false"


@pytest.mark.parametrize(
    "given, told",
    [
        (["--measure", "a.xlsx"], "--measure must name a file that ends in .csv or .parquet. Received: a.xlsx."),
        (["--measure", "a.csv", "--pixel-size", "1", "2", "3"], "--pixel-size must be micrometres above 0"),
        (["--pixel-size", "1"], "--pixel-size is for --measure. Received: --pixel-size 1.0 alone."),
        (["--measure", "a.csv", "--engine", "ray"], "--measure works with the other engines."),
    ],
)
def test_what_is_wrong_about_measuring_is_told_before_the_work(folder, model, tmp_path, capsys, given, told):
    arguments = ["predict", "model.keras", str(folder), "--output", str(tmp_path / "found"), *given]
    assert cli.main(arguments) == cli.MISTAKE
    assert told in capsys.readouterr().err and model.batches == [] and not (tmp_path / "found").exists()


@pytest.fixture
def colours(monkeypatch, tmp_path):
    """A model that finds one box in each image or tile, at its corner, as its first pixel says."""
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    known = ColourModel(small_config(3, class_names=NAMES))
    monkeypatch.setattr(predict, "_predictor", lambda args: Predictor(known, tile=args.tile))
    return known


def test_large_images_are_read_in_parts_beside_others(folder, colours, tmp_path, capsys):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'keras-maskrcnn[wsi]'")
    import zarr

    array = zarr.create_array(tmp_path / "large.zarr", shape=(90, 110, 3), chunks=(64, 64, 3), dtype="uint8")
    array[:] = 41  # a box of 12 x 19 pixels, class 2
    command = ["predict", str(tmp_path / "model.keras"), str(folder), str(tmp_path / "large.zarr")]
    command += ["--output", str(tmp_path / "found"), "--measure", str(tmp_path / "all.csv"), "--pixel-size", "2"]
    assert cli.main(command) == cli.SUCCESS
    out = capsys.readouterr().out
    place = tmp_path / "found" / "0000-large"
    assert f"1 objects of {tmp_path / 'large.zarr'} in {place}" in out and "measurements of 4 objects" in out
    rows = list(csv.DictReader((tmp_path / "all.csv").open(encoding="utf-8", newline="")))
    assert [row["image"] for row in rows] == [
        *(str(folder / f"{name}.png") for name in "abc"),
        str(tmp_path / "large.zarr"),
    ]
    assert (rows[3]["class"], rows[3]["area_px"], rows[3]["area_um2"]) == ("triangle", str(12 * 19), str(12 * 19 * 4))
    assert rows[3]["touches_border"] == "true" and rows[3]["mean_2"] == "41"
    assert (zarr.open_array(place / "labels.zarr", mode="r")[:19, :12] == 1).all()
    batches = len(colours.batches)
    assert cli.main(command) == cli.SUCCESS and len(colours.batches) == batches + 3  # the large one was finished
    assert cli.main([*command, "--score", "0.1"]) == cli.CHECK_FAILED
    assert "goes on with the settings that it began with" in capsys.readouterr().err
    assert cli.main([*command, "--to", "coco"]) == cli.MISTAKE
    assert "--to works with images that are read whole." in capsys.readouterr().err


def test_any_tiff_is_read_in_parts_if_asked(colours, tmp_path, capsys):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'keras-maskrcnn[wsi]'")
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
        file.write(np.full((80, 90, 3), 41, np.uint8), subifds=1, metadata=metadata, **options)
        file.write(np.full((40, 45, 3), 41, np.uint8), subfiletype=1, **options)
    command = ["predict", str(tmp_path / "model.keras"), str(path), "--output", str(tmp_path / "found")]
    assert cli.main([*command, "--gigapixel", "--tile", "64"]) == cli.SUCCESS
    table = tmp_path / "found" / "0000-a.ome" / "objects.csv"
    (row,) = csv.DictReader(table.open(encoding="utf-8", newline=""))  # those of other tiles are cut and dropped
    assert row["area_um2"] == str(12 * 19 // 4) and not (tmp_path / "found" / "detections.json").exists()
    assert cli.main([*command, "--gigapixel", "--engine", "ray"]) == cli.MISTAKE
    assert "--gigapixel works with the other engines." in capsys.readouterr().err


def test_without_zarr_large_images_are_refused_before_the_work(folder, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    command = ["predict", "model.keras", str(folder / "a.png"), "--output", str(tmp_path / "found"), "--gigapixel"]
    assert cli.main(command) == cli.MISTAKE and model.batches == []
    told = capsys.readouterr().err
    assert f"Reading {folder / 'a.png'} in parts needs zarr. Received: it is not installed." in told
    assert "pip install 'keras-maskrcnn[wsi]'" in told and not (tmp_path / "found").exists()


@pytest.mark.slow
def test_a_trained_model_finds_in_parts_what_it_finds_in_tiles(tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'keras-maskrcnn[wsi]'")
    from tiny import scatter_weights, tiny_config

    from keras_maskrcnn.model import MaskRCNN

    model = MaskRCNN(tiny_config(score_threshold=0.05))
    scatter_weights(model)
    model.save(tmp_path / "model.keras")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture, subifds=1, **options)
        file.write(picture[::2, ::2], subfiletype=1, **options)
    command = ["predict", str(tmp_path / "model.keras"), str(tmp_path / "a.tif"), "--output", str(tmp_path / "found")]
    assert cli.main([*command, "--gigapixel", "--tile", "128", "--score", "0.1"]) == cli.SUCCESS
    found = Predictor(model, 0.1, tile=128)(picture)
    rows = list(csv.DictReader((tmp_path / "found" / "0000-a" / "objects.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == len(found) > 0
    areas = sorted((float(row["area_px"]), round(float(row["score"]), 4)) for row in rows)
    expected = ((float(w.sum()), round(float(s), 4)) for (w, _, _), s in zip(found.mask_windows, found.scores))
    assert areas == sorted(expected)


def test_tracks_take_whatever_the_model_is_sure_enough_of(monkeypatch):
    from keras_maskrcnn.cli import predict, predict_video

    given = []
    monkeypatch.setattr(
        "keras_maskrcnn.scale.models.open_predictor", lambda _, score, *__, usual: given.append((score, usual))
    )
    for track in (True, False):
        args = argparse.Namespace(model="m", saved_model=None, score=0.6, tile=None, overlap=0.2, track=track)
        predict._predictor(predict_video.tracking_arguments(args))
    assert given == [(None, False), (0.6, True)]  # a model's own threshold may be higher than a tracker's


def test_videos_and_their_tracks(folder, colours, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'keras-maskrcnn[video]'")
    from keras_maskrcnn.video.files import VideoWriter

    with VideoWriter(tmp_path / "gray.mp4", 10, "gray") as writer:
        for _ in range(5):
            writer.add(np.full((90, 110, 3), 128, np.uint8))
    model, video, output = str(tmp_path / "model.keras"), str(tmp_path / "gray.mp4"), str(tmp_path / "found")
    assert cli.main(["predict", model, video, "--output", output, "--track"]) == cli.SUCCESS
    place = tmp_path / "found" / "0000-gray"
    assert f"5 objects of 1 tracks in 5 frames of {video}" in capsys.readouterr().out
    rows = list(csv.DictReader((place / "objects.csv").open(encoding="utf-8", newline="")))
    assert [(row["frame"], row["time_s"], row["track"]) for row in rows[:2]] == [("0", "0", "1"), ("1", "0.1", "1")]
    assert (place / "annotated.mp4").stat().st_size > 0 and not (tmp_path / "found" / "detections.json").exists()
    (tmp_path / "bad.mp4").write_bytes(b"none")
    assert cli.main(["predict", model, video, str(tmp_path / "bad.mp4"), "--output", output]) == cli.CHECK_FAILED
    assert "1 of 2 images failed" in capsys.readouterr().err
    assert cli.main(["predict", model, video, str(folder), "--output", output, "--track"]) == cli.MISTAKE
    assert cli.main(["predict", model, video, "--output", output, "--to", "coco"]) == cli.MISTAKE
    told = capsys.readouterr().err
    assert "--track is for videos alone." in told and "--to works with images." in told
