"""2,000 images on Ray with two actors: one is killed, the driver is killed and started again, and nothing is amiss.

Ray is large and not among the test tools: the test runs where it is installed, and takes a few minutes.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import scale_proof
from child_processes import python_path
from scale_parts import read_part

pytestmark = pytest.mark.slow

FEW, MANY = 200, 2000
HERE = pathlib.Path(__file__).parent
MB = 2**20


def start(*arguments):
    """A process of scale_proof.py."""
    environment = os.environ | {"PYTHONPATH": python_path(HERE, HERE.parent), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, scale_proof.__file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process):
    """The lines that a process prints. It must succeed."""
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    return lines


def counts_in(lines):
    """The numbers of finished images that a driver prints."""
    return (int(line.split()[1]) for line in lines if line.startswith("finished "))


# Processes -------------------------------------------------------------------------------------------------


def read_of(pid, name):
    """A file of a process in /proc; empty if it has ended."""
    try:
        return pathlib.Path("/proc", str(pid), name).read_text(errors="replace")
    except OSError:
        return ""


def family(pid):
    """A process and all that it started, in turn: pid -> what it is, by its command."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            after_name = read_of(entry, "stat").rpartition(")")[2].split()
            if after_name:
                parents[int(entry)] = int(after_name[1])
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return {one: kind_of(read_of(one, "cmdline")) for one in found}


def kind_of(command):
    """What a process of a run is."""
    if "ray::MapWorker" in command:
        return "actor"
    if "ray::" in command:
        return "reader"
    return "driver" if "scale_proof.py" in command else "other"


def sizes_in(text):
    """{name: kB} of the lines of a file in /proc."""
    fields = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in fields if words[2:] == ["kB"]}


def actors_of(pid):
    return sorted(one for one, kind in family(pid).items() if kind == "actor")


class Peaks(threading.Thread):
    """Watches the memory of a process and of all that it starts, MB.

    `most` has the largest of its own of a driver, reader and actor, and what all of them share: Ray's object store. A
    page of it counts once, however many processes have it.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.pid, self.most, self.ended = None, {}, threading.Event()

    def run(self):
        """Measure once a second."""
        while not self.ended.wait(1):
            shared = 0
            for pid, kind in family(self.pid).items() if self.pid else ():
                self._note(kind, sizes_in(read_of(pid, "status")).get("RssAnon", 0))
                shared += sizes_in(read_of(pid, "smaps_rollup")).get("Pss_Shmem", 0)
            self._note("store", shared)

    def _note(self, kind, size):
        self.most[kind] = max(self.most.get(kind, 0), round(size / 1024))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


# Runs ------------------------------------------------------------------------------------------------------


def undisturbed(peaks, *arguments):
    """Run the driver to its end."""
    driver = start("drive", *arguments)
    peaks.pid = driver.pid
    return list(counts_in(finish(driver)))


def killed_twice(peaks, *arguments):
    """Kill an actor and then the driver at random moments, and start it again.

    Returns:
        list of int: how many images the second driver finds finished, then how many are after each batch.
    """
    moments = random.SystemRandom()
    actor_at, driver_at = moments.randrange(50, MANY // 2), moments.randrange(MANY // 2, MANY - 300)
    driver, known, dead, others = start("drive", *arguments), set(), None, set()
    peaks.pid = driver.pid
    try:
        for count in counts_in(driver.stdout):
            if not known and count >= actor_at:
                known = set(actors_of(driver.pid))
                time.sleep(moments.uniform(0, 0.5))
                dead = moments.choice(sorted(known))
                os.kill(dead, signal.SIGKILL)
            if count >= driver_at:
                time.sleep(moments.uniform(0, 0.5))
                others = set(actors_of(driver.pid))
                break
    finally:
        driver.kill()
        driver.communicate()
    print(f"killed actor {dead} of {known} after {actor_at} images, the driver after {driver_at}: actors {others}")
    assert len(known) == scale_proof.ACTORS and dead not in others and others - known  # Ray started another
    return undisturbed(peaks, *arguments)


def check(rows, expected, damaged):
    """A row for each image, with the answer of a call of the predictor; the damaged ones with their problem."""
    from keras_maskrcnn.scale.store import coco_results

    assert len(rows) == len({row["path"] for row in rows}) == len(expected) == MANY
    assert sorted(row["path"] for row in rows if row["error"]) == sorted(damaged)
    assert len(damaged) == MANY * scale_proof.DAMAGED
    for row in rows:
        found = [{key: one[key] for key in one if key != "file"} for one in coco_results(row, 0)]
        assert [row["error"], found] == expected[row["path"]], row["path"]
    assert sum(len(row["scores"]) for row in rows) > MANY


def test_nothing_is_lost_or_doubled_and_memory_does_not_grow_with_the_input(tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install -e .[ray]")
    if not pathlib.Path("/proc/self/status").is_file():
        pytest.skip("memory is measured in /proc, which Linux has")
    model, photos, answers = tmp_path / "model.keras", tmp_path / "photos", tmp_path / "answers.json"
    damaged = scale_proof.write_images(photos, MANY)
    scale_proof.write_images(tmp_path / "few", FEW)
    finish(start("model", model))
    with Peaks() as few:
        assert undisturbed(few, model, tmp_path / "few", tmp_path / "found_few")[-1] == FEW
    with Peaks() as many:
        counts = killed_twice(many, model, photos, tmp_path / "found")
    assert 0 < counts[0] < MANY and counts[-1] == MANY  # the second driver went on
    size = sum(file.stat().st_size for file in photos.rglob("*.png")) / MB
    print(f"input {size:.0f} MB; memory in MB with {FEW} images {few.most}, with {MANY} {many.most}")
    finish(start("answer", model, photos, answers))
    rows = [row for part in sorted((tmp_path / "found").glob("*.parquet")) for row in read_part(part)]
    check(rows, json.loads(answers.read_text()), damaged)
    for kind in ("driver", "actor", "reader"):
        assert many.most[kind] < few.most[kind] + 0.1 * size, kind
    assert 1 < few.most["store"] <= many.most["store"] < 256 + 64 < size  # what may be on the way
