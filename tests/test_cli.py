"""The command line: helps, user mistakes without tracebacks, and each command once on a tiny model.

Which value an option gets: test_train_options.py. What is imported: test_import.py.
"""

import csv
import dataclasses
import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_maskrcnn import cli
from keras_maskrcnn.cli import sources, train
from keras_maskrcnn.cli.settling import settle
from keras_maskrcnn.data import CocoDataset, generate_shapes
from keras_maskrcnn.data.readers.opener import FORMATS
from keras_maskrcnn.data.transforms.presets import PRESETS
from keras_maskrcnn.evaluation.figures import coco_metrics
from keras_maskrcnn_launcher import quiet_tensorflow

COMMANDS = [
    "demo",
    "train",
    "preview-augmentation",
    "evaluate",
    "predict",
    "export",
    "convert",
    "check-data",
    "convert-data",
    "split",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"keras-maskrcnn {command}" in text


def test_mistakes_are_told_in_a_line_and_not_in_a_traceback(tmp_path, capsys):
    status = cli.main(["predict", str(tmp_path / "no.keras"), "photo.jpg"])
    told = capsys.readouterr().err
    assert status == cli.MISTAKE
    assert "photo.jpg" in told or "no.keras" in told
    assert "Traceback" not in told
    with pytest.raises(ValueError):
        cli.main(["predict", str(tmp_path / "no.keras"), "photo.jpg", "--debug"])


def test_a_missing_annotation_file_is_named(tmp_path, capsys):
    folders = ["--images", str(tmp_path), "--val-images", str(tmp_path)]
    files = ["--annotations", str(tmp_path / "gone.json"), "--val-annotations", str(tmp_path / "gone.json")]
    assert cli.main(["train", *folders, *files, "--epochs", "1"]) == cli.MISTAKE
    assert "gone.json" in capsys.readouterr().err


def test_an_empty_folder_is_named(tmp_path, capsys):
    assert cli.main(["predict", "model.keras", str(tmp_path)]) == cli.MISTAKE
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--batch-size", "0"], ["--minutes", "-1"], ["--epochs", "some"]])
def test_numbers_that_can_not_be_are_refused(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--images", str(tmp_path), "--val-images", str(tmp_path), *given])
    assert stop.value.code == cli.MISTAKE
    assert given[0] in capsys.readouterr().err


def test_the_augmentations_offered_are_the_presets(capsys):
    with pytest.raises(SystemExit):
        cli.main(["preview-augmentation", "--augment", "heavy"])
    told = capsys.readouterr().err
    offered = told.split("choose from ")[1].replace("'", "").strip(" )\n").split(", ")
    assert tuple(offered) == PRESETS


def test_the_formats_offered_are_those_with_a_reader():
    assert sources.FORMATS == tuple(FORMATS)


def test_chatter_of_a_quiet_start_is_shown_only_with_an_error(capfd):
    with quiet_tensorflow():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), quiet_tensorflow():
        os.write(2, b"what went wrong")
        raise ImportError
    assert capfd.readouterr().err == "what went wrong"


def small_model(**overrides):
    """A model of the demo's recipe, as small as it gets, with every score passing."""
    from keras_maskrcnn.cli.demo import shapes_config
    from keras_maskrcnn.model import MaskRCNN

    small = {"fpn_channels": 16, "box_features": 16, "mask_channels": 8, "score_threshold": 0.01}
    return MaskRCNN(dataclasses.replace(shapes_config(), **(small | overrides)))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, 4, image_size=64)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A single picture of shapes, to measure a model with."""
    folder = tmp_path_factory.mktemp("one")
    generate_shapes(folder, 1, image_size=64, seed=1)
    return folder


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    small_model().save(path)
    return path


def dataset_arguments(folder, prefix=""):
    return [
        f"--{prefix}images", str(folder / "images"), f"--{prefix}annotations", str(folder / "annotations.json")
    ]  # fmt: skip


def test_train_fine_tunes_into_a_run_folder_that_the_others_read(shapes, one, model_file, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [*dataset_arguments(shapes), *dataset_arguments(one, "val-"), "--epochs", "1"]
    arguments += ["--batch-size", "2", "--start-from", str(model_file), "--run-dir", str(run), "--freeze", "backbone"]
    assert cli.main(["train", *arguments, "--any-way-up", "--crop", "64", "--augment", "strong"]) == cli.SUCCESS
    told = capsys.readouterr().out
    assert "adamw, batch 2, peak learning rate 7.07e-05 (0.0001 for 4 images, root of the batch" in told
    assert "cosine over 2 steps" in told and "segm" in told
    assert told.split("\nbackbone")[1].split()[0] == "0"  # trained parameters
    assert {"best.keras", "last.keras", "metrics.csv", "curves.png"} <= {p.name for p in run.iterdir()}
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["training_recipe"]["steps"] == 2 and settings["freeze"] == ["backbone"]
    figures, report = tmp_path / "ap.json", run / "errors"
    command = ["evaluate", str(run), *dataset_arguments(one), "--json", str(figures), "--report", str(report)]
    assert cli.main(command) == cli.SUCCESS
    told = capsys.readouterr().out
    assert f"what the errors are: {report / 'index.html'}" in told and f"linked in {run / 'index.html'}" in told
    why = json.loads((report / "report.json").read_text())["why_missed"]
    objects = len(json.loads((one / "annotations.json").read_text())["annotations"])
    assert f"why objects were missed: {why['summary']}" in told and 0 < len(why["objects"]) <= objects
    assert sum(why["counts"].values()) == len(why["objects"]) and {miss["image_id"] for miss in why["objects"]} == {1}
    measured, kept = json.loads(figures.read_text()), json.loads((run / "metrics.json").read_text())
    assert measured["segm_AP"] == pytest.approx(kept["segm_AP"], abs=1e-4)
    assert cli.main(["train", "--resume", "--run-dir", str(run)]) == cli.MISTAKE
    assert "finished after 1 epochs" in capsys.readouterr().err

    # The page ends the run: without it there is nothing left but to write it.
    (run / "index.html").unlink()
    assert cli.main(["train", "--resume", "--run-dir", str(run), "--workers", "1"]) == cli.SUCCESS
    told = capsys.readouterr().out
    assert f"finishing the report of {run} after 1 epochs" in told and "epoch 1 of" not in told
    assert 'href="errors/index.html"' in (run / "index.html").read_text()


@pytest.mark.parametrize(
    "given, roi_samples, positive, for_masks",
    [([], 512, 128, 128), (["--roi-samples", "64"], 64, 16, 16), (["--mask-samples", "9"], 512, 128, 9)],
)
def test_the_heads_learn_from_so_many_rois(shapes, monkeypatch, given, roi_samples, positive, for_masks):
    monkeypatch.setattr("keras_maskrcnn.model.MaskRCNN", lambda config, seed: config)
    given = ["train", "--images", "x", "--val-images", "y", "--epochs", "1", *given]
    args = settle(cli.build_parser().parse_args(given))
    config = train._model_to_train(args, CocoDataset(shapes / "annotations.json", shapes / "images"))
    assert (config.roi_samples, config.max_positive_rois, config.max_mask_rois) == (roi_samples, positive, for_masks)


def test_resuming_takes_the_options_of_the_run_and_refuses_others(tmp_path, capsys):
    from keras_maskrcnn.cli.resume import announce, check_same_run, options_of_run

    settings = {
        "command": "train",
        "run_dir": "elsewhere",
        "auto": True,
        "images": "a",
        "workers": 2,
        "freeze": ["fpn"],
    }
    settings |= {"seed": 3, "epochs": 4, "training_recipe": {"steps": 40, "learning_rate": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps({"run_id": "x", "settings": settings}))
    announce(tmp_path)
    assert f"{tmp_path} has no complete epoch: the run begins again, with its options" in capsys.readouterr().out
    state = {"run_id": "x", "finished": False, "epochs_done": 2, "seconds": 90.0, "rows": [], "best": {}}
    with zipfile.ZipFile(tmp_path / "last.keras", "w") as archive:
        archive.writestr("run.json", json.dumps(state))
    options = options_of_run(tmp_path)
    assert options == {"images": "a", "workers": 2, "freeze": ["fpn"], "seed": 3, "epochs": 4}
    announce(tmp_path)
    assert f"resuming {tmp_path} after 2 epochs and 1.5 minutes" in capsys.readouterr().out
    check_same_run(tmp_path, settings | {"images": "b", "workers": 8, "run_dir": str(tmp_path), "auto": False})
    with pytest.raises(ValueError, match=r"epochs 4 -> 8, training_recipe .*'steps': 40.* -> .*'steps': 80"):
        check_same_run(tmp_path, settings | {"epochs": 8, "training_recipe": {"steps": 80, "learning_rate": 0.1}})
    (tmp_path / "config.json").write_text(json.dumps({"run_id": "x", "settings": {}}))
    with pytest.raises(ValueError, match="train_model.*resume=True"):
        options_of_run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        options_of_run(tmp_path)


@pytest.mark.slow
def test_train_is_stopped_and_resumed(shapes, model_file, tmp_path, capsys, monkeypatch):
    from keras_maskrcnn.runs.recorder import RunRecorder

    run = tmp_path / "run"
    arguments = [*dataset_arguments(shapes), *dataset_arguments(shapes, "val-"), "--epochs", "2"]
    arguments += ["--batch-size", "2", "--start-from", str(model_file), "--run-dir", str(run), "--ema", "0.9"]
    arguments += ["--freeze", "backbone", "--evaluate-every", "2"]
    begin = RunRecorder.on_epoch_begin

    def stop_in_the_second_epoch(recorder, epoch, logs=None):
        if epoch:
            raise KeyboardInterrupt
        begin(recorder, epoch, logs)

    monkeypatch.setattr(RunRecorder, "on_epoch_begin", stop_in_the_second_epoch)
    assert cli.main(["train", *arguments, "--any-way-up", "--crop", "64", "--augment", "strong"]) == 130
    told = capsys.readouterr().out
    assert "adamw, batch 2, peak learning rate 7.07e-05 (0.0001 for 4 images, root of the batch" in told
    assert "warm-up over 0 steps, cosine over 4 steps" in told and "weights averaged with 0.9" in told
    assert told.split("\nbackbone")[1].split()[0] == "0"  # trained parameters
    monkeypatch.setattr(RunRecorder, "on_epoch_begin", begin)
    assert cli.main(["train", "--resume", "--run-dir", str(run), "--seed", "5"]) == cli.MISTAKE
    assert "seed 0 -> 5" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "--run-dir", str(run), "--workers", "1"]) == cli.SUCCESS
    told = capsys.readouterr().out
    assert "after 1 epochs" in told and "epoch 2 of 2" in told and "epoch 1 of" not in told and "segm" in told
    assert {"best.keras", "last.keras", "metrics.csv", "curves.png"} <= {p.name for p in run.iterdir()}
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0"] and float(rows[1]["learning_rate"]) < 1e-8
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["training_recipe"]["steps"] == 4 and settings["freeze"] == ["backbone"]
    figures = tmp_path / "ap.json"
    assert cli.main(["evaluate", str(run), *dataset_arguments(shapes), "--json", str(figures)]) == cli.SUCCESS
    measured, kept = json.loads(figures.read_text()), json.loads((run / "metrics.json").read_text())
    assert measured["segm_AP"] == pytest.approx(kept["segm_AP"], abs=1e-4)


def test_evaluate_reads_other_formats_with_the_classes_of_the_model(shapes, model_file, tmp_path, capsys):
    """A VIA export without the model's first class: labels are the model's, not the file's."""
    name = "00001.png"
    shape = {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 30}
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": kind}} for kind in ("triangle", "square")]
    via = tmp_path / "via.json"
    via.write_text(json.dumps({f"{name}1": {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}}))
    figures = tmp_path / "ap.json"
    arguments = ["--images", str(shapes / "images"), "--annotations", str(via), "--json", str(figures)]
    assert cli.main(["evaluate", str(model_file), *arguments]) == cli.SUCCESS
    measured = json.loads(figures.read_text())
    assert measured["segm_AP/square"] >= 0 and measured["segm_AP/circle"] == -1
    regions[0]["region_attributes"]["kind"] = "hexagon"
    via.write_text(json.dumps({f"{name}1": {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}}))
    assert cli.main(["evaluate", str(model_file), *arguments]) == cli.MISTAKE
    assert "hexagon" in capsys.readouterr().err


def test_preview_draws_what_training_with_the_same_seed_is_given(shapes, tmp_path, capsys):
    from keras_maskrcnn.data import CocoDataset, DataLoader
    from keras_maskrcnn.inference.visualize import SEPARATOR, draw_batch_row

    sheet = tmp_path / "sheet.png"
    size = ["--image-scale", "1", "--count", "1", "--variants", "2", "--seed", "7"]
    arguments = [*dataset_arguments(shapes), "--augment", "light", "--output", str(sheet), "--debug"]
    assert cli.main(["preview-augmentation", *arguments, *size]) == cli.SUCCESS
    assert "ColorJitter" in capsys.readouterr().out
    picture = np.asarray(Image.open(sheet))
    dataset = CocoDataset(shapes / "annotations.json", shapes / "images")
    config = small_model(image_scale=1.0, class_names=dataset.class_names, max_instances=100).config
    loader = DataLoader(dataset, config, 1, shuffle=True, seed=7, augmentation="light")
    side, head = 448, 24
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = [loader[k] for k in range(4)]
        drawn = [draw_batch_row(batch, 0, dataset.class_names, side / 64) for batch in batches]
        x = (epoch + 1) * (side + SEPARATOR)
        assert any((picture[head : head + d.shape[0], x : x + d.shape[1]] == d).all() for d in drawn)
    assert (picture[head:, :side] != picture[head:, side + SEPARATOR : 2 * side + SEPARATOR]).any()


def test_predict_writes_a_picture_for_each_image_and_coco_results(shapes, model_file, tmp_path):
    output, folder = tmp_path / "found", tmp_path / "photos"
    folder.mkdir()
    for path in sorted((shapes / "images").iterdir())[:2]:
        shutil.copy(path, folder)
    arguments = ["predict", str(model_file), str(folder), "--output", str(output)]
    assert cli.main([*arguments, "--score", "0.01", "--tile", "48"]) == cli.SUCCESS
    pictures = sorted(output.glob("*.png"))
    assert len(pictures) == 2
    assert np.asarray(Image.open(pictures[0])).shape == (64, 64, 3)
    for result in json.loads((output / "detections.json").read_text()):
        assert result["segmentation"]["size"] == [64, 64] and result["score"] >= 0.01


@pytest.mark.tensorflow
@pytest.mark.compiled  # a signature is a graph
def test_export_writes_a_version_and_overwrites_it_when_told(model_file, tmp_path, capsys, monkeypatch):
    """What a signature computes: test_serving.py. Here it returns its images, which saves tracing a model twice."""
    import tensorflow as tf

    from keras_maskrcnn.serving import signatures

    inputs = {"images": tf.TensorSpec((None, None, None, 3), "uint8", name="images")}
    contract = {"serving_default": (lambda images: {"images": images}, inputs)}
    monkeypatch.setattr(signatures, "signatures", lambda served: contract)
    target = tmp_path / "saved"
    (target / "2").mkdir(parents=True)
    arguments = ["export", str(model_file), str(target), "--version"]
    assert cli.main([*arguments, "2"]) == cli.MISTAKE
    assert "overwrite" in capsys.readouterr().err
    assert cli.main([*arguments, "2", "--overwrite"]) == cli.SUCCESS
    assert (target / "2" / "saved_model.pb").is_file() and "saved_model_cli" in capsys.readouterr().out
    assert json.loads((target / "2" / "assets" / "about.json").read_text())["batch_norm_folded"] is True


@pytest.mark.tensorflow
def test_export_refuses_options_of_another_format_and_says_what_litert_needs(model_file, tmp_path, capsys):
    """What the files hold: test_onnx.py and test_litert.py, which write them by this command."""
    command = ["export", str(model_file), str(tmp_path / "model.tflite"), "--format", "litert"]
    assert cli.main(command) == cli.MISTAKE
    assert "--image-size 480 640" in capsys.readouterr().err
    assert cli.main([*command, "--image-size", "64", "64", "--bfloat16"]) == cli.MISTAKE
    assert "--bfloat16 is an option of --format savedmodel" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_convert_there_and_back_and_train_from_it(shapes, one, model_file, tmp_path, capsys):
    """To torchvision's names, to a model again, and as the start of a model for other classes."""
    import keras_maskrcnn as km

    pytest.importorskip("safetensors")
    exported, back = tmp_path / "model.safetensors", tmp_path / "back.keras"
    assert cli.main(["convert", str(model_file), str(exported)]) == cli.SUCCESS
    assert cli.main(["convert", str(exported), str(back)]) == cli.SUCCESS
    assert "tensors used" in capsys.readouterr().out
    ours = keras.saving.load_model(model_file, compile=False)
    again = keras.saving.load_model(back, compile=False)
    state = km.torchvision_state_dict(ours)
    for name, array in km.torchvision_state_dict(again).items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    assert cli.main(["convert", str(exported), str(back)]) == cli.MISTAKE
    assert "exists" in capsys.readouterr().err
    assert cli.main(["convert", str(exported), str(tmp_path / "model.h5")]) == cli.MISTAKE
    assert ".keras or .weights.h5" in capsys.readouterr().err

    run = tmp_path / "run"
    arguments = [*dataset_arguments(shapes), *dataset_arguments(one, "val-"), "--epochs", "1", "--batch-size", "4"]
    arguments += ["--weights", str(exported), "--image-scale", "1", "--run-dir", str(run), "--learning-rate", "1e-9"]
    assert cli.main(["train", *arguments]) == cli.SUCCESS
    assert "unchanged: roi_heads.box_predictor.cls_score" in capsys.readouterr().out
    trained = km.torchvision_state_dict(keras.saving.load_model(run / "last.keras", compile=False))
    name = "roi_heads.mask_head.0.0.weight"
    np.testing.assert_allclose(trained[name], state[name], atol=1e-6)
    assert not np.allclose(trained["roi_heads.box_head.fc6.weight"], 0)


def test_the_demo_checks_what_it_reached(tmp_path, monkeypatch, capsys):
    """How it gets there: test_overfit.py and test_samples.py, which train."""
    metrics = coco_metrics({"images": [], "annotations": [], "categories": []}, []) | {"segm_AP50": 0.81}
    good = {"metrics": metrics, "box_error": 2e-4, "score_error": 3e-6, "compared": 40}
    asked = []
    for changed, failed in (
        ({}, []),
        ({"metrics": metrics | {"segm_AP50": 0.65}}, ["FAIL segm AP50 0.650 (at least 0.7)"]),
        (
            {"score_error": 1e-3},
            ["FAIL the export, loaded in a new process, gives the same 40 detections: boxes within "],
        ),
        ({"box_error": 0.5, "compared": 0}, ["FAIL the export, loaded", "FAIL the model detects something"]),
    ):
        monkeypatch.setattr(
            "keras_maskrcnn.cli.demo.run_demo", lambda *given, c=changed: asked.append(given) or good | c
        )
        status = cli.main(["demo", "--directory", str(tmp_path), "--minutes", "3"])
        assert status == (cli.CHECK_FAILED if failed else cli.SUCCESS)
        lines = capsys.readouterr().out.splitlines()
        found = [line for line in lines if line.startswith("FAIL")]
        assert len(found) == len(failed) and all(map(str.startswith, found, failed))
        assert len([line for line in lines if line.startswith("ok  ")]) == 3 - len(failed)
        assert lines[-1] == f"pictures: {tmp_path / 'run' / 'overlays'}, curves: {tmp_path / 'run' / 'curves.png'}"
    assert set(asked) == {(str(tmp_path), 3.0)}


def test_published_weights_are_those_of_the_architecture(shapes, monkeypatch):
    from keras_maskrcnn.weights import zoo

    dataset = CocoDataset(shapes / "annotations.json", shapes / "images")
    for name, weights in (("maskrcnn_resnet50_fpn", "imagenet"), ("maskrcnn_resnet50_fpn_v2", "coco")):
        monkeypatch.setattr(zoo, name, lambda **given: given)
        given = ["train", "--images", "x", "--val-images", "y", "--epochs", "1", "--seed", "4"]
        args = settle(cli.build_parser().parse_args([*given, "--architecture", name, "--weights", weights]))
        fields = train._model_to_train(args, dataset)
        assert (fields["weights"], fields["seed"], fields["num_classes"]) == (weights, 4, 3)
        assert fields["class_names"] == dataset.class_names and "backbone" not in fields


def test_classes_that_nobody_has_are_left_out_of_a_new_model(shapes, tmp_path, capsys):
    content = json.loads((shapes / "annotations.json").read_text())
    categories = [{"id": 9, "name": "hexagon"}, *content["categories"]]
    (tmp_path / "train.json").write_text(json.dumps(content | {"categories": categories}))
    given = [
        "train",
        "--epochs",
        "1",
        "--images",
        str(shapes / "images"),
        "--annotations",
        str(tmp_path / "train.json"),
    ]
    args = settle(cli.build_parser().parse_args([*given, *dataset_arguments(shapes, "val-")]))
    names = CocoDataset(shapes / "annotations.json", shapes / "images").class_names
    for part in sources.open_parts(args):
        assert part.class_names == names and part.category_ids == (1, 2, 3)
    told = "left out the classes ['hexagon']: no object has them, and the validation data lack them"
    assert told in capsys.readouterr().out
    args.val_annotations = args.annotations  # where these list it, it stays
    assert [part.class_names for part in sources.open_parts(args)] == [(*names, "hexagon")] * 2


def test_doctor_says_it_in_the_last_line(tmp_path, monkeypatch, capsys):
    """What it compares: test_doctor.py, where the model runs."""
    from keras_maskrcnn.cli import doctor

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    errors = dict.fromkeys(doctor.EXACT, 0.0)
    monkeypatch.setattr(doctor, "compare_fingerprint", lambda: (errors, 100))
    assert cli.main(["doctor"]) == cli.SUCCESS
    assert capsys.readouterr().out.strip().endswith("predictions can be trusted: they equal torchvision's")
    errors["box"] = 50.0
    assert cli.main(["doctor"]) == cli.CHECK_FAILED
    assert "can NOT be trusted" in capsys.readouterr().out.strip().splitlines()[-1]
