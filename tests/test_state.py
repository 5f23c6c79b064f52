"""What is on the disk stays whole: full disks, closed folders, two writers, damaged files. Imports no framework."""

import errno
import json
import os
import resource
import shutil
import subprocess
import zipfile

import filelock
import numpy as np
import pytest
from kills import in_a_process, leftovers, visible

from keras_maskrcnn import cli
from keras_maskrcnn.cli.resume import options_of_run
from keras_maskrcnn.data import ArrayDataset, CocoDataset, generate_shapes
from keras_maskrcnn.data.split import split_dataset, write_parts
from keras_maskrcnn.host import files, locks
from keras_maskrcnn.host.files import WriteError, write_atomically, write_folder, write_text, write_together
from keras_maskrcnn.host.locks import InUse, locked_file, locked_folder
from keras_maskrcnn.runs.folder import COMMAND_LINE, Damaged, check_new_run, find_model, read_state, state_to_resume

# Full disks and closed folders ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("this process may not mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_what_was_there_stays(small_disk):
    write_text(small_disk / "a.txt", "old")
    with pytest.raises(
        WriteError, match=r"a.txt needs room.*No space left on device after 0.[23] MB, 0.0 MB free.*Free"
    ):
        write_text(small_disk / "a.txt", "x" * 1_000_000)
    with pytest.raises(WriteError, match=f"Writing {small_disk / 'part' / 'train.json'} needs room") as error:
        write_together(small_disk / "part", {name: files.text_writer("x" * 200_000) for name in ("train.json", "b")})
    assert error.value.errno == errno.ENOSPC and visible(small_disk) == {"a.txt": b"old"}
    assert leftovers(small_disk) == []


def test_a_disk_that_is_read_only_is_named(small_disk):
    write_text(small_disk / "a.txt", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for write in (
        lambda: write_text(small_disk / "a.txt", "new"),
        lambda: write_text(small_disk / "sub" / "a.txt", "new"),
        lambda: locked_file(small_disk / "a.txt").__enter__(),
    ):
        with pytest.raises(WriteError, match=r"a.txt needs a folder that can be written to.*Read-only file system"):
            write()
    assert visible(small_disk) == {"a.txt": b"old"} and leftovers(small_disk) == []


def test_commands_name_the_full_disk_and_leave_what_was_there(small_disk, tmp_path, capsys):
    generate_shapes(tmp_path / "shapes", 4, image_size=48)
    split = ["split", str(tmp_path / "shapes"), str(small_disk / "parts"), "--fractions", "0.5", "0.5"]
    convert = ["convert-data", str(tmp_path / "shapes"), str(small_disk / "all.json")]
    assert cli.main(split) == cli.main(convert) == cli.SUCCESS
    before = visible(small_disk)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 4096))
    capsys.readouterr()
    for command, named in (([*split, "--seed", "1"], "parts/train.json"), (convert, "all.json")):
        assert cli.main(command) == cli.MISTAKE
        assert f"{named} needs room on its disk. Received: No space left" in capsys.readouterr().err
    (small_disk / "filler").unlink()
    assert visible(small_disk) == before and leftovers(small_disk) == []


def test_a_limit_for_files_is_named_like_a_full_disk(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(WriteError, match=r"a.txt needs room on its disk. Received: File too large after 0.1 MB"):
            write_text(tmp_path / "a.txt", "x" * 1_000_000)

    assert in_a_process(limited) == 0
    assert visible(tmp_path) == {"a.txt": b"old"} and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Can't write data (errno = 28, error message = 'No space left on device')"),  # h5py
        RuntimeError("RESOURCE_EXHAUSTED: /x/variables; No space left on device"),  # TensorFlow
    ],
)
def test_whoever_writes_a_full_disk_is_recognised(tmp_path, error):
    def write(place):
        place.write_bytes(b"half")
        raise error

    for writer in (write_atomically, write_folder):
        with pytest.raises(WriteError, match=r"x.keras needs room on its disk. Received: (No space|Disk quota)"):
            writer(tmp_path / "x.keras", write)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_as_they_are(tmp_path):
    def write(place):
        raise PermissionError(errno.EACCES, "denied", "/elsewhere/source.pth")

    with pytest.raises(PermissionError, match="elsewhere"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


# Two writers ------------------------------------------------------------------------------------------------


def test_the_second_process_is_told_of_the_first(tmp_path):
    with locked_folder(tmp_path / "run"):

        def second():
            told = rf"can write {tmp_path / 'run'}. Received: process {os.getppid()} on .* is writing it. Wait"
            with pytest.raises(InUse, match=told):
                locked_folder(tmp_path / "run").__enter__()

        assert in_a_process(second) == 0
    assert list(tmp_path.iterdir()) == []  # the folder stayed empty
    with locked_file(tmp_path / "a.keras"), locked_file(tmp_path / "b.keras"):
        with pytest.raises(InUse, match="can write .*a.keras"):
            locked_file(tmp_path / "a.keras").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_not_written_its_number_is_told_too(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.02)
    with (
        filelock.FileLock(tmp_path / ".a.lock"),
        pytest.raises(InUse, match=r"process \(number unknown\) is writing it"),
    ):
        locked_file(tmp_path / "a").__enter__()


def test_a_folder_that_disappears_again_and_again_is_an_error(tmp_path, monkeypatch):
    """What filelock raises if the folder disappears while it makes sure that there is one."""
    tries = []

    def disappear(lock, timeout):
        tries.append(timeout)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(tmp_path / "run"))

    monkeypatch.setattr(filelock.FileLock, "acquire", disappear)
    with pytest.raises(WriteError, match=f"Writing {tmp_path / 'run'} needs a folder.* Received: File exists. Change"):
        locked_folder(tmp_path / "run").__enter__()
    assert tries == [0] * 20 and list(tmp_path.iterdir()) == []


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path):
    def killed():
        with locked_folder(tmp_path):
            os.kill(os.getpid(), 9)

    assert in_a_process(killed) == -9 and leftovers(tmp_path) == [".lock", ".lock.pid"]
    with locked_folder(tmp_path):
        write_text(tmp_path / "a", "new")
    assert visible(tmp_path) == {"a": b"new"} and leftovers(tmp_path) == []


def test_one_that_waits_goes_on_when_the_other_has_ended(tmp_path):
    reader, writer = os.pipe()

    def first():
        with locked_file(tmp_path / "a"):
            os.write(writer, b"x")
            write_text(tmp_path / "a", "first")

    child = os.fork()
    if child == 0:
        first()
        os._exit(0)
    os.read(reader, 1)
    with locked_file(tmp_path / "a", wait=True):
        assert (tmp_path / "a").read_text() == "first"
    os.waitpid(child, 0)


def test_commands_refuse_a_folder_that_is_being_written(tmp_path, capsys):
    generate_shapes(tmp_path / "shapes", 4, image_size=48)
    with locked_folder(tmp_path / "out"), locked_file(tmp_path / "all.json"):
        for command in (
            ["split", str(tmp_path / "shapes"), str(tmp_path / "out"), "--fractions", "0.5", "0.5"],
            ["check-data", str(tmp_path / "shapes"), "--output", str(tmp_path / "out")],
            ["convert-data", str(tmp_path / "shapes"), str(tmp_path / "all.json")],
        ):
            assert cli.main(command) == cli.MISTAKE
            assert f"process {os.getpid()} on " in capsys.readouterr().err
        assert visible(tmp_path / "out") == {} and not (tmp_path / "all.json").exists()


# What belongs together --------------------------------------------------------------------------------------


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def dataset_of(seeds):
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[0, 4:20, 6:30] = 1
    return ArrayDataset([picture(seed) for seed in seeds], [mask] * len(seeds))


def test_images_of_an_older_coco_file_keep_their_content(tmp_path):
    path = tmp_path / "all.json"
    older = dataset_of([0, 1]).to_coco(path)
    newer = dataset_of([1, 1, 2]).to_coco(path)
    for content, seeds in ((older, [0, 1]), (newer, [1, 1, 2])):
        (tmp_path / "some.json").write_text(json.dumps(content))
        read = CocoDataset(tmp_path / "some.json", tmp_path / "all_images")
        for k, seed in enumerate(seeds):
            np.testing.assert_array_equal(read.load_image(k), picture(seed))
    assert len(list((tmp_path / "all_images").iterdir())) == 4  # 1 stands at another place: it is written once more
    assert dataset_of([1, 1, 2]).to_coco(path) == newer and len(list((tmp_path / "all_images").iterdir())) == 4
    place = min((tmp_path / "all_images").glob("*-*.png"))  # named by the content that is written to it
    place.write_bytes(b"changed by hand")
    told = f"{place} must hold the image that its name stands for. Received: other content. Remove the file."
    with pytest.raises(ValueError, match=told):
        dataset_of([1, 1, 2]).to_coco(path)


def test_parts_with_images_in_memory_open_again(tmp_path):
    dataset = dataset_of([0, 1, 2, 3])
    parts = dict(zip(("train", "val"), split_dataset(dataset, [0.5, 0.5])))
    write_parts(tmp_path / "parts", parts, [["a", "b"]])
    for name, part in parts.items():
        read = CocoDataset(tmp_path / "parts" / f"{name}.json", tmp_path / "parts" / f"{name}_images")
        for k in range(2):
            np.testing.assert_array_equal(read.load_image(k), part.load_image(k))
    assert json.loads((tmp_path / "parts" / "copies.json").read_text()) == [["a", "b"]]


# Damaged files of a run -------------------------------------------------------------------------------------


def write_run(run, best=True, finished=False):
    """Config and checkpoints of a run of two epochs, without models in them."""
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"run_id": "x", "settings": {"training_recipe": {}, "seed": 3}}))
    state = {"run_id": "x", "epochs_done": 2, "finished": finished, "best": {}, "rows": [], "seconds": 1.0}
    for name in ("last.keras", "best.keras") if best else ("last.keras",):
        with zipfile.ZipFile(run / name, "w") as archive:
            archive.writestr("model.weights.h5", np.random.default_rng(0).bytes(5000))
            archive.writestr("run.json", json.dumps(state | {"epochs_done": 1 if name[0] == "b" else 2}))
    return run


def damage(path, how):
    content, noise = path.read_bytes(), np.random.default_rng(1).bytes(300)
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:middle],
            "noise": noise,
            "noise inside": content[:middle] + noise + content[middle + 300 :],
        }[how]
    )


KINDS = ["empty", "cut", "noise", "noise inside"]


@pytest.mark.parametrize("how", KINDS)
def test_damaged_checkpoints_are_named_and_the_whole_one_is_taken(tmp_path, how):
    run = write_run(tmp_path / "run")
    damage(run / "last.keras", how)
    with pytest.warns(UserWarning, match="last.keras is damaged: .+ The run goes on from .*best.keras, after 1 epochs"):
        state, file = state_to_resume(run)
    assert file == run / "best.keras" and state["epochs_done"] == 1 and find_model(run) == file
    damage(run / "best.keras", how)
    with pytest.raises(ValueError, match="last.keras is damaged: .+ anew with --overwrite instead of --resume.$"):
        state_to_resume(run, COMMAND_LINE)
    with pytest.raises(
        ValueError, match="Received: .*best.keras is damaged: .+last.keras is damaged: .+ train it again"
    ):
        find_model(run)
    other = write_run(tmp_path / "other")
    damage(other / "best.keras", how)
    with pytest.warns(UserWarning, match="best.keras is damaged: .+last.keras is used instead"):
        assert find_model(other) == other / "last.keras"
    with pytest.raises(ValueError, match="Received: .*best.keras is damaged"):
        find_model(other / "best.keras")


@pytest.mark.parametrize("name", ["config.json", "last.keras"])
@pytest.mark.parametrize("how", KINDS)
def test_a_damaged_file_does_not_stop_a_new_run(tmp_path, how, name):
    run = write_run(tmp_path / "run", best=False)
    with pytest.raises(ValueError, match="stopped after 2 epochs. Add resume=True .* overwrite=True to replace"):
        check_new_run(run, overwrite=False)
    damage(run / name, how)
    assert f"{run / name} is damaged: " in check_new_run(run, overwrite=False).problem
    whole = ", or add --start-from .*last.keras and another --run-dir" if name == "config.json" else ""
    with pytest.raises(ValueError, match=f"Received: .*{name} is damaged: .* --overwrite instead of --resume{whole}"):
        options_of_run(run)


def test_the_command_asks_before_it_replaces_an_unfinished_run(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    before = visible(run)
    command = ["train", "--images", "a", "--val-images", "b", "--epochs", "1", "--run-dir", str(run)]
    assert cli.main(command) == cli.MISTAKE
    told = capsys.readouterr().err
    assert "holds a run stopped after 2 epochs. Add --resume to continue it, or --overwrite to replace it." in told
    assert cli.main([*command, "--resume", "--overwrite"]) == cli.MISTAKE
    assert "Received both. Give one of them." in capsys.readouterr().err
    assert visible(run) == before and leftovers(run) == []
    finished = write_run(tmp_path / "finished", finished=True)
    assert "of 2 epochs without its report" in check_new_run(finished, overwrite=True).progress()
    (finished / "index.html").write_text("report")
    assert check_new_run(finished, overwrite=False).finished
    with pytest.raises(ValueError, match="finished after 2 epochs.* add --start-from .*finished and another --run-dir"):
        options_of_run(finished)


GOOD_STATE = {
    "run_id": "a",
    "epochs_done": 2,
    "finished": False,
    "seconds": 9.5,
    "budget": None,
    "rows": [],
    "best": {},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_id", 3),
        ("epochs_done", [3]),
        ("epochs_done", True),
        ("epochs_done", 0),
        ("finished", "no"),
        ("seconds", -1),
        ("seconds", float("nan")),
        ("budget", 5),
        ("budget", {"step": "0"}),
        ("rows", {}),
        ("rows", [1]),
        ("best", {"segm_AP": "0.5"}),
    ],
)
def test_a_state_that_no_run_writes_is_damage(tmp_path, name, value):
    last = tmp_path / "last.keras"
    for state in (GOOD_STATE, GOOD_STATE | {name: value}):
        with zipfile.ZipFile(last, "w") as archive:
            archive.writestr("run.json", json.dumps(state))
        if state is GOOD_STATE:
            assert read_state(last) == GOOD_STATE
    with pytest.raises(Damaged, match=f"{last} is damaged: `{name}` in its run.json is not what a run writes"):
        read_state(last)


def test_files_of_a_run_that_hold_other_json_are_damage(tmp_path):
    run = write_run(tmp_path / "run", best=False)
    for content, problem in (
        ([1], "it holds no JSON object"),
        ({"run_id": "a", "settings": ["epochs"]}, "`settings` in it is no JSON object"),
    ):
        (run / "config.json").write_text(json.dumps(content))
        assert check_new_run(run, overwrite=False).problem == f"{run / 'config.json'} is damaged: {problem}."
    with zipfile.ZipFile(tmp_path / "last.keras", "w") as archive:
        archive.writestr("run.json", "[2]")
    with pytest.raises(Damaged, match="last.keras is damaged: the value in its run.json is not what a run writes"):
        read_state(tmp_path / "last.keras")
