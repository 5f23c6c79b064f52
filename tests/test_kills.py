"""Killed at any instant: what was there, or what was to come, and the next call completes it.

The short tests kill just before each change of the disk, or before some of them. The long one kills 60 times, also at
random times (`tests/kill_server.py` for what needs a framework).
"""

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from child_processes import python_path
from kills import (
    Scene,
    in_a_process,
    kill_this_process,
    killed_at_step,
    leftovers,
    restore,
    start_process,
    visible,
    wait_for,
)

from keras_maskrcnn import cli
from keras_maskrcnn.data import open_dataset
from keras_maskrcnn.host import files
from keras_maskrcnn.host.files import clean_up, text_writer, write_folder, write_text, write_together
from keras_maskrcnn.host.locks import locked_folder

HERE = pathlib.Path(__file__).parent


def folder_of(text):
    def write(place):
        (place / "variables").mkdir(parents=True)
        for name in ("saved_model.pb", "variables/data"):
            (place / name).write_text(text)

    return write


def without_exchange(text):
    """A system that cannot swap two folders in one step."""

    def work(folder):
        files.exchange = lambda one, other: False
        write_folder(folder / "1", folder_of(text))

    return work


def together(text):
    return lambda folder: write_together(folder, {f"{name}.json": text_writer(text) for name in ("train", "val")})


SCENES = {
    "file": (lambda text: lambda folder: write_text(folder / "a.txt", text), {"old", "new"}),
    "folder": (lambda text: lambda folder: write_folder(folder / "1", folder_of(text)), {"old", "new"}),
    "folder without exchange": (without_exchange, {"old", "new", "missing"}),
    "files that belong together": (together, {"old", "new", "missing"}),
}


# A writer changes the disk up to sixty times, and each time one is killed.
LONG = ("folder", "files that belong together")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SCENES])
def test_a_kill_before_any_change_of_the_disk_leaves_the_old_or_the_new(tmp_path, name):
    work, allowed = SCENES[name]
    scene = Scene(name, work("old"), work("new"))
    states = scene.states(tmp_path / "states")
    found = [scene.kill(tmp_path / str(step), states, step=step) for step in range(states[2])]
    assert set(found) == allowed and "mixed" not in found
    assert found == sorted(found, key=["old", "missing", "new"].index), found  # never back


@pytest.mark.parametrize("name", ["folder without exchange", "files that belong together"])
def test_the_next_writer_completes_what_a_kill_left_between_two_renames(tmp_path, name):
    work = SCENES[name][0]
    scene = Scene(name, work("old"), work("new"))
    old, new, steps, _ = scene.states(tmp_path / "states")
    for step in range(steps):
        folder = tmp_path / str(step)
        restore(folder, old)
        assert killed_at_step(lambda folder=folder: work("new")(folder), step) == -9
        with locked_folder(folder):
            assert visible(folder) in (old, new), step
        assert leftovers(folder) == []


def test_a_reader_completes_what_a_killed_split_left_ready(tmp_path, sources, capfd):
    """The parts are ready, the old ones are gone, and the new ones are not yet in place."""
    old, new = (command("split", source, "{folder}/parts") for source in sources)
    assert in_a_process(lambda: old(tmp_path)) == 0
    renames = []

    def killed():
        rename = os.rename

        def count(*paths):
            renames.append(paths)
            if len(renames) == 5:  # into `ready`; then train, val and copies aside; then copies in
                kill_this_process()
            rename(*paths)

        os.rename = count
        new(tmp_path)

    assert in_a_process(killed) == -9
    assert not (tmp_path / "parts" / "train.json").exists()
    for name, count in (("train", 6), ("val", 1)):  # of the new dataset's seven images
        assert len(open_dataset(tmp_path / "parts" / f"{name}.json", tmp_path / "parts" / f"{name}_images")) == count
    assert leftovers(tmp_path) == [".lock", ".lock.pid"]  # the next writer takes it over


def test_a_kill_while_a_killed_writers_files_are_completed_does_no_harm(tmp_path):
    work = together("new")
    _, new, steps, _ = Scene("", together("old"), work).states(tmp_path / "states")
    for step in range(6):
        folder = tmp_path / str(step)
        folder.mkdir()
        together("old")(folder)
        killed_at_step(lambda folder=folder: work(folder), steps - 6)  # the renames have begun
        killed_at_step(lambda folder=folder: clean_up(folder), step)
        clean_up(folder)
        assert visible(folder) == new and leftovers(folder) == []


# Commands ---------------------------------------------------------------------------------------------------


def images_in_memory(folder, seeds):
    """A labelme dataset whose images are embedded in its files, so that conversion writes them."""
    import base64
    import io

    from PIL import Image

    folder.mkdir()
    for k, seed in enumerate(seeds):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        shape = {"label": "cat", "points": [[5, 5], [20, 5], [20, 25]], "shape_type": "polygon"}
        content = {"imageData": base64.b64encode(file.getvalue()).decode(), "imageHeight": 32, "imageWidth": 32}
        content |= {"version": "5", "flags": {}, "imagePath": f"{k}.png", "shapes": [shape]}
        (folder / f"{k}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return images_in_memory(folder / "one", range(6)), images_in_memory(folder / "two", range(5, 12))


def command(*words):
    def work(folder):
        status = cli.main([str(word).format(folder=folder) for word in words])
        assert status == cli.SUCCESS

    return work


def scenes_of_commands(sources):
    """The old state is written from one dataset, the new one from another with the same file names."""
    for name, words in {"split": ["{folder}/parts", "--seed", "1"], "convert-data": ["{folder}/all.json"]}.items():
        yield Scene(name, *(command(name, source, *words) for source in sources))


def names_only(state):
    """States of commands that write images: an old image may stay where the new file names another one."""
    return {name: content for name, content in state.items() if name.endswith(".json")}


def test_commands_on_data_leave_the_old_or_the_new(tmp_path, sources, capfd):
    rng = random.Random(0)
    for scene in scenes_of_commands(sources):
        states = scene.states(tmp_path / scene.name)
        assert names_only(states[0]).keys() == names_only(states[1]).keys()
        assert names_only(states[0]) != names_only(states[1])
        for k, step in enumerate(rng.sample(range(states[2]), 4)):
            assert scene.kill(tmp_path / f"{scene.name}{k}", states, step=step) in ("old", "new", "missing")


def test_two_processes_that_split_into_one_folder_are_told_apart(tmp_path, sources, capfd):
    one, two = (command("split", source, str(tmp_path / "parts")) for source in sources)
    in_a_process(lambda: two(tmp_path))
    of_two = names_only(visible(tmp_path / "parts"))
    in_a_process(lambda: one(tmp_path))
    of_one = names_only(visible(tmp_path / "parts"))
    children = [start_process(lambda work=work: work(tmp_path)) for work in (one, two, one, two)]
    done = [wait_for(child) for child in children]
    assert 0 in done and names_only(visible(tmp_path / "parts")) in (of_one, of_two)
    told = capfd.readouterr().err
    assert done.count(0) + told.count("is writing it. Wait until it has ended") == 4
    assert leftovers(tmp_path) == []


# Commands with models ---------------------------------------------------------------------------------------


def kill_models(backend, seed, *jobs):
    """Run kill_server.py; returns its report."""
    words = [word for name, kills in jobs for word in ("--job", name, str(kills))]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": python_path(HERE.parent),
    }
    command = [sys.executable, str(HERE / "kill_server.py"), "--seed", str(seed), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for name, kills in jobs:
        assert report[name]["wrong"] == "", done.stderr[-3000:] + report[name]["wrong"]
        assert sum(report[name]["found"].values()) == kills
    return report


def test_killed_training_and_conversion():
    kill_models("tensorflow", 0, ("train", 1), ("convert", 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_sixty_kills_and_two_writers(tmp_path, sources, seed, capfd):
    rng = random.Random(seed)
    table = kill_models("tensorflow", seed, ("train", 16), ("convert", 10), ("export", 10), ("two writers", 3))
    for scene in scenes_of_commands(sources):
        states = scene.states(tmp_path / scene.name)
        table[scene.name] = {"kills": 12, "found": {}}
        for k in range(12):
            instant = {"step": rng.randrange(states[2])} if k % 2 else {"seconds": rng.uniform(0.0, states[3])}
            kind = scene.kill(tmp_path / f"{scene.name}{k}", states, **instant)
            assert kind != "mixed"
            table[scene.name]["found"][kind] = table[scene.name]["found"].get(kind, 0) + 1
    with capfd.disabled():
        print(json.dumps(table, indent=1))
