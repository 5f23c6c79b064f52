"""The export: its signatures answer what the model answers, in the pixels that came in, whatever comes along."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from serving_answers import (
    TOLERANCES,
    assert_row_is,
    encode,
    find,
    make_model,
    mixed_files,
    parse_answer,
    picture,
    scale_of,
)
from tiny import in_place_of, random_batch

import keras_maskrcnn as km
from keras_maskrcnn.cli.demo import compare_export

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def model():
    model = make_model(class_names=("disc", "Würfel", "ring"))
    # The optimizer has twice the weights, which an export must leave behind.
    model.compile(keras.optimizers.Adam(), run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    return km.export_saved_model(model, tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def served(export):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(export))

    def call(signature, **inputs):
        answer = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in answer.items()}

    call.signatures = loaded.signatures
    return call


def test_call_predict_and_the_reloaded_export_agree(model, served):
    # 96 high and 128 wide: no resizing and no padding, so that all three see the same pixels.
    images = random_batch([(96, 128)] * 2, (96, 128))["images"]
    called = {name: np.asarray(value) for name, value in model(images).items()}
    predicted = model.predict(images, verbose=0)
    answer = served("serving_default", images=images)
    assert called["valid"].all() and np.ptp(called["boxes"]) > 50
    for other in (predicted, answer):
        for name, tolerance in (TOLERANCES | {"valid": 0}).items():
            np.testing.assert_allclose(
                np.asarray(other[name]).astype("float32"), called[name].astype("float32"), atol=tolerance
            )
    assert answer["num_detections"].tolist() == [10, 10]


def test_a_new_process_answers_in_source_pixels(model, export):
    errors = compare_export(model, export, picture(33, 500)[None])
    assert errors["compared"] == 10
    assert errors["box_error"] < 1e-3 and errors["score_error"] < 1e-5


def test_files_of_any_size_in_one_batch_are_answered_as_alone_and_as_by_the_predictor(model, served):
    files = mixed_files()
    answer = served("serve_bytes", image_bytes=[*files[:3], b"no image", *files[3:], files[0][:400]])
    readable = [0, 1, 2, 4, 5, 6]
    for row, file in zip(readable, files, strict=True):
        assert_row_is(answer, row, find(model, file))
    for row, told in ((3, b"not a JPEG, PNG, GIF or BMP file"), (7, b"a damaged JPEG")):
        assert answer["problems"][row].startswith(told)
        assert not answer["num_detections"][row] and not answer["image_sizes"][row].any()
        assert not any(answer[name][row].any() for name in ("boxes", "scores", "labels", "masks", "valid"))
    assert not any(answer["problems"][readable])
    for row in (0, 4, 5):
        alone = served("serve_bytes", image_bytes=[files[readable.index(row)]])
        for name in ("boxes", "scores", "masks"):
            tolerance = 1e-4 * scale_of(name, answer["image_sizes"][row])
            np.testing.assert_allclose(answer[name][row], alone[name][0], atol=tolerance, err_msg=name)


def test_where_predictions_depend_on_the_canvas_each_file_gets_its_own(model):
    """Torchvision's padding: the signature's function, which nobody saved."""
    import tensorflow as tf

    from keras_maskrcnn.serving.signatures import GraphFunctions, signatures

    twin = make_model(mask_padding=False)
    function, inputs = signatures(twin)["serve_bytes"]
    function = tf.function(function, autograph=False).get_concrete_function(**inputs)
    files = [encode(picture(50, 70)), b"", encode(picture(33, 500)), encode(picture(96, 128))]
    answer = {name: value.numpy() for name, value in function(image_bytes=tf.constant(files)).items()}
    for row in (0, 2, 3):
        assert_row_is(answer, row, find(twin, files[row]))
    assert answer["problems"][1] and not answer["valid"][1].any()
    # Group norm takes the canvas into its statistics.
    for norm in ("norm", "fpn_norm"):
        assert GraphFunctions(make_model(**{norm: "group"})).one_by_one
    assert not GraphFunctions(model).one_by_one


def test_a_batch_of_no_images_has_no_rows(model, served):
    options = {name: np.zeros(0, dtype) for name, dtype in
               (("score_threshold", "float32"), ("nms_threshold", "float32"), ("max_detections", "int32"))}  # fmt: skip
    files, images = {"image_bytes": np.array([], object)}, {"images": np.zeros((0, 96, 128, 3), np.uint8)}
    one = {"image_bytes": [encode(picture(96, 128))]}
    for name, given, like in (
        ("serving_default", images, {"images": picture(96, 128)[None]}),
        ("serving_default", {"images": np.zeros((0, 0, 0, 3), np.uint8)}, {"images": picture(96, 128)[None]}),
        ("serve_bytes", files, one),
        ("serve_rle", files, one),
        ("serve_bytes_options", files | options, one | {name: np.ones(1, o.dtype) for name, o in options.items()}),
    ):
        answer, other = served(name, **given), served(name, **like)
        assert {key: value.shape for key, value in answer.items()} == {
            key: (0, *value.shape[1:]) for key, value in other.items()
        }, name
    with pytest.raises(Exception, match="image must be of non-zero size"):
        served("serving_default", images=np.zeros((2, 0, 128, 3), np.uint8))


def test_options_act_on_the_nms_of_their_own_image(model, served):
    file = encode(picture(60, 80))
    found = [find(model, file)]
    high = float(found[0].scores[4:6].mean())
    # A row each: the model's own, by NaN and by negative numbers; a high score; no and much suppression; few rows.
    rows = [(np.nan, -1, -1), (high, np.nan, -1), (-1, 1.0, -1), (-1, 0.05, 99), (-1, -1, 3), (0.0, 2.0, 0)]
    scores, overlaps, counts = zip(*rows, strict=True)
    answer = served(
        "serve_bytes_options",
        image_bytes=[file] * len(rows),
        score_threshold=np.float32(scores),
        nms_threshold=np.float32(overlaps),
        max_detections=np.int32(counts),
    )
    assert_row_is(answer, 0, found[0])
    numbers = [{"score_threshold": high}, {"nms_threshold": 1.0}, {"nms_threshold": 0.05}, {"max_detections": 3}]
    for row, changes in enumerate(numbers, start=1):
        with in_place_of(model, dataclasses.replace(model.config, **changes)):
            found.append(find(model, file))
        assert_row_is(answer, row, found[-1])
    assert not answer["valid"][5].any()
    # Suppression is no filter on the answer: with less of it come boxes that were not there.
    own, without, much = ({tuple(box) for box in found[i].boxes.round(2)} for i in (0, 2, 3))
    assert without - own and much - own and len(found[1]) == 5 and len(found[4]) == 3


def test_run_length_codes_are_the_masks_that_the_predictor_pastes(model, served):
    from keras_maskrcnn.serving import masks_from_rle

    files = [encode(picture(50, 70)), b"", encode(picture(33, 500))]
    answer = served("serve_rle", image_bytes=files)
    assert "masks" not in answer
    for row in (0, 2):
        found = find(model, files[row])
        assert_row_is(answer, row, found, masks=False)
        masks = masks_from_rle(answer["mask_rle"][row], answer["image_sizes"][row])
        assert masks.shape == found.masks.shape and found.masks.mean() > 0.01
        assert (masks == found.masks).mean() >= 0.999
    assert not any(answer["mask_rle"][1])


@pytest.fixture(scope="module")
def predictor(export):
    return km.serving.SavedModelPredictor(export)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_stream_through_an_export_gives_what_single_calls_do(predictor, batch_size):
    image = random_batch([(96, 128)], (96, 128))["images"][0]
    images = [image, image[:64, :70].copy(), image[::-1].copy(), b"no image"]
    answers = list(predictor.stream(images, lambda index, _, found: (index, found), batch_size))
    assert [answer.error is None for answer in answers] == [True, True, True, False]
    for k, answer in enumerate(answers[:3]):
        index, found = answer.result
        expected = predictor(images[k])
        assert index == k and len(found) == len(expected) > 0 and found.image_size == images[k].shape[:2]
        for name, values in (("boxes", found.boxes), ("scores", found.scores), ("masks", found.box_masks)):
            theirs = expected.box_masks if name == "masks" else getattr(expected, name)
            np.testing.assert_allclose(values, theirs, atol=TOLERANCES[name], err_msg=name)


def test_predict_with_the_export_writes_what_the_predictor_finds(model, export, tmp_path):
    from keras_maskrcnn import cli

    image = picture(50, 70)
    Image.fromarray(image).save(tmp_path / "photo.png")
    output = tmp_path / "found"
    arguments = ["predict", "--saved-model", str(export.parent), str(tmp_path / "photo.png"), "--output", str(output)]
    found = find(model, image)
    score = float(found.scores[4:6].mean())
    found = find(model, image, score)
    assert cli.main([*arguments, "--score", str(score)]) == cli.SUCCESS
    results = json.loads((output / "detections.json").read_text())
    assert len(found) == 5
    for result, expected in zip(results, found.to_coco(0), strict=True):
        np.testing.assert_allclose(result["bbox"], expected["bbox"], atol=1e-3)
        assert result["segmentation"] == expected["segmentation"] and result["category_id"] == expected["category_id"]
    drawn = np.asarray(Image.open(output / "0000-photo.png"))
    assert (drawn == km.draw_instances(image, found)).mean() > 0.999
    with pytest.raises(ValueError, match="0, and 1. Received: 50"):
        km.serving.SavedModelPredictor(export, score_threshold=50)
    with pytest.raises(ValueError, match="saved_model.pb"):
        km.serving.SavedModelPredictor(tmp_path)
    assert cli.main(["predict", str(tmp_path / "photo.png")]) == cli.MISTAKE


@pytest.fixture(scope="module")
def run_without_python(tmp_path_factory):
    """The C program, built: a function from signature and files to a dict of arrays, as if it were an answer."""
    import tensorflow as tf

    compiler = shutil.which("gcc") or shutil.which("cc")
    library = pathlib.Path(tf.sysconfig.get_lib())
    if compiler is None or not (library / "libtensorflow_cc.so.2").is_file():
        pytest.skip("needs a C compiler and TensorFlow's shared library libtensorflow_cc.so.2 (Linux wheels have it)")
    source = pathlib.Path(__file__).parent / "serving" / "run_saved_model.c"
    program = tmp_path_factory.mktemp("c") / "run_saved_model"
    gold = ["-fuse-ld=gold"] * (shutil.which("ld.gold") is not None)  # the usual linker reads the gigabyte for 15 s
    link = [
        *gold,
        f"-L{library}",
        "-l:libtensorflow_cc.so.2",
        "-l:libtensorflow_framework.so.2",
        f"-Wl,-rpath,{library}",
    ]
    warnings = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"]
    include = ["-isystem", tf.sysconfig.get_include()]
    subprocess.run([compiler, *warnings, *include, str(source), *link, "-o", str(program)], check=True)

    def run(export, signature, files):
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # no PATH, no PYTHONPATH
        command = [str(program), str(export), signature, *map(str, files)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return parse_answer(done.stdout)

    return run


# What the second signature answers is compared with the model above; that a program without Python runs, by the first.
@pytest.mark.parametrize("signature", ["serve_bytes", pytest.param("serving_default", marks=pytest.mark.slow)])
def test_without_python_the_export_answers_the_same(signature, export, served, run_without_python, tmp_path):
    """On generated pictures, and on photographs where ../shared is beside the checkout."""
    shared = pathlib.Path(__file__).parents[2] / "shared"  # not everywhere: the pictures do without it
    photos = sorted((shared / "data" / "coco_tiny" / "val2017").glob("*.jpg"))[:2]
    files = [tmp_path / "a.png", tmp_path / "b.jpg", *photos]
    for path, size in zip(files[:2], ((50, 70), (90, 60)), strict=True):
        Image.fromarray(picture(*size)).save(path, quality=95)
    if signature == "serve_bytes":
        (tmp_path / "c.png").write_bytes(b"no image")
        files.append(tmp_path / "c.png")
        expected = served(signature, image_bytes=[path.read_bytes() for path in files])
    else:  # raw pixels, all of one size
        pixels = [np.asarray(Image.open(path).convert("RGB").resize((200, 150))) for path in files]
        files = [tmp_path / f"{i}.ppm" for i in range(len(pixels))]
        for path, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(path)
        expected = served(signature, images=np.stack(pixels))
    answers = run_without_python(export, signature, files)
    assert len(answers) == len(files) and sum(len(rows["scores"]) for rows in answers) > 10
    for i, rows in enumerate(answers):
        kept = expected["valid"][i]
        assert rows["size"] == tuple(expected["image_sizes"][i]) and len(rows["scores"]) == kept.sum()
        if signature == "serve_bytes":
            assert rows["problem"] == expected["problems"][i].decode()
        np.testing.assert_allclose(rows["boxes"], expected["boxes"][i][kept], atol=1e-3)
        np.testing.assert_allclose(rows["scores"], expected["scores"][i][kept], atol=1e-5)
        assert rows["labels"] == expected["labels"][i][kept].tolist()
        assert rows["class_names"] == [name.decode() for name in expected["class_names"][i][kept]]
        if kept.any():
            assert (rows["masks"] == (expected["masks"][i][kept] > 0.5)).mean() >= 0.999


def test_only_stock_operators_are_in_the_graph(export):
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    (meta_graph,) = SavedModel.FromString((export / "saved_model.pb").read_bytes()).meta_graphs
    functions = meta_graph.graph_def.library.function
    used = {node.op for function in functions for node in function.node_def}
    used |= {node.op for node in meta_graph.graph_def.node}
    called = {function.signature.name for function in functions}
    stock = set(dir(tf.raw_ops))  # those of libraries that were loaded later are not in there
    assert {"CropAndResize", "DecodeJpeg", "IgnoreErrorsDataset"} <= used
    assert not used - called - stock
    assert sum(name.startswith("__inference__detect_") for name in called) == 1  # one graph of the model for all


def test_a_version_is_written_whole_and_not_overwritten_unasked(model, export, tmp_path):
    folder = export.parent
    assert export.name == "1" and [path.name for path in folder.iterdir() if path.is_dir()] == ["1"]
    (folder / "7").mkdir()
    (folder / "notes").mkdir()
    from keras_maskrcnn.serving import saved_model

    assert saved_model.versions(folder) == [1, 7] and saved_model.versions(folder / "none") == []
    assert saved_model._version_folder(folder, None, False).name == "8"
    for wrong in (1, 7):
        with pytest.raises(ValueError, match="must not exist.*overwrite=True"):
            km.export_saved_model(model, folder, version=wrong)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="integer >= 1"):
            km.export_saved_model(model, folder, version=wrong)
    with pytest.raises(ValueError, match="folder above"):
        km.export_saved_model(model, export)
    before = export.stat().st_ino
    assert saved_model._version_folder(folder, 1, True) == export and export.stat().st_ino == before


def test_a_failed_export_leaves_nothing_behind_and_the_old_version_in_place(model, tmp_path, monkeypatch):
    from keras_maskrcnn.serving import saved_model

    def stop_half_way(model, served, folder, *rest):
        os.makedirs(os.path.join(folder, "variables"))
        raise OSError("disk full")

    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_text("old")
    monkeypatch.setattr(saved_model, "_write", stop_half_way)
    with pytest.raises(OSError, match="disk full"):
        km.export_saved_model(model, tmp_path, version=1, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "saved_model.pb"]
    monkeypatch.setattr(saved_model, "_write", lambda model, served, folder, *rest: os.makedirs(folder))
    assert km.export_saved_model(model, tmp_path, version=1, overwrite=True) == tmp_path / "1"
    assert [path.name for path in tmp_path.rglob("*")] == ["1"]


def test_the_weights_are_there_once_and_without_the_optimizer(model, export):
    folded = km.optimize_for_inference(model)  # without the four vectors of each batch norm
    weights = sum(weight.numpy().nbytes for weight in folded.weights)
    on_disk = sum(path.stat().st_size for path in (export / "variables").iterdir())
    assert weights <= on_disk < 1.01 * weights
    rest = sum(path.stat().st_size for path in export.rglob("*") if path.is_file()) - on_disk
    assert rest < 8e6


def test_assets_say_what_the_model_is(model, export, tmp_path):
    from keras_maskrcnn.serving import assets

    folder = export / "assets"
    assert (folder / "class_names.txt").read_text(encoding="utf-8").split("\n") == ["disc", "Würfel", "ring", ""]
    assert assets.read_config(export) == model.config
    about = json.loads((folder / "about.json").read_text())
    assert about["version"] == km.__version__ and "short side has 96 pixels" in about["preprocessing"]
    assert about["signatures"]["serve_bytes"] == {"image_bytes": "string (None,)"}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert about["fingerprint"] == assets.fingerprint(again) and len(about["fingerprint"]) == 64
    again.weights[0].assign(again.weights[0] + 1e-3)
    assert about["fingerprint"] != assets.fingerprint(again)
    with pytest.raises(ValueError, match="assets/config.json"):
        assets.read_config(tmp_path)


def test_tf_serving_reads_the_warm_up_requests(export, served):
    import tensorflow as tf

    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = str(export / "assets.extra" / "tf_serving_warmup_requests")
    requests = {}
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "model"
        requests[request.model_spec.signature_name] = {
            name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()
        }
    assert set(requests) == set(served.signatures) and len(requests) == 6
    for name, inputs in requests.items():
        specs = served.signatures[name].structured_input_signature[1]
        assert {key: spec.dtype for key, spec in specs.items()} == {
            key: tf.as_dtype(value.dtype) for key, value in inputs.items()
        }
        assert all(spec.shape.is_compatible_with(inputs[key].shape) for key, spec in specs.items())
    answer = served("serve_bytes_options", **requests["serve_bytes_options"])
    assert answer["image_sizes"].tolist() == [[480, 640]] and answer["num_detections"][0] > 0


@pytest.mark.slow
def test_a_model_saved_on_jax_exports_by_one_command(tmp_path):
    """README's command; the export against the JAX model's own answer."""
    pytest.importorskip("jax")
    image = picture(96, 128)
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from serving_answers import *\n"
        "from keras_maskrcnn.serving.assets import fingerprint\n"
        "folder = sys.argv[1]; model = make_model(); model.save(folder + '/model.keras')\n"
        "found = km.Predictor(model)(np.load(folder + '/image.npy'))\n"
        "np.savez(folder + '/answer.npz', boxes=found.boxes, scores=found.scores, labels=found.labels,\n"
        "         masks=found.box_masks, fingerprint=fingerprint(model))"
    )
    here = os.path.dirname(__file__)
    run = {"capture_output": True, "text": True}
    on_jax = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), here], env=on_jax, **run)
    assert done.returncode == 0, done.stderr
    code = "import sys, keras_maskrcnn_launcher; sys.exit(keras_maskrcnn_launcher.main())"  # keras-maskrcnn
    command = ["-c", code, "export", str(tmp_path / "model.keras"), str(tmp_path / "exported")]
    on_tensorflow = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, *command], env=on_tensorflow, **run)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "answer.npz")
    ours = km.serving.SavedModelPredictor(tmp_path / "exported")(image)
    assert len(ours) == len(theirs["boxes"]) == 10
    np.testing.assert_array_equal(ours.labels, theirs["labels"])
    for name, values in (("boxes", ours.boxes), ("scores", ours.scores), ("masks", ours.box_masks)):
        np.testing.assert_allclose(values, theirs[name], atol=TOLERANCES[name], err_msg=name)
    about = json.loads((tmp_path / "exported" / "1" / "assets" / "about.json").read_text())
    assert about["fingerprint"] == str(theirs["fingerprint"])
