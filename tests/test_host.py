"""Files written whole, messages that show on request, tables that stay aligned."""

import concurrent.futures
import errno
import gc
import logging
import multiprocessing
import os
import shutil
import tempfile
import time

import filelock
import numpy as np
import pytest
from kills import in_a_process, kill_this_process

from keras_maskrcnn.geometry.groups import connected_groups
from keras_maskrcnn.host import files
from keras_maskrcnn.host.files import clean_up, write_atomically, write_json, write_text
from keras_maskrcnn.host.memory import no_search_for_cycles
from keras_maskrcnn.host.messages import messages_shown, show_messages
from keras_maskrcnn.host.tables import text_table
from keras_maskrcnn.host.values import is_number

LOG = logging.getLogger("keras_maskrcnn.some.module")
PACKAGE = logging.getLogger("keras_maskrcnn")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def fail(partial):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def write_slowly(path, started, text):
    def write(partial):
        assert not partial.exists()
        partial.write_text(text)
        started.wait(timeout=60)  # both processes hold their half-written file at the same time
        assert partial.read_text() == text

    write_atomically(path, write)


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Barrier(2)
    texts = ["a" * 100, "b" * 100]
    writers = [context.Process(target=write_slowly, args=(tmp_path / "x.txt", started, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "x.txt").read_text() in texts and len(list(tmp_path.iterdir())) == 1


def remove_while_it_is_locked(lock, acquire):
    """The other one had opened and locked the file before, and removes it."""
    acquire(lock, timeout=0)
    shutil.rmtree(os.path.dirname(lock.lock_file))


def remove_before_it_is_locked(lock, acquire):
    """What filelock raises if the folder disappears while it makes sure that there is one."""
    os.rmdir(os.path.dirname(lock.lock_file))
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.path.dirname(lock.lock_file))


@pytest.mark.parametrize("faster", [remove_while_it_is_locked, remove_before_it_is_locked])
def test_a_new_folder_that_another_process_cleans_up_is_made_again(tmp_path, monkeypatch, faster):
    """Between its making and its locking nothing tells the folder from one that a killed process left."""
    calls = []

    def acquire(lock, timeout, original=filelock.FileLock.acquire):
        calls.append(lock)
        return faster(lock, original) if len(calls) <= 2 else original(lock, timeout=timeout)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and len(calls) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_threads_that_write_into_a_new_folder_do_not_disturb_each_other(tmp_path, monkeypatch):
    """The first one cleans the folder up; it must not take what the others have just made."""
    monkeypatch.setattr(files, "clean_up", lambda folder: time.sleep(0.2) or clean_up(folder))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda original=tempfile.mkdtemp, **k: (original(**k), time.sleep(0.1))[0])
    acquired = []

    def acquire(lock, timeout, original=filelock.FileLock.acquire):
        acquired.append(lock)
        return original(lock, timeout=timeout)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    names = [f"{number}.txt" for number in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: write_text(tmp_path / "new" / name, name), names))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names and len(acquired) == 4


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    write_text(tmp_path / "sub" / "kept.txt", "é")
    write_json(tmp_path / "sub" / "kept.json", {"a": [1]})

    def killed():
        write_atomically(tmp_path / "sub" / "x.bin", lambda place: place.write_bytes(b"half") and kill_this_process())

    in_a_process(killed)
    (tmp_path / "sub" / ".partial-1-x.bin").write_bytes(b"of an older version")
    assert len(list((tmp_path / "sub").iterdir())) == 4
    write_atomically(
        tmp_path / "sub" / "x.bin", lambda place: clean_up(tmp_path / "sub") or place.write_bytes(b"whole")
    )
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["kept.json", "kept.txt", "x.bin"]
    assert (tmp_path / "sub" / "x.bin").read_bytes() == b"whole"
    assert (tmp_path / "sub" / "kept.txt").read_bytes() == "é".encode()
    assert (tmp_path / "sub" / "kept.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    clean_up(tmp_path / "not there")


def test_messages_show_inside_the_block_and_nowhere_else(capsys):
    before = PACKAGE.level, PACKAGE.propagate, list(PACKAGE.handlers)
    LOG.info("not asked for")
    with messages_shown():
        LOG.info("%d of %s", 3, "four")
        with messages_shown():
            LOG.info("once")
        LOG.info("still")
        LOG.debug("too fine")
    LOG.info("over")
    with messages_shown(False):
        LOG.info("silent")
    told = capsys.readouterr()
    assert told.out == "3 of four\nonce\nstill\n" and told.err == ""
    assert (PACKAGE.level, PACKAGE.propagate, list(PACKAGE.handlers)) == before


def test_an_error_ends_the_showing_as_well(capsys):
    with pytest.raises(KeyError), messages_shown():
        raise KeyError
    LOG.info("over")
    assert capsys.readouterr().out == ""


def test_a_programs_own_log_gets_the_messages_only_if_it_asked_for_them(caplog):
    with messages_shown():
        LOG.info("for the screen")
    assert caplog.messages == []
    with caplog.at_level(logging.INFO), messages_shown():
        LOG.info("for both")
    assert caplog.messages == ["for both"]


def test_the_command_line_shows_them_for_the_whole_process(capsys):
    before = PACKAGE.level, PACKAGE.propagate
    try:
        show_messages()
        show_messages()
        with messages_shown():
            LOG.info("inside")
        LOG.info("after")
        assert capsys.readouterr().out == "inside\nafter\n"
    finally:
        PACKAGE.handlers.clear()
        PACKAGE.setLevel(before[0])
        PACKAGE.propagate = before[1]


def test_tables_are_aligned_plain_text():
    rows = [("class", "AP", "objects"), ("[red]cat", "0.5", 12), ("細胞", "0.125", 3), ("", "-", "1,000")]
    assert text_table(rows).splitlines() == [
        "class        AP  objects",
        "[red]cat    0.5       12",
        "細胞      0.125        3",  # each of these two letters is two cells wide
        "              -    1,000",
    ]
    long = "x" * 500
    assert text_table([(long, "1")]) == f"{long}  1"
    assert text_table([]) == ""


@pytest.mark.parametrize("value", [0, -1.5, np.float32(2), np.int64(3), 2**1000])
def test_finite_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, np.True_, "1", None, float("nan"), float("-inf"), 10**400, [1]])
def test_what_is_no_number(value):
    assert not is_number(value)


def test_groups_are_what_pairs_connect():
    assert connected_groups(7, [(5, 2), (2, 6), (1, 4)]) == [[0], [1, 4], [2, 5, 6], [3]]
    assert connected_groups(3, []) == [[0], [1], [2]] and connected_groups(0, []) == []
    assert connected_groups(2, [(0, 1), (1, 0), (0, 1)]) == [[0, 1]]


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_off_in_a_block_and_then_as_before(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(KeyError), no_search_for_cycles():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
