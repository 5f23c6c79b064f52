"""The values that train's options get: the command line over --resume, --config and --auto, these over the defaults."""

import json

import numpy as np
import pytest

from keras_maskrcnn import cli
from keras_maskrcnn.checkup import propose
from keras_maskrcnn.cli import options, resume, settling
from keras_maskrcnn.cli.train_options import OPTIONS, PROPOSED
from keras_maskrcnn.data import ArrayDataset, generate_shapes

DATA = ["train", "--images", "x", "--val-images", "y"]


def settle(*given):
    return settling.settle(cli.build_parser().parse_args([*DATA, *given]))


def config(tmp_path, **values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return ["--config", str(path)]


def run_folder(tmp_path, **values):
    """A run of `keras-maskrcnn train` with these options, as far as settling reads it."""
    settings = vars(settle("--epochs", "4")) | {"training_recipe": {}} | values
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings, "run_id": "a"}))
    return ["--resume", "--run-dir", str(tmp_path)]


def test_defaults_apply_where_nothing_is_given():
    args = settle("--epochs", "2")
    assert (args.min_size, args.max_size, args.image_scale, args.batch_size) == (800, 1333, None, 4)
    assert (args.augment, args.optimizer, args.seed, args.workers, args.run_dir) == ("flip", "adamw", 0, "auto", "run")
    assert args.anchor_sizes == (32, 64, 128, 256, 512) and args.epochs == 2 and args.minutes is None
    assert (args.resume, args.any_way_up, args.skip_faulty, args.tensorboard) == (False,) * 4
    assert args.architecture == "maskrcnn_resnet50_fpn" and args.ema is None
    assert (args.worker_type, args.save_minutes) == ("auto", 10.0)


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("16", 16)])
def test_workers_are_a_number_or_auto(tmp_path, word, value):
    assert settle("--epochs", "1", "--workers", word, "--worker-type", "process").workers == value
    run = run_folder(tmp_path, workers=value, worker_type="process", save_minutes=2.5)
    args = settling.settle(cli.build_parser().parse_args(["train", *run]))
    assert (args.workers, args.worker_type, args.save_minutes) == (value, "process", 2.5)


@pytest.mark.parametrize(("word", "value"), [("all", "all"), ("2", 2)])
def test_devices_are_a_number_or_all(word, value):
    assert settle("--epochs", "1", "--devices", word).devices == value


@pytest.mark.parametrize("word", ["0", "-2", "many", "1.5"])
def test_other_workers_and_devices_are_refused(capsys, word):
    for option in ("--workers", "--devices"):
        with pytest.raises(SystemExit):
            settle("--epochs", "1", option, word)
        told = capsys.readouterr().err
        assert option in told and word in told


def test_the_file_of_config_sets_options_and_the_command_line_overrides_it(tmp_path):
    file = config(tmp_path, min_size=320, max_size=533, batch_size=2, epochs=7, image_dtype="uint16")
    args = settle(*file)
    assert (args.min_size, args.max_size, args.batch_size, args.epochs, args.image_dtype) == (320, 533, 2, 7, "uint16")
    args = settle(*file, "--min-size", "800", "--batch-size", "4", "--image-dtype", "uint8")  # equal to the defaults
    assert (args.min_size, args.max_size, args.batch_size, args.epochs, args.image_dtype) == (800, 533, 4, 7, "uint8")


@pytest.mark.parametrize("given", [["--min-size", "800"], ["--max-size", "1333"], ["--min-size", "320"]])
def test_a_given_size_removes_the_scale_of_the_file(tmp_path, given):
    assert settle(*config(tmp_path, image_scale=2.0, epochs=1)).image_scale == 2.0
    args = settle(*config(tmp_path, image_scale=2.0, epochs=1), *given)
    assert args.image_scale is None and getattr(args, given[0][2:].replace("-", "_")) == int(given[1])


def test_a_given_scale_stays_beside_a_given_size(tmp_path):
    args = settle(*config(tmp_path, image_scale=2.0, epochs=1), "--min-size", "800", "--image-scale", "0.5")
    assert (args.image_scale, args.min_size) == (0.5, 800)


def test_given_minutes_replace_the_epochs_of_the_file(tmp_path):
    args = settle(*config(tmp_path, epochs=30), "--minutes", "5")
    assert (args.epochs, args.minutes) == (None, 5.0)


def test_auto_proposes_and_the_command_line_overrides_the_proposal(tmp_path, capsys, monkeypatch):
    generate_shapes(tmp_path, 3, image_size=64)
    data = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "annotations.json"), "--auto"]
    proposal = {"image_scale": 2.0, "batch_size": 2, "epochs": 12, "anchor_sizes": [8, 16, 32, 64, 128]}
    monkeypatch.setattr("keras_maskrcnn.checkup.propose", lambda inspection: dict(proposal))
    args = settle(*data)
    assert {name: getattr(args, name) for name in proposal} == proposal and args.min_size == 800
    assert "image_scale 2.0" in capsys.readouterr().out
    args = settle(*data, "--min-size", "800", "--batch-size", "4", "--anchor-sizes", "32", "64", "128", "256", "512")
    assert (args.image_scale, args.min_size, args.batch_size, args.epochs) == (None, 800, 4, 12)
    assert args.anchor_sizes == [32, 64, 128, 256, 512]
    assert "image_scale" not in capsys.readouterr().out


def test_resume_takes_the_options_of_the_run_and_the_command_line_overrides_them(tmp_path):
    run = run_folder(tmp_path, min_size=320, workers=8, any_way_up=True, images="a", image_scale=2.0)
    args = settling.settle(cli.build_parser().parse_args(["train", *run]))
    assert (args.min_size, args.workers, args.any_way_up, args.images, args.epochs) == (320, 8, True, "a", 4)
    assert args.image_scale == 2.0
    args = settling.settle(cli.build_parser().parse_args(["train", *run, "--workers", "2", "--min-size", "800"]))
    assert (args.min_size, args.workers, args.image_scale) == (800, 2, None)  # equal to the defaults


def test_a_run_of_an_older_version_names_its_architecture_recipe(tmp_path):
    run = run_folder(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["settings"]["architecture"]
    content["settings"]["recipe"] = "maskrcnn_resnet50_fpn_v2"
    (tmp_path / "config.json").write_text(json.dumps(content))
    args = settling.settle(cli.build_parser().parse_args(["train", *run]))
    assert args.architecture == "maskrcnn_resnet50_fpn_v2" and not hasattr(args, "recipe")


def test_the_old_name_of_architecture_is_accepted_and_hidden(capsys):
    assert settle("--epochs", "1", "--recipe", "maskrcnn_resnet50_fpn_v2").architecture == "maskrcnn_resnet50_fpn_v2"
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["train", "--help"])
    told = capsys.readouterr().out
    assert "--architecture" in told and "--recipe" not in told


def test_help_shows_each_default_once(capsys):
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["train", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for flag, default in (
        ("--min-size MIN_SIZE", "800"),
        ("--optimizer {adamw,sgd}", "adamw"),
        ("--anchor-sizes SIZE SIZE SIZE SIZE SIZE", "32 64 128 256 512"),
        ("--seed SEED", "0"),
    ):
        described = told[told.rindex(flag) :].split(" --")[0]
        assert described.count(f"(default: {default})") == 1 and described.count("default") == 1, described
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["preview-augmentation", "--help"])
    told = capsys.readouterr().out
    assert "(default: strong)" in told and "(default: flip)" not in told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_size": "big"}, "min_size must be a value that --min-size accepts.*'big'"),
        ({"min_size": 0}, "--min-size accepts.*Received 0"),
        ({"min_size": [800]}, r"Received \[800\]"),
        ({"batch_size": True}, "Received True"),
        ({"anchor_sizes": [32, 64]}, r"anchor_sizes must.*Received \[32, 64\]"),
        ({"pixel_mean": 3.0}, "pixel_mean must.*Received 3.0"),
        ({"image_dtype": "int8"}, "Received 'int8'"),
        ({"learning": 1}, "'learning'"),
        ([1], r"\[1\]"),
    ],
)
def test_a_config_with_wrong_values_is_refused(tmp_path, values, message):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        settling.read_options(tmp_path / "config.json")


def test_every_proposed_option_is_one_of_train_and_accepts_what_is_proposed():
    from keras_maskrcnn.checkup import inspect_dataset

    image = np.random.default_rng(0).integers(0, 60000, (64, 64, 4)).astype(np.uint16)
    dataset = ArrayDataset([image], [[]])
    proposal = propose(inspect_dataset(dataset))
    assert set(proposal) <= set(PROPOSED) <= set(OPTIONS)
    for name, value in json.loads(json.dumps(proposal)).items():
        assert OPTIONS[name].from_file(value, "x.json") == value


def test_settled_prefers_given_then_proposed_then_default():
    size = options.Option("--size", "a size", 3, int)
    parser = cli.argparse.ArgumentParser()
    size.add_to(parser, late_default=True)
    values = [
        options.settled(parser.parse_args(given), [size], proposed).size
        for given, proposed in ((["--size", "3"], {"size": 5}), ([], {"size": 5}), ([], {"size": None}), ([], None))
    ]
    assert values == [3, 5, 3, 3]


def test_neither_length_nor_two_sources_of_options_pass(tmp_path):
    with pytest.raises(ValueError, match="needs a length"):
        settle()
    with pytest.raises(ValueError, match="Received both"):
        settle(*config(tmp_path, epochs=1), "--auto")
    with pytest.raises(ValueError, match="no --images and no --val-images"):
        settling.settle(cli.build_parser().parse_args(["train", "--epochs", "1"]))


@pytest.mark.parametrize(
    ("name", "value"), [("minutes", float("nan")), ("epochs", "many"), ("anchor_sizes", 8), ("augment", "heavy")]
)
def test_an_option_of_a_run_that_was_changed_by_hand_is_named(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(resume, "state_to_resume", lambda run_dir, words: (None, None))
    settings = {"epochs": 3, "minutes": None, "training_recipe": {}}
    for changed in (settings, settings | {name: value}):
        content = {"model": {}, "settings": changed, "backend": "tensorflow", "versions": {}, "run_id": "a"}
        (tmp_path / "config.json").write_text(json.dumps(content))
        if changed is settings:
            assert resume.options_of_run(tmp_path) == {"epochs": 3, "minutes": None}
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ValueError, match=f"config.json: {name} must be a value that {flag} accepts: .*Received"):
        resume.options_of_run(tmp_path)
