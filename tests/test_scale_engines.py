"""`RowPredictor` on Ray Data, in Spark and in Beam: the rows are those of the predictor, one for each image.

Ray, Spark and Beam are large and not among the test tools: each test runs where its package is installed.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import sys

import pytest
import remote_folders
from scale_parts import check_rows, colour_predictor, make_images, read_part

from keras_maskrcnn import cli

HERE = pathlib.Path(__file__).parent
SAMPLES = HERE.parent / "samples" / "scale"


def load_sample(name):
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def others_import(monkeypatch):
    """Processes that an engine starts import the package and this folder's modules."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), before]).rstrip(os.pathsep))


@pytest.fixture
def ray(others_import, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # as predict_on_ray: else they wait for all else on a busy machine
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e .[ray]")
    pytest.importorskip("ray.data")
    yield ray
    ray.shutdown()


def read_rows(folder):
    return [row for file in sorted(folder.glob("*.parquet")) for row in read_part(file)]


def test_predict_on_ray_finds_what_the_predictor_finds_and_goes_on(tmp_path, ray, monkeypatch):
    from keras_maskrcnn.scale.on_ray import predict_on_ray

    paths = make_images(tmp_path / "photos", 24)
    found = tmp_path / "found"
    counts = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    store = predict_on_ray(colour_predictor, [tmp_path / "photos"], found, actors=1, progress=counts.append, coco=True)
    check_rows(read_rows(found), paths, colour_predictor())
    assert (store.images, store.num_faulty, store.instances) == (24, 2, 22) and counts[0] == 0 and counts[-1] == 24
    assert len(json.loads((found / "detections.json").read_text())) == 22
    more = make_images(tmp_path / "photos", 6, first=24)
    with monkeypatch.context() as patched:  # as for GPUs: the images are decoded by the readers
        patched.setattr("keras_maskrcnn.scale.on_ray.wants_pixels", lambda pool: True)
        store = predict_on_ray(colour_predictor, [tmp_path / "photos"], found, actors=1)
    check_rows(read_rows(found), paths + more, colour_predictor())
    names = [part.name for part in store.parts()]  # a slow run also writes in between
    assert len(names) >= 2 and names == [f"part-{number:06d}.parquet" for number in range(1, len(names) + 1)]
    predict_on_ray(colour_predictor, [tmp_path / "photos"], found, actors=1)  # nothing is left to do
    assert len(read_rows(found)) == 30


def broken_predictor():
    raise ValueError("this model cannot be loaded")


def test_a_run_that_ray_ends_says_why(tmp_path, ray):
    from keras_maskrcnn.scale.on_ray import RunStopped, predict_on_ray

    paths = make_images(tmp_path / "photos", 2)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    with pytest.raises(RunStopped, match="this model cannot be loaded.* 0 images are finished in .*Start it again"):
        predict_on_ray(broken_predictor, paths, tmp_path / "found", actors=1)


def test_wrong_options_are_told_before_ray_starts(tmp_path, capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e .[ray]")
    make_images(tmp_path, 1)
    arguments = ["predict", "--engine", "ray", str(tmp_path / "none.keras"), str(tmp_path)]
    assert cli.main([*arguments, "--output", str(tmp_path / "found")]) == cli.MISTAKE
    assert "A model is a .keras file, or a run folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted(remote_folders.PACKAGES))
def test_ray_reads_and_writes_object_stores(tmp_path, ray, kind):
    """A folder, a list and a Parquet file there, and the results."""
    import pyarrow
    import pyarrow.parquet

    from keras_maskrcnn.scale.on_ray import predict_on_ray

    if kind not in remote_folders.STORES:
        pytest.skip(
            f"the emulator of {kind}:// is not installed: pip install {' '.join(remote_folders.PACKAGES[kind])}"
        )
    paths = make_images(tmp_path / "data" / "photos", 20)
    names = [pathlib.Path(path).relative_to(tmp_path / "data").as_posix() for path in paths]
    (tmp_path / "data" / "list.txt").write_text("\n".join(names[:4]))
    table = pyarrow.table({"image": [pathlib.Path(path).read_bytes() for path in paths]})
    pyarrow.parquet.write_table(table, tmp_path / "data" / "table.parquet", row_group_size=8)
    address = remote_folders.in_store(kind, tmp_path / "data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = f"{address}/found"
    predict_on_ray(colour_predictor, [f"{address}/list.txt"], found, actors=1)
    sources = [f"{address}/photos", f"{address}/table.parquet", f"{address}/photos/none.png"]
    store = predict_on_ray(colour_predictor, sources, found, actors=1, coco=True)
    rows = [row for part in store.parts() for row in read_part(part)]
    assert (len(rows), store.images, store.num_faulty) == (41, 41, 5) and len(store.parts()) >= 2
    places = {f"{address}/{name}": path for name, path in zip(names, paths, strict=True)}
    places |= {f"{address}/table.parquet#{number}": path for number, path in enumerate(paths)}
    missing = [row["error"] for row in rows if row["path"] not in places]
    assert len(missing) == 1 and f"must exist and be readable. Received {address}/photos/none.png" in missing[0]
    rows = [row for row in rows if row["path"] in places]
    for row in rows:
        row["error"] = row["error"] and row["error"].replace(row["path"], places[row["path"]])
        row["path"] = places[row["path"]]
    check_rows(rows, paths + paths, colour_predictor())
    assert len(json.loads((store.place / "detections.json").read_bytes())) == 36


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", *remote_folders.STORES])
def test_the_command_reads_a_table_and_writes_parquet(tmp_path, ray, kind, capsys):
    import pyarrow
    import pyarrow.parquet
    from PIL import Image
    from scale_proof import boxes_in_noise, write_model

    from keras_maskrcnn.host.addresses import as_path
    from keras_maskrcnn.scale.models import open_predictor
    from keras_maskrcnn.scale.store import coco_results

    (tmp_path / "run").mkdir()
    write_model(tmp_path / "run" / "best.keras")
    (tmp_path / "data").mkdir()
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        Image.fromarray(boxes_in_noise(number)).save(file)
    table = pyarrow.table({"id": range(7), "image": [*(file.read_bytes() for file in files), b"no image"]})
    pyarrow.parquet.write_table(table, tmp_path / "data" / "table.parquet", row_group_size=4)
    data = tmp_path / "data" if kind == "disk" else remote_folders.in_store(kind, tmp_path / "data")
    arguments = [str(tmp_path / "run"), f"{data}/table.parquet", "--output", f"{data}/found", "--actors", "2"]
    command = ["predict", "--engine", "ray", *arguments, "--score", "0.3", "--debug"]
    assert cli.main(command) == cli.CHECK_FAILED
    told = capsys.readouterr()
    assert (
        f"1 of 7 images failed:\n  {data}/table.parquet#6: " in told.err
        and f"Parquet files in {data}/found" in told.out
    )
    parts = sorted(as_path(f"{data}/found").iterdir())
    rows = {row["path"]: row for part in parts if part.suffix == ".parquet" for row in read_part(part)}
    predictor = open_predictor(tmp_path / "run", 0.3)
    for number, file in enumerate(files):
        found = coco_results(rows[f"{data}/table.parquet#{number}"], 0)
        assert [{key: one[key] for key in one if key != "file"} for one in found] == predictor(file).to_coco(0)
    assert len(rows) == 7 and sum(len(row["scores"]) for row in rows.values()) > 7
    assert cli.main(command) == cli.CHECK_FAILED  # finished: no process is started, and it says the same
    assert "1 of 7 images failed" in capsys.readouterr().err


def test_the_sample_for_ray(tmp_path, ray):
    paths = make_images(tmp_path / "photos", 12)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    sample = load_sample("on_ray")
    images = ray.data.read_binary_files(str(tmp_path / "photos"), include_paths=True)
    rows = sample.detect(images, colour_predictor).take_all()
    check_rows(rows, paths, colour_predictor())


def test_the_sample_for_spark(tmp_path, others_import, monkeypatch):
    sql = pytest.importorskip("pyspark.sql", reason="Spark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    paths = make_images(tmp_path / "photos", 12)
    spark = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 5)
        .getOrCreate()
    )
    try:
        load_sample("on_spark").detect_folder(
            spark, colour_predictor, str(tmp_path / "photos"), str(tmp_path / "found"), batch_size=2
        )
    finally:
        spark.stop()
    rows = read_rows(tmp_path / "found")
    for row in rows:
        row["path"] = row["path"].removeprefix("file:").replace("%20", " ")
        row["error"] = row["error"] and row["error"].replace("file:/", "/").replace("%20", " ")
    check_rows(rows, paths, colour_predictor())


def test_the_sample_for_beam(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam.ml.inference.base", reason="Beam is not installed: pip install apache-beam")
    paths = make_images(tmp_path / "photos", 12)
    sample = load_sample("on_beam")
    monkeypatch.setattr(
        sample, "InstanceHandler", lambda model, real=sample.InstanceHandler, **options: real(colour_predictor)
    )
    pattern = str(tmp_path / "photos" / "*" / "*.png")
    monkeypatch.setattr(sys, "argv", ["on_beam.py", "none", pattern, str(tmp_path / "found")])
    sample.main()
    lines = [line for file in tmp_path.glob("found*.jsonl") for line in file.read_text().splitlines()]
    check_rows([json.loads(line) for line in lines], paths, colour_predictor())
