"""Files written whole, messages that show on request, tables that stay aligned."""

import concurrent.futures
import errno
import gc
import logging
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
import types

import filelock
import numpy as np
import pytest
from kills import in_a_process, kill_this_process

from keras_maskrcnn.geometry.groups import connected_groups
from keras_maskrcnn.host import caches, files, memory, renaming
from keras_maskrcnn.host.files import WriteError, clean_up, write_atomically, write_folder, write_json, write_text
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.memory import keep_freed_memory, no_search_for_cycles
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


@pytest.mark.parametrize("refusal", [filelock.Timeout("lock"), PermissionError(errno.EACCES, "denied")])
def test_a_folder_that_cannot_be_locked_is_named_and_left_as_it_was(tmp_path, monkeypatch, refusal):
    def refuse(lock, timeout):
        raise refusal

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    told = rf"^A temporary folder in {tmp_path} must be locked. Received: 20 refusals. Try another folder.$"
    with pytest.raises(WriteError, match=told):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_without_locks_files_are_written_and_what_may_be_in_use_stays(tmp_path, monkeypatch):
    """On a file system without locks nothing tells which processes still run."""

    def refuse(lock, timeout):
        raise NotImplementedError("no locks here")

    (tmp_path / ".partial-other" / "new").mkdir(parents=True)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    write_text(tmp_path / "a.txt", "first")
    told = f"The file system of {tmp_path / 'b.txt'} has no locks: do not let two processes write there."
    with pytest.warns(UserWarning, match=told), locked_file(tmp_path / "b.txt") as path:
        write_text(path, "second")
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["first", "second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-other", "a.txt", "b.txt"]


def test_what_a_disk_cannot_put_down_for_sure_is_an_error_unless_it_is_a_folder(tmp_path, monkeypatch):
    """Some file systems cannot wait for folders, and say EINVAL."""

    def failing(code, of_folders):
        def fsync(handle):
            if stat.S_ISDIR(os.fstat(handle).st_mode) == of_folders:
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    failing(errno.EINVAL, of_folders=True)
    write_text(tmp_path / "a.txt", "first")
    failing(errno.EIO, of_folders=False)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "second")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "first")]


def test_folders_are_replaced_where_a_system_cannot_exchange_them(tmp_path, monkeypatch):
    monkeypatch.setattr(renaming, "sys", types.SimpleNamespace(platform="darwin"))
    for names in ("ab", "bc"):
        write_folder(tmp_path / "model", lambda new, names=names: [write_text(new / name, names) for name in names])
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model/b": "bc", "model/c": "bc"} and [path.name for path in tmp_path.iterdir()] == ["model"]


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


@pytest.mark.parametrize(
    "system",
    [{"sys": types.SimpleNamespace(platform="win32")}, {"ctypes": types.SimpleNamespace(CDLL=lambda name: None)}],
)
def test_a_system_that_cannot_keep_freed_memory_is_left_alone(monkeypatch, system):
    for name, module in system.items():
        monkeypatch.setattr(memory, name, module)
    assert keep_freed_memory() is False


def test_a_cache_that_has_no_place_is_done_without_or_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    assert caches.compiled_folder() is None and caches.annotations_folder() is None
    with pytest.raises(OSError, match=r"Received .*file/keras_maskrcnn: it cannot be created. Set .* KERAS_HOME to a"):
        caches.need_writable(caches.cache_folder())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    caches.need_writable(caches.cache_folder())
    assert caches.compiled_folder().parent == tmp_path / "keras_maskrcnn" / "compiled"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert caches.compiled_folder() is None and caches.annotations_folder() is None
    with pytest.raises(OSError, match=rf"Received {tmp_path}/keras_maskrcnn: it is read-only for this user. Set the"):
        caches.need_writable(caches.cache_folder())


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
