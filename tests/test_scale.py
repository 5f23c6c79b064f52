"""Large runs without an engine: rows in and rows out, sources as units of work, results that outlive a kill."""

import hashlib
import json
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from known_answers import small_config
from PIL import Image
from pycocotools.coco import COCO
from remote_folders import in_memory
from scale_parts import check_rows, colour_predictor, make_images, read_part
from web_servers import served

from keras_maskrcnn import cli
from keras_maskrcnn.scale import on_ray
from keras_maskrcnn.scale.models import check_options, digest_of, open_predictor, read_fields
from keras_maskrcnn.scale.rows import COLUMNS, RowPredictor, as_columns
from keras_maskrcnn.scale.sources import Files, decoded, list_units
from keras_maskrcnn.scale.store import ResultStore

SETTINGS = {"model": "abc", "score_threshold": 0.5, "tile": None, "overlap": None}


def all_new(path):
    return True


def paths_of(units):
    return [path for unit in units for columns in unit.rows() for path in columns["path"]]


def rows_of(table):
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


# Rows ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return RowPredictor(colour_predictor, batch_size=2)


def test_rows_are_what_the_predictor_finds_in_each_image(tmp_path, rows):
    paths = make_images(tmp_path, 12)
    table = rows({"path": paths})
    assert list(table) == list(COLUMNS)
    check_rows(rows_of(table), paths, colour_predictor())
    assert table["path"] == paths  # in order
    assert "09.png: a PNG that is cut off" in table["error"][9] and table["scores"][9] == []


def test_bytes_and_pixels_give_the_rows_of_paths(tmp_path, rows):
    paths = make_images(tmp_path, 12) + [str(tmp_path / "none.png")]
    (columns,) = Files(tuple(paths)).rows()
    assert columns["error"][:12] == [None] * 12 and f"Received {paths[-1]}: " in columns["error"][-1]
    table = rows(columns)
    assert table == rows(decoded(columns, 3, "uint8"))
    here = rows({"path": paths[:12]})
    assert {name: values[:12] for name, values in table.items()} == here


def test_the_same_rows_in_every_kind_of_table(tmp_path, rows):
    paths = make_images(tmp_path, 10)
    table = rows({"path": np.array(paths)})
    assert rows([{"path": path} for path in paths]) == rows_of(table)
    assert rows([]) == [] and rows({"path": []})["scores"] == []
    with pytest.raises(ValueError, match=r"need a column `path`. Received the columns \['file'\]"):
        rows({"file": paths})


def test_arrow_and_pandas_tables(tmp_path, rows):
    pyarrow, pandas = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    paths = make_images(tmp_path, 10)
    expected = rows({"path": paths})
    arrow = rows(pyarrow.table({"path": paths}))
    assert isinstance(arrow, pyarrow.Table) and arrow.to_pydict() == expected
    faulty = rows(pyarrow.table({"path": paths[9:]}))  # all cells empty: the types are the same
    assert faulty.schema == arrow.schema and str(arrow.schema.field("boxes").type).startswith("list<")
    contents = [pathlib.Path(path).read_bytes() for path in paths[:9]] + [None]
    frame = rows(pandas.DataFrame({"path": paths, "bytes": contents}))
    assert isinstance(frame, pandas.DataFrame) and list(frame["boxes"]) == expected["boxes"]
    assert as_columns(pandas.DataFrame({"path": ["a"], "error": [float("nan")]}))["error"] == [None]


def test_spark_gets_a_schema_of_all_columns():
    assert RowPredictor.SPARK_SCHEMA.startswith("path string, height bigint, width bigint, error string, boxes array<")


# Sources ---------------------------------------------------------------------------------------------------


def test_folders_lists_files_and_addresses_are_units(tmp_path):
    paths = make_images(tmp_path / "photos", 20)
    (tmp_path / "photos" / "notes.txt.bak").write_text("no image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    listed = tmp_path / "list.txt"
    with served(tmp_path / "photos") as address:
        listed.write_text(f"# half\n\nphotos/part 0/00002.png\n{address}/part%201/00003.png\n")
        units = list_units([str(listed)], all_new)
        assert paths_of(units) == [str(tmp_path / "photos" / "part 0" / "00002.png"), f"{address}/part%201/00003.png"]
        (columns,) = units[0].rows()
        assert columns["bytes"] == [pathlib.Path(path).read_bytes() for path in paths[2:4]]
    units = list_units([str(tmp_path / "photos"), paths[0]], all_new, size=6)
    assert [len(unit) for unit in units] == [6, 6, 6, 3] and sorted(paths_of(units)[:20]) == sorted(paths)
    address = in_memory(tmp_path / "photos")
    assert sorted(paths_of(list_units([address], all_new))) == sorted(
        path.replace(str(tmp_path / "photos"), address) for path in paths
    )


def test_what_is_no_image_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"needs at least one image. Received \['.*empty'\].*\.txt file that lists"):
        list_units([str(tmp_path / "empty")], all_new)
    (columns,) = list_units([str(tmp_path / "no.png")], all_new)[0].rows()
    assert columns["bytes"] == [None] and "must exist and be readable. Received" in columns["error"][0]
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")  # as a disk that fails: another error than a missing file
    (columns,) = Files((str(tmp_path / "loop.png"),)).rows()
    told = f"An image file must be readable. Received {tmp_path / 'loop.png'}: "
    assert columns["bytes"] == [None] and columns["error"][0].startswith(told)


def test_large_files_stay_where_they_are(tmp_path, monkeypatch):
    paths = make_images(tmp_path, 2)
    monkeypatch.setattr("keras_maskrcnn.scale.sources._LARGE", 10)
    (columns,) = list_units(paths, all_new)[0].rows()
    assert columns["bytes"] == [None, None] and columns["error"] == [None, None]


def test_a_server_that_fails_stops_the_run_and_a_missing_file_does_not(monkeypatch, tmp_path):
    with served(tmp_path) as address:
        (columns,) = Files((f"{address}/no.png",)).rows()
        assert f"Received {address}/no.png" in columns["error"][0]
    monkeypatch.setattr("keras_maskrcnn.host.remote_servers._WAITS", ())
    with pytest.raises(OSError, match=f"{address}/no.png: Client"):
        list(Files((f"{address}/no.png",)).rows())


def test_parquet_tables_with_bytes_are_units(tmp_path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = make_images(tmp_path / "photos", 25)
    data = [pathlib.Path(path).read_bytes() for path in paths]
    data[3] = None
    (tmp_path / "tables").mkdir()
    plain, nested = tmp_path / "tables" / "a.parquet", tmp_path / "tables" / "b.parquet"
    parquet.write_table(pyarrow.table({"id": range(25), "jpg": data}), plain, row_group_size=10)
    structures = pyarrow.array([{"bytes": one, "path": "x"} for one in data])
    parquet.write_table(pyarrow.table({"image": structures, "thumb": data}), nested)
    units = list_units([str(plain)], lambda path: not path.endswith(("#1", "#11")))
    assert [len(unit) for unit in units] == [9, 9, 5]
    assert paths_of(units) == [f"{plain}#{k}" for k in range(25) if k not in (1, 11)]
    (first, *_) = units[0].rows()
    assert first["bytes"][:3] == [data[0], data[2], None] and first["error"][2] == "the row holds no image"
    found = rows(first)
    assert found["boxes"][0] == rows({"path": paths[:1]})["boxes"][0] and f"{plain}#9: a PNG" in found["error"][8]
    with pytest.raises(ValueError, match=r"b.parquet with the columns \['image', 'thumb'\].*Name it: image_column"):
        list_units([str(tmp_path / "tables")], all_new)
    units = list_units([f"{in_memory(tmp_path / 'tables')}/b.parquet"], all_new, column="image")
    assert [one for unit in units for columns in unit.rows() for one in columns["bytes"]] == data
    plain.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"must be a Parquet file. Received .*a.parquet"):
        list_units([str(plain)], all_new)


# Results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_is_written_is_not_done_again(tmp_path, rows, kind):
    pyarrow = pytest.importorskip("pyarrow")
    paths = make_images(tmp_path / "photos", 20)
    place = str(tmp_path / "found") if kind == "disk" else f"memory://found-{tmp_path.name}"

    def part(start, end):
        return rows(pyarrow.table({"path": paths[start:end]}))

    with ResultStore(place, SETTINGS) as store:
        assert all(map(store.is_new, paths)) and not store.is_new(paths[3])  # named twice
        store.add(part(0, 5))
        store.add(part(5, 8))
    with ResultStore(place, SETTINGS) as store:
        assert store.images == 8 and [store.is_new(path) for path in paths] == [False] * 8 + [True] * 12
        store.add(part(8, 20))
        store.flush()
        store.write_coco()
        assert (store.images, store.num_faulty) == (20, 2) and [path for path, _ in store.faulty] == paths[9::10]
        assert [part.name for part in store.parts()] == ["part-000001.parquet", "part-000002.parquet"]
        assert store.instances == 18
    found = [row for part in store.parts() for row in read_part(part)]
    check_rows(found, paths, colour_predictor())
    with pytest.raises(
        ValueError, match=r"one model with the same options. Received .*part-000001.parquet, where .*0.5"
    ):
        ResultStore(place, SETTINGS | {"score_threshold": 0.7}).__enter__()


def test_rows_are_written_on_the_way(tmp_path, rows, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr("keras_maskrcnn.scale.store._MOST_ROWS", 4)
    paths = make_images(tmp_path / "photos", 6)
    with ResultStore(tmp_path / "found", SETTINGS) as store:
        store.add(rows(pyarrow.table({"path": paths[:3]})))
        assert store.parts() == []
        store.add(rows(pyarrow.table({"path": paths[3:5]})))
        (part,) = store.parts()  # what a kill leaves
        assert [row["path"] for row in read_part(part)] == paths[:5]
        store.add(rows(pyarrow.table({"path": pyarrow.array([], "string")})))
    with ResultStore(tmp_path / "found", SETTINGS) as store:  # one part is without rows
        assert len(store.parts()) == 2 and store.images == 5
        assert [store.is_new(path) for path in paths] == [False] * 5 + [True]


def test_what_a_file_says_of_its_model_is_read_without_the_model(tmp_path):
    config = small_config(2, pixel_mean=(1.0,) * 4, pixel_std=(2.0,) * 4, class_thresholds=(0.5, 0.25))
    exported = tmp_path / "exported"
    for version in ("1", "2"):
        (exported / version / "assets").mkdir(parents=True)
        (exported / version / "saved_model.pb").write_bytes(b"")
    (exported / "2" / "assets" / "config.json").write_text(json.dumps(config.to_dict()))
    fields = read_fields(exported)
    assert fields == config and (fields.num_channels, fields.tuned) == (4, True)
    with pytest.raises(ValueError, match=f"must contain assets/config.json. Received: {exported / '1'}, without it"):
        read_fields(exported / "1")
    with zipfile.ZipFile(tmp_path / "model.tflite", "w") as archive:
        archive.writestr("config", json.dumps(config.to_dict()))
    assert read_fields(tmp_path / "model.tflite") == config
    for opens in (open_predictor, read_fields):
        with pytest.raises(ValueError, match="The .tflite file must exist. Received: .*none.tflite. Check its path"):
            opens(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match="A model is a .keras file, or a run folder .* Received: .*none, where there"):
        RowPredictor(tmp_path / "none", 0.5)


def test_a_folder_that_is_no_export_for_openvino_is_told(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "model.xml").write_text("<net/>")
    for opens in (open_predictor, read_fields):
        with pytest.raises(ValueError, match="that this package wrote for OpenVINO is needed.* Export the model again"):
            opens(tmp_path)


def test_the_digest_of_an_export_is_that_of_its_files_and_their_names(tmp_path):
    def made(name, **files):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("_pb", ".pb")).write_bytes(content)
        return digest_of(tmp_path / name)

    first = made("a", saved_model_pb=b"graph", fingerprint_pb=b"1")
    assert first == hashlib.sha256(b"fingerprint.pb\x001saved_model.pb\0graph").hexdigest()
    assert made("b", fingerprint_pb=b"1", saved_model_pb=b"graph") == first
    assert len({first, made("c", saved_model_pb=b"graph"), made("d", saved_model_pb=b"graph", other_pb=b"1")}) == 3


def test_coco_files_of_a_run_are_those_that_pycocotools_reads(tmp_path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    paths = make_images(tmp_path / "photos", 12)
    with ResultStore(tmp_path / "found", SETTINGS) as store:
        store.add(rows(pyarrow.table({"path": paths})))
        store.write_coco()
    truth = COCO(str(tmp_path / "found" / "images.json"))
    assert [image["file_name"] for image in truth.dataset["images"]] == [p for p in paths if "09.png" not in p]
    assert truth.dataset["categories"] == [
        {"id": 3, "name": "circle"}, {"id": 5, "name": "square"}, {"id": 8, "name": "triangle"}
    ]  # fmt: skip
    results = truth.loadRes(str(tmp_path / "found" / "detections.json"))
    found = colour_predictor()(paths[4])
    (one,) = results.loadAnns(results.getAnnIds(imgIds=[5]))
    assert one["bbox"] == found.to_coco(5)[0]["bbox"] and one["file"] == paths[4]
    assert np.array_equal(results.annToMask(one), found.masks[0])


def test_damaged_results_and_a_second_writer_are_told(tmp_path, rows):
    pytest.importorskip("pyarrow")
    with ResultStore(tmp_path / "found", SETTINGS):
        with pytest.raises(OSError, match="One process at a time can write"):
            ResultStore(tmp_path / "found", SETTINGS).__enter__()
    (tmp_path / "found").mkdir(exist_ok=True)
    (tmp_path / "found" / "part-000001.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(
        ValueError, match=r"earlier run must be whole. Received .*part-000001.parquet.*Remove this file"
    ):
        ResultStore(tmp_path / "found", SETTINGS).__enter__()


# The command line ------------------------------------------------------------------------------------------


def told(capsys, *arguments):
    status = cli.main(["predict", *arguments])
    return status, capsys.readouterr().err


def test_options_belong_to_their_engine(capsys, tmp_path):
    make_images(tmp_path, 1)
    for option in (("--actors", "2"), ("--coco",), ("--gpus", "1"), ("--image-column", "a")):
        status, err = told(capsys, "run", str(tmp_path), *option)
        assert status == cli.MISTAKE and f"{option[0]} works with --engine ray. Received: --engine keras. Add" in err
    status, err = told(capsys, "run", str(tmp_path), "--engine", "ray", "--annotations", "a.json")
    assert status == cli.MISTAKE and "--annotations works with --engine keras. Received: --engine ray" in err
    for number in ("-1", "nan", "inf"):
        status, err = told(capsys, "run", str(tmp_path), "--engine", "ray", "--gpus", number)
        assert status == cli.MISTAKE and "--gpus must be a finite number, at least 0. Received" in err
    with pytest.raises(SystemExit):
        cli.main(["predict", "run", str(tmp_path), "--engine", "horse"])
    assert "invalid choice: 'horse'" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["keras", "ray"])
def test_exports_are_told_from_models(capsys, tmp_path, engine):
    make_images(tmp_path / "photos", 1)
    exported, photos = tmp_path / "exported", str(tmp_path / "photos")
    (exported / "1").mkdir(parents=True)
    (exported / "1" / "saved_model.pb").write_bytes(b"")
    status, err = told(capsys, "--saved-model", photos, photos, "--engine", engine)
    assert status == cli.MISTAKE and "--saved-model must name the folder of an export" in err
    assert f"Received: {photos}. A .keras file or run folder goes first" in err
    with pytest.raises(ValueError, match="score_threshold=... must lie between the model's own, 0, and 1. Received: 2"):
        check_options(exported, 2)


def test_a_missing_package_and_a_small_cluster_are_told(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    status, err = told(capsys, "run", str(tmp_path), "--engine", "ray")
    assert status == cli.MISTAKE and "needs the package ray" in err and 'pip install "keras-maskrcnn[ray]"' in err
    with pytest.raises(ValueError, match=r"actors=... of 1 GPUs each must fit.* Received 3 actors for 2 GPUs"):
        on_ray._choose_pool({"CPU": 8, "GPU": 2}, 3, None)
    with pytest.raises(ValueError, match="Received 9 actors for 2 CPUs"):
        on_ray._choose_pool({"CPU": 2}, 9, None)
    assert on_ray._choose_pool({"CPU": 16, "GPU": 2}, None, None) == on_ray.Pool(2, 1.0, 1, 1)
    assert on_ray._choose_pool({"CPU": 16, "GPU": 2}, None, 0.5) == on_ray.Pool(4, 1.0, 0.5, 1)
    assert on_ray._choose_pool({"CPU": 1, "GPU": 1}, None, None) == on_ray.Pool(1, 0.9, 1, 0)
    assert on_ray._choose_pool({"CPU": 16}, None, None).actors == 4
    assert on_ray._choose_pool({"CPU": 2, "GPU": 0}, 2, None) == on_ray.Pool(2, 0.9, 0)


class BusyRay:
    """A Ray that does not start."""

    def is_initialized(self):
        return False

    def init(self, **options):
        assert options["include_dashboard"] is False and "TF_CPP_MIN_LOG_LEVEL" in options["runtime_env"]["env_vars"]
        raise Exception("The current node timed out during startup. The GCS is overloaded.")


def test_a_ray_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr("os.environ", os.environ.copy())
    with pytest.raises(on_ray.RunStopped, match="Received: The current node timed out during .* Check RAY_ADDRESS and"):
        on_ray._connect(BusyRay())


def test_the_actors_of_a_ray_get_what_its_reading_tasks_send(tmp_path, rows):
    """As tables, one for each part of a unit: files as bytes, or decoded where actors run on GPUs."""
    pyarrow = pytest.importorskip("pyarrow")
    paths, predictor = make_images(tmp_path, 20), colour_predictor()
    units = list_units([tmp_path], all_new)
    tables = [pyarrow.table({"unit": [pickle.dumps(unit)]}) for unit in units]
    for pixels in (None, on_ray._pixels_of(colour_predictor)):
        sent = [part for table in tables for part in on_ray._reader(pixels)(table)]
        assert {name for part in sent for name in part.column_names if part[name].null_count < len(part)} == (
            {"path", "bytes"} if pixels is None else {"path", "pixels", "shape", "dtype", "error"}
        )
        check_rows([row for part in sent for row in rows(part).to_pylist()], paths, predictor)


def test_a_ray_that_loses_rows_is_told_and_what_came_is_kept(tmp_path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    paths, counts = make_images(tmp_path / "photos", 12), []
    parts = [rows(pyarrow.table({"path": some})) for some in (paths[:4], paths[4:9])]
    with ResultStore(tmp_path / "found", SETTINGS) as store:
        with pytest.raises(on_ray.RunStopped, match="a row for each image. Received 9 rows for 12 images. Those in "):
            on_ray._keep(parts, 12, store, counts.append)
        on_ray._keep([rows(pyarrow.table({"path": paths[9:]}))], 3, store, counts.append)
    with ResultStore(tmp_path / "found", SETTINGS) as store:
        assert store.images == 12 and counts == [4, 9, 12]


def test_the_reason_is_found_in_a_traceback_of_another_process():
    text = """ray::RowPredictor() (pid=12)
      File "rows.py", line 3, in __call__
    ValueError: A model file must be whole. Received: half.
    The above exception was the direct cause of the following exception:"""
    assert on_ray._last_line(Exception(text)) == "ValueError: A model file must be whole. Received: half."
    assert on_ray._last_line(Exception("no reason\nat all")) == "at all"
    assert on_ray._last_line(KeyError()) == "KeyError"


def test_results_on_a_ray_depend_on_the_model_the_score_and_the_tiles():
    options = {"score_threshold": 0.5, "tile": None, "overlap": 0.2}
    expected = {"model": "colour_predictor", "score_threshold": 0.5, "tile": None, "overlap": None}
    assert on_ray._settings(colour_predictor, options) == expected  # no tiles, so their overlap says nothing
    tiles = options | {"tile": 64}
    assert on_ray._settings(colour_predictor, tiles) == expected | {"tile": 64, "overlap": 0.2}


def test_predict_takes_addresses(capsys, tmp_path, monkeypatch):
    make_images(tmp_path / "photos", 2)
    monkeypatch.setattr(cli.predict, "_predictor", lambda args: colour_predictor())
    for name in ("part 0", "part 1"):
        address = f"{in_memory(tmp_path / 'photos')}/{name}"
        status = cli.main(["predict", "model.keras", address, "--output", str(tmp_path / name), "--score", "0.1"])
        (result,) = json.loads((tmp_path / name / "detections.json").read_text())
        assert status == cli.SUCCESS and result["file"] == f"{address}/0000{name[-1]}.png"
        assert Image.open(tmp_path / name / f"0000-0000{name[-1]}.png").size == (60, 40) if name[-1] == "0" else True
