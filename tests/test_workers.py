"""Worker processes: the batches of threads, what crashes and hangs become, and that nothing is left behind."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from worker_parts import FRAMEWORKS, Sums, Trouble, Unmounted, is_running, pictures, wait_until_gone

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, CocoDataset, generate_shapes
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.loading import choosing, packing, pool, shared
from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.data.loading.choosing import choose_workers
from keras_maskrcnn.data.loading.options import LoaderOptions
from keras_maskrcnn.data.loading.packing import NotSendable
from keras_maskrcnn.data.loading.pool import WorkerLost

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need a POSIX system")

CONFIG = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=2, gt_mask_size=14)
SCENES = os.path.join(os.path.dirname(__file__), "worker_parts.py")


def maker_of(count=8, transforms=None, batch_size=2, workers=1, **options):
    options = {"worker_type": "process", "worker_timeout": 60, **options}
    return BatchMaker(ArrayDataset(*pictures(count)), CONFIG, batch_size, transforms, workers=workers, **options)


def assert_same(batch, other):
    assert list(batch) == list(other)
    for key, value in batch.items():
        assert (value.shape, value.dtype) == (other[key].shape, other[key].dtype), key
        assert value.tobytes() == other[key].tobytes(), key


def colours(batch):
    return batch["images"][:, 0, 0, 0].tolist()


# The same batches ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder of shapes in which one image is cut off."""
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, 9, image_size=(72, 96), seed=1)
    file = sorted((folder / "images").iterdir())[4]
    file.write_bytes(file.read_bytes()[:500])
    return folder


def epoch_of(folder, kind, workers):
    """The batches of an epoch, the faults that were found, and the warnings."""
    dataset = CocoDataset(folder / "annotations.json", folder / "images", on_error="skip")
    names = dataset.class_names
    config = MaskRCNNConfig(len(names), names, image_scale=1.0, max_instances=3, gt_mask_size=14)
    options = {"shuffle": True, "seed": 5, "drop_last": False, "negatives": 0.0, "cache_bytes": 2**16}
    maker = BatchMaker(dataset, config, 2, augmentation="strong", workers=workers, worker_type=kind, **options)
    maker.set_epoch(3)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(workers + 1) as threads:
        warnings.simplefilter("always")
        batches = list(threads.map(maker.__getitem__, range(len(maker))))
    maker.close()
    cut = [one for one in caught if "were left out, and so may be others" in str(one.message)]
    skipped = [str(one.message) for one in caught if "Skipped (number" in str(one.message)]
    return batches, [str(fault) for fault in dataset.faults], skipped, len(cut)


def test_threads_and_processes_give_the_same_bytes(damaged):
    batches, faults, skipped, cut = epoch_of(damaged, "thread", 1)
    assert len(batches) == 5 and len(batches[-1]["images"]) == 1  # a last batch that is not full
    assert len(faults) == len(skipped) == 1 and "00005.png" in faults[0] and cut == 1
    for kind, workers in (("thread", 4), ("process", 1), ("process", 3)):
        others, other_faults, other_skipped, other_cut = epoch_of(damaged, kind, workers)
        for batch, other in zip(batches, others, strict=True):
            assert_same(batch, other)
        assert (other_faults, other_skipped, other_cut) == (faults, skipped, cut), (kind, workers)


def test_batches_that_are_kept_do_not_change():
    maker = maker_of(40, batch_size=1)
    kept = [maker[index % 40] for index in range(80)]  # more than the shared memory has slots
    assert [colours(batch) for batch in kept] == [[index % 40] for index in range(80)]
    assert all(batch["images"].flags.writeable and batch["images"].flags.c_contiguous for batch in kept)
    ids = maker._pool.process_ids
    del maker
    gc.collect()
    assert wait_until_gone(ids) == [] and colours(kept[7]) == [7]
    np.testing.assert_array_equal(kept[7]["gt_valid"], [[True, False]])


def test_slots_come_back_when_the_last_array_of_a_batch_is_gone():
    maker = maker_of()
    labels = maker[1]["gt_labels"]
    slots = maker._pool._slots
    gc.collect()
    assert len(slots._free) == slots.count - 1
    del labels
    gc.collect()
    assert len(slots._free) == slots.count
    maker.close()


def test_hosts_share_each_batch():
    options = {"shuffle": True, "seed": 2, "augmentation": "strong", "drop_last": False, "worker_type": "thread"}
    whole = maker_of(10, batch_size=4, **options)
    parts = [maker_of(10, batch_size=4, shard=(host, 2), **options) for host in range(2)]
    processes = maker_of(10, batch_size=4, shard=(1, 2), **options | {"worker_type": "process"})
    for epoch in range(2):
        for maker in (whole, processes, *parts):
            maker.set_epoch(epoch)
        assert [len(one) for one in (whole, *parts)] == [3, 3, 3]
        for index in range(3):
            halves = [part[index] for part in parts]
            assert [len(half["images"]) for half in halves] == [len(whole[index]["images"]) // 2] * 2
            assert_same(whole[index], {key: np.concatenate([half[key] for half in halves]) for key in halves[0]})
            assert_same(processes[index], halves[1])
    processes.close()


@pytest.mark.parametrize(
    ("batch_size", "shard", "told"),
    [(4, (2, 2), "0 <= index < count. Received"), (3, (0, 2), "multiple of 2"), (9, (0, 3), "last batch of 1 images")],
)
def test_hosts_that_cannot_share_a_batch_are_errors(batch_size, shard, told):
    with pytest.raises(ValueError, match=told):
        maker_of(10, batch_size=batch_size, shard=shard, worker_type="thread")


# What a worker is ------------------------------------------------------------------------------------------


def test_a_worker_imports_no_framework():
    maker = maker_of(transforms=[Trouble("modules")], augmentation="strong", workers=1)
    with pytest.raises(ValueError, match="modules: ") as caught:
        maker[0]
    modules = set(re.findall(r"'(\w+)'", str(caught.value)))
    assert {"numpy", "PIL", "keras_maskrcnn"} <= modules and not modules & FRAMEWORKS
    maker.close()


def private_bytes(process_id):
    with open(f"/proc/{process_id}/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells what memory is shared")
def test_a_worker_shares_the_arrays_of_a_large_dataset(tmp_path):
    dataset = ArrayDataset(*pictures(4, size=1024))
    table = np.memmap(tmp_path / "table", np.float64, "w+", shape=(2**20, 10))
    table[:] = np.arange(10)
    dataset.tables = [np.arange(2**24, dtype=np.float64), table, np.asfortranarray(table), list(range(100))]
    maker = BatchMaker(dataset, CONFIG, 2, [Sums()], workers=2, worker_type="process")
    for index in range(len(maker)):
        assert maker[index]["image_sizes"].tolist() == [[1024, 1024]] * 2
    assert sum(table.nbytes for table in dataset.tables[:3]) > 290e6
    assert max(map(private_bytes, maker._pool.process_ids)) < 50e6
    maker.close()


def test_packed_objects_come_back_and_large_arrays_are_shared():
    rng = np.random.default_rng(0)
    large, small = rng.random((1000, 30)), rng.random(5)
    content = {"large": large, "turned": large.T[::2], "small": small, "names": ["a", None], "text": np.array(["ab"])}
    descriptor, size, length, table = packing.pack(content)
    assert length < 2000 and length + large.nbytes * 1.5 < table < length + large.nbytes * 1.5 + 128
    found = packing.unpack(descriptor, size, length, table)
    os.close(descriptor)
    for name in ("large", "turned", "small", "text"):
        np.testing.assert_array_equal(found[name], content[name])
    assert found["names"] == ["a", None] and not found["large"].flags.writeable
    assert found["large"].ctypes.data % 64 == 0 and found["large"].base is not None


def test_without_memfd_the_shared_memory_is_a_file_without_a_name(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptor = shared.anonymous_file(8192)
    memory = shared.mapped(descriptor, 8192, writable=True)
    memory[5] = 9
    assert shared.mapped(descriptor, 8192, writable=False)[5] == 9 and os.fstat(descriptor).st_nlink == 0
    assert list(tmp_path.iterdir()) == []
    os.close(descriptor)
    monkeypatch.undo()
    maker = maker_of()
    assert colours(maker[1]) == [2, 3]
    maker.close()


# Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [("exit", "ended with exit code 3"), ("kill", "was ended by SIGKILL, as the system does when memory is short")],
)
def test_a_crash_names_the_images_and_how_the_process_ended(tmp_path, kind, told):
    generate_shapes(tmp_path, 4, image_size=32)
    dataset = CocoDataset(tmp_path / "annotations.json", tmp_path / "images")
    config = MaskRCNNConfig(len(dataset.class_names), image_scale=1.0)
    red = int(dataset.load_image(3)[0, 0, 0])
    maker = BatchMaker(dataset, config, 2, [Trouble(kind, red)], workers=2, worker_type="process")
    first = maker[0]
    ids = maker._pool.process_ids
    with pytest.raises(WorkerLost, match=f"{told}, while it made a batch of epoch 0 from .*00003.png, .*00004.png"):
        maker[1]
    assert wait_until_gone(ids) == []
    with pytest.raises(WorkerLost, match="00003.png"):
        maker[0]  # whoever asks next learns the same
    maker.set_epoch(0)
    assert_same(maker[0], first)  # and a new run gets new workers
    maker.close()


def test_a_worker_that_is_killed_while_idle_is_an_error_too():
    maker = maker_of(workers=1)
    maker[0]
    os.kill(maker._pool.process_ids[0], signal.SIGKILL)
    with pytest.raises(WorkerLost, match='SIGKILL.*image 3, image 4.*worker_type="thread"'):
        maker[1]
    maker.close()


def test_a_hang_is_an_error_after_the_limit():
    maker = maker_of(transforms=[Trouble("hang", 5)], worker_timeout=1.5)
    assert colours(maker[0]) == [0, 1]
    ids, started = maker._pool.process_ids, time.monotonic()
    with pytest.raises(WorkerLost, match="did not answer within worker_timeout=1.5 seconds.* image 5, image 6"):
        maker[2]
    assert 1.4 < time.monotonic() - started < 6 and wait_until_gone(ids) == []


def test_all_threads_that_wait_get_the_error_of_the_crash():
    maker = maker_of(transforms=[Trouble("exit", 3)], batch_size=1, workers=3)
    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(maker.__getitem__, index) for index in range(8)]
    errors = {str(result.exception()) for result in results if result.exception()}
    assert len(errors) == 1 and "exit code 3" in errors.pop()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("wrong", KeyError, "'no such colour'"),
        ("strange", RuntimeError, "Strange: number 7 of a picture"),
        ("quit", RuntimeError, "SystemExit: enough"),
    ],
)
def test_an_exception_comes_back_with_its_type_and_message(kind, error, message):
    maker = maker_of(transforms=[Trouble(kind, 3)])
    for _ in range(2):
        with pytest.raises(error) as caught:
            maker[1]
        assert str(caught.value) == message and "worker_parts.py" in str(caught.value.__cause__)
    assert colours(maker[2]) == [4, 5]  # the workers go on
    maker.close()


def test_a_worker_that_cannot_start_is_the_error_of_its_start():
    maker = maker_of(transforms=[Unmounted()])
    for index in range(2):
        with pytest.raises(OSError, match="^the disk is not mounted$"):
            maker[index]
    assert wait_until_gone(maker._pool.process_ids) == []
    maker.close()


def test_an_image_that_cannot_be_read_is_the_same_error(damaged):
    dataset = CocoDataset(damaged / "annotations.json", damaged / "images")
    config = MaskRCNNConfig(len(dataset.class_names), image_scale=1.0)
    errors = []
    for kind in ("thread", "process"):
        maker = BatchMaker(dataset, config, 2, workers=1, worker_type=kind)
        with pytest.raises(ImageError) as caught:
            maker[2]
        errors.append((type(caught.value), str(caught.value)))
        maker.close()
    assert errors[0] == errors[1] and "00005.png" in errors[0][1]


def test_warnings_come_back_once():
    maker = maker_of(transforms=[Trouble("warn")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for index in range(4):
            maker[index]
    assert [(one.category, str(one.message)) for one in caught] == [(RuntimeWarning, "a dark picture")]
    assert caught[0].filename.endswith("worker_parts.py")
    maker.close()


def test_what_workers_cannot_import_is_named():
    maker = maker_of(transforms=[lambda sample, rng: sample])
    with pytest.raises(NotSendable, match=r"Received: .*<lambda> of the module test_workers.*worker_type=\"thread\""):
        maker[0]
    maker = maker_of()
    maker.dataset.file = open(os.devnull)
    with pytest.raises(NotSendable, match="Received: TypeError: cannot pickle.*TextIO"):
        maker[0]
    maker.dataset.file.close()
    done = subprocess.run([sys.executable, SCENES, "main"], capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and "Received: Trouble of the module __main__. Move it into a module" in done.stderr


def test_a_chosen_kind_gives_way_to_threads_where_data_cannot_be_sent(monkeypatch):
    monkeypatch.setattr(choosing, "usable_cores", lambda: 8)
    maker = maker_of(transforms=[lambda sample, rng: sample], workers="auto", worker_type="auto", cache_bytes=0)
    assert (maker.workers_chosen.kind, maker.workers_chosen.count) == ("process", 7)
    with pytest.warns(UserWarning, match="Threads make the batches.*<lambda>"):
        assert colours(maker[1]) == [2, 3]
    assert maker.workers_chosen.kind == "thread" and maker._pool is None


def test_an_interrupt_leaves_no_wrong_answer_behind(monkeypatch):
    maker = maker_of(workers=1)
    maker[0]
    ids, reply = maker._pool.process_ids, pool.WorkerPool._reply

    def interrupted(self, worker):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.WorkerPool, "_reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        maker[1]
    monkeypatch.setattr(pool.WorkerPool, "_reply", reply)
    assert wait_until_gone(ids) == []
    assert colours(maker[2]) == [4, 5]
    maker.close()


# Nothing is left -------------------------------------------------------------------------------------------


def environment():
    here = os.path.dirname(os.path.abspath(SCENES))
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)])}


def scene(name):
    """A process in a group of its own, with two workers. Returns it and the workers' ids."""
    process = subprocess.Popen(
        [sys.executable, SCENES, name], stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    return process, [int(word) for word in process.stdout.readline().split()]


def traces():
    return {name for folder in ("/dev/shm", "/tmp") if os.path.isdir(folder) for name in os.listdir(folder)}


@pytest.mark.parametrize(
    ("name", "number", "status"),
    [
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("busy", signal.SIGKILL, -signal.SIGKILL),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
        ("wait", signal.SIGTERM, -signal.SIGTERM),
        ("end", None, 0),
        ("error", None, 1),
    ],
)
def test_however_the_process_ends_no_worker_is_left(name, number, status, tmp_path, capfd):
    process, ids = scene(name)
    assert len(ids) == 2 and (number is None or all(map(is_running, ids)))
    if name == "busy":
        time.sleep(0.3)
    if number is not None:
        os.killpg(process.pid, number)
    assert process.wait(10) == status
    assert wait_until_gone(ids, 3) == []


def test_closing_and_forgetting_end_the_workers_and_free_everything():
    maker_of()[0]
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    for end in ("close", "forget"):
        maker = maker_of()
        maker[0]
        ids = maker._pool.process_ids
        assert len(ids) == 1 and all(map(is_running, ids))
        if end == "close":
            maker.close()
            assert colours(maker[1]) == [2, 3]  # new workers
        del maker
        gc.collect()
        assert wait_until_gone(ids) == []
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_fork_of_the_process_neither_ends_nor_uses_its_workers():
    maker = maker_of()
    first, ids = maker[0], maker._pool.process_ids
    child = os.fork()
    if child == 0:
        status = 1
        try:
            same = colours(maker[1]) == [2, 3] and maker._pool.process_ids != ids
            maker.close()
            status = 0 if same else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(map(is_running, ids)) and colours(maker[1]) == [2, 3] and colours(first) == [0, 1]
    maker.close()


# The choice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cores", "kind", "count", "why"),
    [
        ({}, 16, "thread", 2, "as asked for"),
        ({"workers": 5}, 2, "thread", 5, "as asked for"),
        ({"workers": "auto"}, 1, "thread", 2, "on 1 core threads"),
        ({"workers": "auto"}, 4, "thread", 2, "on 4 cores threads are as fast"),
        ({"workers": "auto", "cache_bytes": 10**6}, 6, "process", 5, "6 cores, and .* do not fit into the cache"),
        ({"workers": "auto", "cache_bytes": 10**6}, 16, "process", 14, "16 cores, and .*1.1 GiB"),
        ({"workers": "auto", "cache_bytes": 10**6}, 96, "process", 16, "96 cores"),
        ({"workers": "auto", "cache_bytes": 2**31}, 96, "thread", 4, "1.1 GiB. fit into the cache .2.0 GiB"),
        ({"workers": "auto", "worker_type": "process"}, 2, "process", 1, "2 cores"),
        ({"workers": "auto", "worker_type": "thread"}, 64, "thread", 4, "64 cores"),
        ({"workers": 3, "worker_type": "process"}, 2, "process", 3, "as asked for"),
        ({"workers": 16, "worker_type": "auto"}, 16, "process", 16, "16 cores, and"),
        ({"workers": 8, "worker_type": "auto"}, 2, "thread", 8, "on 2 cores"),
    ],
)
def test_the_choice_of_workers(options, cores, kind, count, why):
    chosen = choose_workers(LoaderOptions(**options), [(600, 640)] * 1000, CONFIG, cores)
    assert (chosen.kind, chosen.count) == (kind, count)
    assert re.search(why, str(chosen)), str(chosen)
    assert str(chosen).startswith(f"{count} {'threads' if kind == 'thread' else 'process'}")


def test_a_worker_keeps_decoded_images_only_if_all_fit_into_its_share():
    sizes = [(100, 100)] * 10  # 300 kB
    shares = [
        choose_workers(LoaderOptions(workers=4, worker_type="process", cache_bytes=size), sizes, CONFIG).cache_bytes
        for size in (400_000, 1_200_000, 4_000_000)
    ]
    assert shares == [0, 300_000, 1_000_000]


def test_cores_are_those_of_affinity_and_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(choosing, "_QUOTA", tmp_path / "cpu.max")
    counts = []
    for text in (None, "max 100000", "450000 100000", "10000 100000", "9900000 100000"):
        if text:
            (tmp_path / "cpu.max").write_text(text)
        counts.append(choosing.usable_cores())
    assert counts == [12, 12, 5, 1, 12]


@pytest.mark.parametrize(
    ("place", "changed", "why"),
    [
        (
            choosing,
            ("os", types.SimpleNamespace(name="nt", cpu_count=lambda: 8)),
            "cannot hand open files to a new process",
        ),
        (sys, ("frozen", True), "has no Python interpreter of its own"),
    ],
)
def test_systems_without_worker_processes_use_threads_and_say_so(monkeypatch, place, changed, why):
    monkeypatch.setattr(place, *changed, raising=False)
    maker = maker_of(workers=8)
    what = "this system" if place is choosing else "this program"
    assert str(maker.workers_chosen) == (
        f"2 threads make the batches: {what} {why}, so that worker processes cannot be used"
    )
    assert colours(maker[1]) == [2, 3] and maker._pool is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": "many"}, "or \"auto\". Received 'many'"),
        ({"workers": -1}, "Received -1"),
        ({"worker_type": "fork"}, "worker_type must be one of .*Received 'fork'"),
        ({"worker_timeout": 0}, "positive number of seconds. Received 0"),
    ],
)
def test_wrong_options_of_workers_are_errors(options, told):
    with pytest.raises(ValueError, match=told):
        LoaderOptions(**options)
