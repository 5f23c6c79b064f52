"""Images a second of one and of two single-core processes that train one model together.

    KERAS_BACKEND=tensorflow PYTHONPATH=.:tests/one_framework python benchmarks/bench_devices.py --runs 3

Each process is pinned to a core and computes with one thread. It trains on `--images` images a step, so that two have
twice the batch, and each step adds the gradients of both. Three forms take turns: one process, two that train models
of their own at the same time, and two that train one model. The second form is what the machine allows: two busy cores
share memory, caches and often a clock. The first two steps, which compile, do not count. Prints for each turn the
median step and how much of its core a process used. If one alone used less than 95 %, something else was on its core,
and the turn says little.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORES = sorted(os.sched_getaffinity(0))
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def environments():
    """The environment variables of two processes on this machine that work together."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    workers = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    for place in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": place}}
        yield {
            "TF_CONFIG": json.dumps(task),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": workers[0],
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(place),
        }


def measure(places, args):
    """(seconds of a step, share of its core that a process got) of processes with these environment variables."""
    count = len(places)
    command = [sys.executable, __file__, "--child", "--size", args.size, "--steps", args.steps, "--images", args.images]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        logs = [open(pathlib.Path(folder) / str(place), "w+") for place in range(count)]
        processes = [
            subprocess.Popen(
                [*map(str, command), "--core", str(CORES[place])],
                env=os.environ | ONE_THREAD | own | {"PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for place, (own, log) in enumerate(zip(places, logs, strict=True))
        ]
        _wait(processes, logs, args.limit)
        results = [re.search(r"median (\S+) s, share (\S+)\n", _read(log)).groups() for log in logs]
    return max(float(seconds) for seconds, _ in results), min(float(share) for _, share in results)


def _wait(processes, logs, limit):
    """Wait until all have succeeded. If one fails, or after the limit, all are ended and their output is shown."""
    deadline = time.monotonic() + limit
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    if any(process.returncode for process in processes):
        sys.exit(f"processes ended with {[one.returncode for one in processes]}:\n" + "\n".join(map(_read, logs)))


def _read(file):
    file.seek(0)
    return file.read()


def child(args):
    """Train, and print the median seconds of a step."""
    os.sched_setaffinity(0, [args.core])  # before threads start, which inherit it
    import keras
    import numpy as np

    import keras_maskrcnn as km

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.times.append((time.perf_counter(), time.process_time()))

    with km.use_devices(None) as team:
        config = km.MaskRCNNConfig(num_classes=3, backbone="resnet18", image_scale=1.0, roi_samples=128)
        model = km.MaskRCNN(config)
        model.compile(keras.optimizers.SGD(1e-4))
        rng, batch = np.random.default_rng(0), args.images * team.count
        masks = [np.zeros((3, args.size, args.size), bool) for _ in range(batch * (args.steps + 2))]
        for three in masks:
            for mask in three:
                y, x = rng.integers(0, args.size // 2, 2)
                mask[y : y + args.size // 3, x : x + args.size // 4] = True
        images = [rng.integers(0, 255, (args.size, args.size, 3), np.uint8) for _ in masks]
        dataset = km.data.ArrayDataset(images, masks, [[0, 1, 2]] * len(masks), class_names=("a", "b", "c"))
        loader = km.DataLoader(dataset, config, batch, shard=team.shard, workers=1)
        clock = Clock()
        model.fit(loader, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
        wall, used = np.array(clock.times[1:]).T
        print(f"median {np.median(np.diff(wall))} s, share {(used[-1] - used[0]) / (wall[-1] - wall[0])}", flush=True)
        team.gather(None)  # no process ends while another needs it


def main():
    """Measure one process and two in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--size", type=int, default=512, help="pixels of a side of an image")
    parser.add_argument("--steps", type=int, default=6, help="steps that count, of each turn")
    parser.add_argument("--images", type=int, default=2, help="images a step and process")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a turn has failed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    if len(CORES) < 2:
        sys.exit(f"Two processes need two cores. Received {CORES}. Give this one more.")
    ratios = []
    for _ in range(args.runs):
        forms = {"one": [{}], "two apart": [{}, {}], "two together": list(environments())}
        rates = {name: _rate(name, places, args) for name, places in forms.items()}
        ratios.append([rates["two together"] / rates[name] for name in ("one", "two apart")])
        print("two together are {:.2f} times as fast as one, {:.2f} times as two apart".format(*ratios[-1]), flush=True)
    print("median of {} turns: {:.2f}, {:.2f}".format(args.runs, *map(statistics.median, zip(*ratios))))


def _rate(name, places, args):
    """Images a second of one form, printed as well."""
    seconds, share = measure(places, args)
    rate = len(places) * args.images / seconds
    print(f"{name}: {seconds:.2f} s a step, {rate:.3f} images/s, {share:.0%} of a core", flush=True)
    return rate


if __name__ == "__main__":
    main()
