"""A remedy names an argument in Python and an option on the command line: the same fault through both doors."""

import argparse
import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from reader_tools import save_image

from keras_maskrcnn.cli import build_parser, main
from keras_maskrcnn.cli.words import WORDS, words_of_dataset
from keras_maskrcnn.data import DataLoader, open_dataset
from keras_maskrcnn.data.loading.epoch_order import repeat_factors, with_negatives
from keras_maskrcnn.host.messages import argument, in_words

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_maskrcnn"


def coco(folder, name="a.png", segmentation=(5, 5, 25, 5, 25, 20), images=1):
    content = {
        "images": [{"id": n, "file_name": name, "height": 40, "width": 60} for n in range(1, images + 1)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [list(segmentation)], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "leaf"}],
    }
    save_image(folder / "images" / "a.png")
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def missing(folder):
    return coco(folder, "gone.png")


def faulty(folder):
    return coco(folder, segmentation=(1, 1, 2, 2))


def ambiguous(folder):
    path = coco(folder, "b.png")
    save_image(folder / "one" / "b.png", 1)
    save_image(folder / "two" / "b.png", 2)
    return path


def attributes(folder):
    save_image(folder / "a.png")
    shape = {"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9}
    regions = [{"shape_attributes": shape, "region_attributes": {"one": "x", "two": "y"}}]
    (folder / "via.json").write_text(json.dumps({"k": {"filename": "a.png", "regions": regions}}))
    return folder / "via.json"


def part(folder):
    save_image(folder / "images" / "a.png")
    (folder / "data.yaml").write_text("val: images\nnames: [leaf]\n")
    return folder / "data.yaml"


def unknown(folder):
    (folder / "notes.txt").write_text("nothing")
    return folder / "notes.txt"


FAULTS = [
    (missing, "image_dir=...", "--images"),
    (missing, 'on_error="skip"', "--skip-faulty"),
    (faulty, 'on_error="skip"', "--skip-faulty"),
    (ambiguous, "image_dir=...", "--images"),
    (attributes, "attribute=...", "--class-attribute"),
    (part, "part=...", "--part"),
    (unknown, "format=...", "--format"),
]


@pytest.mark.parametrize("make, python, option", FAULTS)
def test_a_fault_is_told_in_the_words_of_its_door(tmp_path, capsys, make, python, option):
    source = make(tmp_path)
    with pytest.raises(ValueError) as caught:
        open_dataset(source)
    assert python in str(caught.value) and "--" not in str(caught.value).replace(str(tmp_path), "")
    for command in (
        ["convert-data", str(source), str(tmp_path / "out.json")],
        ["split", str(source), str(tmp_path / "o")],
    ):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert option in told and python not in told and "image_dir" not in told and "on_error" not in told


def test_messages_of_two_datasets_name_the_options_of_each():
    with in_words(WORDS):
        for prefix in ("", "val-"):
            with in_words(words_of_dataset(prefix, "coco.json")):
                assert argument("image_dir") == f"--{prefix}images"
            with in_words(words_of_dataset(prefix, None)):
                expected = f"--{prefix}images, with the annotation file as --{prefix}annotations"
                assert argument("image_dir") == expected
        assert argument("image_dir") == "--images"
    assert argument("image_dir") == "image_dir=..."


def test_arguments_with_values():
    def said():
        return [argument("batch_size", 3), argument("on_error", "skip"), argument("part"), argument("other", 1.5)]

    assert said() == ["batch_size=3", 'on_error="skip"', "part=...", "other=1.5"]
    with in_words(WORDS):
        expected = ["--batch-size 3", "--skip-faulty", "--part", "other=1.5"]
        assert said() == expected
        found = []
        thread = threading.Thread(target=lambda: found.extend(said()))
        thread.start()
        thread.join()
        assert found == expected  # images are read in threads
    with pytest.raises(RuntimeError), in_words(WORDS):
        raise RuntimeError
    assert said()[0] == "batch_size=3"


def test_every_word_is_an_option_of_the_command_line_and_every_argument_has_one():
    subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {flag for parser in subparsers.choices.values() for a in parser._actions for flag in a.option_strings}
    assert {word.split()[0] for word in WORDS.values()} <= options
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "argument":
                if not isinstance(node.args[0], ast.Constant):
                    continue  # a function that is told the name: its callers say it
                name = node.args[0].value
                known = {word.split("=")[0] for word in WORDS}
                assert name in known, f"{path} names {name}, which the command line has no word for"


def test_the_readers_name_no_argument_of_python_by_themselves():
    python = re.compile(r"(image_dir|on_error|attribute|batch_size|skip_faulty|overwrite)=")
    for path in [*sorted((PACKAGE / "data").rglob("*.py")), *sorted((PACKAGE / "serving").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                assert not python.search("".join(texts)), f"{path}:{node.lineno}"


def test_a_batch_larger_than_the_data_is_told_with_what_fits(tmp_path):
    from keras_maskrcnn.config import MaskRCNNConfig

    dataset = open_dataset(coco(tmp_path))
    config = MaskRCNNConfig(num_classes=1, class_names=("leaf",))
    for words, expected in (({}, "Set batch_size=1."), (WORDS, "Set --batch-size 1.")):
        with in_words(words), pytest.raises(ValueError, match=re.escape(expected)):
            DataLoader(dataset, config, 4, shuffle=True)
    with in_words(WORDS), pytest.raises(ValueError, match="--repeat-threshold is the share"):
        repeat_factors([[0]], 2.0)
    with in_words(WORDS), pytest.raises(ValueError, match="--negatives 0.5 for 2 images"):
        with_negatives(np.ones(2), np.array([False, False]), 0.5)


def test_check_data_proposes_what_train_takes(tmp_path, capsys):
    save_image(tmp_path / "a.png")
    source = attributes(tmp_path)
    output = str(tmp_path / "check")
    assert main(["check-data", str(source), "--class-attribute", "one", "--format", "via", "--output", output]) == 0
    told = capsys.readouterr().out
    assert "; train with: " in told and "--format via --class-attribute one" in told and "--skip-faulty" not in told
    source = coco(tmp_path / "two", images=3)
    content = json.loads(source.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 2, "segmentation": [[1, 1]]})
    source.write_text(json.dumps(content))
    assert main(["check-data", str(source), "--output", output]) == 1
    told = capsys.readouterr().out
    assert "mend the errors, then train with: " in told and " --skip-faulty --weights coco" in told
    proposal = json.loads((tmp_path / "check" / "report.json").read_text())["proposal"]
    assert proposal["batch_size"] == 3


def run_command(*words):
    """(exit status, what a process of its own wrote to a screen that shows ASCII alone)."""
    code = "import sys, keras_maskrcnn_launcher as launcher; sys.exit(launcher.main())"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, env=environment)
    return done.returncode, (done.stdout + done.stderr).decode("ascii")


def test_warnings_are_sentences_and_names_of_any_letters_are_shown(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    source = coco(tmp_path, f"C:\\photos\\{name}")
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / name)
    status, told = run_command("convert-data", source, tmp_path / "日本.json")
    assert status == 0 and "1 images, 1 objects" in told and "\\u65e5\\u672c.json" in told
    assert "warning: An image was found by the last part of its name" in told and ".py" not in told
    assert "caf\\udce9.png" in told
